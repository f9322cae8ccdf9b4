"""Ctrl-C and SIGTERM: a command that is told to end ends, also where a library hides that it was told.

The interrupt is raised wherever the main thread is. In pydantic's validators and serializers it comes out as
an error of theirs, which looks like any other fault, and in a finalizer Python prints it and goes on: of 75
runs of two hundred rounds one went on to its end. So what was told is kept, and whatever takes long asks for
it as it goes.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import NoReturn

__all__ = ["end_on_signals", "require_going"]

_told = threading.Event()


def end_on_signals() -> None:
    """Have Ctrl-C and SIGTERM raise `KeyboardInterrupt`: what was started ends, and what goes on is said.

    A shell lets a command in the background ignore Ctrl-C: that stays as it is.
    """
    _told.clear()  # of the command before, where one process runs several
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def require_going() -> None:
    """Raises KeyboardInterrupt: this command was told to end, whatever became of the interrupt then."""
    if _told.is_set():
        raise KeyboardInterrupt


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    _told.set()
    raise KeyboardInterrupt
