"""Whether a run converged, which sites pull elsewhere, and what to change: in sentences, after it ended.

A verdict is taken from evidence with errors (`server.jobs.evidence`), two of which it must pass. Nothing that
noise could have made is said to be a success or a failure:

    converged           the result is better than a constant, and more steps would change next to nothing
    as-far-as-noise     the result is better than a constant; whether more steps would help, noise hides
    not-converged       the data still pulled when the run ended, or its steps were too short to get anywhere
    steps-too-large     the result is no better than a constant, and its steps were larger than is stable, or
                        carried more noise than they are worth
    worse-than-constant the result is worse than a constant, for another reason
    nothing-shown       nothing shows that the result is better than a constant
    rests-on-a-site     all together say one of the first two; without one of the sites the others say no
    not-measurable      too little can be told

A site may lie, in its updates and in its counts. What one site says cannot make a run look converged: each is
left out in turn, and its updates are held against those of the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from contract.experiment import Experiment
from contract.figures import figures_for
from contract.json_values import finite
from contract.recipe import recommended
from contract.regression import Scores
from server.exchange.pulls import Pulls
from server.jobs.clipped_share import RoundShares, clipped_words, shares_of
from server.jobs.evidence import Estimate, Evidence, SitePull, evidence_of, first_loss, site_pulls
from server.rounds import TrainingResult
from server.state.records import RoundRecord

__all__ = ["GOOD", "Diagnosis", "Verdict", "diagnose", "diagnosis_of"]

Verdict = Literal[
    "converged",
    "as-far-as-noise",
    "not-converged",
    "steps-too-large",
    "worse-than-constant",
    "nothing-shown",
    "rests-on-a-site",
    "not-measurable",
]
GOOD: frozenset[Verdict] = frozenset({"converged", "as-far-as-noise"})

_LITTLE = 0.01
"""Of the loss: what is less is next to nothing."""
_SHORT = 0.15
"""Of the movement that the recipe would make: with less, steps were short."""
_AS_AT_THE_START = 0.5
"""Of the squared gradient of the start: with more at the end, little was followed."""
_WORTH = 0.5
"""Of the noise that the recipe takes as worth it: from here on, further steps are not."""
_MUCH_NOISE, _TOO_MUCH_NOISE = 2.0, 4.0
"""Times that noise."""
_ELSEWHERE = 0.3
"""Of the strongest pull that clipping lets through."""
_STRONG = 0.05
"""Of the strongest pull."""
_MOST_LISTED = 5
"""Sites that are named in one sentence."""
_FEWEST_SITES = 3
"""With fewer, nobody can tell which of them is wrong."""

_HEADLINES: Mapping[Verdict, str] = {
    "converged": "The run converged.",
    "as-far-as-noise": "The run went as far as the noise lets one see.",
    "not-converged": "NOT CONVERGED.",
    "steps-too-large": "STEPS TOO LARGE.",
    "worse-than-constant": "THE RESULT IS WORSE THAN A CONSTANT.",
    "nothing-shown": "NOTHING SHOWS THAT THE RUN LEARNT.",
    "rests-on-a-site": "THE RESULT RESTS ON ONE SITE'S WORD.",
    "not-measurable": "Whether the run succeeded is not measurable,",
}


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
) -> Diagnosis:
    """Of a run.

    Args:
        experiment: the plan.
        scores: the final evaluation, by site.
        pulls: where the updates pulled.
        first: the figures of the model that the run began with, as its first round's record has them.
        clipped: the share of clipped gradients, in the rounds that counted.
    """
    evidence = evidence_of(experiment, scores, pulls)
    sites = site_pulls(experiment, pulls)
    verdict, because = _with_each_left_out(experiment, scores, pulls, _verdict(evidence), sites)
    began = first_loss(first, figures_for(experiment.task.label)[0].name)
    sentences = [
        f"{_HEADLINES[verdict]} {because or _because(verdict, evidence)}".strip(),
        _loss_words(experiment, began, evidence),
        *_site_words(sites),
        *clipped_words(experiment, clipped),
        _advice(experiment, verdict, evidence, pulls),
    ]
    return Diagnosis(
        verdict=verdict,
        sentences=tuple(one for one in sentences if one),
        numbers={
            "loss_at_first": _plain(began),
            "loss": _plain(evidence.loss),
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
    return diagnose(experiment, result.scores, result.pulls, first, shares_of(rounds))


def _verdict(found: Evidence, errors: float = 2.0) -> Verdict:
    """Of these sites' evidence, where a difference of so many standard errors counts as one."""
    if (failure := _failure(found, errors)) is not None:
        return failure
    if found.skill is None and found.auc is None:
        return "not-measurable"
    ranks = found.auc is not None and found.auc.low(errors) > 0.5
    if not _is_better(found, errors) and not ranks:
        return "nothing-shown"
    if _is_settled(found, errors):
        return "converged"
    return "not-measurable" if found.late is None else "as-far-as-noise"


def _failure(found: Evidence, errors: float) -> Verdict | None:
    """What surely went wrong."""
    reach = found.reach
    worse = _is_worse(found, errors)
    noise, step = (0.0, 0.0) if reach is None else (reach.noise, reach.step)
    oversteps = worse and (step > 1 or noise > _MUCH_NOISE)
    pulled = _still_pulled(found, errors) or (_is_short(found) and not _is_settled(found, errors))
    if pulled and noise < _WORTH and not oversteps:
        return "not-converged"
    if oversteps or (noise > _TOO_MUCH_NOISE and not _is_better(found, errors)):
        return "steps-too-large"
    return "worse-than-constant" if worse else None


def _is_better(found: Evidence, errors: float) -> bool:
    return found.skill is not None and found.skill.low(errors) > 0


def _is_worse(found: Evidence, errors: float) -> bool:
    return found.skill is not None and found.skill.high(errors) < 0


def _still_pulled(found: Evidence, errors: float) -> bool:
    """Whether the data surely pulled at the end, by as much as counts."""
    if found.late is None or found.early is None or found.late.low(errors) <= 0:
        return False
    if found.late.low(errors) > _AS_AT_THE_START * found.early.high(errors):
        return True
    return (
        found.more is not None
        and found.loss is not None
        and found.more.low(errors) > _LITTLE * found.loss.value
    )


def _is_short(found: Evidence) -> bool:
    return found.reach is not None and found.reach.movement < _SHORT


def _is_settled(found: Evidence, errors: float) -> bool:
    """Whether what the data still pulled at the end, at most, would change next to nothing.

    Of a run of short steps, along the way that the recipe would go.
    """
    if found.late is None or found.early is None or found.loss is None:
        return False
    if found.more is None:
        return found.late.high(errors) < _LITTLE * found.early.low(errors)
    longer = 1.0 if found.reach is None else max(1.0, 1 / max(found.reach.movement, 1e-12))
    return longer * found.more.high(errors) < 2 * _LITTLE * found.loss.value


def _with_each_left_out(
    experiment: Experiment,
    scores: Mapping[str, Scores],
    pulls: Pulls,
    verdict: Verdict,
    apart: Mapping[str, SitePull],
) -> tuple[Verdict, str]:
    """The verdict, if it is good in every site's absence too; three errors, as many sites are tried.

    Where it is not in the absence of several, that of them is named which is the farthest from the others.
    """
    sites = sorted({*scores, *pulls.sites})
    if verdict not in GOOD or len(sites) < _FEWEST_SITES:
        return verdict, ""
    against = {}
    pulled = _is_held_back(experiment, evidence_of(experiment, scores, pulls))
    for site in sites:
        without = evidence_of(experiment, scores, pulls, without={site})
        if not pulled and _is_held_back(experiment, without):
            against[site] = f"Without {site}, the others were not done: {_pull_words(without)}."
        elif _is_worse(without, 3.0):
            against[site] = f"Without {site}, the result is worse than a constant for the others."
    if not against:
        return verdict, ""
    far = {site: apart[site].square.value for site in against if site in apart}
    return "rests-on-a-site", against[max(against, key=lambda site: far.get(site, -math.inf))]


def _is_held_back(experiment: Experiment, found: Evidence) -> bool:
    """Whether these sites surely pulled at the end as at the start, and strongly.

    Where sites differ, what is best for all still leaves a pull in those that remain without one: a weak one.
    """
    if found.late is None or found.early is None:
        return False
    strong = (_STRONG * experiment.privacy.clipping_norm) ** 2 if experiment.privacy.private else 0.0
    return found.late.low(3.0) > max(strong, _AS_AT_THE_START * found.early.high(3.0))


def _because(verdict: Verdict, found: Evidence) -> str:
    match verdict:
        case "converged":
            return f"More steps would change next to nothing: {_pull_words(found)}."
        case "as-far-as-noise":
            return _why_as_far(found)
        case "not-converged":
            return _why_not_converged(found)
        case "steps-too-large":
            return _why_too_large(found)
        case "not-measurable":
            return f"{_why_not_measurable(found)} {_headed(_pull_words(found))}."
        case "worse-than-constant" | "nothing-shown" | "rests-on-a-site":
            return ""


def _why_as_far(found: Evidence) -> str:
    if found.late is not None and found.late.low() > 0:
        return (
            f"{_headed(_pull_words(found))} when it ended: more or larger steps could still gain, but carry "
            "noise that may take as much."
        )
    return f"At the end noise hides whether more steps would help: {_pull_words(found)}."


def _why_not_measurable(found: Evidence) -> str:
    """Of figures that are hidden, or of rounds that are too few."""
    named = found.unmeasured
    why = [named[key] for key in ("figures", "log_loss", "mae", "auc", "r2", "convergence") if key in named]
    return f"because {'; '.join(dict.fromkeys(why)) or 'noise hides how the result does'}."


def _why_not_converged(found: Evidence) -> str:
    parts = [f"{_pull_words(found).capitalize()}."] if found.late is not None else []
    if found.more is not None and found.more.low() > 0:
        parts.append(f"As many rounds again would lower the loss by up to {_told(found.more)}.")
    if found.reach is not None and _is_short(found):
        parts.append(
            f"All steps together went {found.reach.movement:.2g} of the way that the recipe would go."
        )
    return " ".join(parts)


def _why_too_large(found: Evidence) -> str:
    reach = found.reach
    if reach is None:
        return ""
    parts = []
    if reach.step > 1:
        parts.append(f"one step is {reach.step:.2g} times the greatest that is surely stable")
    if reach.noise > 1:
        parts.append(f"all steps carry {reach.noise:.2g} times the noise that they should")
    return f"{' and '.join(parts).capitalize()}." if parts else ""


def _pull_words(found: Evidence) -> str:
    """How strongly the data pulled at the end, beside the start."""
    early, late = found.early, found.late
    if early is None or late is None:
        return "how strongly the data pulled is not measurable"
    if early.low() <= 0:
        return "the data's pull cannot be told from the noise, at the start or at the end"
    at_first = math.sqrt(early.value)
    if late.low() <= 0:
        most = math.sqrt(max(0.0, late.high())) / at_first
        return f"the data's pull cannot be told from noise any more, and is at most {most:.2f} of what it was"
    share = math.sqrt(late.value) / at_first
    error = share * math.hypot(early.error / early.value, late.error / late.value) / 2
    return f"the data pulled with {share:.2f} ± {error:.2f} of the force of the start"


def _loss_words(experiment: Experiment, began: Estimate | None, found: Evidence) -> str:
    """The loss with its error, before and after, and beside a constant's."""
    figure = figures_for(experiment.task.label)[0]
    if found.loss is None:
        why = found.unmeasured.get("figures") or found.unmeasured.get(figure.name, "noise hides it")
        return f"{_headed(figure.word)} is not measurable, because {why}."
    start = "" if began is None else f" {_told(began)} with the first model,"
    words = f"{_headed(figure.word)}:{start} {_told(found.loss)} at the end"
    skill = found.skill
    if skill is None:
        return f"{words}."
    if experiment.task.label.kind == "numeric":
        return f"{words}; R² {_told(skill)} (0 is what the mean reaches)."
    side = "better" if skill.value >= 0 else "worse"
    beside = f"{_told(Estimate(value=abs(skill.value), error=skill.error))} {side}"
    if skill.low() <= 0 <= skill.high():
        return f"{words}: not told from always saying the share of positives ({beside})."
    return f"{words}: {beside} than always saying the share of positives."


def _site_words(sites: Mapping[str, SitePull]) -> list[str]:
    found = []
    apart = {site: pull.share for site, pull in sites.items() if pull.share is not None}
    apart = {site: share for site, share in apart.items() if share.low() > _ELSEWHERE}
    if apart:
        strongest = sorted(apart.items(), key=lambda one: -one[1].value)
        listed = ", ".join(f"{site} by {_told(share)}" for site, share in strongest[:_MOST_LISTED])
        more = f" and {len(apart) - _MOST_LISTED} more" if len(apart) > _MOST_LISTED else ""
        found.append(
            f"{'These sites pull' if len(apart) > 1 else 'This site pulls'} elsewhere than the others: "
            f"{listed}{more} (1 is the strongest pull that can be). Rows may differ, labels may be coded "
            "otherwise, or a site may mean harm."
        )
    found += [
        f"{site}'s updates vary by less than the noise alone that it is charged for: its program is not this "
        "one, or it does not tell the truth."
        for site, pull in sites.items()
        if pull.less_noise
    ]
    unseen = [site for site, pull in sites.items() if pull.share is None and pull.at_most > _ELSEWHERE]
    if unseen:
        found.append(
            f"Whether {_listed(unseen[:_MOST_LISTED])} pulls elsewhere is not measurable, because noise "
            "hides it."
        )
    return found


def _advice(experiment: Experiment, verdict: Verdict, found: Evidence, pulls: Pulls) -> str:
    """What to change, and what it would cost; nothing where nothing is known to help."""
    rows = [pulls.of(site, "late").rows for site in pulls.sites]
    noise = 0.0 if found.reach is None else found.reach.noise
    change = ""
    if verdict == "not-converged":
        change = _recipe_words(experiment, rows, "larger steps, or more rounds")
    elif verdict in ("steps-too-large", "worse-than-constant") or (verdict in GOOD and noise > _MUCH_NOISE):
        change = _recipe_words(experiment, rows, "smaller steps")
    elif verdict == "nothing-shown":
        change = (
            "a larger privacy.epsilon or more rows, if `tidegate plan` warns of noise; a larger "
            "privacy.evaluation_epsilon, if errors are large; other features"
        )
    elif verdict == "not-measurable" and experiment.privacy.private and found.skill is None:
        change = (
            "a larger privacy.evaluation_epsilon, or more held-out rows; `tidegate plan` says what would do"
        )
    elif verdict == "as-far-as-noise" and experiment.privacy.private:
        return (
            "More can be seen, and learnt, with a larger privacy.epsilon or more rows: "
            "`tidegate plan --curve` says how much."
        )
    much = f"All steps carry {noise:.2g} times the noise that they should. " if verdict in GOOD else ""
    return f"{much}What to change: {change}. {_cost_words(experiment)}" if change else ""


def _recipe_words(experiment: Experiment, rows: Sequence[int], otherwise: str) -> str:
    plan = recommended(experiment, rows)
    if plan is None:
        return otherwise
    strategy = plan.strategy
    return (
        f"the recipe takes {strategy.name}, {strategy.rounds} rounds, step size {strategy.learning_rate:g}, "
        f"momentum {strategy.server_momentum:g} and clipping norm {plan.privacy.clipping_norm:g}; leave "
        "[strategy] and privacy.clipping_norm out of the file to have it"
    )


def _cost_words(experiment: Experiment) -> str:
    privacy = experiment.privacy
    if not privacy.private:
        return "A new run costs no privacy that is counted."
    return (
        f"Rounds and steps cost no ε of their own. A new run is charged anew, at each site: ε = "
        f"{privacy.epsilon:g} for training rows and {privacy.evaluation_epsilon:g} for held-out rows, which "
        "the ledger composes with what was spent."
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _headed(word: str) -> str:
    return word[0].upper() + word[1:]


def _told(one: Estimate) -> str:
    """To the error's second digit, two digits after the point at least."""
    digits = 2
    if 0 < one.error < 1:
        digits = min(6, max(2, 1 - math.floor(math.log10(one.error))))
    return f"{one.value:.{digits}f} ± {one.error:.{digits}f}"


def _plain(one: Estimate | None) -> dict[str, float] | None:
    return None if one is None else {"value": one.value, "error": one.error}
