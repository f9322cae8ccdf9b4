"""The same state on a real PostgreSQL (`tests/postgres.py`)."""

import socket
from collections.abc import Iterator

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from contract.errors import StorageError
from contract.experiment import Experiment
from server.records import RoundRecord
from server.storage import State, open_state
from server.tables import metadata


@pytest.fixture
def shared(postgres: str) -> Iterator[State]:
    with open_state(postgres) as state:
        yield state
        with state.database.write() as connection:
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))


def test_a_run_is_remembered(shared: State, experiment: Experiment) -> None:
    shared.record_site("plan-a", node_id=2**64 - 1, stated_rows=7)
    shared.start_run("r", experiment=experiment, job="train", trigger="t", code_hash="c")
    record = RoundRecord(round=1, cohort=("plan-a",), counted=("plan-a",), metrics={"auc": float("nan")})
    shared.save_round("r", record, checkpoint=b"\x00state")
    assert shared.load_checkpoint("r") == (1, b"\x00state")
    assert shared.rounds("r")[0].metrics == {"auc": None}
    assert shared.sites()[0].node_id == 2**64 - 1
    started = shared.runs()[0].started
    assert started.utcoffset() is not None
    with pytest.raises(StorageError, match="round 1"):
        shared.save_round("r", record, checkpoint=b"other")
    assert shared.load_checkpoint("r") == (1, b"\x00state")


def test_a_claim_is_given_once(shared: State, postgres: str) -> None:
    with open_state(postgres) as second:
        assert [shared.claim("drift", "w1", "a"), second.claim("drift", "w1", "b")] == [True, False]


@pytest.mark.parametrize(
    "change", ["UPDATE decisions SET reason = 'x'", "DELETE FROM decisions", "TRUNCATE decisions"]
)
def test_decisions_refuse_change(shared: State, change: str) -> None:
    shared.record_decision("e", window="w", kind="promote", subject="2", by="A. Reviewer", reason="better")
    with pytest.raises(DBAPIError, match="append-only"), shared.database.engine.begin() as connection:
        connection.execute(text(change))
    assert len(shared.decisions()) == 1


def test_migrations_give_the_tables_of_the_program(shared: State) -> None:
    with shared.database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_an_unreachable_server_is_named_without_its_password() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(StorageError) as raised:
            open_state(f"postgresql://me:secret@127.0.0.1:{port}/state")
    assert f"127.0.0.1:{port}" in raised.value.where
    assert "secret" not in str(raised.value)
    assert "TIDEGATE_STATE_URL" in raised.value.remedy
