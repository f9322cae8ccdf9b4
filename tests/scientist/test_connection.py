"""The client against a real server, against others in its place, and without the heavy libraries."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from contract.errors import AddressError, InputError, TidegateError
from contract.experiment import Experiment
from contract.federation_api import Runs, Whoami
from scientist.connection import Connection, ask_authority, only_certificate, require_url
from scientist.profiles import Profile, Profiles
from scientist.settings import read_settings
from server.line.certificates import authority_fingerprint, make_server_files
from server.line.processes import free_port
from tests.installations import tidegate_with
from tests.runtimes.conftest import SMALL
from tests.server.api.conftest import Served, serving
from tests.server.federation import plan


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path / "home", free_port()) as found:
        yield found


@pytest.fixture
def experiment() -> Experiment:
    return plan()


def connection(served: Served, token: str, authority: Path | None = None) -> Connection:
    return Connection(served.url, token, (authority or served.files.authority).read_text())


def test_a_server_of_another_authority_gets_no_token(tmp_path: Path) -> None:
    real = make_server_files(tmp_path / "real", ["127.0.0.1"])
    for other, words in (
        (make_server_files(tmp_path / "false", ["127.0.0.1"]), "certificate"),
        (make_server_files(tmp_path / "real2", ["elsewhere.example"]), "certificate"),
    ):
        with listening(other.certificate, other.key) as (port, received):
            with (
                Connection(f"https://127.0.0.1:{port}", "secret-token", real.authority.read_text()) as asked,
                pytest.raises(AddressError, match=words),
            ):
                asked.get("/v1/whoami", Whoami)
            assert received == []


def test_a_certificate_for_another_host_is_refused(tmp_path: Path) -> None:
    files = make_server_files(tmp_path / "real", ["elsewhere.example"])
    with listening(files.certificate, files.key) as (port, received):
        with (
            Connection(f"https://127.0.0.1:{port}", "secret-token", files.authority.read_text()) as asked,
            pytest.raises(AddressError, match="certificate"),
        ):
            asked.get("/v1/whoami", Whoami)
        assert received == []


def test_no_redirect_carries_the_token_away(tmp_path: Path) -> None:
    files = make_server_files(tmp_path / "real", ["127.0.0.1"])
    answer = b"HTTP/1.1 302 x\r\nLocation: https://127.0.0.1:1/\r\n\r\n"
    with listening(files.certificate, files.key, answer) as (port, received):
        with (
            Connection(f"https://127.0.0.1:{port}", "secret-token", files.authority.read_text()) as asked,
            pytest.raises(TidegateError, match="not understood"),
        ):
            asked.get("/v1/whoami", Whoami)
        assert len(received) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 x\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 x\r\nContent-Length: 4\r\n\r\n\xff\xfe\x00\x01",
        b"HTTP/1.1 400 x\r\nContent-Length: 3\r\n\r\n<a>",
        b"SSH-2.0-OpenSSH\r\n",
        b"",
    ],
)
def test_an_answer_that_is_none_is_said_without_a_traceback(tmp_path: Path, answer: bytes) -> None:
    files = make_server_files(tmp_path / "real", ["127.0.0.1"])
    with (
        listening(files.certificate, files.key, answer) as (port, _),
        Connection(f"https://127.0.0.1:{port}", "t", files.authority.read_text()) as asked,
        pytest.raises(TidegateError),
    ):
        asked.get("/v1/whoami", Whoami)


def test_what_is_compared_is_all_that_is_trusted(served: Served, tmp_path: Path) -> None:
    true = ask_authority(served.url)
    alone, fingerprint = only_certificate(true)
    assert fingerprint == authority_fingerprint(served.files.authority.read_bytes()).hex()
    evil = make_server_files(tmp_path / "evil", ["127.0.0.1"])
    pem = evil.authority.read_text()
    for rider in (pem, pem.replace("CERTIFICATE", "X509 CERTIFICATE"), pem.replace("CERT", "TRUSTED CERT")):
        trusted, same = only_certificate(f"{true}\n{rider}")
        assert (trusted, same) == (alone, fingerprint)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.load_verify_locations(cadata=trusted)
        assert len(tls.get_ca_certs()) == 1
    inside = true.replace("-----END", f"{pem.replace('CERTIFICATE', 'X509 CERTIFICATE')}-----END", 1)
    with suppress(InputError):  # refused; or one of the two, and the fingerprint that is compared is its own
        trusted, same = only_certificate(inside)
        assert same == authority_fingerprint(trusted.encode()).hex()
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.load_verify_locations(cadata=trusted)
        assert len(tls.get_ca_certs()) == 1


@pytest.mark.parametrize(
    "url",
    ["", "http://a:1", "https://", "a:8443", "https://u:p@a", "https://a/x", "https://a?x", "https://a:x",
     "https://a:99999", "file:///etc/passwd", "https://a\x1b[2J", "https://[::1"],
)  # fmt: skip
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="no address of a server"):
        require_url(url)


def test_addresses_are_read() -> None:
    assert require_url(" https://a.example:8443/ ") == "https://a.example:8443"
    assert require_url("https://[::1]:8443") == "https://[::1]:8443"
    assert require_url("https://a") == "https://a"


def test_the_commands_need_no_heavy_library_and_show_no_control_character(
    served: Served, experiment: Experiment, tmp_path: Path
) -> None:
    token = served.people.add("ada", "scientist")
    run = served.submissions.add(experiment, person="a\x1b[2Jb", federation="standing").run
    authority = served.files.authority.read_text()
    settings = read_settings({"XDG_CONFIG_HOME": str(tmp_path / "config")})
    known = {"url": served.url, "person": "ada", "role": "scientist", "token": token, "authority": authority}
    Profiles(settings).save("here", Profile.model_validate(known))
    for arguments in (["runs", "list"], ["runs", "show", run], ["runs", "list", "--json"], ["--help"]):
        done = without_libraries(tmp_path, *arguments)
        assert done.returncode == 0, done.stderr
        assert "\x1b[2J" not in done.stdout
        assert arguments == ["--help"] or run in done.stdout
    with connection(served, token) as asked:
        assert [one.name for one in asked.get("/v1/runs", Runs).runs] == [run]


def test_a_run_is_submitted_followed_and_stopped_without_a_heavy_library(
    served: Served, tmp_path: Path
) -> None:
    file, ended = tmp_path / "small.toml", []
    file.write_text(
        SMALL.format(kind="linear", strategy="fedavg", rounds=2, quorum=2, private="false", seed="")
    )
    token = tmp_path / "token"
    token.write_text(served.people.add("ada", "scientist"))
    known = ["--authority", str(served.files.authority), "--token-file", str(token)]
    assert without_libraries(tmp_path, "connect", served.url, *known).returncode == 0
    submitting = threading.Thread(
        target=lambda: ended.append(without_libraries(tmp_path, "run", str(file), "--yes"))
    )
    submitting.start()
    while not (runs := served.submissions.page(skip=0, limit=1)) and submitting.is_alive():
        time.sleep(0.1)
    stopped = without_libraries(tmp_path, "runs", "stop", *runs)
    submitting.join()
    assert stopped.returncode == 0, stopped.stderr + ended[0].stderr
    assert "out of the queue" in stopped.stdout
    for done in (*ended, without_libraries(tmp_path, "runs", "watch", *runs)):
        assert done.returncode == 1, done.stdout + done.stderr
        assert "the run is stopped" in done.stderr
    assert f"run '{runs[0]}' is submitted" in ended[0].stdout


def test_a_token_on_the_command_line_works_and_others_are_not_shown(served: Served, tmp_path: Path) -> None:
    token = served.people.add("ada", "scientist")
    file = tmp_path / "token"
    file.write_text(token + "\n")
    authority = str(served.files.authority)
    for given in (["--token-file", str(file)], ["--token", token]):
        done = without_libraries(tmp_path, "connect", served.url, "--authority", authority, *given, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["role"] == "scientist"
        assert token not in done.stdout + done.stderr
    wrong = "0" * 64
    for arguments, words in (
        (["--fingerprint", wrong, "--token-file", str(file)], "another fingerprint"),
        (["--fingerprint", "12", "--token-file", str(file)], "no SHA-256"),
        (["--token-file", str(file)], "compare that"),
        (["--authority", authority], "no token is given"),
        (["--authority", authority, "--token-file", authority], "this is no token"),
        (["--authority", str(file), "--token-file", str(file)], "not a certificate"),
        (["--authority", authority, "--token", "x" * 43], "does not take your token"),
    ):
        done = without_libraries(tmp_path / "fresh", "connect", served.url, *arguments)
        assert done.returncode == 2, done.stdout + done.stderr
        assert words in done.stderr.lower() or words in done.stderr
        assert not (tmp_path / "fresh" / "config").exists()
        assert token not in done.stdout + done.stderr


def without_libraries(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    return tidegate_with(
        "scientist", folder, *arguments, environment={"XDG_CONFIG_HOME": str(folder / "config")}
    )


@contextmanager
def listening(certificate: Path, key: Path, answer: bytes = b"") -> Iterator[tuple[int, list[bytes]]]:
    """Somebody with that certificate, who notes what is sent and answers so."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    raw, _ = listener.accept()
                except OSError:
                    return
                try:
                    with raw, tls.wrap_socket(raw, server_side=True) as line:
                        if content := line.recv(65_536):
                            received.append(content)
                            line.sendall(answer)
                except OSError:
                    continue

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1], received
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(timeout=60)
