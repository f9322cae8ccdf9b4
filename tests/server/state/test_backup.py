"""A backup of a server that is being written to: whole, private, a folder in which a server stands again."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from contract.errors import InputError, StorageError
from contract.experiment import Experiment
from server.settings import ServerSettings, read_settings
from server.state import backup, sqlite_files
from server.state.backup import Backup, back_up, restored_words
from server.state.people import People
from server.state.records import RoundRecord
from server.state.storage import open_state
from tests.commands import tidegate


def settings_in(folder: Path, **more: str) -> ServerSettings:
    """Of a server whose operator's folder this is."""
    return read_settings(
        {
            "TIDEGATE_HOME": str(folder / ".tidegate"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlruns/mlflow.db",
            "TIDEGATE_ARTIFACT_ROOT": str(folder / "mlruns" / "artifacts"),
            **more,
        }
    )


def save(settings: ServerSettings, target: Path) -> Backup:
    return back_up(
        target,
        state_url=settings.state_url,
        tracking_uri=settings.tracking_uri,
        superlink=settings.home / "superlink.db",
        artifact_root=settings.artifact_root,
    )


@pytest.fixture
def server(tmp_path: Path, experiment: Experiment) -> Path:
    """The operator's folder of a server with a run, keys, and what Flower and MLflow wrote."""
    folder = tmp_path / "operator"
    settings = settings_in(folder)
    with open_state(settings.state_url) as state:
        state.start_run("r", experiment=experiment, job="train", trigger="t", code_hash="c")
    for name in (".tidegate/superlink.db", "mlruns/mlflow.db"):
        (folder / name).parent.mkdir(exist_ok=True)
        connection = sqlite3.connect(folder / name)
        connection.execute("CREATE TABLE kept (word TEXT)")
        connection.execute("INSERT INTO kept VALUES (?)", (name,))
        connection.commit()
        connection.close()
    model = folder / "mlruns" / "artifacts" / "small" / "1" / "model"
    model.mkdir(parents=True)
    (model / "arrays.npz").write_bytes(b"weights")
    (model / "elsewhere").symlink_to("/etc/passwd")
    (folder / ".tidegate" / "certificates").mkdir()
    for name in ("certificates/ca.key", "superlink.secret", "server.toml"):
        (folder / ".tidegate" / name).write_text("a key")
    return folder


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def test_it_holds_databases_and_models_and_no_key(server: Path, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = save(settings_in(server), tmp_path / "saved")
    finally:
        os.umask(before)
    assert files(tmp_path / "saved") == {
        ".tidegate/backup.json",
        ".tidegate/state.db",
        ".tidegate/superlink.db",
        "mlruns/mlflow.db",
        "mlruns/artifacts/small/1/model/arrays.npz",
    }
    assert (set(made.files), made.artifacts, made.commands) == (
        {".tidegate/state.db", ".tidegate/superlink.db", "mlruns/mlflow.db"},
        1,
        {},
    )
    paths = [tmp_path / "saved", *(tmp_path / "saved").rglob("*")]
    assert [path for path in paths if path.stat().st_mode & 0o077] == []
    for name in (".tidegate/superlink.db", "mlruns/mlflow.db"):
        connection = sqlite3.connect(tmp_path / "saved" / name)
        assert connection.execute("SELECT word FROM kept").fetchall() == [(name,)]
        connection.close()


def test_it_is_one_moment_of_a_server_that_writes(server: Path, tmp_path: Path) -> None:
    """A round and its checkpoint are written together: no copy holds one without the other."""
    settings, stop = settings_in(server), threading.Event()

    def write() -> None:
        with open_state(settings.state_url) as state:
            number = 0
            while not stop.is_set():
                number += 1
                record = RoundRecord(round=number, cohort=("plan-a",), counted=("plan-a",))
                state.save_round("r", record, checkpoint=f"{number}".encode() * 50_000)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        time.sleep(0.3)
        for number in range(5):
            save(settings, tmp_path / f"saved-{number}")
    finally:
        stop.set()
        writer.join()
    reached = []
    for number in range(5):
        with open_state(f"sqlite:///{tmp_path}/saved-{number}/.tidegate/state.db") as state:
            checkpoint = state.load_checkpoint("r")
            assert checkpoint is not None
            assert checkpoint == (len(state.rounds("r")), f"{checkpoint[0]}".encode() * 50_000)
            reached.append(checkpoint[0])
    assert reached == sorted(reached)
    assert reached[0] < reached[-1]


def test_an_earlier_backup_is_not_touched(server: Path, tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    with pytest.raises(InputError, match="an earlier backup is worth keeping"):
        save(settings_in(server), tmp_path / "saved")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="there is something already"):
        save(settings_in(server), tmp_path / "link")
    assert files(tmp_path / "saved") == set()


def test_a_damaged_database_is_no_backup(server: Path, tmp_path: Path) -> None:
    path = server / "mlruns" / "mlflow.db"
    path.write_bytes(b"no database at all" * 1000)
    with pytest.raises(StorageError, match="not MLflow's database, or is damaged"):
        save(settings_in(server), tmp_path / "saved")
    assert [name.name for name in tmp_path.iterdir()] == ["operator"]


def test_a_locked_database_is_said(server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_files, "BUSY_SECONDS", 0.2)
    holder = sqlite3.connect(server / ".tidegate" / "superlink.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StorageError, match="another process has held the SuperLink's database") as raised:
        save(settings_in(server), tmp_path / "saved")
    holder.close()
    assert str(server / ".tidegate" / "superlink.db") in raised.value.where
    assert [name.name for name in tmp_path.iterdir()] == ["operator"]


def killed_before_the_last() -> None:
    usual = backup._copy

    def copy(path: Path, target: Path, what: str) -> None:
        if path.name == "mlflow.db":
            os.kill(os.getpid(), signal.SIGKILL)
        usual(path, target, what)

    backup._copy = copy


def test_a_killed_backup_is_not_taken_for_one(server: Path) -> None:
    killed = tidegate(server, "server", "backup", "saved", before=killed_before_the_last)
    assert killed.returncode == -signal.SIGKILL
    assert not (server / "saved").exists()
    assert [path.name for path in server.iterdir() if "unfinished" in path.name]
    done = tidegate(server, "server", "backup", "saved")
    assert done.returncode == 0, done.stderr
    assert "kept apart" in done.stdout
    assert ".tidegate/state.db" in files(server / "saved")


def no_room() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))


def test_a_full_disk_is_said_and_leaves_nothing(server: Path) -> None:
    assert (server / ".tidegate" / "state.db").stat().st_size > 60_000
    done = tidegate(server, "server", "backup", "saved", before=no_room)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "on a disk with room" in done.stderr
    assert not [path for path in server.iterdir() if path.name.startswith("saved")]


def test_a_place_that_is_none_is_said(server: Path) -> None:
    done = tidegate(server, "server", "backup", "no/such/saved")
    assert (done.returncode, done.stdout) == (2, "")
    assert "the backup cannot be written: No such file or directory" in done.stderr


def test_where_there_is_no_server_nothing_is_made(tmp_path: Path) -> None:
    done = tidegate(tmp_path, "server", "backup", "saved")
    assert done.returncode == 2
    assert "there is no server here" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_for_postgresql_it_says_what_to_run_without_the_password(server: Path, tmp_path: Path) -> None:
    settings = settings_in(
        server,
        TIDEGATE_STATE_URL="postgresql://me:s3cret@db.example:5433/state?sslmode=require&password=s3cret",
    )
    made = save(settings, tmp_path / "saved")
    assert made.commands == {
        "the state database": "pg_dump --format=custom --no-owner --file=state.dump "
        "'--dbname=postgresql://me@db.example:5433/state?sslmode=require'"
    }
    assert "s3cret" not in str(made)


def test_a_tracking_server_keeps_its_own(server: Path, tmp_path: Path) -> None:
    made = save(settings_in(server, MLFLOW_TRACKING_URI="https://me:s3cret@mlflow"), tmp_path / "saved")
    assert (made.commands, made.artifacts) == ({"MLflow": ""}, None)
    assert backup.__doc__ is not None


def test_a_copy_of_it_is_an_operators_folder(server: Path, tmp_path: Path) -> None:
    save(settings_in(server), tmp_path / "saved")
    done = tidegate(tmp_path / "saved", "server", "status", "--json")
    assert done.returncode == 0, done.stderr
    assert '"name": "r"' in done.stdout


def test_who_was_revoked_after_it_is_named_as_a_danger_where_it_is_put_back(
    server: Path, tmp_path: Path
) -> None:
    """A token and a site that were revoked since are good in what was put back: that is said each time."""
    settings = settings_in(server)
    with open_state(settings.state_url) as state:
        token = People(state.database).add("ada", "scientist")
        state.admit_site("north", federation="standing", node_id=1, key="k")
    before = datetime.now(UTC).replace(second=0, microsecond=0)
    save(settings, tmp_path / "saved")
    with open_state(settings.state_url) as state:
        People(state.database).revoke("ada")
        state.dismiss_site("north", federation="standing")
        assert People(state.database).with_token(token) is None
    home = tmp_path / "saved" / ".tidegate"
    with open_state(f"sqlite:///{home}/state.db") as state:
        assert People(state.database).with_token(token) is not None
        assert [site.name for site in state.admitted_sites("standing")] == ["north"]
    assert restored_words(server / ".tidegate") == ""
    words = restored_words(home)
    assert f"a backup of {before:%Y-%m-%d}" in words
    for command in ("server revoke", "server person revoke", str(home / "backup.json")):
        assert command in words
    for odd in ("", "{}", "[]", '{"made": 7}', '{"made": "soon"}', "\0"):
        (home / "backup.json").write_text(odd)
        assert "of an unknown time" in restored_words(home)
