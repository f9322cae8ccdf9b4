"""A rare outcome is found in a run's first counts, and training begins anew with it; nothing else does."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.experiment import Experiment
from contract.messages import Instruction, Reply
from contract.models import beginning_at, initial_arrays
from contract.releases import SCORE_BINS, ScoreHistogram
from server.exchange.checkpoint import Checkpoint
from server.exchange.first_share import begun_anew, rare_share
from server.jobs.diagnosis import diagnosis_of
from server.jobs.memory import RunMemory
from server.line.flower import assume_identity
from server.rounds import Training, TrainingResult, pooled_scores, train
from server.state.storage import State, open_state
from tests.server.federation import Arrays, FakeFederation, honest, plan

SITES = ("north", "south", "west")


def counted(negatives: float, positives: float, noise: float = 0.0, seed: int = 0) -> ScoreHistogram:
    """Every row scored alike, as by a model that knows nothing."""
    counts = np.zeros((2, SCORE_BINS))
    counts[:, SCORE_BINS // 2] = negatives, positives
    counts += np.random.default_rng(seed).normal(0, noise, counts.shape)
    return ScoreHistogram(negative=counts[0], positive=counts[1], noise_deviation=noise)


def test_a_rare_outcome_is_found_within_what_noise_allows() -> None:
    found = [rare_share(counted(2910, 90, noise=8.0, seed=seed)) for seed in range(200)]
    shares = [share for share in found if share is not None]
    assert len(shares) == len(found)
    assert np.mean(np.array(shares) >= 0.03) > 0.95  # it errs towards a half
    assert max(shares) < 0.06


def test_where_the_rare_one_is_the_negative_one_its_share_is_that() -> None:
    share = rare_share(counted(90, 2910))
    assert share is not None
    assert 0.95 < share < 0.97


@pytest.mark.parametrize(
    "scores",
    [
        counted(700, 300),
        counted(900, 100, noise=8.0),  # about a tenth, and not surely below
        counted(39, 1),
        counted(0, 0, noise=8.0),
        counted(0, 0),
        counted(-5, -3),
        counted(2910, 90, noise=300.0),
    ],
)
def test_where_none_is_surely_rare_there_is_no_share(scores: ScoreHistogram) -> None:
    assert rare_share(scores) is None


def test_an_outcome_without_a_row_has_a_share_that_a_bias_can_say() -> None:
    share = rare_share(counted(1000, 0))
    assert share is not None
    assert 0.001 < share < 0.01
    assert math.isfinite(math.log(share / (1 - share)))


def test_a_site_that_lies_makes_none_rare_that_is_above_a_fifth() -> None:
    honest_counts = counted(780, 220)
    scores = {"north": honest_counts, "south": honest_counts, "west": counted(10**9, 0)}
    together = pooled_scores(scores)
    assert isinstance(together, ScoreHistogram)
    assert rare_share(together) is None


@pytest.mark.parametrize(
    "other",
    [
        {"strategy": {"rounds": 19}},
        {"model": {"kind": "package", "name": "own"}},
        {"task": {"label": {"column": "ill", "positive_share": 0.04}}},
        {"task": {"label": {"column": "ill", "classes": ["a", "b", "c"]}}},
    ],
)
def test_an_experiment_that_this_is_not_for_goes_on(other: dict[str, Any]) -> None:
    experiment = plan(rounds=30)
    model = initial_arrays(experiment, np.random.default_rng(0))
    assert begun_anew(experiment, model, counted(2910, 90)) is not None
    said = experiment.model_dump(mode="json", exclude_unset=True)
    for part, keys in other.items():
        said[part] = {**said.get(part, {}), **keys}
    binary = len(said["task"]["label"].get("classes", "01")) == 2
    scores = replace(counted(2910, 90), binary=binary)
    assert begun_anew(Experiment.model_validate(said), model, scores) is None


def test_only_the_bias_of_the_output_is_another() -> None:
    experiment = plan(rounds=30).model_copy(
        update={"model": plan().model.model_copy(update={"kind": "mlp", "hidden": (4,)})}
    )
    model = initial_arrays(experiment, np.random.default_rng(0))
    before = {name: value.copy() for name, value in model.items()}
    changed = beginning_at(0.05, model)
    for name, value in before.items():
        assert np.array_equal(model[name], value)
        same = np.array_equal(changed[name], value)
        assert same == (name != "layers.1.bias")
    assert changed["layers.1.bias"] == pytest.approx(math.log(0.05 / 0.95))


def test_a_checkpoint_keeps_the_share() -> None:
    arrays = {"a": np.zeros(2, dtype=np.float32)}
    for share in (None, 0.04):
        assert (
            Checkpoint.from_bytes(Checkpoint(round=1, arrays=arrays, share=share).to_bytes()).share == share
        )


class Kept:
    """A run on a fake federation of which few rows are positive, and what it sends."""

    def __init__(self, state: State, experiment: Experiment, *, killed_in: int = 0) -> None:
        self.experiment, self.state, self.sent = experiment, state, {}  # type: ignore[var-annotated]
        self.killed_in = killed_in
        if state.run("r") is None:
            state.start_run("r", experiment=experiment, job="train", trigger="test", code_hash="c0de")

    def _site(self, reply: Reply, told: Instruction, model: Arrays) -> Reply:
        if told.step == self.killed_in:
            raise KeyboardInterrupt
        self.sent[told.step] = {name: np.array(value) for name, value in model.items()}
        return replace(reply, scores=counted(776, 24)) if told.step == 1 else honest(reply, told, model)

    def train(self, initial: Arrays | None = None) -> TrainingResult:
        grid = FakeFederation(dict.fromkeys(SITES, self._site))
        memory = RunMemory(self.state, lambda _named, _step: None, admitted=lambda: grid.names)
        training = Training(run="r", experiment=self.experiment, initial=initial)
        return train(training, grid, memory, np.random.default_rng(0))


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    assume_identity(1)
    with open_state(f"sqlite:///{tmp_path}/state.db") as made:
        yield made


RARE = {"rounds": 20, "name": "fedavgm", "server_momentum": 0.8}


def test_training_begins_anew_and_the_diagnosis_says_so(state: State) -> None:
    run = Kept(state, plan(**RARE))
    result = run.train()
    assert result.share == pytest.approx(0.03 + 2 * math.sqrt(0.03 * 0.97 / 2400), abs=0.002)
    assert np.all(run.sent[2]["layers.0.weight"] == 0)
    assert run.sent[2]["layers.0.bias"] == pytest.approx(math.log(result.share / (1 - result.share)))
    words = " ".join(diagnosis_of(run.experiment, result, state.rounds("r")).sentences)
    assert "Round 1 counted at most 4% of the held-out rows as '1', noise included" in words
    # No momentum of the round that was given up: the steps are those of a run that began there.
    alone = beginning_at(result.share, initial_arrays(run.experiment, np.random.default_rng(0)))
    step = run.sent[3]["layers.0.bias"] - run.sent[2]["layers.0.bias"]
    assert np.all(np.abs(alone["layers.0.bias"] + step - run.sent[3]["layers.0.bias"]) < 1e-6)
    assert step > 0  # half of the fake sites' rows are positive; round 1 would have gone on to sink


def test_killed_after_the_first_round_it_goes_on_to_the_same_model(state: State, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Kept(state, plan(**RARE), killed_in=2).train()
    resumed = Kept(state, plan(**RARE)).train()
    with open_state(f"sqlite:///{tmp_path}/other.db") as other:
        whole = Kept(other, plan(**RARE)).train()
    assert resumed.share == whole.share
    for name, value in whole.arrays.items():
        assert np.allclose(resumed.arrays[name], value, atol=1e-6)


def test_a_challenger_goes_on_from_the_champion(state: State) -> None:
    run = Kept(state, plan(**RARE))
    champion = {
        name: value + 1 for name, value in initial_arrays(run.experiment, np.random.default_rng(0)).items()
    }
    result = run.train(initial=champion)
    assert result.share is None
    assert not np.all(run.sent[2]["layers.0.weight"] == run.sent[1]["layers.0.weight"])
