"""`tidegate …` in processes that are forked from one which has imported what commands import.

A command's imports take up to four seconds of a processor, and tests that read what commands say start
hundreds. Each is still a process of its own: with its own folder, environment, output, memory and end.
Tests of how a program starts, and of what it imports, start it anew.

The workers of one test run share that process: its imports take nine seconds of a processor.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import gc
import importlib
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.connections import HOOK

__all__ = ["run_forked"]

_LIBRARIES = (
    "clients.app",
    "clients.cli.block_table",
    "clients.line.agent",
    "clients.line.enrolment",
    "clients.mechanisms.evaluation",
    "clients.mechanisms.training",
    "cryptography.hazmat.backends.openssl.backend",
    "experiments.cli.confirmation",
    "experiments.cli.main",
    "experiments.federated_run",
    "experiments.runtimes.inline",
    "flwr.supercore.control.control_http_client",
    "httpcore",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.tracking",
    "pandas",
    "pyarrow",
    "scientist.connected",
    "server.app",
    "server.cli.acts",
    "server.cli.here",
    "server.enrolment",
    "server.federation",
    "server.window_runs",
    "sqlalchemy.dialects.sqlite",
    "terminal.output",
    "terminal.run_results",
    "terminal.site_tables",
)
_LONGEST_ORDER = 2**20
_LOG = "TIDEGATE_TEST_CONNECTIONS"
_lock = threading.Lock()
_started: list[subprocess.Popen[bytes]] = []
_codes: list[Any] = []
"""What this command ends with."""


def run_forked(
    place: Path,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    timeout: float = 900,
    before: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `tidegate` with the arguments in the folder, and wait for its end.

    `before`, a function of a module, runs ahead of it in its process.

    Raises:
        subprocess.TimeoutExpired: it took longer, and was killed.
    """
    order: dict[str, Any] = {"place": str(place), "arguments": list(arguments)}
    order["environment"] = dict(environment)
    order["before"] = before and (before.__module__, before.__name__)
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        answer, theirs = os.pipe()
        files = [stdout.fileno(), stderr.fileno(), theirs]
        with _lock:
            socket.send_fds(_parent(), [json.dumps(order).encode()], files)
        os.close(theirs)
        code = _wait(answer, timeout, arguments)
        stdout.seek(0)
        stderr.seek(0)
        return subprocess.CompletedProcess(["tidegate", *arguments], code, stdout.read(), stderr.read())


def _wait(answer: int, timeout: float, arguments: Sequence[str]) -> int:
    """The exit code, which follows the process's number once it has ended."""
    told, end = b"", time.monotonic() + timeout
    with os.fdopen(answer, "rb", buffering=0) as line:
        while select.select([line], [], [], max(0.0, end - time.monotonic()))[0]:
            if not (more := line.read(100)):
                _, code = told.split()
                return int(code)
            told += more
    os.kill(int(told), signal.SIGKILL)
    raise subprocess.TimeoutExpired(["tidegate", *arguments], timeout)


@functools.cache
def _parent() -> socket.socket:
    """A line to the parent of this test run's commands.

    The first that needs it starts it; it ends with the last line to it.
    """
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", f"alone-{os.getpid()}")
    place = Path(tempfile.gettempdir()) / f"tidegate-forks-{os.getuid()}-{run}"
    line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with Path(f"{place}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            line.connect(str(place))
        except (FileNotFoundError, ConnectionRefusedError):
            place.unlink(missing_ok=True)
            _start_parent(place)
            line.connect(str(place))
    return line


def _start_parent(place: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(place))
        listener.listen()
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.forked", str(listener.fileno()), str(place)],
            cwd=Path(__file__).resolve().parents[1],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
    _started.append(process)  # it lasts as long as this process, which says so of what it forgets


def main() -> None:
    """Import, then be the parent of commands; in each forked process, be its command."""
    listener, place = socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2])
    atexit.register(_end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    importlib.import_module("contract.collector").collect_rarely()
    for name in _LIBRARIES:
        importlib.import_module(name)
    _read_signatures()
    gc.freeze()
    order, (stdout, stderr) = _forked(listener, place)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for ours, standard in ((stdout, 1), (stderr, 2)):
        os.dup2(ours, standard)
        os.close(ours)
    _become(order)


def _read_signatures() -> None:
    """What typer makes of the functions of 72 commands, once: it takes half of what a small command does."""
    typer_main: Any = importlib.import_module("typer.main")
    app, usual = importlib.import_module("experiments.cli.main").app, typer_main.get_command
    made = usual(app)
    typer_main.get_command = lambda asked: made if asked is app else usual(asked)


def _forked(listener: socket.socket, place: Path) -> tuple[dict[str, Any], list[int]]:
    """Fork for each order that comes; return in the forked process alone, with the order and its files."""
    lines: set[socket.socket] = set()
    answers: dict[int, int] = {}  # where the end of each process is told
    ended, wakes = socket.socketpair()
    wakes.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    with selectors.DefaultSelector() as selector:
        for one in (listener, ended):
            selector.register(one, selectors.EVENT_READ)
        while True:
            for found, _ in selector.select():
                asked = found.fileobj
                assert isinstance(asked, socket.socket)
                if asked is listener:
                    line, _ = listener.accept()
                    lines.add(line)
                    selector.register(line, selectors.EVENT_READ)
                elif asked is ended:
                    ended.recv(4096)
                    _tell_ends(answers)
                else:
                    order, files, _, _ = socket.recv_fds(asked, _LONGEST_ORDER, 3)
                    if not order:
                        selector.unregister(asked)
                        lines.remove(asked)
                        asked.close()
                        if not lines:
                            _end_parent(place)
                        continue
                    answer = files.pop()
                    if not (process := os.fork()):
                        _leave_to_the_parent([listener, ended, wakes, *lines], [answer, *answers.values()])
                        return json.loads(order), files
                    for file in files:
                        os.close(file)
                    answers[process] = answer
                    with contextlib.suppress(BrokenPipeError):  # nobody waits any more
                        os.write(answer, f"{process}\n".encode())


def _leave_to_the_parent(sockets: Sequence[socket.socket], answers: Sequence[int]) -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for one in sockets:
        one.close()
    for answer in answers:
        os.close(answer)


def _tell_ends(answers: dict[int, int]) -> None:
    """How each process ended that did, to who waits for it."""
    for process, status in iter(_reaped, (0, 0)):
        answer = answers.pop(process)
        with contextlib.suppress(BrokenPipeError):  # nobody waits any more
            os.write(answer, f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os.close(answer)


def _reaped() -> tuple[int, int]:
    """A process that has ended, and its status; zeros if there is none."""
    try:
        return os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return 0, 0


def _end_parent(place: Path) -> None:
    with contextlib.suppress(ChildProcessError):  # there is none
        while True:
            os.waitpid(-1, 0)
    place.unlink(missing_ok=True)
    Path(f"{place}.lock").unlink(missing_ok=True)
    os._exit(0)


def _become(order: dict[str, Any]) -> None:
    program = importlib.import_module("experiments.cli.main")
    before = order["before"] and getattr(importlib.import_module(order["before"][0]), order["before"][1])
    os.chdir(order["place"])
    log = os.environ.get(_LOG)
    os.environ.clear()
    os.environ.update(order["environment"])
    if os.environ.get(_LOG) != log:  # another worker's, who answers for what this command connects to
        exec(HOOK, {})  # noqa: S102
    sys.path[0] = order["place"]
    sys.argv = [str(program.__file__), *order["arguments"]]
    if before:
        before()
    try:
        program.main()
    except SystemExit as exc:
        _codes.append(exc.code)
        raise
    except BaseException:
        _codes.append(1)
        raise


def _end() -> None:
    """Last of all: to take apart what a command shares with its parent costs a third of a second."""
    code = _codes[-1] if _codes else 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else code is not None)


if __name__ == "__main__":
    main()
