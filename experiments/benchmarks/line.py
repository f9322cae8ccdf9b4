"""A slow and lossy line between two hosts: `python line.py SPACE DEVICE SPACE DEVICE MILLISECONDS LOSS`.

What `tc netem` does, for kernels that lack it: two TUN devices, each the end of the line in one host's
network namespace, and this process between, which holds every packet for so long and drops some. It says
`ready` when the devices are there; the line lasts as long as this process does.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import queue
import random
import struct
import sys
import threading
import time

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_LONGEST = 2000
"""Bytes of a packet: the devices' unit is 1500."""
_MOST_WAITING = 20_000
"""Packets on the line, as a real one holds no more than so many."""


def _end(space: str, name: str) -> int:
    with open(f"/var/run/netns/{space}", "rb") as entered:  # noqa: PTH123 - runs without the project
        if ctypes.CDLL(None, use_errno=True).setns(entered.fileno(), 0):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), space)
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return descriptor


def _carry(source: int, target: int, seconds: float, loss: float) -> None:
    """Both directions are lines of their own, and keep the order of their packets."""
    waiting: queue.Queue[tuple[float, bytes]] = queue.Queue(_MOST_WAITING)
    chance = random.Random(source)  # noqa: S311 - which packets are lost is no secret

    def deliver() -> None:
        while True:
            due, packet = waiting.get()
            time.sleep(max(0.0, due - time.monotonic()))
            with contextlib.suppress(OSError):  # the other end is down: the packet is lost
                os.write(target, packet)

    threading.Thread(target=deliver, daemon=True).start()
    while True:
        try:
            packet = os.read(source, _LONGEST)
        except OSError:  # this end is down
            time.sleep(0.05)
            continue
        if chance.random() >= loss and not waiting.full():
            waiting.put((time.monotonic() + seconds, packet))


def main() -> None:
    """Be the line."""
    space, device, other_space, other_device, milliseconds, loss = sys.argv[1:]
    ends = _end(space, device), _end(other_space, other_device)
    delay = float(milliseconds) / 1000
    for source, target in (ends, ends[::-1]):
        threading.Thread(target=_carry, args=(source, target, delay, float(loss)), daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()  # ends with whoever started this


if __name__ == "__main__":
    main()
