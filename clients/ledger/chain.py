"""The site's own record of what left it and what that cost.

One SQLite file at the site, append-only: every entry carries the hash of the
one before, and triggers refuse to change or delete one. A release goes

    authorise a plan  →  reserve  →  (the mechanism runs)  →  commit with the reply

and each arrow is a transaction that is on disk before the next step begins, and that
knows what every other process has entered. Entries are checked against the chain
whenever they are read, a stored reply when it is given out. A
crash after `reserve` counts as spent. A request that was committed gets its
stored reply again, byte for byte: no new noise, no new charge. The cap is
checked when a plan is authorised, before anything is computed.

A *plan* fixes a mechanism, the blocks that it touches and how often it may run;
an *allowance* fixes it for several runs to come, on any block. Of the training that
was allowed when a block had its first release, the whole allowance counts on that
block from then on, and composes exactly (`clients.ledger.accounting`); sub-sampled training
that was not foreseen then composes in a Rényi filter, with everything else.
A *block* is the rows of one time window, training or held-out; each pays for
what touched it and for nothing else. A plan on the whole data set touches every
window. A record's window and side follow from the plan's `split`; of plans with
another split nobody can say which records they share, so they count on every block.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa

from clients.ledger.accounting import FILTER_RENYI, Event, compose
from contract.errors import BudgetError, LedgerError
from contract.releases import PLAIN_METHOD, Spent

__all__ = ["FIRST_HASH", "FORMAT", "WHOLE", "Cap", "Entry", "Ledger", "Plan", "entry_hash"]

Unit = Literal["record", "person"]

WHOLE = "all"
"""The window of a block that is the whole data set, all windows together."""

FORMAT = 1
"""Version of the file's form."""

FIRST_HASH = "0" * 64
"""What the first entry carries as the hash of the one before."""

_UNFORESEEN = 0.1
"""Share of the cap's δ for what was not foreseen. Which theorem bounds a block can depend on what was
released, so the δ of both count: the cap holds at 1.1 δ over everything that a server can do."""

_metadata = sa.MetaData()
_about = sa.Table(
    "about",
    _metadata,
    sa.Column("site", sa.String, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
)
_entries = sa.Table(
    "entries",
    _metadata,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("plan", sa.String, nullable=False),
    sa.Column("request", sa.String, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False, unique=True),
)
_replies = sa.Table(
    "replies",
    _metadata,
    sa.Column("request", sa.String, primary_key=True),
    sa.Column("reply", sa.LargeBinary, nullable=False),
)
_TRIGGERS = tuple(
    f"CREATE TRIGGER IF NOT EXISTS {table}_no_{verb} BEFORE {verb.upper()} ON {table} "
    f"BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
    for table in ("entries", "replies", "about")
    for verb in ("update", "delete")
)


@dataclass(frozen=True, kw_only=True)
class Cap:
    """The most that any block may ever spend: ε at δ."""

    epsilon: float
    delta: float

    def holds(self, epsilon: float) -> bool:
        """Whether a block may have paid that at `delta`, but for the arithmetic's last digits."""
        return epsilon <= self.epsilon * (1 + 1e-9)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run may do to some blocks, fixed before its first release.

    Attributes:
        name: unique; the run's name and the purpose.
        run: the run that it belongs to.
        purpose: what the releases are for.
        blocks: the data blocks that each use touches.
        noise_multiplier, sampling_rate: of one use; a noise multiplier of 0 marks
            a run that is not private.
        uses: how often at most.
        steps: mechanism applications in one use.
        unit: `record` or `person`.
        split: names how records are dealt into windows and sides (`Site.split`).
        allowance: names what this plan is one run of; of the same mechanism, `runs` of them
            may use a block.
        runs: how many.
    """

    name: str
    run: str
    purpose: Literal["train", "evaluate", "drift", "ranges"]
    blocks: tuple[str, ...]
    noise_multiplier: float
    uses: int
    sampling_rate: float = 1.0
    steps: int = 1
    unit: Unit = "record"
    split: str = ""
    allowance: str = ""
    runs: int = 1

    @property
    def foreseen(self) -> str:
        """Names everything that must be fixed in advance to compose several runs as one plan."""
        mechanism = (self.noise_multiplier, self.sampling_rate, self.uses, self.steps, self.runs)
        return f"{self.allowance or self.name} {mechanism}"

    @property
    def sampled(self) -> bool:
        """Whether a use looks at a random part of the rows."""
        return self.sampling_rate < 1

    def covers(self, split: str, block: str) -> bool:
        """Whether the allowance is for that block: another run of it may touch it."""
        kinds = {own.rpartition("/")[2] for own in self.blocks}
        return self.split == split and block.rpartition("/")[2] in kinds

    def touches(self, split: str, block: str) -> bool:
        """Whether a record of that block may be among the rows that a use looks at."""
        whole = f"{WHOLE}/{block.rpartition('/')[2]}"
        return self.split != split or block in self.blocks or whole in self.blocks

    @property
    def private(self) -> bool:
        """Whether its releases carry noise."""
        return self.noise_multiplier > 0

    def events(self, uses: int, plan: str | None = None) -> list[Event]:
        """What `uses` uses cost; `plan` names what fixed them in advance."""
        if not self.private:
            return []
        return [
            Event(
                noise_multiplier=self.noise_multiplier,
                sampling_rate=self.sampling_rate,
                count=uses * self.steps,
                plan=plan,
            )
        ]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the ledger."""

    sequence: int
    kind: Literal["authorise", "reserve", "commit", "close"]
    plan: str
    request: str
    body: Mapping[str, Any]
    hash: str


class _Append:
    """Adds entries to the chain within a transaction."""

    def __init__(
        self, connection: sa.Connection, sequence: int, last_hash: str, clock: Callable[[], str]
    ) -> None:
        self.connection = connection
        self._sequence, self._last_hash, self._clock = sequence, last_hash, clock

    def __call__(
        self, kind: str, plan: str, request: str = "", body: Mapping[str, Any] | None = None
    ) -> None:
        self._sequence += 1
        text = json.dumps({**(body or {}), "at": self._clock()}, sort_keys=True)
        self._last_hash = entry_hash(self._last_hash, self._sequence, kind, plan, request, text)
        values = {"kind": kind, "plan": plan, "request": request, "body": text, "hash": self._last_hash}
        self.connection.execute(_entries.insert().values(sequence=self._sequence, **values))


class Ledger:
    """The ledger of one site, in one file.

    Args:
        path: the SQLite file; made with its folder if there is none.
        site: the site's name; a file of another site is refused.
        cap: the site's limit on every block.
        clock: gives the time of an entry as an ISO 8601 text.

    Raises:
        LedgerError: the file cannot be read or written, is damaged, belongs to
            another site or was written by a newer version. It is left as it is.
    """

    def __init__(self, path: Path, *, site: str, cap: Cap, clock: Callable[[], str]) -> None:
        self.path = path
        self._site = site
        self._cap = cap
        self._clock = clock
        self._lock = threading.RLock()
        with self._translated():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not path.exists():
                os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})
            sa.event.listen(self._engine, "connect", _prepare_connection)
            self._create()
        self._plans: dict[str, Plan] = {}
        self._uses: dict[str, int] = {}
        self._open: set[str] = set()
        self._trainings: list[tuple[int, Plan]] = []
        self._first_use: dict[str, int] = {}
        self._committed: dict[str, str] = {}
        self._seen = 0
        self._last_hash = FIRST_HASH
        self._catch_up()

    # -- what a release does, in order ---------------------------------------

    def stored_reply(self, request: str) -> bytes | None:
        """The reply that was committed for this request, if it was.

        Raises:
            LedgerError: it is not the one that was committed.
        """
        with self._lock:
            self._catch_up()
            with self._translated(), self._engine.connect() as connection:
                return self._stored(request, connection)

    def check(self, plan: Plan) -> None:
        """Refuse what `authorise` would refuse for the cap, and enter nothing.

        Raises:
            BudgetError: some block would pass the cap.
        """
        with self._lock:
            self._catch_up()
            self._admit_plan(plan)

    def authorise(self, plan: Plan) -> None:
        """Enter the plan, or do nothing if it is entered with the same content.

        Raises:
            BudgetError: some block would pass the cap; nothing was entered.
            LedgerError: another plan of that name is entered.
        """
        with self._lock:
            self._catch_up()
            if plan.name not in self._open:
                self._admit_plan(plan)  # it may compose for a second, and must not keep others waiting
            with self._transaction() as append:
                known = self._plans.get(plan.name)
                if known is not None and known != plan:
                    raise LedgerError(
                        f"plan '{plan.name}' was entered with other parameters", where=str(self.path)
                    )
                if plan.name not in self._open:
                    self._admit_plan(plan)
                    for name in sorted(self._of_other_runs(plan)):
                        append("close", name)
                    append("authorise", plan.name, body=asdict(plan))

    def reserve(self, request: str, *plans: str) -> None:
        """Spend one use of each plan for this request, before it is computed; all of them or none.

        A request that was reserved and never committed (a crash) is charged again.

        Raises:
            BudgetError: a plan's uses are spent, or another run has ended it, and one more would
                pass the cap.
        """
        with self._lock, self._transaction() as append:
            beyond = {
                name: self._uses[name] + 1
                for name in plans
                if name not in self._open or self._uses[name] >= self._plans[name].uses
            }
            for name in beyond:
                self._admit(self._plans[name], beyond)
            for name in plans:
                append("reserve", name, request)

    def commit(self, request: str, plan: str, reply: bytes, releases: Mapping[str, Any]) -> bytes:
        """Store the reply and enter what it holds, in one transaction.

        Returns:
            The reply that may go out: this one, or that of another answer to the same request
            that was committed first.
        """
        body = {**releases, "bytes": len(reply), "sha256": hashlib.sha256(reply).hexdigest()}
        with self._lock, self._transaction() as append:
            first = self._stored(request, append.connection)
            if first is None:
                append("commit", plan, request, body)
                append.connection.execute(_replies.insert().values(request=request, reply=reply))
        return reply if first is None else first

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
            return Spent(epsilon=0.0, delta=delta, unit="record", method=compose([], delta)[1], block="")
        return max(blocks.values(), key=lambda spent: spent.epsilon)

    def spent_by_block(
        self, *, run: str | None = None, delta: float | None = None, promised: bool = False
    ) -> dict[str, Spent]:
        """What each block has spent."""
        delta = self._cap.delta if delta is None else delta
        with self._lock:
            self._catch_up()
            plans = [plan for plan in self._plans.values() if run is None or plan.run == run]
            return _most(self._spent_on(*place, plans, delta, promised, run) for place in _places(plans))

    def would_spend(self, plans: Sequence[Plan]) -> dict[str, Spent]:
        """What each block that these plans of one run touch would have paid once they ran to their end.

        As `authorise` counts it against the cap, at the cap's δ: open plans of other runs end with
        what they used. Nothing is entered.
        """
        with self._lock:
            self._catch_up()
            totals = {plan.name: max(plan.uses, self._uses.get(plan.name, 0)) for plan in plans}
            closing = {name for plan in plans for name in self._of_other_runs(plan)}
            known = {**self._plans, **{plan.name: plan for plan in plans}}
            totalled: list[Spent] = []
            for split, block in _places(known.values()):
                if not any(plan.touches(split, block) for plan in plans):
                    continue
                uses = self._uses_on(split, block, known, totals, closing)
                used = [known[name] for name, times in uses.items() if times]
                epsilon, method = self._counted(split, block, known, uses, entering=plans)
                if not all(plan.private for plan in used):
                    epsilon, method = math.inf, PLAIN_METHOD
                unit, delta = _unit(used), self._cap.delta
                totalled.append(Spent(epsilon=epsilon, delta=delta, unit=unit, method=method, block=block))
            return _most(totalled)

    def plans(self, run: str) -> list[Plan]:
        """The plans of a run, in the order in which they were authorised."""
        with self._lock:
            self._catch_up()
            return [plan for plan in self._plans.values() if plan.run == run]

    @property
    def cap(self) -> Cap:
        """The site's limit on every block."""
        return self._cap

    def entries(self) -> list[Entry]:
        """Every entry, oldest first."""
        with self._translated(), self._engine.connect() as connection:
            return self._read(connection, after=0, hash_before=FIRST_HASH)

    def verify(self) -> int:
        """Walk the hash chain and the stored replies; return the number of entries.

        Raises:
            LedgerError: an entry or a reply was changed, removed or put in.
        """
        with self._translated(), self._engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")  # entries and replies as of one moment
            entries = self._read(connection, after=0, hash_before=FIRST_HASH)
            replies = connection.execute(sa.select(_replies).execution_options(yield_per=100))
            digests = {row.request: hashlib.sha256(row.reply).hexdigest() for row in replies}
            connection.exec_driver_sql("ROLLBACK")
        for entry in entries:
            if entry.kind == "commit" and digests.pop(entry.request, None) != entry.body["sha256"]:
                raise self._tampered(f"the stored reply of entry {entry.sequence}")
        if digests:
            raise self._tampered("a stored reply that no entry names")
        return len(entries)

    def close(self) -> None:
        """Give the file back."""
        self._engine.dispose()

    # -- inside ------------------------------------------------------------------

    def _create(self) -> None:
        """Make the tables of an empty file; refuse one that is not a ledger of this site and format."""
        with self._engine.begin() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            page = connection.exec_driver_sql("PRAGMA page_size").scalar_one()
            tables = set(sa.inspect(connection).get_table_names())
            if not tables:
                _metadata.create_all(connection)
                for trigger in _TRIGGERS:
                    connection.exec_driver_sql(trigger)
                connection.execute(_about.insert().values(site=self._site, version=FORMAT))
                return
            if not tables >= set(_metadata.tables) or self.path.stat().st_size % page:
                raise self._tampered("what the file holds")
            about = connection.execute(sa.select(_about)).all()
            if len(about) != 1 or about[0].version < 1:
                raise self._tampered("what the file says of itself")
            if about[0].site != self._site:
                raise LedgerError(
                    f"this ledger belongs to site '{about[0].site}', not '{self._site}'",
                    where=str(self.path),
                    remedy="Name the ledger's own site, or another storage folder",
                )
            if about[0].version > FORMAT:
                raise LedgerError(
                    f"this ledger has format {about[0].version}, newer than this program's {FORMAT}",
                    where=str(self.path),
                    remedy="Install the newer Tidegate",
                )

    def _of_other_runs(self, plan: Plan) -> set[str]:
        """Open plans that end when this one is entered."""
        return {name for name in self._open if self._plans[name].run != plan.run}

    def _admit_plan(self, plan: Plan) -> None:
        whole = max(plan.uses, self._uses.get(plan.name, 0))
        self._admit(plan, {plan.name: whole}, closing=self._of_other_runs(plan))

    def _admit(self, plan: Plan, totals: Mapping[str, int], closing: Iterable[str] = ()) -> None:
        """Refuse so many uses of these plans if any block that `plan` touches would pass the cap."""
        known = {**self._plans, plan.name: plan}
        for split, block in _places(known.values()):
            if not plan.touches(split, block):
                continue
            uses = self._uses_on(split, block, known, totals, closing)
            epsilon, _ = self._counted(split, block, known, uses, entering=[plan])
            if not self._cap.holds(epsilon):
                raise BudgetError(
                    f"{plan.purpose} would bring data block '{block}' to ε = {epsilon:.3g}, "
                    f"above the site's cap of {self._cap.epsilon:g} at δ = {self._cap.delta:g}",
                    where=f"site '{self._site}'",
                    remedy="Train on newer rows, lower the experiment's epsilon, or raise the site's cap",
                )

    def _uses_on(
        self,
        split: str,
        block: str,
        known: Mapping[str, Plan],
        totals: Mapping[str, int],
        closing: Iterable[str],
    ) -> dict[str, int]:
        """How often each plan that touches the block will have run: as in `totals`, or promised, or used."""
        still_open = self._open.difference(closing)
        uses = {}
        for name, plan in known.items():
            if plan.touches(split, block):
                promised = plan.uses if name in still_open else 0
                uses[name] = totals.get(name) or max(self._uses[name], promised)
        return uses

    def _counted(
        self,
        split: str,
        block: str,
        known: Mapping[str, Plan],
        uses: Mapping[str, int],
        entering: Iterable[Plan],
    ) -> tuple[float, str]:
        """ε of so many uses as it counts against the cap, and the theorem that gives it."""
        new = [(self._seen + 1, plan) for plan in entering if plan.purpose == "train"]
        allowed = self._allowance(split, block, uses, [*self._trainings, *new])
        whole = 0 if allowed is None else allowed.runs
        events = _events([known[name] for name in uses], uses, allowed, whole=whole)
        epsilon, method = compose(events, self._cap.delta, cap=self._cap.epsilon)
        if method == FILTER_RENYI:
            epsilon, _ = compose(events, _UNFORESEEN * self._cap.delta, cap=self._cap.epsilon)
        return epsilon, method

    def _spent_on(
        self, split: str, block: str, plans: list[Plan], delta: float, promised: bool, run: str | None
    ) -> Spent:
        plans = [plan for plan in plans if plan.touches(split, block)]
        uses = {
            plan.name: max(self._uses[plan.name], plan.uses if promised and plan.name in self._open else 0)
            for plan in plans
        }
        unit = _unit(plans)
        if any(uses[plan.name] and not plan.private for plan in plans):
            return Spent(epsilon=float("inf"), delta=delta, unit=unit, method=PLAIN_METHOD, block=block)
        trainings = [(entered, plan) for entered, plan in self._trainings if run in (None, plan.run)]
        allowed = self._allowance(split, block, uses, trainings)
        whole = 0 if not promised or allowed is None else allowed.runs if run is None else 1
        events = _events(plans, uses, allowed, whole=whole)
        epsilon, method = compose(events, delta, cap=self._cap.epsilon)
        return Spent(epsilon=epsilon, delta=delta, unit=unit, method=method, block=block)

    def _allowance(
        self, split: str, block: str, touching: Iterable[str], trainings: list[tuple[int, Plan]]
    ) -> Plan | None:
        """The sub-sampled training that was in force when one of the plans first touched the block."""
        first = min((self._first_use[name] for name in touching if name in self._first_use), default=math.inf)
        in_force = [plan for entered, plan in trainings if entered < first][-1:]
        return next((plan for plan in in_force if plan.sampled and plan.covers(split, block)), None)

    @contextmanager
    def _transaction(self) -> Iterator[_Append]:
        """Entries that come together or not at all, by one process at a time that knows all others'."""
        with self._translated(), self._engine.begin() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            self._read_new(connection)
            yield _Append(connection, self._seen, self._last_hash, self._clock)
        self._catch_up()

    def _catch_up(self) -> None:
        """Read the entries that this object has not seen, also those of another process."""
        with self._lock, self._translated(), self._engine.connect() as connection:
            self._read_new(connection)

    def _read_new(self, connection: sa.Connection) -> None:
        for entry in self._read(connection, after=self._seen, hash_before=self._last_hash):
            try:
                self._apply(entry)
            except (AttributeError, KeyError, TypeError) as exc:
                raise self._tampered(f"entry {entry.sequence}") from exc

    def _read(self, connection: sa.Connection, *, after: int, hash_before: str) -> list[Entry]:
        """The entries after that one, each checked against the chain."""
        query = sa.select(_entries).where(_entries.c.sequence > after).order_by(_entries.c.sequence)
        entries: list[Entry] = []
        for position, row in enumerate(connection.execute(query), start=after + 1):
            try:
                expected = entry_hash(hash_before, position, row.kind, row.plan, row.request, row.body)
                body = json.loads(row.body)
            except (TypeError, ValueError) as exc:
                raise self._tampered(f"entry {position}") from exc
            if row.sequence != position or row.hash != expected:
                raise self._tampered(f"entry {position}")
            entries.append(
                Entry(
                    sequence=row.sequence,
                    kind=row.kind,
                    plan=row.plan,
                    request=row.request,
                    body=body,
                    hash=row.hash,
                )
            )
            hash_before = row.hash
        return entries

    def _apply(self, entry: Entry) -> None:
        if entry.kind == "authorise":
            values = {key: value for key, value in entry.body.items() if key != "at"}
            plan = Plan(**{**values, "blocks": tuple(values["blocks"])})
            self._plans[entry.plan] = plan
            self._uses.setdefault(entry.plan, 0)
            self._open.add(entry.plan)
            if plan.purpose == "train":
                self._trainings.append((entry.sequence, plan))
        elif entry.kind == "reserve":
            self._uses[entry.plan] += 1
            self._first_use.setdefault(entry.plan, entry.sequence)
        elif entry.kind == "close":
            self._open.discard(entry.plan)
        elif entry.kind == "commit":
            self._committed[entry.request] = entry.body["sha256"]
        else:
            raise KeyError(entry.kind)
        self._seen, self._last_hash = entry.sequence, entry.hash

    def _stored(self, request: str, connection: sa.Connection) -> bytes | None:
        row = connection.execute(sa.select(_replies.c.reply).where(_replies.c.request == request)).first()
        reply = None if row is None else bytes(row.reply)
        digest = None if reply is None else hashlib.sha256(reply).hexdigest()
        if digest != self._committed.get(request):
            raise self._tampered(f"the stored reply to '{request}'")
        return reply

    def _tampered(self, what: str) -> LedgerError:
        return LedgerError(
            f"{what} does not fit the hash chain: the ledger was changed by something else",
            where=str(self.path),
            remedy="Restore it from the last backup that verifies; until then nothing may be released",
        )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sa.exc.SQLAlchemyError, OSError) as exc:
            raise LedgerError(
                f"the ledger cannot be read or written ({_reason(exc)}); nothing was released",
                where=str(self.path),
                remedy="Free disk space, or correct the file's owner and permissions, and start again",
            ) from exc


def _prepare_connection(connection: Any, _record: Any) -> None:
    """Full durability: a reservation must be on disk before anything is computed."""
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


def _events(plans: list[Plan], uses: Mapping[str, int], allowed: Plan | None, *, whole: int) -> list[Event]:
    """What so many uses of the plans cost a block that all of them touch.

    The runs of what was `allowed` in advance are one plan; `whole` of them count to their end at least.
    """
    runs = [plan for plan in plans if allowed is not None and plan.foreseen == allowed.foreseen]
    beyond = any(uses[plan.name] > plan.uses for plan in runs)
    if allowed is None or beyond or len(runs) > allowed.runs:
        return [event for plan in plans for event in plan.events(uses[plan.name])]
    used = max(whole * allowed.uses, sum(uses[plan.name] for plan in runs))
    rest = [plan for plan in plans if plan not in runs]
    return [
        *allowed.events(used, allowed.foreseen),
        *(event for plan in rest for event in plan.events(uses[plan.name])),
    ]


def _unit(plans: Iterable[Plan]) -> Unit:
    """One run that bounds records alone leaves no bound for a person's rows together."""
    return "person" if all(plan.unit == "person" for plan in plans) else "record"


def _most(spent: Iterable[Spent]) -> dict[str, Spent]:
    """The greatest ε of each block, which several splits may name."""
    most: dict[str, Spent] = {}
    for item in spent:
        if item.block not in most or item.epsilon > most[item.block].epsilon:
            most[item.block] = item
    return most


def _places(plans: Iterable[Plan]) -> list[tuple[str, str]]:
    """Each block of the plans, with the split that it belongs to."""
    return sorted({(plan.split, block) for plan in plans for block in plan.blocks})


def entry_hash(previous: str, sequence: int, kind: str, plan: str, request: str, body: str) -> str:
    """The hash that an entry carries; `body` is its JSON text, byte for byte."""
    text = json.dumps([previous, sequence, kind, plan, request, body])
    return hashlib.sha256(text.encode()).hexdigest()


def _reason(exc: Exception) -> str:
    if isinstance(exc, OSError):
        return exc.strerror or type(exc).__name__
    return str(getattr(exc, "orig", None) or type(exc).__name__)
