"""One training run in any of the three runtimes, by one entry.

    inline       the sites are folders; everything happens in this process
    deployment   SuperLink and one agent a site, as processes on this machine
    simulation   Flower's Ray engine; the sites are virtual nodes

The ServerApp and the ClientApp are the same in all three, and so are the numbers.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

from contract.errors import ApprovalError, DataError, InputError, RoundError
from contract.experiment import Experiment
from contract.federation_api import waiting_words
from contract.installed_models import with_package
from contract.recipe import asked_rows, needs_recipe, with_recipe
from contract.words import counted, verb
from server.jobs.job import Job, RangeQuestion
from server.settings import ServerSettings
from server.state.participation import WAITING

__all__ = [
    "Request",
    "Runtime",
    "asked_sites",
    "laid_out",
    "named_runtime",
    "require_sites",
    "run_experiment",
    "sites_for",
    "with_all_settings",
]

Runtime = Literal["inline", "simulation", "deployment"]
Progress = Callable[[int, str], None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be run, where.

    Attributes:
        experiment: the plan.
        run: the run's name; one that exists is resumed.
        sites: the site.toml of each site.
        settings: where the server keeps its state.
        runtime: which engine.
        windows: whose rows are used; empty for all.
        question: asks for ranges instead of training.
        progress: is told the round and a note.
    """

    experiment: Experiment
    run: str
    sites: Sequence[Path]
    settings: ServerSettings
    runtime: Runtime = "inline"
    windows: tuple[str, ...] = ()
    trigger: str = "a data scientist"
    question: RangeQuestion | None = None
    progress: Progress = field(default=lambda _round, _note: None)

    def job(self) -> Job:
        """The job for the ServerApp."""
        return Job(
            kind="train" if self.question is None else "ranges",
            run=self.run,
            experiment=self.experiment,
            windows=self.windows,
            trigger=self.trigger,
            question=self.question,
        )


def named_runtime(name: str) -> Runtime:
    """The runtime of that name.

    Raises:
        InputError: there is none.
    """
    if name not in get_args(Runtime):
        known = " or ".join(", ".join(get_args(Runtime)).rsplit(", ", 1))
        raise InputError(f"there is no runtime '{name}'", where="--runtime", remedy=f"Use {known}")
    return cast(Runtime, name)


def sites_for(experiment: Experiment, given: Sequence[Path], home: Path) -> list[Path]:
    """The given site.toml files, or the experiment's data set laid out as sites under `home`.

    A layout is kept, with its ledgers: what the sites have spent outlives a run.

    Raises:
        DataError: neither sites nor a data set are named.
    """
    if given:
        return list(given)
    if experiment.data is None:
        raise DataError(
            "no sites are named and the experiment names no data set",
            where=experiment.name,
            remedy="Give --site PATH/site.toml for each site, or set data = 'NAME' in the experiment",
        )
    return laid_out(experiment.data, home)


def laid_out(data: str, home: Path) -> list[Path]:
    """The site.toml files of a data set as sites under `home`, laid out if they are not there yet.

    Raises:
        DataError: there is no such data set.
    """
    folder = home / "sites" / data
    done = folder / "laid-out"
    if done.exists():
        return [folder / name / "site.toml" for name in done.read_text(encoding="utf-8").splitlines()]
    from experiments.data.datasets import prepare_sites

    paths = prepare_sites(data, folder)
    done.write_text("\n".join(path.parent.name for path in paths), encoding="utf-8")
    return paths


def with_all_settings(experiment: Experiment, sites: Sequence[Path]) -> Experiment:
    """The experiment, with what it leaves to the recipe (`contract.recipe`) chosen for these sites.

    And with the version of its model's package that is installed here, where it states none.

    Raises:
        NotInstalledError: none is.
        SiteConfigError: a site.toml is missing or wrong.
    """
    from clients.site_config import read_site_config

    experiment = with_package(experiment)
    if not needs_recipe(experiment):
        return experiment
    configs = [read_site_config(path) for path in sites]
    rows = {config.name: config.stated_rows for config in configs}
    return with_recipe(experiment, asked_rows(experiment, rows))


def asked_sites(experiment: Experiment, sites: Sequence[Path]) -> list[Path]:
    """Those of the site.toml files whose sites the experiment asks.

    Raises:
        SiteConfigError: a site.toml is missing or wrong.
    """
    from clients.site_config import read_site_config

    asked = experiment.strategy.sites
    return [path for path in sites if not asked or read_site_config(path).name in asked]


def require_sites(experiment: Experiment, sites: Sequence[Path]) -> None:
    """Refuse sites with which the run could not begin: nobody else can join it, and nothing is charged yet.

    Raises:
        InputError: a site is named twice, or fewer are named than the quorum.
        SiteConfigError: a site.toml is missing or wrong.
    """
    from clients.site_config import read_site_config

    files: dict[Path, Path] = {}
    names: dict[str, Path] = {}
    for path in sites:
        if path.resolve() in files:
            again = "" if path == files[path.resolve()] else f", and as {files[path.resolve()]}"
            raise InputError(
                f"the site is named twice{again}", where=str(path), remedy="Give each --site once"
            )
        files[path.resolve()] = path
        name = read_site_config(path).name
        if name in names:
            raise InputError(
                f"the site's name is '{name}', and so is that of {names[name]}",
                where=str(path),
                remedy="Give each site once, and each a name of its own in its site.toml",
            )
        names[name] = path
    found, quorum = len(sites), experiment.strategy.quorum
    if found < quorum:
        raise InputError(
            f"{counted(found, 'site')} {verb(found, 'is', 'are')} named, and strategy.quorum is {quorum}",
            where=experiment.name,
            remedy="Name more with --site, or lower strategy.quorum",
        )


def run_experiment(request: Request) -> dict[str, Any]:
    """Run, and return the result that the ServerApp wrote, with the wall time by phase.

    Raises:
        InputError: a site is named twice, or fewer are named than the quorum; nothing was charged.
        TidegateError: the run ended without a model.
    """
    request = replace(request, sites=asked_sites(request.experiment, request.sites))
    require_sites(request.experiment, request.sites)
    began = time.perf_counter()
    engine = {"inline": _inline, "deployment": _deployment, "simulation": _simulation}[request.runtime]
    phases = engine(request)
    return {
        **_result(request),
        "runtime": request.runtime,
        "seconds": {**phases, "total": time.perf_counter() - began},
    }


def _inline(request: Request) -> dict[str, float]:
    began = time.perf_counter()
    from clients.app import app as client_app
    from experiments.runtimes.inline import InlineGrid
    from server.app import run_job
    from server.line.flower import assume_identity

    job, settings = request.job(), request.settings
    grid = InlineGrid(client_app, request.sites, job.to_run_config())
    assume_identity(grid.run_id)
    if request.question is None:
        _check_sites(request)
        _load_libraries(settings)
    else:
        from experiments.range_query import check_sites

        check_sites(request)
    started = time.perf_counter()
    ended: list[float] = []

    def watch(report: Any) -> None:
        ended.append(time.perf_counter())
        request.progress(report.round, _note(report.failures))

    def waits(_step: object, sites: Sequence[str]) -> None:
        request.progress(len(ended), f"({waiting_words(sites)})")

    run_job(job, grid, settings, watch=watch, waits=waits, admitted=_names(request.sites))
    last = ended[-1] if ended else started
    return {"start": started - began, "rounds": last - started, "publish": time.perf_counter() - last}


def _names(sites: Sequence[Path]) -> dict[int, str]:
    """The site of each node of the inline runtime."""
    from clients.site_config import read_site_config

    return {node: read_site_config(path).name for node, path in enumerate(sites, start=1)}


def _load_libraries(settings: ServerSettings) -> None:
    """Seconds of imports, beside each other, and beside MLflow that makes its database on the first run."""
    from clients.app import warm_up
    from server.registry.registry import Registry, load_mlflow

    making = _make_tracking_database(settings)
    with ThreadPoolExecutor(1) as other:
        loaded = other.submit(load_mlflow)
        warm_up()
        loaded.result()
    if making is not None:
        making.wait()  # what went wrong there goes wrong here again, and is said
    Registry(settings.tracking_uri, settings.artifact_root).connect()


def _make_tracking_database(settings: ServerSettings) -> subprocess.Popen[bytes] | None:
    path = settings.tracking_uri.removeprefix("sqlite:///")
    if path == settings.tracking_uri or Path(path).exists():
        return None
    program = "from contract.collector import collect_rarely; collect_rarely(); "
    program += "import os, sys, pathlib; from server.registry.registry import Registry; "
    program += "Registry(sys.argv[1], pathlib.Path(sys.argv[2])).connect(); "
    program += "os._exit(0)"  # at once: to take MLflow's modules apart costs half a second
    command = [sys.executable, "-c", program, settings.tracking_uri, str(settings.artifact_root)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _check_sites(request: Request) -> None:
    """Read every site's ledger and rows and ask its policy first, so that what is wrong is said as it is."""
    from clients.ledger.plans import ALL_ROWS, run_plans
    from clients.site import open_site
    from experiments.site_rows import require_rows

    experiment = request.experiment
    for path in request.sites:
        site = open_site(path)
        site.ledger.verify()
        site.require_offered(experiment, request.windows)
        require_rows(site, experiment, request.windows)
        plans = run_plans(request.run, experiment, request.windows, site.split)
        with suppress(ApprovalError):  # the site enters the request once it is asked, and the rounds wait
            site.gate.check(experiment, plans, windows=request.windows or (ALL_ROWS,))


def _deployment(request: Request) -> dict[str, float]:
    began = time.perf_counter()
    from clients.site_config import read_site_config
    from experiments.runtimes.deployment import SITE, add_site
    from server.federation import Federation, project_root
    from server.line.processes import Processes
    from server.state.storage import open_state

    home = request.settings.home
    with Processes(logs=home / "logs") as processes:
        federation = Federation(home=home, settings=request.settings, processes=processes, announced=False)
        home.mkdir(parents=True, exist_ok=True)
        control = federation.start_server()
        for path in request.sites:
            add_site(federation, read_site_config(path).name, path, control)
        federation.wait_for_sites(control, len(request.sites))
        submitted = time.perf_counter()
        number = control.submit(project_root(), request.job().to_run_config())
        with open_state(request.settings.state_url) as state:

            def watch() -> None:
                processes.require_running(may_end=SITE)  # a lost site is the rounds' own business
                rounds = state.rounds(request.run)
                done = rounds[-1].round if rounds else 0
                waiting = [
                    item.site
                    for item in state.participation(request.run)
                    if item.reason == WAITING and item.round > done
                ]
                if waiting:
                    request.progress(done, f"({waiting_words(waiting)})")
                elif rounds:
                    request.progress(done, _note(rounds[-1].failures))

            ended = control.wait(number, watch=watch)
        control.close()
        if not ended.completed:
            raise RoundError(
                f"the run ended as {ended.sub_status}: {ended.details}",
                where=f"run '{request.run}'",
                remedy=f"Read {home / 'logs' / 'superlink.log'}",
            )
        return {"start": submitted - began, "rounds": time.perf_counter() - submitted}


def _simulation(request: Request) -> dict[str, float]:
    began = time.perf_counter()
    from experiments.runtimes.simulation import simulate

    simulate(request.job(), request.sites, request.settings)
    return {"simulation": time.perf_counter() - began}


def _result(request: Request) -> dict[str, Any]:
    from server.state.storage import open_state

    with open_state(request.settings.state_url) as state:
        record = state.run(request.run)
    if record is None or record.result is None:
        reason = record.error if record is not None and record.error else "it left no result"
        raise RoundError(f"the run ended without a model: {reason}", where=f"run '{request.run}'")
    result: dict[str, Any] = json.loads(record.result)
    return result


def _note(failures: Any) -> str:
    missing = ", ".join(f"{site}: {reason}" for site, reason in sorted(failures.items()))
    return f"(missing {missing})" if missing else ""
