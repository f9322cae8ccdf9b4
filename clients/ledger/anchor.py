"""The ledger's anchor: how many entries there are, and the hash of the last, kept outside the ledger's file.

A ledger's file, with SQLite's `-wal` beside it, can be put back to an earlier state: by somebody who
restores a copy, or loses the `-wal`. Its chain then is without a fault, and what was spent since
is forgotten. So after each transaction, and before anything is released that depends on it, the ledger
writes the anchor, signed with the site's key; and opens no ledger that is shorter, or has another past.
A crash between the two leaves a ledger that is longer than its anchor, which is in order.

The file is of two slots of 512 bytes, each one line of JSON. The older is written over, in place: a
write that was cut off leaves the other. One write and one wait for the disk; a file that is
renamed into place takes three times as long.

Whoever puts back ledger and anchor together, as a snapshot of the machine does, is not found here. The
anchor travels in each reply, so that the server remembers it.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clients.keys import Signer, verifies
from clients.ledger.entries import FIRST_HASH, canonical
from contract.errors import LedgerError
from contract.whole_file import sync

__all__ = ["Anchor", "AnchorFile", "require_new", "require_whole"]

_SLOT = 512
_PATIENCE, _PAUSE = 30.0, 0.005
"""Seconds that a process waits for another's transaction, and between two tries."""


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """How far the ledger had come. `torn`: a later one was being written when something stopped it."""

    entries: int
    head: str
    torn: bool = False


class AnchorFile:
    """The anchor of one ledger.

    Args:
        ledger: the ledger's file; the anchor lies beside it.
        site: the site's name, which is signed too.
        signer: signs with the site's key.
    """

    def __init__(self, ledger: Path, *, site: str, signer: Signer) -> None:
        self.path = ledger.with_suffix(".anchor")
        self._lock = ledger.with_suffix(".lock")
        self._site, self._signer = site, signer

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time, so that no anchor is written over by an older one.

        Raises:
            LedgerError: another process does not give it back.
        """
        with self._lock.open("a") as held:
            limit = time.monotonic() + _PATIENCE
            while True:
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as exc:
                    if time.monotonic() > limit:
                        raise LedgerError(
                            f"another process has held the ledger for {_PATIENCE:g} s; nothing was released",
                            where=str(self._lock),
                            remedy="End that process, or wait until it is done",
                        ) from exc
                    time.sleep(_PAUSE)
            yield

    def read(self) -> Anchor | None:
        """The newest anchor, or None where there never was one.

        Raises:
            LedgerError: what is there is not signed with the site's key.
        """
        content = self._content()
        if not content.strip():
            return None
        slots = [content[:_SLOT].strip(), content[_SLOT:].strip()]
        found = [anchor for anchor in map(self._parsed, slots) if anchor is not None]
        if not found:
            raise LedgerError(
                "the ledger's anchor is not one that this site's key signed; nothing was released",
                where=str(self.path),
                remedy="Put the site's own key back, or restore the ledger with `tidegate site restore`",
            )
        newest = max(found, key=lambda anchor: anchor.entries)
        torn = len(found) < sum(1 for slot in slots if slot)
        return Anchor(entries=newest.entries, head=newest.head, torn=torn)

    def write(self, entries: int, head: str) -> None:
        """Put the anchor forward: on the disk when it returns."""
        content = self._content()
        first, second = (self._parsed(content[at : at + _SLOT].strip()) for at in (0, _SLOT))
        newest_first = first is not None and (second is None or first.entries > second.entries)
        self._put(self._line(entries, head), at=_SLOT if newest_first else 0)

    def reset(self, entries: int = 0, head: str = FIRST_HASH) -> None:
        """Begin anew: of a ledger that is new, or was restored."""
        self._put(self._line(entries, head) + b" " * _SLOT, at=0)
        sync(self.path.parent)

    def _content(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""

    def _put(self, content: bytes, *, at: int) -> None:
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.pwrite(file, content, at)
            os.fdatasync(file)
        finally:
            os.close(file)

    def _line(self, entries: int, head: str) -> bytes:
        signature = base64.b64encode(self._signer.sign(self._signed(entries, head))).decode()
        line = canonical({"entries": entries, "head": head, "signature": signature})
        return line.ljust(_SLOT - 1) + b"\n"

    def _signed(self, entries: int, head: str) -> bytes:
        return b"tidegate-ledger-anchor/1\n" + canonical([self._site, entries, head])

    def _parsed(self, slot: bytes) -> Anchor | None:
        try:
            values = json.loads(slot)
            entries, head = values["entries"], values["head"]
            signature = base64.b64decode(values["signature"], validate=True)
            whole = type(entries) is int and entries >= 0 and type(head) is str
            if whole and verifies(self._signer.public, signature, self._signed(entries, head)):
                return Anchor(entries=entries, head=head)
        except (KeyError, TypeError, ValueError, RecursionError):
            pass
        return None


def require_new(anchor: Anchor | None, *, ledger: Path) -> None:
    """Refuse to begin a ledger where there was one.

    Raises:
        LedgerError: the anchor says so.
    """
    if anchor is not None and anchor.entries:
        raise LedgerError(
            f"the ledger is gone, though {anchor.entries} entries were made; nothing was released",
            where=str(ledger),
            remedy="`tidegate site restore` puts a backup back; a new one would not know what was spent",
        )


def require_whole(anchor: Anchor | None, entries: int, *, ledger: Path) -> Anchor:
    """Refuse a ledger of so many entries that is shorter than its anchor, or has none; the anchor.

    Raises:
        LedgerError: it has forgotten, or nobody can say whether it has.
    """
    if anchor is None:
        raise LedgerError(
            "the ledger's anchor is gone, so that nobody can say whether it is whole; nothing was released",
            where=str(ledger.with_suffix(".anchor")),
            remedy="Put it back, or restore the ledger with `tidegate site restore`",
        )
    least = anchor.entries + 1 if anchor.torn else anchor.entries
    if entries < least:
        raise LedgerError(
            f"the ledger has {entries} entries, and had {least}: it is an older copy, or its -wal file was "
            "lost; nothing was released",
            where=str(ledger),
            remedy="Put the newer file back, with its -wal, or restore a backup with `tidegate site restore`",
        )
    return anchor
