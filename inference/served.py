"""A model version that answers: by ONNX Runtime where it has a graph, else by numpy or a package's torch.

What a session really got of the providers that were asked for is read from the session. Whatever computes is
compared with the arithmetic of numpy, on rows drawn from public ranges, before it answers anybody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.errors import InputError
from contract.experiment import NumericFeature
from contract.model_statement import ModelStatement
from contract.model_version import ARRAYS_FILE, GRAPH_FILE
from inference.requests import Rows, Schema
from serving.drawn_rows import drawn_columns
from serving.encoding import Fitting, encode
from serving.forward import last_layer
from serving.model_folder import read_model
from serving.onnx_session import session_of
from serving.prediction import Predictor

__all__ = ["Served", "Told"]

_MOST_VALUES = 2**22
"""Encoded inputs of the rows that are computed together."""
_COMPARED = 64
_FAR = 0.02
"""Of a probability, or of the label's range: an 8-bit form may be so far from float32."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """Predictions for n rows.

    Attributes:
        prediction: a class, or a number; None where a row does not fit.
        probabilities: [n, classes]; None of a number. Of a row that does not fit they mean nothing.
        reasons: why a row has no prediction; None where all have one.
    """

    prediction: list[Any]
    probabilities: npt.NDArray[np.float64] | None
    reasons: Sequence[str] | None


class Served:
    """A version, ready to answer.

    Args:
        files: of the version, by name; their hashes were compared.
        name: of the model.
        version: of it.
        statement: that was verified; None where nobody signed.
        providers: of ONNX Runtime, in the order in which they are asked for.

    Raises:
        InputError: the files are no model's, or what computes here tells otherwise than numpy.
    """

    def __init__(
        self,
        files: Mapping[str, bytes],
        *,
        name: str,
        version: int,
        statement: ModelStatement | None = None,
        providers: Sequence[str],
    ) -> None:
        self.name, self.version, self.statement = name, version, statement
        where = f"{name} version {version}"
        self.experiment, arrays = read_model(files, where=where)
        if self.experiment.name != name:
            raise InputError(f"its experiment is '{self.experiment.name}'", where=where)
        self.predictor = Predictor(experiment=self.experiment, arrays=arrays)
        self.schema = Schema(self.experiment)
        self.classes = self.experiment.task.label.classes
        self._kinds = {
            one.name: np.float64 if isinstance(one, NumericFeature) else object
            for one in self.experiment.task.features
        }
        self.size = len(files.get(GRAPH_FILE, files[ARRAYS_FILE]))
        self._session: Any = None
        if GRAPH_FILE in files:
            self._session = _session(files[GRAPH_FILE], providers, where)
            self._inputs = [one.name for one in self._session.get_inputs()]
            self._outputs = [one.name for one in self._session.get_outputs()]
            self._require_agreement(where)

    @property
    def engine(self) -> str:
        """What computes, such as `onnxruntime CPUExecutionProvider`."""
        if self._session is None:
            return "torch" if self.experiment.model.kind == "package" else "numpy"
        return f"onnxruntime {self._session.get_providers()[0]}"

    def predict(self, rows: Sequence[Rows]) -> list[Told]:
        """Predictions for the rows of several requests, in one computation."""
        columns = {name: self._column(name, rows) for name in self._kinds}
        prediction, probabilities = self._in_blocks(columns, sum(one.count for one in rows))
        told, start = list[Told](), 0
        for one in rows:
            part = slice(start, start + one.count)
            named = prediction[part]
            if one.reasons is not None:
                named = [None if reason else name for name, reason in zip(named, one.reasons, strict=True)]
            chances = None if probabilities is None else probabilities[part]
            told.append(Told(prediction=named, probabilities=chances, reasons=one.reasons))
            start += one.count
        return told

    def explained(self, rows: Rows) -> list[dict[str, float]] | None:
        """What each feature adds to the logit of a linear model's last class, or to its number, by row.

        None of another kind of model, and of three classes or more.
        """
        if self.experiment.model.kind != "linear" or len(self.classes) > 2:
            return None
        task = self.experiment.task
        values = {name: np.array(column, dtype=self._kinds[name]) for name, column in rows.values.items()}
        for name, column in values.items():
            if self._kinds[name] is object:
                column[column == ""] = None
        inputs = encode(values, task, Fitting(rows.count))
        added = inputs * self.predictor.arrays[last_layer(self.experiment.model)[0]][0]
        found, start = [dict[str, float]() for _ in range(rows.count)], 0
        for feature in task.features:
            width = 1 if isinstance(feature, NumericFeature) else len(feature.categories)
            for row, value in enumerate(added[:, start : start + width].sum(axis=1).tolist()):
                found[row][feature.name] = value
            start += width
        return found

    def _column(self, name: str, rows: Sequence[Rows]) -> npt.NDArray[Any]:
        kind = self._kinds[name]
        if len(rows) == 1:
            values = rows[0].values[name]
        else:
            values = [value for one in rows for value in one.values[name]]
        return np.array(values, dtype=kind).reshape(-1, 1)

    def _in_blocks(
        self, columns: Mapping[str, npt.NDArray[Any]], count: int
    ) -> tuple[list[Any], npt.NDArray[np.float64] | None]:
        """As `_computed`, so many rows at a time that their encoded inputs have some megabytes."""
        size = max(1, _MOST_VALUES // self.experiment.task.width)
        if count <= size:
            return self._computed(columns)
        prediction, chances = list[Any](), list[npt.NDArray[np.float64]]()
        for start in range(0, count, size):
            part = {name: values[start : start + size] for name, values in columns.items()}
            named, found = self._computed(part)
            prediction += named
            if found is not None:
                chances.append(found)
        return prediction, np.concatenate(chances) if chances else None

    def _computed(
        self, columns: Mapping[str, npt.NDArray[Any]]
    ) -> tuple[list[Any], npt.NDArray[np.float64] | None]:
        """Predictions and probabilities of rows that fit; of others they mean nothing."""
        if self._session is None:
            flat = {name: values[:, 0] for name, values in columns.items()}
            told = self.predictor.predict(flat, missing=("",))
            chances = np.stack(list(told.probabilities.values()), axis=1) if self.classes else None
            return told.prediction.tolist(), chances
        found = dict(
            zip(
                self._outputs,
                self._session.run(None, dict(zip(self._inputs, columns.values(), strict=True))),
                strict=True,
            )
        )
        return found["prediction"][:, 0].tolist(), found.get("probabilities")

    def _require_agreement(self, where: str) -> None:
        """Refuse a graph, or a device, that tells otherwise than the model's own arithmetic."""
        if self.experiment.model.kind == "package":
            return  # numpy knows nothing of it; its file is the one that the federation signed
        columns = drawn_columns(self.experiment.task, _COMPARED, np.random.default_rng(0))
        named, chances = self._computed({name: values.reshape(-1, 1) for name, values in columns.items()})
        plain = self.predictor.predict(columns, missing=("",))
        if chances is None:
            label = self.experiment.task.label.range
            width = 1.0 if label is None else label.high - label.low
            far = np.abs(np.array(named, float) - plain.prediction.astype(float)).max() / width
        else:
            far = np.abs(chances - np.stack(list(plain.probabilities.values()), axis=1)).max()
        if not far <= _FAR:
            raise InputError(
                f"{self.engine} is {far:.3g} away from the model's own arithmetic, more than {_FAR}",
                where=where,
                remedy="Leave CPUExecutionProvider alone in serve.providers; if it stays so, do not use it",
            )


def _session(content: bytes, providers: Sequence[str], where: str) -> Any:
    try:
        return session_of(content, providers)
    except ImportError as exc:
        raise InputError(
            "the version's graph needs ONNX Runtime",
            where="this machine",
            remedy="Install it: pip install 'tidegate[inference]'",
        ) from exc
    except Exception as exc:  # of many kinds of its own
        raise InputError(
            f"ONNX Runtime cannot load its graph ({type(exc).__name__})",
            where=where,
            remedy="Fetch the version again; a newer ONNX Runtime may be needed",
        ) from exc
