"""A verdict on a run, what it rests on, and what to change, in sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from contract.experiment import Experiment
from contract.figures import Estimate, figures_for
from contract.recipe import recommended
from contract.words import headed
from server.exchange.pulls import Pulls
from server.jobs.evidence import Evidence, SitePull
from server.jobs.learnt_words import learnt_words, little_words, not_shown_words, told
from server.jobs.verdicts import GOOD, MUCH_NOISE, Verdict, is_short, ranks

__all__ = ["advice", "anew_words", "because_words", "headline", "loss_words", "pull_words", "site_words"]

_ELSEWHERE = 0.3
"""Of the strongest pull that clipping lets through."""
_MOST_LISTED = 5
"""Sites that are named in one sentence."""

_HEADLINES: Mapping[Verdict, str] = {
    "converged": "The model learnt and converged.",
    "as-far-as-noise": "The model learnt, as far as the noise lets one see.",
    "not-converged": "NOT CONVERGED.",
    "steps-too-large": "STEPS TOO LARGE.",
    "worse-than-constant": "THE RESULT IS WORSE THAN A CONSTANT.",
    "not-shown": "NOT SHOWN THAT THE MODEL LEARNT.",
    "little-learnt": "THE MODEL LEARNT NEXT TO NOTHING.",
    "unconfirmed": "THE MODEL LEARNT IF ONE SITE TELLS THE TRUTH.",
    "rests-on-a-site": "THE RESULT RESTS ON ONE SITE'S WORD.",
    "not-measurable": "Whether the model learnt is not measurable,",
}


def headline(verdict: Verdict, found: Evidence) -> str:
    """Whether the model learnt. How the run ended, its status says: no word here is one of these."""
    if verdict == "not-measurable" and (found.skill is not None or found.auc is not None):
        return "The model learnt; whether it converged is not measurable,"
    return _HEADLINES[verdict]


def because_words(verdict: Verdict, found: Evidence) -> str:
    """Why the verdict is this one; empty where its headline says all."""
    learnt = headed(learnt_words(found))
    because = {
        "converged": f"{learnt}. More steps would change next to nothing: {pull_words(found)}.",
        "as-far-as-noise": f"{learnt}. {_why_as_far(found)}",
        "not-converged": _why_not_converged(found),
        "steps-too-large": _why_too_large(found),
        "not-measurable": f"{_why_not_measurable(found)} {headed(pull_words(found))}.",
        "not-shown": not_shown_words(found),
        "little-learnt": little_words(found),
    }
    if verdict == "worse-than-constant" and ranks(found):
        return f"{learnt}, so it ranks rows: what is off are its probabilities."
    return because.get(verdict, "")


def _why_as_far(found: Evidence) -> str:
    if found.late is not None and found.late.low() > 0:
        return (
            f"{headed(pull_words(found))} when it ended: more or larger steps could still gain, but carry "
            "noise that may take as much."
        )
    return f"At the end noise hides whether more steps would help: {pull_words(found)}."


def _why_not_measurable(found: Evidence) -> str:
    """Of figures that are hidden, or of rounds that are too few."""
    named = found.unmeasured
    why = [
        named[key]
        for key in ("figures", "log_loss", "mae", "auc", "r2", "skill", "convergence")
        if key in named
    ]
    return f"because {'; '.join(dict.fromkeys(why)) or 'noise hides how the result does'}."


def _why_not_converged(found: Evidence) -> str:
    parts = [f"{pull_words(found).capitalize()}."] if found.late is not None else []
    if found.more is not None and found.more.low() > 0:
        parts.append(f"As many rounds again would lower the loss by up to {told(found.more)}.")
    if found.reach is not None and is_short(found):
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


def pull_words(found: Evidence) -> str:
    """How strongly the data pulled at the end, beside the start."""
    early, late = found.early, found.late
    if early is None or late is None:
        return "how strongly the data pulled is not measurable"
    if early.low() <= 0:
        return (
            f"how strongly the data pulled, in the first and the last quarter of the rounds, {_hidden(found)}"
        )
    at_first = math.sqrt(early.value)
    if late.low() <= 0:
        most = math.sqrt(max(0.0, late.high())) / at_first
        return f"{_HIDDEN_NOW[found.is_spread]}, and is at most {most:.2f} of what it was"
    share = math.sqrt(late.value) / at_first
    error = share * math.hypot(early.error / early.value, late.error / late.value) / 2
    return f"the data pulled with {share:.2f} ± {error:.2f} of the force of the start"


_HIDDEN_NOW = {
    False: "the data's pull cannot be told from noise any more",
    True: "the data's pull cannot be told any more from how much updates differ from round to round",
}


def _hidden(found: Evidence) -> str:
    """By what. Of several local steps, or of samples, the scale of the noise is not public."""
    if found.is_spread:
        return "is less than how much the updates differ from round to round"
    return "is hidden by the noise"


def loss_words(experiment: Experiment, began: Estimate | None, found: Evidence) -> str:
    """The loss with its error, before and after, and beside a constant's."""
    figure = figures_for(experiment.task.label)[0]
    if found.loss is None:
        why = found.unmeasured.get("figures") or found.unmeasured.get(figure.name, "noise hides it")
        return f"{headed(figure.word)} is not measurable, because {why}."
    start = "" if began is None else f" {told(began)} with the model that it began from,"
    words = f"{headed(figure.word)}:{start} {told(found.loss)} at the end"
    skill = found.skill
    if skill is None:
        return f"{words}."
    if experiment.task.label.kind == "numeric":
        return f"{words}; R² {told(skill)} (0 is what the mean reaches)."
    side = "better" if skill.value >= 0 else "worse"
    beside = f"{told(Estimate(value=abs(skill.value), error=skill.error))} {side}"
    if skill.low() <= 0 <= skill.high():
        return (
            f"{words}, {beside} than always saying the share of positives: the error hides which of the two "
            "is better."
        )
    return f"{words}: {beside} than always saying the share of positives."


def anew_words(experiment: Experiment, share: float | None) -> str:
    """That the first round was given up, and why; nothing where it was not."""
    if share is None:
        return ""
    rarer, named = min(share, 1 - share), experiment.task.label.classes[0 if share > 0.5 else -1]
    return (
        f"Round 1 counted at most {rarer:.0%} of the held-out rows as '{named}', noise included, so training "
        "began anew in round 2 with that share as the model's bias. Where the share is public knowledge, "
        "task.label.positive_share states it and saves that round."
    )


def site_words(sites: Mapping[str, SitePull]) -> list[str]:
    """Which sites pull elsewhere than the others, or have less noise than they are charged for."""
    found = []
    apart = {site: pull.share for site, pull in sites.items() if pull.share is not None}
    apart = {site: share for site, share in apart.items() if share.low() > _ELSEWHERE}
    if apart:
        strongest = sorted(apart.items(), key=lambda one: -one[1].value)
        listed = ", ".join(f"{site} by {told(share)}" for site, share in strongest[:_MOST_LISTED])
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


def advice(experiment: Experiment, verdict: Verdict, found: Evidence, pulls: Pulls) -> str:
    """What to change, and what it would cost; nothing where nothing is known to help."""
    rows = [pulls.of(site, "late").rows for site in pulls.sites]
    noise = 0.0 if found.reach is None else found.reach.noise
    change = ""
    if verdict == "not-converged":
        change = _recipe_words(experiment, rows, "larger steps, or more rounds")
    elif verdict in ("steps-too-large", "worse-than-constant") or (verdict in GOOD and noise > MUCH_NOISE):
        change = _recipe_words(experiment, rows, "smaller steps")
    elif verdict in ("not-shown", "unconfirmed"):
        change = (
            "a larger privacy.evaluation_epsilon or more held-out rows, to see what was learnt; a larger "
            "privacy.epsilon or more rows, if `tidegate plan` warns of noise"
        )
    elif verdict == "little-learnt":
        change = "other features; a larger privacy.epsilon or more rows, if `tidegate plan` warns of noise"
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
