"""What is done before a question for ranges to sites of this machine.

Whether the noise would leave anything to tell is seen from the rows that the
sites state, so that nobody pays for an answer that says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from contract.errors import ApprovalError, InputError
from contract.experiment import Experiment
from contract.words import counted, headed, verb
from experiments.federated_run import Request, require_sites
from server.jobs.job import RangeQuestion
from terminal.range_files import MARGIN

__all__ = ["check_question", "check_sites"]


def check_question(question: RangeQuestion, experiment: Experiment, sites: Sequence[Path]) -> None:
    """Refuse a question whose answer would say nothing, by the rows that the sites state.

    Stated rows are rough: where sites have more, this refuses what could be told. To ask for a larger share
    costs no more, while an answer that the noise hides is paid for.

    Raises:
        InputError: a site is named twice, fewer are named than the quorum, ε or share is out of bounds, ε is
            above the experiment's, or the noise would hide tails of that share; with the share at which
            something would be told, and the ε where the experiment has as much.
    """
    from clients.ledger.accounting import Event, compose, noise_multiplier
    from clients.mechanisms.ranges import ranges_deviation
    from clients.site_config import read_site_config
    from server.jobs.quantiles import least_share

    _check_bounds(question, experiment)
    require_sites(experiment, sites)
    if not experiment.privacy.private:
        return
    configs = [read_site_config(path) for path in sites]
    rows = sum(config.stated_rows / (1 - config.offered.holdout.share) for config in configs)
    delta, asked = experiment.privacy.delta, len(question.features)
    noise = noise_multiplier(epsilon=question.epsilon, delta=delta, sampling_rate=1.0, steps=1)
    deviation = ranges_deviation(experiment, asked, noise) * math.sqrt(len(configs))
    least = least_share(rows=rows, noise_deviation=deviation, features=asked)
    if least > question.share:
        needed = MARGIN * least
        enough, _ = compose([Event(noise_multiplier=noise * question.share / needed)], delta)
        enough, most = _rounded_up(enough), experiment.privacy.epsilon
        ways = [f"give --epsilon {enough:g}"] if enough <= most else []
        ways += [f"give --share {_rounded_up(needed):g}"] if needed < 0.4 else []
        ways += [f"ask about fewer of the {asked} features"] if asked > 1 else []
        remedy = ", ".join([*ways, "or ask more sites" if ways else "ask more sites"])
        raise InputError(
            f"with ε = {question.epsilon:g} the noise of {counted(len(configs), 'site')}, which "
            f"{verb(len(configs), 'states', 'state')} about {rows:,.0f} rows with the held-out "
            f"ones, would hide tails below {least:.1%} of them; nothing was asked and nothing charged",
            where="--epsilon",
            remedy=headed(remedy),
        )


def _check_bounds(question: RangeQuestion, experiment: Experiment) -> None:
    if not 0 < question.epsilon < math.inf:
        raise InputError("ε is not a positive number", where="--epsilon", remedy="Give one such as 0.5")
    if question.epsilon > experiment.privacy.epsilon:
        raise InputError(
            f"ε = {question.epsilon:g} is above the experiment's privacy.epsilon = "
            f"{experiment.privacy.epsilon:g}; nothing was asked and nothing charged",
            where="--epsilon",
            remedy="Give a smaller one, or raise privacy.epsilon in the file: sites refuse what costs more",
        )
    if not 0 < question.share < 0.5:
        raise InputError("the share is not between 0 and 0.5", where="--share", remedy="Give one such as .01")


def check_sites(request: Request) -> None:
    """Read every site's rows and ask its policy first, so that what is wrong there is said as it is.

    Raises:
        TidegateError: a site would refuse the question; nothing was charged.
    """
    from clients.ledger.plans import ALL_ROWS, ranges_plan
    from clients.site import open_site
    from contract.messages import Instruction

    assert request.question is not None  # whoever asks has one  # noqa: S101
    question = request.question
    instruction = Instruction(
        run=request.run, windows=request.windows, features=question.features, epsilon=question.epsilon
    )
    for path in request.sites:
        site = open_site(path)
        site.ledger.verify()
        site.require_offered(request.experiment, request.windows, unranged=question.features)
        plan = ranges_plan(request.experiment, instruction, site.split)
        if not site.ledger.plans(plan.run):  # otherwise it was asked and paid for
            with suppress(ApprovalError):  # the site enters the request once it is asked
                site.gate.check(request.experiment, [plan], windows=request.windows or (ALL_ROWS,))


def _rounded_up(value: float) -> float:
    """To two digits, never down."""
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return round(math.ceil(value / step - 1e-9) * step, 12)
