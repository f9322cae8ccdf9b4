"""How many rows' gradients are cut to the clipping norm, and how many are not: two noisy counts.

Neighbouring data sets differ by adding or removing one record, or all rows of one person.

Sensitivity. At the parameters w that a round begins with, which the server sent, and the public clipping norm
C, each row of the training side is in one of three cells: its gradient is longer than C; it is not; or
something of the row is not finite, so that it adds nothing to a step (`clipping.Tally`). Which one follows
from w, C and the row alone, for a row gets the same bits whichever rows are beside it (`blocks`, tried at
each site by `places`). So a record more or less changes one of the first two counts by 1 and the other not at
all: the L2 sensitivity of both together is 1. A person has at most r rows in the table
(`privacy.rows_per_person`), and the lengths of one change add up: it is r. The counts are whole numbers, and
lie on the grid of every noise, so that noise of standard deviation z · r in each makes this a Gaussian
mechanism of noise multiplier z, exactly.

Composition. The round's steps look at a Poisson sample of the same rows. A count over that sample would be a
release of its own on one and the same draw: the two would have to be accounted as one sampled Gaussian
mechanism on a longer vector, with another multiplier in these rounds than in the others, and what a sample
hides, the error of the count, would grow. So all rows are counted, whatever the sampling rate, and nothing of
privacy amplification is claimed for it: the counts are a Gaussian mechanism on all training rows, charged as
such to the training rows' blocks. It draws noise of its own and uses no random choice of the steps, so given
all that was released before, it is one more mechanism in an adaptive composition: w is an earlier release.
The accountant composes it so (`clients.ledger.accounting`): Gaussian mechanisms by their filter, beside a
sampled plan by the privacy loss distribution of both. Within the run's ε it is paid for by more noise in the
steps (`contract.clipped`).

It is total: whatever the model's arrays and the rows hold, and if there is no row, two numbers come out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from clients.mechanisms.blocks import MOST_ROWS
from clients.mechanisms.clipping import Tally, require_clipping_norm
from clients.mechanisms.noise import NormalSource, noisy, require_deviation
from clients.mechanisms.training import LocalSteps, summing, tensors
from clients.rows.table import Table
from contract.clipped import ClippedCounts

__all__ = ["count_clipped"]


def count_clipped(
    arrays: Mapping[str, np.ndarray[Any, Any]], table: Table, steps: LocalSteps, noise: NormalSource
) -> ClippedCounts:
    """Count the rows of `table` by whether their gradient at `arrays` is longer than the clipping norm.

    Args:
        arrays: the model that the round begins with.
        table: all training rows; with unit `person` at most `rows_per_person` of each.
        steps: of the round; `noise_multiplier` is that of the counts.
        noise: where it comes from.

    Raises:
        InputError: clipping norm or noise are none, whatever the rows are.
    """
    privacy = steps.experiment.privacy
    deviation = steps.noise_multiplier * privacy.rows_per_person
    require_clipping_norm(privacy.clipping_norm)
    require_deviation(deviation, noise)
    tally = Tally()
    with summing(arrays, steps) as (_, take_sum):
        parts = (torch.split(tensor, MOST_ROWS) for tensor in tensors(table))
        for inputs, labels in zip(*parts, strict=True):  # a device holds no more than in a step
            take_sum(inputs, labels, privacy.clipping_norm, tally=tally)
    cut, kept = noisy(np.array([tally.cut, tally.kept], dtype=np.float64), deviation, noise)
    return ClippedCounts(cut=float(cut), kept=float(kept), noise_deviation=deviation)
