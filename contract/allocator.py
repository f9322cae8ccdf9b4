"""Memory for large objects that come again and again: kept by the process, not asked for anew each time.

glibc gives every block of more than 32 MB back to the system at once, and the top of what else is free; the
system clears each page of the next. A large update is copied several times on its way, and for each copy this
costs more than the copy. Where there is another allocator nothing changes.
"""

from __future__ import annotations

import ctypes
import os

__all__ = ["give_back", "reuse_large_blocks"]

_LIBC = ctypes.CDLL(None)
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4
_ARENA_MAX = -8


def reuse_large_blocks(most_bytes: int) -> None:
    """Let this process and those that it starts keep freed memory for the next large object.

    One arena, for only the first grows without limit.

    Args:
        most_bytes: how much free memory is kept; below 2 GiB.
    """
    for number, variable, value in (  # malloc.h and man 3 mallopt
        (_ARENA_MAX, "MALLOC_ARENA_MAX", 1),
        (_MMAP_MAX, "MALLOC_MMAP_MAX_", 0),
        (_TRIM_THRESHOLD, "MALLOC_TRIM_THRESHOLD_", most_bytes),
    ):
        os.environ.setdefault(variable, str(value))
        if hasattr(_LIBC, "mallopt"):
            _LIBC.mallopt(number, value)


def give_back() -> None:
    """Give the system what is kept."""
    if hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)
