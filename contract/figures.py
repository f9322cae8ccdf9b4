"""The figures of a model, in the order in which they are shown, and a number with its error."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contract.experiment import Label

__all__ = ["METRICS", "OF_CLASSES", "OF_NUMBERS", "PAIRED", "Estimate", "Figure", "figures_for", "figures_of"]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its standard error."""

    value: float
    error: float

    def low(self, errors: float = 2.0) -> float:
        """So many standard errors below."""
        return self.value - errors * self.error

    def high(self, errors: float = 2.0) -> float:
        """So many standard errors above."""
        return self.value + errors * self.error

    def times(self, factor: float) -> Estimate:
        """Both, so many times; the factor is not negative."""
        return Estimate(value=factor * self.value, error=factor * self.error)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One of them.

    Attributes:
        name: as in `Metrics` and `RegressionMetrics`, and in what is stored.
        word: the heading of a column.
        title: of a plot's axis or panel.
        hidden_from: the standard error from which the figure says nothing any more: twice it, either way, is
            the way from useless to good. Of a figure in the label's unit, as a share of the figure.
        higher: whether more is better.
    """

    name: str
    word: str
    title: str
    hidden_from: float
    higher: bool = False

    @property
    def axis(self) -> str:
        """The title, and which way is better."""
        return f"{self.title} ({'higher' if self.higher else 'lower'} is better)"

    def told(self, value: float, error: float | None) -> str:
        """It with its standard error, or that alone where it hides the figure.

        >>> METRICS["auc"].told(0.71, 0.02), METRICS["auc"].told(0.94, 0.19), METRICS["mae"].told(2.0, None)
        ('0.710 ± 0.020', 'too noisy (± 0.19)', '2.000')
        >>> METRICS["mae"].told(0.0, 0.0)  # every row exactly right
        '0.000 ± 0.000'
        """
        if error is None or not math.isfinite(error):
            return f"{value:.3f}"
        if self.is_hidden(value, error):
            return f"too noisy (± {error:.2g})"
        return f"{value:.3f} ± {error:.3f}"

    def is_hidden(self, value: float, error: float | None) -> bool:
        """Whether its standard error hides it."""
        unit = abs(value) if self.name in ("mae", "rmse") else 1.0
        return error is not None and error > self.hidden_from * unit


OF_CLASSES = (
    Figure(name="log_loss", word="log loss", title="Log loss", hidden_from=0.15),
    Figure(name="brier", word="Brier", title="Brier score", hidden_from=0.05),
    Figure(name="auc", word="AUC", title="AUC", hidden_from=0.1, higher=True),
    Figure(name="accuracy", word="accuracy", title="Accuracy", hidden_from=0.1, higher=True),
)
OF_NUMBERS = (
    Figure(name="mae", word="MAE", title="Mean absolute error", hidden_from=0.3),
    Figure(name="rmse", word="RMSE", title="Root mean squared error", hidden_from=0.3),
    Figure(name="r2", word="R²", title="R²", hidden_from=0.2, higher=True),
)


METRICS = {figure.name: figure for figure in (*OF_CLASSES, *OF_NUMBERS)}
"""By their names."""
PAIRED = ("log_loss", "brier", "mae")
"""Of two models, sites release the difference row by row in one of these (`contract.releases.Comparison`)."""


def figures_for(label: Label) -> tuple[Figure, ...]:
    """Those of a model that predicts this label; the first is what a run is followed by."""
    return OF_CLASSES if label.kind == "categorical" else OF_NUMBERS


def figures_of(names: Iterable[str]) -> tuple[Figure, ...]:
    """Those of a number where one of them is among the names, else those of classes."""
    found = set(names)
    return OF_NUMBERS if any(figure.name in found for figure in OF_NUMBERS) else OF_CLASSES
