"""A site's drift check: the full report stays here, noisy counts go out.

The reference counts are released once for each reference and kept: comparing
against them again is post-processing and costs nothing. Every row adds 1 to one
count of each of the d features (the label is one), so the L2 sensitivity of a
window's counts is sqrt(d).
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import zlib
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clients.mechanisms.noise import NormalSource, noisy
from clients.rows.persons import limited
from clients.rows.rows import Rows, as_declared
from contract.card import Card
from contract.experiment import Experiment
from contract.messages import Instruction
from contract.releases import Array, DriftSummary, FeatureCounts
from monitoring.binning import count_features, l2_sensitivity

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["drift_deviation", "noisy_counts", "summarise", "write_local_report"]

_log = logging.getLogger("tidegate.site")


def drift_deviation(experiment: Experiment, noise_multiplier: float) -> float:
    """Standard deviation of the noise in each count."""
    return noise_multiplier * l2_sensitivity(
        experiment.task, rows_per_unit=experiment.privacy.rows_per_person
    )


def noisy_counts(
    rows: Rows, experiment: Experiment, card: Card, deviation: float, noise: NormalSource
) -> dict[str, Array]:
    """Counts of every feature over its public bins, each with noise.

    Of the rows as they were read, whatever they hold: a value that the card does not declare counts
    as undeclared, whatever the experiment lists. Where a person is the privacy unit, of at most
    `rows_per_person` rows of each.
    """
    held = limited(rows, experiment.privacy)
    counts = count_features(as_declared(held.frame, card), experiment.task, experiment.drift.bins)
    return {feature: noisy(values, deviation, noise) for feature, values in counts.items()}


def summarise(
    *,
    windows: tuple[str, ...],
    reference_windows: tuple[str, ...],
    reference: Mapping[str, Array],
    current: Mapping[str, Array],
    deviation: float,
) -> DriftSummary:
    """Put the released counts of both windows together."""
    return DriftSummary(
        window="+".join(windows),
        reference_window="+".join(reference_windows),
        features=tuple(
            FeatureCounts(feature=feature, reference=reference[feature], current=current[feature])
            for feature in current
        ),
        reference_deviation=deviation,
        current_deviation=deviation,
    )


def write_local_report(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    experiment: Experiment,
    instruction: Instruction,
    folder: Path,
) -> None:
    """Have Evidently's full report of both windows written into the site's own folder; it never leaves it.

    A process of its own writes it, at low priority, after the answer: the server
    does not wait for seconds of drawing, and a report that fails fails in the
    site's log alone. The process ends with this one, when its queue is empty.
    """
    path = folder / experiment.name / f"{'+'.join(instruction.windows) or 'all'}.html"
    seed = zlib.crc32("/".join((instruction.run, *instruction.windows)).encode())
    written = _writer().submit(_write, reference, current, experiment, path, seed)
    written.add_done_callback(_log_outcome)


@functools.cache
def _writer() -> ProcessPoolExecutor:
    """One lasting process, for importing Evidently takes seconds."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_step_back)


def _step_back() -> None:
    """Draw when the processor has nothing else to do, where the system can say so (Linux)."""
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.nice(10)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _write(
    reference: pd.DataFrame, current: pd.DataFrame, experiment: Experiment, path: Path, seed: int
) -> str:
    from monitoring.report import write_report

    rng = np.random.default_rng(seed)
    write_report(reference, current, task=experiment.task, drift=experiment.drift, path=path, rng=rng)
    return str(path)


def _log_outcome(written: Future[str]) -> None:
    if written.cancelled():
        return
    error = written.exception()
    if error is None:
        _log.info("drift report written: %s", written.result())
    else:
        _log.error("the drift report was not written: %s", error)
