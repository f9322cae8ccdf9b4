"""The secret of a SuperLink, and Flower's processes that know it: `python -P secret.py superexec|serverapp`.

In Flower's open-source build whoever reaches the SuperLink's port may submit a run, which is any Python as
the operator, or take a run's task and command every site through it. So ours asks whoever is no site for a
secret (`server.line.superlink`). It stands in one file that the operator alone can read; each client of the
operator sends it as a header, over TLS.

Flower's SuperExec and ServerApp are processes of Flower's own, with clients of Flower's own. They are
started through this file, by its path and without a package round it: the ServerApp must import the code of
the run's bundle, and nothing of ours before. It also keeps a task's token out of the process list, where
Flower puts it.

A ServerApp is forked from a process that has Flower's libraries imported already, which is a second less
before the first round of a run. That process is itself forked from the SuperExec before this has a thread or
a connection, and shares its memory. Where it is gone, a ServerApp is started from scratch.
"""

from __future__ import annotations

import gc
import hmac
import importlib.util
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

__all__ = ["FILE_VARIABLE", "HEADER", "Sends", "holds", "make_secret", "read_secret", "superexec_command"]

FILE_VARIABLE = "TIDEGATE_SECRET_FILE"
"""Names the file to the SuperLink and to what it starts."""
HEADER = "tidegate-secret"
"""Of a request, with the secret."""
_BYTES = 32
_LONGEST = 2**16
"""Bytes of a ServerApp's options."""


def make_secret(file: Path) -> str:
    """The secret in this file; made on first use, for this user's eyes alone."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return read_secret(file)
    secret = secrets.token_hex(_BYTES)
    with os.fdopen(descriptor, "w", encoding="ascii") as opened:
        opened.write(secret)
    return secret


def read_secret(file: Path) -> str:
    """The secret in this file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is none, or a part of one.
    """
    secret = file.read_text(encoding="ascii").strip()
    if len(secret) != 2 * _BYTES:
        raise ValueError(f"{file} holds no secret: delete it, and the next start makes one")
    return secret


def holds(headers: Mapping[str, str], secret: str) -> bool:
    """Whether who asks knows the secret."""
    return hmac.compare_digest(headers.get(HEADER, "").encode("latin-1"), secret.encode("ascii"))


class Sends:
    """An interceptor of Flower's HTTP clients that sends the secret.

    Args:
        secret: as `make_secret` gives it.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def intercept(self, context: Any, call_next: Any) -> Any:
        """Send a request with the secret."""
        context.request.headers[HEADER] = self._secret
        return call_next(context)


def superexec_command() -> list[str]:
    """What stands in the place of `flower-superexec`."""
    return _command("superexec")


def _command(process: str) -> list[str]:
    return [sys.executable, "-P", str(Path(__file__).resolve()), process]


def _send_secret() -> None:
    """Have every client of the Runtime API in this process send it."""
    from flwr.supercore.runtime import RuntimeHttpClient

    sends = Sends(read_secret(Path(os.environ[FILE_VARIABLE])))
    kind: Any = RuntimeHttpClient
    usual = kind.__init__

    def make(self: Any, base_url: str, *, interceptors: Any = (), **options: Any) -> None:
        usual(self, base_url, interceptors=(*interceptors, sends), **options)

    kind.__init__ = make


def _launch(prepared: socket.socket, task: Any) -> Any:
    """Start a ServerApp as Flower's own executor does, but hand it the task's token unseen."""
    from flwr.supercore.constant import TaskType
    from flwr.supercore.superexec.executor import LaunchResult

    if task.task_type != TaskType.SERVER_APP:
        return LaunchResult.failed(f"no {task.task_type} runs here")
    options = ["--runtime-api-address", task.runtime_api_address]
    options += ["--root-certificates", task.root_certificates_path]
    options += ["--parent-pid", str(task.parent_pid)]
    try:
        prepared.send(json.dumps([*options, "--token", task.token]).encode())
    except OSError:  # somebody has ended it
        process = subprocess.Popen([*_command("serverapp"), *options], stdin=subprocess.PIPE)
        with cast("IO[bytes]", process.stdin) as line:
            line.write(f"{task.token}\n".encode("ascii"))
    return LaunchResult.accepted()


def _prepared() -> socket.socket | None:
    """Fork the process from which ServerApps are forked.

    Returns, in the process that calls it, the line to that one; and None in each ServerApp, with its options
    as the command line's.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork():
        theirs.close()
        return ours
    ours.close()
    _name_process("prepared")
    _import_serverapp()
    gc.freeze()  # what all ServerApps share is not looked at, and so not copied, in any of them
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends when nobody is there to ask it for a ServerApp
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a ServerApp
    while options := theirs.recv(_LONGEST):
        if not os.fork():
            theirs.close()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            sys.argv[1:] = json.loads(options)
            return None
    os._exit(0)


def _name_process(name: str) -> None:
    """What `ps -o comm` and `top` call this process, on Linux; its command line is the SuperExec's."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name, encoding="ascii")


def _skip_package(name: str) -> None:
    """Import a package's modules without what its own `__init__` imports: here Flower's other commands.

    They are 40 MB in the SuperExec, and .2 s before the first round of a run in the ServerApp.
    """
    if name in sys.modules:
        return
    spec: Any = importlib.util.find_spec(name)
    sys.modules[name] = importlib.util.module_from_spec(spec)


def _import_serverapp() -> Callable[[], None]:
    _skip_package("flwr.superlink.cli")
    from flwr.superlink.cli.flwr_serverapp import flwr_serverapp

    return flwr_serverapp


def main() -> None:
    """Be the process that the first word on the command line names, with the rest as Flower's options."""
    process = sys.argv.pop(1)
    _send_secret()
    if process == "superexec":
        _skip_package("flwr.supercore.cli")
        from flwr.supercore.cli.flower_superexec import flower_superexec
        from flwr.supercore.superexec.executor import SubprocessExecutor

        prepared = _prepared()
        if prepared is not None:
            executor: Any = SubprocessExecutor
            executor.launch = lambda _executor, task: _launch(prepared, task)
            flower_superexec()
            return
    else:
        sys.argv += ["--token", sys.stdin.readline().strip()]  # the process list has what it was started with
    _name_process("serverapp")
    _import_serverapp()()


if __name__ == "__main__":
    main()
