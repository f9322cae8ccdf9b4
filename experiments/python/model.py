"""A registered model version on this machine: predictions with numpy, and the torch module where torch is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from contract.names import MISSING_TEXTS
from experiments.installation import telling_what_is_missing
from terminal.display import Shown, html_of, text_of
from terminal.parts import Sentence, Table
from terminal.predictions import write_files

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import nn

    from serving.prediction import Predictor

__all__ = ["Model"]


@dataclass(frozen=True, kw_only=True, repr=False)
class Model:
    """A model version with its preprocessing; `Run.model` and `Federation.model` fetch one.

    Attributes:
        name, version: under which it is registered.
        predictor: computes it with numpy.
        files: of the version, by name.
    """

    name: str
    version: int
    predictor: Predictor
    files: Mapping[str, bytes]

    @classmethod
    def of(cls, files: Mapping[str, bytes], *, name: str, version: int) -> Self:
        """The model in a version's files, whose hashes were compared.

        Raises:
            InputError: they are none; numpy is not installed.
        """
        from serving.model_folder import read_model
        from serving.prediction import Predictor

        experiment, arrays = read_model(files, where=f"{name} version {version}")
        predictor = Predictor(experiment=experiment, arrays=arrays)
        return cls(name=name, version=version, predictor=predictor, files=files)

    @telling_what_is_missing
    def predict(self, rows: Any, *, missing: Collection[str] = (), decimal: str = ".") -> Any:
        """Predictions for rows, on this machine: nothing leaves it.

        A row that does not fit (a missing value without a stand-in, an unknown category) gets no prediction
        but a reason, and changes nothing about the others.

        Args:
            rows: raw, as a site has them: a pandas DataFrame, a dict of columns, or a list of rows, each a
                dict. Columns that are no features are ignored.
            missing: texts that stand for a missing value, beside an empty one, `NA` and `NaN`.
            decimal: the decimal sign of numbers that are texts.

        Returns:
            In the form of the rows (a frame has their index): `prediction`, the most probable class or a
            number in the label's unit; `probability_CLASS` for each class; `reason`.

        Raises:
            InputError: they are no rows, or lack a feature's column.
        """
        from serving.rows import columns_of, in_the_form_of

        texts = (*MISSING_TEXTS, *missing)
        return in_the_form_of(rows, self.predictor.predict(columns_of(rows), missing=texts, decimal=decimal))

    @telling_what_is_missing
    def inputs(self, rows: Any) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """The preprocessing alone: the module's inputs, float32 [n, width], and which of the n rows fit.

        Raises:
            InputError: as with `predict`.
        """
        from serving.rows import columns_of

        found, fitting = self.predictor.inputs(columns_of(rows))
        return found, fitting.fits

    @telling_what_is_missing
    def module(self) -> nn.Module:
        """The trained torch module, in evaluation mode; feed it `inputs(rows)` as a tensor.

        Its outputs are logits: one, of the last of two classes; one of each of more; of a number the value
        with the label's range mapped to [-1, 1].

        Raises:
            InputError: torch is not installed.
        """
        from clients.mechanisms.models import module_for

        return module_for(self.predictor.experiment, self.predictor.arrays).eval()

    def save(self, folder: str | Path) -> Path:
        """Write the version's files into a new folder, as `tidegate models fetch` does.

        Raises:
            InputError: there is a file or folder of that name, or it cannot be made.
        """
        write_files(self.files, Path(folder))
        return Path(folder)

    def _parts(self) -> list[Shown]:
        experiment = self.predictor.experiment
        task = experiment.task
        rows = tuple(
            (one.name, f"{one.low:g} to {one.high:g}" if one.kind == "numeric" else ", ".join(one.categories))
            for one in task.features
        )
        words = f"Version {self.version} of '{self.name}', a {experiment.model.kind} model, predicts"
        return [
            Sentence(f"{words} '{task.label.column}'. predict(rows) takes a column for each feature."),
            Table(headings=("feature", "values"), rows=rows),
        ]

    def __repr__(self) -> str:
        return text_of(self._parts())

    def _repr_html_(self) -> str:
        return html_of(self._parts())
