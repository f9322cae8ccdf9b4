"""The operator's side: a server is made once, and its certificates are kept in time or their end is said."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from contract.enrolment import Token
from contract.errors import AddressError, InputError, StorageError
from server.enrolment import Upkeep, invite, make_server
from server.federation import Federation
from server.line.certificates import (
    authority_fingerprint,
    ending,
    make_server_files,
    require_pair,
    server_files,
)
from server.line.processes import Processes
from server.server_file import ServerFile, read_server_file
from server.settings import ServerSettings
from server.state.enrolments import Enrolments
from server.state.storage import State, open_state

FILE = ServerFile(hosts=("tidegate.example.org", "10.0.0.7"), gateway_port=4443)
WEEK = timedelta(days=7)


@pytest.fixture
def settings(tmp_path: Path) -> ServerSettings:
    home = tmp_path / "home"
    return ServerSettings(
        home=home,
        state_url=f"sqlite:///{home / 'state.db'}",
        tracking_uri=f"sqlite:///{home / 'mlflow.db'}",
        artifact_root=home / "artifacts",
    )


@pytest.fixture
def state(settings: ServerSettings) -> Iterator[State]:
    with open_state(settings.state_url) as opened:
        yield opened


def test_a_server_is_made_once(settings: ServerSettings) -> None:
    path = make_server(settings.home, FILE)
    assert read_server_file(settings.home) == FILE
    assert path.read_text().count("#") > 3
    authority = server_files(settings.home / "certificates").authority.read_bytes()
    assert stat.S_IMODE(server_files(settings.home / "certificates").authority_key.stat().st_mode) == 0o600
    with pytest.raises(InputError, match="there is a server already"):
        make_server(settings.home, ServerFile(hosts=("other.example.org",)))
    assert read_server_file(settings.home) == FILE
    path.unlink()  # cut off before the end: the authority stays
    make_server(settings.home, FILE)
    assert server_files(settings.home / "certificates").authority.read_bytes() == authority


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="no server can be made there: Not a directory"):
        make_server(tmp_path / "file" / "home", FILE)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("certificates/ca.pem", "holds no certificate. Put the federation's authority"),
        ("certificates/server.pem", "holds no certificate. Remove it"),
        ("certificates/server.key", "not the key of the certificate in server.pem"),
        ("superlink.secret", "holds no secret. Remove it"),
    ],
)
def test_a_damaged_file_is_named_before_anything_starts(
    settings: ServerSettings, name: str, words: str
) -> None:
    make_server(settings.home, FILE)
    file = read_server_file(settings.home)
    (settings.home / name).write_text("half\n")
    with Processes(logs=settings.home / "logs") as processes:
        federation = Federation(home=settings.home, settings=settings, processes=processes, file=file)
        with pytest.raises(AddressError, match=words) as told:
            federation.start_server()
        assert told.value.where == str(settings.home / name)
        assert not processes.process_ids()


def test_a_renewal_on_a_full_disk_leaves_what_is_shown(
    settings: ServerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server that runs, or is started again, shows its certificate still; the next renewal makes one."""
    make_server(settings.home, FILE)
    folder = settings.home / "certificates"
    files, before = server_files(folder), {path: path.read_bytes() for path in folder.iterdir()}

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            make_server_files(folder, ("other.example.org",))
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    files.key.chmod(0o644)  # as a copy from elsewhere may be
    make_server_files(folder, ("other.example.org",))
    require_pair(files)
    assert files.key.read_bytes() != before[files.key]
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600


def test_a_token_leads_to_this_gateway_and_authority(settings: ServerSettings) -> None:
    make_server(settings.home, FILE)
    written, until = invite("north", settings, WEEK)
    token = Token.read(written)
    assert token.gateway == "tidegate.example.org:4443"
    files = server_files(settings.home / "certificates")
    assert token.authority == authority_fingerprint(files.authority.read_bytes())
    assert timedelta(days=6) < until - datetime.now(UTC) <= WEEK
    with open_state(settings.state_url) as state:
        state.admit_site("south", federation="standing", node_id=1, key="k")
    with pytest.raises(InputError, match=r"'south' is let in already.*tidegate server revoke"):
        invite("south", settings, WEEK)
    files.authority.write_text("nothing")
    with pytest.raises(AddressError, match="it is no certificate"):
        invite("north", settings, WEEK)


def test_a_server_for_its_own_machine_invites_nobody(settings: ServerSettings) -> None:
    with pytest.raises(InputError, match="tidegate server init HOST"):
        invite("north", settings, WEEK)


def test_what_ends_and_is_not_renewed_is_said_a_month_before(tmp_path: Path) -> None:
    hosts, years = ("127.0.0.1",), timedelta(days=3650)
    files = make_server_files(tmp_path, hosts)
    assert ending(files) == ()
    assert ending(files, datetime.now(UTC) + years - timedelta(days=31)) == ()
    (said,) = ending(files, datetime.now(UTC) + years - timedelta(days=29))
    assert "the federation's authority" in said
    assert "has ended" in ending(files, datetime.now(UTC) + years + timedelta(days=1))[0]
    files.authority_key.unlink()
    said, models = ending(files, datetime.now(UTC) + timedelta(days=340))
    assert "the server's certificate" in said
    assert "the certificate of the key that signs models" in models
    assert ending(server_files(tmp_path / "nothing")) == ()


def upkeep(settings: ServerSettings, state: State, said: list[str]) -> Upkeep:
    return Upkeep(
        state=state, federation="standing", home=settings.home, hosts=("127.0.0.1",), say=said.append
    )


def test_a_server_that_runs_renews_its_certificate_and_looks_once_an_hour(
    settings: ServerSettings, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, said = settings.home / "certificates", list[str]()
    long_ago = datetime.now(UTC) - timedelta(days=310)
    files = make_server_files(folder, ("127.0.0.1",), now=long_ago)
    keeps = upkeep(settings, state, said)

    def end() -> datetime:
        return x509.load_pem_x509_certificate(files.certificate.read_bytes()).not_valid_after_utc

    before = end()
    keeps.look()
    assert end() > before
    shown, looks = files.certificate.read_bytes(), []
    monkeypatch.setattr("server.enrolment.make_server_files", lambda *_: looks.append(1))
    keeps.look()
    assert looks == []
    keeps._looked -= 3601
    keeps.look()
    assert looks == [1]
    assert files.certificate.read_bytes() == shown
    assert said == []


def test_what_cannot_be_renewed_is_said_once_a_day(settings: ServerSettings, state: State) -> None:
    folder, said = settings.home / "certificates", list[str]()
    files = make_server_files(folder, ("127.0.0.1",), now=datetime.now(UTC) - timedelta(days=340))
    files.authority_key.write_text("nothing")
    keeps = upkeep(settings, state, said)
    for _ in range(3):
        keeps._looked -= 3601
        keeps.look()
    assert len(said) == 1
    assert "cannot be renewed" in said[0]


def test_a_full_disk_does_not_end_the_server(
    settings: ServerSettings, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageError("the disk is full")

    make_server_files(settings.home / "certificates", ("127.0.0.1",))
    monkeypatch.setattr(Enrolments, "all", full)
    upkeep(settings, state, []).look()
