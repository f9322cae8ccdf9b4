"""Whatever one site does, the round goes on without it, and says so."""

from __future__ import annotations

import functools
import itertools
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import RecordDict

from contract.errors import RoundError
from contract.experiment import Experiment
from contract.messages import Instruction, Reply
from contract.releases import ModelUpdate
from server.jobs.memory import RunMemory
from server.line.flower import assume_identity
from server.rounds import Training, TrainingResult, train
from server.state.participation import advice, kind_of
from server.state.storage import State, open_state
from tests.server.federation import (
    Arrays,
    Behaviour,
    FakeFederation,
    honest,
    plan,
    scaled,
    text_of,
    written,
)

SITES = ("north", "south", "west")


@pytest.fixture(autouse=True)
def _identity() -> None:
    assume_identity(1)


@pytest.fixture(scope="module")
def new_state(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], State]:
    """Makes an empty state database: a copy of one, for its migrations take a while."""
    folder = tmp_path_factory.mktemp("states")
    open_state(f"sqlite:///{folder}/empty.db").close()
    numbers = itertools.count()

    def make() -> State:
        copy = shutil.copy(folder / "empty.db", folder / f"{next(numbers)}.db")
        return open_state(f"sqlite:///{copy}")

    return make


@pytest.fixture
def state(new_state: Callable[[], State]) -> Iterator[State]:
    with new_state() as made:
        yield made


class Run:
    """One training of a fake federation, and what the state database says of it."""

    def __init__(
        self,
        state: State,
        experiment: Experiment,
        sites: Mapping[str, Behaviour],
        online: Mapping[str, range] | None = None,
        admitted: Mapping[int, str] | None = None,
    ) -> None:
        self.grid = FakeFederation(sites, online)
        self.state, self.experiment = state, experiment
        self.published: dict[int, Mapping[str, float]] = {}
        known = self.grid.names if admitted is None else admitted
        self.memory = RunMemory(
            state, lambda named, step: self.published.update({step: named}), admitted=lambda: known
        )
        if state.run("r") is None:
            state.start_run("r", experiment=experiment, job="train", trigger="test", code_hash="c0de")

    def train(self) -> TrainingResult:
        training = Training(run="r", experiment=self.experiment)
        return train(training, self.grid, self.memory, np.random.default_rng(0))

    def history(self, site: str, kind: str = "train") -> list[tuple[str, str]]:
        """State and kind of reason by round."""
        return [
            (item.state, kind_of(item.reason))
            for item in self.state.participation("r")
            if (item.site, item.kind) == (site, kind)
        ]


def three(**behaviours: Behaviour) -> dict[str, Behaviour]:
    return {site: behaviours.get(site, honest) for site in SITES}


def on(step: int, behave: Behaviour) -> Behaviour:
    """Behave so in one round, and well in all others."""
    return lambda reply, told, model: behave(reply, told, model) if told.step == step else reply


def changed(**values: Any) -> Behaviour:
    return lambda reply, _, __: replace(reply, **values)


def updated(change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> Behaviour:
    """With every array of the update changed."""

    def behave(reply: Reply, told: Instruction, model: Arrays) -> Reply | RecordDict:
        del told, model
        if reply.update is None:
            return reply
        arrays = {name: change(value) for name, value in reply.update.arrays.items()}
        return written(text_of(reply), arrays)

    return behave


def binned(bins: int, value: float = 1.0, deviation: float = 0.0) -> Behaviour:
    def behave(reply: Reply, told: Instruction, model: Arrays) -> Reply:
        del told, model
        assert reply.scores is not None
        counts = np.full(bins, value)
        return replace(
            reply,
            scores=replace(reply.scores, negative=counts, positive=counts, noise_deviation=deviation),
        )

    return behave


def test_a_whole_run_counts_everyone_in_every_round(state: State) -> None:
    run = Run(state, plan(rounds=3), three())
    result = run.train()
    assert result.complete
    assert dict(result.counted) == dict.fromkeys(SITES, 3)
    for site in SITES:
        assert run.history(site) == [("counted", "")] * 3
        assert run.history(site, "evaluate") == [("counted", "")]
        assert run.published[2][f"site/{site}/counted"] == 1
    assert {item.stated_rows for item in state.participation("r")} == {200}


FAULTS: dict[str, tuple[Behaviour, str]] = {
    "float64": (updated(lambda array: array.astype(np.float64)), "update refused"),
    "integers": (updated(lambda array: array.astype(np.int32)), "update refused"),
    "half as exact": (updated(lambda array: array.astype(np.float16)), "update refused"),
    "another shape": (updated(lambda array: np.concatenate([array, array])), "update refused"),
    "not a number": (updated(lambda array: array * np.float32("nan")), "update refused"),
    "infinite": (updated(lambda array: array + np.float32("inf")), "update refused"),
    "far too long": (updated(lambda _: np.zeros(10**6, dtype=np.float32)), "update refused"),
    "none": (changed(update=None), "update refused"),
    "no scores": (changed(scores=None), "scores refused"),
    "other bins": (binned(10), "scores refused"),
    "no bins": (binned(0), "scores refused"),
    "counts that are not finite": (binned(20, float("nan")), "scores refused"),
    "more rows than stated": (binned(20, 1e9), "scores refused"),
    "fewer rows than none": (binned(20, -50.0), "scores refused"),
    "another noise": (binned(20, 1.0, 3.0), "scores refused"),
    "no rows": (changed(stated_rows=0), "reply refused"),
    "fewer than none": (changed(stated_rows=-5), "reply refused"),
    "absurdly many rows": (changed(stated_rows=10**13), "reply refused"),
    "rows of a thousand digits": (changed(stated_rows=10**1000), "reply refused"),
    "private all of a sudden": (changed(private=True), "reply refused"),
    "a name that is none": (changed(site="[bold]"), "name refused"),
    "another's name": (changed(site="north"), "name refused"),
    "an endless mechanism": (changed(mechanism="x" * 20_000), "reply refused"),
    "another run's reply": (changed(request="q/train/1"), "old reply"),
    "no reply": (lambda *_: RecordDict(), "a site sent a reply that this version does not understand"),
    "a refusal": (lambda *_: "budget", "budget"),
    "silence": (lambda *_: None, "no answer"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_site_at_fault_is_named_for_that_round_and_the_others_go_on(state: State, fault: str) -> None:
    behave, reason = FAULTS[fault]
    run = Run(state, plan(rounds=3, evaluate_every=1, quorum=2), three(west=on(2, behave)))
    result = run.train()
    said = "connected" if reason in ("budget", "no answer") else "trained"
    assert run.history("west") == [("counted", ""), (said, reason), ("counted", "")]
    assert run.history("north") == run.history("south") == [("counted", "")] * 3
    first, second, third = state.rounds("r")
    assert (first.counted, third.counted) == (SITES, SITES)
    assert second.counted == ("north", "south")
    assert list(second.failures) == ["west"]
    assert kind_of(second.failures["west"]) == reason
    assert advice(second.failures["west"])
    assert not result.complete
    assert result.counted["west"] == 2
    assert run.published[2]["site/west/counted"] == 0
    assert result.overall is not None


def test_scores_at_fault_in_the_final_evaluation_leave_the_others(state: State) -> None:
    run = Run(state, plan(rounds=2), three(west=on(3, binned(10))))
    result = run.train()
    assert sorted(result.site_metrics) == ["north", "south"]
    assert result.failures == {"west": "scores refused: 10 bins, where 20 are agreed"}
    assert run.history("west", "evaluate") == [("answered", "scores refused")]
    assert dict(result.counted) == dict.fromkeys(SITES, 2)
    assert not result.complete
    assert result.replies["west"].site == "west"


def test_a_refused_update_leaves_the_model_of_the_others_alone(state: State) -> None:
    bad = updated(lambda array: array * np.float32("inf"))
    found = Run(state, plan(rounds=4, average_last=1.0), three(west=bad)).train()
    assert all(np.isfinite(value).all() for value in found.arrays.values())
    assert found.counted == {"north": 4, "south": 4, "west": 0}


def test_the_rows_that_a_site_states_stay_for_the_run_and_over_a_restart(state: State) -> None:
    louder = changed(stated_rows=5000)
    run = Run(state, plan(rounds=3), three(west=on(2, louder)))
    run.train()
    assert run.history("west")[1] == ("trained", "reply refused")
    (reason,) = state.rounds("r")[1].failures.values()
    assert reason == "reply refused: it states 5,000 rows, and stated 200 before"
    again = Run(state, plan(rounds=3), three())
    assert again.memory.stated_rows("r") == dict.fromkeys(SITES, 200)


def test_the_reply_to_an_earlier_round_is_not_taken_for_this_one(state: State) -> None:
    kept: dict[int, Reply] = {}

    def again(reply: Reply, told: Instruction, model: Arrays) -> Reply:
        del model
        kept[told.step] = reply
        return kept[1] if told.step == 3 else reply

    run = Run(state, plan(rounds=3), three(west=again))
    run.train()
    assert run.history("west") == [("counted", ""), ("counted", ""), ("trained", "old reply")]
    assert state.rounds("r")[2].failures == {"west": "old reply: it answers 'r/train/1' and not 'r/train/3'"}


def test_a_node_without_admission_cannot_take_a_name_that_answered_before(state: State) -> None:
    thief = on(2, changed(site="north"))
    run = Run(state, plan(rounds=3), {"east": thief, **three()}, admitted={})
    run.train()
    assert state.rounds("r")[1].counted == SITES
    assert state.rounds("r")[1].failures == {"east": "name refused: it answered as 'north'"}


def test_a_reply_that_comes_twice_counts_once(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(state, plan(rounds=2), three())
    pull = run.grid.pull_messages

    def twice(ids: Any) -> list[Any]:
        return [message for message in pull(list(ids)) for _ in range(2)]

    monkeypatch.setattr(run.grid, "pull_messages", twice)
    result = run.train()
    assert result.complete
    assert dict(result.counted) == dict.fromkeys(SITES, 2)


def test_a_site_that_joins_late_counts_from_then_on(state: State) -> None:
    run = Run(state, plan(rounds=5), three(), {"west": range(4, 100)}, admitted={})
    result = run.train()
    assert [item.counted for item in state.rounds("r")] == [("north", "south")] * 3 + [SITES] * 2
    assert result.counted == {"north": 5, "south": 5, "west": 2}
    assert not result.complete


def test_an_admitted_site_that_is_away_is_enrolled_and_missing(state: State) -> None:
    run = Run(state, plan(rounds=4), three(), {"west": range(3, 4)})
    result = run.train()
    away, there = ("enrolled", "not connected"), ("counted", "")
    assert run.history("west") == [away, away, there, away]
    assert run.history("west", "evaluate") == [away]
    assert result.failures == {"west": "not connected"}
    assert state.rounds("r")[0].cohort == ("north", "south")
    assert result.counted["west"] == 1


def test_a_site_that_goes_away_in_mid_run_stays_named(state: State) -> None:
    run = Run(state, plan(rounds=4), three(), {"west": range(1, 3)}, admitted={})
    result = run.train()
    assert run.history("west")[2:] == [("enrolled", "not connected")] * 2
    assert result.counted["west"] == 2
    assert not result.complete


def test_a_slow_site_is_left_out_said_so_and_asked_again(state: State) -> None:
    run = Run(state, plan(rounds=3, quorum=2), three(west=on(2, lambda *_: None)))
    run.train()
    assert [item.counted for item in state.rounds("r")] == [SITES, ("north", "south"), SITES]
    assert state.rounds("r")[1].failures == {"west": "no answer"}
    assert state.rounds("r")[1].seconds < 4


def test_a_round_below_its_quorum_ends_the_run_with_everything_that_helps(state: State) -> None:
    sites = three(
        west=on(2, updated(lambda array: array * np.float32("nan"))), south=on(2, lambda *_: "failed")
    )
    run = Run(state, plan(rounds=3, quorum=2, round_timeout=0.2), sites)
    with pytest.raises(RoundError) as raised:
        run.train()
    assert raised.value.what == (
        "round 2 of run 'r' needs 2 sites and got 1; missing: south (failed), "
        "west (update refused: it holds a number that is not finite)"
    )
    assert "south: ask its administrator for the site's log" in raised.value.remedy
    assert "west: have its administrator look" in raised.value.remedy
    assert "--resume" in raised.value.remedy
    assert run.history("north")[1] == ("trained", "")
    assert run.history("south")[1] == ("connected", "failed")
    again = Run(state, plan(rounds=3, quorum=2, round_timeout=0.2), three())
    assert again.train().complete
    assert again.history("south") == [("counted", "")] * 3


def test_a_quorum_that_is_not_connected_says_which_round_and_who_is_missing(state: State) -> None:
    online = {"west": range(1, 3), "south": range(1, 3)}
    run = Run(state, plan(rounds=5, round_timeout=0.6), three(), online)
    with pytest.raises(RoundError, match="1 site is connected, and 2 are needed") as raised:
        run.train()
    assert raised.value.what.endswith("not connected: south, west")
    assert raised.value.where == "round 3 of run 'r'"
    assert run.history("south")[2] == ("enrolled", "not connected")
    assert run.history("north")[2] == ("connected", "")


def test_a_round_in_progress_is_shown_while_it_lasts(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(state, plan(rounds=1, grace=0.8), three(west=lambda *_: None))
    seen: list[dict[str, str]] = []
    sleep = time.sleep

    def look(seconds: float) -> None:
        sleep(seconds)
        seen.append({item.site: item.state for item in state.participation("r") if item.kind == "train"})

    monkeypatch.setattr("server.exchange.answers.time.sleep", look)
    run.train()
    assert {"north": "trained", "south": "trained", "west": "connected"} in seen
    assert run.history("west") == [("connected", "no answer")]


def times(factor: float) -> Behaviour:
    return lambda reply, _, model: scaled(reply, model, factor)


def distance(one: Arrays, other: Mapping[str, np.ndarray[Any, Any]]) -> float:
    return float(np.sqrt(sum(((one[name] - other[name]) ** 2).sum() for name in one)))


def five(attack: float | None = None) -> dict[str, Behaviour]:
    sites: dict[str, Behaviour] = {f"site-{number}": honest for number in range(5)}
    return sites if attack is None else {**sites, "site-4": times(attack)}


MakeModel = Callable[..., Arrays]


@pytest.fixture(scope="module")
def model_of(new_state: Callable[[], State]) -> MakeModel:
    """The model of twenty rounds of five sites by an aggregation, each made once."""

    @functools.cache
    def make(aggregation: str, attack: float | None = None) -> Arrays:
        with new_state() as state:
            result = Run(state, plan(quorum=5, rounds=20, aggregation=aggregation), five(attack)).train()
        assert result.complete
        return result.arrays

    return make


@pytest.mark.parametrize("attack", [1000.0, -4.0, -1.0])
@pytest.mark.parametrize("aggregation", ["trimmed-mean", "median", "krum"])
def test_a_robust_aggregation_bears_one_bad_site_of_five(
    model_of: MakeModel, attack: float, aggregation: str
) -> None:
    """Nothing is clipped without privacy, so no bound refuses an update: the aggregation stands alone."""
    model = model_of("mean")
    size = distance(model, {name: np.zeros_like(value) for name, value in model.items()})
    assert size > 2
    assert distance(model, model_of(aggregation, attack)) < 0.15 * size


@pytest.mark.parametrize("attack", [1000.0, -4.0])
def test_one_bad_site_of_five_ruins_the_mean(model_of: MakeModel, attack: float) -> None:
    """Turned round and as long as those of the four others, an update undoes theirs."""
    model = model_of("mean")
    size = distance(model, {name: np.zeros_like(value) for name, value in model.items()})
    assert distance(model, model_of("mean", attack)) > 0.9 * size


def test_with_nobody_at_fault_robust_aggregations_end_where_the_mean_does(model_of: MakeModel) -> None:
    for aggregation in ("trimmed-mean", "median", "krum"):
        assert distance(model_of("mean"), model_of(aggregation)) < 0.5


def test_votes_are_not_weighed_by_stated_rows(state: State) -> None:
    """A site that states a million rows has all the weight of the mean, and one vote of the median."""
    loud: Behaviour = lambda reply, _, model: replace(scaled(reply, model, -5.0), stated_rows=10**6)  # noqa: E731
    sites = {**three(), "loud": loud}
    found = Run(state, plan(quorum=3, rounds=10, aggregation="median"), sites).train().arrays
    assert found["layers.0.weight"][0, 0] > 1


def test_the_reply_of_a_faulty_site_is_nowhere_in_what_is_kept(state: State) -> None:
    bad = changed(update=ModelUpdate(arrays={"secret": np.ones(1, dtype=np.float32)}))
    Run(state, plan(rounds=1), three(west=bad)).train()
    kept = json.dumps([vars(item) for item in (*state.rounds("r"), *state.participation("r"))], default=str)
    assert "secret" not in kept


def test_a_site_that_joins_while_a_round_begins_pushes_nobody_out(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first look in a round one site is not there yet; at any other all are."""
    run = Run(state, plan(quorum=2), three())
    looked: list[int] = []

    def look() -> list[int]:
        first = run.grid.exchanges not in looked
        looked.append(run.grid.exchanges)
        return [1, 2] if first else [1, 2, 3]

    monkeypatch.setattr(run.grid, "get_node_ids", look)
    run.train()
    for site in ("north", "south"):
        assert run.history(site) == [("counted", "")] * 10
    assert run.history("west") == [("enrolled", "not connected")] * 10
