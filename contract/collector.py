"""Python's garbage collector, told that most of what a process loads is there to stay.

Python looks for unreachable cycles after every 700 new objects, again and again among the half a million that
PyTorch, MLflow and their like make while they are imported, and several times more at its end. It finds next
to nothing, and takes a third of a command's processor time. So what has to be closed at the end of a process
is closed by name (`clients.site` closes its ledgers), and not left for the collector to find.
"""

from __future__ import annotations

import atexit
import gc

__all__ = ["collect_rarely", "leave_loaded"]

_OBJECTS = 10_000
"""New objects after which Python looks again: a few MB of the small ones."""


def collect_rarely() -> None:
    """Let this process look for unreachable cycles less often, and not at its end; call it first.

    What no cycle keeps is freed at once, as ever: arrays and tensors are.
    """
    gc.set_threshold(_OBJECTS, *gc.get_threshold()[1:])
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)


def leave_loaded() -> None:
    """What this process has made so far is there to stay: it is looked through no more."""
    gc.collect()
    gc.freeze()
