"""What MLflow loads: `mlflow.pyfunc.load_model(…).predict(frame)`, without a site's libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serving.prediction import Predictor
from serving.rows import columns_of, in_the_form_of

__all__ = ["FrameModel"]


class FrameModel:
    """A model that takes a data frame and gives one.

    Args:
        predictor: the model with its preprocessing.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def predict(self, frame: Any) -> Any:
        """A frame of the same index: `prediction`, `probability_CLASS` for each class, and `reason`.

        Args:
            frame: of pandas, with a column for each feature.

        Raises:
            InputError: it lacks one.
        """
        return in_the_form_of(frame, self._predictor.predict(columns_of(frame)))


def _load_pyfunc(path: str) -> FrameModel:
    """What MLflow calls, by this name, with the model's folder."""
    return FrameModel(Predictor.of(Path(path)))
