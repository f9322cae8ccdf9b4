"""The site's agent: one lasting, small process that answers the server.

    connect  →  take a message, on disk before the server hears that it arrived
             →  check whose code the server runs
             →  the worker answers (charging the ledger)
             →  send, until the server has it  →  take the next

It runs the code that the site's administrator installed, never code from the
bundle: a server whose bundle differs from it is refused, in one word. Work that a
crash interrupted is taken up again when the agent starts: what was answered is in
the ledger and is given again, byte for byte.

A server has one exchange of a run open at a time. So of the messages of a run that
came while the site was away or at a long task, only the last is answered: nobody
waits for the others, and the site would pay for what is thrown away.
"""

from __future__ import annotations

import fcntl
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from clients.code import installed_code_hash
from clients.line.flower import FleetConnection, RunOverError, ServerRefusedError
from clients.line.packing import Bundle, PackedReply, Work, error_reply, pack
from clients.line.spool import Spool, has_reply, read_reply, read_work
from clients.line.worker import TaskFailedError, Worker
from contract.code import code_hash
from contract.errors import LedgerError, RefusalCode, SilentError, SiteConfigError
from contract.messages import HOLD
from terminal.health import Health

__all__ = ["KEPT", "Answer", "one_agent", "serve", "stopped_by_signals", "worker_answers"]

_log = logging.getLogger("tidegate.agent")

_POLLS = ((1.5, 0.05), (5.0, 0.15), (20.0, 0.3))
"""Until so many seconds after a message, the pause between two looks: a round follows a round closely."""
_IDLE_POLL = 0.5
_BUSY, _LONGEST_LOOK = 8.0, 1.0
"""How many times as long as a look took the pause after it is at least, and the most
seconds that this makes: many sites do not crowd the server."""
_HELD = 0.9 * HOLD
"""Seconds of a look from which the server held it until there might be something, and may be asked at once:
Tidegate's does (`server/line/long_poll.py`), a stock SuperLink never."""
_LONG_TASK, _LONG_SENDING = 1.0, 5.0
"""Seconds of a task, and of sending its reply, in which the server may have gone on to the next round, and to
more than one. Where many sites reply at once, sending alone takes a second in every round."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0
"""Between two tries to send a reply."""
KEPT = 2**29
"""Bytes of freed memory that agent and worker may keep for the next update, until they rest."""
_REST = 600.0
"""Seconds without a message after which the worker gives its memory back."""

Answer = Callable[[Work], PackedReply]
_Asked = TypeVar("_Asked")


def serve(
    connection: FleetConnection,
    answer: Answer,
    stop: threading.Event,
    *,
    spool: Spool | None = None,
    health: Health | None = None,
    rest: Callable[[], None] = lambda: None,
    refuse: Callable[[str, str], None] = lambda _request, _word: None,
    reply_seconds: float = 0.0,
) -> None:
    """Answer messages until `stop` is set or the server forgets this site; first those that were left behind.

    A server that holds a question until there is a message is asked again at once. Any other is polled every
    50 ms just after a message, ever more slowly later, and twice a second when idle; more slowly too when it
    is busy and takes long to say that there is nothing.

    Args:
        connection: to the server.
        answer: makes the reply to a message.
        stop: ends the agent once its message is answered.
        spool: keeps what is not answered yet; without, a crash loses it.
        health: is told how the agent stands.
        rest: called after ten minutes without a message.
        refuse: enters a refusal of the agent's own into the egress log.
        reply_seconds: as `agent.reply_seconds` of site.toml says.
    """
    agent = _Agent(connection, answer, stop, spool, health or Health(""), refuse, reply_seconds)
    last_message, rested = -math.inf, False
    left, was_away = agent.left_behind(), True
    while not stop.is_set():
        looked = time.monotonic()
        try:
            come = agent.receive(all_that_wait=was_away)
        except ServerRefusedError as exc:
            _log.error("the server does not know this site any more (%s)", exc)
            return
        if come or left:
            took_long = [agent.attend(work) for work in agent.current([*left, *come])]
            left, was_away = [], any(took_long)
            last_message, rested = time.monotonic(), False
            continue
        was_away = False
        took = time.monotonic() - looked
        quiet = time.monotonic() - last_message
        if _REST < quiet < math.inf and not rested:
            rest()
            rested = True
        if took >= _HELD:
            continue
        pause = next((pause for until, pause in _POLLS if quiet < until), _IDLE_POLL)
        stop.wait(max(pause, min(_BUSY * took, _LONGEST_LOOK)))


def stopped_by_signals(connections: Sequence[FleetConnection]) -> threading.Event:
    """What SIGTERM and SIGINT set from now on; the server answers then what it holds, so that `serve` ends.

    Args:
        connections: those that stand at that moment.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def release() -> None:
        stop.wait()
        for connection in tuple(connections):
            connection.release()

    threading.Thread(target=release, name="release", daemon=True).start()  # no handler may wait for a lock
    return stop


def worker_answers(worker: Worker, spool: Spool, stop: threading.Event, patience: float) -> Answer:
    """Have the worker answer what lies in the spool.

    Args:
        worker: computes.
        spool: where the messages are, and the replies come.
        stop: when it is set, a task has `patience` seconds to end.
        patience: as said.
    """
    ends: list[float] = []

    def give_up() -> bool:
        if stop.is_set() and not ends:
            ends.append(time.monotonic() + patience)
        return bool(ends) and time.monotonic() > ends[0]

    def answer(work: Work) -> PackedReply:
        path = spool.path(work)
        if not has_reply(path):  # else an agent died over sending it; what the server has of it stays of use
            worker.do(path, give_up)
        return read_reply(path)

    return answer


@contextmanager
def one_agent(lock: Path) -> Iterator[None]:
    """Hold the site's lock: two agents would answer the same messages.

    Raises:
        SiteConfigError: another agent of this site runs on this machine.
    """
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise SiteConfigError(
                "an agent of this site runs already",
                where=str(lock),
                remedy="Stop it first, or leave it: one agent is enough",
            ) from exc
        yield


class _Agent:
    """What is done with one message."""

    def __init__(
        self,
        connection: FleetConnection,
        answer: Answer,
        stop: threading.Event,
        spool: Spool | None,
        health: Health,
        refuse: Callable[[str, str], None],
        grid: float,
    ) -> None:
        self._connection, self._answer, self._stop = connection, answer, stop
        self._spool, self._health, self._refuse, self._grid = spool, health, refuse, grid
        self._broken = False

    def left_behind(self) -> list[Work]:
        """What an earlier agent kept and did not finish, oldest first."""
        left = []
        for path in [] if self._spool is None else self._spool.waiting():
            try:
                work = read_work(path)
            except LedgerError as exc:
                _log.error("%s", exc)
                continue
            _log.info("taking up %s, left by an earlier agent", work.request)
            left.append(work)
        return left

    def receive(self, *, all_that_wait: bool) -> list[Work]:
        """The next message, or all; none if there is none or the line is broken, which is said.

        Raises:
            ServerRefusedError: the server does not know this site any more; nothing was received before.
        """
        come: list[Work] = []
        while not come or all_that_wait:
            try:
                work = self._next()
            except ServerRefusedError:
                if not come:
                    raise
                break
            if work is None:
                break
            come = list(self.current([*come, work]))  # they may be large
        return come

    def current(self, works: Sequence[Work]) -> Iterator[Work]:
        """Of each run the last message, and whatever has its reply on the disk already."""
        once = {work.message_id: work for work in works}.values()  # one that was kept may come again
        last = {work.run: work for work in sorted(once, key=lambda work: work.made_at)}
        for work in once:
            has_answer = self._spool is not None and has_reply(self._spool.path(work))
            if work is last[work.run] or has_answer:
                yield work
                continue
            _log.info(
                "left %s of %s: the server has sent a later one, and waits for that",
                *(work.request, _clock_time(work.made_at)),
            )
            if self._spool is not None:
                self._spool.done(work)

    def _next(self) -> Work | None:
        try:
            work = self._connection.receive((lambda _: None) if self._spool is None else self._spool.keep)
        except ServerRefusedError:
            raise
        except Exception as exc:
            # Whatever a broken line, a server that is restarted or a full disk raises, the agent outlives it.
            words = f"a message could not be received ({type(exc).__name__}: {exc}); trying again"
            if not self._broken:
                _log.warning("%s", words)
            self._broken = True
            self._health.say("unreachable", words)
            self._stop.wait(_IDLE_POLL)
            return None
        self._answers()
        if work is None:
            self._health.say("connected")
        return work

    def _answers(self) -> None:
        if self._broken:
            _log.info("the server answers again")
        self._broken = False

    def attend(self, work: Work) -> bool:
        """Answer a message and send the reply, or leave it in the spool for the next agent.

        Returns:
            Whether it took so long that the server may have gone on to another round.
        """
        began, answered = time.monotonic(), math.inf
        self._health.say("answering", work.request)
        try:
            reply = self._reply(work)
            self._wait_for_the_grid(began)
            self._health.say("sending", work.request)
            answered = time.monotonic()
            self._insist("the reply could not be sent", lambda: self._connection.send(reply))
        except SilentError as exc:
            _log.error("no answer to %s: %s", work.request, exc)
        except RunOverError as exc:
            _log.info("no answer to %s is wanted any more: %s", work.request, exc)
        except ServerRefusedError as exc:
            _log.error("the server does not take an answer to %s any more (%s)", work.request, exc)
        except InterruptedError:
            _log.warning("stopped over %s; the next agent takes it up", work.request)
            return True
        if self._spool is not None:
            self._spool.done(work)
        self._health.say("connected", answered=1)
        ended = time.monotonic()
        return min(answered, ended) - began > _LONG_TASK or ended - answered > _LONG_SENDING

    def _wait_for_the_grid(self, began: float) -> None:
        """Until a whole number of `reply_seconds` has passed.

        Raises:
            InterruptedError: the agent is to stop.
        """
        if self._grid and self._stop.wait(-(time.monotonic() - began) % self._grid):
            raise InterruptedError

    def _refused(self, work: Work, code: str) -> PackedReply:
        """One word, which is a line of the egress log.

        Raises:
            SilentError: there were too many, or the message cannot be read at all.
        """
        self._refuse(work.request, code)
        try:
            return pack(error_reply(work.message, code), to=work.message)
        except Exception as exc:
            # Whatever Flower raises over bytes that are no message: there is nobody to answer.
            raise SilentError(f"what came is no message ({type(exc).__name__})") from exc

    def _reply(self, work: Work) -> PackedReply:
        bundle = self._insist(
            "the run's code could not be fetched", lambda: self._connection.bundle(work.run)
        )
        if not _same_code(bundle):
            _log.error(
                "refused %s: the server's bundle %s %s",
                work.request,
                bundle.sha256[:12],
                f"was not unpacked ({bundle.fault})"
                if bundle.fault
                else "holds other code than is installed here; install the server's version",
            )
            return self._refused(work, RefusalCode.INPUT)
        try:
            return self._answer(work)
        except (InterruptedError, SilentError):
            raise
        except TaskFailedError as exc:
            _log.error("failed %s: %s", work.request, exc)
        except Exception:
            # Its text may hold a data value: it stays in the site's log.
            _log.exception("failed %s", work.request)
        return self._refused(work, RefusalCode.FAILED)

    def _insist(self, trouble: str, ask: Callable[[], _Asked]) -> _Asked:
        """Ask the server until it answers.

        Raises:
            ServerRefusedError: its answer is no.
            InterruptedError: the agent is to stop.
        """
        pause = _FIRST_PAUSE
        while True:
            try:
                asked = ask()
            except ServerRefusedError:
                self._answers()
                raise
            except Exception as exc:
                # Whatever a broken line raises: only the server's own no is an answer.
                if not self._broken:
                    _log.warning("%s (%s: %s); trying again", trouble, type(exc).__name__, exc)
                self._broken = True
                self._health.say("unreachable", f"{trouble} ({exc})")
            else:
                self._answers()
                return asked
            if self._stop.wait(pause):
                raise InterruptedError(trouble)
            pause = min(2 * pause, _LONGEST_PAUSE)


def _same_code(bundle: Bundle) -> bool:
    return code_hash(bundle.files) == installed_code_hash()


def _clock_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
