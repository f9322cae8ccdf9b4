"""Experiments from Python: `from experiments import connect, Experiment`. docs/python.md has every name.

Nothing heavy comes with this import: a name is loaded when it is first used, and a library when it is needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.planning.plan import Plan
    from experiments.python.comparison import Comparison, compare
    from experiments.python.connecting import connect
    from experiments.python.experiment import Experiment
    from experiments.python.federation import Federation
    from experiments.python.model import Model
    from experiments.python.run import Result, Run

__all__ = [
    "Comparison",
    "Experiment",
    "Federation",
    "Model",
    "Plan",
    "Result",
    "Run",
    "compare",
    "connect",
]

_HOME = {
    "Comparison": "python.comparison",
    "Experiment": "python.experiment",
    "Federation": "python.federation",
    "Model": "python.model",
    "Plan": "planning.plan",
    "Result": "python.run",
    "Run": "python.run",
    "compare": "python.comparison",
    "connect": "python.connecting",
}
"""The module of each name, within this package."""


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'experiments' has no attribute '{name}'")
    return getattr(importlib.import_module(f"experiments.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
