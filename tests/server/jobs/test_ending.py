"""However a run ends, its row in the state database says so: an error of any kind, a signal, a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from contract.errors import RoundError, TakenOverError
from contract.experiment import Experiment
from server.app import run_job
from server.cycle import run_cycle
from server.jobs.ending import recorded_end
from server.jobs.job import Job, RangeQuestion
from server.jobs.ranges import run_ranges
from server.jobs.training_job import run_training
from server.line.flower import assume_identity
from server.settings import quiet_environment, read_settings
from server.state.owner import is_dead, this_process
from server.state.records import RunRecord
from server.state.storage import State, open_state
from tests.server.exchange.test_hostile_site import services_of
from tests.server.federation import FakeFederation, honest, plan

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _identity() -> None:
    assume_identity(1)


class Breaking(FakeFederation):
    """Fails when it is asked who is connected."""

    def __init__(self, error: BaseException) -> None:
        super().__init__({"north": honest, "south": honest})
        self.error = error

    def get_node_ids(self) -> list[int]:
        raise self.error


def job_of(kind: str) -> Job:
    question = RangeQuestion(features=("x0",), epsilon=1.0, share=0.05) if kind == "ranges" else None
    made: Any = kind
    return Job(kind=made, run="r", experiment=plan(quorum=2), window="w2", question=question)


class Registering:
    """Stands for MLflow; what a run was ended as is in `ended`."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, str]] = []

    def require_usable(self) -> None:
        pass

    def start_run(self, *_: Any, **__: Any) -> str:
        return "m1"

    def resume_run(self, *_: Any) -> None:
        pass

    def log_text(self, *_: Any) -> None:
        pass

    def finish_run(self, run_id: str, status: str) -> None:
        self.ended.append((run_id, status))


def ended_in(state: State, kind: str, error: BaseException) -> tuple[RunRecord, Registering]:
    state.start_run("first", experiment=plan(), job="train", trigger="test", code_hash="c0de")
    state.link_run("first", model_version=1, result=json.dumps({"windows": ["w1"]}))
    state.finish_run("first", "succeeded")
    state.record_decision("fake", window="", kind="promote", subject="version 1", by="p", reason="r")
    registry = Registering()
    services = services_of(Breaking(error), state)
    object.__setattr__(services, "registry", registry)
    flows = {"train": run_training, "cycle": run_cycle, "ranges": run_ranges}
    with pytest.raises(type(error)):
        flows[kind](job_of(kind), services)
    record = state.run("r")
    assert record is not None
    return record, registry


KINDS = ("train", "cycle", "ranges")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "error", [KeyError("x"), MemoryError(), RuntimeError("\x1b[2J\nbad"), AssertionError()]
)
def test_an_error_that_nobody_thought_of_ends_a_run_as_failed(
    state: State, kind: str, error: Exception
) -> None:
    record, registry = ended_in(state, kind, error)
    assert (record.status, record.ended is None) == ("failed", False)
    assert type(error).__name__ in record.error
    assert record.error.isprintable()
    assert state.unfinished_runs() == ()
    assert registry.ended == ([("m1", "failed")] if kind == "train" else [])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(0), SystemExit(1)])
def test_who_is_stopped_leaves_a_stopped_run(state: State, kind: str, error: BaseException) -> None:
    record, registry = ended_in(state, kind, error)
    assert record.status == "stopped"
    assert "--resume" in record.error
    assert state.unfinished_runs() == ()
    assert registry.ended == ([("m1", "stopped")] if kind == "train" else [])


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_ours_is_told_as_it_is(state: State, kind: str) -> None:
    record, _ = ended_in(state, kind, RoundError("too few", remedy="Start them"))
    assert (record.status, record.error) == ("failed", "too few. Start them.")


def test_a_registry_that_fails_before_the_first_round_ends_the_run_too(state: State) -> None:
    class Away(Registering):
        def require_usable(self) -> None:
            raise ZeroDivisionError

    services = services_of(Breaking(KeyError()), state)
    object.__setattr__(services, "registry", Away())
    with pytest.raises(ZeroDivisionError):
        run_training(job_of("train"), services)
    record = state.run("r")
    assert record is not None
    assert record.status == "failed"


def test_a_run_that_was_stopped_runs_again_when_it_is_resumed(state: State) -> None:
    ended_in(state, "train", KeyboardInterrupt())
    seen: list[str] = []

    class Watching(Breaking):
        def get_node_ids(self) -> list[int]:
            record = state.run("r")
            assert record is not None
            seen.append(f"{record.status} {record.error}{record.ended}")
            raise self.error

    services = services_of(Watching(KeyError()), state)
    object.__setattr__(services, "registry", Registering())
    with pytest.raises(KeyError):
        run_training(job_of("train"), services)
    assert seen == ["running None"] * 2  # and once more after an error that nobody expected


def test_what_another_has_taken_over_is_not_this_ones_to_end(state: State) -> None:
    state.start_run("r", experiment=plan(), job="train", trigger="test", code_hash="c0de")
    turn = state.take_over("r")
    state.take_over("r")
    with pytest.raises(TakenOverError), recorded_end("r", turn, state, FakeFederation({})):
        raise KeyError
    record = state.run("r")
    assert record is not None
    assert record.status == "running"


def test_the_apps_own_entry_records_it_too(tmp_path: Path) -> None:
    settings = read_settings(
        {"TIDEGATE_HOME": str(tmp_path), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    )
    with pytest.raises(KeyError):
        run_job(job_of("ranges"), Breaking(KeyError("x")), settings, admitted={})
    with open_state(settings.state_url) as state:
        assert [run.status for run in state.runs()] == ["failed"]


STOPPED = """\
import os, signal, sys, time
from flwr.supercore.exit import register_signal_handlers
from flwr.supercore.telemetry import EventType
from server.jobs.ending import recorded_end
from server.state.storage import open_state
register_signal_handlers(EventType.FLWR_SERVERAPP_RUN_LEAVE, exit_handlers=[lambda: time.sleep(600)])
class Grid:
    def get_node_ids(self):  # as Flower's, which is told that its run was stopped
        os.kill(os.getpid(), signal.SIGINT)
with open_state(sys.argv[1]) as state, recorded_end("r", state.take_over("r"), state, Grid()):
    if sys.argv[2] == "refused":
        raise RuntimeError("a push session that has ended, say")
    if sys.argv[2] == "writing":
        with state.database.write():
            os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.parametrize("at", ["rest", "writing", "refused"])
def test_a_process_that_flower_ends_without_unwinding_leaves_a_stopped_run(
    at: str, state: State, experiment: Experiment
) -> None:
    """Its handlers take longer than the five seconds after which Flower leaves in their midst.

    Who is interrupted in a transaction holds the database that the handler would write to. What Flower
    refuses of a run that was stopped may look like an error of its own, before any signal comes.
    """
    state.start_run("r", experiment=experiment, job="train", trigger="test", code_hash="c0de")
    url = state.database.engine.url.render_as_string()
    environment = {**os.environ, **quiet_environment()}
    done = subprocess.run([sys.executable, "-c", STOPPED, url, at], cwd=ROOT, env=environment, check=False)
    record = state.run("r")
    assert record is not None
    assert (record.status, done.returncode) == ("stopped", 0), record.error
    assert "its process was stopped" in record.error


OWNING = """\
import sys, time
from server.state.storage import open_state
with open_state(sys.argv[1]) as state:
    state.take_over("r")
    print("there", flush=True)
    time.sleep(600)
"""


def test_a_run_whose_process_was_killed_is_told_as_failed(
    state: State, experiment: Experiment, tmp_path: Path
) -> None:
    state.start_run("r", experiment=experiment, job="train", trigger="test", code_hash="c0de")
    url = state.database.engine.url.render_as_string()
    with subprocess.Popen(
        [sys.executable, "-c", OWNING, url], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "there\n"
            assert state.end_dead_runs() == ()
            assert [run.name for run in state.unfinished_runs()] == ["r"]
        finally:
            process.send_signal(signal.SIGKILL)
    assert state.end_dead_runs() == ("r",)
    record = state.run("r")
    assert record is not None
    assert record.status == "failed"
    assert "killed" in record.error
    assert record.ended is not None
    assert state.end_dead_runs() == ()


def test_a_run_that_lives_or_is_elsewhere_is_left_alone(state: State, experiment: Experiment) -> None:
    for name in ("here", "there", "old"):
        state.start_run(name, experiment=experiment, job="train", trigger="test", code_hash="c0de")
    state.take_over("here")
    state.claim("run there", "1", f"process {os.getpid()} of another-machine, since 1.00")
    assert state.end_dead_runs() == ("old",)
    assert [run.name for run in state.unfinished_runs()] == ["here", "there"]


def test_a_number_that_the_system_gave_again_names_no_living_process() -> None:
    words = this_process()
    assert not is_dead(words)
    began = words.rsplit(" ", 1)[1]
    assert is_dead(words.replace(began, f"{float(began) - 3600:.2f}"))
    assert is_dead(words.replace(f"process {os.getpid()} ", "process 99999999 "))
    assert is_dead("process 1234")  # as an older program wrote it
    assert abs(time.time() - float(began)) < 86_400
