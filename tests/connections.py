"""Writes down each connection beyond loopback that a Python process, or one that it starts, opens."""

from __future__ import annotations

import os
from pathlib import Path

HOOK = """\
import os, sys

def _watch(event, arguments, _log=os.environ.get("TIDEGATE_TEST_CONNECTIONS")):
    if _log is None or event not in ("socket.connect", "socket.getaddrinfo"):
        return
    target = arguments[1] if event == "socket.connect" else arguments[0]
    host = target[0] if isinstance(target, tuple) else target
    host = host.decode() if isinstance(host, bytes) else host
    names = ("None", "localhost", "::1", "0.0.0.0", "")
    local = str(host).startswith(("127.", "/", "\\0")) or str(host) in names
    if not local:
        with open(_log, "a") as file:
            file.write(f"{event} {host} {sys.argv}\\n")

sys.addaudithook(_watch)
"""


def watched_environment(folder: Path) -> tuple[dict[str, str], Path]:
    """An environment in which every Python process is watched, and the file that it writes to."""
    hooks = folder / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(HOOK)
    log = folder / "connections.log"
    return {**os.environ, "PYTHONPATH": str(hooks), "TIDEGATE_TEST_CONNECTIONS": str(log)}, log
