"""A SuperLink that keeps its state in a file does less there, and still finds a task that has died."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.server.superlink.linkstate import sql_linkstate
from sqlalchemy import event

from server.line import flower


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Flower's state as our SuperLink has it: of a class of this test's own."""
    kind: Any = type("SqlLinkState", (sql_linkstate.SqlLinkState,), {})
    monkeypatch.setattr(sql_linkstate, "SqlLinkState", kind)
    flower.spare_database()
    managed: Any = SimpleNamespace()
    made = kind(str(tmp_path / "superlink.db"), managed, managed)
    made.initialize()
    yield made
    made._engine.dispose()


def written(state: Any) -> list[str]:
    """The statements that change something, from now on."""
    found: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith(("UPDATE", "INSERT", "DELETE")):
            found.append(statement)

    event.listen(state._engine, "before_cursor_execute", note)
    return found


def test_a_look_at_a_run_writes_nothing_but_now_and_then(state: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower, "_DEAD_TASKS_EVERY", 3600.0)
    state.get_run_status({1})
    found = written(state)
    for _ in range(20):
        state.get_run_status({1})
    state.store_traffic(1, bytes_sent=1, bytes_recv=1)
    state.add_clientapp_runtime(1, 1.0)
    assert found == []


def test_dead_tasks_are_still_looked_for(state: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower, "_DEAD_TASKS_EVERY", 0.05)
    found, end = written(state), time.monotonic() + 60
    state.get_run_status({1})
    first = len(found)
    assert first, "the first look is one"
    while len(found) == first:
        assert time.monotonic() < end, "no look for dead tasks within 60 s"
        state.get_run_status({1})
