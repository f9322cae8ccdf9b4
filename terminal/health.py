"""How an agent or a server stands, for the service that watches over it.

`GET /health` answers 200 while it does its work, and 503 when it cannot (an agent that
does not reach the server, say), with a JSON object that says since when and why. It
listens on the loopback address alone, and says nothing of rows.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

from contract.errors import AddressError

__all__ = ["Health", "Standing", "serve_health"]

State = Literal["starting", "running", "connected", "answering", "sending", "unreachable", "stopped"]
_WELL = frozenset({"running", "connected", "answering", "sending"})


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How it stands.

    Attributes:
        name: the site's, or `server`.
        state: what it does.
        since: when that began, ISO 8601.
        note: which run and message, or what is wrong and what to do.
        answered: messages answered since it was started.
    """

    name: str
    state: State
    since: str
    note: str = ""
    answered: int = 0

    @property
    def well(self) -> bool:
        """Whether it does its work."""
        return self.state in _WELL


class Health:
    """Holds the standing; safe to use from several threads."""

    def __init__(self, name: str) -> None:
        self._lock = threading.Lock()
        self._standing = Standing(name=name, state="starting", since=_now())

    def say(self, state: State, note: str = "", *, answered: int = 0) -> None:
        """Change the standing; the time of a state is that of its beginning.

        Args:
            state: the new one.
            note: about it.
            answered: how many messages more were answered.
        """
        with self._lock:
            before = self._standing
            since = before.since if state == before.state else _now()
            self._standing = replace(
                before, state=state, since=since, note=note, answered=before.answered + answered
            )

    @property
    def standing(self) -> Standing:
        """As it is now."""
        with self._lock:
            return self._standing


@contextmanager
def serve_health(health: Health, port: int | None) -> Iterator[int | None]:
    """Answer at 127.0.0.1:`port` while the block runs; 0 takes a free one, None answers nowhere.

    Raises:
        AddressError: the port is in use.
    """
    if port is None:
        yield None
        return

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path not in ("/", "/health"):
                self.send_error(404)
                return
            standing = health.standing
            body = json.dumps({**asdict(standing), "well": standing.well}).encode()
            self.send_response(200 if standing.well else 503)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Not a line a second."""

    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except OSError as exc:
        raise AddressError(
            f"port {port} is in use", where="--health-port", remedy="Name another port, or 0 for a free one"
        ) from exc
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
