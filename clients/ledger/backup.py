"""A backup of the ledger, and what it means to put one back.

A backup is made by SQLite's own interface while the agent runs: a whole file, with what `-wal` held.

What was entered after a backup is lost with the file, and with it what was spent. Whether anything was
lost the anchor says: if the backup holds the anchor's last entry, nothing is missing, and it is simply
put back. Otherwise a `restore` entry is made, after which every block of the rows that there were then
counts as having spent the cap, for ever: there is no telling which plans on which blocks were lost, and
what is bounded by the cap cannot be composed with more within the same δ. These blocks are: all that the
backup names; the whole data set; and every window, known or to come. Who wants windows that come later to
be free names the windows that have rows now; then those count, and the others are new. The names stand
in the entry, which is signed, in the evidence, and under the server's eyes.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from clients.keys import Signer
from clients.ledger.anchor import Anchor, AnchorFile
from clients.ledger.chain import Ledger
from clients.ledger.entries import (
    FIRST_HASH,
    FORMAT,
    Entry,
    keys_in_force,
    sealed,
    stamped,
    walk,
)
from clients.ledger.plan import Cap, require_name
from clients.ledger.reading import require_intact
from contract.errors import InputError, LedgerError
from contract.whole_file import sync

__all__ = ["Prospect", "Restored", "back_up", "look", "restore"]

_OTHER = "Name another backup: `tidegate site backup` writes one"


@dataclass(frozen=True, kw_only=True)
class Prospect:
    """What a restore would do, before it does it.

    Attributes:
        entries: how many the backup holds.
        whole: it reaches to the ledger's anchor, so nothing would be lost.
        lost: how many are missing; None where nobody knows.
        persons: a plan in the backup protects persons, whose rows lie in every window.
    """

    entries: int
    whole: bool
    lost: int | None
    persons: bool


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What a restore did.

    Attributes:
        entries: how many the backup held.
        lost: how many are missing; None where nobody knows.
        kept: what the file that was there is called now; None if there was none.
    """

    entries: int
    lost: int | None
    kept: Path | None


def back_up(ledger: Path, target: Path) -> tuple[int, str]:
    """Copy a ledger's file, whole, while others write to it; and walk the copy's chain.

    Returns:
        How many entries it has, and the hash of the last.

    Raises:
        InputError: there is a file of that name, or it cannot be written.
        LedgerError: what was copied is no whole ledger.
    """
    if target.exists():
        raise InputError(
            "there is a file already, and an earlier backup is worth keeping",
            where=str(target),
            remedy="Name another file",
        )
    if not ledger.exists():
        raise InputError(
            "the site has no ledger yet, so there is nothing to back up",
            where=str(ledger),
            remedy="Come back after its first answer",
        )
    with _aside(target) as aside:
        _copy(ledger, aside)
        entries = _whole(aside, where=ledger).entries
        try:
            target.hardlink_to(aside)
        except FileExistsError as exc:
            raise InputError(
                "there is a file already", where=str(target), remedy="Name another file"
            ) from exc
        sync(target.parent)
    return len(entries), entries[-1].hash if entries else FIRST_HASH


def look(
    ledger: Path, backup: Path, *, site: str, cap: Cap, clock: Callable[[], str], signer: Signer
) -> Prospect:
    """What `restore` would do with this backup; nothing is changed.

    Raises:
        InputError: the ledger is whole, and would lose by it.
        LedgerError: the backup is no whole ledger of this site.
    """
    _require_need(ledger, site=site, cap=cap, clock=clock, signer=signer)
    anchors = AnchorFile(ledger, site=site, signer=signer)
    with _aside(ledger) as aside:
        held = _copied(backup, aside, site=site)
    anchor = _anchor_of(anchors)
    whole = _holds(held.entries, anchor, key=held.key, signer=signer)
    return Prospect(
        entries=len(held.entries),
        whole=whole,
        lost=0 if whole else _missing(held.entries, anchor),
        persons=any(entry.body.get("unit") == "person" for entry in held.entries),
    )


def restore(
    ledger: Path,
    backup: Path,
    *,
    site: str,
    cap: Cap,
    clock: Callable[[], str],
    signer: Signer,
    windows: Sequence[str] | None = None,
    split: str | None = None,
) -> Restored:
    """Put a backup in the ledger's place; no agent may be running.

    Args:
        ledger: the ledger's file; what is there is kept under another name.
        backup: made by `back_up`; or any whole ledger of the site.
        site, cap, clock, signer: as of `Ledger`.
        windows: the windows that have rows now; None counts every window, also those to come.
        split: names how the card deals records into these windows (`clients.site.Site.split`): what it
            deals otherwise later counts as well.

    Raises:
        InputError: the ledger is whole, and would lose by it; or a window's name is none.
        LedgerError: the backup is no whole ledger of this site.
    """
    for window in windows or ():
        require_name(window)
    _require_need(ledger, site=site, cap=cap, clock=clock, signer=signer)
    anchors = AnchorFile(ledger, site=site, signer=signer)
    ledger.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _aside(ledger) as aside, anchors.locked():
        held = _copied(backup, aside, site=site)
        anchor = _anchor_of(anchors)
        entries = held.entries
        count, head = len(entries), entries[-1].hash if entries else FIRST_HASH
        if not _holds(entries, anchor, key=held.key, signer=signer):
            body = _body(count, head, anchor, windows, split, clock, signer)
            columns = sealed(head, count + 1, "restore", "", "", body, signer)
            _add(aside, columns)
            count, head = count + 1, columns["hash"]
        anchors.reset(count, head)  # first: should this end here, no older file is taken for the ledger
        kept = _move_away(ledger)
        aside.rename(ledger)
        sync(ledger.parent)
    Ledger(ledger, site=site, cap=cap, clock=clock, signer=signer).close()
    lost = 0 if count == len(entries) else _missing(entries, anchor)
    return Restored(entries=len(entries), lost=lost, kept=kept)


@dataclass(frozen=True, kw_only=True)
class _Held:
    site: str
    key: str
    entries: list[Entry]


def _require_need(ledger: Path, *, site: str, cap: Cap, clock: Callable[[], str], signer: Signer) -> None:
    with suppress(LedgerError):
        if ledger.exists():
            whole = Ledger(ledger, site=site, cap=cap, clock=clock, signer=signer)
            try:
                entries = whole.verify()
            finally:
                whole.close()
            if not entries:
                return
            raise InputError(
                f"the ledger is whole, with {entries} entries: a restore would only lose what is left",
                where=str(ledger),
                remedy="Leave it",
            )


def _holds(entries: Sequence[Entry], anchor: Anchor | None, *, key: str, signer: Signer) -> bool:
    """Whether the backup has everything that was ever anchored, in this site's own hand."""
    if anchor is None or anchor.torn or not anchor.entries <= len(entries):
        return False
    *_, (_, last_key) = [(None, key), *keys_in_force(entries, key)]
    head = entries[anchor.entries - 1].hash if anchor.entries else FIRST_HASH
    return head == anchor.head and last_key == signer.public


def _missing(entries: Sequence[Entry], anchor: Anchor | None) -> int | None:
    """How many entries a backup lacks that does not hold the anchor; None where nobody knows."""
    if anchor is None or anchor.torn or anchor.entries <= len(entries):
        return None
    return anchor.entries - len(entries)


def _anchor_of(anchors: AnchorFile) -> Anchor | None:
    """None where nobody knows: it is gone, or not in the site's hand."""
    try:
        return anchors.read()
    except LedgerError:
        return None


def _body(
    count: int,
    head: str,
    anchor: Anchor | None,
    windows: Sequence[str] | None,
    split: str | None,
    clock: Callable[[], str],
    signer: Signer,
) -> dict[str, Any]:
    body = {
        "backup": {"entries": count, "head": head},
        "lost": None if anchor is None else {"entries": anchor.entries, "head": anchor.head},
        "windows": None if windows is None else sorted(set(windows)),
        "split": None if windows is None else split,
        "key": signer.public,
    }
    return stamped(body, clock())


def _copied(backup: Path, aside: Path, *, site: str) -> _Held:
    """What the backup holds, copied aside and walked.

    Raises:
        LedgerError: it is no whole ledger of this site.
    """
    _copy(backup, aside)
    held = _whole(aside, where=backup)
    if held.site != site:
        raise LedgerError(
            f"this backup is of site '{held.site}', not '{site}'",
            where=str(backup),
            remedy=f"Name a backup that `tidegate site backup` wrote of '{site}'",
        )
    return held


def _whole(path: Path, *, where: Path) -> _Held:
    """What a copy holds, with its chain and signatures walked; `where` names what it was copied from."""
    try:
        with closing(sqlite3.connect(path)) as connection:
            connection.row_factory = sqlite3.Row
            ((site, version, key),) = connection.execute("SELECT site, version, key FROM about").fetchall()
            if version != FORMAT:
                raise LedgerError(
                    f"this ledger has format {version}, not {FORMAT}",
                    where=str(where),
                    remedy="Use the version of Tidegate that wrote it",
                )
            rows: list[Any] = connection.execute("SELECT * FROM entries ORDER BY sequence").fetchall()
            entries = list(walk(SimpleNamespace(**dict(row)) for row in rows))
            replies = connection.execute("SELECT request, reply FROM replies")
            require_intact(entries, map(tuple, replies), key=key, path=where)
    except (sqlite3.Error, TypeError, ValueError) as exc:
        raise LedgerError(f"this is not a whole ledger ({exc})", where=str(where), remedy=_OTHER) from exc
    return _Held(site=site, key=key, entries=entries)


def _copy(source: Path, target: Path) -> None:
    """By SQLite's backup interface, into one file that is on the disk."""
    if not source.is_file():
        raise InputError("no such file", where=str(source), remedy="Name a backup of the ledger")
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        with (
            closing(sqlite3.connect(source, timeout=30)) as read,
            closing(sqlite3.connect(target)) as written,
        ):
            read.backup(written)
            written.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.Error as exc:
        raise LedgerError(
            f"this is not a ledger that can be read ({exc})", where=str(source), remedy=_OTHER
        ) from exc
    sync(target)


def _add(path: Path, columns: dict[str, Any]) -> None:
    names = ", ".join(columns)
    values = ", ".join(f":{name}" for name in columns)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"INSERT INTO entries ({names}) VALUES ({values})", columns)  # noqa: S608 - own names
    sync(path)


def _move_away(ledger: Path) -> Path | None:
    """The file that is there, with SQLite's beside it: a `-wal` must not be taken for the new file's."""
    number = 1
    while (kept := ledger.with_name(f"{ledger.name}.replaced-{number}")).exists():
        number += 1
    found = [ledger.with_name(ledger.name + end) for end in ("-wal", "-shm", "")]
    there = [path for path in found if path.exists()]
    for path in there:
        path.rename(kept.with_name(kept.name + path.name.removeprefix(ledger.name)))
    return kept if ledger in there else None


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """A name beside the target, for a file that is moved into its place; nothing is left of it."""
    aside = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        yield aside
    except OSError as exc:
        raise InputError(
            f"cannot be written: {exc.strerror}",
            where=str(target),
            remedy="Name a folder that may be written",
        ) from exc
    finally:
        for path in _with_its_own(aside):
            path.unlink(missing_ok=True)


def _with_its_own(path: Path) -> Iterable[Path]:
    return (path.with_name(path.name + end) for end in ("", "-wal", "-shm", "-journal"))
