"""Child processes that start together and never outlive their parent.

Each child's output goes to a file of its own, which is bounded. Children are stopped in the
reverse order of their start: a polite signal first, a kill after some seconds.
On Linux the kernel ends them too if the parent is killed outright.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from contract.errors import AddressError, RoundError
from terminal.logs import rotate_output

__all__ = ["Processes", "alone_in", "free_port", "require_free", "wait_for", "wait_for_port"]

_PR_SET_PDEATHSIG = 1


@dataclass(kw_only=True)
class _Child:
    name: str
    process: subprocess.Popen[bytes]
    log: Path


@dataclass(kw_only=True)
class Processes:
    """The children of one command.

    Attributes:
        logs: the folder of their output.
        patience: seconds between the polite signal and the kill.
    """

    logs: Path
    patience: float = 10.0
    _children: list[_Child] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str], cwd: Path) -> int:
        """Start a child in a session of its own; return its process id."""
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                cwd=cwd,
                start_new_session=True,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - one thread
            )
        self._children.append(_Child(name=name, process=process, log=log))
        return process.pid

    def require_running(self, *, may_finish: Sequence[str] = (), may_end: str | None = None) -> None:
        """Raise if a child has ended; and bound the logs of those that run, so ask again and again.

        Args:
            may_finish: names of those that may end well.
            may_end: the beginning of the names of those that may end in any way.

        Raises:
            RoundError: with the last line that it wrote and where the rest is.
        """
        for child in self._children:
            rotate_output(child.log)
            status = child.process.poll()
            if may_end is not None and child.name.startswith(may_end):
                continue
            if status is not None and not (status == 0 and child.name in may_finish):
                lines = child.log.read_text(errors="replace").strip().splitlines()
                raise RoundError(
                    f"{child.name} ended with status {status}: {lines[-1] if lines else 'no output'}",
                    where=str(child.log),
                    remedy="Read that log",
                )

    def process_ids(self) -> dict[str, int]:
        """Process id of each child by its name."""
        return {child.name: child.process.pid for child in self._children}

    def stop(self) -> None:
        """End all children, last started first, and all that they started."""
        started = [item for child in self._children for item in _descendants(child.process.pid)]
        for child in reversed(self._children):
            _signal_group(child.process, signal.SIGTERM)
        end = time.monotonic() + self.patience
        for child in reversed(self._children):
            try:
                child.process.wait(timeout=max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal_group(child.process, signal.SIGKILL)
                child.process.wait()
            _signal_group(child.process, signal.SIGKILL)  # also of a child that had ended before
        for item in started:
            with suppress(psutil.NoSuchProcess):
                item.kill()
        self._children.clear()


@contextmanager
def alone_in(home: Path) -> Iterator[None]:
    """Be the only server of a folder while the block lasts; the lock ends with this process in any case.

    A second one, on other ports, would hand out the same messages and take the first one's name in its files.

    Raises:
        AddressError: there is another.
    """
    lock = home / "server.lock"
    with os.fdopen(os.open(lock, os.O_RDWR | os.O_CREAT, 0o600), "r+") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise AddressError(
                "a server of this folder runs already",
                where=str(lock),
                remedy="Stop it first, or name another folder with TIDEGATE_HOME",
            ) from exc
        yield


def free_port() -> int:
    """A port on the loopback address that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require_free(port: int, what: str, host: str = "127.0.0.1") -> None:
    """Refuse a port that is in use, or an address that is not this machine's.

    Raises:
        AddressError: something listens there, or nothing can.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                words, remedy = f"port {port} is in use", "Stop what listens there, or name another port"
            else:
                words = f"nothing can listen at {host}, port {port}: {exc.strerror}"
                remedy = "Name an address of this machine (0.0.0.0 is all), and a port that this user may use"
            raise AddressError(words, where=what, remedy=remedy) from exc


def wait_for_port(port: int, seconds: float, processes: Processes, host: str = "127.0.0.1") -> None:
    """Wait until something listens on a port of this machine.

    Raises:
        RoundError: a child ended, or nothing listens in time.
    """

    def listens() -> bool:
        try:
            socket.create_connection((_here(host), port), timeout=1).close()
        except OSError:
            return False
        return True

    wait_for(listens, seconds, processes, f"port {port}")


def wait_for(there: Callable[[], bool], seconds: float, processes: Processes, what: str) -> None:
    """Wait until something is there that one of the children makes.

    Raises:
        RoundError: a child ended, or it is not there in time.
    """
    end = time.monotonic() + seconds
    while not there():
        processes.require_running()
        if time.monotonic() > end:
            raise RoundError(
                f"nothing listens on {what} after {seconds:.0f} s",
                where=str(processes.logs),
                remedy="The logs there say why",
            )
        time.sleep(0.05)


def _here(listen: str) -> str:
    """An address at which what listens there is reached from this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen, listen)  # noqa: S104 - is compared, not used


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _descendants(process_id: int) -> list[psutil.Process]:
    """What a child started, in whatever session: Flower gives its ServerApp one of its own."""
    try:
        return psutil.Process(process_id).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return
