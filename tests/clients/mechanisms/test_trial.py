"""A package's module that cannot be trained as stated is told before anything is charged, by its word."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clients.mechanisms.evaluation import evaluate
from clients.mechanisms.evaluation import require_places as require_scoring
from clients.mechanisms.noise import NoNoise, SystemNoise
from clients.mechanisms.places import require_same_bits
from clients.mechanisms.training import (
    LocalSteps,
    require_places,
    train_locally,
    train_without_privacy,
)
from clients.rows.table import Table
from contract.errors import InputError, RefusalCode
from contract.experiment import Experiment
from contract.experiment_file import parse_experiment_json
from contract.installed_models import with_package
from contract.models import initial_arrays
from tests.installed import EXAMPLE, built, install, on_path

ODD = """
import itertools
from dataclasses import dataclass
import numpy as np

TIMES = itertools.count()

@dataclass(frozen=True)
class Family:
    how: str = "sound"
    def parameters(self, *, inputs, classes):
        return {"linear.weight": (1 if classes in (0, 2) else classes, inputs)}
    def initial(self, rng, *, inputs, classes):
        first = rng.normal(size=self.parameters(inputs=inputs, classes=classes)["linear.weight"])
        return {"linear.weight": first.astype(np.float32)}
    def build(self, *, inputs, classes):
        import torch
        from torch import nn
        how = self.how
        if how == "no build":
            raise RuntimeError("not today")
        if how == "no module":
            return "module"
        outputs = 1 if classes in (0, 2) else classes
        class Odd(nn.Module):
            def __init__(self):
                super().__init__()
                self.linear = nn.Linear(inputs, outputs, bias=how == "other parameters")
                self.calls = 0
                self.register_buffer("last", torch.zeros(1))
                if how == "batch norm":
                    self.norm = nn.BatchNorm1d(inputs, affine=False)
                if how == "double":
                    self.linear = self.linear.double()
            def forward(self, rows):
                self.calls += 1
                match how:
                    case "mean": rows = rows - rows.mean(0)
                    case "sorted": rows = rows.sort(0).values
                    case "neighbour": rows = rows + rows.roll(1, 0)
                    case "size": rows = rows / len(rows)
                    case "nan": return self.linear(rows) * float("nan")
                    case "nan beside nan": rows = rows + 0 * rows.sum()
                    case "infinite": return self.linear(rows) * 1e38 * 1e38
                    case "sharp": return self.linear(rows) + (0 * self.linear.weight).sum().sqrt()
                    case "wrong width": return self.linear(rows).repeat(1, 3)
                    case "one row": return self.linear(rows)[:1]
                    case "no tensor": return [0.0]
                    case "raises": raise RuntimeError("no")
                    case "counter": rows = rows * self.calls
                    case "buffer":
                        rows = rows + self.last
                        self.last = rows.detach().mean()[None]
                    case "quiet buffer": self.last = self.last + 1
                    case "random": rows = rows + torch.randn(rows.shape)
                    case "global": rows = rows * (1 + next(TIMES))
                    case "batch norm": rows = self.norm(rows)
                    case "dropout": rows = nn.functional.dropout(rows)
                return self.linear(rows)
        return Odd()
    def loss(self, outputs, labels):
        if self.how == "mean loss":
            return ((outputs[:, 0] - labels) ** 2).mean()
        if self.how == "own loss":
            return 100 * (outputs[:, 0] - labels) ** 2
    def judged(self, outputs):
        return outputs.flatten() if self.how == "flat" else outputs
"""

WORDS = {
    "mean": RefusalCode.MIXES_ROWS,
    "sorted": RefusalCode.MIXES_ROWS,
    "neighbour": RefusalCode.MIXES_ROWS,
    "size": RefusalCode.MIXES_ROWS,
    "nan beside nan": RefusalCode.MIXES_ROWS,
    "batch norm": RefusalCode.MIXES_ROWS,
    "nan": RefusalCode.NOT_FINITE,
    "infinite": RefusalCode.NOT_FINITE,
    "sharp": RefusalCode.NOT_FINITE,
    "other parameters": RefusalCode.WRONG_SHAPES,
    "double": RefusalCode.WRONG_SHAPES,
    "no build": RefusalCode.WRONG_SHAPES,
    "no module": RefusalCode.WRONG_SHAPES,
    "wrong width": RefusalCode.WRONG_SHAPES,
    "one row": RefusalCode.WRONG_SHAPES,
    "no tensor": RefusalCode.WRONG_SHAPES,
    "raises": RefusalCode.WRONG_SHAPES,
    "flat": RefusalCode.WRONG_SHAPES,
    "mean loss": RefusalCode.WRONG_SHAPES,
    "counter": RefusalCode.KEEPS_STATE,
    "buffer": RefusalCode.KEEPS_STATE,
    "quiet buffer": RefusalCode.KEEPS_STATE,
    "random": RefusalCode.KEEPS_STATE,
    "global": RefusalCode.KEEPS_STATE,
    "dropout": RefusalCode.KEEPS_STATE,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    scratch = tmp_path_factory.mktemp("packages")
    odd = install(built(scratch / "source", name="odd", source=ODD), scratch / "odd", scratch)
    return odd, install(EXAMPLE, scratch / "example", scratch)


@pytest.fixture(autouse=True)
def _installed(folders: tuple[Path, Path]) -> Iterator[None]:
    with on_path(*folders):
        yield


def experiment(name: str = "odd", label: dict[str, Any] | None = None, **settings: Any) -> Experiment:
    features = [{"name": f"p{number}", "kind": "numeric", "low": 0, "high": 1} for number in range(6)]
    values = {
        "name": "small",
        "task": {"label": label or {"column": "ill"}, "features": features},
        "model": {"kind": "package", "name": name, "parameters": settings},
        "strategy": {"local_steps": 3},
        "privacy": {"clipping_norm": 0.5},
    }
    return with_package(parse_experiment_json(json.dumps(values), where="small"))


@pytest.mark.parametrize("how", WORDS)
def test_each_fault_has_its_word_and_a_sentence(how: str) -> None:
    with pytest.raises(InputError) as caught:
        require_places(experiment(how=how), 40)
    assert caught.value.code == WORDS[how], caught.value
    assert "model package 'odd-package==1.0'" in str(caught.value)
    with pytest.raises(InputError) as caught:
        require_scoring(experiment(how=how))
    assert caught.value.code == WORDS[how], caught.value


@pytest.mark.parametrize(
    "label",
    [
        {"column": "ill"},
        {"column": "ill", "classes": ["a", "b", "c"]},
        {"column": "days", "kind": "numeric", "low": 0, "high": 9},
        {"column": "days", "kind": "numeric", "low": 0, "high": 9, "loss": "huber"},
    ],
    ids=["two", "three", "number", "huber"],
)
@pytest.mark.parametrize("name", ["odd", "small-memory"])
def test_a_sound_one_is_trained_and_judged(name: str, label: dict[str, Any]) -> None:
    plan = experiment(name, label)
    require_places(plan, 40)
    require_scoring(plan)
    rng = np.random.default_rng(3)
    features = rng.random((50, 6)).astype(np.float32)
    if "kind" in label:
        labels: Any = (2 * features[:, 0] - 1).astype(np.float32)
    else:
        labels = (features[:, 0] * len(plan.task.label.classes)).astype(np.int64)
    table, arrays = Table(features=features, labels=labels), initial_arrays(plan, rng)
    steps = LocalSteps(experiment=plan, stated_rows=40, noise_multiplier=1.0)
    update = train_locally(arrays, table, steps, SystemNoise()).arrays
    assert {key: value.shape for key, value in update.items()} == {
        key: value.shape for key, value in arrays.items()
    }
    assert all(np.isfinite(value).all() for value in update.values())
    assert any(not np.array_equal(update[key], arrays[key]) for key in arrays)
    counted = evaluate(arrays, table, plan, noise_multiplier=0.0, noise=NoNoise()).metrics()
    assert counted is not None
    plain = train_without_privacy(arrays, table, plan, rng).arrays
    assert any(not np.array_equal(plain[key], arrays[key]) for key in arrays)
    other = torch.device("cpu", 0)  # the processor, by a name that is not equal to the processor's
    require_same_bits(plan, 32, other, training=True)
    require_same_bits(plan, 32, other, training=False)
    there = evaluate(arrays, table, plan, noise_multiplier=0.0, noise=NoNoise(), device=other).metrics()
    assert there == counted


def test_its_own_loss_is_what_training_makes_small() -> None:
    rng = np.random.default_rng(3)
    table = Table(features=rng.random((50, 6)).astype(np.float32), labels=rng.integers(0, 2, 50))
    found = []
    for how in ("sound", "own loss"):
        plan = experiment(how=how)
        require_places(plan, 40)
        first = initial_arrays(plan, np.random.default_rng(0))
        update = train_without_privacy(first, table, plan, np.random.default_rng(0)).arrays
        found.append(update["linear.weight"] - first["linear.weight"])
    assert np.abs(found[1]).sum() > 10 * np.abs(found[0]).sum()


def test_what_was_tried_once_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = experiment(how="sound")
    require_places(plan, 40)
    monkeypatch.setattr("clients.mechanisms.trial._computed", None)
    require_places(plan, 40)
    with pytest.raises(TypeError):
        require_places(experiment(how="own loss"), 40)
