"""Starts the inference service: one process, one event loop, until it is told to stop."""

from __future__ import annotations

import json
import logging
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from contract.errors import AddressError, InputError, TidegateError
from contract.model_statement import ModelStatement
from inference.desk import Beside, Desk
from inference.following import FolderSource, Source, follow, take_newer, warmed
from inference.log import PredictionLog
from inference.metrics import Metrics
from inference.served import Served
from inference.service import Service
from inference.store import ModelStore, read_version

__all__ = ["Settings", "new_key", "read_keys", "run"]

_DIGEST = 32
"""Bytes of a SHA-256."""
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_MOVE_SECONDS = 0.5
"""Between two looks for answers that are to go into the database."""
_SWITCH_SECONDS = 0.0005
"""So long one thread may keep the others from running; Python's own is ten times that, and would be felt."""
_log = logging.getLogger("tidegate.inference")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a service is started with.

    Attributes:
        folder: with a version, as `tidegate models fetch` writes it; what comes there later is taken too.
        authority: the federation's certificate, in PEM form.
        store: where versions are kept.
        log: SQLAlchemy's URL of the prediction log; None keeps none.
        keep_days: for which it keeps answers.
        host, port: where it listens; port 0 takes a free one.
        keys: the file with the API keys; None asks for no key.
        certificate, key: files for TLS, in PEM form.
        shadow, canary: a folder with a version that is tried so; `share` of the requests a canary answers.
        providers: of ONNX Runtime, in the order in which they are asked for.
    """

    folder: Path
    authority: bytes
    store: Path
    log: str | None
    keep_days: float
    host: str
    port: int
    keys: Path | None
    certificate: Path | None
    key: Path | None
    shadow: Path | None
    canary: Path | None
    share: float
    providers: tuple[str, ...]


def run(settings: Settings, started: Callable[[Served, str], None]) -> None:
    """Answer until SIGTERM or Ctrl-C.

    Args:
        settings: as said.
        started: is told what is served, and at which address, once it answers.

    Raises:
        InputError: the version does not hold, or the address is open to others without a key.
        StorageError: the log or the store cannot be written.
    """
    import uvicorn

    sys.setswitchinterval(_SWITCH_SECONDS)
    _require_closed(settings)
    keys = None if settings.keys is None else read_keys(settings.keys)
    _, statement = read_version(settings.folder, settings.authority)
    store = ModelStore(settings.store / statement.model, statement.model, settings.authority)
    metrics, source = Metrics(), FolderSource(settings.folder)

    def load(files: Mapping[str, bytes], said: ModelStatement) -> Served:
        return Served(
            files, name=said.model, version=said.version, statement=said, providers=settings.providers
        )

    log = None
    if settings.log is not None:
        journal = store.folder / "answers.journal"
        log = PredictionLog(settings.log, journal, keep_days=settings.keep_days)
    desk = Desk(log)

    def serve(served: Served) -> None:
        desk.serve(served)
        metrics.serves(served.name, served.version, served.engine)

    with ExitStack() as stack:
        stack.callback(desk.close)
        kept = store.current()
        if kept is not None:
            serve(warmed(load(*kept)))
        try:
            take_newer(store, source, load, serve)
        except TidegateError as exc:
            if desk.served is None:
                raise
            metrics.refused()
            _log.error("a version was not taken: %s", exc)
        if desk.served is None:
            raise InputError(
                "the store says that it is served, and has no files of it", where=str(store.folder)
            )
        tried = settings.shadow or settings.canary
        if tried is not None:
            desk.beside = _beside(tried, settings, load, desk.served)
        stop = threading.Event()
        stack.callback(stop.set)
        _start_following(store, source, load, serve, metrics, desk, stop)
        config = uvicorn.Config(
            Service(desk, keys, metrics),
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            ws="none",
            ssl_certfile=settings.certificate,
            ssl_keyfile=settings.key,
            timeout_graceful_shutdown=30,
        )
        server, served = uvicorn.Server(config), desk.served
        listening = _bound(settings)
        stack.callback(listening.close)
        scheme = "http" if settings.certificate is None else "https"
        started(served, f"{scheme}://{settings.host}:{listening.getsockname()[1]}")
        with suppress(KeyboardInterrupt):  # uvicorn raises the signal again when all is answered
            server.run(sockets=[listening])


def _bound(settings: Settings) -> socket.socket:
    """Where requests come in; from now on they wait there until they are answered."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
        listening.listen(2048)
    except OSError as exc:
        listening.close()
        raise AddressError(
            f"it cannot listen there ({exc.strerror})",
            where=f"{settings.host}:{settings.port}",
            remedy="Give another --port, or 0 for a free one",
        ) from exc
    return listening


def _start_following(
    store: ModelStore,
    source: Source,
    load: Callable[[Mapping[str, bytes], ModelStatement], Served],
    serve: Callable[[Served], None],
    metrics: Metrics,
    desk: Desk,
    stop: threading.Event,
) -> None:
    log = desk.log

    def keep() -> None:
        while not stop.wait(_MOVE_SECONDS):
            try:
                if log is not None:
                    log.move()
                    log.forget()
                desk.rest()
            except Exception as exc:  # the database is away, say: answers wait in the journal
                _log.error("answers wait for the prediction log: %s", exc)

    following = (store, source, load, serve, metrics.refused, stop)
    threading.Thread(target=follow, args=following, name="newer versions", daemon=True).start()
    threading.Thread(target=keep, name="prediction log", daemon=True).start()


def _beside(
    folder: Path,
    settings: Settings,
    load: Callable[[Mapping[str, bytes], ModelStatement], Served],
    served: Served,
) -> Beside:
    files, statement = read_version(folder, settings.authority, model=served.name)
    tried = warmed(load(files, statement))
    if tried.experiment.task != served.experiment.task:
        raise InputError(
            "it asks for other columns than the version in service",
            where=str(folder),
            remedy="A shadow and a canary answer the very requests that the version in service does",
        )
    mode: Literal["shadow", "canary"] = "canary" if settings.shadow is None else "shadow"
    return Beside(served=tried, mode=mode, share=settings.share)


def _require_closed(settings: Settings) -> None:
    if settings.host not in _LOOPBACK and (settings.keys is None or settings.certificate is None):
        raise InputError(
            "others can reach that address: it needs API keys and TLS",
            where=f"serve.host = '{settings.host}'",
            remedy="Give serve.keys, serve.certificate and serve.key, or listen on 127.0.0.1",
        )


def read_keys(path: Path) -> dict[str, str]:
    """The SHA-256 of each API key by the name of who has it.

    Raises:
        InputError: the file cannot be read, or is none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        keys = {str(name): str(value) for name, value in found.items()}
        lengths = {len(bytes.fromhex(value)) for value in keys.values()}
    except OSError as exc:
        raise InputError(f"cannot be read: {exc.strerror}", where=str(path)) from exc
    except (ValueError, AttributeError, RecursionError) as exc:
        raise _no_keys(path) from exc
    if lengths != {_DIGEST}:
        raise _no_keys(path)
    return keys


def _no_keys(path: Path) -> InputError:
    remedy = "`tidegate site serve-key NAME` writes one into it"
    return InputError("it has no API keys", where=str(path), remedy=remedy)


def new_key(path: Path, name: str) -> str:
    """Make an API key, and keep its hash in the file under the name of who gets it.

    Raises:
        InputError: the file is no file of keys, or somebody of that name has one.
    """
    import hashlib
    import secrets

    from contract.whole_file import replace_file

    keys = read_keys(path) if path.exists() else {}
    if name in keys:
        raise InputError(
            f"'{name}' has a key", where=str(path), remedy="Take its line out of the file, or name another"
        )
    key = secrets.token_urlsafe(32)
    keys[name] = hashlib.sha256(key.encode()).hexdigest()
    try:
        replace_file(path, (json.dumps(keys, indent=2) + "\n").encode())
    except OSError as exc:
        raise InputError(f"cannot be written: {exc.strerror}", where=str(path)) from exc
    return key
