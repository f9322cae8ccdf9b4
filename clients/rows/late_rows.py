"""Rows that came after their window was first used: told to the administrator alone.

When something is released of a window for the first time, the site notes in its own folder how many rows it
has, and a keyed digest of them. If there are others later, they came late: what was released until then had
not seen them. They belong to the window's data blocks like its other rows, so that all that uses the block
from then on is charged to them too, and what was spent before counts on them although it never saw them.

Nothing is asked of the note but what is told: no answer, no word and no charge follows from it.

The digest is a sum over the rows, so that their order does not matter. It shows that rows were exchanged or
corrected where their number is the same; how many, it does not show.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from clients.rows.rows import Rows, record_digests
from contract.errors import DataError
from contract.outside import shown
from contract.words import counted
from serving.values import FORM

if TYPE_CHECKING:
    from clients.site_config import SiteConfig
    from contract.card import Card

__all__ = ["Late", "UsedWindows"]

_SUM = 2**128


@dataclass(frozen=True, kw_only=True)
class Late:
    """How a window's rows differ from those that it had when it was first used.

    Attributes:
        rows: how many more there are, or with a minus fewer.
        changed: whether as many are there and not the same.
    """

    rows: int
    changed: bool = False

    def words(self, window: str) -> str:
        """As a sentence."""
        since = f"window {window} was first used"
        if self.changed:
            return f"As many rows as when {since}, but others: some were corrected or exchanged."
        rows = counted(abs(self.rows), "row")
        if self.rows < 0:
            return f"{rows} fewer than when {since}."
        return (
            f"{rows} more than when {since}: what was released before has not seen them. If that is usual, "
            "let its windows close later: by card.time.lag, where they are the calendar's."
        )


@dataclass(frozen=True, kw_only=True)
class _Noted:
    rows: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class UsedWindows:
    """What a site notes of the windows that it has used.

    Attributes:
        config: names the file, and how the source's values are read.
        card: says how rows are cut into windows.
        key: the site's secret, at most 64 bytes, under which rows are digested.
    """

    config: SiteConfig
    card: Card
    key: bytes

    def note(self, rows: Rows, windows: Collection[str]) -> None:
        """Note those of these windows that are not noted yet; of all, if none is named.

        A calendar window counts from when it is complete: a run on all rows also reads the one that goes on.

        Args:
            rows: all of the site.
            windows: that are being used.

        Raises:
            DataError: the file is not as it was written.
            OSError: it cannot be read or written.
        """
        if self.card.time is None or rows.window is None:
            return
        noted = self._read()
        if windows and noted.keys() >= set(windows):
            return
        there = Counter(name for name in rows.window if name is not None)
        today = self.card.time.today
        new = {
            name
            for name in windows or there
            if name not in noted and not self.card.time.complaint(name, today)
        }
        if new:
            digests = self._digests(rows, new)
            self._write({**noted, **{name: _Noted(rows=there[name], digest=digests[name]) for name in new}})

    def late(self, rows: Rows, *, digests: bool = True) -> dict[str, Late]:
        """How each used window differs from when it was used first; without those that do not.

        Args:
            rows: all of the site.
            digests: whether rows are also compared where there are as many: it takes seconds for a million.

        Raises:
            DataError: the file is not as it was written.
            OSError: it cannot be read.
        """
        if self.card.time is None or rows.window is None:
            return {}
        noted = self._read()
        if not noted:
            return {}
        there = Counter(name for name in rows.window if name is not None)
        found = {
            name: Late(rows=there[name] - before.rows)
            for name, before in noted.items()
            if there[name] != before.rows
        }
        if digests:
            form = self._form
            same = {name for name, one in noted.items() if name not in found and one.digest.startswith(form)}
            now = self._digests(rows, same)
            found |= {name: Late(rows=0, changed=True) for name in same if now[name] != noted[name].digest}
        return dict(sorted(found.items()))

    # -- inside ----------------------------------------------------------------

    @property
    def _cut(self) -> str:
        """How rows are cut into windows: of windows that were cut otherwise nothing is known."""
        time = self.card.time
        return "" if time is None else time.model_dump_json(exclude={"lag"})

    @property
    def _form(self) -> str:
        """Names what says which values a row has but the rows, and the key: other digests tell nothing."""
        card = self.card
        read = [card.names, card.dealing, self.config.data.reading(card.names), FORM]
        read.append(
            [column.model_dump(mode="json", include={"kind", "categories"}) for column in card.columns]
        )
        text = json.dumps(read).encode()
        return blake2b(text, key=self.key, digest_size=8, person=b"late form").hexdigest() + ":"

    def _digests(self, rows: Rows, windows: Collection[str]) -> dict[str, str]:
        """Of the rows of each of these windows, in one pass."""
        sums = dict.fromkeys(windows, 0)
        own = rows.of(windows) if windows else rows.chosen(np.zeros(len(rows), dtype=np.bool_))
        columns = [own.frame[name].to_numpy() for name in own.frame.columns]
        records = record_digests([*columns, own.person, own.holdout.astype(np.float64)])
        for window, record in zip(() if own.window is None else own.window, records, strict=True):
            row = blake2b(record.tobytes(), key=self.key, digest_size=16, person=b"late rows").digest()
            sums[window] = (sums[window] + int.from_bytes(row)) % _SUM
        form = self._form
        return {window: f"{form}{total:032x}" for window, total in sums.items()}

    def _read(self) -> dict[str, _Noted]:
        file = self.config.storage.used_windows
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        try:
            value = json.loads(text)
            noted = {
                str(name): _Noted(rows=int(one["rows"]), digest=str(one["digest"]))
                for name, one in value["windows"].items()
            }
            return noted if value["cut"] == self._cut else {}
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise DataError(
                f"the note of used windows is not as it was written ({shown(exc, limit=100)})",
                where=str(file),
                remedy="Remove it: from then on late rows are counted anew",
            ) from exc

    def _write(self, noted: dict[str, _Noted]) -> None:
        windows = {name: asdict(one) for name, one in sorted(noted.items())}
        beside = self.config.storage.used_windows.with_suffix(".new")
        beside.touch(mode=0o600)
        beside.write_text(json.dumps({"cut": self._cut, "windows": windows}), encoding="utf-8")
        beside.replace(self.config.storage.used_windows)
