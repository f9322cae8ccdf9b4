"""What share of the gradients was clipped, by the counts of a run's rounds; and what that says of the norm.

All of it is made of what sites released and were charged for. A site may lie in its counts: what it says is
held against the rows that it states (`server.exchange.checks`), over all sites it is no more than a share
(`server.exchange.weights`), and nothing but a sentence follows from it.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contract.clipped import ClippedCounts
from contract.experiment import Experiment
from server.exchange.weights import row_weights
from server.state.records import RoundRecord

__all__ = ["RoundShares", "clipped_words", "shares_of"]

_NEARLY_ALL, _NEARLY_NONE = 0.9, 0.1
_MOST_LISTED = 5


@dataclass(frozen=True, kw_only=True)
class RoundShares:
    """What the sites counted at the model that one round began with.

    Attributes:
        round: the round's number, from 1.
        sites: each site's counts.
    """

    round: int
    sites: Mapping[str, ClippedCounts]

    @property
    def overall(self) -> ClippedCounts:
        """Over the rows of all sites."""
        weights = row_weights({site: found.rows for site, found in self.sites.items()})
        return functools.reduce(
            operator.add, [found.times(weights[site]) for site, found in sorted(self.sites.items())]
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON: shares with their errors, or why there is none."""
        return {
            "overall": _told(self.overall),
            "sites": {site: _told(found) for site, found in sorted(self.sites.items())},
        }


def shares_of(rounds: Sequence[RoundRecord]) -> tuple[RoundShares, ...]:
    """Of the rounds in which sites counted, as they were recorded."""
    return tuple(
        RoundShares(
            round=record.round,
            sites={site: ClippedCounts(**found) for site, found in record.metrics["clipped"].items()},
        )
        for record in rounds
        if record.metrics.get("clipped")
    )


def clipped_words(experiment: Experiment, shares: Sequence[RoundShares]) -> list[str]:
    """Sentences: the share in each round that counted, and what to change; none where nobody asked for it."""
    if experiment.strategy.clipped_every is None:
        return []
    if not experiment.privacy.private:
        return ["Clipped gradients: none, for a run that is not private clips nothing."]
    if not shares:
        return ["The share of clipped gradients is not measurable, because no site counted."]
    norm = f"privacy.clipping_norm = {experiment.privacy.clipping_norm:g}"
    parts = [f"in round {found.round} {_words(found.overall)}" for found in shares]
    said = [f"Gradients that {norm} cuts: {'; '.join(parts)}."]
    apart = shares[-1].sites
    if len(apart) > 1:
        listed = "; ".join(f"{site} {_words(found)}" for site, found in sorted(apart.items())[:_MOST_LISTED])
        more = f" and {len(apart) - _MOST_LISTED} more" if len(apart) > _MOST_LISTED else ""
        said.append(f"By site, in round {shares[-1].round}: {listed}{more}.")
    return [*said, *_advice(experiment, shares[-1].overall)]


def _advice(experiment: Experiment, found: ClippedCounts) -> list[str]:
    """What the last share says of the clipping norm; nothing where it fits, or cannot be told."""
    if found.reason:
        return []
    if found.share - 2 * found.error > _NEARLY_ALL:
        if experiment.task.label.kind == "numeric" and experiment.strategy.reason:
            return ["Nearly all are cut, as the recipe means it for a number: each row pulls alike."]
        return [
            "Nearly all are cut, so that each row pulls with the same strength and only directions count: "
            "privacy.clipping_norm is small. A larger one, with strategy.learning_rate smaller in "
            "proportion, lets rows differ at the same noise."
        ]
    if found.share + 2 * found.error < _NEARLY_NONE:
        return [
            "Nearly none are cut: the noise is as large as privacy.clipping_norm says, and gradients are "
            "shorter. A smaller one has less noise in proportion, at the same ε."
        ]
    return []


def _words(found: ClippedCounts) -> str:
    """`x % ± y %`; where noise puts the share where none can be, how far it may go; or why there is none."""
    if found.reason:
        return f"not measurable, because {found.reason}"
    share, error = 100 * found.share, 100 * found.error
    if share < 0:
        return f"at most {max(0.0, share + 2 * error):.2g} % clipped"
    if share > 100:
        return f"at least {min(100.0, share - 2 * error):.3g} % clipped"
    digits = 0 if error >= 1 else min(3, max(1, -math.floor(math.log10(error)))) if error > 0 else 1
    return f"{share:.{digits}f} % ± {error:.{digits}f} % clipped"


def _told(found: ClippedCounts) -> dict[str, Any]:
    if found.reason:
        return {"share": None, "error": None, "not_measurable": found.reason, "words": _words(found)}
    return {"share": found.share, "error": found.error, "not_measurable": None, "words": _words(found)}
