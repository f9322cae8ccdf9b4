"""One training run as the registry and the state database see it.

1. open the run, or go on with one that was killed; MLflow's beside the first round
2. the rounds (`server.rounds`)
3. plots, data lineage and passport go to MLflow with a new model version
4. the first version of a model becomes its champion, or waits for who reviews it
   (`server.jobs.review`); any later one waits for the gate (`server.cycle`) or for a person
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from flwr.serverapp import Grid

from contract.errors import InputError, TidegateError
from contract.experiment import NumericFeature
from contract.figures import figures_for
from contract.installed_models import require_installed
from contract.json_values import finite
from contract.model_version import PASSPORT_DATA, PASSPORT_FILE
from contract.regression import Measured
from contract.releases import ScoreHistogram
from server.code import server_code_hash
from server.jobs.champion import champion_number, follow_decisions, has_champion
from server.jobs.diagnosis import diagnosis_of
from server.jobs.ending import recorded_end
from server.jobs.export import export
from server.jobs.job import Job
from server.jobs.memory import Publish, RunMemory, Waits, Watch, metric_names
from server.jobs.mlflow_run import MlflowRun
from server.jobs.passports import passport_of
from server.jobs.review import approvals_needed, enter_gate, show_decisions
from server.registry.model_files import hashes_of
from server.registry.passport import ModelComparison, Passport, render
from server.registry.passport_json import passport_json
from server.registry.plots import Point, calibration, learning_curve, privacy_spent, site_metrics
from server.registry.registry import Registry
from server.rounds import Training, TrainingResult, pooled_scores, train
from server.state.participation import advice, kind_of, runs_of, told
from server.state.records import RoundRecord, RunRecord, RunStatus
from server.state.storage import State
from server.state.versions import RegisteredVersions

__all__ = ["Services", "TrainedModel", "open_record", "run_training", "write_passport"]


@dataclass(frozen=True, kw_only=True)
class Services:
    """What a job works with; put together by whoever starts it.

    Attributes:
        grid: Flower's, or the inline runtime's.
        state: the state database.
        registry: MLflow.
        rng: initial values of a model; noise is none of the server's business.
        watch: is told of each round.
        waits: is told for whose approval an exchange waits.
        federation: whose admitted sites may take part (`server.settings`), and are held to what they said.
        admitted: the sites by node where nobody is admitted by key, in one process.
        approvals: how many people must approve a version at least (`server.jobs.review`).
    """

    grid: Grid
    state: State
    registry: Registry
    rng: np.random.Generator
    watch: Watch = lambda _: None
    waits: Waits = lambda _step, _sites: None
    federation: str = ""
    admitted: Mapping[int, str] | None = None
    approvals: int = 0

    def memory(self, publish: Publish = lambda _named, _step: None, turn: int | None = None) -> RunMemory:
        """Where a run is remembered; `turn` of whoever has taken it over."""
        return RunMemory(
            self.state,
            publish,
            self.watch,
            self._admitted,
            turn,
            federation=self.federation if self.admitted is None else None,
            waits=self.waits,
        )

    def _admitted(self) -> Mapping[int, str]:
        if self.admitted is not None:
            return self.admitted
        return {site.node_id: site.name for site in self.state.admitted_sites(self.federation)}


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A registered version and what it came from: `parent` is the version that it began with."""

    record: RunRecord
    result: TrainingResult
    version: int
    mlflow_run: str
    parent: int | None = None


def run_training(
    job: Job,
    services: Services,
    *,
    initial: Mapping[str, np.ndarray[Any, Any]] | None = None,
    parent: int | None = None,
) -> TrainedModel:
    """Train, register, describe.

    Args:
        job: what to train.
        services: what it works with.
        initial: the model to begin with; None for a new one.
        parent: the version that `initial` is of.

    Raises:
        TidegateError: the run ended without a model; the state database says why.
    """
    _require_same_experiment(job, services.state)
    turn, shown = services.state.take_over(job.run), MlflowRun(services.registry)

    def publish(status: RunStatus) -> None:
        shown.settle()
        _publish_failure(job, status, services)

    with recorded_end(job.run, turn, services.state, services.grid, publish):
        require_installed(job.experiment.model, where="the server")
        record = open_record(job, services.state)
        shown.open(lambda: _open_mlflow_run(job, record, services))
        memory = services.memory(shown.log_metrics, turn)
        training = Training(
            run=job.run,
            experiment=job.experiment,
            windows=job.windows,
            initial=None if initial is None else dict(initial),
        )
        result = train(training, services.grid, memory, services.rng)
        services.state.require_turn(job.run, turn)
        mlflow_run = shown.id
        _publish(job, result, mlflow_run, services)
        version = _register(job, record, result, mlflow_run, services, parent)
        _finish(job, record, result, version, mlflow_run, services)
    return TrainedModel(record=record, result=result, version=version, mlflow_run=mlflow_run, parent=parent)


def write_passport(
    job: Job, model: TrainedModel, services: Services, comparison: ModelComparison | None
) -> None:
    """Write a version's passport anew, now that a decision was taken."""
    passport = passport_of(job, model.record, model.result, services.state, comparison, model.parent)
    _keep(passport, model.version, model.mlflow_run, services)
    show_decisions(job.experiment.name, model.version, services.state, services.registry)


def _keep(passport: Passport, version: int, mlflow_run: str, services: Services) -> None:
    """Enter the passport in the record that holds, and lay it beside the run's plots."""
    text, data = render(passport), passport_json(passport)
    RegisteredVersions(services.state.database).add_passport(passport.experiment.name, version, text, data)
    services.registry.log_text(mlflow_run, text, PASSPORT_FILE)
    services.registry.log_text(mlflow_run, data, PASSPORT_DATA)


def _require_same_experiment(job: Job, state: State) -> None:
    record = state.run(job.run)
    if record is not None and record.experiment_digest != job.experiment.digest:
        raise InputError(
            "the run was started with another experiment",
            where=f"run '{job.run}'",
            remedy="Resume it with the experiment file that it began with, or start a new run",
        )


def _open_mlflow_run(job: Job, record: RunRecord, services: Services) -> str:
    """A new MLflow run, or that of the run that was killed; its id."""
    if record.mlflow_run_id is not None:
        services.registry.resume_run(record.mlflow_run_id)
        return record.mlflow_run_id
    tags = {
        "tidegate.run": job.run,
        "tidegate.trigger": job.trigger,
        "tidegate.windows": ", ".join(job.windows) or "all",
        "tidegate.private": "yes" if job.experiment.privacy.private else "NO",
        "tidegate.code_hash": record.code_hash,
    }
    mlflow_run = services.registry.start_run(job.experiment, run_name=job.run, tags=tags)
    services.state.link_run(job.run, mlflow_run_id=mlflow_run)
    return mlflow_run


def open_record(job: Job, state: State) -> RunRecord:
    """The run in the state database, which is running from now on: a new one, or one that has ended."""
    record = state.run(job.run)
    if record is not None:
        state.resume_run(job.run)
        return record
    return state.start_run(
        job.run, experiment=job.experiment, job=job.kind, trigger=job.trigger, code_hash=server_code_hash()
    )


def _publish(job: Job, result: TrainingResult, mlflow_run: str, services: Services) -> None:
    """The final figures, the plots and the data's lineage."""
    registry, rounds = services.registry, services.state.rounds(job.run)
    _publish_sites(job.run, mlflow_run, services)
    spent = {site: reply.spent_in_run.epsilon for site, reply in result.replies.items()}
    named = metric_names(result.site_metrics, result.overall, spent)
    registry.log_metrics(mlflow_run, named, step=result.rounds + 1)
    for site in result.replies:
        registry.log_dataset(
            mlflow_run,
            name=site,
            digest=_declared_digest(job, site),
            schema=_schema(job),
            source=f"site {site}",
        )
    followed = figures_for(job.experiment.task.label)[0].name
    plot = learning_curve(_curves(rounds, result, followed), title=job.run, metric=followed)
    registry.log_figure_bytes(mlflow_run, plot, "learning-curve.png")
    if result.site_metrics:
        plot = site_metrics(result.site_metrics, title=f"{job.run}: held-out rows")
        registry.log_figure_bytes(mlflow_run, plot, "site-metrics.png")
    together = pooled_scores(result.scores)
    if isinstance(together, ScoreHistogram):
        plot = calibration(together.calibration(), title=f"{job.run}: calibration", binary=together.binary)
        registry.log_figure_bytes(mlflow_run, plot, "calibration.png")
    if job.experiment.privacy.private:
        epsilons = {
            site: (reply.spent_in_run.epsilon, reply.spent_in_total.epsilon)
            for site, reply in result.replies.items()
        }
        plot = privacy_spent(epsilons, title=f"{job.run}: privacy spent", delta=job.experiment.privacy.delta)
        registry.log_figure_bytes(mlflow_run, plot, "privacy-spent.png")


def _publish_sites(run: str, mlflow_run: str, services: Services) -> None:
    """How far each site came, exchange by exchange, as a table beside the plots."""
    rows = [
        {
            **{key: value for key, value in vars(item).items() if key not in ("run", "node_id")},
            "since": item.since.isoformat(timespec="seconds"),
            "what_to_do": advice(item.reason),
        }
        for item in services.state.participation(run)
    ]
    services.registry.log_text(mlflow_run, json.dumps(rows, indent=1), "sites.json")


def _curves(rounds: Sequence[RoundRecord], result: TrainingResult, metric: str) -> dict[str, list[Point]]:
    """A metric by rounds done, a line a site and one for all; the last point is the final evaluation.

    A round evaluates the model that it begins with.
    """
    curves: dict[str, list[Point]] = {}
    steps = [(record.round - 1, record.metrics) for record in rounds]
    steps.append((result.rounds, _as_recorded(result)))
    for done, metrics in steps:
        for name, figures in {**metrics["sites"], "all sites": metrics["overall"]}.items():
            if (found := figures or {}).get(metric) is not None:
                error = (found.get("errors") or {}).get(metric)
                curves.setdefault(name, []).append((done, found[metric], error or 0.0))
    return curves


def _as_recorded(result: TrainingResult) -> dict[str, Any]:
    """The final evaluation in the form of a round's record."""
    return {
        "sites": {site: asdict(metrics) for site, metrics in result.site_metrics.items()},
        "overall": None if result.overall is None else asdict(result.overall),
    }


def _register(
    job: Job,
    record: RunRecord,
    result: TrainingResult,
    mlflow_run: str,
    services: Services,
    parent: int | None,
) -> int:
    """A new version; the first of its name is proposed, or becomes the champion."""
    registry, name = services.registry, job.experiment.name
    passport = passport_of(job, record, result, services.state, None, parent)
    tags = {
        "tidegate.run": job.run,
        "tidegate.windows": json.dumps(job.windows),
        "tidegate.private": "yes" if job.experiment.privacy.private else "NO",
        **_searchable(job, result),
    }
    version = registry.register(
        name, mlflow_run, result.arrays, experiment=job.experiment, description=render(passport), tags=tags
    )
    hashes = hashes_of(result.arrays, job.experiment)  # and not MLflow's, which a killed run comes back to
    RegisteredVersions(services.state.database).add_files(name, version, hashes)
    export(
        job.experiment,
        version,
        result.arrays,
        mlflow_run=mlflow_run,
        state=services.state,
        registry=registry,
    )
    _keep(passport, version, mlflow_run, services)
    services.state.link_run(job.run, model_version=version)
    if not has_champion(name, services.state):
        enter_gate(
            job.experiment,
            version,
            services.state,
            registry,
            window=job.window,
            kind="propose"
            if approvals_needed(job.experiment, services.state, services.approvals)
            else "promote",
            reason="the model has no version in service yet",
        )
    elif registry.champion(name) != champion_number(name, services.state):
        follow_decisions(name, services.state, registry)  # of a run that was killed before it did
    return version


def _searchable(job: Job, result: TrainingResult) -> dict[str, str]:
    """Tags by which MLflow's search finds a version: figures over all sites, but for hidden ones."""
    found, overall = {}, result.overall
    for figure in figures_for(job.experiment.task.label) if overall is not None else ():
        value, errors = float(getattr(overall, figure.name)), getattr(overall, "errors", None)
        if math.isfinite(value) and not figure.is_hidden(value, getattr(errors, figure.name, None)):
            found[f"tidegate.{figure.name}"] = f"{value:.4f}"
    spent = [reply.spent_in_run.epsilon for reply in result.replies.values()]
    if spent:
        found["tidegate.epsilon"] = f"{max(spent):.4f}"
    return found


def _finish(
    job: Job, record: RunRecord, result: TrainingResult, version: int, mlflow_run: str, services: Services
) -> None:
    status: RunStatus = "succeeded" if result.complete else "partial"
    error = "" if result.complete else _who_was_missing(job.run, result, services.state)
    diagnosis = diagnosis_of(job.experiment, result, services.state.rounds(job.run))
    told = {
        **summary(job, result, version, mlflow_run, status),
        "incomplete": error,
        "diagnosis": diagnosis.as_dict(),
    }
    services.state.link_run(job.run, result=json.dumps(told))
    services.registry.finish_run(mlflow_run, status)
    services.state.finish_run(record.name, status, error=error)


def _who_was_missing(run: str, result: TrainingResult, state: State) -> str:
    """Each site that did not count throughout: in which rounds, why, and what to do."""
    numbers: dict[tuple[str, str, str], list[int]] = {}
    for item in state.participation(run):
        if item.reason and item.kind in ("train", "evaluate"):
            numbers.setdefault((item.site, item.kind, kind_of(item.reason)), []).append(item.round)
    lines = []
    for (site, kind, reason), found in sorted(numbers.items(), key=lambda item: (item[0][0], item[1])):
        rounds = f"round{'s' * (len(found) > 1)} {runs_of(found)}"
        where = "the final evaluation" if kind == "evaluate" else rounds
        lines.append(f"{site}: {reason} in {where}")
    explained = {site for site, _, _ in numbers}
    lines += [
        f"{site}: not asked in {result.rounds - times} of {result.rounds} rounds"
        for site, times in result.counted.items()
        if times < result.rounds and site not in explained
    ]
    todo = told({site: reason for site, _, reason in sorted(numbers)})
    return "; ".join(lines) + (f". What to do: {todo}" if todo else "")


def summary(job: Job, result: TrainingResult, version: int, mlflow_run: str, status: str) -> dict[str, Any]:
    """What `tidegate run --json` ends with."""
    return {
        "run": job.run,
        "status": status,
        "model": job.experiment.name,
        "version": version,
        "mlflow_run": mlflow_run,
        "private": job.experiment.privacy.private,
        "windows": list(job.windows),
        "figures": [figure.name for figure in figures_for(job.experiment.task.label)],
        "metrics": {
            "overall": _figures(result.overall),
            "sites": {site: _figures(metrics) for site, metrics in result.site_metrics.items()},
        },
        "not_measurable": _not_measurable(result),
        "privacy": {
            site: {
                "epsilon_in_run": finite(reply.spent_in_run.epsilon),
                "epsilon_in_total": finite(reply.spent_in_total.epsilon),
                "delta": reply.spent_in_run.delta,
                "unit": reply.spent_in_run.unit,
                "method": reply.spent_in_run.method,
            }
            for site, reply in result.replies.items()
        },
        "rounds": result.rounds,
        "rounds_counted": dict(result.counted),
        "missing": dict(result.failures),
    }


def _not_measurable(result: TrainingResult) -> dict[str, Any]:
    """Why figures are missing in the final evaluation, by figure: of all sites, and of each."""
    together = pooled_scores(result.scores)
    return {
        "overall": {} if together is None else together.reasons(),
        "sites": {site: scores.reasons() for site, scores in result.scores.items()},
    }


def _figures(metrics: Measured | None) -> dict[str, float]:
    return {} if metrics is None else metrics.as_dict()


def _schema(job: Job) -> dict[str, str]:
    task = job.experiment.task
    kinds = {
        feature.name: "double" if isinstance(feature, NumericFeature) else "string"
        for feature in task.features
    }
    return {**kinds, task.label.column: "double" if task.label.range else "string"}


def _declared_digest(job: Job, site: str) -> str:
    """Names site, windows and schema. A digest of the rows would be a release."""
    text = json.dumps([site, job.windows, _schema(job)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _publish_failure(job: Job, status: RunStatus, services: Services) -> None:
    """Tell MLflow too that a run ended without a model."""
    record = services.state.run(job.run)
    if record is None or record.mlflow_run_id is None:
        return
    with suppress(TidegateError):
        _publish_sites(job.run, record.mlflow_run_id, services)
    services.registry.finish_run(record.mlflow_run_id, status)
