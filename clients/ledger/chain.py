"""The site's own record of what left it and what that cost.

One SQLite file at the site, append-only: every entry carries the hash of the
one before, is signed with the site's key, and triggers refuse to change or delete one. A release goes

    authorise a plan  →  reserve  →  (the mechanism runs)  →  commit with the reply

and each arrow is a transaction that is on disk before the next step begins, with an anchor outside the file
(`clients.ledger.anchor`), and that knows what every other process has entered. Entries are checked against
the chain whenever they are read, a stored reply when it is given out. A
crash after `reserve` counts as spent. A request that was committed gets its
stored reply again, byte for byte: no new noise, no new charge. The cap is
checked when a plan is authorised, and again before each use.

What the entries come to is worked out in `clients.ledger.spending`, which reads and writes nothing.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from clients.keys import Signer
from clients.ledger.anchor import Anchor, AnchorFile, require_new, require_whole
from clients.ledger.approvals import Approval, Approvals, Asked, Terms
from clients.ledger.entries import FIRST_HASH, BrokenChainError, Entry, walk
from clients.ledger.plan import WHOLE, Cap, Plan, as_name, require_name
from clients.ledger.reading import Reading, require_intact
from clients.ledger.spending import Spending
from clients.ledger.store import Append, Store, tampered, translated
from contract.errors import InputError, LedgerError, RefusalCode
from contract.releases import Spent

__all__ = ["WHOLE", "Asked", "Cap", "Entry", "Ledger", "Plan", "Terms"]


class Ledger:
    """The ledger of one site, in one file.

    Args:
        path: the SQLite file; made with its folder if there is none.
        site: the site's name; a file of another site is refused.
        cap: the site's limit on every block.
        clock: gives the time of an entry as an ISO 8601 text.
        signer: signs the entries and the anchor with the site's key; without, there is neither
            signature nor anchor, and a copy from earlier is not told from the ledger.

    Raises:
        LedgerError: the file cannot be read or written, is damaged, is older than its anchor, belongs to
            another site or key, or was written by another version. It is left as it is.
    """

    def __init__(
        self, path: Path, *, site: str, cap: Cap, clock: Callable[[], str], signer: Signer | None = None
    ) -> None:
        self.path = path
        self._cap = cap
        self._clock = clock
        self._signer = signer
        self._lock = threading.RLock()
        self._spending = Spending(cap, site=site)
        self._approvals = Approvals(site=site)
        self._read = Reading(path, self._spending, self._approvals)
        self._answers = self._read.answers
        self._anchored = 0
        with self._translated():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._anchor = None if signer is None else AnchorFile(path, site=site, signer=signer)
            self._store = Store(path, site=site)
            try:
                with self._one_process():
                    self._open()
            except BaseException:
                self._store.engine.dispose()
                raise

    # -- what a release does, in order ---------------------------------------

    def stored_reply(self, request: str) -> bytes | None:
        """The reply that was committed for this request, if it was.

        Raises:
            LedgerError: it is not the one that was committed, or has expired.
        """
        with self._lock:
            self._catch_up()
            with self._translated(), self._store.engine.connect() as connection:
                reply = self._read.stored_reply(request, connection)
            if reply is not None and self._answers.committed[request].sequence > self._anchored:
                with self._translated(), self._one_process():  # its writer was stopped before it could
                    self._anchor_all()
            return reply

    def answered(self, request: str) -> str:
        """The digest of the experiment that this request was answered for; empty if it was not."""
        with self._lock:
            entry = self._answers.committed.get(request)
            return "" if entry is None else str(entry.body.get("experiment", ""))

    def check(self, plan: Plan) -> None:
        """Refuse what `authorise` would refuse for the cap, and enter nothing.

        Raises:
            BudgetError: some block would pass the cap.
        """
        with self._lock:
            self._catch_up()
            self._spending.admit_plan(plan)

    def authorise(self, plan: Plan, *, asked: Asked | None = None) -> None:
        """Enter the plan, or do nothing if it is entered with the same content.

        Replies that nobody can still wait for are removed with it (`clients.ledger.answers`).

        Args:
            plan: to enter.
            asked: what needs an approval; None where the policy lets it run.

        Raises:
            ApprovalError, PolicyError: no approval covers it; nothing was entered.
            BudgetError: some block would pass the cap; nothing was entered.
            LedgerError: another plan of that name is entered.
        """
        with self._lock:
            self._catch_up()
            if plan.name in self._spending.open and self._spending.plans[plan.name] == plan:
                return
            if plan.name not in self._spending.open:
                # it may compose for a second, and must not keep others waiting
                self._spending.admit_plan(plan)
            with self._transaction() as append:
                known = self._spending.plans.get(plan.name)
                if known is not None and known != plan:
                    raise LedgerError(
                        f"plan '{plan.name}' was entered with other parameters", where=str(self.path)
                    )
                if plan.name not in self._spending.open:
                    self._approval(asked, [plan])
                    self._spending.admit_plan(plan)
                    for name in sorted(self._spending.of_other_runs(plan)):
                        append("close", name)
                    append("authorise", plan.name, body=asdict(plan))
                    self._expire(append)

    def reserve(self, request: str, *plans: str, asked: Asked | None = None, mandate: str = "") -> None:
        """Spend one use of each plan for this request, before it is computed; all of them or none.

        The cap is asked again, with everything that will have run, and so is the approval: it may have been
        revoked a moment ago. A request that was reserved and never committed (a crash) is charged again.

        Args:
            request: its name.
            plans: their names.
            asked: what needs an approval; None where the policy lets it run.
            mandate: the digest of the mandate that came with it; empty where none did.

        Raises:
            InputError: the request's name is none.
            ApprovalError, PolicyError: no approval covers it; nothing was entered.
            BudgetError: one more use would pass the cap.
            LedgerError: a plan was never authorised, or the request was answered and its reply has expired.
        """
        require_name(request)
        with self._lock, self._transaction() as append:
            unknown = [name for name in plans if name not in self._spending.plans]
            if unknown or not plans:
                raise LedgerError("a use was asked of a plan that was never entered", where=str(self.path))
            self._read.require_not_expired(request)
            approval = self._approval(asked, [self._spending.plans[name] for name in plans], more=1)
            self._spending.admit_uses(plans)
            body = {} if approval is None else {"approval": approval}
            for name in plans:
                append("reserve", name, request, {**body, "mandate": mandate} if mandate else body)

    def commit(self, request: str, plan: str, reply: bytes, releases: Mapping[str, Any]) -> bytes:
        """Store the reply and enter what it holds, in one transaction.

        Returns:
            The reply that may go out: this one, or that of another answer to the same request
            that was committed first.
        """
        require_name(request)
        body = {**releases, "bytes": len(reply), "sha256": hashlib.sha256(reply).hexdigest()}
        with self._lock, self._transaction() as append:
            first = self._read.stored_reply(request, append.connection)
            if first is None:
                append("commit", plan, request, body)
                Store.add_reply(append.connection, request, reply)
        return reply if first is None else first

    def refuse(self, request: str, word: str) -> bool:
        """Enter that a request was refused, for the site's egress log.

        Args:
            request: as it was named, by whom it may be: what is no name is cut to one.
            word: of `RefusalCode`.

        Returns:
            Whether it is entered. If not, there were too many within a day, and no answer may go out.
        """
        if word not in RefusalCode.ALL:
            raise InputError("a refusal has one of a few words")
        with self._lock, self._transaction() as append:
            if word == RefusalCode.APPROVAL and self._answers.is_waiting(as_name(request)):
                return True
            if not self._answers.may_refuse(self._clock()):
                return False
            append("refuse", "", as_name(request), {"word": word})
        return True

    # -- what the administrator says ---------------------------------------------

    def approve(self, terms: Terms) -> int:
        """Enter an approval; returns its number.

        Raises:
            InputError: its ε or δ is no cap.
        """
        Cap(epsilon=1.0 if terms.epsilon is None else terms.epsilon, delta=terms.delta)
        with self._lock:
            with self._transaction() as append:
                append("approve", "", body=terms.as_body())
            return self._approvals.of(terms.experiment)[-1].sequence

    def decline(self, digest: str, *, reason: str = "") -> None:
        """Enter that an experiment does not run here, whatever the policy says, until it is reopened."""
        self._forbid("decline", digest, reason)

    def revoke(self, digest: str, *, reason: str = "") -> None:
        """End the approvals of an experiment: what it was promised and has not used is free again.

        Raises:
            InputError: none is in force.
        """
        self._forbid("revoke", digest, reason)

    def reopen(self, digest: str) -> None:
        """Let an experiment ask again that was declined or revoked; it is not approved by that.

        Raises:
            InputError: it is neither.
        """
        with self._lock, self._transaction() as append:
            if digest not in self._approvals.declined():
                raise InputError(
                    f"experiment {digest} is not refused or revoked",
                    where=str(self.path),
                    remedy="`tidegate site requests` lists what is",
                )
            append("reopen", "", body={"experiment": digest, "reason": ""})

    def _forbid(self, kind: Literal["decline", "revoke"], digest: str, reason: str) -> None:
        with self._lock, self._transaction() as append:
            given = self._approvals.of(digest)
            if kind == "revoke" and all(self._approvals.is_over(one, self._clock()) for one in given):
                raise InputError(
                    f"no approval of experiment {digest} is in force",
                    where=str(self.path),
                    remedy="`tidegate site requests` lists them. What the policy lets run without one, "
                    "`tidegate site refuse` keeps out",
                )
            append(kind, "", body={"experiment": digest, "reason": as_name(reason) if reason else ""})
            for name in sorted(self._approvals.open_plans(digest) & self._spending.open):
                append("close", name)

    def require_not_declined(self, digest: str) -> None:
        """Refuse an experiment that the administrator declined or revoked.

        Raises:
            PolicyError: it is such a one.
        """
        with self._lock:
            self._catch_up()
            self._approvals.require_not_declined(digest)

    def require_approved(self, asked: Asked, plans: Sequence[Plan]) -> None:
        """Refuse what `authorise` and `reserve` would refuse for want of an approval; enter nothing.

        Raises:
            ApprovalError, PolicyError: no approval covers it.
        """
        with self._lock:
            self._catch_up()
            self._approval(asked, plans)

    def _approval(self, asked: Asked | None, plans: Sequence[Plan], *, more: int = 0) -> int | None:
        if asked is None:
            return None
        return self._approvals.require(asked, plans, self._clock(), more=more)

    def approvals(self) -> tuple[tuple[Approval, ...], dict[str, str]]:
        """Those in force, and the digests that are declined or revoked, with the reason."""
        with self._lock:
            self._catch_up()
            now, given = self._clock(), self._approvals.all()
            in_force = tuple(one for one in given if not self._approvals.is_over(one, now))
            return in_force, self._approvals.declined()

    def last_approved(self, name: str) -> Terms | None:
        """The newest approval of an experiment of that name, whether it holds still or not."""
        with self._lock:
            self._catch_up()
            found = [one.terms for one in self._approvals.all() if one.terms.name == name]
            return found[-1] if found else None

    # -- what a person asks ----------------------------------------------------

    def spent(self, *, run: str | None = None, delta: float | None = None, promised: bool = False) -> Spent:
        """The most that any block has spent: by one run, or in the ledger's whole life.

        Args:
            run: count this run alone.
            delta: of the statement; the cap's if none is given.
            promised: count the open plans as if they had run to their end.
        """
        delta = self._cap.delta if delta is None else delta
        blocks = self.spent_by_block(run=run, delta=delta, promised=promised)
        if not blocks:
            return self._spending.nothing(delta)
        return max(blocks.values(), key=lambda spent: spent.epsilon)

    def spent_by_block(
        self, *, run: str | None = None, delta: float | None = None, promised: bool = False
    ) -> dict[str, Spent]:
        """What was counted so far of each block."""
        with self._lock:
            self._catch_up()
            delta = self._cap.delta if delta is None else delta
            return self._spending.by_block(run=run, delta=delta, promised=promised)

    def would_spend(self, plans: Sequence[Plan]) -> dict[str, Spent]:
        """What each block that these plans of one run touch would have paid once they ran to their end.

        As `authorise` counts it against the cap, at the cap's δ: open plans of other runs end with
        what they used. Nothing is entered.
        """
        with self._lock:
            self._catch_up()
            return self._spending.would_spend(plans)

    def plans(self, run: str) -> list[Plan]:
        """The plans of a run, in the order in which they were authorised."""
        with self._lock:
            self._catch_up()
            return [plan for plan in self._spending.plans.values() if plan.run == run]

    @property
    def cap(self) -> Cap:
        """The site's limit on every block."""
        return self._cap

    @property
    def anchor(self) -> tuple[int, str]:
        """How many entries there are, and the hash of the last: for whoever is to remember it."""
        with self._lock:
            self._catch_up()
            return self._read.seen, self._read.last_hash

    @property
    def key(self) -> str:
        """The public key that signs the first entry, as one line; empty in a ledger without one."""
        return self._first_key

    def entries(self) -> list[Entry]:
        """Every entry, oldest first."""
        with self._translated(), self._store.engine.connect() as connection:
            return list(walk(Store.rows(connection, after=0)))

    def verify(self) -> int:
        """Walk the hash chain, the signatures and the stored replies; return the number of entries.

        Raises:
            LedgerError: an entry or a reply was changed, removed or put in.
        """
        with self._translated(), self._store.engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")  # entries and replies as of one moment
            entries = list(walk(Store.rows(connection, after=0)))
            replies = Store.replies(connection)
            require_intact(entries, replies, key=self._first_key, path=self.path)
            connection.exec_driver_sql("ROLLBACK")
        return len(entries)

    def close(self) -> None:
        """Give the file back, with everything in it."""
        with self._lock, self._translated():
            self._store.close()

    # -- inside ------------------------------------------------------------------

    def _open(self) -> None:
        """Read what is there, and hold it against the anchor; or begin a new ledger."""
        if self._store.is_empty():
            anchor = None if self._anchor is None else self._anchor.read()
            require_new(anchor, ledger=self.path)
            if self._anchor is not None and anchor is None:
                self._anchor.reset()
            self.path.touch(mode=0o600)  # whatever SQLite would make it
        key = "" if self._signer is None else self._signer.public
        self._first_key = self._read.key = self._store.open(key)
        anchor = None if self._anchor is None else self._anchor.read()  # before the entries, which only grow
        self._catch_up(trusted=0 if anchor is None else anchor.entries)
        if self._anchor is not None:
            self._require_own_key()
            self._require_anchored(anchor)

    def _require_own_key(self) -> None:
        if self._signer is not None and self._read.key != self._signer.public:
            raise LedgerError(
                "the ledger is signed with another key than this site's; nothing was released",
                where=str(self.path),
                remedy="Put the site's own key back as site.key, or restore the ledger with "
                "`tidegate site restore`",
            )

    def _require_anchored(self, anchor: Anchor | None) -> None:
        """Refuse a ledger that forgot; put the anchor forward where a crash had left it behind."""
        held = require_whole(anchor, self._read.seen, ledger=self.path)
        with self._store.engine.connect() as connection:
            head = Store.hash_at(connection, held.entries) if held.entries else FIRST_HASH
        if head != held.head:
            raise tampered(f"entry {held.entries}, which its anchor names,", self.path)
        self._anchored = held.entries
        self._anchor_all()

    def _anchor_all(self) -> None:
        if self._anchor is not None and self._read.seen > self._anchored:
            self._anchor.write(self._read.seen, self._read.last_hash)
            self._anchored = self._read.seen

    def _expire(self, append: Append) -> None:
        """Remove replies that nobody can still wait for; what was in them stays named in the chain."""
        for name in self._answers.to_expire(self._clock(), self._spending.plans, self._spending.open):
            append("expire", name)
            requests = [entry.request for entry in self._answers.committed.values() if entry.plan == name]
            Store.remove_replies(append.connection, requests)

    @contextmanager
    def _transaction(self) -> Iterator[Append]:
        """Entries that come together or not at all, by one process at a time that knows all others'."""
        if self._read.key and self._signer is None:
            raise LedgerError("this ledger's entries are signed, and no key was given", where=str(self.path))
        with self._translated(), self._one_process():
            with self._store.engine.begin() as connection:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                self._read.read_new(connection)
                yield Append(connection, self._read.seen, self._read.last_hash, self._clock, self._signer)
            self._catch_up()
            self._anchor_all()

    def _one_process(self) -> Any:
        """From the transaction to its anchor; without an anchor, SQLite's own lock will do."""
        return nullcontext() if self._anchor is None else self._anchor.locked()

    def _catch_up(self, trusted: int = 0) -> None:
        """Read the entries that this object has not seen, also those of another process."""
        with self._lock, self._translated(), self._store.engine.connect() as connection:
            self._read.read_new(connection, trusted)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            with translated(self.path):
                yield
        except BrokenChainError as exc:
            raise tampered(str(exc), self.path) from exc
