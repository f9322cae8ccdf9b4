"""One closed window, once round the loop from drift to a reviewed model.

    1. ask every site for its drift summary of the window
    2. form the verdict, over each site and pooled
    3. let the retraining policy decide; write the decision down
    4. if it says so, train a challenger on the new rows
    5. compare it with the champion at every site, on the same recent rows
    6. let the gate decide; write the decision down; only then move the alias

Who is champion is read from the decisions, not from the registry's alias: an
alias keeps no history, and a quiet window then needs no registry at all.

A window that failed may be done again, under the same name: sites answer from their ledgers, what was
decided stands, and the policy sees no later window than the first time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from contract.errors import RefusalCode
from contract.experiment import Experiment
from contract.figures import Estimate
from contract.installed_models import needs_of
from contract.json_values import finite
from contract.messages import CHALLENGER, COMPARE, DRIFT_QUERY, Instruction, Reply
from contract.names import challenger_run
from contract.releases import DriftSummary
from contract.verdicts import Verdict
from contract.windows import latest_after, places, season_of
from monitoring.binning import feature_bins
from monitoring.policy import Decision, WindowOutcome, decide
from monitoring.verdict import form_verdict
from server.exchange.answers import Answers, Patience
from server.exchange.asking import Question, ask
from server.exchange.bounds import ReplySize
from server.exchange.checks import check_comparison, check_drift, check_public
from server.exchange.weights import row_weights
from server.jobs.acceptance import Acceptance, judge
from server.jobs.champion import Champion, champion_of, follow_decisions
from server.jobs.ending import recorded_end
from server.jobs.job import Job
from server.jobs.registered import registered_hashes
from server.jobs.review import approvals_needed, enter_gate
from server.jobs.training_job import Services, TrainedModel, open_record, run_training, write_passport
from server.registry.passport import ModelComparison
from server.state.records import DecisionKind, DecisionRecord
from server.state.storage import State

__all__ = ["Champion", "champion_of", "run_cycle"]

_OF_THE_GATE = ("propose", "promote", "refuse")


def run_cycle(job: Job, services: Services) -> None:
    """Do one window.

    Raises:
        RegistryError: there is no champion yet.
        RoundError: too few sites answered.
    """
    state = services.state
    with recorded_end(job.run, state.take_over(job.run), state, services.grid):
        open_record(job, state)
        champion = champion_of(job.experiment.name, state)
        if entered := _entered(job, state):
            _finish_entered(job, entered, champion, services)
            return
        answers = _ask_for_drift(job, champion, services)
        verdict = _save_verdict(job, champion, answers, services)
        decision = _decide(job, champion, answers, verdict, state)
        outcome: dict[str, Any] = {
            "window": job.window,
            "decision": decision.action,
            "reason": decision.reason,
        }
        outcome |= {**_of_verdict(verdict), "privacy": _spent(answers)}
        if decision.action == "retrain":
            outcome |= _retrain(job, champion, verdict, decision, services)
        state.link_run(job.run, result=json.dumps(outcome))
        state.finish_run(job.run, "partial" if answers.failures else "succeeded", error=_failures(answers))


def _entered(job: Job, state: State) -> DecisionRecord | None:
    """The gate's word on this window's challenger, of a cycle that failed after it."""
    found = [
        item
        for item in state.decisions(job.experiment.name)
        if item.window == job.window and item.kind in _OF_THE_GATE
    ]
    return found[-1] if found else None


def _finish_entered(job: Job, entered: DecisionRecord, champion: Champion, services: Services) -> None:
    """Nobody is asked again: the alias follows the decisions, and the run's result is what they say."""
    state, name = services.state, job.experiment.name
    follow_decisions(name, state, services.registry)
    decided = [item for item in state.decisions(name) if (item.window, item.kind) == (job.window, "retrain")]
    outcome: dict[str, Any] = {
        "window": job.window,
        "decision": "retrain",
        "reason": decided[-1].reason if decided else "",
        "challenger": int(entered.subject.removeprefix("version ")),
        "promoted": entered.kind == "promote",
        "proposed": entered.kind == "propose",
        "gate": entered.reason,
    }
    for item in state.verdicts(name):
        if item.window == job.window:
            outcome |= _of_verdict(Verdict.from_json(json.dumps(item.verdict)))
    state.link_run(job.run, result=json.dumps(outcome))
    state.finish_run(job.run, "succeeded")


def _of_verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        **({"reference": verdict.reference} if verdict.reference else {}),
        "alarm": verdict.alarm,
        "sites_in_alarm": list(verdict.sites_in_alarm),
        "rests_on": verdict.rests_on,
        "drifted": {site.site: list(site.drifted) for site in verdict.sites if site.alarm},
    }


def _ask_for_drift(job: Job, champion: Champion, services: Services) -> Answers:
    reference = job.experiment.drift.reference_of((job.window,), champion.windows)
    instruction = Instruction(run=job.run, windows=(job.window,), reference_windows=reference)
    answers = _ask(job.experiment, DRIFT_QUERY, instruction, None, services)
    answers.require(job.experiment.strategy.quorum, f"the drift check of window '{job.window}'")
    return answers


def _ask(
    experiment: Experiment,
    kind: str,
    instruction: Instruction,
    arrays: Mapping[str, np.ndarray[Any, Any]] | None,
    services: Services,
) -> Answers:
    memory, drift = services.memory(), kind == DRIFT_QUERY
    asked = {"drift"} if drift else {"scores", "challenger_scores", "comparison"}
    window, reference = "+".join(instruction.windows), "+".join(instruction.reference_windows)

    def check(reply: Reply) -> None:
        check_public(
            reply,
            experiment,
            asked=asked,
            request=instruction.request(kind),
            stated=memory.stated_rows(instruction.run),
        )
        if drift:
            check_drift(reply, experiment, window=window, reference_window=reference)
        else:
            check_comparison(reply, experiment)

    question = Question(
        kind=kind,
        instruction=instruction,
        patience=Patience.of(experiment.strategy),
        arrays=arrays,
        check=check,
        size=_size(experiment) if drift else ReplySize(),
        needs=needs_of(experiment.model),
        sites=experiment.strategy.sites,
    )
    return ask(question, services.grid, memory)


def _size(experiment: Experiment) -> ReplySize:
    """Of the counts of a drift check, in both windows."""
    bins = feature_bins(experiment.task, experiment.drift.bins)
    return ReplySize.of_counts(2 * sum(len(item.cells) for item in bins), features=len(bins))


def _reference_words(job: Job, champion: Champion) -> str:
    """What the window was compared with, where the experiment compares seasons."""
    if job.experiment.drift.reference == "all-windows":
        return ""
    season, trained = season_of(job.window), champion.windows
    if not trained:
        return f"all rows: the model was not trained on windows, and so on none of {season} alone"
    if any(season_of(window) == season for window in trained):
        return f"the training windows of {season}"
    return f"all training windows: none of them is of {season}"


def _save_verdict(job: Job, champion: Champion, answers: Answers, services: Services) -> Verdict:
    name, summaries = job.experiment.name, _summaries(answers)
    weights = row_weights({site: _rows(summary) for site, summary in summaries.items()})
    verdict = form_verdict(
        summaries,
        drift=job.experiment.drift,
        rng=services.rng,
        weights=weights,
        reference=_reference_words(job, champion),
    )
    for site, summary in summaries.items():
        services.state.save_drift(name, window=job.window, site=site, summary=_json(summary))
    services.state.save_verdict(
        name, window=job.window, verdict=json.loads(verdict.to_json()), alarm=verdict.alarm
    )
    return verdict


def _summaries(answers: Answers) -> dict[str, DriftSummary]:
    return {site: reply.drift for site, reply in answers.replies.items() if reply.drift is not None}


def _rows(summary: DriftSummary) -> float:
    """How many rows both windows have: each feature counts each."""
    counts = [float(item.reference.sum() + item.current.sum()) for item in summary.features]
    return sum(counts) / len(counts)


def _decide(job: Job, champion: Champion, answers: Answers, verdict: Verdict, state: State) -> Decision:
    """The policy's word on the verdicts so far, entered among the decisions with whose word it rests on.

    A window that is checked late, by hand or because a site was away, trains nothing where the model in
    service knows a later one: its challenger would win on the old rows, and take the newer model's place.
    """
    name = job.experiment.name
    judged = state.verdicts(name)
    place = places([item.window for item in judged])
    history = [
        WindowOutcome(window=item.window, index=place[item.window], alarm=item.alarm)
        for item in judged
        if place[item.window] <= place[job.window]
    ]
    decision = decide(
        history,
        retraining=job.experiment.retraining,
        budget=_budget(answers),
        quorum=job.experiment.strategy.quorum,
        last_retraining=_last_retraining(job, history, state),
    )
    later = latest_after(job.window, champion.windows)
    if later and decision.action in ("retrain", "blocked"):
        known = f"version {champion.version}, which is in service, was trained on {later}, which is later"
        decision = Decision(action="watch", reason=f"{decision.reason.rstrip('.')}; {known}.")
    if any(item.window == job.window and item.kind == decision.action for item in state.decisions(name)):
        return decision  # of this very cycle, before it was killed
    alone = f" In this window '{verdict.rests_on}' alone shows drift." if verdict.rests_on else ""
    state.record_decision(
        name,
        window=job.window,
        kind=decision.action,
        subject="retraining",
        by="policy",
        reason=f"{decision.reason}{alone}",
    )
    return decision


def _budget(answers: Answers) -> dict[str, bool]:
    """As each site says; one that refused the check itself for its budget cannot pay for more."""
    refused = {site: False for site, reason in answers.failures.items() if reason == RefusalCode.BUDGET}
    return {**{site: summary.can_train for site, summary in _summaries(answers).items()}, **refused}


def _last_retraining(job: Job, history: Sequence[WindowOutcome], state: State) -> int | None:
    """Place of the last window whose challenger was judged: an attempt that failed starts no cooldown.

    This window's own, of a cycle that was killed, goes on.
    """
    place = {outcome.window: outcome.index for outcome in history}
    done = [
        place[item.window]
        for item in state.decisions(job.experiment.name)
        if item.kind in _OF_THE_GATE and item.window in place and item.window != job.window
    ]
    return max(done, default=None)


def _retrain(
    job: Job, champion: Champion, verdict: Verdict, decision: Decision, services: Services
) -> dict[str, Any]:
    """Steps 4 to 6."""
    name = job.experiment.name
    training = replace(
        job,
        kind="train",
        run=challenger_run(job.run),
        windows=decision.windows,
        trigger=f"drift in window {job.window}: {decision.reason}",
    )
    hashes = registered_hashes(name, champion.version, services.state, services.registry)
    start = services.registry.load_arrays(name, champion.version, hashes)
    challenger = run_training(training, services, initial=start, parent=champion.version)
    services.registry.log_text(challenger.mlflow_run, verdict.to_json(), "drift/verdict.json")
    answers = _compare(job, training, start, challenger, services)
    acceptance = judge(answers.replies, job.experiment.gate)
    entered = _enter(job, training, champion, challenger, acceptance, services)
    return {
        "challenger": challenger.version,
        "champion": champion.version,
        "trained_on": list(decision.windows),
        "promoted": entered == "promote",
        "proposed": entered == "propose",
        "gate": acceptance.reason,
        "gain": acceptance.gain,
        "gain_error": acceptance.error,
        "findable": acceptance.findable,
        "sites": dict(acceptance.sites),
        "run": training.run,
        "privacy": _spent(answers),
    }


def _compare(
    job: Job,
    training: Job,
    start: Mapping[str, np.ndarray[Any, Any]],
    challenger: TrainedModel,
    services: Services,
) -> Answers:
    arrays = {**start, **{f"{CHALLENGER}{key}": value for key, value in challenger.result.arrays.items()}}
    instruction = Instruction(run=training.run, step=1, windows=training.windows)
    answers = _ask(job.experiment, COMPARE, instruction, arrays, services)
    answers.require(job.experiment.strategy.quorum, f"the comparison of run '{training.run}'")
    return answers


def _enter(
    job: Job,
    training: Job,
    champion: Champion,
    challenger: TrainedModel,
    acceptance: Acceptance,
    services: Services,
) -> DecisionKind:
    """The passport, then the decision that rests on it, and the alias last: a kill leaves the truth there."""
    decision: DecisionKind = "refuse"
    if acceptance.accepted:
        decision = (
            "propose" if approvals_needed(job.experiment, services.state, services.approvals) else "promote"
        )
    comparison = ModelComparison(
        champion_version=champion.version,
        by_site=acceptance.by_site,
        overall=acceptance.overall,
        decision=decision,
        by="policy",
        reason=acceptance.reason,
        gains=acceptance.gains,
        overall_gain=Estimate(value=acceptance.gain, error=acceptance.error),
        findable=acceptance.findable,
    )
    write_passport(training, challenger, services, comparison)
    enter_gate(
        job.experiment,
        challenger.version,
        services.state,
        services.registry,
        window=job.window,
        kind=decision,
        reason=acceptance.reason,
    )
    return decision


def _json(summary: DriftSummary) -> dict[str, Any]:
    features = [
        {"feature": item.feature, "reference": item.reference.tolist(), "current": item.current.tolist()}
        for item in summary.features
    ]
    return {
        **{key: value for key, value in asdict(summary).items() if key != "features"},
        "features": features,
    }


def _spent(answers: Answers) -> dict[str, dict[str, Any]]:
    """What each site's ledger had counted when it answered."""
    return {
        site: {
            "epsilon_in_total": finite(reply.spent_in_total.epsilon),
            "delta": reply.spent_in_total.delta,
            "unit": reply.spent_in_total.unit,
        }
        for site, reply in answers.replies.items()
    }


def _failures(answers: Answers) -> str:
    return "; ".join(f"{site}: {reason}" for site, reason in sorted(answers.failures.items()))
