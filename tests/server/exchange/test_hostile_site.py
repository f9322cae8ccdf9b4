"""A site that means harm is left out, or counts for no more than a site may: nothing else comes of it.

Each test is a hostile site among honest ones, on a grid without processes; `tests/failure` has one over
Flower's own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from google.protobuf.message import DecodeError

from contract.experiment import Retraining
from contract.messages import Instruction, Reply
from contract.releases import (
    SCORE_BINS,
    Comparison,
    DriftSummary,
    FeatureCounts,
    ModelUpdate,
    RangeCounts,
    ScoreHistogram,
)
from contract.verdicts import Verdict
from server.cycle import run_cycle
from server.jobs.job import Job, RangeQuestion
from server.jobs.ranges import run_ranges
from server.jobs.training_job import Services
from server.line.flower import assume_identity
from server.rounds import Training, TrainingResult, train
from server.state.participation import NOT_UNDERSTOOD, advice, kind_of
from server.state.storage import State
from tests.server.federation import (
    ROWS,
    Arrays,
    Behaviour,
    FakeFederation,
    Quiet,
    honest,
    plan,
    text_of,
    written,
)

SITES = ("north", "south", "west")
HUGE = 3e38
"""Near the end of float32."""


@pytest.fixture(autouse=True)
def _identity() -> None:
    assume_identity(1)


def among(hostile: Behaviour, *others: str) -> dict[str, Behaviour]:
    return {**dict.fromkeys(others or ("north", "south"), honest), "west": hostile}


def on(step: int, behave: Behaviour) -> Behaviour:
    """Behave so in one round, and well in all others."""
    return lambda reply, told, model: behave(reply, told, model) if told.step == step else reply


def services_of(
    grid: FakeFederation, state: State, admitted: Mapping[int, str] | None = None, **more: Any
) -> Services:
    registry: Any = Quiet()
    known = grid.names if admitted is None and "federation" not in more else admitted
    rng = np.random.default_rng(0)
    return Services(grid=grid, state=state, registry=registry, rng=rng, admitted=known, **more)


def trained(
    state: State, sites: Mapping[str, Behaviour], grid: FakeFederation | None = None, **strategy: Any
) -> TrainingResult:
    """A run of two rounds and an evaluation."""
    strategy = {"rounds": 2, "quorum": 2, **strategy}
    experiment = plan(**strategy)
    services = services_of(grid or FakeFederation(sites), state)
    state.start_run("r", experiment=experiment, job="train", trigger="test", code_hash="c0de")
    training = Training(run="r", experiment=experiment)
    return train(training, services.grid, services.memory(), np.random.default_rng(0))


def failure_of(state: State, run: str = "r", site: str = "west") -> str:
    """Why a site does not count, of the last exchange in which it did not."""
    reasons = [item.reason for item in state.participation(run) if item.site == site and item.reason]
    return reasons[-1] if reasons else ""


# -- a reply that is none ----------------------------------------------------


class Garbling(FakeFederation):
    """Gives of one node what Flower cannot make a message of; pulled together with others it loses them."""

    def __init__(self, sites: Mapping[str, Behaviour], error: BaseException, node: int = 3) -> None:
        super().__init__(sites)
        self._error, self._node = error, node
        self._mine: set[str] = set()

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        messages = list(messages)
        names = super().push_messages(messages)
        self._mine |= {
            name
            for name, one in zip(names, messages, strict=True)
            if one.metadata.dst_node_id == self._node and self.exchanges == 1
        }
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        names = [name for name in message_ids if name in self._replies]
        found = super().pull_messages(names)
        garbled = self._mine & set(names)
        self._mine -= garbled
        if garbled:
            raise self._error
        return found


@pytest.mark.parametrize(
    "error", [DecodeError("no protobuf"), ValueError("another body"), KeyError("x"), RecursionError()]
)
def test_what_is_no_message_costs_one_site_one_round(state: State, error: Exception) -> None:
    result = trained(state, {}, Garbling(among(honest), error))
    assert dict(result.counted) == {"north": 2, "south": 2, "west": 1}
    assert state.rounds("r")[0].failures == {"west": NOT_UNDERSTOOD}
    assert {(item.site, item.state) for item in state.participation("r") if item.round == 1} == {
        ("north", "counted"),
        ("south", "counted"),
        ("west", "trained"),
    }


def test_a_line_that_is_cut_is_no_sites_fault(state: State) -> None:
    with pytest.raises(ConnectionError):
        trained(state, {}, Garbling(among(honest), ConnectionError("the run is over")))


def bomb(reply: Reply, *_: Any) -> RecordDict:
    """A hundred times as long as any: read, it would take 25 bytes of memory a byte."""
    return written(text_of(reply) | {"mechanism": [[]] * 4_000_000})


def test_a_text_beyond_what_was_asked_for_is_not_read(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    whole = Reply.from_records

    def reading(records: RecordDict, **limits: Any) -> Reply:
        read.append(sum(len(value) for value in records.config_records["reply"].values()))  # type: ignore[arg-type, misc]
        return whole(records, **limits)

    monkeypatch.setattr(Reply, "from_records", reading)
    trained(state, among(on(2, bomb)))
    assert state.rounds("r")[1].counted == ("north", "south")
    assert failure_of(state).startswith("update refused: it has 16,")
    assert max(read) < 10_000


UNASKED: dict[str, Behaviour] = {
    "scores of three bins": lambda reply, *_: replace(
        reply, scores=ScoreHistogram(negative=np.ones(3), positive=np.ones(3), noise_deviation=0.0)
    ),
    "scores that are no numbers": lambda reply, *_: replace(
        reply,
        scores=ScoreHistogram(
            negative=np.full(SCORE_BINS, np.nan), positive=np.ones(SCORE_BINS), noise_deviation=0.0
        ),
    ),
    "a paired difference": lambda reply, *_: replace(
        reply, comparison=Comparison(gain=1.0, squares=1.0, rows=1.0, noise_deviation=0.0)
    ),
    "a drift check": lambda reply, *_: replace(
        reply,
        drift=DriftSummary(
            window="w",
            reference_window="w",
            features=(),
            reference_deviation=0.0,
            current_deviation=0.0,
            can_train=True,
        ),
    ),
}


@pytest.mark.parametrize("fault", UNASKED)
def test_what_was_not_asked_for_is_refused(state: State, fault: str) -> None:
    """In round 2 nobody is asked for scores."""
    trained(state, among(on(2, UNASKED[fault])))
    assert state.rounds("r")[1].counted == ("north", "south")
    assert "was not asked for" in failure_of(state)
    assert kind_of(failure_of(state)) == "reply refused"


WORDS: dict[str, Callable[[Reply], Reply]] = {
    "a lone surrogate in the request": lambda reply: replace(reply, request="\ud800"),
    "a NUL in the request": lambda reply: replace(reply, request="a\0b"),
    "an escape sequence in the request": lambda reply: replace(reply, request="\x1b[2J"),
    "a lone surrogate in the name": lambda reply: replace(reply, site="\ud800"),
    "an escape sequence in the mechanism": lambda reply: replace(reply, mechanism="\x1b[2Jnone"),
    "two lines in the mechanism": lambda reply: replace(reply, mechanism="none\n# Approved"),
    "a lone surrogate in the block": lambda reply: replace(
        reply, spent_in_run=replace(reply.spent_in_run, block="\udc80")
    ),
    "a text that turns round": lambda reply: replace(
        reply, spent_in_total=replace(reply.spent_in_total, method="\u202egnp")
    ),
    "the name of the pool": lambda reply: replace(reply, site="all sites"),
    "the name of an unknown node": lambda reply: replace(reply, site="node 1"),
}


@pytest.mark.parametrize("fault", WORDS)
@pytest.mark.parametrize("known", [True, False])
def test_words_that_harm_whoever_shows_or_stores_them(state: State, fault: str, known: bool) -> None:
    grid = FakeFederation(among(on(2, lambda reply, *_: WORDS[fault](reply))))
    if not known:
        grid.names = {1: "north", 2: "south"} | {3: "west"}
    experiment = plan(rounds=2, quorum=2)
    services = services_of(grid, state, None if known else {1: "north", 2: "south"})
    state.start_run("r", experiment=experiment, job="train", trigger="test", code_hash="c0de")
    train(Training(run="r", experiment=experiment), grid, services.memory(), np.random.default_rng(0))
    second = state.rounds("r")[1]
    assert second.counted == ("north", "south")
    (reason,) = second.failures.values()
    assert reason.isprintable()
    assert advice(reason)


# -- numbers that move what others sent ---------------------------------------


@pytest.mark.parametrize("value", [HUGE, -HUGE])
@pytest.mark.parametrize("name", ["fedavg", "fedavgm", "fedadam", "fedyogi"])
def test_a_model_stays_finite_whatever_a_site_sends(state: State, value: float, name: str) -> None:
    """Without privacy nothing is clipped: two sites at the end of float32 are beyond it together."""

    def end(reply: Reply, told: Instruction, model: Arrays) -> Reply:
        del told
        if reply.update is None:
            return reply
        arrays = {key: np.full_like(array, value) for key, array in model.items()}
        return replace(reply, update=ModelUpdate(arrays=arrays))

    sites = {**among(end, "north", "south"), "east": end}
    result = trained(state, sites, name=name, server_momentum=0.5)
    assert all(np.isfinite(array).all() for array in result.arrays.values())
    assert result.overall is not None
    assert math.isfinite(result.overall.log_loss)
    assert result.counted["west"] == 0


def stating(rows: int, behave: Behaviour = honest) -> Behaviour:
    """As another site, but with other stated rows."""

    return lambda reply, told, model: behave(replace(reply, stated_rows=rows), told, model)


def turned(reply: Reply, told: Instruction, model: Arrays) -> Reply:
    """An update the other way."""
    del told
    if reply.update is None:
        return reply
    arrays = {name: 2 * model[name] - value for name, value in reply.update.arrays.items()}
    return replace(reply, update=ModelUpdate(arrays=arrays))


def test_a_site_that_states_all_the_rows_of_the_world_is_not_the_mean(state: State) -> None:
    """Of three sites it is half of it: turned round, it holds the two others up and does not win."""
    result = trained(state, among(stating(10**12, turned)), rounds=1, average_last=0.0)
    weight = result.arrays["layers.0.weight"][0]
    assert abs(weight[0]) < 0.05  # alone it would be -.27, and without it .27


def flat(reply: Reply, told: Instruction, model: Arrays) -> Reply:
    """The most rows that it may have, in one score: a perfect one, and a drift check without any drift."""
    del told, model
    most = 4.0 * reply.stated_rows
    changed = reply
    if reply.scores is not None:
        counts = np.zeros(SCORE_BINS)
        counts[-1] = most
        scores = replace(reply.scores, negative=np.zeros(SCORE_BINS), positive=counts)
        changed = replace(changed, scores=scores)
    if reply.drift is not None:
        features = tuple(
            FeatureCounts(
                feature=item.feature,
                reference=np.full(len(item.reference), most // len(item.reference)),
                current=np.full(len(item.current), most // len(item.current)),
            )
            for item in reply.drift.features
        )
        changed = replace(changed, drift=replace(reply.drift, features=features))
    return changed


def test_figures_over_all_sites_are_not_those_of_the_loudest(state: State) -> None:
    result = trained(state, among(stating(10**12, flat)), rounds=1)
    assert result.overall is not None
    assert result.overall.log_loss > 0.1
    assert result.overall.rows == pytest.approx(4 * ROWS)


# -- the drift check -----------------------------------------------------------


def shifted(share: float) -> Behaviour:
    """A share of the current window's rows lie in the highest cell of the first feature."""

    def behave(reply: Reply, told: Instruction, model: Arrays) -> Reply:
        del told, model
        assert reply.drift is not None
        first = reply.drift.features[0]
        current = np.floor(first.current * (1 - share))
        current[-2] += first.current.sum() - current.sum()
        return replace(
            reply,
            drift=replace(reply.drift, features=(replace(first, current=current), *reply.drift.features[1:])),
        )

    return behave


def cycle(state: State, sites: Mapping[str, Behaviour], run: str = "c", window: str = "w2") -> Verdict:
    experiment = plan(quorum=2).model_copy(update={"retraining": Retraining(enabled=False)})
    if not state.decisions("fake"):
        state.start_run("first", experiment=experiment, job="train", trigger="test", code_hash="c0de")
        state.link_run("first", model_version=1, result=json.dumps({"windows": ["w1"]}))
        state.record_decision("fake", window="", kind="promote", subject="version 1", by="p", reason="r")
    job = Job(kind="cycle", run=run, experiment=experiment, window=window)
    run_cycle(job, services_of(FakeFederation(sites), state))
    (found,) = (record for record in state.verdicts("fake") if record.window == window)
    return Verdict.from_json(json.dumps(dict(found.verdict)))


def drifting(change: Callable[[DriftSummary], DriftSummary]) -> Behaviour:
    return lambda reply, *_: replace(reply, drift=change(reply.drift)) if reply.drift else reply


def counted(value: float) -> Callable[[DriftSummary], DriftSummary]:
    """With that value in each current count of the first feature."""
    return lambda sent: replace(
        sent,
        features=(
            replace(sent.features[0], current=np.full(len(sent.features[0].current), value)),
            *sent.features[1:],
        ),
    )


DRIFTS: dict[str, Callable[[DriftSummary], DriftSummary]] = {
    "another window": lambda sent: replace(sent, window="w9"),
    "no window": lambda sent: replace(sent, window=""),
    "another reference": lambda sent: replace(sent, reference_window="\x1b[2J"),
    "endless counts": counted(1e308),
    "more rows than it can have": counted(4 * ROWS / 10),
    "counts below none": counted(-1.0),
    "no numbers": counted(math.nan),
    "a reference beyond its rows": lambda sent: replace(
        sent, features=tuple(replace(item, reference=item.reference * 1e6) for item in sent.features)
    ),
    "noise that nobody added": lambda sent: replace(sent, current_deviation=1e6, reference_deviation=1e6),
    "noise in one window": lambda sent: replace(sent, reference_deviation=1.0),
    "noise without end": lambda sent: replace(sent, current_deviation=math.inf),
    "a feature twice": lambda sent: replace(sent, features=(sent.features[0], *sent.features)),
}


@pytest.mark.parametrize("fault", DRIFTS)
def test_a_drift_summary_out_of_bounds_is_one_failure_and_the_check_goes_on(state: State, fault: str) -> None:
    verdict = cycle(state, among(drifting(DRIFTS[fault])))
    assert [site.site for site in verdict.sites] == ["north", "south"]
    assert not verdict.alarm
    assert kind_of(failure_of(state, "c")) == "scores refused"
    record = state.run("c")
    assert record is not None
    assert record.status == "partial"
    assert len(state.drift("fake")) == 2


def test_one_site_cannot_silence_what_all_others_show(state: State) -> None:
    """Eight sites with a shift that none shows alone, and one that states any number of rows without one."""
    others = {f"site-{number}": shifted(0.1) for number in range(8)}
    alone = cycle(state, others, "alone", "w2")
    assert alone.pooled.alarm
    assert not alone.sites_in_alarm
    found = cycle(state, {**others, "west": stating(10**12, flat)}, "silenced", "w3")
    assert found.pooled.alarm


def test_an_alarm_that_rests_on_one_word_says_whose(state: State) -> None:
    verdict = cycle(state, among(stating(10**12, shifted(0.9))))
    assert verdict.alarm
    assert verdict.sites_in_alarm == ("west",)
    assert verdict.rests_on == "west"
    decision = state.decisions("fake")[-1]
    assert "west" in decision.reason


# -- ranges ----------------------------------------------------------------------


def asked(state: State, sites: Mapping[str, Behaviour]) -> dict[str, Any]:
    question = RangeQuestion(features=("x0", "x1"), epsilon=1.0, share=0.05)
    job = Job(kind="ranges", run="q", experiment=plan(quorum=2), question=question)
    run_ranges(job, services_of(FakeFederation(sites), state))
    record = state.run("q")
    assert record is not None
    assert record.result is not None
    found: dict[str, Any] = json.loads(record.result)
    return found


def ranging(change: Callable[[RangeCounts], RangeCounts], deviation: float = 0.0) -> Behaviour:
    def behave(reply: Reply, told: Instruction, model: Arrays) -> Reply:
        del told, model
        assert reply.ranges is not None
        features = tuple(change(item) for item in reply.ranges.features)
        return replace(reply, ranges=replace(reply.ranges, features=features, noise_deviation=deviation))

    return behave


RANGES: dict[str, Behaviour] = {
    "endless counts": ranging(lambda item: replace(item, counts=np.full_like(item.counts, 1e308))),
    "no numbers": ranging(lambda item: replace(item, counts=np.full_like(item.counts, math.nan))),
    "more rows than it can have": ranging(lambda item: replace(item, counts=item.counts * 5)),
    "counts below none": ranging(lambda item: replace(item, counts=item.counts - 1)),
    "noise that nobody added": ranging(lambda item: item, 1e9),
    "noise that is no number": ranging(lambda item: item, math.nan),
    "other features": ranging(lambda item: replace(item, feature="x2")),
}


@pytest.mark.parametrize("fault", RANGES)
def test_an_answer_for_ranges_out_of_bounds_is_one_failure(state: State, fault: str) -> None:
    found = asked(state, among(RANGES[fault]))
    assert list(found["sites"]) == ["north", "south"]
    assert found["rows"] == pytest.approx(2 * ROWS)
    assert kind_of(found["failures"]["west"]) == "scores refused"


def test_ranges_are_not_those_of_the_loudest(state: State) -> None:
    far = ranging(lambda item: replace(item, counts=np.roll(item.counts, 60) * 1e9))
    found = asked(state, among(stating(10**12, far)))
    assert found["rows"] == pytest.approx(4 * ROWS)


# -- the rows that a site states ---------------------------------------------------


def admitted(state: State, sites: Mapping[str, Behaviour], run: str, *rows: int) -> list[str]:
    """One round of sites that the operator admitted by key; gives who counted."""
    for node, name in enumerate(sites, start=1):
        if name not in {site.name for site in state.admitted_sites("home")}:
            state.admit_site(name, federation="home", node_id=node, key="k")
    experiment = plan(rounds=1, quorum=2)
    services = services_of(FakeFederation(sites), state, federation="home")
    state.start_run(run, experiment=experiment, job="train", trigger="test", code_hash="c0de")
    training = Training(run=run, experiment=experiment)
    train(training, services.grid, services.memory(), np.random.default_rng(0))
    return list(state.rounds(run)[0].counted)


def test_other_rows_than_at_the_first_contact_need_the_operator(state: State) -> None:
    assert admitted(state, among(honest), "r1") == list(SITES)
    assert admitted(state, among(stating(5000)), "r2") == ["north", "south"]
    assert failure_of(state, "r2").startswith("reply refused: it states 5,000 rows, and stated 200")
    assert "readmit" in advice(failure_of(state, "r2"))
    assert admitted(state, among(honest), "r3") == list(SITES)
    state.readmit_site("west", federation="home")
    assert admitted(state, among(stating(5000)), "r4") == list(SITES)
    assert admitted(state, among(honest), "r5") == ["north", "south"]


def test_an_operator_may_say_how_many_rows_a_site_has(state: State) -> None:
    for node, name in enumerate(SITES, start=1):
        state.admit_site(name, federation="home", node_id=node, key="k", stated_rows=ROWS)
    assert admitted(state, among(stating(10**12)), "r1") == ["north", "south"]


def test_a_drift_check_holds_a_site_to_its_rows_too(state: State) -> None:
    """Within one run; over runs where sites are admitted by key."""
    experiment = plan(quorum=2)
    state.start_run("first", experiment=experiment, job="train", trigger="test", code_hash="c0de")
    state.link_run("first", model_version=1, result=json.dumps({"windows": ["w1"]}))
    state.record_decision("fake", window="", kind="promote", subject="version 1", by="p", reason="r")
    assert admitted(state, among(honest), "r1") == list(SITES)
    job = Job(kind="cycle", run="c", experiment=experiment, window="w2")
    run_cycle(job, services_of(FakeFederation(among(stating(10**9))), state, federation="home"))
    assert failure_of(state, "c").startswith("reply refused: it states 1,000,000,000 rows")
