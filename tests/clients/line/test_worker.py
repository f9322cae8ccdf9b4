"""The worker may die, run out of memory or never end: the agent sees a task that failed, and goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clients.line.spool import Spool, read_reply, read_work
from clients.line.worker import Limits, TaskFailedError, Worker
from tests.works import make_work

PROGRAM = """\
import json, os, signal, sys, time
from pathlib import Path
from flwr.app import Message, RecordDict
from clients.line.worker import Limits, answer_tasks
from server.line.flower import assume_identity

assume_identity(5)
folder = Path(sys.argv[2])

def answer(message, context):
    kind = message.metadata.message_type
    with (folder / "tried").open("a") as file:
        file.write(f"{kind} {os.getpid()}\\n")
    if kind == "query.dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "query.dies_once" and (folder / "tried").read_text().count(kind) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "query.grows":
        bytearray(3 * 2**30)
    if kind == "query.sleeps":
        time.sleep(float(os.environ.get("SLEEP", "60")))
    if kind == "query.dies_late":
        time.sleep(3)
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "query.raises":
        raise ValueError("age = 7300131072")
    return Message(RecordDict(), reply_to=message)

answer_tasks(int(sys.argv[1]), answer, Limits(**json.loads(sys.argv[3])), lock=folder / "worker.lock")
"""


class Site:
    """A spool and a worker on a folder of their own."""

    def __init__(self, folder: Path, *, seconds: float = 60.0, memory_mb: int | None = None) -> None:
        self.folder, self.spool = folder, Spool(folder / "spool")
        limits = Limits(memory_mb=memory_mb, seconds=seconds)

        def command(descriptor: int) -> list[str]:
            return [sys.executable, "-c", PROGRAM, str(descriptor), str(folder), json.dumps(vars(limits))]

        self.worker = Worker(command, limits)

    def ask(self, kind: str) -> Path:
        work = make_work(kind)
        self.spool.keep(work)
        self.worker.do(self.spool.path(work), lambda: False)
        return self.spool.path(work)

    @property
    def tried(self) -> list[str]:
        """The process of each try."""
        return [line.split()[1] for line in (self.folder / "tried").read_text().splitlines()]


def test_one_worker_does_task_after_task(tmp_path: Path) -> None:
    site = Site(tmp_path)
    for _ in range(3):
        path = site.ask("query.fine")
        assert read_reply(path).run == read_work(path).run == 5
    site.worker.stop()
    assert len(set(site.tried)) == 1


def test_a_task_whose_worker_was_killed_is_tried_once_more(tmp_path: Path) -> None:
    site = Site(tmp_path)
    assert read_reply(site.ask("query.dies_once")).run == 5
    site.worker.stop()
    assert len(set(site.tried)) == 2


def test_a_task_that_ends_every_worker_fails_and_the_next_is_done(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with pytest.raises(TaskFailedError, match="ended every worker"):
        site.ask("query.dies")
    assert len(site.tried) == 2
    assert read_reply(site.ask("query.fine")).run == 5
    site.worker.stop()


def test_a_task_above_the_memory_limit_fails_alone(tmp_path: Path) -> None:
    site = Site(tmp_path, memory_mb=1500)
    with pytest.raises(TaskFailedError, match=r"agent\.memory_mb"):
        site.ask("query.grows")
    assert read_reply(site.ask("query.fine")).run == 5
    site.worker.stop()
    assert len(set(site.tried)) == 1


def test_what_an_answer_raises_is_said(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with pytest.raises(TaskFailedError, match="ValueError"):
        site.ask("query.raises")
    site.worker.stop()


def test_a_task_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    site = Site(tmp_path, seconds=4.0)
    with pytest.raises(TaskFailedError, match="took more than 4 s"):
        site.ask("query.sleeps")
    site.worker.stop()


def test_a_second_try_has_what_the_first_left_of_the_time(tmp_path: Path) -> None:
    """Else a worker that dies late would show in the reply's time, past what `task_seconds` says."""
    site = Site(tmp_path, seconds=4.0)
    site.worker.start()
    began = time.monotonic()
    with pytest.raises(TaskFailedError, match="took more than 4 s"):
        site.ask("query.dies_late")
    assert time.monotonic() - began < 6
    assert len(site.tried) <= 2
    site.worker.stop()


def test_a_task_that_is_given_up_can_be_taken_up_later(tmp_path: Path) -> None:
    site, work = Site(tmp_path), make_work("query.sleeps")
    site.spool.keep(work)
    with pytest.raises(InterruptedError):
        site.worker.do(site.spool.path(work), (tmp_path / "tried").exists)
    assert site.spool.waiting() == [site.spool.path(work)]


AGENT = """\
import sys
from pathlib import Path
from tests.clients.line.test_worker import Site
site = Site(Path(sys.argv[1]))
site.worker.do(Path(sys.argv[2]), lambda: False)
"""


def test_the_worker_of_an_agent_that_was_killed_ends_its_task_before_another_begins(tmp_path: Path) -> None:
    first = make_work("query.sleeps")
    spool = Spool(tmp_path / "spool")
    spool.keep(first)
    agent = subprocess.Popen(
        [sys.executable, "-c", AGENT, str(tmp_path), str(spool.path(first))], env={**os.environ, "SLEEP": "3"}
    )
    end = time.monotonic() + 600
    while not (tmp_path / "tried").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    agent.send_signal(signal.SIGKILL)
    agent.wait()
    site, second = Site(tmp_path), make_work("query.fine")
    site.spool.keep(second)
    site.worker.do(site.spool.path(second), lambda: False)
    site.worker.stop()
    assert read_reply(site.spool.path(first)).run == 5  # the orphan had ended it by then
    assert len(set(site.tried)) == 2
