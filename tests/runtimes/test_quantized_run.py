"""A private run whose updates travel in eight bits, through the real ClientApp, gate, ledger and server."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

from contract.experiment import Experiment
from contract.messages import Reply
from experiments.federated_run import Request, run_experiment
from experiments.runtimes.inline import InlineGrid
from server.registry.registry import Registry
from server.settings import ServerSettings


def test_a_private_run_whose_updates_have_eight_bits(
    small: Callable[..., Experiment],
    sites: Callable[[str], list[Path]],
    settings: Callable[[str], ServerSettings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Reply] = []
    push = InlineGrid.push_messages

    def listening(grid: InlineGrid, messages: Iterable[Message]) -> list[str]:
        ids = push(grid, messages)
        seen.extend(Reply.from_records(grid._replies[name].content) for name in ids)
        return ids

    monkeypatch.setattr(InlineGrid, "push_messages", listening)
    experiment = small(rounds=2, private=True)
    strategy = experiment.strategy.model_copy(update={"update_bits": 8})
    here = settings("home")
    result = run_experiment(
        Request(
            experiment=experiment.model_copy(update={"strategy": strategy}),
            run="eight",
            sites=sites("eight-sites"),
            settings=here,
            runtime="inline",
        )
    )
    assert result["status"] == "succeeded", result
    updates = [reply.update for reply in seen if reply.update is not None]
    assert len(updates) == 2 * 3
    assert all(value.dtype == np.int8 for update in updates for value in update.arrays.values())
    registry = Registry(here.tracking_uri, here.artifact_root)
    assert any(np.any(value) for value in registry.load_arrays("small", result["version"]).values())
    (passport,) = here.home.rglob("passport.md")
    assert "updates of 8 bits a parameter" in passport.read_text()
