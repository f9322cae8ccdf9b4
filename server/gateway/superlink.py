"""The SuperLink with its gateway: `python -m server.gateway.superlink`, with the SuperLink's options.

One process listens twice: on loopback, for the operator's own processes (`server.line.superlink`), and where
server.toml says, for sites (`server.gateway.door`). Sites' updates are long, and a process between would read
and write each byte again. The key of the federation's authority is not in this process, nor read by it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from server.gateway.door import Door
from server.gateway.enrolment import enrolment_app
from server.gateway.tls import Port, Shown
from server.line.certificates import ServerFiles, server_files
from server.line.superlink import Server, run
from server.server_file import ServerFile, read_server_file, server_file
from server.settings import read_settings
from server.state.enrolments import Enrolments
from server.state.storage import open_state
from terminal.logs import FewWarnings, PlainRecords

__all__ = ["gateway_port", "main"]

_KEPT_OPEN = 75
"""Seconds that a connection may be quiet: a little longer than a site keeps it."""


class _Beside(Server):
    """A server beside another, which hears the signals and ends it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def main() -> None:
    """Run both until told to stop."""
    settings = read_settings()
    file = read_server_file(settings.home)
    if file is None:
        raise SystemExit(f"{server_file(settings.home)} is not there: `tidegate server init` makes it")
    files = server_files(settings.home / "certificates")  # `tidegate server up` makes and renews them
    _log_to_standard_error()
    with open_state(settings.state_url) as state:
        enrolment = enrolment_app(Enrolments(state.database, settings.federation), files.authority)

        def serve(app: ASGIApp, options: dict[str, Any], answer_all: Callable[[], None]) -> None:
            inner = uvicorn.Config(app, **options)
            outer = gateway_port(Door(app, enrolment), file, files)
            inner.load()
            shown = [Shown(tls, files) for tls in (inner.ssl, outer.tls) if tls is not None]
            with asyncio.Runner(loop_factory=inner.get_loop_factory()) as runner:
                servers = Server(inner, answer_all), _Beside(outer.config, answer_all)
                runner.run(_serve_both(*servers, shown))

        run(serve)


def _log_to_standard_error() -> None:
    """What strangers tried, in plain records; Flower's own logger stays as it is."""
    log, handler = logging.getLogger("tidegate"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(PlainRecords())
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    for name in ("tidegate.gateway", "uvicorn.error"):
        logging.getLogger(name).addFilter(FewWarnings())


def gateway_port(door: ASGIApp, file: ServerFile, files: ServerFiles) -> Port:
    """The port of the door: TLS with the server's certificate, and the client's if it has one."""
    return Port(
        door, file.gateway_port, file, files, asks_for_certificate=True, timeout_keep_alive=_KEPT_OPEN
    )


async def _serve_both(inner: uvicorn.Server, outer: uvicorn.Server, shown: Sequence[Shown]) -> None:
    renewals = [asyncio.create_task(one.look_on()) for one in shown]
    beside = asyncio.create_task(outer.serve())
    try:
        await inner.serve()
    finally:
        outer.should_exit = True
        for renewal in renewals:
            renewal.cancel()
        await beside


if __name__ == "__main__":
    main()
