"""Drift reports are drawn beside the answers: what becomes of the drawing process touches no answer."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from clients.mechanisms import drawing, drift
from clients.mechanisms.drawing import ReportQueue
from clients.mechanisms.report_files import INDEX, is_there, list_reports
from contract.experiment import Experiment, Label, NumericFeature, Task
from contract.messages import Instruction
from tests.hostile import HOSTILE, require_harmless

PLAN = Experiment(
    name="fake",
    task=Task(label=Label(column="ill"), features=(NumericFeature(name="x", kind="numeric", low=0, high=1),)),
)


def rows(number: int = 300, seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"x": rng.random(number), "ill": rng.integers(0, 2, number)})


def asked(run: str = "run-1", *, window: str = "w2", step: int = 1) -> Instruction:
    return Instruction(run=run, step=step, windows=(window,), reference_windows=("w1",))


def serve_quickly(line: Connection) -> None:
    """A drawing process for tests of what is around it: it writes at once, dies or sleeps, as it is told."""
    drawing.end_with_parent()
    while True:
        try:
            order = line.recv()
        except EOFError:
            return
        if "dies" in order["title"]:
            os.kill(os.getpid(), signal.SIGKILL)
        if "sleeps" in order["title"]:
            time.sleep(3600)
        order["path"].parent.mkdir(parents=True, exist_ok=True)
        order["path"].write_text(f"pid {os.getpid()}")
        line.send((None, ("x",)))


Write = Callable[[Instruction], None]


@pytest.fixture(scope="module")
def lasting_queue() -> Iterator[ReportQueue]:
    """One for all tests, as a site has: its process imports for two seconds. One that died is replaced."""
    made = ReportQueue(serve_quickly)
    yield made
    made.close()


@pytest.fixture
def queue(lasting_queue: ReportQueue, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReportQueue]:
    monkeypatch.setattr(drift, "report_queue", lambda: lasting_queue)
    yield lasting_queue
    lasting_queue.settle()


def write(folder: Path, instruction: Instruction, *, experiment: Experiment = PLAN) -> None:
    drift.write_local_report(rows(), rows(seed=2), experiment, instruction, folder)


def test_reports_are_entered_in_the_list(queue: ReportQueue, tmp_path: Path) -> None:
    write(tmp_path, asked())
    write(tmp_path, asked(window="w3"))
    queue.settle()
    first, second = list_reports(tmp_path)
    assert (first.experiment, first.windows, first.reference_windows) == ("fake", ("w2",), ("w1",))
    assert (second.windows, second.run, second.drifted) == (("w3",), "run-1", ("x",))
    for report in (first, second):
        assert re.fullmatch(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{12}\.html", report.file)
        assert (tmp_path / report.file).exists()
    assert second.file in (tmp_path / INDEX).read_text()
    assert (tmp_path / INDEX).stat().st_mode & 0o777 == 0o600


def test_a_request_that_comes_again_is_drawn_once(queue: ReportQueue, tmp_path: Path) -> None:
    for _ in range(3):
        write(tmp_path, asked())
    queue.settle()
    write(tmp_path, asked())
    queue.settle()
    assert len(list_reports(tmp_path)) == 1
    write(tmp_path, asked(step=2))
    queue.settle()
    assert len(list_reports(tmp_path)) == 2


@pytest.mark.parametrize("name", ["../../../x", "/etc/x", "..", "a\0b", "w" * 5000, HOSTILE, "", "x/../../y"])
def test_no_name_of_a_message_is_part_of_a_path(queue: ReportQueue, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "a" / "b" / "reports"
    folder.mkdir(parents=True)
    sly = PLAN.model_copy(update={"name": name.replace("\ud800", "")})  # JSON that is read holds none
    instruction = asked(name, window=name)
    write(folder, instruction, experiment=sly)
    queue.settle()
    (report,) = list_reports(folder)
    assert report.windows == (name,)
    everything = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    stem = report.file.removesuffix(".html")
    here = Path("a/b/reports")
    assert everything == {here / f"{stem}.html", here / f"{stem}.json", here / INDEX}
    page = (folder / INDEX).read_text()
    require_harmless(page)
    assert "<script" not in page


def test_a_process_that_was_killed_is_replaced(queue: ReportQueue, tmp_path: Path) -> None:
    write(tmp_path, asked())
    queue.settle()
    before = queue.process_id
    assert before is not None
    process = psutil.Process(before)
    process.kill()
    wait_until_gone(process)
    write(tmp_path, asked(window="w3"))
    queue.settle()
    assert len(list_reports(tmp_path)) == 2
    assert queue.process_id != before


def test_a_report_that_kills_its_process_is_given_up_and_the_next_is_written(
    queue: ReportQueue, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "tidegate.site"):
        write(tmp_path, asked("dies"))
        write(tmp_path, asked("fine"))
        queue.settle()
    assert [report.run for report in list_reports(tmp_path)] == ["fine"]
    assert "the drawing process died over it, 2 times" in caplog.text


@pytest.mark.parametrize("frame", [rows().iloc[:0], rows().drop(columns="x"), None, "no frame"])
def test_no_failure_reaches_the_answer(
    queue: ReportQueue, tmp_path: Path, frame: object, caplog: pytest.LogCaptureFixture
) -> None:
    drift.write_local_report(rows(), frame, PLAN, asked(), tmp_path)  # type: ignore[arg-type]
    queue.settle()
    assert "the drift report was not written" in caplog.text
    write(tmp_path, asked("fine"))
    queue.settle()
    assert [report.run for report in list_reports(tmp_path)] == ["fine"]


def test_a_folder_that_cannot_be_made_is_said_in_the_log_alone(
    queue: ReportQueue, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "reports").write_text("a file, not a folder")
    write(tmp_path / "reports", asked())
    queue.settle()
    assert "the drift report was not written" in caplog.text


def test_only_so_many_wait(
    queue: ReportQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each that waits keeps its rows in memory."""
    go_on = threading.Event()
    monkeypatch.setattr(queue, "_written", lambda _: go_on.wait() and None)
    for number in range(drawing._LONGEST_QUEUE + 5):
        write(tmp_path, asked(f"run-{number}"))
    assert caplog.text.count("is left out") == 5
    go_on.set()
    queue.settle()


def test_a_process_that_does_not_end_is_ended(
    queue: ReportQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(drawing, "_PATIENCE", 0.2)
    write(tmp_path, asked("sleeps"))
    queue.settle()
    assert "drawing took more than 0.2 s" in caplog.text
    assert queue.process_id is None


ROOT = Path(__file__).resolve().parents[3]

PARENT = """\
import json, sys, threading, time
from pathlib import Path
from clients.mechanisms import drawing
from tests.clients.mechanisms.test_drawing import asked, drift, rows, PLAN

def draw_for_ever(line):
    if sys.argv[2] == "kernel":
        drawing.wait = lambda _: threading.Event().wait()
    if sys.argv[2] == "watch":
        drawing.sys = type("sys", (), {"platform": "other"})
    drawing.end_with_parent()
    line.recv()
    Path(sys.argv[1], "began").touch()
    while True:
        time.sleep(60)

if __name__ == "__main__":
    queue = drawing.ReportQueue(draw_for_ever)
    drift.report_queue = lambda: queue
    drift.write_local_report(rows(), rows(), PLAN, asked(), Path(sys.argv[1]))
    while not Path(sys.argv[1], "began").exists():
        time.sleep(0.02)
    print(json.dumps(queue.process_id), flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize(
    "by",
    [
        pytest.param("kernel", marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux alone")),
        "watch",
        pytest.param("both", marks=pytest.mark.long),
    ],
)
def test_the_process_ends_when_the_worker_is_killed(by: str, tmp_path: Path) -> None:
    """Killed in the middle of drawing; each of the two ways is enough."""
    program = tmp_path / "parent.py"
    program.write_text(PARENT)
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    parent = subprocess.Popen(
        [sys.executable, str(program), str(tmp_path), by],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
    )
    try:
        assert parent.stdout is not None
        line = parent.stdout.readline()
        child = psutil.Process(json.loads(line))
        others = psutil.Process(parent.pid).children(recursive=True)
        assert child in others
    finally:
        parent.kill()
        parent.wait()
        assert parent.stdout is not None
        parent.stdout.close()
    for process in (child, *others):
        wait_until_gone(process)


def wait_until_gone(process: psutil.Process) -> None:
    """A process that is no child of ours, or is one that nobody has waited for."""
    end = time.monotonic() + 600
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end, f"process {process.pid} still runs a minute after it was to end"
        time.sleep(0.05)


def test_evidently_draws_and_a_killed_drawer_draws_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real one: killed while it draws, it is replaced, and the report is written."""
    pytest.importorskip("evidently")
    queue = ReportQueue()
    monkeypatch.setattr(drift, "report_queue", lambda: queue)
    folder = tmp_path / "reports"
    write(folder, asked(HOSTILE))
    while queue.process_id is None:
        time.sleep(0.01)
    os.kill(queue.process_id, signal.SIGKILL)
    queue.settle()
    (report,) = list_reports(folder)
    html = (folder / report.file).read_text()
    assert "Value Drift for column x" in html
    assert (folder / report.file).stat().st_mode & 0o777 == 0o600
    assert r"fake: w2, against w1 (run [/x][bold red]" in html
    assert is_there(folder, report.file.split("-")[1].removesuffix(".html"))
    queue.close()
