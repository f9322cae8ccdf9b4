"""The runtimes give the same numbers: one process, processes, Ray, and a standing federation."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from clients.keys import make_node_key
from contract.experiment_file import parse_experiment
from experiments.federated_run import Request, Runtime, run_experiment
from server.registry.registry import Registry
from server.settings import ServerSettings
from tests.commands import plain_environment
from tests.e2e.test_people import TIDEGATE, Scientist, Standing
from tests.failure.conftest import Arrays
from tests.forked import run_forked
from tests.runtimes.conftest import SMALL, make_site

pytestmark = pytest.mark.e2e

Make = Callable[[str], list[Path]]
Trained = Callable[[str, Runtime], Arrays]

KINDS = ("linear", "mlp")
SAME = 1e-6
"""The largest difference of a weight that is no difference: a float's last places, after three rounds."""


class StandingFederation(Standing):
    """A `tidegate server up`, and three sites that joined at its gateway; their rows are as elsewhere."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.sites["west"] = make_site(folder / "west", "west", 2)

    def start_site(self, name: str) -> None:
        """Invite it, let it ask, confirm its fingerprint, and start its agent: as the README has it."""
        path = self.sites[name]
        make_node_key(path.parent / "keys")
        token = json.loads(self.operator("server", "invite", name, "--json"))["token"]
        asked = self.site("join", token, "--site", path, "--wait", "0", code=1)
        fingerprint = re.search(r"SHA256:\S+", asked)
        assert fingerprint, asked
        self.operator("server", "requests")
        self.operator("server", "confirm", name, fingerprint[0])
        self.site("join", token, "--site", path, "--wait", "300")
        with (self.folder / f"{name}.log").open("ab") as log:
            self.agents.append(
                subprocess.Popen(
                    [*TIDEGATE, "site", "up", str(path), "--wait", "300"],
                    cwd=path.parent, env=plain_environment(), stdout=log, stderr=log,
                )
            )  # fmt: skip

    def site(self, *arguments: str | Path, code: int = 0) -> str:
        """An administrator's command, which ends so; all that it says."""
        done = run_forked(self.folder, ("site", *map(str, arguments)), plain_environment())
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def connected(self) -> set[str]:
        return {
            one["name"] for one in json.loads(self.operator("server", "sites", "--json")) if one["connected"]
        }


@pytest.fixture(scope="module")
def scientist(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Scientist, StandingFederation]]:
    """Somebody who is connected to a standing federation of three sites, and that federation."""
    folder = tmp_path_factory.mktemp("standing")
    standing = StandingFederation(folder)
    try:
        standing.start()
        for name in standing.sites:
            standing.start_site(name)
        standing.wait(lambda: standing.connected() == set(standing.sites), "three connected sites")
        made = json.loads(
            standing.operator("server", "person", "add", "ada", "--role", "scientist", "--json")
        )
        ada = Scientist(standing, folder / "laptop", made["token"])
        authority = str(standing.home / "certificates" / "ca.pem")
        ada.runs("connect", standing.url, "--authority", authority, token=ada.token)
        yield ada, standing
    finally:
        standing.end()


@pytest.fixture
def trained(sites: Make, settings: Callable[[str], ServerSettings]) -> Trained:
    """Trains in one of the runtimes that need no server, on sites made anew; gives the model's arrays."""

    def train(text: str, runtime: Runtime) -> Arrays:
        experiment = parse_experiment(text, where="small")
        place = f"{runtime}-{experiment.privacy.seed}"
        here = settings(place)
        result = run_experiment(
            Request(
                experiment=experiment,
                run=f"run-{place}",
                sites=sites(f"sites-{place}"),
                settings=here,
                runtime=runtime,
            )
        )
        assert result["status"] == "succeeded", result
        return Registry(here.tracking_uri, here.artifact_root).load_arrays("small", result["version"])

    return train


def small(kind: str, *, seed: int = 7, sampling_rate: float = 1.0) -> str:
    """An experiment file of three rounds, each of which draws that share of the rows."""
    plan = {"strategy": "fedavgm", "rounds": 3, "quorum": 3, "private": "false"}
    return SMALL.format(kind=kind, seed=f"seed = {seed}", **plan) + f"sampling_rate = {sampling_rate}\n"


def on_standing(ada: Scientist, standing: StandingFederation, text: str) -> Arrays:
    """The weights of that experiment, submitted by a scientist from another folder."""
    (ada.folder / "small.toml").write_text(text)
    ended = json.loads(ada.runs("run", "small.toml", "--yes", "--json"))
    assert ended["run"]["status"] == "succeeded", ended
    registry = Registry(standing.settings.tracking_uri, standing.settings.artifact_root)
    return registry.load_arrays("small", ended["result"]["version"])


def largest_difference(one: Arrays, other: Arrays) -> float:
    assert one.keys() == other.keys()
    assert all(one[name].shape == other[name].shape for name in one)
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # Ray leaves files and sockets open
def test_every_runtime_gives_the_same_weights_for_one_seed(
    trained: Trained,
    scientist: tuple[Scientist, StandingFederation],
    record_property: Callable[[str, object], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """How an array travels depends on the runtime, and not on the kind of model whose it is.

    So the one with more arrays is trained. A linear one's weights are held against those of one process after
    each fault of tests/failure/test_faults.py (`unharmed`), which are of processes that one command starts.
    """
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", '{"CPU": 1}')  # one process of Ray's for all sites
    inline = trained(small("mlp"), "inline")
    assert max(np.abs(array).max() for array in inline.values()) > 0.01
    found = {
        "simulation": trained(small("mlp"), "simulation"),
        "standing": on_standing(*scientist, small("mlp")),
    }
    differences = {runtime: largest_difference(inline, arrays) for runtime, arrays in found.items()}
    print(f"largest difference of a weight to inline: {differences}")
    record_property("largest_differences", differences)
    assert max(differences.values()) <= SAME, differences


@pytest.mark.long
def test_processes_of_one_command_give_them_too(trained: Trained) -> None:
    inline, deployment = (trained(small("mlp"), runtime) for runtime in ("inline", "deployment"))
    assert largest_difference(inline, deployment) <= SAME


@pytest.mark.parametrize("kind", KINDS)
def test_another_seed_gives_other_weights(kind: str, trained: Trained) -> None:
    """Where rows are drawn: so that the same weights are no accident."""
    one, other = (trained(small(kind, seed=seed, sampling_rate=0.5), "inline") for seed in (7, 8))
    assert largest_difference(one, other) > 1000 * SAME
