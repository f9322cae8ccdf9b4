"""Predictions for raw rows: read and encoded by the very code that prepares a site's rows for training.

A row that does not fit (a missing value without a stand-in, a category that is not listed, a value out of
range where the task leaves such rows out) gets no prediction but a reason, and changes nothing about others.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.errors import InputError
from contract.experiment import Experiment, NumericFeature
from contract.names import MISSING_TEXTS
from serving.encoding import Fitting, encode
from serving.forward import outputs_of
from serving.model_folder import read_folder
from serving.package_forward import package_outputs
from serving.values import Column, numbers, texts

__all__ = ["Predictions", "Predictor", "chances_of", "probability_column"]

UNREADABLE = "a value that is no number"


def probability_column(name: str) -> str:
    """The column that has the probability of a class."""
    return f"probability_{name}"


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What a model says of n rows, in their order.

    Attributes:
        prediction: the most probable class, or a number in the label's unit; None where a row does not fit.
        probabilities: by class, float64 [n], NaN where a row does not fit; none for a number.
        reason: why a row has no prediction; empty where it has one.
    """

    prediction: npt.NDArray[np.object_]
    probabilities: dict[str, npt.NDArray[np.float64]]
    reason: npt.NDArray[np.object_]

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """All of it by the name of a column: `prediction`, `probability_CLASS`, `reason`."""
        chances = {probability_column(name): values for name, values in self.probabilities.items()}
        return {"prediction": self.prediction, **chances, "reason": self.reason}


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A model with its preprocessing.

    Attributes:
        experiment: says how a row becomes the model's inputs, and what its outputs mean.
        arrays: the model's parameters.
    """

    experiment: Experiment
    arrays: Mapping[str, npt.NDArray[np.float32]]

    @classmethod
    def of(cls, folder: Path) -> Predictor:
        """The model in a folder. Errors as with `serving.model_folder.read_folder`."""
        experiment, arrays = read_folder(folder)
        return cls(experiment=experiment, arrays=arrays)

    @property
    def told(self) -> tuple[str, ...]:
        """The names of the columns of its predictions."""
        return ("prediction", *map(probability_column, self.experiment.task.label.classes), "reason")

    def predict(
        self,
        columns: Mapping[str, Column],
        *,
        missing: Collection[str] = MISSING_TEXTS,
        decimal: str = ".",
        where: str = "the rows",
    ) -> Predictions:
        """Predictions for rows.

        Args:
            columns: of equal lengths, as their source has them, by the names of the features; others may be
                among them.
            missing: the texts that stand for a missing value.
            decimal: the decimal sign.
            where: what the rows are called to a person.

        Raises:
            InputError: a feature has no column.
        """
        features, fitting = self.inputs(columns, missing=missing, decimal=decimal, where=where)
        if self.experiment.model.kind == "package":
            outputs = package_outputs(self.experiment, self.arrays, features[fitting.fits])
        else:
            outputs = outputs_of(self.experiment.model, self.arrays, features[fitting.fits])
        return self._told(outputs, fitting)

    def inputs(
        self,
        columns: Mapping[str, Column],
        *,
        missing: Collection[str] = MISSING_TEXTS,
        decimal: str = ".",
        where: str = "the rows",
    ) -> tuple[npt.NDArray[np.float32], Fitting]:
        """The model's inputs for rows, float32 [n, width], and which rows fit: of others they mean nothing.

        Arguments and errors as with `predict`.
        """
        self.require_columns(columns, where=where)
        task = self.experiment.task
        fitting = Fitting(len(columns[task.features[0].name]))
        values: dict[str, npt.NDArray[Any]] = {}
        for feature in task.features:
            column = columns[feature.name]
            if isinstance(feature, NumericFeature):
                values[feature.name], wrong = numbers(column, missing=missing, decimal=decimal)
                if feature.missing is None:  # said first; where there is a stand-in, training takes it too
                    fitting.leave_out(feature.name, UNREADABLE, wrong)
            else:
                values[feature.name] = texts(
                    column, missing=missing, declared=feature.categories, decimal=decimal
                )
        return encode(values, task, fitting), fitting

    def require_columns(self, names: Collection[str], *, where: str) -> None:
        """Refuse rows in which a feature has no column.

        Raises:
            InputError: they lack one.
        """
        lacking = [feature.name for feature in self.experiment.task.features if feature.name not in names]
        if lacking:
            more = f" ({len(lacking)} are lacking in all)" if len(lacking) > 1 else ""
            alike = difflib.get_close_matches(lacking[0].lower(), {name.lower() for name in names}, n=1)
            given = next((name for name in names if alike == [name.lower()]), None)
            more += f"; the nearest is '{given}'" if given is not None else ""
            raise InputError(
                f"there is no column '{lacking[0]}', which the model '{self.experiment.name}' needs{more}",
                where=where,
                remedy="Give a column for each feature, by the name that the experiment has for it",
            )

    def _told(self, outputs: npt.NDArray[np.float64], fitting: Fitting) -> Predictions:
        label, fits = self.experiment.task.label, fitting.fits
        prediction = np.full(len(fits), None, dtype=object)
        probabilities: dict[str, npt.NDArray[np.float64]] = {}
        if label.range is not None:
            low, high = label.range.low, label.range.high
            shares = np.clip(np.nan_to_num(outputs[:, 0]), -1, 1)  # as an evaluation judges it
            prediction[fits] = (low + (shares + 1) / 2 * (high - low)).tolist()
        else:
            chances = chances_of(outputs)
            names = np.array(label.classes, dtype=object)
            prediction[fits] = names[chances.argmax(axis=1)]
            for place, name in enumerate(label.classes):
                probabilities[name] = np.full(len(fits), np.nan)
                probabilities[name][fits] = chances[:, place]
        return Predictions(prediction=prediction, probabilities=probabilities, reason=_reasons(fitting))


def chances_of(outputs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The probability of each class; of two there is one logit, of the last."""
    if outputs.shape[1] == 1:
        outputs = np.concatenate([np.zeros_like(outputs), outputs], axis=1)
    shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    chances: npt.NDArray[np.float64] = shifted / shifted.sum(axis=1, keepdims=True)
    return chances


def _reasons(fitting: Fitting) -> npt.NDArray[np.object_]:
    """The first reason of each row that does not fit, with its column."""
    found = np.full(len(fitting.fits), "", dtype=object)
    for column, reasons in fitting.left_out.items():
        for reason, wrong in reasons.items():
            found[wrong & (found == "")] = f"{column}: {reason}"
    return found
