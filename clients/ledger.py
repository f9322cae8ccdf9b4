"""The site's own record of what left it and what that cost.

One SQLite file at the site, append-only: every entry carries the hash of the
one before, and triggers refuse to change or delete one. A release goes

    authorise a plan  →  reserve  →  (the mechanism runs)  →  commit with the reply

and each arrow is a transaction that is on disk before the next step begins. A
crash after `reserve` counts as spent. A request that was committed gets its
stored reply again, byte for byte: no new noise, no new charge. The cap is
checked when a plan is authorised, before anything is computed.

A *plan* fixes a mechanism, the blocks that it touches and how often it may run;
an *allowance* fixes it for several runs to come, on any block. Of the training that
was allowed when a block had its first release, the whole allowance counts on that
block from then on, and composes exactly (`clients.accounting`); sub-sampled training
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
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa

from clients.accounting import FILTER_RENYI, Event, compose
from contract.errors import BudgetError, LedgerError
from contract.releases import PLAIN_METHOD, Spent

__all__ = ["WHOLE", "Cap", "Entry", "Ledger", "Plan"]

WHOLE = "all"
"""The window of a block that is the whole data set, all windows together."""

_Line = tuple[str, str, str, Mapping[str, Any]]
"""Kind, plan, request and body of an entry to be."""

_VERSION = 1
_UNFORESEEN = 0.1
"""Share of the cap's δ for what was not foreseen. Which theorem bounds a block can depend on what was
released, so the δ of both count: the cap holds at 1.1 δ over everything that a server can do."""
_FIRST_HASH = "0" * 64

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
    purpose: Literal["train", "evaluate", "drift"]
    blocks: tuple[str, ...]
    noise_multiplier: float
    uses: int
    sampling_rate: float = 1.0
    steps: int = 1
    unit: Literal["record", "person"] = "record"
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
        self._seen = 0
        self._last_hash = _FIRST_HASH
        self._catch_up()

    # -- what a release does, in order ---------------------------------------

    def stored_reply(self, request: str) -> bytes | None:
        """The reply that was committed for this request, if it was."""
        with self._translated(), self._engine.connect() as connection:
            row = connection.execute(sa.select(_replies.c.reply).where(_replies.c.request == request)).first()
        return None if row is None else bytes(row.reply)

    def check(self, plan: Plan) -> None:
        """Refuse what `authorise` would refuse for the cap, and enter nothing.

        Raises:
            BudgetError: some block would pass the cap.
        """
        with self._lock:
            self._catch_up()
            others = {name for name in self._open if self._plans[name].run != plan.run}
            self._admit(plan, total=max(plan.uses, self._uses.get(plan.name, 0)), closing=others)

    def authorise(self, plan: Plan) -> None:
        """Enter the plan, or do nothing if it is entered with the same content.

        Raises:
            BudgetError: some block would pass the cap; nothing was entered.
            LedgerError: another plan of that name is entered.
        """
        with self._lock:
            self._catch_up()
            known = self._plans.get(plan.name)
            if known is not None and known != plan:
                raise LedgerError(
                    f"plan '{plan.name}' was entered with other parameters", where=str(self.path)
                )
            if plan.name in self._open:
                return
            others = {name for name in self._open if self._plans[name].run != plan.run}
            total = max(plan.uses, self._uses.get(plan.name, 0))
            self._admit(plan, total=total, closing=others)
            lines: list[_Line] = [("close", name, "", {}) for name in sorted(others)]
            self._append([*lines, ("authorise", plan.name, "", asdict(plan))])

    def reserve(self, request: str, plan_name: str) -> None:
        """Spend one use of the plan for this request, before it is computed.

        A request that was reserved and never committed (a crash) is charged again.

        Raises:
            BudgetError: the plan's uses are spent and one more would pass the cap.
        """
        with self._lock:
            self._catch_up()
            plan = self._plans[plan_name]
            if self._uses[plan_name] >= plan.uses:
                self._admit(plan, total=self._uses[plan_name] + 1, closing=set())
            self._append([("reserve", plan_name, request, {})])

    def commit(self, request: str, plan_name: str, reply: bytes, releases: Mapping[str, Any]) -> None:
        """Store the reply and enter what it holds, in one transaction."""
        body = {**releases, "bytes": len(reply), "sha256": hashlib.sha256(reply).hexdigest()}
        with self._lock:
            self._append([("commit", plan_name, request, body)], reply=(request, reply))

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
            spent = [self._spent_on(*place, plans, delta, promised, run) for place in _places(plans)]
            most: dict[str, Spent] = {}
            for item in spent:
                if item.block not in most or item.epsilon > most[item.block].epsilon:
                    most[item.block] = item
            return most

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
            rows = connection.execute(sa.select(_entries).order_by(_entries.c.sequence)).all()
        return [_entry(row) for row in rows]

    def verify(self) -> int:
        """Walk the hash chain and the stored replies; return the number of entries.

        Raises:
            LedgerError: an entry or a reply was changed, removed or put in.
        """
        previous, replies = _FIRST_HASH, self._reply_digests()
        for position, entry in enumerate(self.entries(), start=1):
            text = json.dumps(dict(entry.body), sort_keys=True)
            expected = _hash(previous, position, entry.kind, entry.plan, entry.request, text)
            if entry.sequence != position or entry.hash != expected:
                raise self._tampered(f"entry {position}")
            if entry.kind == "commit" and replies.get(entry.request) != entry.body["sha256"]:
                raise self._tampered(f"the stored reply of entry {position}")
            previous = entry.hash
        return len(self.entries())

    def close(self) -> None:
        """Give the file back."""
        self._engine.dispose()

    # -- inside ------------------------------------------------------------------

    def _create(self) -> None:
        with self._engine.begin() as connection:
            _metadata.create_all(connection)
            for trigger in _TRIGGERS:
                connection.exec_driver_sql(trigger)
            about = connection.execute(sa.select(_about)).first()
            if about is None:
                connection.execute(_about.insert().values(site=self._site, version=_VERSION))
            elif about.site != self._site:
                raise LedgerError(
                    f"this ledger belongs to site '{about.site}', not '{self._site}'",
                    where=str(self.path),
                    remedy="Name the ledger's own site, or another storage folder",
                )
            elif about.version > _VERSION:
                raise LedgerError(
                    f"this ledger has format {about.version}, newer than this program's {_VERSION}",
                    where=str(self.path),
                    remedy="Install the newer Tidegate",
                )

    def _admit(self, plan: Plan, *, total: int, closing: set[str]) -> None:
        """Refuse `total` uses of the plan if any block that it touches would pass the cap."""
        still_open = self._open - closing
        for split, block in _places([plan, *self._plans.values()]):
            if not plan.touches(split, block):
                continue
            uses = {plan.name: total}
            for name, other in self._plans.items():
                if name != plan.name and other.touches(split, block):
                    uses[name] = max(self._uses[name], other.uses) if name in still_open else self._uses[name]
            known = {**self._plans, plan.name: plan}
            trainings = (
                [*self._trainings, (self._seen + 1, plan)] if plan.purpose == "train" else self._trainings
            )
            allowed = self._allowance(split, block, uses, trainings)
            events = _events(
                [known[name] for name in uses], uses, allowed, whole=0 if allowed is None else allowed.runs
            )
            epsilon, method = compose(events, self._cap.delta, cap=self._cap.epsilon)
            if method == FILTER_RENYI:
                epsilon, _ = compose(events, _UNFORESEEN * self._cap.delta, cap=self._cap.epsilon)
            if epsilon > self._cap.epsilon * (1 + 1e-9):
                raise BudgetError(
                    f"{plan.purpose} would bring data block '{block}' to ε = {epsilon:.3g}, "
                    f"above the site's cap of {self._cap.epsilon:g} at δ = {self._cap.delta:g}",
                    where=f"site '{self._site}'",
                    remedy="Train on newer rows, lower the experiment's epsilon, or raise the site's cap",
                )

    def _spent_on(
        self, split: str, block: str, plans: list[Plan], delta: float, promised: bool, run: str | None
    ) -> Spent:
        plans = [plan for plan in plans if plan.touches(split, block)]
        uses = {
            plan.name: max(self._uses[plan.name], plan.uses if promised and plan.name in self._open else 0)
            for plan in plans
        }
        # One run that bounds records alone leaves no bound for a person's rows together.
        unit: Literal["record", "person"] = (
            "person" if all(plan.unit == "person" for plan in plans) else "record"
        )
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

    def _append(self, lines: list[_Line], reply: tuple[str, bytes] | None = None) -> None:
        with self._translated(), self._engine.begin() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            self._read_new(connection)
            sequence, previous = self._seen, self._last_hash
            for kind, plan, request, body in lines:
                sequence += 1
                text = json.dumps({**body, "at": self._clock()}, sort_keys=True)
                previous = _hash(previous, sequence, kind, plan, request, text)
                connection.execute(
                    _entries.insert().values(
                        sequence=sequence, kind=kind, plan=plan, request=request, body=text, hash=previous
                    )
                )
            if reply is not None:
                connection.execute(_replies.insert().values(request=reply[0], reply=reply[1]))
        self._catch_up()

    def _catch_up(self) -> None:
        """Read the entries that this object has not seen, also those of another process."""
        with self._lock, self._translated(), self._engine.connect() as connection:
            self._read_new(connection)

    def _read_new(self, connection: sa.Connection) -> None:
        rows = connection.execute(
            sa.select(_entries).where(_entries.c.sequence > self._seen).order_by(_entries.c.sequence)
        )
        for row in rows:
            self._apply(_entry(row))

    def _apply(self, entry: Entry) -> None:
        if entry.kind == "authorise":
            values = {key: value for key, value in entry.body.items() if key != "at"}
            self._plans[entry.plan] = Plan(**{**values, "blocks": tuple(values["blocks"])})
            self._uses.setdefault(entry.plan, 0)
            self._open.add(entry.plan)
            if self._plans[entry.plan].purpose == "train":
                self._trainings.append((entry.sequence, self._plans[entry.plan]))
        elif entry.kind == "reserve":
            self._uses[entry.plan] += 1
            self._first_use.setdefault(entry.plan, entry.sequence)
        elif entry.kind == "close":
            self._open.discard(entry.plan)
        self._seen, self._last_hash = entry.sequence, entry.hash

    def _reply_digests(self) -> dict[str, str]:
        with self._translated(), self._engine.connect() as connection:
            rows = connection.execute(sa.select(_replies)).all()
        return {row.request: hashlib.sha256(row.reply).hexdigest() for row in rows}

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


def _places(plans: Iterable[Plan]) -> list[tuple[str, str]]:
    """Each block of the plans, with the split that it belongs to."""
    return sorted({(plan.split, block) for plan in plans for block in plan.blocks})


def _hash(previous: str, sequence: int, kind: str, plan: str, request: str, body: str) -> str:
    text = json.dumps([previous, sequence, kind, plan, request, body])
    return hashlib.sha256(text.encode()).hexdigest()


def _entry(row: Any) -> Entry:
    return Entry(
        sequence=row.sequence,
        kind=row.kind,
        plan=row.plan,
        request=row.request,
        body=json.loads(row.body),
        hash=row.hash,
    )


def _reason(exc: Exception) -> str:
    if isinstance(exc, OSError):
        return exc.strerror or type(exc).__name__
    return str(getattr(exc, "orig", None) or type(exc).__name__)
