"""One record moves an update by the clipping norm at most, whatever model it was sent.

Two sites differ in one training row. The noise of both updates is known from the site's own ledger, so
what is left of the difference is what the row was let to do.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from experiments.audit.hostile_server import TRAIN, HostileServer
from tests.adversary import wire
from tests.adversary.conftest import LaySite
from tests.adversary.rows import STATED_ROWS, Figure, Rows, with_row

Model = dict[str, np.ndarray[Any, Any]]
FEW: Rows = [
    {
        "level": 0,
        "ward": "b",
        "ill": place % 2,
        "window": "w1",
        "patient": place,
        "side": "train",
        "secret": "none",
    }
    for place in range(10)
]


def hidden_activation(size: float, bias: float) -> Model:
    """A huge activation h = size · level behind a saturated output: the gradient is tiny times huge."""
    return {
        "layers.0.weight": np.array([[size, 0, 0, 0]], np.float32),
        "layers.0.bias": np.zeros(1, np.float32),
        "layers.1.weight": np.zeros((1, 1), np.float32),
        "layers.1.bias": np.array([bias], np.float32),
    }


def many_tiny_outputs(width: int, size: float, bias: float, last: float) -> Model:
    """The same, with the tiny part in `width` outputs, each too small to be squared."""
    return {
        "layers.0.weight": np.array([[size, 0, 0, 0]], np.float32),
        "layers.0.bias": np.zeros(1, np.float32),
        "layers.1.weight": np.zeros((width, 1), np.float32),
        "layers.1.bias": np.full(width, 1e-30, np.float32),
        "layers.2.weight": np.full((1, width), last, np.float32),
        "layers.2.bias": np.array([bias], np.float32),
    }


CASES: dict[str, tuple[list[int], float, Model]] = {
    "one tiny output, C = 1e-6": ([1], 1e-6, hidden_activation(1e19, -52.5)),
    "one tiny output, C = 1e-4": ([1], 1e-4, hidden_activation(1.8e19, -52.2)),
    "ten thousand tiny outputs, C = 1e-3": (
        [1, 10_000],
        1e-3,
        many_tiny_outputs(10_000, 1.5e19, -40, 4.5e-6),
    ),
    "a hundred thousand of them, C = 1": ([1, 100_000], 1.0, many_tiny_outputs(100_000, 1.8e19, -40, 4.5e-6)),
    "a huge output gradient": ([1], 1.0, hidden_activation(1e30, 0.0)),
    "denormal weights": ([1], 1.0, hidden_activation(1e-40, -100.0)),
    "an ordinary model": ([1], 1.0, hidden_activation(1.0, 0.0)),
}


@pytest.mark.parametrize("case", CASES)
def test_one_row_counts_one_clipping_norm(lay: LaySite, figure: Figure, case: str) -> None:
    hidden, norm, model = CASES[case]
    plan = wire.base_experiment()
    plan["model"] = {"kind": "mlp", "hidden": hidden}
    plan["privacy"] |= {"clipping_norm": norm, "epsilon": 8.0}
    plan["strategy"]["update_bits"] = 32
    sums = []
    for rows in (FEW, with_row(FEW, 0, level=100)):  # a row of label 0, and of the activation's whole size
        server = HostileServer(lay(rows, cap=10.0))
        found = server.ask(TRAIN, experiment=plan, arrays=model)
        if found.refused:
            figure(f"{case}: {found.word}")
            sums.append(None)
            continue
        deviation = noise_multiplier(server) * norm
        sums.append(
            {name: -STATED_ROWS * (found.arrays[name].astype(np.float64) - model[name]) for name in model}
        )
    assert (sums[0] is None) == (sums[1] is None)
    if sums[0] is None or sums[1] is None:
        return
    moved = {name: sums[1][name] - sums[0][name] for name in model}
    # along the direction in which the row pulls, where the noise of both is that of one number
    pulls = [float(array.sum()) / math.sqrt(array.size) for name, array in moved.items() if "weight" in name]
    most = max(abs(pull) for pull in pulls)
    figure(
        f"{case}: one row counts {most / norm:.3g} clipping norms (noise {deviation / norm:.2g} of one) "
        "at a stated ε of 8"
    )
    assert most <= norm * (1 + 1e-3) + 7 * math.sqrt(2) * deviation


def noise_multiplier(server: HostileServer) -> float:
    """What the site entered for the training that it charged."""
    plans = [entry["body"] for entry in wire.entries(server.site) if entry["kind"] == "authorise"]
    return float(plans[0]["noise_multiplier"])
