"""The simulation runtime: Flower's Ray engine, for more sites than one process should hold.

The ServerApp's job and the ClientApp are those of every other runtime; the sites
are Flower's virtual nodes, each given the site.toml of its partition. Ray's
actors are processes: each opens the site's own ledger, as an agent would.

Facts: a virtual node's context must come back as it was, so the site's is a copy;
`run_simulation` reports an error of the ServerApp in its log alone, so
the error is kept here and raised when the engine has come down. With its usage reports
turned off, Ray still asks the address where a cloud would say which cloud it is, unless a
file in the home folder does: it gets a home folder with that file, the sites' code does not.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from contract.errors import InputError
from server.jobs.job import Job
from server.line.flower import silence_telemetry
from server.settings import ServerSettings

__all__ = ["simulate"]


class _SitesApp(ClientApp):
    """The ClientApp, told which site its virtual node is."""

    def __init__(self, sites: Sequence[Path], run_config: dict[str, str]) -> None:
        super().__init__()
        self._home = str(Path.home())
        self._sites = [str(path.resolve()) for path in sites]
        self._run_config = run_config

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer as the site of this node's partition."""
        os.environ["HOME"] = self._home
        from clients.app import app

        told = Context(
            run_id=context.run_id,
            node_id=context.node_id,
            node_config={"site": self._sites[int(context.node_config["partition-id"])]},
            state=context.state,
            run_config=dict(self._run_config),
        )
        return app(message, told)


def simulate(job: Job, sites: Sequence[Path], settings: ServerSettings) -> None:
    """Run the job on Flower's Ray engine, on this machine, and take the engine down.

    Raises:
        InputError: Ray is not installed.
        TidegateError: the run ended without a model.
    """
    _require_ray()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    from flwr.simulation import run_simulation

    from server.app import run_job

    silence_telemetry()

    errors: list[Exception] = []
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        del context
        try:
            run_job(job, grid, settings, admitted={})  # virtual nodes have no keys
        except Exception as exc:
            errors.append(exc)

    client_app = _SitesApp(sites, job.to_run_config())
    with _home_for_ray(settings.home / "ray"):
        run_simulation(
            server_app=server_app,
            client_app=client_app,
            num_supernodes=len(sites),
            backend_config={
                "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
                "init_args": {
                    "logging_level": logging.ERROR,
                    "log_to_driver": False,
                    "include_dashboard": False,
                },
            },
        )
    if errors:
        raise errors[0]


@contextmanager
def _home_for_ray(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ray_bootstrap_config.yaml").write_text("provider: {type: local}\n", encoding="utf-8")
    before = os.environ.get("HOME")
    os.environ["HOME"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["HOME"]
        else:
            os.environ["HOME"] = before


def _require_ray() -> None:
    import importlib.util

    if importlib.util.find_spec("ray") is None:
        raise InputError(
            "the simulation runtime needs Ray, which is not installed",
            where="--runtime simulation",
            remedy="Install it with: pip install 'tidegate[simulation]'",
        )
