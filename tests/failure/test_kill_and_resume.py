"""kill -9 in the middle of a run, and what is left of it afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from clients.site import open_site
from contract.errors import RoundError
from contract.experiment import Experiment
from experiments.federated_run import Request, run_experiment
from server.registry.registry import Registry
from server.settings import ServerSettings
from server.state.storage import open_state
from tests.failure.conftest import SITES, plan
from tests.failure.federation import LONG, Arrays

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("kills")]

ROUNDS = 30

MakeExperiment = Callable[..., Experiment]
MakeSites = Callable[[str], list[Path]]
MakeSettings = Callable[[str], ServerSettings]

PROGRAM = """\
import sys
from pathlib import Path
from contract.collector import collect_rarely
collect_rarely()
from contract.experiment import Experiment
from experiments.federated_run import Request, run_experiment
from server.settings import read_settings
runtime, run, plan, *sites = sys.argv[1:]
experiment = Experiment.model_validate_json(Path(plan).read_text())
paths = [Path(site) for site in sites]
settings = read_settings()
run_experiment(Request(experiment=experiment, run=run, sites=paths, settings=settings, runtime=runtime))
"""


def start(
    runtime: str, run: str, experiment: Experiment, sites: list[Path], settings: ServerSettings
) -> subprocess.Popen[bytes]:
    plan = settings.home / "plan.json"
    plan.write_text(experiment.model_dump_json())
    environment = {
        **os.environ,
        "TIDEGATE_HOME": str(settings.home),
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
        "TIDEGATE_ARTIFACT_ROOT": str(settings.artifact_root),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", PROGRAM, runtime, run, str(plan), *map(str, sites)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for_round(run: str, number: int, settings: ServerSettings, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 600
    with open_state(settings.state_url) as state:
        while len(state.rounds(run)) < number:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)


def charged(site: Path, run: str) -> tuple[int, int]:
    """How often the site charged a round, and how many of these charges no reply followed."""
    ledger = open_site(site).ledger
    assert ledger.verify()
    entries = [entry for entry in ledger.entries() if entry.plan == f"{run}/train"]
    reserved = sum(entry.kind == "reserve" for entry in entries)
    return reserved, reserved - sum(entry.kind == "commit" for entry in entries)


@pytest.mark.parametrize("runtime", ["inline", "deployment"] if LONG else ["inline"])
def test_a_run_whose_server_was_killed_goes_on_at_its_checkpoint(
    runtime: str, undisturbed: Callable[[Experiment], Arrays], sites: MakeSites, settings: MakeSettings
) -> None:
    """Each round is charged once, and the weights are those of an undisturbed run.

    Inline, the sites die with the server, perhaps between a charge and its reply:
    such a charge counts as spent, and the round is charged again.
    """
    experiment = plan(rounds=ROUNDS)
    here, rows = settings("killed"), sites("killed-sites")
    process = start(runtime, "run-1", experiment, rows, here)
    wait_for_round("run-1", 5, here, process)
    if runtime == "deployment":
        for child in psutil.Process(process.pid).children(recursive=True):
            if "site.toml" not in " ".join(child.cmdline()):  # the server's processes; agents outlive it
                child.kill()
    process.send_signal(signal.SIGKILL)
    process.wait()
    with open_state(here.state_url) as state:
        reached = len(state.rounds("run-1"))
    assert 5 <= reached < ROUNDS
    result = run_experiment(Request(experiment=experiment, run="run-1", sites=rows, settings=here))
    assert result["status"] == "succeeded"
    assert result["rounds_counted"] == dict.fromkeys(SITES, ROUNDS)
    charges = [charged(site, "run-1") for site in rows]
    assert [reserved - unanswered for reserved, unanswered in charges] == [ROUNDS] * 3
    assert sum(unanswered for _, unanswered in charges) <= (1 if runtime == "inline" else 0)
    calm = undisturbed(experiment)
    registry = Registry(here.tracking_uri, here.artifact_root)
    for name, value in registry.load_arrays("small", result["version"]).items():
        np.testing.assert_allclose(value, calm[name], atol=1e-6, rtol=0)


def test_too_few_sites_end_the_run_with_their_names(
    small: MakeExperiment, sites: MakeSites, settings: MakeSettings
) -> None:
    rows = sites("refusing-sites")
    experiment = small()
    text = rows[2].read_text().replace("require_private = false", "require_private = true")
    rows[2].write_text(text)
    from clients.app import app
    from experiments.runtimes.inline import InlineGrid
    from server.app import run_job
    from server.line.flower import assume_identity

    job = Request(experiment=experiment, run="run-1", sites=rows, settings=settings("few")).job()
    grid = InlineGrid(app, rows, job.to_run_config())
    assume_identity(grid.run_id)
    with pytest.raises(RoundError, match=r"needs 3 sites and got 2; missing: .*\(policy\)"):
        run_job(job, grid, settings("few"))
