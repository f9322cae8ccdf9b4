"""The audit finds what is wrong, whatever it is, and cries about nothing else.

Each fault is one that a federated system had, or easily could have. It is put into the code that
runs at a site; the audit knows nothing of it. `make test` has one fault and six clean audits; `make long`
has the other seven faults and eighteen clean ones; `make audits` two hundred.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import clients.app
import clients.ledger.plans
import clients.mechanisms.clipping
import clients.site
from clients.ledger.chain import Plan
from clients.mechanisms import training
from clients.rows.rows import Rows
from contract.card import Card
from contract.experiment import Experiment, Label, NumericFeature, Privacy, Strategy, Task
from experiments.audit.probes import Finding, configured, findings_of, outlier, sampler, two_sites
from server.settings import apply_quiet_environment

pytestmark = pytest.mark.e2e  # the whole client path, hundreds of times: with the long ones first

TASK = Task(label=Label(column="label"), features=(NumericFeature(name="x", kind="numeric", low=0, high=1),))
FULL = Experiment(name="full", task=TASK, privacy=Privacy(epsilon=8.0))
SAMPLED = Experiment(
    name="sampled",
    task=TASK,
    strategy=Strategy(local_steps=4),
    privacy=Privacy(epsilon=8.0, sampling_rate=0.25),
)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    apply_quiet_environment()
    caplog.set_level("ERROR", logger="tidegate.site")


class SharedNoise:
    """The same at every site: its seed is the run's and the round's."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def normal(self, shape: tuple[int, ...], deviation: float) -> np.ndarray[Any, np.dtype[np.float64]]:
        return self._rng.normal(0, deviation, shape)


def one_noise_seed_at_all_sites(patch: pytest.MonkeyPatch) -> None:
    read = clients.app._Exchange.__init__

    def seeded(self: Any, *arguments: Any) -> None:
        read(self, *arguments)
        self.noise = SharedNoise(zlib.crc32(self.request.encode()))

    patch.setattr(clients.app._Exchange, "__init__", seeded)


def shuffled_batches_for_poisson_ones(patch: pytest.MonkeyPatch) -> None:
    def batches(table: Any, rate: float, count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        inputs, labels = torch.from_numpy(table.features), torch.from_numpy(table.labels)
        parts = torch.tensor_split(torch.randperm(len(labels)), round(1 / rate))
        for number in range(count):
            yield inputs[parts[number % len(parts)]], labels[parts[number % len(parts)]]

    patch.setattr(training, "_poisson_batches", batches)


def an_account_that_starts_anew_each_round(patch: pytest.MonkeyPatch) -> None:
    plan_of = clients.ledger.plans.train_plan

    def forgetful(experiment: Experiment, instruction: Any, split: str) -> Plan:
        strategy = experiment.strategy.model_copy(update={"rounds": 1})
        plan = plan_of(experiment.model_copy(update={"strategy": strategy}), instruction, split)
        run = f"{instruction.run}, round {instruction.step}"
        return replace(plan, name=f"{run}/train", run=run)

    patch.setattr(clients.app, "train_plan", forgetful)


def half_of_the_steps_counted(patch: pytest.MonkeyPatch) -> None:
    noise = clients.ledger.plans._noise
    events = Plan.events
    patch.setattr(
        clients.ledger.plans, "_noise", lambda *given, **more: noise(*given[:-1], given[-1] // 2, **more)
    )
    patch.setattr(Plan, "events", lambda self, uses, plan=None: events(self, uses // 2, plan))


def gradients_that_nobody_clips(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(clients.mechanisms.clipping, "clip_factors", lambda norms, _: torch.ones_like(norms))


def too_little_noise(patch: pytest.MonkeyPatch) -> None:
    add = training.add_noise
    patch.setattr(
        training,
        "add_noise",
        lambda arrays, deviation, source: add(arrays, 0.7 * deviation, source),
    )


def a_scale_taken_from_the_rows(patch: pytest.MonkeyPatch) -> None:
    prepare = clients.site.prepare

    def fitted(rows: Rows, experiment: Experiment, card: Card) -> Any:
        features = experiment.task.features
        numbers = rows.frame[[feature.name for feature in features]].astype(float)
        span = (numbers.max() - numbers.min()).replace(0, 1)
        lows = pd.Series({feature.name: feature.low for feature in features})  # type: ignore[union-attr]
        frame = rows.frame.assign(**((numbers - numbers.min()) / span * (1 - lows) + lows))
        return prepare(replace(rows, frame=frame), experiment, card)

    patch.setattr(clients.site, "prepare", fitted)


def twice_the_sampling_rate(patch: pytest.MonkeyPatch) -> None:
    batches = training._poisson_batches
    patch.setattr(
        training,
        "_poisson_batches",
        lambda table, rate, count: batches(table, 2 * rate, count),
    )


sampled = pytest.mark.xdist_group("sampled audits")
"""One worker: what sampling amounts to takes seconds to compute, and is then known in that process."""

FAULTS = [
    (half_of_the_steps_counted, FULL),
    pytest.param(one_noise_seed_at_all_sites, FULL, marks=pytest.mark.long),
    pytest.param(shuffled_batches_for_poisson_ones, SAMPLED, marks=[sampled, pytest.mark.long]),
    pytest.param(an_account_that_starts_anew_each_round, FULL, marks=pytest.mark.long),
    pytest.param(gradients_that_nobody_clips, FULL, marks=pytest.mark.long),
    pytest.param(too_little_noise, FULL, marks=pytest.mark.long),
    pytest.param(a_scale_taken_from_the_rows, FULL, marks=pytest.mark.long),
    pytest.param(twice_the_sampling_rate, SAMPLED, marks=[sampled, pytest.mark.long]),
]


@pytest.mark.parametrize(("fault", "experiment"), FAULTS, ids=lambda given: getattr(given, "__name__", None))
def test_every_fault_is_found(
    fault: Callable[[pytest.MonkeyPatch], None], experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(monkeypatch)
    findings: list[Finding] = []
    for finding in findings_of(experiment, runs=50):
        findings.append(finding)
        if finding.alarm:  # what the other probes would say is not asked for here
            return
    pytest.fail(f"no alarm: {findings}")


CLEAN = int(os.environ.get("TIDEGATE_CLEAN_AUDITS", "24"))
"""Audits in which nothing is wrong, 200 with `make audits`; in parts that can run beside each other."""
PARTS = 4


def small_audit(experiment: Experiment, seed: int) -> list[Finding]:
    """Every probe of `audit`, with the fewest runs that mean anything."""
    coins = [np.random.default_rng([seed, probe]) for probe in range(4)]
    findings = [
        configured(experiment, coins[0], runs=4),
        two_sites(experiment, coins[1], runs=2),
        outlier(experiment, coins[2], runs=4),
    ]
    return findings + ([sampler(experiment, coins[3], runs=2)] if experiment is SAMPLED else [])


@pytest.mark.parametrize(
    "part",
    [
        pytest.param(0, marks=[sampled, pytest.mark.long]),
        1,
        *(pytest.param(part, marks=pytest.mark.long) for part in range(2, PARTS)),
    ],
)
def test_clean_audits_raise_no_alarm(part: int) -> None:
    experiment = SAMPLED if part == 0 else FULL
    seeds = range(part * CLEAN // PARTS, (part + 1) * CLEAN // PARTS)
    found = {seed: small_audit(experiment, seed) for seed in seeds}
    assert [seed for seed, findings in found.items() if any(finding.alarm for finding in findings)] == []
    proven = [findings[0].lower_bound for findings in found.values()]
    assert np.median(proven) > 2.0, "an audit that proves nothing cannot be wrong"
    print(f"{len(found)} clean audits, seeds {min(found)} to {max(found)}: no alarm")
