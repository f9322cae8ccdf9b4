"""How long a scientist waits for the first round of a run at a standing server, from Enter on.

`tidegate run` as it is typed, with a profile, in a folder of its own; the server is `tidegate server up`, the
sites are agents that have joined at its gateway and have their libraries loaded.
"""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from clients.site_config import read_site_config
from contract.errors import RoundError
from experiments.benchmarks.measurement import Measurement
from experiments.benchmarks.server_idle import make_standing, standing_server
from experiments.runtimes.deployment import add_site
from server.federation import Federation, project_root, running_control
from server.line.certificates import server_files
from server.line.processes import Processes
from server.settings import ServerSettings
from server.state.people import People
from server.state.storage import open_state

__all__ = ["Waits", "measure", "table"]

_RUNS = 3
_SETTLE_SECONDS = 15.0
"""After the sites are connected: each loads PyTorch first."""
_SUBMITTED, _FIRST_ROUND = "is submitted", ": 1 of "
_WORDS = (_SUBMITTED, _FIRST_ROUND)
"""What `tidegate run` says when the server has the run, and when its first round is done."""


@dataclass(frozen=True, kw_only=True)
class Waits:
    """Seconds from Enter until the run is submitted, and until its first round is done."""

    submitted: float
    first_round: float


def measure(home: Path) -> list[Measurement]:
    """The median of some runs one after the other; without the data set the row says so."""
    from experiments.data.datasets import HEART, is_at_hand, prepare_sites

    if not is_at_hand(HEART.values()):
        return table([])
    file, settings = make_standing(home / "server")
    sites = prepare_sites("heart-disease", home / "sites")
    with standing_server(settings), Processes(logs=home / "logs-of-sites") as processes:
        federation = Federation(
            home=settings.home, settings=settings, processes=processes, lasting=True, file=file
        )
        with closing(running_control(settings)) as control:
            for site in sites:
                add_site(federation, read_site_config(site).name, site, control)
            federation.wait_for_sites(control, len(sites))
        time.sleep(_SETTLE_SECONDS)
        environment = _connect(home / "scientist", settings, file.api)
        return table([_run(environment) for _ in range(_RUNS)])


def table(waits: Sequence[Waits]) -> list[Measurement]:
    """The row; not a number where nothing was measured."""
    note = "the data set is not here: set TIDEGATE_DATA_DIR"
    if waits:
        submitted = statistics.median(one.submitted for one in waits)
        each = ", ".join(f"{one.first_round:.1f}" for one in waits)
        note = f"submitted after {submitted:.1f} s; each of {len(waits)} runs: {each} s"
    return [
        Measurement(
            name="Enter to first round done, from the scientist's machine",
            ours=statistics.median(one.first_round for one in waits) if waits else math.nan,
            theirs=None,
            unit="s",
            goal=3.0,
            note=note,
        )
    ]


def _connect(folder: Path, settings: ServerSettings, url: str) -> dict[str, str]:
    """Make a profile; the environment in which it is found."""
    folder.mkdir(parents=True)
    with open_state(settings.state_url) as state:
        token = People(state.database).add("scientist", "scientist")
    ours = {key: value for key, value in os.environ.items() if not key.startswith(("TIDEGATE", "MLFLOW"))}
    environment = {**ours, "XDG_CONFIG_HOME": str(folder)}
    authority = str(server_files(settings.home / "certificates").authority)
    done = subprocess.run(
        [*_TIDEGATE, "connect", url, "--authority", authority],
        env={**environment, "TIDEGATE_TOKEN": token},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RoundError(f"no profile could be made: {done.stderr}")
    return environment


def _run(environment: dict[str, str]) -> Waits:
    """One run, until it has ended: the next is to find the server idle.

    Raises:
        RoundError: it had no first round.
    """
    said: dict[str, float] = {}
    command = [*_TIDEGATE, "run", str(project_root() / "experiments" / "heart-disease.toml")]
    began = time.perf_counter()
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            seconds = time.perf_counter() - began
            said.update({words: seconds for words in _WORDS if words in line and words not in said})
    if process.returncode != 0 or _FIRST_ROUND not in said:
        raise RoundError(f"'tidegate run' ended with status {process.returncode}")
    return Waits(submitted=said[_SUBMITTED], first_round=said[_FIRST_ROUND])


_TIDEGATE = (sys.executable, "-m", "experiments.cli.main")
