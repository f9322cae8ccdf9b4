"""The three runtimes run the same apps and give the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from contract.experiment import Experiment
from experiments.federated_run import Request, Runtime, run_experiment
from server.registry.registry import Registry
from server.settings import ServerSettings

Make = Callable[[str], list[Path]]


@pytest.mark.e2e
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # Ray leaves files and sockets open
def test_inline_deployment_and_simulation_give_the_same_weights(
    small: Callable[..., Experiment], sites: Make, settings: Callable[[str], ServerSettings]
) -> None:
    experiment = small(kind="mlp", strategy="fedavgm")
    runtimes: tuple[Runtime, ...] = ("inline", "deployment", "simulation")
    weights = {}
    for runtime in runtimes:
        here = settings(runtime)
        request = Request(
            experiment=experiment,
            run=f"run-{runtime}",
            sites=sites(f"sites-{runtime}"),
            settings=here,
            runtime=runtime,
        )
        result = run_experiment(request)
        assert result["status"] == "succeeded", result
        weights[runtime] = Registry(here.tracking_uri, here.artifact_root).load_arrays(
            "small", result["version"]
        )
    assert max(np.abs(inline).max() for inline in weights["inline"].values()) > 0.01
    for name, inline in weights["inline"].items():
        for other in ("deployment", "simulation"):
            np.testing.assert_allclose(weights[other][name], inline, atol=1e-6, rtol=0)
