"""What one would write without Tidegate: FastAPI, typed rows, the model in torch. Started by uvicorn.

It reads the very files that Tidegate's service reads, keeps no log and verifies nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI
from pydantic import BaseModel, create_model

from clients.mechanisms.models import module_for
from contract.experiment import NumericFeature
from serving.model_folder import read_folder

__all__ = ["app"]

torch.set_num_threads(1)
_experiment, _arrays = read_folder(Path(os.environ["TIDEGATE_BENCH_FOLDER"]))
_task, _module = _experiment.task, module_for(_experiment, _arrays).eval()
_kinds: dict[str, Any] = {
    one.name: (float if isinstance(one, NumericFeature) else str, ...) for one in _task.features
}
Row = create_model("Row", **_kinds)
app = FastAPI()


class Asked(BaseModel):
    """Rows by the names of the features."""

    rows: list[Row]  # type: ignore[valid-type]


class Told(BaseModel):
    """A class and the probability of each, for each row."""

    predictions: list[dict[str, Any]]


def _inputs(row: Any) -> list[float]:
    found = list[float]()
    for feature in _task.features:
        value = getattr(row, feature.name)
        if isinstance(feature, NumericFeature):
            low, high = feature.scaled_range
            found.append((min(max(value, feature.low), feature.high) - low) / (high - low))
        else:
            found += [float(value == name) for name in feature.categories]
    return [2 * one - 1 for one in found] if _task.scaling == "symmetric" else found


@app.post("/predict")
def predict(asked: Asked) -> Told:
    """Predictions for rows."""
    with torch.no_grad():
        chances = torch.sigmoid(_module(torch.tensor([_inputs(row) for row in asked.rows])))[:, 0].tolist()
    no, yes = _task.label.classes
    return Told(
        predictions=[
            {"prediction": yes if chance > 0.5 else no, "probabilities": {no: 1 - chance, yes: chance}}
            for chance in chances
        ]
    )
