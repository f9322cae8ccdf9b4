"""The audit: does what a site states of a run hold for what the run did?

Every probe makes runs through the real client path (`observation`), attacks them
(`attack`), and turns the attack's error rates into a lower bound on ε (`bounds`).
If it is above what the site's ledger states of the same runs, the statement is
false, whatever the reason, and the probe raises an alarm.

An alarm is raised at a chance of one in a million of being wrong; the bound that is
shown is that of 95 %. An audit without an alarm proves nothing: it shows how far an
attacker came who knew everything but the canary.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from contract.experiment import Experiment
from experiments.audit.attack import CANARIES, Attack, canary_rows, outside
from experiments.audit.bounds import epsilon_lower_bound, share_at_most, spread_by_chance
from experiments.audit.observation import View, audited, observe, temporary_folder

__all__ = ["Finding", "audit", "configured", "findings_of", "outlier", "sampler", "two_sites"]

Floats = npt.NDArray[np.float64]
Progress = Callable[[int], None]

_WRONG_ALARM = 1e-6
_SHOWN = 0.05
_ROUNDS = 2
"""Of one run: with one round, an account that forgets the rounds before would go unnoticed."""
_SENSITIVE = 8.0
"""The ε of the probes that look for a fault of any size: at a large one, attacks see most."""

_HARDLY_ANY_NOISE = 60.0
"""The ε of the probe that sees through the noise."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one probe found.

    Attributes:
        probe: what it looked at.
        stated: the ε that the sites' ledgers state of its runs, at `delta`.
        lower_bound: with 95 % confidence, ε is not below this.
        proven: the same with a chance of error of one in a million.
        independent: whether errors came as independent ones do; if not, the noise is not what is
            stated, and the bounds mean nothing.
        errors, trials: how often the attack was wrong, and how often it chose.
        seconds: how long it took.
    """

    probe: str
    stated: float
    delta: float
    lower_bound: float
    proven: float
    independent: bool = True
    errors: int
    trials: int
    seconds: float

    @property
    def alarm(self) -> bool:
        """Whether what is stated is disproved."""
        return self.proven > self.stated or not self.independent


@dataclass(frozen=True, kw_only=True)
class _Mechanism:
    """What a lower bound is computed for: the mechanism as stated."""

    delta: float
    noise_multiplier: float
    sampling_rate: float
    steps: int

    @classmethod
    def of(cls, experiment: Experiment, view: View) -> _Mechanism:
        return cls(
            delta=view.stated.delta,
            noise_multiplier=view.noise_multiplier,
            sampling_rate=experiment.privacy.sampling_rate,
            steps=experiment.strategy.rounds * experiment.strategy.local_steps,
        )

    def bound(self, errors: int, trials: int, chance: float) -> float:
        """The lower bound on ε from so many errors; `chance` of being too high."""
        return epsilon_lower_bound(
            share_at_most(errors, trials, chance),
            delta=self.delta,
            noise_multiplier=self.noise_multiplier,
            sampling_rate=self.sampling_rate,
            steps=self.steps,
        )


def audit(
    experiment: Experiment,
    *,
    runs: int = 200,
    seed: int = 0,
    progress: Progress = lambda _done: None,
) -> list[Finding]:
    """All probes of an experiment's privacy settings.

    Args:
        experiment: whose privacy settings and local steps are audited; its task and model are replaced.
        runs: of the probe that looks at the experiment's own ε; the others need fewer.
        seed: of the canaries' coins; noise comes from the system as always.
        progress: is told how many probes are done.
    """
    findings = []
    for number, finding in enumerate(findings_of(experiment, runs=runs, seed=seed), start=1):
        findings.append(finding)
        progress(number)
    return findings


def findings_of(experiment: Experiment, *, runs: int, seed: int = 0) -> Iterator[Finding]:
    """What `audit` gives, one probe after the other: who looks for one alarm need not wait for the rest."""
    few = max(10, runs // 5)
    probes: list[Callable[[np.random.Generator], Finding]] = [
        lambda rng: configured(experiment, rng, runs=runs),
        lambda rng: configured(experiment, rng, runs=few, epsilon=_SENSITIVE),
        lambda rng: two_sites(experiment, rng, runs=few),
        lambda rng: outlier(experiment, rng, runs=max(80, 2 * few)),
    ]
    if experiment.privacy.sampling_rate < 1:
        probes.append(lambda rng: sampler(experiment, rng, runs=max(100, few)))
    for number, probe in enumerate(probes):
        yield probe(np.random.default_rng([seed, number]))


def configured(
    experiment: Experiment, rng: np.random.Generator, *, runs: int, epsilon: float | None = None
) -> Finding:
    """Runs with the experiment's settings: noise, clipping, steps and the ledger's account of them."""
    epsilon = experiment.privacy.epsilon if epsilon is None else epsilon
    plan = audited(experiment, features=CANARIES, rounds=_ROUNDS, epsilon=epsilon)
    return _canaries(f"training at ε = {epsilon:g}", plan, rng, runs)


def sampler(experiment: Experiment, rng: np.random.Generator, *, runs: int) -> Finding:
    """One pass over the rows with so little noise that the server sees which rows a batch held."""
    privacy = experiment.privacy
    rounds = round(1 / (privacy.sampling_rate * experiment.strategy.local_steps))
    plan = audited(experiment, features=CANARIES, rounds=min(100, max(1, rounds)), epsilon=_HARDLY_ANY_NOISE)
    return _canaries("who is in a batch", plan, rng, runs)


def two_sites(experiment: Experiment, rng: np.random.Generator, *, runs: int) -> Finding:
    """The same runs at a second site without canaries: noise that both share can be taken out."""
    plan = audited(
        experiment, features=CANARIES, rounds=_ROUNDS, epsilon=min(1.0, experiment.privacy.epsilon)
    )
    return _canaries("one site's noise against another's", plan, rng, runs, beside=True)


def _canaries(
    name: str, plan: Experiment, rng: np.random.Generator, runs: int, *, beside: bool = False
) -> Finding:
    began = time.perf_counter()
    coins = rng.random((runs, CANARIES)) < 0.5
    rows_each = plan.privacy.rows_per_person
    nobody = canary_rows(np.zeros(CANARIES, dtype=np.bool_), rows_each)
    said = np.empty((runs, CANARIES), dtype=np.bool_)
    stated, threshold = 0.0, math.nan
    with temporary_folder() as folder:
        for number, present in enumerate(coins):
            sites = [canary_rows(present, rows_each), *([nobody] if beside else [])]
            views = observe(plan, sites, Path(folder) / str(number), f"run-{number}")
            if number == 0:
                noise = math.sqrt(2) if beside else 1.0
                attack = Attack.on(plan, views[0].noise_multiplier, noise=noise)
                threshold = attack.threshold(rng)
            sums = views[0].sums - views[1].sums if beside else views[0].sums
            said[number] = attack.scores(sums) > threshold
            stated = max(stated, views[0].stated.epsilon)
    mechanism = _Mechanism.of(plan, views[0])
    wrong = said != coins
    errors = int(wrong.sum())
    return Finding(
        probe=name,
        stated=stated,
        delta=mechanism.delta,
        lower_bound=mechanism.bound(errors, wrong.size, _SHOWN),
        proven=mechanism.bound(errors, wrong.size, _WRONG_ALARM),
        independent=spread_by_chance(wrong.sum(axis=1), CANARIES) > _WRONG_ALARM,
        errors=errors,
        trials=wrong.size,
        seconds=time.perf_counter() - began,
    )


def outlier(experiment: Experiment, rng: np.random.Generator, *, runs: int) -> Finding:
    """One row far outside its public range: it may move the sum by one clipped gradient and no more.

    In which direction it moves the sum otherwise nobody knows: the first half of the runs shows it, and
    the second half is judged by it.
    """
    began = time.perf_counter()
    plan = audited(
        experiment, features=8, rounds=_ROUNDS, epsilon=min(1.0, experiment.privacy.epsilon), low=0.0
    )
    rows = int(rng.integers(2**32))
    seen: dict[bool, Floats] = {}
    with temporary_folder() as folder:
        for there in (False, True):
            site = outside(np.random.default_rng(rows), there=there)
            folders = [Path(folder) / f"{there}-{number}" for number in range(runs)]
            views = [observe(plan, [site], place, "run")[0] for place in folders]
            seen[there] = np.array([view.sums.sum(axis=0) for view in views])
    half = runs // 2
    direction = seen[True][:half].mean(axis=0) - seen[False][:half].mean(axis=0)
    threshold = float((seen[True][:half].mean(axis=0) + seen[False][:half].mean(axis=0)) / 2 @ direction)
    errors = int((seen[False][half:] @ direction > threshold).sum())
    errors += int((seen[True][half:] @ direction <= threshold).sum())
    trials = 2 * (runs - half)
    mechanism = _Mechanism.of(plan, views[0])
    return Finding(
        probe="a row outside its range",
        stated=max(view.stated.epsilon for view in views),
        delta=mechanism.delta,
        lower_bound=mechanism.bound(errors, trials, _SHOWN),
        proven=mechanism.bound(errors, trials, _WRONG_ALARM),
        errors=errors,
        trials=trials,
        seconds=time.perf_counter() - began,
    )
