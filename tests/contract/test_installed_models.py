"""Which package a name stands for here: told by the bytes on the disk, before any of its code runs."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.errors import ExperimentError, InputError, NotInstalledError, RefusalCode
from contract.experiment import Experiment, Model
from contract.experiment_file import parse_experiment_json
from contract.installed_models import installed, load, loaded_once, require_installed, with_package
from contract.messages import read_experiment_json
from contract.models import initial_arrays, model_shapes
from tests.installed import EXAMPLE, built, install, on_path

NAME = "small-memory"


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scratch = tmp_path_factory.mktemp("example")
    return install(EXAMPLE, scratch / "installed", scratch)


@pytest.fixture
def here(example: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of what is installed, which a test may spoil."""
    copied = tmp_path / "here"
    shutil.copytree(example, copied)
    with on_path(copied):
        yield copied


def experiment(**model: Any) -> Experiment:
    features = [{"name": f"p{number}", "kind": "numeric", "low": 0, "high": 1} for number in range(6)]
    values = {
        "name": "small",
        "task": {"label": {"column": "ill"}, "features": features},
        "model": {"kind": "package", "name": NAME, **model},
    }
    return parse_experiment_json(json.dumps(values), where="small")


def test_a_version_is_filled_in_from_what_is_installed(here: Path) -> None:
    plan = with_package(experiment())
    assert plan.model.package is not None
    assert plan.model.package.install == "pip install tidegate-example==1.0"
    require_installed(plan.model)
    assert with_package(plan) == plan
    assert "tidegate_example" not in sys.modules  # none of its code has run
    assert read_experiment_json(plan.model_dump_json()) == plan  # as it travels
    del here


def test_the_settings_of_a_file_have_one_order_and_their_types() -> None:
    one = experiment(parameters={"hidden": 4, "at_once": 2, "rate": 1.0, "wide": True, "sizes": [1, 2]})
    other = experiment(parameters={"wide": True, "sizes": [1, 2], "rate": 1.0, "at_once": 2, "hidden": 4})
    assert one.digest == other.digest
    assert hash(one.model) == hash(other.model)
    assert read_experiment_json(one.model_dump_json()) == one
    settings = dict(one.model.parameters)
    assert settings["rate"] == 1.0
    assert type(settings["rate"]) is float
    assert settings["wide"] is True
    assert settings["sizes"] == (1, 2)


@pytest.mark.parametrize(
    "model",
    [
        {"parameters": {"Hidden": 4}},
        {"parameters": {"hidden": None}},
        {"parameters": {"hidden": {"a": 1}}},
        {"parameters": [["hidden", 1], ["hidden", 2]]},
        {"parameters": {"hidden": 2**60}},
        {"parameters": {"text": "x" * 201}},
        {"parameters": {f"s{number}": 1 for number in range(101)}},
        {"name": "../up"},
        {"name": None},
        {"package": {"distribution": "--index-url", "version": "1", "sha256": "0" * 64}},
        {"package": {"distribution": "x", "version": "1 --pre", "sha256": "0" * 64}},
        {"package": {"distribution": "x", "version": "1", "sha256": "0"}},
        {"kind": "linear"},
        {"kind": "linear", "name": None, "parameters": {"hidden": 1}},
    ],
    ids=str,
)
def test_what_is_no_model_of_a_package_is_refused_whole(model: dict[str, Any]) -> None:
    with pytest.raises(ExperimentError):
        experiment(**model)


def test_without_it_the_sentence_says_what_to_install(example: Path) -> None:
    with on_path(example):
        plan = with_package(experiment())
    with pytest.raises(NotInstalledError, match=r"pip install tidegate-example==1\.0") as caught:
        require_installed(plan.model)
    assert caught.value.code == RefusalCode.NOT_INSTALLED
    with pytest.raises(NotInstalledError, match="no installed package offers"):
        with_package(experiment())
    with pytest.raises(InputError, match=r"model\.package"):
        require_installed(experiment().model)


@pytest.mark.parametrize(
    "file", ["tidegate_example/module.py", "tidegate_example-1.0.dist-info/entry_points.txt"]
)
def test_a_file_that_was_changed_after_the_installation_is_another_package(here: Path, file: str) -> None:
    plan = with_package(experiment())
    with (here / file).open("a") as opened:
        opened.write("\n# one line more\n")
    with pytest.raises(NotInstalledError, match="has other files"):
        load(plan.model)
    assert "tidegate_example" not in sys.modules


def test_a_file_that_is_gone_is_told(here: Path) -> None:
    plan = with_package(experiment())
    (here / "tidegate_example" / "module.py").unlink()
    with pytest.raises(NotInstalledError, match=r"module\.py cannot be read"):
        require_installed(plan.model)


def test_how_it_was_built_and_installed_does_not_count(here: Path) -> None:
    plan = with_package(experiment())
    info = here / "tidegate_example-1.0.dist-info"
    (info / "INSTALLER").write_text("another")
    (info / "WHEEL").write_text("Wheel-Version: 1.0\nGenerator: another\n")
    require_installed(plan.model)


def test_two_packages_of_one_model_are_none(here: Path, tmp_path: Path) -> None:
    source = built(tmp_path / "source", name=NAME, source="Family = dict\n")
    second = install(source, tmp_path / "second", tmp_path)
    with on_path(second), pytest.raises(NotInstalledError, match="several installed packages offer"):
        installed(NAME)
    del here


def test_an_editable_one_has_no_hash_of_its_code(here: Path) -> None:
    record = here / "tidegate_example-1.0.dist-info" / "RECORD"
    lines = [line for line in record.read_text().splitlines() if not line.startswith("tidegate_example/")]
    record.write_text("\n".join([*lines, "__editable__.tidegate_example.pth,,"]))
    (here / "__editable__.tidegate_example.pth").write_text(str(EXAMPLE))
    with pytest.raises(NotInstalledError, match="not as an editable one"):
        installed(NAME)


def test_a_module_that_stands_in_its_place_is_not_it(here: Path, tmp_path: Path) -> None:
    plan = with_package(experiment())
    before = tmp_path / "before"
    before.mkdir()
    (before / "tidegate_example.py").write_text("class SmallMemory: ...\n")
    with on_path(before), pytest.raises(NotInstalledError, match="no file of it"):
        load(plan.model)
    del here


def test_what_a_process_has_loaded_is_not_what_was_installed_later(here: Path) -> None:
    plan = with_package(experiment())
    load(plan.model)
    with (here / "tidegate_example" / "module.py").open("a") as opened:
        opened.write("\n# a later one\n")
    later = with_package(experiment())
    assert later.model != plan.model
    with pytest.raises(NotInstalledError, match="has loaded"):
        load(later.model)
    with pytest.raises(NotInstalledError, match="other files"):
        load(plan.model)


def test_the_public_part_needs_no_torch(here: Path) -> None:
    plan = with_package(experiment(parameters={"hidden": 3, "at_once": 2}))
    shapes = model_shapes(plan)
    assert shapes["read.weight"] == (3, 2)
    arrays = initial_arrays(plan, np.random.default_rng(0))
    assert {name: array.shape for name, array in arrays.items()} == shapes
    assert "tidegate_example.module" not in sys.modules
    del here


@pytest.mark.parametrize("settings", [{"unknown": 1}, {"hidden": "many"}, {"hidden": [1]}])
def test_settings_that_the_family_has_not_are_named(here: Path, settings: dict[str, Any]) -> None:
    plan = with_package(experiment(parameters=settings))
    with pytest.raises(InputError, match=f"model.parameters.{next(iter(settings))}"):
        load(plan.model)
    del here


HOSTILE = """
from dataclasses import dataclass
import numpy as np
@dataclass(frozen=True)
class Family:
    how: str = ""
    def parameters(self, *, inputs, classes):
        if self.how == "raises": raise RuntimeError("no")
        return {"many": {"w": (10**9, 10**9)}, "none": {}, "odd": {"w\\x1b": (1,)}, "negative": {"w": (-1,)},
                "text": {"w": "ab"}}.get(self.how, {"w": (2,)})
    def initial(self, rng, *, inputs, classes):
        return {"nan": {"w": np.full(2, np.nan, np.float32)}, "wide": {"w": np.zeros(3, np.float32)},
                "double": {"w": np.zeros(2)}}[self.how]
    def build(self, *, inputs, classes): ...
    def loss(self, outputs, labels): ...
    def judged(self, outputs): ...
"""


@pytest.mark.parametrize(
    ("how", "word"),
    [
        ("raises", RefusalCode.INPUT),
        ("many", RefusalCode.WRONG_SHAPES),
        ("none", RefusalCode.WRONG_SHAPES),
        ("odd", RefusalCode.WRONG_SHAPES),
        ("negative", RefusalCode.WRONG_SHAPES),
        ("text", RefusalCode.WRONG_SHAPES),
        ("nan", RefusalCode.NOT_FINITE),
        ("wide", RefusalCode.WRONG_SHAPES),
        ("double", RefusalCode.WRONG_SHAPES),
    ],
)
def test_parameters_that_are_none_are_refused(hostile: Path, how: str, word: str) -> None:
    with on_path(hostile):
        plan = with_package(experiment(name="hostile", parameters={"how": how}))
        with pytest.raises(InputError) as caught:
            initial_arrays(plan, np.random.default_rng(0))
    assert caught.value.code == word


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scratch = tmp_path_factory.mktemp("hostile")
    return install(built(scratch / "source", name="hostile", source=HOSTILE), scratch / "installed", scratch)


def test_only_imagined_rows_are_trained_on_without_another_look_at_the_disk(here: Path) -> None:
    model = Model.model_validate({"kind": "package", "name": NAME, "package": installed(NAME)})
    with loaded_once():
        first = load(model)
        (here / "tidegate_example" / "module.py").write_text("spoilt = True\n")
        assert load(model) is first
    with pytest.raises(NotInstalledError, match="has other files"):
        load(model)
    with loaded_once(), pytest.raises(NotInstalledError, match="has other files"):
        load(model)
