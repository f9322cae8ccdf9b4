"""An experiment as flat names and values, the shape of MLflow's parameters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from contract.experiment import Experiment

__all__ = ["flatten", "key_of"]


def flatten(experiment: Experiment) -> dict[str, str]:
    """Every key of the experiment by its dotted name; a feature goes by its own name.

    `task.features.age.low`, `strategy.rounds`; a list is joined by commas, and what
    is not set reads `none`.
    """
    return dict(_leaves("", experiment.model_dump()))


def key_of(name: str) -> str:
    """A name that MLflow takes: letters, digits and `_-. :/`; anything else becomes `_`."""
    return re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(f"{prefix}.{key}" if prefix else key, item)
    elif isinstance(value, list | tuple) and value and isinstance(value[0], dict):
        for item in value:
            yield from _leaves(f"{prefix}.{item['name']}", {k: v for k, v in item.items() if k != "name"})
    elif isinstance(value, list | tuple):
        yield prefix, ", ".join(str(item) for item in value)
    else:
        yield prefix, "none" if value is None else str(value)
