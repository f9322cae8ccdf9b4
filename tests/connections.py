"""Writes down each connection to another machine that a Python process, or one that it starts, opens.

Ray's processes speak to each other on this machine's own address, which counts as loopback.
"""

from __future__ import annotations

import os
from pathlib import Path

import psutil

HOOK = """\
import os, sys

_log, _own = (os.environ.get(name, "") for name in ("TIDEGATE_TEST_CONNECTIONS", "TIDEGATE_TEST_OWN"))

def _watch(event, arguments, _log=_log, _own=_own):
    if not _log or event not in ("socket.connect", "socket.getaddrinfo"):
        return
    target = arguments[1] if event == "socket.connect" else arguments[0]
    host = target[0] if isinstance(target, tuple) else target
    host = host.decode() if isinstance(host, bytes) else host
    names = ("None", "localhost", "::1", "0.0.0.0", "", *_own.split(","))
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
    own = {address.address for card in psutil.net_if_addrs().values() for address in card}
    watched = {"TIDEGATE_TEST_CONNECTIONS": str(log), "TIDEGATE_TEST_OWN": ",".join(sorted(own))}
    path = os.pathsep.join(filter(None, (str(hooks), os.environ.get("PYTHONPATH"))))
    return {**os.environ, **watched, "PYTHONPATH": path}, log
