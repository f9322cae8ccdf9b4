"""A model of one's own, from an installed distribution to a registered version, by the real parts."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contract.experiment import Experiment
from contract.experiment_file import parse_experiment
from contract.installed_models import with_package
from experiments.federated_run import Request, run_experiment
from experiments.runtimes import deployment
from server.settings import ServerSettings
from tests.installed import EXAMPLE, install, on_path
from tests.runtimes.conftest import make_site

FILE = """
name = "small"
[task]
time = "window"
label = { column = "ill" }
[[task.features]]
name = "age"
kind = "numeric"
low = 0
high = 120
[[task.features]]
name = "ward"
kind = "categorical"
categories = ["a", "b"]
[model]
kind = "package"
name = "small-memory"
parameters = { hidden = 6, at_once = 1 }
[strategy]
rounds = 2
learning_rate = 1.0
quorum = 2
grace = 5.0
[privacy]
epsilon = 2.0
evaluation_epsilon = 4.0
"""
NAMES = ("north", "south", "west", "east")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Version 1.0, and another one."""
    scratch = tmp_path_factory.mktemp("installed")
    later = {"pyproject.toml": ('version = "1.0"', 'version = "1.1"')}
    return install(EXAMPLE, scratch / "one", scratch), install(
        EXAMPLE, scratch / "two", scratch, changes=later
    )


def sites(folder: Path, names: tuple[str, ...]) -> list[Path]:
    made = [make_site(folder / name, name, seed) for seed, name in enumerate(names)]
    for path in made:
        path.write_text(f'{path.read_text()}[policy.allow]\nmodels = ["tidegate-example==1.0"]\n')
    return made


def passport(home: Path) -> str:
    (found,) = home.rglob("passport.md")
    return found.read_text()


def test_inline_from_the_file_to_the_passport(
    tmp_path: Path, folders: tuple[Path, Path], settings: Callable[[str], ServerSettings]
) -> None:
    with on_path(folders[0]):
        experiment, here = with_package(parse_experiment(FILE, where="small.toml")), settings("home")
        package = experiment.model.package
        assert package is not None
        result = run_experiment(
            Request(experiment=experiment, run="small-1", sites=sites(tmp_path, NAMES[:2]), settings=here)
        )
        assert result["status"] == "succeeded", result
    text = passport(here.home)
    assert "`small-memory` of `tidegate-example==1.0`" in text
    assert package.sha256 in text
    assert "hidden = 6" in text


@pytest.mark.e2e
@pytest.mark.long
def test_a_federation_in_which_one_site_has_it_not_and_one_another_version(
    tmp_path: Path,
    folders: tuple[Path, Path],
    settings: Callable[[str], ServerSettings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Real processes: SuperLink, an agent for each site, each with what is installed there."""
    before, add_site = os.environ.get("PYTHONPATH", ""), deployment.add_site
    root = str(Path(__file__).parents[2])

    def with_what_it_has(federation: Any, name: str, *rest: Any) -> int:
        has = {"west": (), "east": (str(folders[1]),)}.get(name, (str(folders[0]),))
        with monkeypatch.context() as patch:
            patch.setenv("PYTHONPATH", os.pathsep.join((*has, root)))
            return add_site(federation, name, *rest)

    monkeypatch.setattr(deployment, "add_site", with_what_it_has)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(folders[0]), root, before)))
    with on_path(folders[0]):
        experiment: Experiment = with_package(parse_experiment(FILE, where="small.toml"))
    assert importlib.util.find_spec("tidegate_example") is None  # only the processes have it
    here = settings("home")
    result = run_experiment(
        Request(
            experiment=experiment,
            run="small-1",
            sites=sites(tmp_path, NAMES),
            settings=here,
            runtime="deployment",
        )
    )
    missing = json.dumps(result)
    assert result["status"] == "incomplete" or "incomplete" in result, result
    assert "not-installed: pip install tidegate-example==1.0 there" in missing
    assert set(result["metrics"]["sites"]) == {"north", "south"}
    assert "tidegate-example==1.0" in passport(here.home)
