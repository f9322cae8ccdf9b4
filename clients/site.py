"""A site as its ClientApp sees it: configuration, rows, ledger and gate, put together once.

The rows are read again only when their files changed; a database is asked in
every exchange.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from clients.gate import Gate
from clients.ledger.chain import Cap, Ledger
from clients.rows.persons import rows_within_limit
from clients.rows.sources import load_frame, source_files
from clients.rows.table import Table, prepare, select
from clients.site_config import SiteConfig, holdout_key, read_site_config
from contract.errors import DataError, LedgerError
from contract.experiment import Experiment, Task

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Site", "close_site", "open_site"]

_log = logging.getLogger("tidegate.site")


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """The prepared rows and what they were prepared from."""

    version: tuple[tuple[str, int, int], ...]
    frame: pd.DataFrame
    table: Table


class Site:
    """One site in this process.

    Args:
        config: its site.toml, read.

    Raises:
        LedgerError: the ledger cannot be opened or trusted.
    """

    def __init__(self, config: SiteConfig) -> None:
        self.config = config
        _require_ledger_of_used_site(config)
        cap = Cap(epsilon=config.policy.epsilon_cap, delta=config.policy.delta_cap)
        self.ledger = Ledger(config.storage.ledger, site=config.name, cap=cap, clock=_now)
        self.gate = Gate(
            site=config.name, stated_rows=config.stated_rows, policy=config.policy, ledger=self.ledger
        )
        self._rows: dict[str, _Rows] = {}

    def table(self, experiment: Experiment, windows: tuple[str, ...], *, holdout: bool) -> Table:
        """The prepared rows of these windows, training or held-out, with persons' rows limited.

        Raises:
            DataError: there are none, or a row does not fit the task.
        """
        table = select(self._prepared(experiment).table, windows, holdout=holdout)
        if experiment.privacy.unit == "person" and table.person is not None:
            table = table.rows(rows_within_limit(table.person, experiment.privacy.rows_per_person))
        self._require_rows(len(table.labels), windows, "held-out" if holdout else "training")
        return table

    def split(self, task: Task) -> str:
        """Names how this task's records are dealt into windows and into training and held-out rows.

        Two plans of one split share no record but in blocks of one name. Of different splits
        nothing is known, so the ledger counts them on each other's blocks.
        """
        data = self.config.data
        if data.holdout_column is not None:
            side: object = ["column", data.holdout_column]
        elif task.person is not None:
            side = ["person", task.person, data.holdout_share, self._key_name()]
        else:
            values = [feature.model_dump(exclude={"low", "high", "transform"}) for feature in task.features]
            record = [values, task.label.column, task.label.classes, task.time]
            side = ["record", record, data.holdout_share, self._key_name()]
        return hashlib.sha256(json.dumps([task.time, side]).encode()).hexdigest()[:16]

    def _key_name(self) -> str:
        """Tells one hold-out key from another without saying what it is."""
        return hashlib.sha256(b"name of " + holdout_key(self.config.storage)).hexdigest()

    def frame(self, experiment: Experiment, windows: tuple[str, ...]) -> pd.DataFrame:
        """The rows of these windows as they were read, for the drift check.

        Raises:
            DataError: there are none.
        """
        return self._chosen(self._prepared(experiment).frame, experiment, windows)

    def unchecked_frame(self, experiment: Experiment, windows: tuple[str, ...]) -> pd.DataFrame:
        """The same rows, whatever is missing in them: for a question that is asked before the task is fixed.

        Raises:
            DataError: there are none, or a row names no person where the unit is the person.
        """
        frame, person = load_frame(self.config, experiment.task), experiment.task.person
        if experiment.privacy.unit == "person" and frame[person].isna().any():
            raise DataError(
                f"column '{person}' holds a missing value",
                where=f"site '{self.config.name}'",
                remedy="Every row needs one",
            )
        return self._chosen(frame, experiment, windows)

    def _chosen(self, frame: pd.DataFrame, experiment: Experiment, windows: tuple[str, ...]) -> pd.DataFrame:
        """Of these windows, with persons' rows limited."""
        task = experiment.task
        if windows and task.time is not None:
            frame = frame[frame[task.time].astype(str).isin(windows)]
        if experiment.privacy.unit == "person" and task.person is not None:
            frame = frame.iloc[
                rows_within_limit(frame[task.person].to_numpy(), experiment.privacy.rows_per_person)
            ]
        self._require_rows(len(frame), windows, "delivered")
        return frame

    def _prepared(self, experiment: Experiment) -> _Rows:
        version = _version(self.config)
        rows = self._rows.get(experiment.digest)
        if rows is None or not version or rows.version != version:
            frame = load_frame(self.config, experiment.task)
            key, share = holdout_key(self.config.storage), self.config.data.holdout_share
            table = prepare(frame, experiment.task, key=key, holdout_share=share)
            if table.clamped:
                _log.warning("values outside their public range were clamped: %s", table.clamped)
            rows = _Rows(version=version, frame=frame, table=table)
            self._rows = {experiment.digest: rows}
        return rows

    def _require_rows(self, count: int, windows: tuple[str, ...], kind: str) -> None:
        if count == 0:
            named = f" in window {', '.join(windows)}" if windows else ""
            raise DataError(
                f"there are no {kind} rows{named}",
                where=f"site '{self.config.name}'",
                remedy="Wait until the rows are delivered, or correct task.time and the window's name",
            )


_open: dict[Path, Site] = {}
_lock = threading.Lock()


def open_site(path: Path) -> Site:
    """The site of this site.toml, opened once in each process."""
    path = path.resolve()
    with _lock:
        config = read_site_config(path)
        known = _open.get(path)
        if known is None or known.config != config:
            if known is not None:
                known.ledger.close()
            _open[path] = Site(config)
        return _open[path]


def close_site(path: Path) -> None:
    """Give the ledger's file back, if this process has the site open."""
    with _lock:
        known = _open.pop(path.resolve(), None)
        if known is not None:
            known.ledger.close()


def _require_ledger_of_used_site(config: SiteConfig) -> None:
    """Refuse to begin a new ledger where there must be one: it would know nothing of what was spent."""
    ledger = config.storage.ledger
    if config.storage.holdout_key.exists() and not (ledger.exists() and ledger.stat().st_size):
        raise LedgerError(
            "the ledger is gone, though this site has released before; nothing was released",
            where=str(ledger),
            remedy="Restore it from a backup; a new one would not know what the rows have spent",
        )


def _version(config: SiteConfig) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of each file; nothing for a database, which is asked each time."""
    if config.data.kind == "sql":
        return ()
    stats = [(path, path.stat()) for path in source_files(config.data)]
    return tuple((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
