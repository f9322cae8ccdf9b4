"""Whether a question for ranges can have an answer, so that nobody pays for one that says nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

from contract.errors import InputError
from contract.experiment import Experiment
from contract.federation_api import SiteCard
from contract.gaussian import gaussian_delta
from contract.words import counted, verb
from server.jobs.job import RangeQuestion
from server.jobs.quantiles import least_share

__all__ = ["require_tellable"]

_HELD_OUT = 0.3
"""The share of the rows that a site holds out whose card is not known here."""
_HALVINGS = 60


def require_tellable(question: RangeQuestion, experiment: Experiment, sites: Sequence[SiteCard]) -> None:
    """Refuse a question whose answer the noise would hide, by the rows that the sites state.

    Args:
        question: what is asked; a larger share may be told where a smaller is not.
        experiment: says the privacy.
        sites: that are to answer; one that states no rows leaves the question open.

    Raises:
        InputError: the noise would hide tails of that share; with the share at which it would not.
    """
    rows = [_rows(site) for site in sites]
    if not experiment.privacy.private or not sites or 0.0 in rows:
        return
    asked = len(question.features)
    noise = _noise(question.epsilon, experiment.privacy.delta)
    deviation = noise * experiment.privacy.rows_per_person * math.sqrt(asked * len(sites))
    least = least_share(rows=sum(rows), noise_deviation=deviation, features=asked)
    if least > question.share:
        states = verb(len(sites), "states", "state")
        raise InputError(
            f"with ε = {question.epsilon:g} the noise of {counted(len(sites), 'site')}, which {states} about "
            f"{sum(rows):,.0f} rows with the held-out ones, would hide tails below {least:.1%} of them; "
            "nothing was asked and nothing charged",
            where="epsilon",
            remedy="Give a larger --epsilon or --share, or ask about fewer features",
        )


def _rows(site: SiteCard) -> float:
    """All rows of a site: it states those to train on; 0 where it states none."""
    share = _HELD_OUT if site.card is None else site.card.holdout.share
    return (site.stated_rows or 0) / (1 - share)


def _noise(epsilon: float, delta: float) -> float:
    """The least noise of the Gaussian mechanism, in units of what one record changes."""
    low, high = 1e-6, 1e6
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        if gaussian_delta(epsilon, 1 / middle) > delta:
            low = middle
        else:
            high = middle
    return high
