"""A site's own part of a model fits its rows, stays where it is, and changes nothing that is sent."""

from __future__ import annotations

import errno
import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.optimize import approx_fprime

from clients import personal
from clients.personal import Part, Personal, figures, fit, keep, kept
from clients.rows.table import Table
from contract.errors import InputError, StorageError
from contract.experiment import Experiment
from contract.experiment_file import parse_experiment_json
from contract.models import initial_arrays, model_shapes
from serving.forward import last_layer, outputs_of

MODELS: dict[str, dict[str, Any]] = {
    "linear": {"kind": "linear"},
    "mlp": {"kind": "mlp", "hidden": [7, 5]},
    "cnn": {"kind": "cnn", "image": [1, 4, 4]},
}
LABELS: dict[str, dict[str, Any]] = {
    "two classes": {"column": "ill"},
    "three classes": {"column": "ill", "classes": ["no", "yes", "maybe"]},
    "a number": {"column": "days", "kind": "numeric", "low": 1, "high": 15},
    "a number by Huber": {"column": "days", "kind": "numeric", "low": 1, "high": 15, "loss": "huber"},
}
PARTS: tuple[Part, ...] = ("bias", "head")


def plan(model: str = "linear", label: str = "two classes") -> Experiment:
    features = [{"name": f"p{number}", "kind": "numeric", "low": 0, "high": 1} for number in range(16)]
    task = {"label": LABELS[label], "features": features}
    return parse_experiment_json(
        json.dumps({"name": "small", "model": MODELS[model], "task": task}), where="small"
    )


def shared(experiment: Experiment) -> dict[str, npt.NDArray[np.float32]]:
    return dict(initial_arrays(experiment, np.random.default_rng(0)))


def rows(experiment: Experiment, count: int, *, seed: int = 1, shift: float = 0.0) -> Table:
    rng = np.random.default_rng(seed)
    features = rng.random((count, 16)).astype(np.float32)
    score = 3 * (features[:, 0] - 0.5) + shift
    label = experiment.task.label
    if label.kind == "numeric":
        return Table(features=features, labels=np.clip(score / 3, -1, 1).astype(np.float32))
    chance = 1 / (1 + np.exp(-score))
    labels = (rng.random(count) < chance).astype(np.int64)
    if len(label.classes) == 3:
        labels += (rng.random(count) < 0.2).astype(np.int64)
    return Table(features=features, labels=labels)


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("part", PARTS)
def test_a_part_fits_the_sites_rows_better_than_the_shared_one(part: Part, model: str, label: str) -> None:
    """On other rows of the same site, whose label is shifted against what the shared model knows."""
    experiment = plan(model, label)
    arrays = shared(experiment)
    found = fit(experiment, arrays, rows(experiment, 2000, shift=1.5), part)
    weight, bias = last_layer(experiment.model)
    assert set(found) == ({bias} if part == "bias" else {weight, bias})
    assert all(value.shape == model_shapes(experiment)[name] for name, value in found.items())
    held_out = rows(experiment, 1000, seed=2, shift=1.5)
    before = figures(experiment, arrays, held_out)
    after = figures(experiment, {**arrays, **found}, held_out)
    name = next(iter(before))  # the log loss, or the mean absolute error
    assert after[name] < before[name]


@pytest.mark.parametrize("label", LABELS)
def test_the_derivative_is_that_of_the_loss(label: str) -> None:
    experiment = plan(label=label)
    table = rows(experiment, 5)
    loss = personal._loss(experiment.task.label, table.labels)
    width = 3 if label == "three classes" else 1
    at = np.random.default_rng(0).normal(size=(5, width))
    slope = approx_fprime(at.reshape(-1), lambda values: loss(values.reshape(5, width))[0], 1e-6)
    np.testing.assert_allclose(loss(at)[1].reshape(-1), slope, atol=1e-4)


@pytest.mark.parametrize("part", PARTS)
def test_a_site_of_few_rows_keeps_what_is_shared(part: Part) -> None:
    experiment = plan()
    arrays = shared(experiment)
    (_, bias), all_ill = (
        last_layer(experiment.model),
        Table(features=np.full((2, 16), 0.5, dtype=np.float32), labels=np.ones(2, dtype=np.int64)),
    )
    moved = fit(experiment, arrays, all_ill, part)[bias] - arrays[bias]
    assert 0 < moved[0] < 0.5  # without the pull it would grow without end


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "odd", ["no rows", "rows that are not finite", "a model that is not", "a huge model"]
)
def test_the_fit_is_total(part: Part, odd: str) -> None:
    experiment = plan("mlp")
    arrays, table = shared(experiment), rows(experiment, 40)
    weight, bias = last_layer(experiment.model)
    match odd:
        case "no rows":
            table = rows(experiment, 0)
        case "rows that are not finite":
            table.features[:] = np.nan
        case "a model that is not":
            arrays[weight] = np.full_like(arrays[weight], np.nan)
            arrays[bias] = np.full_like(arrays[bias], np.inf)
        case "a huge model":
            arrays = {name: np.full_like(value, 3e38) for name, value in arrays.items()}
    found = fit(experiment, arrays, table, part)
    for name, value in found.items():
        assert np.isfinite(value).all() or np.array_equal(value, arrays[name], equal_nan=True)


def test_a_package_has_no_part_of_its_own() -> None:
    values = {"kind": "package", "name": "odd"}
    whole = {"name": "small", "model": values, "task": plan().task.model_dump(mode="json")}
    experiment = parse_experiment_json(json.dumps(whole), where="small")
    with pytest.raises(InputError, match="a package's model has no part"):
        fit(experiment, {}, rows(plan(), 3), "bias")


@pytest.fixture
def part() -> Personal:
    experiment = plan("mlp")
    found = fit(experiment, shared(experiment), rows(experiment, 50), "head")
    return Personal(
        part="head",
        model="ab" * 32,
        values={name: value.reshape(-1).tolist() for name, value in found.items()},
    )


def test_what_is_kept_is_what_was_fitted_and_for_this_user_alone(tmp_path: Path, part: Personal) -> None:
    experiment = plan("mlp")
    path = keep(tmp_path / "storage", experiment, part)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert kept(tmp_path / "storage", experiment, part.model) == part
    assert keep(tmp_path / "storage", experiment, part) == path  # in the place of the one before
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert kept(tmp_path / "storage", experiment, "cd" * 32) is None
    arrays = shared(experiment)
    ours = part.put_into(experiment, arrays)
    weight, bias = last_layer(experiment.model)
    assert {name for name in arrays if not np.array_equal(arrays[name], ours[name])} == {weight, bias}


def test_a_link_in_the_place_of_the_folder_is_not_followed(tmp_path: Path, part: Personal) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "storage").mkdir()
    (tmp_path / "storage" / "personal").symlink_to(tmp_path / "shared")
    with pytest.raises(StorageError, match="a link"):
        keep(tmp_path / "storage", plan("mlp"), part)
    assert not list((tmp_path / "shared").iterdir())


@pytest.mark.parametrize(
    "content", ["", "{}", "[1]", '{"part": "bias", "model": "x", "values": {"a": [NaN]}}']
)
def test_a_damaged_part_is_refused(tmp_path: Path, part: Personal, content: str) -> None:
    path = keep(tmp_path, plan("mlp"), part)
    path.write_text(content)
    with pytest.raises(StorageError, match="no personal part"):
        kept(tmp_path, plan("mlp"), part.model)


def test_another_models_part_is_refused(tmp_path: Path, part: Personal) -> None:
    path = keep(tmp_path, plan("mlp"), part)
    path.write_text(part.model_copy(update={"model": "cd" * 32}).model_dump_json())
    with pytest.raises(StorageError, match="another model's"):
        kept(tmp_path, plan("mlp"), part.model)
    with pytest.raises(InputError, match="another model's"):
        part.put_into(plan("linear"), shared(plan("linear")))


def test_nothing_that_a_site_sends_can_reach_it() -> None:
    """import-linter's layers say so; here a process that answers messages is seen not to load it."""
    program = (
        "import sys; import clients.app, clients.gate, clients.line.agent; from clients.app import warm_up; "
        "warm_up(); sys.exit('clients.personal' in sys.modules)"
    )
    assert not subprocess.run([sys.executable, "-c", program], check=False, timeout=300).returncode


def test_outputs_are_what_the_last_layer_makes_of_what_it_is_given() -> None:
    """The bias of a binary model shifts every logit alike."""
    experiment = plan("cnn")
    arrays, table = shared(experiment), rows(experiment, 20)
    _, bias = last_layer(experiment.model)
    moved = {**arrays, bias: arrays[bias] + 1}
    difference = outputs_of(experiment.model, moved, table.features) - outputs_of(
        experiment.model, arrays, table.features
    )
    np.testing.assert_allclose(difference, 1, atol=1e-6)


def test_a_full_disk_leaves_the_part_that_was_there(
    tmp_path: Path, part: Personal, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = keep(tmp_path, plan("mlp"), part)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        keep(tmp_path, plan("mlp"), part.model_copy(update={"part": "bias"}))
    assert kept(tmp_path, plan("mlp"), part.model) == part
    assert [file.name for file in path.parent.iterdir()] == [path.name]
