"""The same state on a real PostgreSQL (`tests/postgres.py`)."""

import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from contract.errors import StorageError
from contract.experiment import Experiment
from server.state.participation import SiteStatus, Step
from server.state.records import RoundRecord
from server.state.storage import State, open_state
from server.state.tables import metadata
from tests.server.state.revisions import FIRST_REVISION_SITE, migrate


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


def test_how_far_a_site_came_is_remembered(shared: State, experiment: Experiment) -> None:
    """Stated rows pass 32 bits, which an INTEGER of PostgreSQL has."""
    shared.start_run("r", experiment=experiment, job="train", trigger="t", code_hash="c")
    step = Step(run="r", kind="train", number=1)
    trained = SiteStatus(state="trained", node=2**64 - 1, stated_rows=10**12)
    shared.record_participation(step, {"plan-a": SiteStatus(state="connected", node=2**64 - 1)})
    shared.record_participation(step, {"plan-a": trained})
    shared.save_round("r", RoundRecord(round=1, cohort=("plan-a",), counted=("plan-a",)), checkpoint=b"")
    (found,) = shared.participation("r")
    assert (found.state, found.node_id, found.stated_rows) == ("counted", 2**64 - 1, 10**12)
    assert found.since.utcoffset() is not None
    assert shared.sites()[0].stated_rows == 10**12
    shared.admit_site("plan-a", federation="standing", node_id=2**64 - 1, key="k")
    assert shared.admitted_sites("standing")[0].node_id == 2**64 - 1
    with pytest.raises(StorageError, match="the run is unknown"):
        shared.record_participation(replace(step, run="q"), {"plan-a": trained})


def test_a_database_of_the_first_revision_is_brought_up_to_date(postgres: str, shared: State) -> None:
    with shared.database.write() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
        migrate(connection, "0001")
        connection.execute(text(FIRST_REVISION_SITE))
    with open_state(postgres) as opened:
        assert [(site.name, site.stated_rows) for site in opened.sites()] == [("plan-a", 7)]
        with opened.database.read() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, metadata) == []


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
