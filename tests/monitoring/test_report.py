"""Evidently's report with our test in it: what it finds, what it shows, who may read it."""

from __future__ import annotations

import os
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import monitoring.report
from contract.errors import DataError, TidegateError
from contract.experiment import CategoricalFeature, Drift, Label, NumericFeature, Task
from monitoring.report import DRAWN_ROWS, LocalFindings, take_window, write_report
from tests.hostile import HOSTILE

pytestmark = [
    pytest.mark.skipif(find_spec("evidently") is None, reason="Evidently is not installed"),
    pytest.mark.xdist_group("evidently"),  # its imports take six seconds of a processor
]

TASK = Task(
    label=Label(column="visits"),
    features=(
        NumericFeature(name="age", kind="numeric", low=0, high=100),
        NumericFeature(name="disease", kind="numeric", low=0, high=60),
        CategoricalFeature(name="plan", kind="categorical", categories=("free", "shared", "full")),
    ),
)
DRIFT = Drift(bins=10, false_alarm_rate=0.01)


def rows(rng: np.random.Generator, number: int = 600) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "age": rng.integers(0, 90, number).astype(float),
            "disease": rng.gamma(2, 6, number),
            "plan": rng.choice(["free", "shared", "full"], number, p=[0.5, 0.3, 0.2]),
            "visits": rng.integers(0, 2, number),
            "name": "Canaria Quetzal",
        }
    )


def written(reference: pd.DataFrame, current: pd.DataFrame, path: Path) -> LocalFindings:
    return write_report(reference, current, task=TASK, drift=DRIFT, path=path, rng=np.random.default_rng(0))


@pytest.fixture(scope="module")
def clean() -> pd.DataFrame:
    return rows(np.random.default_rng(1))


def test_a_recoding_is_found_and_shown(clean: pd.DataFrame, tmp_path: Path) -> None:
    current = rows(np.random.default_rng(2))
    current["disease"] = current["disease"] * 2 + 5
    findings = written(clean, current, tmp_path / "site" / "w07.html")
    assert findings.drifted == ("disease",)
    assert [finding.column for finding in findings.columns] == ["age", "disease", "plan", "visits"]
    assert findings.columns[1].distance > 0.3
    html = findings.path.read_text()
    assert "calibrated chi-square on public bins" in html
    assert 'Value Drift for column disease", "description": "Drift score is 0.00. The drift' in html
    assert '"Drift is detected for 25.0% of columns (1 out of 4)."' in html


def test_clean_rows_raise_no_alarm_in_the_report_either(clean: pd.DataFrame, tmp_path: Path) -> None:
    findings = written(clean, rows(np.random.default_rng(3)), tmp_path / "w01.html")
    assert findings.drifted == ()
    html = findings.path.read_text()
    smallest = min(finding.adjusted_p_value for finding in findings.columns)
    assert f"Drift score is {smallest:.2f}." in html


def test_only_its_owner_may_read_it_even_if_others_could_before(clean: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "w01.html"
    path.write_text("old")
    path.chmod(0o644)
    written(clean, clean, path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() != "old"
    assert os.listdir(tmp_path) == ["w01.html"]  # noqa: PTH208


def test_a_column_that_the_task_does_not_declare_is_left_out(clean: pd.DataFrame, tmp_path: Path) -> None:
    assert "Quetzal" not in written(clean, clean, tmp_path / "w01.html").path.read_text()


def test_missing_values_are_drift_that_is_seen(clean: pd.DataFrame, tmp_path: Path) -> None:
    current = rows(np.random.default_rng(4))
    current["age"] = np.nan
    current.loc[:200, "plan"] = None
    findings = written(clean, current, tmp_path / "w01.html")
    assert findings.drifted == ("age", "plan")


def test_text_infinities_and_other_untidy_values_are_drawn(clean: pd.DataFrame, tmp_path: Path) -> None:
    current = rows(np.random.default_rng(5)).astype(object)
    current.loc[0, "age"] = "unknown"
    current.loc[1, "age"] = np.inf
    current.loc[2, "plan"] = 7
    assert written(clean, current, tmp_path / "w01.html").drifted == ()


def test_evidently_lets_no_warning_escape(clean: pd.DataFrame, tmp_path: Path) -> None:
    constant = clean.assign(age=50.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        written(constant, constant, tmp_path / "w01.html")
        assert os.environ["DO_NOT_TRACK"]


def test_many_rows_are_all_tested_and_partly_drawn(tmp_path: Path) -> None:
    """2 % of the rows go to another plan; what is written does not grow with the rows."""
    rng = np.random.default_rng(6)
    reference, current = rows(rng, 3 * DRAWN_ROWS), rows(rng, 3 * DRAWN_ROWS)
    moved = (current["plan"] == "free") & (rng.random(len(current)) < 0.04)
    current.loc[moved, "plan"] = "full"
    findings = written(reference, current, tmp_path / "w01.html")
    assert findings.drifted == ("plan",)
    assert findings.columns[2].distance == pytest.approx(0.02, abs=0.01)
    assert findings.path.stat().st_size < 8e6


def test_a_million_rows_are_counted_and_a_sample_is_taken(clean: pd.DataFrame) -> None:
    whole = clean.sample(1_000_000, replace=True, random_state=0)
    taken = take_window(whole, "current", task=TASK, drift=DRIFT, rng=np.random.default_rng(0))
    assert taken.rows == taken.counts["age"].sum() == 1_000_000
    assert len(taken.drawn) == DRAWN_ROWS
    assert "name" not in taken.drawn


def test_the_page_says_how_many_rows_it_draws(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    findings = written(rows(rng, DRAWN_ROWS + 1), rows(rng, 500), tmp_path / "w01.html")
    html = findings.path.read_text()
    assert "Reference window: 20,001 rows; a random sample of 20,000 is drawn." in html
    assert "Current window: 500 rows, all of them drawn." in html
    assert "The test counts every row of both windows" in html


def test_names_and_values_from_outside_are_drawn_as_visible_text(tmp_path: Path) -> None:
    """A column's name cannot end the script, nor a value; two names that look alike stay two columns."""
    # `model_construct`: whatever an experiment's file may name today
    task = Task.model_construct(
        label=Label.model_construct(column="ill" + HOSTILE, classes=("no" + HOSTILE, "yes")),
        features=(
            NumericFeature.model_construct(name="x\u200b", kind="numeric", low=0, high=1),
            NumericFeature.model_construct(name=r"x\u200b", kind="numeric", low=0, high=1),
            CategoricalFeature.model_construct(name="plan", kind="categorical", categories=("<18", HOSTILE)),
        ),
    )
    rng = np.random.default_rng(8)

    def sly(shift: float) -> pd.DataFrame:
        columns = {
            "x\u200b": rng.random(300),
            r"x\u200b": np.minimum(1, rng.random(300) + shift),
            "plan": rng.choice(["<18", HOSTILE, "</script><script>"], 300),
            "ill" + HOSTILE: rng.choice(["no" + HOSTILE, "yes"], 300),
        }
        return pd.DataFrame(columns)

    path, rng_null = tmp_path / "w.html", np.random.default_rng(0)
    findings = write_report(sly(0), sly(0.5), task=task, drift=DRIFT, path=path, rng=rng_null)
    assert findings.drifted == (r"x\u200b",)
    html = path.read_text(encoding="utf-8")
    data = html[: html.index("</head>")]
    assert data.count("<script>") == data.count("</script>") == 1
    for letter in ("\x1b", "\u202e", "\u2028", "\u200b"):
        assert letter not in data
        assert f"\\u{ord(letter):04x}" not in data.replace("\\\\u", "")
    assert r"\u003c18" in data
    assert "x\\\\u200b (2)" in data


def test_a_page_that_is_built_otherwise_is_not_written(
    clean: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitoring.report, "_render", lambda *_: "<html><script>var x = {};</script></html>")
    with pytest.raises(TidegateError, match="could not be made safe"):
        written(clean, clean, tmp_path / "w01.html")
    assert not (tmp_path / "w01.html").exists()


def test_a_window_without_rows_is_refused(clean: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the current window has no rows"):
        written(clean, clean.iloc[:0], tmp_path / "w01.html")


def test_a_place_that_cannot_be_written_is_named(clean: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "site").write_text("a file, not a folder")
    with pytest.raises(TidegateError, match=r"w01\.html: the drift report cannot be written"):
        written(clean, clean, tmp_path / "site" / "w01.html")
