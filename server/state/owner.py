"""Which process does a run, so that another can tell whether it is still there.

A number alone does not name a process, for the system gives it again: the moment at which it
began belongs to it, and the machine. Of another machine's processes nothing is known here.
"""

from __future__ import annotations

import os
import platform
import re

import psutil

__all__ = ["is_dead", "this_process"]

_OWNER = re.compile(r"process (\d+) of (\S+), since (\d+\.\d+)")
_SAME_MOMENT = 1.0
"""Seconds: the system tells the moment in ticks, and from a clock that may be set."""


def this_process() -> str:
    """The calling process, in words that `is_dead` reads."""
    number = os.getpid()
    return f"process {number} of {_machine()}, since {psutil.Process(number).create_time():.2f}"


def is_dead(owner: str) -> bool:
    """Whether the process has ended; false where nothing is known of it, on another machine.

    What an older program wrote names no process in this way, and none of its processes is left.
    """
    named = _OWNER.fullmatch(owner)
    if named is None or named[2] != _machine():
        return named is None
    try:
        process = psutil.Process(int(named[1]))
        ended = process.status() == psutil.STATUS_ZOMBIE
        return ended or abs(process.create_time() - float(named[3])) > _SAME_MOMENT
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def _machine() -> str:
    return re.sub(r"\s", "-", platform.node()) or "unnamed"
