"""The same state on a real PostgreSQL (`tests/postgres.py`)."""

import socket
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text
from sqlalchemy.exc import DBAPIError

from contract.errors import InputError, StorageError
from contract.experiment import Experiment
from server.state import database
from server.state.participation import SiteStatus, Step
from server.state.records import RoundRecord
from server.state.storage import State, open_known_state, open_state
from server.state.tables import metadata
from tests.postgres import ROLE_WITH_PASSWORD
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


def test_who_looks_for_a_server_makes_none(postgres: str, shared: State) -> None:
    shared.close()
    with shared.database.engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    with pytest.raises(InputError, match="there is no server here"):
        open_known_state(postgres)
    with shared.database.read() as connection:
        assert inspect(connection).get_table_names() == []


def test_writers_take_turns_as_on_sqlite(shared: State, postgres: str) -> None:
    """Each adds one to what it read; of two at the same moment, one would be lost."""

    def add(_number: int) -> None:
        with open_state(postgres) as state:
            for _ in range(10):
                with state.database.write() as connection:
                    known = connection.execute(text("SELECT stated_rows FROM sites")).scalar_one()
                    connection.execute(text("UPDATE sites SET stated_rows = :n"), {"n": known + 1})

    shared.record_site("plan-a", node_id=1, stated_rows=0)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(4)))
    assert shared.sites()[0].stated_rows == 40


def test_a_site_that_answers_twice_at_once_is_one(shared: State, postgres: str) -> None:
    def answer(rows: int) -> None:
        with open_state(postgres) as state:
            state.record_site("plan-a", node_id=1, stated_rows=rows)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(answer, range(1, 9)))
    assert len(shared.sites()) == 1


def test_who_reads_sees_one_moment(shared: State, postgres: str) -> None:
    shared.record_site("plan-a", node_id=1, stated_rows=1)
    with shared.database.read() as connection, open_state(postgres) as other:
        before = connection.execute(text("SELECT stated_rows FROM sites")).scalar_one()
        other.record_site("plan-a", node_id=1, stated_rows=2)
        assert connection.execute(text("SELECT stated_rows FROM sites")).scalar_one() == before == 1
    assert shared.sites()[0].stated_rows == 2


def test_a_writer_that_never_ends_is_said(
    shared: State, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 1.0)
    held = pytest.raises(StorageError, match="another process has held the state database")
    with open_state(postgres) as other, other.database.write(), held as raised:
        shared.record_site("plan-a", node_id=1, stated_rows=1)
    assert "Stop it" in raised.value.remedy


PASSWORD = "s3cret-of-the-state"  # noqa: S105 - of a role that the test makes


@pytest.fixture
def role(postgres: str, shared: State) -> str:
    """host:port/database of a server that asks `ROLE_WITH_PASSWORD` for a password."""
    with shared.database.write() as connection:
        connection.execute(text(f"DROP ROLE IF EXISTS {ROLE_WITH_PASSWORD}"))
        connection.execute(text(f"CREATE ROLE {ROLE_WITH_PASSWORD} LOGIN PASSWORD '{PASSWORD}'"))
    return postgres.partition("@")[2]


def test_a_wrong_password_is_said_and_shown_nowhere(role: str) -> None:
    with pytest.raises(StorageError, match="password authentication failed") as raised:
        open_state(f"postgresql+psycopg2://{ROLE_WITH_PASSWORD}:wr0ng-{PASSWORD}@{role}")
    assert PASSWORD not in told(raised.value)
    assert "PGPASSWORD" in raised.value.remedy


def test_the_password_may_be_in_the_environment(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    with pytest.raises(StorageError, match="schema"):  # it came in, and may not write
        open_state(f"postgresql://{ROLE_WITH_PASSWORD}@{role}")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3cr@et-word@127.0.0.1:1/db",
        "postgresql://me:x@et-word/y@127.0.0.1:1/db",
        "postgresql://me:et-word@127.0.0.1:port/db",
        "postgresql://127.0.0.1:1/db?user=me&password=et-word",
        "postgresql://me@127.0.0.1:1/db?sslpassword=et-word",
        "postgresql:me:et-word@127.0.0.1:1/db",
        "mysql://me:et-word@127.0.0.1:1/db",
        "postgresql+psycopg2://me:et%2Dword@127.0.0.1:1/db",
    ],
)
def test_no_error_shows_a_part_of_a_password(url: str) -> None:
    with pytest.raises(StorageError) as raised:
        open_state(url)
    assert "word" not in str(raised.value).replace("password", "").replace("PGPASSWORD", "")
    assert "et-word" not in told(raised.value)


def told(error: BaseException) -> str:
    """What a traceback of it would show."""
    return "".join(traceback.format_exception(error)).replace(__file__, "")


def test_an_unreachable_server_is_named_without_its_password() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(StorageError) as raised:
            open_state(f"postgresql://me:secret@127.0.0.1:{port}/state")
    assert f"127.0.0.1:{port}" in raised.value.where
    assert "secret" not in str(raised.value)
    assert "TIDEGATE_STATE_URL" in raised.value.remedy
