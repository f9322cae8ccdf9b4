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

The test takes every row; the drawings take a sample, for Evidently's time and the
page's size grow with the rows. So a window is first taken (`take_window`), which is
quick, and then drawn (`draw_report`), which takes seconds and may be done elsewhere.
"""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from contract.errors import DataError, TidegateError
from contract.experiment import Drift, NumericFeature, Task
from contract.outside import shown
from contract.releases import Array
from monitoring.binning import MISSING, as_text, count_features
from monitoring.detectors import Stratum, draws_for, holm_adjusted, homogeneity, total_variation
from monitoring.report_page import safe_page

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "DRAWN_ROWS",
    "TEST",
    "ColumnFinding",
    "LocalFindings",
    "WindowRows",
    "draw_report",
    "take_window",
    "write_report",
]

TEST = "tidegate_calibrated"
"""The name of our test in Evidently."""

DRAWN_ROWS = 20_000
"""Rows of a window that are drawn, at random; the test takes all of them."""


_LONGEST_NAME = 60
"""Characters of a column's name or of a category that are drawn."""

_TAG = re.compile("<(?=[A-Za-z/!])")
"""What Plotly may take for a tag of its own in a label, such as a link."""


@dataclass(frozen=True, kw_only=True)
class WindowRows:
    """A window as the report needs it: every row counted, some rows to draw.

    Attributes:
        rows: how many there are.
        counts: of every row, by column, over the task's public bins.
        drawn: the rows to draw, chosen at random, as they were read.
    """

    rows: int
    counts: Mapping[str, Array]
    drawn: pd.DataFrame


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
    """`take_window` for both windows, then `draw_report`."""
    return draw_report(
        take_window(reference, "reference", task=task, drift=drift, rng=rng),
        take_window(current, "current", task=task, drift=drift, rng=rng),
        task=task,
        drift=drift,
        path=path,
        rng=rng,
    )


def take_window(
    frame: pd.DataFrame, name: str, *, task: Task, drift: Drift, rng: np.random.Generator
) -> WindowRows:
    """Count all rows of a window, and choose those to draw.

    Args:
        frame: rows as they were read; columns that the task does not declare are left out.
        name: `reference` or `current`, for errors.
        task, drift: say what is counted, and how finely.
        rng: for the choice.

    Raises:
        DataError: the window has no rows, or lacks a column of the task.
    """
    if frame.empty:
        raise DataError(
            f"the {name} window has no rows", where="drift report", remedy="Wait until rows have arrived"
        )
    columns = [*(feature.name for feature in task.features), task.label.column]
    counts = count_features(frame, task, drift.bins)
    if len(frame) > DRAWN_ROWS:
        drawn = frame[columns].iloc[np.sort(rng.choice(len(frame), DRAWN_ROWS, replace=False))]
    else:
        drawn = frame[columns].copy()
    return WindowRows(rows=len(frame), counts=counts, drawn=drawn)


def draw_report(
    reference: WindowRows,
    current: WindowRows,
    *,
    task: Task,
    drift: Drift,
    path: Path,
    rng: np.random.Generator,
    title: str = "",
) -> LocalFindings:
    """Compare two windows and write the report, readable by its owner alone (mode 0600).

    Args:
        reference, current: as `take_window` made them.
        task, drift: of the experiment.
        path: the HTML file; replaced whole if it exists.
        rng: for the simulated null distribution.
        title: what is compared, above the drawings.

    Raises:
        TidegateError: the file cannot be written, or could not be made safe to open.
    """
    findings = _test(reference.counts, current.counts, drift, rng)
    notes = (title, _size("Reference", reference), _size("Current", current), _READ)
    html = _render(reference.drawn, current.drawn, task, drift, findings)
    _write(path, safe_page(html, tuple(filter(None, notes))))
    return LocalFindings(path=path, columns=findings)


_READ = (
    "The test counts every row of both windows; the drawings, and the sizes that Evidently names, are of the "
    "drawn rows. This page holds raw values: it stays at the site."
)


def _size(name: str, window: WindowRows) -> str:
    rows, drawn = window.rows, len(window.drawn)
    if drawn == rows:
        return f"{name} window: {rows:,} rows, all of them drawn."
    return f"{name} window: {rows:,} rows; a random sample of {drawn:,} is drawn."


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


def _render(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    task: Task,
    drift: Drift,
    findings: tuple[ColumnFinding, ...],
) -> str:
    os.environ.setdefault("DO_NOT_TRACK", "1")
    numeric, names = _numeric(reference, current, task), _drawn_names(task)
    token = _findings.set({names[finding.column]: finding for finding in findings})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _evidently(
                _prepared(reference, task, numeric).rename(columns=names),
                _prepared(current, task, numeric).rename(columns=names),
                tuple(names[column] for column in numeric),
                drift.false_alarm_rate,
            )
    finally:
        _findings.reset(token)


def _drawn_names(task: Task) -> dict[str, str]:
    """How each column is called in the report: two that look the same are told apart by a number."""
    names: dict[str, str] = {}
    for column in (*(feature.name for feature in task.features), task.label.column):
        same = (f" ({number})" if number > 1 else "" for number in count(1))
        names[column] = next(name for end in same if (name := _label(column) + end) not in names.values())
    return names


def _label(text: str) -> str:
    return _TAG.sub("‹", shown(text, limit=_LONGEST_NAME))


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
    """Numeric features, and the label if it is one, that hold a finite number in both windows."""
    return tuple(
        feature.name
        for feature in (*task.features, task.label.range)
        if isinstance(feature, NumericFeature)
        and all(np.isfinite(_numbers(frame[feature.name])).any() for frame in (reference, current))
    )


def _prepared(frame: pd.DataFrame, task: Task, numeric: tuple[str, ...]) -> pd.DataFrame:
    import pandas as pd

    columns: dict[str, object] = {}
    for feature in (*task.features, *filter(None, [task.label.range])):
        column = frame[feature.name]
        if feature.name in numeric:
            columns[feature.name] = _numbers(column)
        elif isinstance(feature, NumericFeature):
            columns[feature.name] = np.where(np.isfinite(_numbers(column)), "present", MISSING)
        else:
            columns[feature.name] = _categories(column)
    if task.label.range is None:
        columns[task.label.column] = _categories(frame[task.label.column])
    return pd.DataFrame(columns)


def _numbers(column: pd.Series[Any]) -> Array:
    import pandas as pd

    return pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)


def _categories(column: pd.Series[Any]) -> list[str]:
    """As labels that are safe to draw; each distinct value is made one once."""
    values = [
        MISSING if absent else as_text(value) for value, absent in zip(column, column.isna(), strict=True)
    ]
    labels = {value: _label(value) for value in set(values)}
    return [labels[value] for value in values]


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
