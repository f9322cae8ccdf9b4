"""A site's drift check: the full report stays here, noisy counts go out.

The reference counts are released once for each reference and kept: comparing
against them again is post-processing and costs nothing. Every row adds 1 to one
count of each of the d features (the label is one), so the L2 sensitivity of a
window's counts is sqrt(d).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from clients.mechanisms.drawing import Drawing, report_queue
from clients.mechanisms.noise import NormalSource, noisy
from clients.mechanisms.report_files import request_digest
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
    can_train: bool,
) -> DriftSummary:
    """Put the released counts of both windows together, and whether the budget allows a training."""
    return DriftSummary(
        window="+".join(windows),
        reference_window="+".join(reference_windows),
        features=tuple(
            FeatureCounts(feature=feature, reference=reference[feature], current=current[feature])
            for feature in current
        ),
        reference_deviation=deviation,
        current_deviation=deviation,
        can_train=can_train,
    )


def write_local_report(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    experiment: Experiment,
    instruction: Instruction,
    folder: Path,
) -> None:
    """Have Evidently's full report of both windows written into the site's own folder; it never leaves it.

    It is drawn after the answer, elsewhere (`clients.mechanisms.drawing`): the server does not
    wait for it, and a report that fails fails in the site's log alone. A request that comes again
    is drawn once.
    """
    try:
        asked = (instruction.run, instruction.step, instruction.windows, instruction.reference_windows)
        report_queue().add(
            Drawing(
                digest=request_digest(*asked, experiment.digest),
                reference=reference,
                current=current,
                experiment=experiment,
                run=instruction.run,
                windows=instruction.windows,
                reference_windows=instruction.reference_windows,
                folder=folder,
            )
        )
    except Exception:  # the answer is charged and made: nothing about a report may keep it here
        _log.exception("a drift report cannot be drawn")
