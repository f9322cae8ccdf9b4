"""A state database that was put back by any tool is noticed: it does not know who was revoked since."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text, update
from sqlalchemy.engine import make_url

from contract.errors import StorageError
from server.state import tables
from server.state.backup import restored_words
from server.state.database import Database
from server.state.newest import note_newest, older_words, unseen_words
from server.state.people import People
from server.state.storage import open_state
from tests.commands import tidegate
from tests.postgres import installed


def may_enter(database: Database) -> bool:
    return People(database).all()[0].may_enter(datetime.now(UTC))


def revoke_and_restore(home: Path, url: str, dump: Callable[[], None], restore: Callable[[], None]) -> None:
    """Ada is let in, a dump is made, she is revoked over the command, and the dump is put back."""
    with open_state(url) as state:
        People(state.database).add("ada", "operator")
        note_newest(home, state.database)
        assert older_words(home, state.database) is None
    dump()
    done = tidegate(home.parent, "server", "person", "revoke", "ada", TIDEGATE_STATE_URL=url)
    assert done.returncode == 0, done.stderr
    with open_state(url) as state:
        assert not may_enter(state.database)
        assert older_words(home, state.database) is None
    restore()


def require_noticed(home: Path, url: str) -> None:
    """The server does not start, over and over; until the operator has done what is said."""
    for _ in range(2):
        refused = tidegate(
            home.parent, "server", "up", "--port", "0", "--ui-port", "0", TIDEGATE_STATE_URL=url
        )
        assert refused.returncode == 2
        told = " ".join(refused.stderr.split())
        assert "the state database is older than this folder" in told
        assert "Whoever was revoked since may come in again" in told
        assert "newest-state.json" in told
    assert "revokes the token of 'ada'" in (home / "logs" / "acts.log").read_text()
    with open_state(url) as state:
        assert may_enter(state.database)  # which is why
        note_newest(home, state.database)  # nothing that is done meanwhile hides it
        assert older_words(home, state.database) is not None
    again = tidegate(home.parent, "server", "person", "revoke", "ada", TIDEGATE_STATE_URL=url)
    assert again.returncode == 0, again.stderr
    with open_state(url) as state:
        assert older_words(home, state.database) is not None
        (home / "newest-state.json").unlink()
        assert older_words(home, state.database) is None
        note_newest(home, state.database)
        assert "had not seen the state database" in unseen_words(home)


def test_a_plain_copy_of_a_file_that_is_put_back(tmp_path: Path) -> None:
    home = tmp_path / ".tidegate"
    file, kept = home / "state.db", tmp_path / "kept.db"

    def restore() -> None:
        for beside in home.glob("state.db*"):
            beside.unlink()
        shutil.copy(kept, file)

    revoke_and_restore(home, f"sqlite:///{file}", lambda: shutil.copy(file, kept) and None, restore)
    require_noticed(home, f"sqlite:///{file}")


def test_a_dump_of_postgresql_that_is_restored_with_its_own_tools(tmp_path: Path, postgres: str) -> None:
    home, file = tmp_path / ".tidegate", tmp_path / "state.sql"
    home.mkdir()
    url = make_url(postgres).set(database="restored").render_as_string(hide_password=False)

    def run(tool: str, *arguments: str) -> None:
        program = installed(tool)
        assert program is not None
        subprocess.run([program, *arguments], check=True, capture_output=True, timeout=300)

    def restore() -> None:
        run("psql", postgres, "-c", "DROP DATABASE restored", "-c", "CREATE DATABASE restored")
        run("psql", "-v", "ON_ERROR_STOP=1", url, "-f", str(file))

    run("psql", postgres, "-c", "CREATE DATABASE restored")
    revoke_and_restore(home, url, lambda: run("pg_dump", f"--dbname={url}", f"--file={file}"), restore)
    require_noticed(home, url)


def test_a_clock_that_is_set_back_alarms_nobody(tmp_path: Path) -> None:
    home = tmp_path / ".tidegate"
    with open_state(f"sqlite:///{home}/state.db") as state:
        note_newest(home, state.database)
        later = datetime.now(UTC) + timedelta(days=3)
        with state.database.write() as connection:  # as if the clock had been three days ahead
            connection.execute(update(tables.claims).values(claimed_at=later))
        for _ in range(3):
            note_newest(home, state.database)
            assert older_words(home, state.database) is None
        (home / "newest-state.json").unlink()
        note_newest(home, state.database)
        assert older_words(home, state.database) is None


def test_another_or_an_empty_database_is_noticed_and_a_new_server_is_not(tmp_path: Path) -> None:
    home = tmp_path / ".tidegate"
    with open_state(f"sqlite:///{home}/state.db") as state:
        for _ in range(2):
            note_newest(home, state.database)
            assert unseen_words(home) == ""
    with open_state(f"sqlite:///{tmp_path}/other.db") as state:
        words = older_words(home, state.database)
        assert words is not None
        assert "knows no time" in words[0]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"newest": 7}', '{"newest": "soon"}'])
def test_a_damaged_file_is_one_sentence(tmp_path: Path, content: str) -> None:
    home = tmp_path / ".tidegate"
    with open_state(f"sqlite:///{home}/state.db") as state:
        (home / "newest-state.json").write_text(content)
        for looks in (older_words, note_newest):
            with pytest.raises(StorageError, match=r"cannot be read.*remove that file, and start"):
                looks(home, state.database)
        (home / "unseen-state.json").write_text(content)
        with pytest.raises(StorageError, match=r"unseen-state.json.*cannot be read"):
            unseen_words(home)
        with state.database.read() as connection:
            assert connection.execute(text("SELECT count(*) FROM claims")).scalar_one() == 0


def test_a_dump_that_is_loaded_for_a_new_folder_is_said_until_somebody_has_looked(tmp_path: Path) -> None:
    """Ada is revoked after the dump; the folder that saw it is gone with its machine."""
    lost, home, dump = tmp_path / "lost", tmp_path / ".tidegate", tmp_path / "dump.db"
    with open_state(f"sqlite:///{lost}/state.db") as state:
        People(state.database).add("ada", "operator")
        note_newest(lost, state.database)
    shutil.copy(lost / "state.db", dump)
    home.mkdir()
    shutil.copy(dump, home / "state.db")
    url = f"sqlite:///{home}/state.db"
    # an act before the first start does not hide it, nor does one start
    done = tidegate(tmp_path, "server", "person", "add", "ben", "--role", "reviewer", TIDEGATE_STATE_URL=url)
    assert done.returncode == 0, done.stderr
    done = tidegate(tmp_path, "server", "person", "revoke", "ben", TIDEGATE_STATE_URL=url)
    assert done.returncode == 0, done.stderr
    with open_state(url) as state:
        for _ in range(3):
            assert older_words(home, state.database) is None
            note_newest(home, state.database)
            words = unseen_words(home)
            assert "which was at work until" in words
            assert "`tidegate server person revoke NAME`" in words
        (home / "unseen-state.json").unlink()  # the operator has looked
        note_newest(home, state.database)
        assert unseen_words(home) == ""


def test_a_backup_says_it_for_its_database(tmp_path: Path) -> None:
    with open_state(f"sqlite:///{tmp_path}/lost/state.db") as state:
        note_newest(tmp_path / "lost", state.database)
        home = tmp_path / "backup"
        home.mkdir()
        (home / "backup.json").write_text("{}")
        note_newest(home, state.database)
        assert unseen_words(home) == ""
        assert restored_words(home) != ""
