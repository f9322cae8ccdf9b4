"""The noise in what leaves, by the real path: its scale is what the ledger charged, its streams are apart.

A release is compared with what the mechanism gives without noise. Each test has a chance of 1e-6 at most
to fail though all is well: half of it for each of the two tests of a scale, and shared among all pairs
and lags of the correlations.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from flwr.app import Message
from scipy.stats import chi2, kstest, norm

from clients import site as sites
from clients.app import app
from clients.mechanisms.evaluation import evaluate
from clients.mechanisms.noise import NoNoise
from clients.mechanisms.training import LocalSteps, train_locally
from clients.site import Site, open_site
from contract.experiment import Experiment
from contract.experiment_file import parse_experiment
from contract.messages import DRIFT_QUERY, Instruction, Reply
from contract.models import initial_arrays
from experiments.runtimes.inline import InlineGrid
from monitoring.binning import count_features
from server.line.flower import assume_identity
from tests.cards import card_for

Floats = npt.NDArray[np.float64]

FALSE_ALARM = 1e-6
FEATURES = 60
EVALUATIONS = 60

TEXT = """\
name = "wide"
[task]
time = "window"
label = {{ column = "ill" }}
{person}
{features}
[model]
kind = "mlp"
hidden = [64]
[strategy]
learning_rate = 0.5
[drift]
bins = 100
[privacy]
delta = 1e-4
clipping_norm = 0.3
{unit}
"""

FEATURE = '[[task.features]]\nname = "f{}"\nkind = "numeric"\nlow = 0\nhigh = 100'


def experiment(unit: str = "record") -> Experiment:
    persons = unit == "person"
    text = TEXT.format(
        person='person = "id"' if persons else "",
        features="\n".join(FEATURE.format(number) for number in range(FEATURES)),
        unit='unit = "person"\nrows_per_person = 2' if persons else "",
    )
    return parse_experiment(text, where="wide")


def make_site(folder: Path, name: str, unit: str = "record") -> Path:
    """Persons of two rows each; every site has the same ones, so that only the noise can differ."""
    rng = np.random.default_rng(1)
    lines = [",".join([*(f"f{number}" for number in range(FEATURES)), "id", "ill", "window", "side"])]
    for row in range(80):
        values = [f"{value:.2f}" for value in rng.uniform(0, 100, FEATURES)]
        side = "holdout" if row // 2 % 4 == 0 else "train"
        lines.append(",".join([*values, str(row // 2), str(row % 3 % 2), "w1", side]))
    place = folder / name
    place.mkdir()
    (place / "rows.csv").write_text("\n".join(lines) + "\n")
    (place / "site.toml").write_text(
        f'name = "{name}"\nstated_rows = 50\n[data]\nkind = "csv"\npath = "rows.csv"\n'
        f"{card_for(experiment(unit), holdout='side')}[policy]\nepsilon_cap = 1e4\n"
    )
    return place / "site.toml"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(sites, "_open", {})
    monkeypatch.setattr("clients.mechanisms.drift.write_local_report", lambda *_: None)  # seconds
    yield tmp_path
    for known in sites._open.values():
        known.ledger.close()


def ask(site: Path, kind: str, plan: Experiment, step: int = 1) -> Reply:
    instruction = Instruction(run="r", step=step, windows=("w1",), reference_windows=("w1",))
    grid = InlineGrid(app, [site], {"experiment": plan.model_dump_json()})
    assume_identity(grid.run_id)
    content = instruction.to_records({} if kind == DRIFT_QUERY else start(plan))
    (answer,) = grid.send_and_receive([Message(content=content, dst_node_id=1, message_type=kind)])
    assert answer.has_content(), answer.error.reason
    return Reply.from_records(answer.content)


def start(plan: Experiment) -> dict[str, npt.NDArray[Any]]:
    return initial_arrays(plan, np.random.default_rng(0))


def charged(site: Site, purpose: str) -> float:
    """The noise multiplier that the ledger's own entry says."""
    bodies = [entry.body for entry in site.ledger.entries() if entry.kind == "authorise"]
    return float(next(body["noise_multiplier"] for body in bodies if body["purpose"] == purpose))


def flat(arrays: dict[str, npt.NDArray[Any]]) -> Floats:
    return np.concatenate([np.asarray(array, dtype=np.float64).ravel() for array in arrays.values()])


def update_noise(path: Path, plan: Experiment, step: int = 1) -> Floats:
    """Over the scale that the charge is for: σ · clipping norm · rows of a unit, over the stated rows."""
    reply, site = ask(path, "train", plan, step), open_site(path)
    assert reply.update is not None
    multiplier = charged(site, "train")
    steps = LocalSteps(experiment=plan, stated_rows=50, noise_multiplier=multiplier)
    table = site.table(plan, ("w1",), holdout=False)
    calm = train_locally(start(plan), table, steps, NoNoise()).arrays
    scale = plan.strategy.learning_rate * multiplier * 0.3 * plan.privacy.rows_per_person / 50
    return (flat(reply.update.arrays) - flat(calm)) / scale


def score_noise(path: Path, plan: Experiment) -> Floats:
    """One record is in one cell, so the scale is σ · rows of a unit."""
    replies = [ask(path, "evaluate", plan, step).scores for step in range(EVALUATIONS)]
    site = open_site(path)
    table = site.table(plan, ("w1",), holdout=True)
    calm = evaluate(start(plan), table, plan, noise_multiplier=0.0, noise=NoNoise())
    scale = charged(site, "evaluate") * plan.privacy.rows_per_person
    exact = np.r_[calm.negative, calm.positive]
    return (
        np.concatenate([np.r_[scores.negative, scores.positive] - exact for scores in replies if scores])
        / scale
    )


def drift_noise(path: Path, plan: Experiment) -> Floats:
    """One record is in one cell of each feature and of the label: σ · rows of a unit · √(d + 1)."""
    drift, site = ask(path, DRIFT_QUERY, plan).drift, open_site(path)
    assert drift is not None
    exact = count_features(site.rows(("w1",)).frame, plan.task, plan.drift.bins)
    scale = charged(site, "drift") * plan.privacy.rows_per_person * np.sqrt(FEATURES + 1)
    counts = [
        (released - exact[item.feature]) / scale
        for item in drift.features
        for released in (item.reference, item.current)
    ]
    return np.concatenate(counts)


def fits(drawn: Floats) -> bool:
    """Whether the numbers may be standard normal: by Kolmogorov and Smirnov, and their squares by χ²."""
    level, total = FALSE_ALARM / 2, float(drawn @ drawn)
    square = min(chi2.cdf(total, len(drawn)), chi2.sf(total, len(drawn))) > level / 2
    return bool(square and kstest(drawn, "norm").pvalue > level)


@pytest.mark.parametrize("unit", ["record", "person"])
@pytest.mark.parametrize("noise_of", [update_noise, score_noise, drift_noise])
def test_a_release_has_the_noise_that_was_charged_and_no_other_scale_passes(
    place: Path, noise_of: Callable[[Path, Experiment], Floats], unit: str
) -> None:
    drawn = noise_of(make_site(place, "north", unit), experiment(unit))
    assert len(drawn) >= 2000
    assert fits(drawn)
    assert not fits(drawn * 2 / 3)
    assert not fits(drawn * 3 / 2)


def related(streams: list[Floats]) -> bool:
    """Whether two streams correlate at any shift, or one with itself shifted (each by Fisher's z)."""
    size = len(streams[0])
    spectra = [np.fft.rfft((stream - stream.mean()) / stream.std()) for stream in streams]
    pairs = list(combinations_with_replacement(range(len(streams)), 2))
    limit = norm.isf(FALSE_ALARM / 2 / (len(pairs) * size)) / np.sqrt(size)
    for one, other in pairs:
        correlations = np.fft.irfft(spectra[one] * spectra[other].conj(), size) / size
        if np.abs(correlations[one == other :]).max() > np.tanh(limit):  # all but a stream with itself
            return True
    return False


def forked(path: Path, plan: Experiment, out: Path) -> Floats:
    """The noise of a process that was forked from this one, with all of this one's state."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            torch.set_num_threads(1)  # a fork has none of its parent's threads
            np.save(out, update_noise(path, plan))
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    return np.asarray(np.load(out))


def test_sites_rounds_and_forked_processes_share_no_stream(place: Path) -> None:
    plan = experiment()
    names = ("north", "south")
    streams = [
        update_noise(path, plan, step)
        for path in (make_site(place, name) for name in names)
        for step in (1, 2, 3)
    ]
    streams += [
        forked(make_site(place, f"fork-{number}"), plan, place / f"{number}.npy") for number in range(4)
    ]
    assert all(len(stream) > 3900 for stream in streams)
    assert not related(streams)
    # what it would find: a stream used again, also from another place on, and under half as much other noise
    for again in (streams[0], np.roll(streams[3], 1000), streams[5] + 2 * streams[6]):
        assert related([*streams, again])
