"""An MLflow run that is opened beside the first round."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest

from contract.errors import RegistryError
from server.jobs.mlflow_run import MlflowRun

LONG = 60.0


class Recording:
    """Stands for MLflow: keeps the figures, and from which thread they came."""

    def __init__(self, unusable: Exception | None = None) -> None:
        self.figures: list[tuple[str, Mapping[str, float], int]] = []
        self.threads: set[str] = set()
        self._unusable = unusable

    def require_usable(self) -> None:
        if self._unusable is not None:
            raise self._unusable

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], *, step: int) -> None:
        self.threads.add(threading.current_thread().name)
        self.figures.append((run_id, metrics, step))


def shown(registry: Recording) -> MlflowRun:
    known: Any = registry
    return MlflowRun(known)


def test_rounds_do_not_wait_for_it_and_no_figure_is_lost_or_out_of_order() -> None:
    registry, may_open = Recording(), threading.Event()
    run = shown(registry)

    def opening() -> str:
        assert may_open.wait(LONG), "the test never let the run be opened"
        return "m1"

    run.open(opening)
    run.log_metrics({"a": 1.0}, 1)
    run.log_metrics({"a": 2.0}, 2)
    assert registry.figures == []
    may_open.set()
    assert run.id == "m1"
    run.log_metrics({"a": 3.0}, 3)
    assert registry.figures == [("m1", {"a": float(step)}, step) for step in (1, 2, 3)]
    assert registry.threads == {threading.current_thread().name}, "one thread at a time uses it"


def test_what_went_wrong_is_told_with_the_next_figures_and_again_at_the_end() -> None:
    run = shown(Recording())

    def opening() -> str:
        raise RegistryError("MLflow refused")

    run.open(opening)
    run.settle()
    with pytest.raises(RegistryError, match="refused"):
        run.log_metrics({"a": 1.0}, 1)
    with pytest.raises(RegistryError, match="refused"):
        _ = run.id


def test_a_registry_that_is_away_is_found_before_any_site_is_asked() -> None:
    run, opened = shown(Recording(RegistryError("away"))), threading.Event()
    with pytest.raises(RegistryError, match="away"):
        run.open(lambda: str(opened.set()))
    assert not opened.is_set()


def test_to_settle_waits_for_a_run_that_is_being_opened_and_for_none_that_is_not() -> None:
    shown(Recording()).settle()
    run, ended = shown(Recording()), threading.Event()

    def opening() -> str:
        time.sleep(0.2)
        ended.set()
        return "m1"

    run.open(opening)
    run.settle()
    assert ended.is_set()
