"""Evidently's full report of two windows, which stays at the site.

Its HTML holds raw values (exact extremes, rare categories), so it is written for
the site's eyes alone and nothing of it is released.

Evidently's own tests raise false alarms in 36 to 100 % of clean checks on common
shapes of data, so ours is registered in their place, under `TEST`. Evidently
calls a test once for the summary and again for each column, gives it the column
without its missing values, and has no correction over columns; ours therefore
takes the whole columns once, before, and answers by the column's name. The score
that the report shows is the p-value after Holm's correction: it may be held
against the false-alarm rate as it stands.

Evidently 0.7 refuses a column that holds no value in one window. Missing
categories are drawn as a category, and a number that is wholly missing in one
window is drawn as present or missing.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from contract.errors import DataError, TidegateError
from contract.experiment import Drift, NumericFeature, Task
from contract.releases import Array
from monitoring.binning import MISSING, as_text, count_features
from monitoring.detectors import Stratum, draws_for, holm_adjusted, homogeneity, total_variation

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DRAWN_ROWS", "TEST", "ColumnFinding", "LocalFindings", "write_report"]

TEST = "tidegate_calibrated"
"""The name of our test in Evidently."""

DRAWN_ROWS = 20_000
"""Rows of a window that are drawn, at random; the test takes all of them."""


@dataclass(frozen=True, kw_only=True)
class ColumnFinding:
    """What the rows say of one column.

    Attributes:
        p_value: of "both windows have one distribution", exact.
        adjusted_p_value: after Holm's correction over the columns.
        distance: share of rows that changed cell, beyond what sampling explains.
        drifted: the adjusted p-value is at most the promised false-alarm rate.
    """

    column: str
    p_value: float
    adjusted_p_value: float
    distance: float
    drifted: bool


@dataclass(frozen=True, kw_only=True)
class LocalFindings:
    """What the report says, for the site alone: it carries no noise."""

    path: Path
    columns: tuple[ColumnFinding, ...]

    @property
    def drifted(self) -> tuple[str, ...]:
        """Columns with drift."""
        return tuple(finding.column for finding in self.columns if finding.drifted)


_findings: ContextVar[Mapping[str, ColumnFinding]] = ContextVar("findings")
"""Of the report in progress: Evidently finds a test by name in one table for the whole process."""


def write_report(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    *,
    task: Task,
    drift: Drift,
    path: Path,
    rng: np.random.Generator,
) -> LocalFindings:
    """Compare two windows and write the report, readable by its owner alone (mode 0600).

    Args:
        reference, current: rows as they were read; columns that the task does
            not declare are left out.
        path: the HTML file; replaced whole if it exists.
        rng: for the simulated null distribution, and the choice of rows to draw.

    Raises:
        DataError: a window has no rows, or lacks a column of the task.
        TidegateError: the file cannot be written.
    """
    for name, frame in (("reference", reference), ("current", current)):
        if frame.empty:
            raise DataError(
                f"the {name} window has no rows",
                where="drift report",
                remedy="Wait until rows have arrived",
            )
    findings = _test(
        count_features(reference, task, drift.bins), count_features(current, task, drift.bins), drift, rng
    )
    html = _render(_drawn(reference, rng), _drawn(current, rng), task, drift, findings)
    _write(path, html)
    return LocalFindings(path=path, columns=findings)


def _test(
    reference: Mapping[str, Array], current: Mapping[str, Array], drift: Drift, rng: np.random.Generator
) -> tuple[ColumnFinding, ...]:
    strata = {
        column: (Stratum(reference=counts, current=current[column]),) for column, counts in reference.items()
    }
    draws = draws_for(drift.false_alarm_rate, len(strata))
    p_values = {column: homogeneity(stratum, rng=rng, draws=draws) for column, stratum in strata.items()}
    return tuple(
        ColumnFinding(
            column=column,
            p_value=p_values[column],
            adjusted_p_value=adjusted,
            distance=total_variation(strata[column]),
            drifted=adjusted <= drift.false_alarm_rate,
        )
        for column, adjusted in holm_adjusted(p_values).items()
    )


def _drawn(frame: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    if len(frame) <= DRAWN_ROWS:
        return frame
    return frame.iloc[np.sort(rng.choice(len(frame), DRAWN_ROWS, replace=False))]


def _render(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    task: Task,
    drift: Drift,
    findings: tuple[ColumnFinding, ...],
) -> str:
    os.environ.setdefault("DO_NOT_TRACK", "1")
    numeric = _numeric(reference, current, task)
    token = _findings.set({finding.column: finding for finding in findings})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _evidently(
                _prepared(reference, task, numeric),
                _prepared(current, task, numeric),
                numeric,
                drift.false_alarm_rate,
            )
    finally:
        _findings.reset(token)


def _evidently(reference: pd.DataFrame, current: pd.DataFrame, numeric: tuple[str, ...], level: float) -> str:
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    _register()
    columns = list(reference.columns)
    definition = DataDefinition(
        numerical_columns=list(numeric),
        categorical_columns=[column for column in columns if column not in numeric],
    )
    preset = DataDriftPreset(
        columns=columns, method=TEST, threshold=level, drift_share=1 / len(columns), include_tests=True
    )
    snapshot = Report([preset], include_tests=True).run(
        Dataset.from_pandas(current, data_definition=definition),
        Dataset.from_pandas(reference, data_definition=definition),
    )
    return str(snapshot.get_html_str(as_iframe=False))


def _register() -> None:
    from evidently.legacy.calculations.stattests.registry import StatTest, register_stattest
    from evidently.legacy.core import ColumnType

    test = StatTest(
        name=TEST,
        display_name="calibrated chi-square on public bins, Holm-adjusted p_value",
        allowed_feature_types=[ColumnType.Numerical, ColumnType.Categorical],
    )
    register_stattest(test, default_impl=_answer)


def _answer(
    reference: pd.Series[Any],
    current: pd.Series[Any],
    feature_type: object,
    threshold: float,
) -> tuple[float, bool]:
    """Has the arguments with which Evidently calls a test."""
    finding = _findings.get()[str(reference.name)]
    return finding.adjusted_p_value, finding.drifted


def _numeric(reference: pd.DataFrame, current: pd.DataFrame, task: Task) -> tuple[str, ...]:
    """Numeric features that hold a finite number in both windows."""
    return tuple(
        feature.name
        for feature in task.features
        if isinstance(feature, NumericFeature)
        and all(np.isfinite(_numbers(frame[feature.name])).any() for frame in (reference, current))
    )


def _prepared(frame: pd.DataFrame, task: Task, numeric: tuple[str, ...]) -> pd.DataFrame:
    import pandas as pd

    columns: dict[str, object] = {}
    for feature in task.features:
        column = frame[feature.name]
        if feature.name in numeric:
            columns[feature.name] = _numbers(column)
        elif isinstance(feature, NumericFeature):
            columns[feature.name] = np.where(np.isfinite(_numbers(column)), "present", MISSING)
        else:
            columns[feature.name] = _categories(column)
    columns[task.label.column] = _categories(frame[task.label.column])
    return pd.DataFrame(columns)


def _numbers(column: pd.Series[Any]) -> Array:
    import pandas as pd

    return pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)


def _categories(column: pd.Series[Any]) -> list[str]:
    return [
        MISSING if absent else as_text(value) for value, absent in zip(column, column.isna(), strict=True)
    ]


def _write(path: Path, html: str) -> None:
    """Replace the file whole; `mkstemp` makes files of mode 0600."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(html)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as exc:
        raise TidegateError(
            f"the drift report cannot be written: {exc.strerror}",
            where=str(path),
            remedy="Free some space, or let the agent write to that folder",
        ) from exc
