"""A process of root's that may write only what it would be allowed to as the file's owner."""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["obey_permissions"]

_VERSION = 0x20080522
_OVERRIDE = 1  # CAP_DAC_OVERRIDE


def obey_permissions() -> None:
    """Give up, for this process, what lets root write anywhere (Linux: capabilities(7))."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return
    system = ctypes.CDLL(None, use_errno=True)
    header, held = (ctypes.c_uint32 * 2)(_VERSION, 0), (ctypes.c_uint32 * 6)()
    assert system.capget(header, held) == 0, os.strerror(ctypes.get_errno())
    for kind in range(3):  # effective, permitted, inheritable
        held[kind] &= ~(1 << _OVERRIDE)
    assert system.capset(header, held) == 0, os.strerror(ctypes.get_errno())
