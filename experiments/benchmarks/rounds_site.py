"""Sites for `tidegate bench rounds`: Tidegate's agent loop and connection, with an answer that does nothing.

    python -m experiments.benchmarks.rounds_site SUPERLINK AUTHORITY CALLS KEY…

One thread a key. Each request that they make is written to CALLS, a line each.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

from clients.code import installed_code
from clients.line.agent import KEPT, serve, stopped_by_signals
from clients.line.flower import FleetConnection, connect, wait_for_server
from clients.line.packing import Bundle, PackedReply, Work, pack
from contract.allocator import reuse_large_blocks
from experiments.benchmarks.http_calls import record_calls
from experiments.benchmarks.rounds_app.bench_rounds.client_app import app

__all__ = ["main"]


class _Line:
    """A connection on which the bundle is taken for the installed code: here it is the benchmark's."""

    def __init__(self, connection: FleetConnection) -> None:
        self.node_id = connection.node_id
        self.receive = connection.receive
        self.send = connection.send
        self.release = connection.release

    def bundle(self, _run: int) -> Bundle:
        return _INSTALLED


def main(superlink: str, authority: str, calls_file: str, *keys: str) -> None:
    """Answer until the process is told to stop."""
    reuse_large_blocks(KEPT)
    standing: list[Any] = []
    stop = stopped_by_signals(standing)
    wait_for_server(superlink, 30.0)
    threads = [
        threading.Thread(target=_site, args=(superlink, Path(authority), Path(key), stop, standing))
        for key in keys
    ]
    with Path(calls_file).open(
        "w", encoding="utf-8", buffering=1
    ) as file:  # a line at a time: read as we run
        record_calls(lambda call: print(json.dumps(call), file=file))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _site(superlink: str, authority: Path, key: Path, stop: threading.Event, standing: list[Any]) -> None:
    certificate = key.with_name("site.pem")
    with connect(
        superlink,
        root_certificates=authority,
        private_key=key,
        node_config={},
        certificate=certificate if certificate.exists() else None,
    ) as connection:
        line: Any = _Line(connection)
        standing.append(line)
        serve(line, _answer, stop)


def _answer(work: Work) -> PackedReply:
    return pack(app(work.message, work.context), to=work.message)


_INSTALLED = Bundle(files=installed_code(), sha256="")

if __name__ == "__main__":
    main(*sys.argv[1:])
