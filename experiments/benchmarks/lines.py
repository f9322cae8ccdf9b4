"""Hosts on this machine, a network namespace each, and slow and lossy lines between them."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from contract.errors import RoundError

__all__ = ["enter", "lacking", "lay_line", "space"]

_SPACES = Path("/var/run/netns")


def lacking(*programs: str) -> str:
    """Why hosts cannot be made on this machine; empty if they can.

    Args:
        programs: what is needed beside `ip`.
    """
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program in ("ip", *programs):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    if not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun"
    probe = subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False)
    return "" if probe.returncode == 0 else "network namespaces cannot be made here"


@contextmanager
def space(name: str) -> Iterator[str]:
    """A network namespace of that name, with loopback alone, while the block runs."""
    _ip("netns", "add", name)
    try:
        _ip("-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def enter(name: str) -> None:
    """Move this thread, and all that it starts, into a network namespace."""
    with (_SPACES / name).open("rb") as entered:
        if ctypes.CDLL(None, use_errno=True).setns(entered.fileno(), 0):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)


def lay_line(
    spaces: Sequence[str], devices: Sequence[str], addresses: Sequence[str], delay: float, loss: float
) -> subprocess.Popen[bytes]:
    """Lay a line; it lasts until the process that is returned ends.

    Args:
        spaces: network namespaces of its two ends.
        devices: their names, no longer than 15 letters.
        addresses: at which each end is reached from the other.
        delay: milliseconds each way.
        loss: share of the packets that do not arrive.

    Raises:
        RoundError: it was not laid.
    """
    ends = [item for end in zip(spaces, devices, strict=True) for item in end]
    command = [sys.executable, str(Path(__file__).with_name("line.py")), *ends, str(delay), str(loss)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        _require_ready(process, spaces)
        for name, device, here, there in zip(spaces, devices, addresses, addresses[::-1], strict=True):
            _ip("-n", name, "addr", "add", here, "peer", there, "dev", device)
            _ip("-n", name, "link", "set", device, "up")
    except BaseException:
        process.kill()
        process.wait()
        raise
    return process


def _require_ready(process: subprocess.Popen[bytes], spaces: Sequence[str]) -> None:
    if process.stdout is None or process.stdout.readline() != b"ready\n":
        raise RoundError("a line between two hosts was not laid", where=" and ".join(spaces))


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RoundError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
