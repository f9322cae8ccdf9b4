"""Whether a model learnt, which sites pull elsewhere, and what to change: in sentences, after a run ended.

`server.jobs.evidence` says what was measured, `server.jobs.verdicts` what that comes to, and
`server.jobs.diagnosis_words` how it is told.

A site may lie, in its updates and in its counts. What one site says cannot make a run look converged: each is
left out in turn, and its updates are held against those of the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contract.experiment import Experiment
from contract.figures import Estimate, figures_for
from contract.json_values import finite
from contract.regression import Scores
from server.exchange.pulls import Pulls
from server.jobs.clipped_share import RoundShares, clipped_words, shares_of
from server.jobs.diagnosis_words import (
    advice,
    anew_words,
    because_words,
    headline,
    loss_words,
    pull_words,
    site_words,
)
from server.jobs.evidence import SitePull, evidence_of, first_loss, site_pulls
from server.jobs.learnt_words import alone_words
from server.jobs.verdicts import GOOD, Verdict, has_learnt, is_held_back, is_worse, verdict_of
from server.rounds import TrainingResult
from server.state.records import RoundRecord

__all__ = ["Diagnosis", "diagnose", "diagnosis_of"]

_FEWEST_SITES = 3
"""With fewer, nobody can tell which of them is wrong."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What is to be said of a run that has ended.

    Attributes:
        verdict: in one word.
        sentences: for people, the verdict first.
        numbers: for programs: each a value and an error, or None.
    """

    verdict: Verdict
    sentences: tuple[str, ...]
    numbers: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "verdict": self.verdict,
            "good": self.verdict in GOOD,
            "sentences": list(self.sentences),
            **finite(dict(self.numbers)),
        }


def diagnose(
    experiment: Experiment,
    scores: Mapping[str, Scores],
    pulls: Pulls,
    first: Mapping[str, Any] | None,
    clipped: Sequence[RoundShares] = (),
    share: float | None = None,
) -> Diagnosis:
    """Of a run.

    Args:
        experiment: the plan.
        scores: the final evaluation, by site.
        pulls: where the updates pulled.
        first: the figures of the model that the run began with, as its first round's record has them.
        clipped: the share of clipped gradients, in the rounds that counted.
        share: that of the positive outcome from which training began anew, if it did.
    """
    evidence = evidence_of(experiment, scores, pulls)
    sites = site_pulls(experiment, pulls)
    verdict, because = _with_each_left_out(experiment, scores, pulls, verdict_of(evidence), sites)
    began = first_loss(first, figures_for(experiment.task.label)[0].name)
    sentences = [
        f"{headline(verdict, evidence)} {because or because_words(verdict, evidence)}".strip(),
        loss_words(experiment, began, evidence),
        anew_words(experiment, share),
        *site_words(sites),
        *clipped_words(experiment, clipped),
        advice(experiment, verdict, evidence, pulls),
    ]
    return Diagnosis(
        verdict=verdict,
        sentences=tuple(one for one in sentences if one),
        numbers={
            "loss_at_first": _plain(began),
            "loss": _plain(evidence.loss),
            "began_anew_at_share": share,
            "better_than_constant": _plain(evidence.skill),
            "squared_gradient_early": _plain(evidence.early),
            "squared_gradient_late": _plain(evidence.late),
            "loss_in_as_many_rounds_again": _plain(evidence.more),
            "reach": None if evidence.reach is None else vars(evidence.reach),
            "sites": {
                site: {"pulls_elsewhere": _plain(found.share), "at_most": found.at_most}
                for site, found in sites.items()
            },
            "clipped": {str(found.round): found.as_dict() for found in clipped},
            "not_measurable": dict(evidence.unmeasured),
        },
    )


def diagnosis_of(experiment: Experiment, result: TrainingResult, rounds: Sequence[RoundRecord]) -> Diagnosis:
    """Of a run's result, and its rounds as they were recorded."""
    first = rounds[0].metrics.get("overall") if rounds else None
    return diagnose(experiment, result.scores, result.pulls, first, shares_of(rounds), result.share)


def _with_each_left_out(
    experiment: Experiment,
    scores: Mapping[str, Scores],
    pulls: Pulls,
    verdict: Verdict,
    apart: Mapping[str, SitePull],
) -> tuple[Verdict, str]:
    """The verdict, if it is good in every site's absence too.

    That the model learnt, the others must show as surely as all. What speaks against it counts from three
    errors on, for as many sites are tried; where it does in the absence of several, that of them is named
    which is the farthest from the others.
    """
    sites = sorted({*scores, *pulls.sites})
    whole = evidence_of(experiment, scores, pulls)
    says_learnt = verdict in GOOD or (verdict == "not-measurable" and has_learnt(whole))
    if not says_learnt or len(sites) < _FEWEST_SITES:
        return verdict, ""
    against, unsure = {}, {}
    pulled = is_held_back(experiment, whole)
    for site in sites:
        without = evidence_of(experiment, scores, pulls, without={site})
        if not pulled and is_held_back(experiment, without):
            against[site] = f"Without {site}, the others were not done: {pull_words(without)}."
        elif is_worse(without, 3.0):
            against[site] = f"Without {site}, the result is worse than a constant for the others."
        elif not has_learnt(without):
            unsure[site] = without
    if not against:
        return ("unconfirmed", alone_words(whole, unsure)) if unsure else (verdict, "")
    far = {site: apart[site].square.value for site in against if site in apart}
    return "rests-on-a-site", against[max(against, key=lambda site: far.get(site, -math.inf))]


def _plain(one: Estimate | None) -> dict[str, float] | None:
    return None if one is None else {"value": one.value, "error": one.error}
