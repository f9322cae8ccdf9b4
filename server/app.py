"""The ServerApp: reads what it is asked to do, and does it.

    train   one federated run, to a registered model version (server/jobs/training_job.py)
    cycle   one closed window: drift check, verdict, policy, perhaps a challenger
            (server/cycle.py)
    ranges  one question for the ranges of features (server/jobs/ranges.py)

The same function serves Flower's own processes and the inline runtime. However a job ends, the state
database says so (`server.jobs.ending`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from contract.collector import collect_rarely
from contract.errors import TidegateError
from contract.names import name_run
from contract.words import counted
from server.cycle import run_cycle
from server.jobs.job import Job, read_job
from server.jobs.memory import Waits, Watch
from server.jobs.ranges import run_ranges
from server.jobs.training_job import Services, run_training
from server.line.flower import quicken_grid
from server.registry.registry import Registry
from server.rounds import RoundReport
from server.server_file import least_approvals
from server.settings import ServerSettings, apply_quiet_environment, read_settings
from server.state.participation import told
from server.state.storage import open_state
from terminal.logs import PlainRecords

__all__ = ["app", "run_job"]

_log = logging.getLogger("flwr")
_log.addFilter(PlainRecords())  # replies and errors of sites are quoted

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Flower's entry."""
    collect_rarely()
    apply_quiet_environment()
    quicken_grid()
    try:
        job = read_job(context.run_config, fallback_run=name_run("run"))
        run_job(job, grid, read_settings(), watch=_log_round)
    except TidegateError as exc:
        _log.error("%s", exc)
        raise
    except Exception:
        _log.exception("the run ended in an error that should not be")
        raise


def run_job(
    job: Job,
    grid: Grid,
    settings: ServerSettings,
    *,
    watch: Watch = lambda _: None,
    waits: Waits = lambda _step, _sites: None,
    admitted: Mapping[int, str] | None = None,
) -> None:
    """Do one job with the services that the settings name.

    Args:
        job: what to do.
        grid: Flower's, or the inline runtime's.
        settings: name the services.
        watch: is told of each round.
        waits: is told for whose approval an exchange waits.
        admitted: the sites by node, where they are not admitted by key.
    """
    with open_state(settings.state_url) as state:
        services = Services(
            grid=grid,
            state=state,
            registry=Registry(settings.tracking_uri, settings.artifact_root),
            rng=np.random.default_rng(job.experiment.privacy.seed),
            watch=watch,
            waits=waits,
            federation=settings.federation,
            admitted=admitted,
            approvals=least_approvals(settings.home),
        )
        if job.kind == "train":
            run_training(job, services)
        elif job.kind == "cycle":
            run_cycle(job, services)
        else:
            run_ranges(job, services)


def _log_round(report: RoundReport) -> None:
    missing = "; ".join(f"{site}: {reason}" for site, reason in report.failures.items())
    todo = told(report.failures)
    _log.info(
        "round %d of %d: %d of %s counted, %.2f s%s",
        report.round,
        report.of,
        len(report.counted),
        counted(len(report.asked), "site"),
        report.seconds,
        f" (missing: {missing}. What to do: {todo})" if missing else "",
    )
