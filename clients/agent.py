"""The site's agent: one lasting process that answers the server.

    connect  →  take a message  →  check whose code the server runs  →  the
    ClientApp answers (charging the ledger)  →  send  →  take the next

It runs the code that the site's administrator installed, never code from the
bundle: a server whose bundle differs from it is refused, in one word. Finished
work is in the ledger before it is sent, so a reply that was lost on the way is
given again, byte for byte, when the server asks again.
"""

from __future__ import annotations

import functools
import logging
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path

from flwr.app import Message

from clients.flower import Bundle, FleetConnection, Work, error_reply
from contract.code import BUNDLED_PACKAGES, code_hash
from contract.errors import RefusalCode

__all__ = ["installed_code_hash", "serve"]

_log = logging.getLogger("tidegate.agent")

_POLLS = ((1.5, 0.05), (5.0, 0.15), (20.0, 0.3))
"""Until so many seconds after a message, the pause between two looks: a round follows a round closely."""
_IDLE_POLL = 0.5
_SEND_TRIES = 5


def serve(connection: FleetConnection, answer: Callable[[Work], Message], stop: threading.Event) -> None:
    """Answer messages until `stop` is set.

    Polls every 50 ms just after a message, ever more slowly later, and twice a second when idle.
    """
    last_message = -math.inf
    while not stop.is_set():
        work = _receive(connection, stop)
        if work is None:
            quiet = time.monotonic() - last_message
            stop.wait(next((pause for until, pause in _POLLS if quiet < until), _IDLE_POLL))
            continue
        last_message = began = time.monotonic()
        reply = _answer(connection, work, answer)
        _send(connection, reply, time.monotonic() - began, stop)
        last_message = time.monotonic()


@functools.cache
def installed_code_hash() -> str:
    """The hash of the code that this agent runs."""
    root = Path(__file__).resolve().parent.parent
    files = {
        path.relative_to(root).as_posix(): path.read_bytes()
        for package in BUNDLED_PACKAGES
        for path in sorted((root / package).rglob("*.py"))
    }
    return code_hash(files)


def _receive(connection: FleetConnection, stop: threading.Event) -> Work | None:
    try:
        return connection.receive()
    except Exception:
        # Whatever a broken line or a server that is restarted raises, the agent outlives it.
        _log.exception("a message could not be received; trying again")
        stop.wait(_IDLE_POLL)
        return None


def _answer(connection: FleetConnection, work: Work, answer: Callable[[Work], Message]) -> Message:
    bundle = connection.bundle(work.message.metadata.run_id)
    if not _same_code(bundle):
        _log.error(
            "refused run %s: its bundle %s holds other code than is installed here; "
            "install the server's version",
            work.message.metadata.run_id,
            bundle.sha256[:12],
        )
        return error_reply(work.message, RefusalCode.INPUT)
    try:
        return answer(work)
    except Exception:
        # A kind of message that the ClientApp does not know raises in Flower's own code.
        _log.exception("failed %s", work.message.metadata.message_type)
        return error_reply(work.message, RefusalCode.FAILED)


def _same_code(bundle: Bundle) -> bool:
    return code_hash(bundle.files) == installed_code_hash()


def _send(connection: FleetConnection, reply: Message, seconds: float, stop: threading.Event) -> None:
    for attempt in range(1, _SEND_TRIES + 1):
        try:
            connection.send(reply, seconds)
        except Exception:
            _log.exception("the reply could not be sent (try %d of %d)", attempt, _SEND_TRIES)
            stop.wait(_IDLE_POLL * attempt)
        else:
            return
    _log.error("the reply stays in the ledger; the server gets it when it asks for the round again")
