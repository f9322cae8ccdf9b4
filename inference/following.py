"""Brings newer versions into service while the service answers: found, verified, tried, then swapped in.

A version is loaded and has answered drawn rows before the first request reaches it, so that a swap costs no
request its answer. What does not hold is refused, logged and counted, and the version before goes on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from contract.errors import InputError, TidegateError
from contract.model_statement import STATEMENT_FILE, ModelStatement
from inference.requests import Asked
from inference.served import Served
from inference.store import ModelStore, folder_files
from serving.drawn_rows import drawn_columns

__all__ = ["FolderSource", "Offer", "Source", "follow", "take_newer", "warmed"]

_SECONDS = 1.0
_log = logging.getLogger("tidegate.inference")


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A version that is offered: its files by name, and the envelope with what was said of them."""

    files: Mapping[str, bytes]
    envelope: object


class Source(Protocol):
    """Where newer versions come from."""

    def newer(self, decision: int) -> Offer | None:
        """What is offered, where it may be by a later decision than this; None where nothing new is.

        Raises:
            TidegateError: the source cannot be read now.
        """

    def settled(self) -> None:
        """What was offered last was taken, or refused for good: it need not be offered again."""


class FolderSource:
    """A folder into which `tidegate models fetch` writes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: tuple[int, int] | None = None
        self._offered: tuple[int, int] | None = None

    def newer(self, decision: int) -> Offer | None:
        """The folder's version, once each time its statement is another file."""
        del decision
        try:
            found = (self._folder / STATEMENT_FILE).stat()
        except OSError:
            return None
        stamp = found.st_mtime_ns, found.st_ino
        if stamp == self._seen:
            return None
        files, envelope = folder_files(self._folder)
        self._offered = stamp
        return Offer(files=files, envelope=envelope)

    def settled(self) -> None:
        """What was offered last was taken, or refused for good."""
        self._seen = self._offered


def take_newer(
    store: ModelStore,
    source: Source,
    load: Callable[[Mapping[str, bytes], ModelStatement], Served],
    serve: Callable[[Served], None],
) -> bool:
    """Bring what a source offers into service; whether there was something newer.

    Raises:
        TidegateError: it does not hold, is older, or the disk does not take it. What is served stays.
    """
    offer = source.newer(store.decision)
    if offer is None:
        return False
    try:
        statement, service = store.require_newer(offer.envelope)
        if service.number == store.decision:
            source.settled()
            return False
        files = store.verified(offer.files, statement)
        served = warmed(load(files, statement))
    except InputError:
        source.settled()
        raise
    store.keep(files, offer.envelope, statement)  # and only then it answers: a restart knows of it
    serve(served)
    source.settled()
    _log.info("version %d of '%s' answers now, by decision %d", served.version, served.name, service.number)
    return True


def follow(
    store: ModelStore,
    source: Source,
    load: Callable[[Mapping[str, bytes], ModelStatement], Served],
    serve: Callable[[Served], None],
    refused: Callable[[], None],
    stop: threading.Event,
) -> None:
    """Look for newer versions until told to stop."""
    while not stop.wait(_SECONDS):
        try:
            take_newer(store, source, load, serve)
        except InputError as exc:
            refused()
            _log.error("a version was not taken: %s", exc)
        except TidegateError as exc:
            _log.warning("newer versions cannot be had now: %s", exc)
        except Exception:
            refused()
            _log.exception("a version could not be loaded")


def warmed(served: Served) -> Served:
    """The version, once it has answered a row."""
    columns = drawn_columns(served.experiment.task, 1, np.random.default_rng(0))
    asked = Asked(columns={name: values.tolist() for name, values in columns.items()}, partial=True)
    served.predict([served.schema.read(asked)])
    return served
