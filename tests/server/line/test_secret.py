"""Flower's processes under our start: what they import, what they leave, and how a ServerApp is forked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

import server.line.secret

_PROGRAM = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("secret", sys.argv[1])
secret = importlib.util.module_from_spec(spec)
spec.loader.exec_module(secret)
package, command, others = sys.argv[2], sys.argv[3], sys.argv[4:]
secret._skip_package(package)
module = importlib.import_module(f"{package}.{command}")
assert callable(getattr(module, command))
print([name for name in others if name in sys.modules])
"""


@pytest.mark.parametrize(
    "names",
    [
        ("flwr.supercore.cli", "flower_superexec", "flwr.supercore.cli.flwr_agentapp", "alembic", "torch"),
        ("flwr.superlink.cli", "flwr_serverapp", "flwr.superlink.cli.flower_superlink", "torch"),
    ],
)
def test_flowers_processes_import_none_of_its_other_commands(names: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", _PROGRAM, str(Path(server.line.secret.__file__)), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


_FORKING = """
import importlib.util, json, os, pathlib, signal, sys, threading, time
spec = importlib.util.spec_from_file_location("secret", sys.argv[1])
secret = importlib.util.module_from_spec(spec)
spec.loader.exec_module(secret)
folder = pathlib.Path(sys.argv[2])
imported = []
secret._import_serverapp = lambda: imported.append(os.getpid())
line = secret._prepared()
if line is None:  # a ServerApp
    secret._name_process("serverapp")
    said = {"argv": sys.argv[1:], "imported": imported, "threads": threading.active_count()}
    said["chance"] = __import__("random").random()
    said["stops"] = [signal.getsignal(kind) is usual for kind, usual in (
        (signal.SIGINT, signal.default_int_handler), (signal.SIGCHLD, signal.SIG_DFL))]
    unfinished = folder / f"{os.getpid()}.part"
    unfinished.write_text(json.dumps(said))
    unfinished.rename(folder / f"{os.getpid()}.json")
    time.sleep(600)
for asked in sys.stdin:
    line.send(asked.encode())
    print("asked", flush=True)
"""
_LONG = 300.0


@contextmanager
def forking(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has ServerApps forked, one for each line that it is given; all of them end with it."""
    command = [sys.executable, "-c", _FORKING, str(Path(server.line.secret.__file__)), str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        family = []
        try:
            yield process
        finally:
            family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.kill()
            for one in family:
                one.kill()


def ask(process: subprocess.Popen[str], options: list[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(options) + "\n")
    process.stdin.flush()
    assert process.stdout.readline() == "asked\n"


def answers(folder: Path, count: int) -> dict[int, dict[str, Any]]:
    """What so many ServerApps said of themselves, by their process."""
    end = time.monotonic() + _LONG
    while len(found := list(folder.glob("*.json"))) < count:
        assert time.monotonic() < end, f"{len(found)} of {count} ServerApps ran within {_LONG:.0f} s"
        time.sleep(0.02)
    return {int(file.stem): json.loads(file.read_text()) for file in found}


def test_serverapps_are_forked_with_their_options_and_share_what_is_imported(tmp_path: Path) -> None:
    with forking(tmp_path) as process:
        for token in ("one", "two"):
            ask(process, ["--token", token])
        said = answers(tmp_path, 2)
        (prepared,) = psutil.Process(process.pid).children()
        assert prepared.name() == "prepared"
        assert {app.pid for app in prepared.children()} == set(said)
        assert {app.name() for app in prepared.children()} == {"serverapp"}
        assert not any("one" in app.cmdline() for app in prepared.children()), (
            "the process list tells a token"
        )
    assert sorted(one["argv"] for one in said.values()) == [["--token", "one"], ["--token", "two"]]
    for one in said.values():
        assert one["imported"] == [prepared.pid], "it was imported once, before"
        assert one["stops"] == [True, True], "it can be stopped as one that was started from scratch"
        assert one["threads"] == 1
    chances = {one["chance"] for one in said.values()}
    assert len(chances) == 2, "no two draw the same"


def test_the_prepared_process_ends_with_who_asks_it_and_its_serverapps_are_let_be(tmp_path: Path) -> None:
    with forking(tmp_path) as process:
        ask(process, [])
        (app,) = answers(tmp_path, 1)
        (prepared,) = psutil.Process(process.pid).children()
        running = psutil.Process(app)
        try:
            os.kill(process.pid, signal.SIGKILL)
            prepared.wait(_LONG)
            assert running.is_running(), "Flower ends it, which has it report first"
        finally:
            running.kill()


def test_ctrl_c_for_all_does_not_end_the_prepared_process(tmp_path: Path) -> None:
    with forking(tmp_path) as process:
        ask(process, [])
        answers(tmp_path, 1)
        (prepared,) = psutil.Process(process.pid).children()
        prepared.send_signal(signal.SIGINT)
        ask(process, [])
        assert len(answers(tmp_path, 2)) == 2
