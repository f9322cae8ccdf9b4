"""How much of the stated ε an attack proves: a bound without an attack beside it may hide a mistake.

There is no alternative to run: of the systems in the field none comes with an audit.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from contract.experiment import Experiment, Label, NumericFeature, Privacy, Task
from experiments.benchmarks.measurement import Measurement

__all__ = ["measure"]

_RUNS = 400
_GOALS = {1.0: 0.80, 4.0: 0.93, 8.0: 0.96}
"""The least share of the stated ε that an attack is to prove, by ε."""


def measure(progress: Callable[[int, int], None] = lambda _done, _of: None) -> list[Measurement]:
    """The audit's main probe at three ε, and how long the longest took."""
    from experiments.audit.probes import configured

    task = Task(
        label=Label(column="label"), features=(NumericFeature(name="x", kind="numeric", low=0, high=1),)
    )
    found, seconds = [], []
    for number, (epsilon, goal) in enumerate(_GOALS.items()):
        experiment = Experiment(name="audit", task=task, privacy=Privacy(epsilon=epsilon))
        finding = configured(experiment, np.random.default_rng(number), runs=_RUNS)
        seconds.append(finding.seconds)
        found.append(
            Measurement(
                name=f"audit: lower bound with 95 % confidence over the stated ε = {epsilon:g}",
                ours=finding.lower_bound / finding.stated,
                theirs=None,
                unit="ratio",
                goal=goal,
                at_least=True,
                note=f"{finding.trials:,} trials in {_RUNS} runs of the client path",
            )
        )
        progress(number + 1, len(_GOALS))
    longest = Measurement(
        name="audit: time for one such bound", ours=max(seconds), theirs=None, unit="s", goal=30.0
    )
    return [*found, longest]
