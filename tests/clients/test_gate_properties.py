"""Whatever a server asks, in any order, by any gate: what left was charged first, once, and under the cap."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from clients.gate import Gate, Releases
from clients.ledger.chain import Cap, Ledger, Plan
from clients.site_config import Policy
from contract.errors import BudgetError, LedgerError, PolicyError, ReleaseError
from contract.experiment_file import parse_experiment
from contract.releases import DriftSummary, FeatureCounts, ModelUpdate, ScoreHistogram

EXPERIMENT = parse_experiment(
    """\
name = "small"
[task]
label = { column = "ill" }
[[task.features]]
name = "age"
kind = "numeric"
low = 0
high = 120
[privacy]
delta = 1e-5
""",
    where="test",
)
CAP = Cap(epsilon=3.0, delta=1e-5)

# few, for each new history of sub-sampled steps costs a privacy loss distribution
FULL = {"noise_multiplier": 6.0, "uses": 2}
SAMPLED = {"noise_multiplier": 2.0, "sampling_rate": 0.1, "steps": 5, "uses": 2}
FAINT = {"noise_multiplier": 0.5, "uses": 1}  # ε = 10 at once: above the cap by itself

Purpose = Literal["train", "evaluate", "drift"]
Unit = Literal["record", "person"]
PLACES: dict[Purpose, list[tuple[str, ...]]] = {
    "train": [("w1/train",), ("all/train",)],
    "evaluate": [("w1/holdout",)],
    "drift": [("w1/train", "w1/holdout"), ("w2/train", "w2/holdout")],
}


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    purpose = draw(st.sampled_from(list(PLACES)))
    mechanism: dict[str, Any] = draw(st.sampled_from([FULL, FULL, SAMPLED] if purpose == "train" else [FULL]))
    blocks = draw(st.sampled_from(PLACES[purpose]))
    split = draw(st.sampled_from(["by month", "by month", "by ward"]))
    unit: Unit = draw(st.sampled_from(["record", "person"]))
    run = f"run-{draw(st.integers(1, 2))}"
    rate = mechanism.get("sampling_rate", 1.0)
    name = f"{run}/{purpose}/{'+'.join(blocks)}/{split}/{unit}/{rate}"
    return Plan(name=name, run=run, purpose=purpose, blocks=blocks, split=split, unit=unit, **mechanism)


def faint(plan: Plan) -> Plan:
    return Plan(**{**vars(plan), **FAINT, "name": f"{plan.name}/faint", "sampling_rate": 1.0, "steps": 1})


def releases(purpose: Purpose, value: float) -> Releases:
    counts = np.full(4, value)
    if purpose == "train":
        return Releases(update=ModelUpdate(arrays={"w": counts.astype(np.float32)}))
    if purpose == "evaluate":
        return Releases(scores=ScoreHistogram(negative=counts, positive=counts, noise_deviation=1.0))
    feature = FeatureCounts(feature="age", reference=counts, current=counts)
    return Releases(
        drift=DriftSummary(
            window="w1",
            reference_window="w0",
            features=(feature,),
            reference_deviation=1.0,
            current_deviation=1.0,
            can_train=True,
        )
    )


def never() -> Releases:
    raise AssertionError("computed")


class Exchanges(RuleBasedStateMachine):
    """A site's ledger file, two gates on it, and what the model expects of them."""

    @initialize()
    def open(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.ledgers = [self._ledger() for _ in range(2)]
        self.replies: dict[str, bytes] = {}
        self.plans: dict[str, list[Plan]] = {}
        self.charges = Counter[tuple[str, str]]()
        self.spent: dict[str, float] = {}
        self.requests = 0

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            for ledger in self.ledgers:
                ledger.close()
            shutil.rmtree(self.folder)

    def _ledger(self) -> Ledger:
        return Ledger(self.folder / "ledger.db", site="north", cap=CAP, clock=lambda: "now")

    def _gate(self, which: int, **policy: Any) -> Gate:
        return Gate(site="north", stated_rows=1000, policy=Policy(**policy), ledger=self.ledgers[which])

    def _entries(self) -> list[Any]:
        return self.ledgers[0].entries()

    def _ask(self, which: int, request: str, compute: Callable[[], Releases]) -> bool:
        """Whether it was admitted: then `compute` ran, once, after the charges were in the file."""
        calls = 0

        def counted() -> Releases:
            nonlocal calls
            calls += 1
            for plan in self.plans[request]:
                self.charges[request, plan.name] += 1
            assert self._charged() == self.charges
            return compute()

        try:
            reply = self._gate(which).release(request, EXPERIMENT, self.plans[request], counted)
            self.replies[request] = reply
        except (BudgetError, PolicyError):
            assert calls == 0
            self.charges = self._charged()  # of two plans, one may be charged when the other is refused
            return False
        finally:
            assert calls <= 1
        return True

    def _charged(self) -> Counter[tuple[str, str]]:
        return Counter((entry.request, entry.plan) for entry in self._entries() if entry.kind == "reserve")

    def _new(self, wanted: list[Plan]) -> str:
        self.requests += 1
        request = f"request-{self.requests}"
        # one run a request, as the experiment's
        self.plans[request] = [plan for plan in wanted if plan.run == wanted[0].run]
        return request

    gates = st.integers(0, 1)
    wanted = st.lists(plans(), min_size=1, max_size=2, unique_by=lambda plan: plan.name)

    @rule(which=gates, wanted=wanted)
    def a_new_request(self, which: int, wanted: list[Plan]) -> None:
        request = self._new(wanted)
        self._ask(which, request, lambda: releases(wanted[0].purpose, float(self.requests)))

    @precondition(lambda self: self.replies)
    @rule(which=gates, data=st.data())
    def an_old_request(self, which: int, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(sorted(self.replies)))
        before = self._entries()
        reply = self._gate(which).release(request, EXPERIMENT, self.plans[request], never)
        assert reply == self.replies[request]
        assert self._entries() == before

    @rule(which=gates, wanted=wanted, again=st.booleans())
    def a_request_whose_computation_fails(self, which: int, wanted: list[Plan], again: bool) -> None:
        request = self._new(wanted)

        def fail() -> Releases:
            raise ZeroDivisionError

        try:
            self._ask(which, request, fail)
        except ZeroDivisionError:
            assert self.ledgers[which].stored_reply(request) is None
        if again:
            self._ask(1 - which, request, lambda: releases(wanted[0].purpose, 0.5))

    @rule(which=gates, wanted=wanted, wrong=st.sampled_from([np.nan, np.inf, -np.inf]))
    def a_request_whose_release_is_not_finite(self, which: int, wanted: list[Plan], wrong: float) -> None:
        request = self._new(wanted)
        try:
            assert not self._ask(which, request, lambda: releases(wanted[0].purpose, wrong))
        except ReleaseError:
            assert self.ledgers[which].stored_reply(request) is None

    @rule(which=gates, wanted=wanted)
    def a_request_that_another_process_answers_meanwhile(self, which: int, wanted: list[Plan]) -> None:
        request = self._new(wanted)

        def overtaken() -> Releases:
            self._ask(1 - which, request, lambda: releases(wanted[0].purpose, 1.0))
            return releases(wanted[0].purpose, 2.0)

        with suppress(LedgerError):  # it may say so, or give the other's reply; not its own
            self._ask(which, request, overtaken)
        assert self.ledgers[which].stored_reply(request) == self.replies.get(request)

    @rule(which=gates, wanted=plans())
    def a_plan_above_the_cap(self, which: int, wanted: Plan) -> None:
        before = self._entries()
        with pytest.raises(BudgetError, match="cap"):
            self._gate(which).release("too much", EXPERIMENT, [faint(wanted)], never)
        assert self._entries() == before

    @rule(
        which=gates,
        wanted=plans(),
        policy=st.sampled_from(
            [{"approved_experiments": ("0" * 64,)}, {"delta_cap": 1e-6}, {"require_private": True}]
        ),
    )
    def a_policy_that_refuses(self, which: int, wanted: Plan, policy: dict[str, Any]) -> None:
        if "require_private" in policy:
            wanted = Plan(**{**vars(wanted), "noise_multiplier": 0.0, "name": f"{wanted.name}/plain"})
        before = self._entries()
        with pytest.raises(PolicyError):
            self._gate(which, **policy).release("forbidden", EXPERIMENT, [wanted], never)
        assert self._entries() == before

    @rule(which=gates)
    def the_ledger_is_opened_again(self, which: int) -> None:
        before = self.ledgers[which].spent_by_block()
        self.ledgers[which].close()
        self.ledgers[which] = self._ledger()
        assert self.ledgers[which].spent_by_block() == before

    @invariant()
    def every_reply_has_a_commit_and_before_it_the_charge_of_each_plan(self) -> None:
        entries = self._entries()
        place = {(entry.kind, entry.request, entry.plan): entry.sequence for entry in reversed(entries)}
        committed = {entry.request: entry.sequence for entry in entries if entry.kind == "commit"}
        assert committed.keys() == self.replies.keys()
        for request, reply in self.replies.items():
            assert all(
                place["reserve", request, plan.name] < committed[request] for plan in self.plans[request]
            )
            assert self.ledgers[0].stored_reply(request) == self.ledgers[1].stored_reply(request) == reply
        assert self._charged() == self.charges
        assert [ledger.verify() for ledger in self.ledgers] == [len(entries)] * 2

    @invariant()
    def what_a_block_spent_never_falls_and_stays_under_the_cap(self) -> None:
        spent = {block: item.epsilon for block, item in self.ledgers[0].spent_by_block().items()}
        for block, epsilon in self.spent.items():
            assert spent[block] >= epsilon * (1 - 1e-9)
        self.spent = spent
        assert self.ledgers[1].spent(promised=True).epsilon <= CAP.epsilon * (1 + 1e-6)


Exchanges.TestCase.settings = settings(
    max_examples=40, stateful_step_count=20, deadline=None, derandomize=True
)
TestExchanges = Exchanges.TestCase


def test_a_plan_that_another_run_closed_is_not_used_past_the_cap(tmp_path: Path) -> None:
    """Two runs at once: each was admitted while the other had used nothing."""
    ledger = Ledger(tmp_path / "ledger.db", site="north", cap=CAP, clock=lambda: "now")
    two = [
        Plan(name=f"{run}/train", run=run, purpose="train", blocks=("b/train",), noise_multiplier=1.8, uses=1)
        for run in ("run-1", "run-2")
    ]
    for plan in two:
        ledger.authorise(plan)
    ledger.reserve("run-2/train/1", "run-2/train")
    with pytest.raises(BudgetError):
        ledger.reserve("run-1/train/1", "run-1/train")
    assert ledger.spent().epsilon <= CAP.epsilon


# -- tampering -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger's file, closed, with a training, a drift check and a second run that closed the first."""
    path = tmp_path_factory.mktemp("kept") / "ledger.db"
    ledger = Ledger(path, site="north", cap=CAP, clock=lambda: "2026-11-24T00:00:00+00:00")
    gate = Gate(site="north", stated_rows=1000, policy=Policy(), ledger=ledger)
    asked: list[tuple[str, Purpose, tuple[str, ...]]] = [
        ("r", "train", ("b/train",)),
        ("s", "drift", ("b/train", "b/holdout")),
    ]
    for run, purpose, blocks in asked:
        plan = Plan(
            name=f"{run}/{purpose}", run=run, purpose=purpose, blocks=blocks, noise_multiplier=8.0, uses=2
        )
        gate.release(f"{run}/{purpose}/1", EXPERIMENT, [plan], partial(releases, purpose, 2.5))
    assert ledger.verify() == 7
    ledger.close()
    return path


def spoilt(kept: Path, folder: Path, statement: str, *values: object) -> Path:
    """A copy that somebody who may write the file has put a hand to."""
    path = folder / "ledger.db"
    shutil.copy(kept, path)
    connection = sqlite3.connect(path)
    for (trigger,) in connection.execute("select name from sqlite_master where type = 'trigger'").fetchall():
        connection.execute(f"drop trigger {trigger}")
    assert connection.execute(statement, values).rowcount == 1
    connection.commit()
    connection.close()
    return path


def must_not_verify(path: Path) -> None:
    with pytest.raises(LedgerError):
        Ledger(path, site="north", cap=CAP, clock=lambda: "now").verify()


@st.composite
def spoilings(draw: st.DrawFn, value: int | str | bytes) -> int | str | bytes:
    """Another value: a number, or one character or byte put in, left out or changed."""
    if isinstance(value, int):
        return draw(st.integers(-1, 99).filter(lambda number: not 0 < number < 8))
    at = draw(st.integers(0, len(value) - 1))
    until = at + draw(st.integers(0, 1))
    if isinstance(value, bytes):
        return value[:at] + draw(st.binary(max_size=1)) + value[until:]
    if draw(st.integers(0, 9)) == 0:
        return value.encode()  # the same letters, as another type
    return value[:at] + draw(st.text('0 ."{}ax\\\n', max_size=1)) + value[until:]


COLUMNS = [
    *(("entries", column) for column in ("sequence", "kind", "plan", "request", "body", "hash")),
    ("replies", "request"),
    ("replies", "reply"),
]


@pytest.mark.parametrize(("table", "column"), COLUMNS)
def test_any_field_that_was_tampered_with_is_noticed(
    kept: Path, tmp_path_factory: pytest.TempPathFactory, table: str, column: str
) -> None:
    connection = sqlite3.connect(kept)
    query = f"select rowid, {column} from {table} where {column} != ''"  # noqa: S608 - names from above
    rows = connection.execute(query).fetchall()
    connection.close()

    @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(data=st.data())
    def noticed(data: st.DataObject) -> None:
        row, value = data.draw(st.sampled_from(rows))
        other = data.draw(spoilings(value))
        assume(other != value)
        folder = tmp_path_factory.mktemp("spoilt")
        statement = f"update {table} set {column} = ? where rowid = ?"  # noqa: S608
        must_not_verify(spoilt(kept, folder, statement, other, row))

    noticed()


@pytest.mark.parametrize("sequence", range(1, 7))
def test_an_entry_that_was_taken_out_is_noticed(kept: Path, tmp_path: Path, sequence: int) -> None:
    """What follows it gives it away; of the last entry, see below."""
    must_not_verify(spoilt(kept, tmp_path, "delete from entries where sequence = ?", sequence))


def test_a_reply_whose_entry_was_taken_out_is_noticed(kept: Path, tmp_path: Path) -> None:
    must_not_verify(spoilt(kept, tmp_path, "delete from entries where sequence = 7"))


def test_a_reply_that_was_put_in_is_noticed(kept: Path, tmp_path: Path) -> None:
    """It would go out for a request that was never charged."""
    must_not_verify(spoilt(kept, tmp_path, "insert into replies values ('r/train/2', x'00')"))
