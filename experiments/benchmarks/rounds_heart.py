"""Private training rounds on the four hospitals, and what a site's agent costs while nothing happens.

Ours are `tidegate site up` agents and Tidegate's SuperLink, the alternative stock SuperNodes and a stock
SuperLink with the same ClientApp, ledger and all, and the same ServerApp. Each has its own copy of the sites.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from clients.keys import make_node_key
from clients.site_config import read_site_config
from contract.errors import RoundError
from experiments.benchmarks.measurement import Measurement
from experiments.benchmarks.rounds_trial import STOCK_SUPERLINK, supernode_command
from experiments.federated_run import Request
from experiments.runtimes.deployment import add_site
from server.federation import Federation, admit, project_root
from server.line.flower import ControlClient
from server.line.processes import Processes
from server.settings import read_settings
from server.state.storage import open_state
from terminal.experiment_files import read_experiment

__all__ = ["Heart", "measure", "table"]

_IDLE_SECONDS = 20.0
_SETTLE_SECONDS = 12.0
"""After the start, before idleness is measured: an agent with `--warm` loads PyTorch in its worker first."""
_ROUNDS, _STOCK_ROUNDS = 20, 3
_DEADLINE = 900.0
_RUN = "bench"

Engine = Literal["ours", "stock"]
Progress = Callable[[int, str], None]


@dataclass(frozen=True, kw_only=True)
class Heart:
    """What one of the two came to.

    Attributes:
        round: seconds from the end of a round to that of the next: the median.
        exchange: seconds of it between asking and the last answer: the median.
        core: share of a core that a site takes while idle, the mean of the sites.
        megabytes: resident memory of the process that waits for the server, before its first task.
        worker_megabytes: of the processes that it started to compute.
    """

    round: float
    exchange: float
    core: float
    megabytes: float
    worker_megabytes: float


def measure(folder: Path, progress: Progress = lambda _percent, _note: None) -> list[Measurement]:
    """Both, one after the other; without the data set the rows say so."""
    from experiments.data.datasets import HEART, is_at_hand

    if not is_at_hand(HEART.values()):
        return table(None, None)
    ours = _heart(folder / "ours", "ours")
    progress(80, "(heart disease)")
    return table(ours, _heart(folder / "stock", "stock"))


def table(ours: Heart | None, stock: Heart | None) -> list[Measurement]:
    """The rows; not a number where the data set is missing."""
    note = "the data set is not here: set TIDEGATE_DATA_DIR"
    idle = worker = note
    if ours is not None and stock is not None:
        note = f"between asking and the last answer: {ours.exchange:.2f} s, theirs {stock.exchange:.2f} s"
        idle = f"over {_IDLE_SECONDS:.0f} s, worker included"
        worker = (
            "the process that waits for the server; its worker, PyTorch loaded, "
            f"{ours.worker_megabytes:.0f} MB more (theirs: {stock.worker_megabytes:.0f} MB, and a process "
            "for each message, which loads PyTorch)"
        )
    rows: list[tuple[str, str, float, str, Callable[[Heart], float]]] = [
        ("training round, heart disease, ε = 1, 4 sites", "s", 0.4, note, lambda heart: heart.round),
        ("idle agent, share of a core", "%", 1.0, idle, lambda heart: 100 * heart.core),
        ("agent before its first task, resident", "MB", 150.0, worker, lambda heart: heart.megabytes),
    ]
    return [
        Measurement(
            name=name,
            ours=math.nan if ours is None else value(ours),
            theirs=None if stock is None else value(stock),
            unit=unit,
            goal=goal,
            note=words,
        )
        for name, unit, goal, words, value in rows
    ]


def _heart(home: Path, engine: Engine) -> Heart:
    from experiments.data.datasets import prepare_sites

    sites = prepare_sites("heart-disease", home / "sites")
    settings = read_settings(
        {
            "TIDEGATE_HOME": str(home),
            "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db",
            "TIDEGATE_ARTIFACT_ROOT": str(home / "artifacts"),
        }
    )
    experiment = read_experiment(project_root() / "experiments" / "heart-disease.toml")
    request = Request(experiment=experiment, run=_RUN, sites=sites, settings=settings)
    with Processes(logs=home / "logs") as processes:
        federation = Federation(home=home, settings=settings, processes=processes)
        if engine == "stock":
            federation.superlink = STOCK_SUPERLINK
        control = federation.start_server()
        agents = [_start(federation, path, control, engine) for path in sites]
        federation.wait_for_sites(control, len(sites))
        time.sleep(_SETTLE_SECONDS)
        core, megabytes, worker = _idle(agents)
        number = control.submit(project_root(), request.job().to_run_config())
        rounds = _ROUNDS if engine == "ours" else _STOCK_ROUNDS
        try:
            ended, seconds = _watch(settings.state_url, processes, rounds)
        finally:
            control.stop(number)
            control.close()
    gaps = [after - before for before, after in itertools.pairwise(ended)]
    return Heart(
        round=statistics.median(gaps),
        exchange=statistics.median(seconds[1:]),
        core=core,
        megabytes=megabytes,
        worker_megabytes=worker,
    )


def _start(federation: Federation, site_file: Path, control: ControlClient, engine: Engine) -> int:
    """Start a site; return its process id."""
    name = read_site_config(site_file).name
    if engine == "ours":
        return add_site(federation, name, site_file, control)
    private, public = make_node_key(site_file.parent / "keys")
    admit(name, public, control, federation.settings, federation.name)
    command = supernode_command(federation, private, f'site="{site_file}"')
    return federation.processes.start(name, command, federation.environment, site_file.parent)


def _idle(agents: Sequence[int]) -> tuple[float, float, float]:
    """Share of a core, resident megabytes of the agent and of its children: means of the sites."""
    families = [[agent, *agent.children(recursive=True)] for agent in map(psutil.Process, agents)]
    before = [_seconds(family) for family in families]
    time.sleep(_IDLE_SECONDS)
    cores = [(_seconds(family) - used) / _IDLE_SECONDS for family, used in zip(families, before, strict=True)]
    megabytes = [[process.memory_info().rss / 1e6 for process in family] for family in families]
    return (
        statistics.mean(cores),
        statistics.mean(family[0] for family in megabytes),
        statistics.mean(sum(family[1:]) for family in megabytes),
    )


def _seconds(family: Sequence[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in family)


def _watch(state_url: str, processes: Processes, rounds: int) -> tuple[list[float], list[float]]:
    """When each of the first rounds was recorded, and the seconds of its exchange.

    Raises:
        RoundError: they take too long.
    """
    ended: list[float] = []
    end = time.monotonic() + _DEADLINE
    with open_state(state_url) as state:
        while True:
            done = state.rounds(_RUN)
            ended += [time.monotonic()] * (len(done) - len(ended))
            if len(done) >= rounds:
                return ended, [item.seconds for item in done]
            processes.require_running()
            if time.monotonic() > end:
                raise RoundError(
                    f"{len(done)} of {rounds} rounds after {_DEADLINE:.0f} s", where=str(processes.logs)
                )
            time.sleep(0.02)
