"""Serves the API over TLS, in a thread of `tidegate server up`."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from contract.errors import RoundError
from server.api.app import Api, make_app
from server.api.reading import Reading
from server.federation import running_control, running_federation
from server.gateway.tls import Port, Shown
from server.line.certificates import ServerFiles, models_signer
from server.line.processes import require_free
from server.registry.registry import Registry
from server.registry.registry_ui import ui_socket
from server.server_file import ServerFile
from server.settings import ServerSettings
from server.state.storage import open_state
from terminal.logs import FewWarnings, PlainRecords, RotatingFile

__all__ = ["serve_api"]

_START_SECONDS = 120.0
_FAREWELL_SECONDS = 3


@contextmanager
def serve_api(
    settings: ServerSettings, file: ServerFile, files: ServerFiles, *, asked: threading.Event
) -> Iterator[Callable[[], None]]:
    """Answer people at server.toml's address while the block lasts.

    Yields a function that raises what ended the thread, where something did.

    Args:
        settings: where the server keeps its state.
        file: server.toml.
        files: the server's certificates.
        asked: is set when somebody has submitted a run, or wants one stopped.

    Raises:
        AddressError: the port is in use.
        RoundError: it does not start.
    """
    require_free(file.api_port, "the API", file.listen)
    with open_state(settings.state_url) as state, _logged(settings.home / "logs" / "api.log"):
        reading = Reading(
            state=state,
            registry=Registry(settings.tracking_uri, settings.artifact_root),
            control=lambda: running_control(settings),
            federation=running_federation(settings),
            most_kept=file.runs_kept_per_person,
            signer=lambda: models_signer(files),
        )
        api = Api(
            reading=reading,
            authority=files.authority.read_bytes(),
            mlflow=ui_socket(settings.home),
            approvals=file.approvals,
            asked=asked,
        )
        port = Port(make_app(api), file.api_port, file, files, timeout_graceful_shutdown=_FAREWELL_SECONDS)
        server = _Server(port, files)
        thread = threading.Thread(target=server.work, name="api")
        thread.start()
        try:
            server.wait()
            yield server.require_running
        finally:
            api.stopping.set()
            server.stop()
            thread.join()


class _Server:
    """uvicorn in a thread, which shows a renewed certificate from the next connection on."""

    def __init__(self, port: Port, files: ServerFiles) -> None:
        self._server, self._shown = uvicorn.Server(port.config), Shown(port.tls, files)
        self._defect: BaseException | None = None
        self._ended = False

    def work(self) -> None:
        """Serve until `stop`."""
        try:
            asyncio.run(self._serve())
        except (Exception, SystemExit) as exc:  # uvicorn leaves so when it cannot listen
            self._defect = exc
        finally:
            self._ended = True

    async def _serve(self) -> None:
        renewal = asyncio.create_task(self._shown.look_on())
        try:
            await self._server.serve()
        finally:
            renewal.cancel()

    def wait(self) -> None:
        """Wait until it listens."""
        end = time.monotonic() + _START_SECONDS
        while not self._server.started:
            self.require_running()
            if time.monotonic() > end:
                raise RoundError(f"the API does not listen after {_START_SECONDS:.0f} s")
            time.sleep(0.02)

    def require_running(self) -> None:
        """Raise where it has ended."""
        if self._ended and not self._server.should_exit:
            raise RoundError(
                f"the API has ended: {type(self._defect).__name__}: {self._defect}",
                remedy="Read logs/api.log, and start the server again",
            ) from self._defect

    def stop(self) -> None:
        """Have it end, its streams within some seconds."""
        self._server.should_exit = True


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Write who did what over the API, and who was refused, into a bounded log of this user alone."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = RotatingFile(path)  # or whoever has a token could fill the disk by what is written of them
    file.addFilter(PlainRecords())
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in ("tidegate.api", "uvicorn.error")]
    before = [(one.level, one.propagate) for one in loggers]
    few = [FewWarnings() for _ in loggers]  # of each, or one would hide the other's
    for one, level, some in zip(loggers, (logging.INFO, logging.WARNING), few, strict=True):
        one.addHandler(file)
        one.addFilter(some)
        one.setLevel(level)
        one.propagate = False
    try:
        yield
    finally:
        for one, (level, propagate), some in zip(loggers, before, few, strict=True):
            one.removeHandler(file)
            one.removeFilter(some)
            one.setLevel(level)
            one.propagate = propagate
        file.close()
