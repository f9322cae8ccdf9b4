"""The ranges of features, asked of every site: for a task whose ranges nobody knows in public.

    1. ask every site for noisy counts over the public grid
    2. add them up, and tell each feature's range and its error (server/jobs/quantiles.py)
    3. write the answer down, and who did not take part in it

Each site pays once for a question: who asks the same again is given the same counts.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from contract.errors import ExperimentError
from contract.json_values import finite
from contract.messages import RANGES_QUERY, Instruction, Reply
from contract.range_grid import CELLS
from server.exchange.answers import Answers, Patience
from server.exchange.asking import Question, ask
from server.exchange.bounds import ReplySize
from server.exchange.checks import check_public, check_ranges
from server.exchange.weights import row_weights
from server.jobs.ending import recorded_end
from server.jobs.job import Job, RangeQuestion
from server.jobs.quantiles import estimate_range, pool
from server.jobs.training_job import Services, open_record

__all__ = ["run_ranges"]


def run_ranges(job: Job, services: Services) -> None:
    """Ask for the ranges; the answer becomes the run's result.

    Raises:
        ExperimentError: the job holds no question.
        RoundError: too few sites answered.
    """
    question, state = job.question, services.state
    if question is None or not 0 < question.share < 0.5:
        raise ExperimentError(
            "there is no question for ranges, or its share is not between 0 and 0.5", where="run config"
        )
    with recorded_end(job.run, state.take_over(job.run), state, services.grid):
        open_record(job, state)
        answers = _ask(job, question, services)
        answers.require(job.experiment.strategy.quorum, f"the question '{job.run}'")
        state.link_run(job.run, result=json.dumps(_result(job, question, answers)))
        reasons = "; ".join(f"{site}: {reason}" for site, reason in sorted(answers.failures.items()))
        state.finish_run(job.run, "partial" if answers.failures else "succeeded", error=reasons)


def _ask(job: Job, question: RangeQuestion, services: Services) -> Answers:
    instruction = Instruction(
        run=job.run, windows=job.windows, features=question.features, epsilon=question.epsilon
    )

    memory = services.memory()

    def check(reply: Reply) -> None:
        check_public(
            reply,
            job.experiment,
            asked={"ranges"},
            stated=memory.stated_rows(job.run),
            question_epsilon=question.epsilon,
        )
        check_ranges(reply, job.experiment, features=question.features, epsilon=question.epsilon)

    asked = Question(
        kind=RANGES_QUERY,
        instruction=instruction,
        patience=Patience.of(job.experiment.strategy),
        check=check,
        size=ReplySize.of_counts(CELLS * len(question.features), features=len(question.features)),
        sites=job.experiment.strategy.sites,
    )
    return ask(asked, services.grid, memory)


def _result(job: Job, question: RangeQuestion, answers: Answers) -> dict[str, Any]:
    replies = answers.replies
    counted = {site: reply.ranges for site, reply in replies.items() if reply.ranges is not None}
    weights = row_weights({site: pool([summary]).rows for site, summary in counted.items()})
    pooled = pool(counted.values(), [weights[site] for site in counted])
    estimates = [estimate_range(pooled, feature, question.share) for feature in question.features]
    return {
        "run": job.run,
        "experiment": job.experiment.name,
        "digest": job.experiment.digest,
        "windows": list(job.windows),
        "share": question.share,
        "private": all(reply.private for reply in replies.values()),
        "epsilon": question.epsilon,
        "delta": job.experiment.privacy.delta,
        "unit": job.experiment.privacy.unit,
        "sites": {
            site: {
                "epsilon_in_total": finite(reply.spent_in_total.epsilon),
                "block": reply.spent_in_total.block,
                "method": reply.spent_in_total.method,
            }
            for site, reply in replies.items()
        },
        "failures": dict(answers.failures),
        "noise_deviation": pooled.noise_deviation,
        "rows": pooled.rows,
        "rows_error": pooled.rows_error,
        "features": [finite(asdict(estimate)) for estimate in estimates],
    }
