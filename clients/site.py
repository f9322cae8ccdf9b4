"""A site as its ClientApp sees it: configuration, card, rows, ledger and gate, put together once.

The rows are read again only when their files changed; a database is asked in
every exchange.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from clients.gate import Gate
from clients.keys import site_signer
from clients.ledger.chain import Cap, Ledger
from clients.ledger.plan import Split
from clients.requests import Requests
from clients.rows.late_rows import UsedWindows
from clients.rows.rows import Rows, read_rows
from clients.rows.sources import check_source, source_files
from clients.rows.table import Fit, Table, prepare
from clients.rows.zone_rules import rules_of
from clients.site_config import SiteConfig, holdout_key, read_site_config
from contract.card import Card
from contract.errors import CardError, LedgerError, TidegateError
from contract.experiment import Experiment
from contract.words import counted, verb
from serving.values import FORM

__all__ = ["Site", "close_site", "open_site", "split_of"]

_log = logging.getLogger("tidegate.site")

_Version = tuple[tuple[str, int, int], ...]
_Kept = tuple[str, tuple[str, ...], bool]
"""Experiment, windows and side of a table."""


@dataclass(kw_only=True)
class _Read:
    """The rows, what they were read from, and the tables that were made of them."""

    version: _Version
    rows: Rows
    tables: dict[_Kept, Table] = field(default_factory=dict)


class Site:
    """One site in this process.

    Args:
        config: its site.toml, read.

    Raises:
        LedgerError: the ledger cannot be opened or trusted.
    """

    def __init__(self, config: SiteConfig) -> None:
        self.config = config
        self._began = ""
        _require_ledger_of_used_site(config)
        cap = Cap(epsilon=config.policy.epsilon_cap, delta=config.policy.delta_cap)
        self.ledger = Ledger(
            config.storage.ledger,
            site=config.name,
            cap=cap,
            clock=lambda: self._began or _now(),
            signer=site_signer(config.storage.folder),
        )
        self.gate = Gate(
            site=config.name,
            stated_rows=config.stated_rows,
            policy=config.policy,
            ledger=self.ledger,
            file=config.file,
        )
        self.requests = Requests(config.storage.requests)
        self._read: _Read | None = None
        self._key: bytes | None = None
        self._told: set[str] = set()

    def begin_exchange(self) -> None:
        """Date the ledger's entries by this moment, until the next exchange begins.

        Evidence leaves the site, and the times of `reserve` and `commit` would tell how long reading and
        computing took between them.
        """
        self._began = _now()

    @property
    def card(self) -> Card:
        """What the site offers.

        Raises:
            SiteConfigError: it has no card, or a draft.
        """
        return self.config.offered

    @property
    def split(self) -> Split:
        """How records are dealt into windows and into training and held-out rows.

        Two plans of one split share no record but in blocks of one name. Of different splits
        nothing is known, so the ledger counts them on each other's blocks. So its name is of all that
        has a say in it but the rows: the card, how the source's values are read, by which rule, the
        rules of the card's time zone, and the key of the hash.
        """
        return split_of(self.config, self.card, self._holdout_key)

    def require_offered(
        self, experiment: Experiment, windows: tuple[str, ...], *, unranged: tuple[str, ...] = ()
    ) -> None:
        """See that the card offers what is asked for, and that the rows could be read. None is read.

        Args:
            experiment: what is asked for.
            windows: the windows that it is asked on.
            unranged: features whose range is asked for.

        Raises:
            CardError: the card does not offer it.
            DataError: the source is missing, or has not the card's columns.
        """
        try:
            self.card.require(experiment, windows=windows, unranged=unranged, today=self.card.today)
        except CardError as exc:
            raise CardError(exc.what, where=f"site '{self.config.name}'", remedy=exc.remedy) from exc
        check_source(self.config, self.card)

    def rows(self, windows: tuple[str, ...], *, holdout: bool | None = None) -> Rows:
        """The rows of these windows as they were read, to be used: of one side, or of both.

        Raises:
            DataError: the source fails, whatever its rows hold.
        """
        rows = self._rows().rows
        self._note_used(rows, windows)
        return rows.of(windows, holdout=holdout)

    def table(self, experiment: Experiment, windows: tuple[str, ...], *, holdout: bool) -> Table:
        """The rows of these windows that fit the experiment, encoded, with persons' rows limited.

        Raises:
            DataError: the source fails, whatever its rows hold.
        """
        read, kept = self._rows(), (experiment.digest, windows, holdout)
        self._note_used(read.rows, windows)
        if kept not in read.tables:
            if any(digest != experiment.digest for digest, *_ in read.tables):
                read.tables.clear()
            table = prepare(read.rows.of(windows, holdout=holdout), experiment, self.card)
            if experiment.digest not in self._told and (table.fit.kept < table.fit.rows or table.fit.clamped):
                self._told.add(experiment.digest)
                _log.warning("%s", _of_fit(self.config.name, table.fit, holdout=holdout))
            read.tables[kept] = table
        return read.tables[kept].limited(experiment.privacy.rows_per_person)

    def _rows(self) -> _Read:
        version = _version(self.config)
        if self._read is None or not version or self._read.version != version:
            rows = read_rows(self.config, self.card, key=self._holdout_key())
            self._read = _Read(version=version, rows=rows)
            self._tell_late(rows)
        return self._read

    @property
    def used_windows(self) -> UsedWindows:
        """What was noted of the windows that were used, to tell which rows came late."""
        return UsedWindows(config=self.config, card=self.card, key=self._holdout_key())

    def _note_used(self, rows: Rows, windows: tuple[str, ...]) -> None:
        """Whatever becomes of it, the answer does not hang on it."""
        try:
            self.used_windows.note(rows, windows)
        except Exception:
            _log.exception("which rows were used first was not noted")

    def _tell_late(self, rows: Rows) -> None:
        """For the administrator's log; whatever becomes of it, the answer does not hang on it.

        A database is read in every exchange: there, `tidegate site check` alone compares digests.
        """
        try:
            late = self.used_windows.late(rows, digests=self.config.data.kind != "sql")
        except Exception:
            _log.exception("which rows came late is not known")
            return
        for window, one in late.items():
            words = one.words(window)
            if words not in self._told:
                self._told.add(words)
                _log.warning("%s, for its administrator alone: %s", self.config.name, words)

    @property
    def deals_by_another_key(self) -> bool:
        """Whether the hold-out key was put in the place of the one that the split is named by."""
        return self._key is not None and holdout_key(self.config.storage) != self._key

    def _holdout_key(self) -> bytes:
        """Read once: what names the split also deals the rows."""
        if self._key is None:
            self._key = holdout_key(self.config.storage)
        return self._key


def split_of(config: SiteConfig, card: Card, key: Callable[[], bytes]) -> Split:
    """What `Site.split` is, also where there is no ledger; `key` gives the hold-out key where it deals."""
    reading = config.data.reading(card.dealt_by)
    # told from others without saying what it is
    key_name = None if card.holdout.column is not None else hashlib.sha256(b"name of " + key()).hexdigest()
    dealt = [card.dealing, reading, FORM, key_name]
    if card.time is not None and card.time.kind == "date" and card.time.zone != "UTC":
        dealt.append(rules_of(card.time.zone))
    name = hashlib.sha256(json.dumps(dealt).encode()).hexdigest()[:16]
    return Split(name=name, lasting=card.lasting_sides)


_open: dict[Path, Site] = {}
_lock = threading.Lock()


def open_site(path: Path) -> Site:
    """The site of this site.toml, opened once in each process."""
    path = Path(os.path.realpath(path))  # a loop of links is told by whoever reads the file
    with _lock:
        config = read_site_config(path)
        known = _open.get(path)
        if known is None or known.config != config or known.deals_by_another_key:
            if known is not None:
                known.ledger.close()
            _open[path] = Site(config)
        return _open[path]


def close_site(path: Path) -> None:
    """Give the ledger's file back, if this process has the site open."""
    with _lock:
        known = _open.pop(Path(os.path.realpath(path)), None)
        if known is not None:
            known.ledger.close()


@atexit.register
def _close_sites() -> None:
    """At the end of the process, bring what each ledger holds into its one file: somebody may copy that."""
    for path in list(_open):
        with suppress(TidegateError):  # a file that is locked or on a full disk: what lies beside it holds it
            close_site(path)


def _require_ledger_of_used_site(config: SiteConfig) -> None:
    """Refuse to begin a new ledger where there must be one: it would know nothing of what was spent."""
    ledger = config.storage.ledger
    try:
        gone = config.storage.holdout_key.exists() and not (ledger.exists() and ledger.stat().st_size)
    except OSError as exc:
        raise LedgerError(
            f"the site's own files cannot be read: {exc.strerror}",
            where=str(config.storage.folder),
            remedy="Run this as the user who runs the site's agent, or let this user into that folder",
        ) from exc
    if gone:
        raise LedgerError(
            "the ledger is gone, though this site has released before; nothing was released",
            where=str(ledger),
            remedy="`tidegate site restore` puts a backup back; a new one would not know what was spent",
        )


def _of_fit(site: str, fit: Fit, *, holdout: bool) -> str:
    """What the administrator is told of the rows, once for each experiment: exact counts, which stay here."""
    rows = counted(fit.rows, "held-out row" if holdout else "training row")
    clamped = sum(fit.clamped.values())
    values = f", {counted(clamped, 'value')} {verb(clamped, 'was', 'were')} clamped" if clamped else ""
    fits = "fits" if 1 in (fit.kept, fit.rows) else "fit"
    return (
        f"{site}, for its administrator alone: {fit.kept:,} of {rows} {fits}{values}: "
        "`tidegate site check` says more"
    )


def _version(config: SiteConfig) -> _Version:
    """Name, size and time of each file; nothing for a database, which is asked each time."""
    if config.data.kind == "sql":
        return ()
    stats = [(path, path.stat()) for path in source_files(config.data)]
    return tuple((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
