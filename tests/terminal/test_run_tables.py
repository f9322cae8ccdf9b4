"""Runs side by side: nothing that noise could have made is shown as a difference."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from contract.errors import InputError
from contract.federation_api import Run, RunDetail
from contract.figures import OF_CLASSES
from terminal.run_plot import ComparedRun, plot_runs
from terminal.run_tables import difference, show_results

AUC = OF_CLASSES[2]
LOSS = OF_CLASSES[0]


def ended(name: str, epsilon: float, **figures: float) -> RunDetail:
    result: dict[str, Any] = {
        "metrics": {"overall": {"rows": 100.0, **figures}, "sites": {}},
        "privacy": {"north": {"epsilon_in_run": epsilon}},
        "private": True,
        "rounds_counted": {"north": 2},
        "figures": [one.name for one in OF_CLASSES],
    }
    run = Run(
        name=name,
        experiment="visits",
        job="train",
        owner="",
        status="succeeded",
        place=0,
        since=datetime(2026, 1, 1, tzinfo=UTC),
        ended=None,
        rounds=2,
        of=2,
        model_version=1,
        error="",
    )
    return RunDetail(run=run, trigger="", windows=(), rounds=(), participation=(), result=result)


def test_more_is_better_of_one_figure_and_less_of_another() -> None:
    first, other = (
        {"auc": 0.7, "auc_error": 0.03, "log_loss": 0.5},
        {"auc": 0.8, "auc_error": 0.04, "log_loss": 0.4},
    )
    gain = difference(first, other, AUC)
    assert gain is not None
    assert gain == (pytest.approx(0.1), pytest.approx(0.05))
    assert difference(first, other, LOSS) == (pytest.approx(0.1), 0.0)
    assert difference(first, {}, AUC) is None
    assert difference({"auc": math.nan}, other, AUC) is None


def test_errors_stand_beside_figures_and_differences(capsys: pytest.CaptureFixture[str]) -> None:
    one = ended("one", 1.0, auc=0.7, auc_error=0.03, log_loss=0.6, log_loss_error=0.01)
    two = ended("two", 3.0, auc=0.72, auc_error=0.03, log_loss=0.5, log_loss_error=0.01)
    show_results([one, two], json=False)
    told = capsys.readouterr().out
    assert "0.700 ± 0.030" in told
    assert "+0.020 ± 0.042, not told apart" in told
    assert "+0.100 ± 0.014 " in told
    assert told.count("too noisy") == 2 * 2 + 2  # Brier and accuracy of both, and their differences


def test_a_run_without_a_result_has_words(capsys: pytest.CaptureFixture[str]) -> None:
    failed = ended("failed", 1.0).model_copy(update={"result": None})
    show_results([failed, ended("two", 1.0, auc=0.7)], json=False)
    told = capsys.readouterr().out
    assert "no result" in told
    assert "–" not in told


def test_a_plot_by_epsilon_and_one_by_run(tmp_path: Path) -> None:
    runs = [
        ComparedRun(name=f"run-{one}", epsilon=one, figures={"auc": 0.6 + one / 20, "auc_error": 0.02})
        for one in (1.0, 3.0)
    ]
    by_epsilon = plot_runs(runs, OF_CLASSES)
    alike = [ComparedRun(name=one.name, epsilon=1.0, figures=one.figures) for one in runs]
    assert by_epsilon.startswith(b"\x89PNG")
    assert plot_runs(alike, OF_CLASSES) != by_epsilon
    assert plot_runs([ComparedRun(name="$x$", epsilon=None, figures={})], OF_CLASSES).startswith(b"\x89PNG")
    show_results([ended("one", 1.0, auc=0.7), ended("two", 3.0)], json=True, plot=tmp_path / "c.svg")
    assert b"<svg" in (tmp_path / "c.svg").read_bytes()
    with pytest.raises(InputError, match="png"):
        show_results([ended("one", 1.0)], json=True, plot=tmp_path / "c.gif")
