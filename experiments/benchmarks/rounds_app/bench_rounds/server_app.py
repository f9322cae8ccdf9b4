"""Rounds that only send and collect: by Tidegate's exchange, or by Flower's own."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from contract.messages import Instruction, Reply
from contract.quantization import parameters
from experiments.benchmarks.http_calls import Call, record_calls
from experiments.benchmarks.rounds_app.bench_rounds.client_app import MODEL, random_update
from server.exchange.answers import Patience, connected_sites, exchange, instruct
from server.line.flower import quicken_grid

__all__ = ["app"]

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run as many rounds as asked, and write when each began and ended."""
    config = {key: str(value) for key, value in context.run_config.items()}
    calls: list[Call] = []
    record_calls(calls.append)
    one_round = _stock
    if config["engine"] == "ours":
        quicken_grid()
        one_round = functools.partial(_ours, model=random_update(int(config["megabytes"]), MODEL).arrays)
    sites = int(config["sites"])
    nodes = connected_sites(grid, Patience(quorum=sites, deadline=60.0, grace=1.0))[:sites]
    times = []
    for number in range(1, int(config["rounds"]) + 1):
        began = time.monotonic()
        messages = instruct(nodes, f"query.{config['kind']}", Instruction(run="bench", step=number), None)
        counted = one_round(grid, messages)
        times.append((began, time.monotonic(), counted))
        time.sleep(0.02)
    result = {"rounds": times, "calls": calls}
    Path(config["result"]).write_text(json.dumps(result), encoding="utf-8")


def _ours(grid: Grid, messages: list[Message], model: Mapping[str, Any]) -> int:
    """Until the models of the sites are there as they were before they were quantized."""

    def restore(reply: Reply) -> None:
        if reply.update is not None:
            parameters(reply.update, model)

    patience = Patience(quorum=len(messages), deadline=120.0, grace=1.0)
    return len(exchange(grid, messages, names={}, patience=patience, check=restore).replies)


def _stock(grid: Grid, messages: Iterable[Message]) -> int:
    replies = grid.send_and_receive(messages, timeout=180.0)
    return len({Reply.from_records(reply.content).site for reply in replies if reply.has_content()})
