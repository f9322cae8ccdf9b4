"""Python's garbage collector, told that most of what a process loads is there to stay.

Python looks for unreachable cycles after every 700 new objects, again and again among the half a million that
PyTorch, MLflow and their like make while they are imported. It finds next to nothing, and takes a good part
of a short command's processor time. At the end of a process it looks as ever: that is when what nobody has
closed is closed, a ledger among it.
"""

from __future__ import annotations

import gc

__all__ = ["collect_rarely"]

_OBJECTS = 10_000
"""New objects after which Python looks again: a few MB of the small ones."""


def collect_rarely() -> None:
    """Let this process look for unreachable cycles less often; call it first.

    What no cycle keeps is freed at once, as ever: arrays and tensors are.
    """
    gc.set_threshold(_OBJECTS, *gc.get_threshold()[1:])
