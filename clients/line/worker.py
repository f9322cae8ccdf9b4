"""The process that computes: started by the agent, and ended without harm to it.

The agent stays small and always answers; what imports PyTorch, reads rows and may
run out of memory is here. One worker lasts from task to task, so that libraries,
rows and ledger are there already. If it dies, the next is started and the task is
tried once more: the ledger has its reply, or charges it anew. If the agent dies, the
worker ends its task first, and the next agent's worker waits for that: so the reply
is in the ledger, and nothing is charged twice.
"""

from __future__ import annotations

import fcntl
import json
import logging
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

from flwr.app import Context, Message

from clients.line.packing import pack
from clients.line.spool import read_work, write_reply
from contract.errors import LedgerError, SilentError, TidegateError

__all__ = ["Limits", "TaskFailedError", "Worker", "answer_tasks"]

_log = logging.getLogger("tidegate.worker")

_TRIES = 2
_LOOK = 0.5


class TaskFailedError(Exception):
    """No worker could do the task; the message says why, for the site's own log."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a task may use.

    Attributes:
        memory_mb: of data in the worker's memory; None sets no limit.
        seconds: after which a task is ended, its second try included.
    """

    memory_mb: int | None
    seconds: float


class Worker:
    """Hands tasks to a worker process.

    Args:
        command: the program that calls `answer_tasks` with the file descriptor that it is given.
        limits: what a task may use.
    """

    def __init__(self, command: Callable[[int], Sequence[str]], limits: Limits) -> None:
        self._command = command
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._line: Connection | None = None

    def start(self) -> None:
        """Start the process now, so that the first task finds it ready."""
        if self._process is not None and self._process.poll() is None:
            return
        self.stop()
        self._line, theirs = Pipe()
        with theirs:
            number = theirs.fileno()
            self._process = subprocess.Popen(
                list(self._command(number)),
                pass_fds=[number],
                start_new_session=True,  # Ctrl-C is for the agent
            )

    def do(self, path: Path, give_up: Callable[[], bool]) -> None:
        """Have the message at `path` answered; its reply lies beside it afterwards.

        Args:
            path: as `clients.line.spool` keeps it.
            give_up: asked twice a second whether to leave the task for later.

        Raises:
            TaskFailedError: it took too long, or ended every worker that tried it.
            SilentError: it gets no answer.
            InterruptedError: it was given up.
        """
        end = time.monotonic() + self._limits.seconds
        for attempt in range(1, _TRIES + 1):
            self.start()
            assert self._line is not None  # `start` has made it  # noqa: S101
            try:
                self._line.send_bytes(str(path).encode())
                self._wait(give_up, end)
                answered = json.loads(self._line.recv_bytes())
            except (EOFError, OSError) as exc:
                if isinstance(exc, InterruptedError):
                    raise
                _log.error("the worker died over a task (%s; try %d of %d)", self._death(), attempt, _TRIES)
                continue
            if answered["silent"]:
                raise SilentError(answered["error"])
            if answered["error"]:
                raise TaskFailedError(answered["error"])
            return
        raise TaskFailedError(
            "the task ended every worker that tried it; see the system's log for its memory"
        )

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._line is not None:
            self._line.close()
        self._process = self._line = None

    def _wait(self, give_up: Callable[[], bool], end: float) -> None:
        assert self._line is not None  # the caller's  # noqa: S101
        while not self._line.poll(_LOOK):
            if give_up():
                self.stop()
                raise InterruptedError("the task was given up")
            if time.monotonic() > end:
                self.stop()
                raise TaskFailedError(f"the task took more than {self._limits.seconds:g} s and was ended")

    def _death(self) -> str:
        if self._process is None:
            return "not started"
        code = self._process.wait()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def answer_tasks(
    descriptor: int, answer: Callable[[Message, Context], Message], limits: Limits, *, lock: Path
) -> None:
    """The worker's side: answer messages until the agent goes away.

    Args:
        descriptor: of the pipe's end that `Worker` passed on.
        answer: the ClientApp.
        limits: of this process.
        lock: a file that one worker of the site holds at a time.
    """
    _limit_memory(limits.memory_mb)
    with lock.open("w") as held, Connection(descriptor) as line:
        fcntl.flock(held, fcntl.LOCK_EX)
        while True:
            try:
                path = Path(line.recv_bytes().decode())
                signal.setitimer(signal.ITIMER_REAL, limits.seconds + 10)  # for a worker without an agent
                silent = False
                try:
                    error = _done(path, answer)
                except SilentError as exc:
                    error, silent = str(exc), True
                signal.setitimer(signal.ITIMER_REAL, 0)
                line.send_bytes(json.dumps({"error": error, "silent": silent}).encode())
            except (EOFError, BrokenPipeError):
                return


def _done(path: Path, answer: Callable[[Message, Context], Message]) -> str | None:
    """What went wrong, for the site's log; None if the reply is there.

    Raises:
        SilentError: there is to be none.
    """
    try:
        work = read_work(path)
        write_reply(path, pack(answer(work.message, work.context), to=work.message))
    except SilentError:
        raise
    except MemoryError:
        return "the task ran out of the memory that the site allows (agent.memory_mb)"
    except TidegateError as exc:
        return str(exc)
    except Exception as exc:
        # A kind of message that the ClientApp does not know raises in Flower's own code.
        _log.exception("failed")
        return f"{type(exc).__name__}: {exc}"
    return None


def _limit_memory(megabytes: int | None) -> None:
    if megabytes is None:
        return
    import resource

    size = megabytes * 2**20
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    except (OSError, ValueError) as exc:
        raise LedgerError(f"the worker's memory cannot be limited to {megabytes} MB: {exc}") from exc
