"""Makes the graph of a version that was registered: the file with which it is served at the edge."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from contract.errors import InputError
from contract.experiment import Experiment
from contract.json_values import finite
from contract.model_version import GRAPH_FILE, VARIANTS_FILE, sha256
from server.registry.registry import Registry
from server.state.storage import State
from server.state.versions import RegisteredVersions

__all__ = ["export"]

_log = logging.getLogger("tidegate.server")


def export(
    experiment: Experiment,
    version: int,
    arrays: Mapping[str, npt.NDArray[Any]],
    *,
    mlflow_run: str,
    state: State,
    registry: Registry,
) -> None:
    """Make the forms of a version's graph, choose one, and keep it beside the version's other files.

    A package's model of which PyTorch makes no graph has none: it is served by torch. After a kill it is made
    once more; its hash is kept last, so that the hash is of the file that is there.
    """
    from serving.export.variants import choose, variants_of

    kept = RegisteredVersions(state.database)
    if GRAPH_FILE in kept.hashes(experiment.name, version):
        return
    try:
        choice = choose(variants_of(experiment, arrays))
    except InputError as exc:
        _log.warning("version %d of '%s' has no graph: %s", version, experiment.name, exc)
        return
    measured = {
        "chosen": choice.variant.name,
        "reason": choice.reason,
        "measured": finite(choice.measured),
    }
    files = {
        GRAPH_FILE: choice.variant.content,
        VARIANTS_FILE: (json.dumps(measured, indent=2) + "\n").encode(),
    }
    registry.add_files(mlflow_run, files)
    kept.add_files(experiment.name, version, {name: sha256(content) for name, content in files.items()})
