"""Models compute on another device as they do on the processor, or are computed on the processor.

Where there is a CUDA device it is used. Everywhere, `cpu:0` stands for another device: it is the processor by
a name that is not equal to the processor's, so that all that is done for another device is done, but for the
device's own arithmetic.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from clients.mechanisms import devices, evaluation, places, training
from clients.mechanisms.devices import CPU, device_for, exact, in_use, usable
from clients.mechanisms.noise import NoNoise, SystemNoise
from clients.rows.table import Table
from contract.errors import InputError
from contract.experiment import Experiment
from contract.experiment_file import parse_experiment_json
from contract.models import initial_arrays

OTHER = torch.device("cpu", 0)
HAS_CUDA = torch.cuda.is_available()
ALL = [
    pytest.param(OTHER, id="cpu:0"),
    pytest.param(
        torch.device("cuda", 0),
        id="cuda",
        marks=pytest.mark.skipif(not HAS_CUDA, reason="no CUDA device here, or PyTorch is built without"),
    ),
]
MODELS: dict[str, dict[str, Any]] = {
    "linear": {"kind": "linear"},
    "mlp": {"kind": "mlp", "hidden": [40, 20]},
    "cnn": {"kind": "cnn", "image": [1, 8, 8]},
}
OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    """No device has failed, and no trial was made."""
    yield
    devices._failed.clear()
    places._same_bits.cache_clear()


@pytest.fixture(params=MODELS)
def plan(request: pytest.FixtureRequest) -> Experiment:
    features = [{"name": f"p{number}", "kind": "numeric", "low": 0, "high": 1} for number in range(64)]
    values = {
        "name": "small",
        "task": {"label": {"column": "ill"}, "features": features},
        "model": MODELS[request.param],
        "strategy": {"local_steps": 3, "learning_rate": 0.1},
        "privacy": {"clipping_norm": 0.5, "sampling_rate": 1.0},
    }
    return parse_experiment_json(json.dumps(values), where="small")


@pytest.fixture
def _there(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if `cpu:0` were a CUDA device."""
    monkeypatch.setattr(devices, "_cuda", lambda: OTHER)


def rows(count: int = 300) -> Table:
    rng = np.random.default_rng(count)
    features = rng.random((count, 64)).astype(np.float32)
    labels = (rng.random(count) < features[:, 0]).astype(np.int64)
    return Table(features=features, labels=labels, person=None)


def trained(plan: Experiment, device: torch.device, noise: Any, sigma: float = 1.0) -> dict[str, Any]:
    start = initial_arrays(plan, np.random.default_rng(0))
    steps = training.LocalSteps(experiment=plan, stated_rows=300, noise_multiplier=sigma, device=device)
    return dict(training.train_locally(start, rows(), steps, noise).arrays)


@pytest.mark.parametrize("device", ALL)
def test_without_noise_a_device_trains_and_scores_as_the_processor_does(
    plan: Experiment, device: torch.device
) -> None:
    here, there = trained(plan, CPU, NoNoise(), 0.0), trained(plan, device, NoNoise(), 0.0)
    assert here.keys() == there.keys()
    for name, value in here.items():
        np.testing.assert_allclose(there[name], value, atol=1e-4)
    counts = [
        evaluation.evaluate(here, rows(), plan, noise_multiplier=0.0, noise=NoNoise(), device=place)
        for place in (CPU, device)
    ]
    moved = np.abs(counts[0].positive - counts[1].positive).sum()  # type: ignore[union-attr]
    assert moved <= 4  # a score at the edge of a cell


@pytest.mark.parametrize("device", ALL)
def test_a_device_gives_each_row_the_same_bits_wherever_it_lies(
    plan: Experiment, device: torch.device
) -> None:
    with exact(device):
        places.require_same_bits(plan, 64, device, training=True)
        places.require_same_bits(plan, 64, device, training=False)


@pytest.mark.parametrize("device", ALL)
def test_noise_is_made_on_the_processor_whatever_the_device(plan: Experiment, device: torch.device) -> None:
    drawn: list[float] = []

    class Watched(SystemNoise):
        def normal(self, shape: tuple[int, ...], deviation: float, *rest: Any) -> Any:
            drawn.append(float(np.prod(shape)))
            return super().normal(shape, deviation, *rest)

    found = trained(plan, device, NoNoise(), 0.0)
    noisy = trained(plan, device, Watched())
    size = sum(value.size for value in found.values())
    assert sum(drawn) >= 3 * size  # three steps
    assert all(not np.array_equal(noisy[name], found[name]) for name in found)


@pytest.mark.skipif(not HAS_CUDA, reason="no CUDA device here, or PyTorch is built without")
def test_a_model_that_needs_more_memory_than_there_is_is_computed_on_the_processor(plan: Experiment) -> None:
    torch.cuda.set_per_process_memory_fraction(1e-6)
    try:
        torch.cuda.empty_cache()
        assert training.require_places(plan, 300, "cuda") == CPU
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_the_products_of_a_device_are_not_rounded_further() -> None:
    with exact(OTHER):
        assert torch.get_float32_matmul_precision() == "highest"
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.benchmark
    assert not torch.are_deterministic_algorithms_enabled()


def test_without_a_device_the_processor_computes_and_the_log_says_so_to_who_asked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(devices, "_cuda", lambda: None)
    tried: list[torch.device] = []
    with caplog.at_level(logging.WARNING, logger="tidegate.site"):
        assert usable("auto", 10**6, tried.append) == CPU
        assert not caplog.messages
        assert usable("cuda", 10, tried.append) == CPU
    assert tried == [CPU, CPU]
    assert "no CUDA device" in caplog.messages[0]


@pytest.mark.usefixtures("_there")
def test_a_small_model_stays_on_the_processor_unless_the_site_says_otherwise() -> None:
    assert device_for("auto", 99_999) == CPU
    assert device_for("auto", 100_000) == OTHER
    assert device_for("cuda", 1) == OTHER
    assert device_for("cpu", 10**9) == CPU


@pytest.mark.usefixtures("_there")
@pytest.mark.parametrize("fault", [OUT_OF_MEMORY, RuntimeError("cuBLAS"), InputError("other bits")])
def test_a_device_that_cannot_is_left_before_a_row_is_read(
    fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def trial(device: torch.device) -> None:
        if device != CPU:
            raise fault

    with caplog.at_level(logging.WARNING, logger="tidegate.site"):
        assert usable("cuda", 1, trial) == CPU
    assert "computed on the processor" in caplog.messages[0]
    assert str(fault).splitlines()[0] in caplog.messages[0]


@pytest.mark.usefixtures("_there")
def test_a_device_on_which_a_row_gets_other_bits_elsewhere_is_not_used(
    plan: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert training.require_places(plan, 300, "cuda") == OTHER
    places._same_bits.cache_clear()
    true, calls = places._bits, [0]

    def moved(*of: Any) -> list[torch.Tensor]:
        calls[0] += 1
        found = true(*of)
        return [part + calls[0] * 1e-7 for part in found] if devices_tried else found

    devices_tried = [True]
    monkeypatch.setattr(places, "_bits", moved)
    original = places.require_same_bits

    def noted(experiment: Experiment, block: int, device: torch.device = CPU, *, training: bool) -> None:
        devices_tried[:] = [True] if device != CPU else []
        original(experiment, block, device, training=training)

    monkeypatch.setattr(training, "require_same_bits", noted)
    assert training.require_places(plan, 300, "cuda") == CPU


@pytest.mark.usefixtures("_there")
def test_a_device_that_computes_something_else_is_not_used(
    plan: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    true, calls = places._result, [0]

    def wrong(*of: Any) -> torch.Tensor:
        calls[0] += 1
        return true(*of) * (1.01 if calls[0] % 2 else 1.0)  # the device is asked first

    monkeypatch.setattr(places, "_result", wrong)
    assert training.require_places(plan, 300, "cuda") == CPU
    assert calls[0] == 2


@pytest.mark.usefixtures("_there")
def test_a_device_that_fails_on_rows_fails_the_release_and_is_used_no_more() -> None:
    """The processor does not take its place there: which of the two computes would follow from the rows."""
    assert device_for("cuda", 1) == OTHER
    with pytest.raises(torch.OutOfMemoryError), in_use(OTHER):
        raise OUT_OF_MEMORY
    assert device_for("cuda", 1) == CPU


@pytest.mark.usefixtures("_there")
def test_without_privacy_a_device_that_fails_is_replaced_and_nothing_changes(
    plan: Experiment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start = initial_arrays(plan, np.random.default_rng(0))
    wanted = training.train_without_privacy(start, rows(), plan, np.random.default_rng(1)).arrays
    true = training._plain_steps

    def failing(*of: Any) -> Any:
        found = true(*of)  # the numbers of the generator are drawn
        if of[-1] != CPU:
            raise OUT_OF_MEMORY
        return found

    monkeypatch.setattr(training, "_plain_steps", failing)
    with caplog.at_level(logging.WARNING, logger="tidegate.site"):
        found = training.train_without_privacy(start, rows(), plan, np.random.default_rng(1), "cuda").arrays
    assert "trained on the processor" in caplog.messages[0]
    assert all(np.array_equal(found[name], value) for name, value in wanted.items())
