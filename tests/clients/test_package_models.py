"""A site and a model that comes as a package: its word first, then the package's code, then the charge."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from clients.app import app
from contract.errors import RefusalCode
from contract.experiment import Experiment, Model
from contract.installed_models import with_package
from contract.mandate import mandate_for
from contract.messages import DRIFT_QUERY, Instruction
from contract.models import initial_arrays
from experiments.runtimes.inline import InlineGrid
from server.line.flower import assume_identity
from tests.cli.conftest import tidegate
from tests.clients.test_app import EXPERIMENT, entries, site
from tests.installed import EXAMPLE, built, install, on_path

__all__ = ["site", "tidegate"]

TRAIN = Instruction(run="r", step=1, windows=("w1",), evaluate=True)
NAMED = '[policy.allow]\nmodels = ["tidegate-example"]\n'

MIXES = """
from dataclasses import dataclass
import numpy as np
@dataclass(frozen=True)
class Family:
    how: str = ""
    def parameters(self, *, inputs, classes):
        return {"weight": (1, inputs)}
    def initial(self, rng, *, inputs, classes):
        return {"weight": rng.normal(size=(1, inputs)).astype(np.float32)}
    def build(self, *, inputs, classes):
        import torch
        class Mixing(torch.nn.Linear):
            def forward(self, rows):
                return super().forward(rows - rows.mean(0))
        return Mixing(inputs, 1, bias=False)
    def loss(self, outputs, labels): ...
    def judged(self, outputs): return outputs
"""


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scratch = tmp_path_factory.mktemp("example")
    return install(EXAMPLE, scratch / "installed", scratch)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, with a first line that leaves a file where its code has run."""
    scratch = tmp_path_factory.mktemp("watched")
    ran = f"import pathlib; pathlib.Path({str(scratch / 'ran')!r}).touch()\n"
    source = "tidegate_example/__init__.py"
    noted = (
        "from __future__ import annotations\n",
        f"from __future__ import annotations\n{ran}",
    )
    return install(EXAMPLE, scratch / "installed", scratch, changes={source: noted})


@pytest.fixture(scope="module")
def mixing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scratch = tmp_path_factory.mktemp("mixing")
    return install(built(scratch / "source", name="mixing", source=MIXES), scratch / "installed", scratch)


@pytest.fixture
def here(example: Path) -> Iterator[Path]:
    with on_path(example):
        yield example


def plan(name: str = "small-memory", **settings: Any) -> Experiment:
    model = Model.model_validate({"kind": "package", "name": name, "parameters": settings})
    return with_package(EXPERIMENT.model_copy(update={"model": model}))


def arrays_of(experiment: Experiment) -> dict[str, Any]:
    return initial_arrays(experiment, np.random.default_rng(0))


def ask(
    site: Path,
    experiment: Experiment,
    arrays: dict[str, Any],
    *,
    kind: str = "train",
    asked: Instruction = TRAIN,
) -> str:
    return word(answer(site, experiment, arrays, kind=kind, asked=asked))


def answer(
    site: Path,
    experiment: Experiment,
    arrays: dict[str, Any],
    *,
    kind: str = "train",
    asked: Instruction = TRAIN,
) -> Message:
    grid = InlineGrid(app, [site], {"experiment": experiment.model_dump_json(), "mandate": ""})
    assume_identity(grid.run_id)
    message = Message(content=asked.to_records(arrays), dst_node_id=1, message_type=kind)
    (found,) = grid.send_and_receive([message])
    return found


def word(message: Message) -> str:
    return message.error.reason if message.has_error() else "answered"


def allow(site: Path, text: str = NAMED) -> None:
    site.write_text(f"{site.read_text()}{text}")


def test_a_site_trains_what_its_policy_names(site: Path, here: Path) -> None:
    allow(site)
    experiment = plan(hidden=3, at_once=1)
    assert ask(site, experiment, arrays_of(experiment)) == "answered"
    assert ask(site, experiment, arrays_of(experiment), kind="evaluate") == "answered"
    assert entries(site).count("commit") == 2
    del here


@pytest.mark.parametrize(
    "policy",
    [
        "",
        '[policy.allow]\nlabel = "ill"\n',
        '[policy.allow]\nmodels = ["tidegate-example==2.0", "another"]\n',
    ],
)
def test_what_the_policy_does_not_name_is_refused_and_none_of_its_code_runs(
    site: Path, watched: Path, policy: str
) -> None:
    with on_path(watched):
        experiment = plan()
        arrays = arrays_of(experiment)
    ran = watched.parent / "ran"
    ran.unlink()
    with on_path(watched):
        allow(site, policy)
        assert ask(site, experiment, arrays) == RefusalCode.POLICY
        assert ask(site, experiment, {}, kind=DRIFT_QUERY, asked=TRAIN) == RefusalCode.POLICY
        assert not ran.exists()
        assert entries(site) == ["refuse"] * 2
        allow(site, "" if policy else NAMED)
        if not policy:
            assert ask(site, experiment, arrays) == "answered"
            assert ran.exists()


def test_a_whole_digest_names_the_package_too(site: Path, here: Path) -> None:
    experiment = plan()
    allow(site, f'approved_experiments = ["{experiment.digest}"]\n')
    assert ask(site, experiment, arrays_of(experiment)) == "answered"
    other, again = plan(hidden=3), Instruction(run="another", step=1, windows=("w1",), evaluate=True)
    assert ask(site, other, arrays_of(other), asked=again) == RefusalCode.POLICY
    del here


def test_without_the_package_the_word_says_so_and_nothing_is_charged(
    site: Path, example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_rows(*_: Any, **__: Any) -> None:
        raise AssertionError("a row was read")

    monkeypatch.setattr("clients.site.read_rows", read_rows)
    with on_path(example):
        experiment = plan()
        arrays = arrays_of(experiment)
    allow(site)
    assert ask(site, experiment, arrays) == RefusalCode.NOT_INSTALLED
    assert entries(site) == ["refuse"]


def test_another_version_or_other_files_are_not_it(
    site: Path, example: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    scratch = tmp_path_factory.mktemp("others")
    version = {"pyproject.toml": ('version = "1.0"', 'version = "1.1"')}
    files = {"tidegate_example/module.py": ("torch.tanh", "torch.sin")}
    with on_path(example):
        experiment = plan()
        arrays = arrays_of(experiment)
    allow(site)
    for number, changes in enumerate((version, files)):
        with on_path(install(EXAMPLE, scratch / str(number), scratch, changes=changes)):
            assert ask(site, experiment, arrays) == RefusalCode.NOT_INSTALLED
    unsaid = experiment.model_copy(update={"model": experiment.model.model_copy(update={"package": None})})
    with on_path(example):
        assert ask(site, unsaid, arrays) == RefusalCode.POLICY  # nobody can name what is not said
    assert "reserve" not in entries(site)


def test_a_module_that_mixes_rows_is_told_before_the_charge(site: Path, mixing: Path) -> None:
    with on_path(mixing):
        experiment = plan("mixing")
        allow(site, '[policy.allow]\nmodels = ["mixing-package"]\n')
        for kind in ("train", "evaluate"):
            assert ask(site, experiment, arrays_of(experiment), kind=kind) == RefusalCode.MIXES_ROWS
    assert entries(site) == ["refuse"] * 2


def test_arrays_of_another_model_are_refused_before_the_charge(site: Path, here: Path) -> None:
    allow(site)
    experiment = plan()
    other = plan(hidden=3)
    assert ask(site, experiment, arrays_of(other)) == RefusalCode.INPUT
    assert ask(site, plan(unknown=1), arrays_of(other)) == RefusalCode.INPUT
    assert entries(site) == ["refuse"] * 2
    del here


def test_a_reply_that_was_made_is_given_again_without_the_package(site: Path, example: Path) -> None:
    allow(site)
    with on_path(example):
        experiment = plan()
        arrays = arrays_of(experiment)
        first = answer(site, experiment, arrays, kind="evaluate")
    again = answer(site, experiment, arrays, kind="evaluate")
    assert not first.has_error()
    assert [dict(one) for one in first.content.config_records.values()] == [
        dict(one) for one in again.content.config_records.values()
    ]


def test_the_administrator_sees_the_package_and_whether_it_is_installed(
    site: Path, example: Path, tidegate: Callable[..., str]
) -> None:
    with on_path(example):
        experiment = plan()
        arrays = arrays_of(experiment)
    package = experiment.model.package
    assert package is not None
    allow(site, 'approval = "ask"\n')
    assert ask(site, experiment, arrays) == RefusalCode.APPROVAL  # what is installed, no server learns so
    (request,) = json.loads(tidegate("site", "requests", site, "--json"))["requests"]
    assert request["package"] == package.model_dump()
    assert request["package_installed"] is False
    told = tidegate("site", "requests", site)
    assert package.sha256 in told.replace("\n", "")
    assert "NOT INSTALLED HERE" in told
    assert "pip install tidegate-example==1.0" in " ".join(told.split())
    with on_path(example):
        assert "It is installed here" in tidegate("site", "requests", site)
        tidegate("site", "approve", site, experiment.digest)
        assert ask(site, experiment, arrays) == "answered"
    later = Instruction(run="r", step=2, windows=("w1",))
    assert ask(site, experiment, arrays, asked=later) == RefusalCode.NOT_INSTALLED


def test_a_mandate_names_the_package(here: Path) -> None:
    from datetime import UTC, datetime

    experiment = plan()
    said = mandate_for(
        experiment,
        run="r",
        code="0" * 64,
        authority="a" * 64,
        scientist="ada",
        expires=datetime.now(UTC),
    )
    assert said.package == experiment.model.package
    assert said.version == 2
    own = mandate_for(
        EXPERIMENT, run="r", code="0" * 64, authority="a" * 64, scientist="ada", expires=datetime.now(UTC)
    )
    assert own.version == 1
    assert b"package" not in own.canonical()
    del here
