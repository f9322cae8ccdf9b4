"""What has been read of a ledger's chain so far, each entry checked, and what it comes to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from clients.ledger.answers import Answers
from clients.ledger.approvals import Approvals
from clients.ledger.entries import FIRST_HASH, Entry, is_signed, keys_in_force, walk
from clients.ledger.spending import Spending
from clients.ledger.store import Store, tampered
from contract.errors import InputError, LedgerError

__all__ = ["Reading", "require_intact"]


class Reading:
    """The chain as far as it was read.

    Args:
        path: the ledger's file, for messages.
        spending: an empty one, which takes the entries in.
        approvals: so too.

    Attributes:
        spending, answers, approvals: what the entries come to.
        seen, last_hash: the number of the last entry, and its hash.
        key: the public key that signs the next one; empty in a ledger without a key.
    """

    def __init__(self, path: Path, spending: Spending, approvals: Approvals) -> None:
        self._path = path
        self.spending, self.answers, self.approvals = spending, Answers(), approvals
        self.seen, self.last_hash = 0, FIRST_HASH
        self.key = ""

    def read_new(self, connection: sa.Connection, trusted: int = 0) -> None:
        """Take in what was not read yet, also of another process.

        Up to entry `trusted` the signed anchor speaks for all; from there on each one's own signature.

        Raises:
            LedgerError: the file is not as the ledger left it.
        """
        if self.seen and Store.hash_at(connection, self.seen) != self.last_hash:
            raise tampered(f"entry {self.seen}", self._path)
        rows = Store.rows(connection, after=self.seen)
        for entry in walk(rows, after=self.seen, hash_before=self.last_hash):
            with _sound(entry, self._path):
                if entry.kind == "restore":
                    self.key = str(entry.body["key"])
                if entry.sequence > trusted and not is_signed(entry, self.key):
                    raise tampered(f"the signature of entry {entry.sequence}", self._path)
                self.spending.apply(entry)
                self.answers.apply(entry)
                self.approvals.apply(entry)
            self.seen, self.last_hash = entry.sequence, entry.hash

    def stored_reply(self, request: str, connection: sa.Connection) -> bytes | None:
        """The reply that was committed for this request, if it was.

        Raises:
            LedgerError: it has expired, or is not the one that was committed.
        """
        self.require_not_expired(request)
        reply = Store.reply(connection, request)
        digest = None if reply is None else hashlib.sha256(reply).hexdigest()
        entry = self.answers.committed.get(request)
        if digest != (None if entry is None else entry.body["sha256"]):
            raise tampered(f"the stored reply to '{request}'", self._path)
        return reply

    def require_not_expired(self, request: str) -> None:
        """Refuse a request that was answered, and whose reply was removed since."""
        if self.answers.is_expired(request):
            raise LedgerError(
                f"the reply to '{request}' has expired, and is not computed a second time",
                where=str(self._path),
                remedy="Start a new run",
            )


def require_intact(
    entries: Iterable[Entry], replies: Iterable[tuple[str, bytes]], *, key: str, path: Path
) -> None:
    """Check the signature of every entry, and every stored reply.

    Args:
        entries: all of a ledger, in a chain that was walked.
        replies: all stored ones, by request.
        key: the public key that signs the first entry.
        path: the ledger's file, for messages.

    Raises:
        LedgerError: one was changed, removed or put in.
    """
    answers = Answers()
    for entry, in_force in keys_in_force(entries, key):
        if not is_signed(entry, in_force):
            raise tampered(f"the signature of entry {entry.sequence}", path)
        with _sound(entry, path):
            answers.apply(entry)
    unfit = answers.unfit({request: hashlib.sha256(reply).hexdigest() for request, reply in replies})
    if unfit:
        raise tampered(unfit, path)


@contextmanager
def _sound(entry: Entry, path: Path) -> Iterator[None]:
    try:
        yield
    except (InputError, AttributeError, KeyError, TypeError, ValueError) as exc:
        raise tampered(f"entry {entry.sequence}", path) from exc
