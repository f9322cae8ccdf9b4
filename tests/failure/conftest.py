"""The federations that are hurt, and the count of what was done to them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.experiment import Experiment
from contract.experiment_file import parse_experiment
from experiments.federated_run import Request, run_experiment
from server.jobs.job import Job
from server.registry.registry import Registry
from server.settings import ServerSettings, read_settings
from server.state.records import RunRecord
from tests.failure.disk import Disk
from tests.failure.federation import LONG, Account, Arrays, HurtFederation
from tests.mlflow_database import lay_mlflow_database
from tests.runtimes.conftest import SMALL, make_site, settings, sites, small

__all__ = ["settings", "sites", "small"]

SITES = ("north", "south", "west")
RUNS_FOLD = 12 if LONG else 1
"""How much more room the long form's runs take."""


def plan(
    *, rounds: int, quorum: int = 3, grace: float = 2.0, timeout: float = 400.0, private: bool = False
) -> Experiment:
    """A small experiment. Where it is not private its weights follow from its seed alone."""
    text = SMALL.format(
        kind="linear",
        strategy="fedavgm",
        rounds=rounds,
        quorum=quorum,
        private=str(private).lower(),
        seed="" if private else "seed = 7",
    )
    text = text.replace("grace = 2.0", f"grace = {grace}\nround_timeout = {timeout}")
    return parse_experiment(text, where="small")


def train(run: str, experiment: Experiment) -> Job:
    return Request(experiment=experiment, run=run, sites=[], settings=read_settings({})).job()


def home_of(folder: Path) -> ServerSettings:
    lay_mlflow_database(folder / "mlflow.db")
    return read_settings(
        {
            "TIDEGATE_HOME": str(folder),
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
            "TIDEGATE_ARTIFACT_ROOT": str(folder / "artifacts"),
        }
    )


def lay_out(folder: Path) -> list[Path]:
    return [make_site(folder / name, name, seed) for seed, name in enumerate(SITES)]


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Experiment], Arrays]:
    """The weights of a run to which nothing happened, in one process."""

    @functools.cache
    def weights(text: str) -> Arrays:
        experiment = Experiment.model_validate_json(text)
        folder = tmp_path_factory.mktemp("undisturbed")
        settings = home_of(folder / "home")
        request = Request(
            experiment=experiment, run="calm", sites=lay_out(folder / "sites"), settings=settings
        )
        version = run_experiment(request)["version"]
        return Registry(settings.tracking_uri, settings.artifact_root).load_arrays(experiment.name, version)

    return lambda experiment: weights(experiment.model_dump_json())


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HurtFederation]:
    """A server and three sites, all running; the server and `west` on disks of their own."""
    folder = tmp_path_factory.mktemp("federation")
    places = lay_out(folder / "sites")
    home = folder / "home"
    federation: HurtFederation | None = None
    server_disk = Disk(home, 64 * RUNS_FOLD, lambda: federation.server_side() if federation else ())
    site_disk = Disk(
        places[2].parent / "tidegate",
        4 * RUNS_FOLD,
        lambda: federation.site_side("west") if federation else (),
    )
    federation = HurtFederation(home_of(home), places, folder / "logs")
    federation.disks = {"server": server_disk, "west": site_disk}
    try:
        federation.start()
        yield federation
    finally:
        federation.close()
        server_disk.close()
        site_disk.close()


@pytest.fixture
def federation(standing: HurtFederation) -> Iterator[HurtFederation]:
    """The same one for every test, made whole before each."""
    standing.repair()
    standing.faults = []
    yield standing
    standing.mend()


@pytest.fixture
def tally(record_property: Callable[[str, Any], None]) -> Callable[[Account], Account]:
    """Adds to the suite's count, and refuses anything lost or doubled."""

    def add(account: Account) -> Account:
        print(account, flush=True)
        record_property("faults", len(account.faults))
        record_property("lost", len(account.lost))
        record_property("doubled", len(account.doubled))
        assert account.lost == []
        assert account.doubled == []
        return account

    return add


@pytest.fixture
def unharmed(
    federation: HurtFederation,
    undisturbed: Callable[[Experiment], Arrays],
    tally: Callable[[Account], Account],
) -> Callable[[Job, RunRecord], Account]:
    """Asserts that a run ended as if nothing had been done to it: its status, its weights, what was paid."""

    def check(job: Job, record: RunRecord) -> Account:
        assert record.status == "succeeded"
        weights, calm = federation.weights(job.experiment, record), undisturbed(job.experiment)
        assert weights.keys() == calm.keys()
        for name, value in weights.items():
            np.testing.assert_allclose(value, calm[name], atol=1e-6, rtol=0)
        return tally(federation.account(job.run))

    return check
