"""server.toml: how others reach a server; refused whole where something in it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.errors import InputError
from server.server_file import ServerFile, read_server_file, server_file


def refusal(home: Path, text: str) -> str:
    server_file(home).write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_server_file(home)
    return str(caught.value)


def test_without_the_file_a_server_stands_for_this_machine_alone(tmp_path: Path) -> None:
    assert read_server_file(tmp_path) is None


def test_the_first_host_is_the_one_that_others_are_told(tmp_path: Path) -> None:
    server_file(tmp_path).write_text('hosts = ["tidegate.example.org", "10.1.2.3"]\ngateway_port = 443\n')
    file = read_server_file(tmp_path)
    assert file == ServerFile(hosts=("tidegate.example.org", "10.1.2.3"), gateway_port=443)
    assert (file.gateway, file.api) == ("tidegate.example.org:443", "https://tidegate.example.org:8443")
    assert file.names == ("tidegate.example.org", "10.1.2.3", "127.0.0.1", "localhost")
    assert ServerFile(hosts=("2001:db8::1",)).gateway == "[2001:db8::1]:9443"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("hosts = []", "hosts"),
        ("", "hosts"),
        ('hosts = ["https://a.example"]', "'https://a.example' is neither a host's name"),
        ('hosts = ["a.example:9443"]', "neither a host's name"),
        ('hosts = ["-a"]', "neither a host's name"),
        ('hosts = ["A.example"]', "small letters"),
        ('hosts = ["a.example\\n"]', "neither a host's name"),
        ('hosts = ["a..b"]', "neither a host's name"),
        ('hosts = ["' + "a." * 130 + 'b"]', "neither a host's name"),
        ('hosts = ["a"]\nlisten = "everywhere"', "'everywhere' is no IP address"),
        ('hosts = ["a"]\ngateway_port = 0', "gateway_port"),
        ('hosts = ["a"]\ngateway_port = 65536', "gateway_port"),
        ('hosts = ["a"]\ngateway_port = 8443', "are one"),
        ('hosts = ["a"]\ngatewayport = 1', "gateway_port"),
        ("hosts = [", "not valid TOML"),
        ('name = "north"\nstated_rows = 5\n', "this is a site.toml, and a server.toml is expected"),
    ],
)
def test_what_is_wrong_is_said_and_where(tmp_path: Path, text: str, says: str) -> None:
    told = refusal(tmp_path, text)
    assert says in told
    assert "server.toml" in told


def test_a_file_that_this_user_may_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path, **_: object) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", denied)
    with pytest.raises(InputError, match=r"Permission denied.*Make it readable"):
        read_server_file(tmp_path)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    server_file(tmp_path).write_bytes(b"hosts = [\xff]")
    with pytest.raises(InputError, match="not UTF-8"):
        read_server_file(tmp_path)
