from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text

import server.state.database
from contract.errors import StorageError
from contract.experiment import Experiment
from server.state.participation import SiteStatus, Step
from server.state.storage import State, open_state
from server.state.tables import HEAD, metadata
from tests.server.state.revisions import FIRST_REVISION_SITE, migrate


def test_migrations_give_the_tables_of_the_program(state: State) -> None:
    with state.database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_head_is_the_newest_revision() -> None:
    scripts = ScriptDirectory(str(Path(server.state.database.__file__).parent / "migrations"))
    assert scripts.get_heads() == [HEAD]


def test_a_database_of_the_first_revision_is_brought_up_to_date(
    tmp_path: Path, experiment: Experiment
) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    engine = create_engine(url)
    with engine.begin() as connection:
        migrate(connection, "0001")
        connection.execute(text(FIRST_REVISION_SITE.replace("+00", "")))
    engine.dispose()
    with open_state(url) as state:
        assert [(site.name, site.node_id, site.stated_rows) for site in state.sites()] == [("plan-a", 5, 7)]
        state.start_run("r", experiment=experiment, job="train", trigger="t", code_hash="c")
        step = Step(run="r", kind="train", number=1)
        state.record_participation(step, {"plan-a": SiteStatus(state="connected", node=5)})
        assert [item.state for item in state.participation("r")] == ["connected"]
        with state.database.read() as connection:
            assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == HEAD
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, metadata) == []


def test_what_was_saved_is_there_after_opening_again(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    with open_state(url) as state:
        state.record_site("a", node_id=1, stated_rows=2)
    with open_state(url) as state:
        assert [site.name for site in state.sites()] == ["a"]


def test_a_newer_database_is_refused_and_left_alone(state: State) -> None:
    with state.database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StorageError, match=f"revision 9999, newer than this program's {HEAD}"):
        open_state(state.database.engine.url.render_as_string())
    with state.database.read() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "9999"


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"these are not the bytes of a database " * 100)
    with pytest.raises(StorageError, match="not a state database, or is damaged"):
        open_state(f"sqlite:///{path}")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="folder of the state database cannot be made") as raised:
        open_state(f"sqlite:///{tmp_path}/file/home/state.db")
    assert "TIDEGATE_HOME" in raised.value.remedy


@pytest.mark.parametrize("url", ["", "no url", "oracle9://host/x"])
def test_a_wrong_url_is_refused(url: str) -> None:
    with pytest.raises(StorageError):
        open_state(url)


def test_a_database_of_the_fourth_revision_keeps_what_is_in_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    engine = create_engine(url)
    with engine.begin() as connection:
        migrate(connection, "0004")
        connection.execute(text(FIRST_REVISION_SITE.replace("+00", "")))
        connection.execute(
            text(
                "INSERT INTO admitted_sites (federation, name, node_id, key, admitted, stated_rows) "
                "VALUES ('standing', 'north', '18446744073709551615', 'k', '2026-11-24 08:00:00', 7)"
            )
        )
        connection.execute(
            text(
                "INSERT INTO schedules "
                "(experiment, experiment_json, every, first, lag, zone, cron, paused, added) "
                "VALUES ('x', '{}', 'week', '2026-W05', 2, 'UTC', '0 2 * * *', 0, '2026-11-24 08:00:00')"
            )
        )
    engine.dispose()
    with open_state(url) as state:
        assert [(site.name, site.node_id) for site in state.admitted_sites("standing")] == [
            ("north", 2**64 - 1)
        ]
        assert [site.name for site in state.sites()] == ["plan-a"]
        with state.database.read() as connection:
            assert connection.execute(text("SELECT experiment, lag FROM schedules")).all() == [("x", 2)]
            assert connection.execute(text("SELECT count(*) FROM enrolments")).scalar() == 0
            assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == HEAD
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, metadata) == []
