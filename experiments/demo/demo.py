"""The whole loop on one machine, on real rows: `tidegate demo`.

    1. four sites, each its own folder, ledger and process; a SuperLink; MLflow
    2. version 1 is trained with differential privacy on each site's first rows
    3. weeks of held-back rows arrive; a kept schedule has each week checked
    4. a new disease-coding standard is rolled out, at one site first (recoded
       rows of the same people, as when ICD-9 became ICD-10)
    5. drift is seen, persists, and leads to a challenger on the new rows
    6. the challenger meets the champion at every site; what the gate proposes, a
       reviewer approves (here the demo itself, in that name)
    7. a table and a plot say what happened

The figures by week in the plot are computed here, exactly, from all rows of weeks
that the model was not trained on, for the demo laid them out itself. No federation
could know them; its own figures carry noise and are in MLflow.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from contract.errors import InputError, RoundError
from contract.experiment import Experiment
from contract.names import name_run
from contract.releases import Metrics
from contract.words import counted
from experiments.benchmarks.measurement import Measurement, to_json
from experiments.runtimes.deployment import add_site
from server.enrolment import make_server
from server.federation import Federation, project_root
from server.jobs.champion import champion_number
from server.jobs.job import Job
from server.jobs.review import approve
from server.line.flower import ControlClient
from server.line.processes import Processes, free_port, require_free, wait_for_port
from server.registry.plots import Marker, WeekFigures, story
from server.registry.registry import Registry
from server.schedule import schedules_beside
from server.server_file import ServerFile
from server.settings import ServerSettings
from server.state.records import ScheduleRecord
from server.state.schedules import Schedules
from server.state.storage import State, open_state
from terminal.experiment_files import read_experiment

if TYPE_CHECKING:
    import pandas as pd

    from experiments.data.layout import SiteRows

__all__ = ["Demo", "DemoOptions", "Step", "recode"]

_MARK = "made-by-tidegate-demo"
_REVIEWER = "the demo's reviewer"
_QUIET_WEEKS = 3
_STRAY_ALARMS = 1
"""Quiet weeks that may have a false alarm, on which the policy does nothing. Four sites' checks at one in a
thousand each give one such week in one demo of 80, and two in one of 20,000."""
_ROLLOUT = (1, 2, 4)
"""How many sites use the new coding in the first, second and later weeks of the rollout."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """How the demo is run.

    Attributes:
        folder: where everything goes; one that an earlier demo made is replaced.
        weeks: how many of the held-back weeks arrive.
        week_seconds: how long a week lasts.
        drift: whether the new coding is rolled out.
        ui_port: of the MLflow UI; 0 takes a free one.
    """

    folder: Path
    weeks: int = 10
    week_seconds: float = 2.0
    drift: bool = True
    ui_port: int = 0


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the story: whether it came out, and how long it took."""

    name: str
    ok: bool
    seconds: float
    detail: str


def recode(frame: pd.DataFrame) -> pd.DataFrame:
    """The same rows under the new standard: it counts a disease twice and adds five (`disea` × 2 + 5).

    Ranking hardly changes and calibration breaks, as measured on these rows:
    log loss .474 becomes .552 with a frozen model.
    """
    return frame.assign(disea=frame["disea"] * 2 + 5)


@dataclass(kw_only=True)
class Demo:
    """One run of the demo.

    Args:
        options: how.
        say: is told each line of the story.
    """

    options: DemoOptions
    say: Callable[[str], None] = print
    steps: list[Step] = field(default_factory=list)
    ui: str = ""
    _ui_port: int = 0

    def run(self, keep: Callable[[], None] | None = None) -> dict[str, Any]:
        """Tell the whole story; return what `--json` prints.

        Args:
            keep: called when the story is told, before everything is torn down.

        Raises:
            TidegateError: something did not start, or ended early.
        """
        began = time.perf_counter()
        self._folder()
        experiment = read_experiment(project_root() / "experiments" / "rand-health.toml")
        settings = self._settings()
        with Processes(logs=self.options.folder / "logs") as processes:
            file = ServerFile(
                hosts=("127.0.0.1",),
                listen="127.0.0.1",
                gateway_port=free_port(),
                api_port=free_port(),
                approvals=1,
            )
            make_server(settings.home, file)
            federation = Federation(home=settings.home, settings=settings, processes=processes, file=file)
            with self._step("sites") as note:
                sites = self._lay_out(experiment)
                control = self._start(federation, sites, settings, processes)
                note(f"{len(sites)} sites were let in and are connected; MLflow is starting")
            with open_state(settings.state_url) as state:
                with self._step("first version") as note:
                    note(self._first_version(experiment, control, state, settings, processes))
                with self._step("weeks") as note:
                    note(self._weeks(experiment, sites, settings, state, processes))
                wait_for_port(self._ui_port, 90, processes)
                self._judge(experiment, state)
                figures = self._figures(experiment, sites, settings, state)
            result = self._result(experiment, settings, figures, time.perf_counter() - began)
            (self.options.folder / "result.json").write_text(json.dumps(result, indent=2), encoding="utf-8")
            control.close()
            if keep is not None:
                keep()
        return result

    # -- the steps, in order -----------------------------------------------------

    def _folder(self) -> None:
        folder = self.options.folder
        if folder.exists():
            if not (folder / _MARK).exists():
                raise InputError(
                    "the folder exists and no demo made it",
                    where=str(folder),
                    remedy="Name another with --folder",
                )
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        (folder / _MARK).touch()

    def _settings(self) -> ServerSettings:
        folder = self.options.folder
        mlruns = folder / "mlruns"
        mlruns.mkdir()
        (folder / "server").mkdir()
        return ServerSettings(
            home=folder / "server",
            state_url=f"sqlite:///{folder / 'server' / 'state.db'}",
            tracking_uri=f"sqlite:///{mlruns / 'mlflow.db'}",
            artifact_root=mlruns / "artifacts",
        )

    def _lay_out(self, experiment: Experiment) -> dict[str, DemoSite]:
        """Each site's folder with its first rows; the weeks are held back.

        Evidently's reports are drawn at the site where the coding changes first. Drawn at four sites, each of
        which would be a machine of its own, they took this one's processor for a minute, a third of the demo.
        """
        from experiments.data.datasets import dataset_sites
        from experiments.data.layout import RAND_BASE, write_site

        sites: dict[str, DemoSite] = {}
        for held_back in dataset_sites(str(experiment.data)):
            file = write_site(
                held_back,
                self.options.folder / "sites" / held_back.name,
                windows=RAND_BASE,
                drift_reports=self.options.drift and not sites,
            )
            sites[held_back.name] = DemoSite(name=held_back.name, file=file, held_back=held_back)
        return sites

    def _start(
        self,
        federation: Federation,
        sites: Mapping[str, DemoSite],
        settings: ServerSettings,
        processes: Processes,
    ) -> ControlClient:
        port = self.options.ui_port or free_port()
        require_free(port, "the MLflow UI")
        control = federation.start_server()
        for site in sites.values():
            add_site(federation, site.name, site.file, control)
        Registry(settings.tracking_uri, settings.artifact_root).connect()
        federation.wait_for_sites(control, len(sites))
        self.ui = federation.start_ui(port)
        self._ui_port = port
        return control

    def _first_version(
        self,
        experiment: Experiment,
        control: ControlClient,
        state: State,
        settings: ServerSettings,
        processes: Processes,
    ) -> str:
        from experiments.data.layout import RAND_BASE

        run = name_run(experiment.name)
        job = Job(
            kind="train",
            run=run,
            experiment=experiment,
            windows=RAND_BASE,
            trigger="the demo's first version",
        )
        number = control.submit(project_root(), job.to_run_config())
        ended = control.wait(number, pause=0.3, watch=processes.require_running)
        record = state.run(run)
        if not ended.completed or record is None or record.result is None:
            raise RoundError(f"the first version was not trained: {ended.details}", where=f"run '{run}'")
        result = json.loads(record.result)
        spent = max(site["epsilon_in_run"] for site in result["privacy"].values())
        overall = result["metrics"]["overall"]
        loss = f"{overall['log_loss']:.3f}" if "log_loss" in overall else "not measurable, as noise hides it"
        self._approve(
            experiment, result["version"], "the first version, in which every site counts", state, settings
        )
        return (
            f"version {result['version']}, {result['rounds']} rounds, ε ≤ {spent:.2f} a site, "
            f"log loss {loss} (from noisy counts), approved by {_REVIEWER}"
        )

    def _approve(
        self, experiment: Experiment, version: int, reason: str, state: State, settings: ServerSettings
    ) -> None:
        """What a person does who has read the passport."""
        registry = Registry(settings.tracking_uri, settings.artifact_root)
        approve(experiment.name, version, state, registry, by=_REVIEWER, reason=reason, least=1)

    def _weeks(
        self,
        experiment: Experiment,
        sites: Mapping[str, DemoSite],
        settings: ServerSettings,
        state: State,
        processes: Processes,
    ) -> str:
        """Deliver each week's rows as it begins; a schedule, as a rehearsal, has it checked afterwards."""
        from experiments.data.layout import RAND_BASE

        weeks = [window for window in next(iter(sites.values())).held_back.windows if window not in RAND_BASE]
        weeks = weeks[: self.options.weeks]
        self._deliver(weeks[0], 0, sites)
        every, schedules = self.options.week_seconds, Schedules(state.database)
        schedules.add(ScheduleRecord.of(experiment, every="week", first=weeks[0], pace=every))
        log = self.options.folder / "logs" / "schedule.log"
        with log.open("a", encoding="utf-8") as lines, schedules_beside(settings, say=told_to(lines)) as look:
            began, delivered, told = time.monotonic(), 1, 0
            while (told := self._tell(experiment, state, settings, told)) < len(weeks):
                if delivered < len(weeks) and time.monotonic() - began >= (delivered - 0.5) * every:
                    self._deliver(weeks[delivered], delivered, sites)
                    delivered += 1
                look()
                self._require_progress(experiment, state, processes)
                time.sleep(0.2)
            schedules.remove(experiment.name)
        return f"{len(weeks)} weeks checked"

    def _deliver(self, week: str, place: int, sites: Mapping[str, DemoSite]) -> None:
        since = place - _QUIET_WEEKS
        recoded = _ROLLOUT[min(since, len(_ROLLOUT) - 1)] if self.options.drift and since >= 0 else 0
        for number, site in enumerate(sites.values()):
            site.deliver(week, recoded=number < recoded)

    def _require_progress(self, experiment: Experiment, state: State, processes: Processes) -> None:
        """No run may fail here, and every child must run on."""
        failed = [run for run in state.runs(experiment.name) if run.status == "failed"]
        if failed:
            raise RoundError(f"run '{failed[0].name}' failed: {failed[0].error}")
        processes.require_running()

    def _tell(self, experiment: Experiment, state: State, settings: ServerSettings, told: int) -> int:
        """Say what each finished cycle found, have approved what the gate proposes; return how many have."""
        cycles = [run for run in state.runs(experiment.name) if run.job == "cycle" and run.result]
        for run in cycles[told:]:
            outcome = json.loads(run.result or "{}")
            alarm = (
                f"alarm at {', '.join(outcome['sites_in_alarm']) or 'all sites together'}"
                if outcome["alarm"]
                else "quiet"
            )
            self.say(f"  {outcome['window']}: {alarm}; {outcome['decision']}")
            if outcome["decision"] == "retrain":
                verdict, version = _verdict_of(outcome), outcome["challenger"]
                self.say(f"       challenger version {version} {verdict} by the gate: {outcome['gate']}")
                if outcome["proposed"]:
                    self._approve(experiment, version, "better than chance explains", state, settings)
                    self.say(f"       version {version} approved by {_REVIEWER}, and in service")
        return len(cycles)

    def _judge(self, experiment: Experiment, state: State) -> None:
        """Did the story come out?"""
        outcomes = self._outcomes(experiment, state)
        quiet = [item for item in outcomes[:_QUIET_WEEKS] if item["alarm"]]
        alarms = f"{counted(len(quiet), 'alarm')} in {_QUIET_WEEKS} weeks"
        if 0 < len(quiet) <= _STRAY_ALARMS:
            alarms += "; chance brings one in one demo of 80, and the policy does nothing on it"
        self._check("the first weeks stay quiet", len(quiet) <= _STRAY_ALARMS, alarms)
        retrained = [item for item in outcomes if item["decision"] == "retrain"]
        if not self.options.drift:
            self._check("nothing is retrained", not retrained, f"{len(retrained)} retrainings without drift")
            return
        rollout = outcomes[_QUIET_WEEKS]
        seen = rollout["alarm"] and len(rollout["sites_in_alarm"]) >= 1
        self._check(
            "drift is seen at the first site", seen, f"{rollout['window']}: {rollout['sites_in_alarm']}"
        )
        waited = next((item for item in outcomes if item["alarm"]), rollout)["decision"] == "watch"
        self._check("the policy waits for persistence", waited, "the first alarm led to watching")
        self._check("a challenger is trained", bool(retrained), f"{len(retrained)} in {len(outcomes)} weeks")
        for item in retrained:
            self._check(f"the challenger is {_verdict_of(item)} by the gate", True, item["gate"])
            if item["proposed"]:
                in_service = champion_number(experiment.name, state) == item["challenger"]
                told = f"version {item['challenger']}, approved by {_REVIEWER}"
                self._check("a reviewer puts it into service", in_service, told)

    @staticmethod
    def _outcomes(experiment: Experiment, state: State) -> list[dict[str, Any]]:
        cycles = [run for run in state.runs(experiment.name) if run.job == "cycle" and run.result]
        return [json.loads(run.result or "{}") for run in cycles]

    def _figures(
        self, experiment: Experiment, sites: Mapping[str, DemoSite], settings: ServerSettings, state: State
    ) -> dict[str, list[WeekFigures]]:
        """Exact figures by week of the champion of that week, of version 1 and of the retrained version."""
        registry = Registry(settings.tracking_uri, settings.artifact_root)
        versions = {
            item.version: registry.load_arrays(experiment.name, item.version)
            for item in registry.versions(experiment.name)
        }
        outcomes = self._outcomes(experiment, state)
        champion = 1
        curves: dict[str, list[WeekFigures]] = {"champion": [], "frozen": [], "retrained": []}
        for number, outcome in enumerate(outcomes, start=1):
            frames = [site.rows(outcome["window"]) for site in sites.values()]
            lines = {"champion": champion, "frozen": 1, "retrained": champion if champion > 1 else None}
            for name, version in lines.items():
                if version is not None:
                    metrics = exact_metrics(versions[version], frames, experiment)
                    curves[name].append(
                        WeekFigures(
                            week=number, log_loss=metrics.log_loss, brier=metrics.brier, auc=metrics.auc
                        )
                    )
            champion = outcome["challenger"] if outcome.get("proposed") else champion
        markers = self._markers(outcomes)
        plot = story(
            {name: curve for name, curve in curves.items() if curve},
            title="A new coding standard, week by week" if self.options.drift else "Weeks without a change",
            markers=markers,
        )
        (self.options.folder / "story.png").write_bytes(plot)
        record = [run for run in state.runs(experiment.name) if run.model_version == champion][-1]
        registry.log_figure_bytes(str(record.mlflow_run_id), plot, "story.png")
        return {name: curve for name, curve in curves.items() if curve}

    def _markers(self, outcomes: list[dict[str, Any]]) -> list[Marker]:
        markers = []
        if self.options.drift:
            markers.append(Marker(week=_QUIET_WEEKS + 1, name="new coding at one site"))
        for number, outcome in enumerate(outcomes, start=1):
            if outcome["decision"] == "retrain":
                word = "approved" if outcome["proposed"] else "refused"
                markers.append(Marker(week=number + 0.5, name=f"version {outcome['challenger']} {word}"))
        return markers

    def _result(
        self,
        experiment: Experiment,
        settings: ServerSettings,
        figures: Mapping[str, list[WeekFigures]],
        seconds: float,
    ) -> dict[str, Any]:
        return {
            "ok": all(step.ok for step in self.steps),
            "seconds": seconds,
            "steps": [vars(step) for step in self.steps],
            "model": experiment.name,
            "weeks": {name: [vars(item) for item in curve] for name, curve in figures.items()},
            "goals": to_json(
                [Measurement(name="tidegate demo", ours=seconds, theirs=None, unit="s", goal=240.0)]
            ),
            "plot": str(self.options.folder / "story.png"),
            "tracking_uri": settings.tracking_uri,
            "ui": self.ui,
        }

    # -- telling it ---------------------------------------------------------------

    def _check(self, name: str, ok: bool, detail: str) -> None:
        self.steps.append(Step(name=name, ok=ok, seconds=0.0, detail=detail))

    @contextmanager
    def _step(self, name: str) -> Iterator[Callable[[str], None]]:
        details: list[str] = []
        began = time.perf_counter()
        yield details.append
        step = Step(name=name, ok=True, seconds=time.perf_counter() - began, detail="; ".join(details))
        self.steps.append(step)
        self.say(f"{step.name}: {step.detail} ({step.seconds:.1f} s)")


@dataclass(frozen=True, kw_only=True)
class DemoSite:
    """One site's folder, and the rows that have not arrived yet."""

    name: str
    file: Path
    held_back: SiteRows

    def deliver(self, week: str, *, recoded: bool) -> None:
        """A week's rows arrive, whole or not at all."""
        from experiments.data.layout import deliver

        rows = self.held_back.of(week)
        deliver(self.file.parent, week, recode(rows) if recoded else rows)

    def rows(self, week: str) -> pd.DataFrame:
        """The week's rows as they were delivered."""
        import pandas as pd

        return pd.read_csv(self.file.parent / "rows" / f"{week}.csv")


def _verdict_of(outcome: Mapping[str, Any]) -> str:
    return "proposed" if outcome["proposed"] else "refused"


def told_to(lines: IO[str]) -> Callable[[str], None]:
    """Writes each line as it comes."""
    return lambda words: print(words, file=lines, flush=True)


def exact_metrics(
    arrays: Mapping[str, np.ndarray[Any, Any]], frames: list[pd.DataFrame], experiment: Experiment
) -> Metrics:
    """Metrics without noise, over the rows of all frames; for public rows that lie at hand."""
    import pandas as pd

    from clients.mechanisms.evaluation import exact_scores
    from clients.rows.rows import rows_of
    from clients.rows.table import prepare
    from clients.site_config import DataSource
    from experiments.data.layout import card_of

    card, source = card_of(str(experiment.data)), DataSource(kind="csv", path="rows")
    rows = rows_of(pd.concat(frames, ignore_index=True), card, source=source, key=b"public")
    return exact_scores(arrays, prepare(rows, experiment, card), experiment)
