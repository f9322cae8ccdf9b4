"""How sure it is that a model learnt, in words that name the figure which says so."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from contract.figures import Estimate
from contract.words import headed
from server.jobs.evidence import Evidence
from server.jobs.verdicts import ERRORS, LITTLE_AUC, LITTLE_SKILL

__all__ = ["alone_words", "learnt_words", "little_words", "not_shown_words", "told"]


@dataclass(frozen=True, kw_only=True)
class _Said:
    """A figure beside what a model reaches that learnt nothing.

    Attributes:
        name, value: the figure.
        nothing: what such a model reaches.
        nothing_word: what that is called.
    """

    name: str
    value: Estimate
    nothing: float
    nothing_word: str

    @property
    def errors(self) -> float:
        """By how many standard errors it is above; at least 0 where there is no error."""
        above = self.value.value - self.nothing
        if self.value.error > 0:
            return above / self.value.error
        return math.inf if above > 0 else 0.0 if above == 0 else -math.inf

    @property
    def beside(self) -> str:
        return f"{self.nothing_word} ({self.nothing:g})"

    def __str__(self) -> str:
        return f"{self.name} {told(self.value)}"


def learnt_words(found: Evidence) -> str:
    """By how much the figure that is the farthest above chance is so, or the first one; no full stop."""
    said = _farthest(found)
    if said is None:
        named = found.unmeasured
        return next((named[key] for key in ("figures", "auc", "log_loss", "r2") if key in named), "no figure")
    if said.errors <= 0:
        return f"{said} is no higher than {said.beside}"
    if math.isinf(said.errors):
        return f"{said} is above {said.beside}"
    # rounded down: what falls short of two must not read as two
    return f"{said} is {math.floor(10 * said.errors) / 10:.1f} standard errors above {said.beside}"


def not_shown_words(found: Evidence) -> str:
    """Why that is not enough, in a sentence."""
    said = _farthest(found)
    if said is None or said.errors <= 0:
        return f"{headed(learnt_words(found))}, but its error leaves room for more."
    return (
        f"{headed(learnt_words(found))}; it takes {ERRORS:g}, which chance alone brings in one run of "
        "twenty at most."
    )


def alone_words(whole: Evidence, unsure: Mapping[str, Evidence]) -> str:
    """Why what all sites show is not enough, where all but one of them do not.

    Args:
        whole: the evidence of all.
        unsure: that of the others, by each site without which they do not show it; the one that leaves the
            least is named.
    """
    left = {site: said.errors for site, found in unsure.items() if (said := _farthest(found)) is not None}
    site = min(unsure, key=lambda one: left.get(one, -math.inf))
    return (
        f"{headed(learnt_words(whole))}, but without {site} the others do not show it: "
        f"{learnt_words(unsure[site])}. It takes {ERRORS:g} standard errors for both."
    )


def little_words(found: Evidence) -> str:
    """What it surely does not pass, in a sentence."""
    auc, skill = found.auc, found.skill
    if auc is not None and auc.high(ERRORS) < 0.5:
        return f"AUC {told(auc)} is below chance (0.5): its scores are the wrong way round."
    if auc is not None:
        return f"AUC {told(auc)} is surely below {LITTLE_AUC:g}, where 0.5 is chance."
    if skill is not None:
        return f"{headed(found.skill_word)} {told(skill)} is surely below {LITTLE_SKILL:g}."
    return ""


def told(one: Estimate) -> str:
    """To the error's second digit, two digits after the point at least."""
    digits = 2
    if 0 < one.error < 1:
        digits = min(6, max(2, 1 - math.floor(math.log10(one.error))))
    return f"{one.value:.{digits}f} ± {one.error:.{digits}f}"


def _farthest(found: Evidence) -> _Said | None:
    said = []
    if found.auc is not None:
        said.append(_Said(name="AUC", value=found.auc, nothing=0.5, nothing_word="chance"))
    if found.skill is not None:
        said.append(_Said(name=found.skill_word, value=found.skill, nothing=0.0, nothing_word="none"))
    above = [one for one in said if one.errors > 0] or said[:1]
    return max(above, key=lambda one: one.errors, default=None)
