"""Profiles: who may read them, what is refused, which one commands use."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from clients.code import installed_code_hash
from contract.errors import InputError
from contract.mandate import read_mandate
from scientist.profiles import Profile, Profiles, require_name
from scientist.settings import read_settings
from scientist.signing import Signer, public_key
from server.line.certificates import authority_fingerprint, make_server_files
from tests.server.federation import plan

PROFILE = Profile(
    url="https://127.0.0.1:8443",
    person='Ada "Ü" \\ x',
    role="scientist",
    token="t" * 43,
    authority="PEM\n\x7f",
)


def profiles(folder: Path, **environ: str) -> Profiles:
    return Profiles(read_settings({"XDG_CONFIG_HOME": str(folder), **environ}))


def test_a_profile_is_its_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = profiles(tmp_path / "config").save("here", PROFILE)
    finally:
        os.umask(before)
    assert path == tmp_path / "config" / "tidegate" / "profiles" / "here.toml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert profiles(tmp_path / "config").read() == PROFILE
    assert PROFILE.token not in repr(PROFILE)
    assert [one.name for one in path.parent.iterdir()] == ["here.toml"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_profile_that_others_may_read_is_not_used(tmp_path: Path, mode: int) -> None:
    profiles(tmp_path).save("here", PROFILE).chmod(mode)
    with pytest.raises(InputError, match="others may read this file"):
        profiles(tmp_path).read()


def test_a_profile_does_not_follow_a_link_into_another_file(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("kept")
    link = tmp_path / "tidegate" / "profiles" / "here.toml"
    link.parent.mkdir(parents=True)
    link.symlink_to(other)
    path = profiles(tmp_path).save("here", PROFILE)
    assert other.read_text() == "kept"
    assert not path.is_symlink()


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 101, "a\x1b[2J", "a\n", "-a"])
def test_a_name_is_no_path(name: str) -> None:
    with pytest.raises(InputError, match="cannot be a profile's name"):
        require_name(name)


def test_which_profile_commands_use(tmp_path: Path) -> None:
    assert profiles(tmp_path).active() == ""
    with pytest.raises(InputError, match="you are not connected"):
        profiles(tmp_path).read()
    profiles(tmp_path).save("one", PROFILE)
    profiles(tmp_path).save("two", PROFILE.model_copy(update={"token": "u" * 43}))
    assert profiles(tmp_path).active() == "two"
    assert profiles(tmp_path, TIDEGATE_PROFILE="one").read().token == "t" * 43
    with pytest.raises(InputError, match="there is no profile 'three'"):
        profiles(tmp_path, TIDEGATE_PROFILE="three").active()
    assert profiles(tmp_path).remove() == "two"
    assert (profiles(tmp_path).active(), profiles(tmp_path).names()) == ("", ["one"])
    (tmp_path / "tidegate" / "active").write_text("../../x")
    assert profiles(tmp_path).active() == ""


@pytest.mark.parametrize(
    "line", ['url = "http://a:1"', 'url = "https://u@a"', 'url = "https://a/x"', "more = 1", 'role = "root"']
)
def test_a_profile_that_was_changed_is_refused_whole(tmp_path: Path, line: str) -> None:
    path = profiles(tmp_path).save("here", PROFILE)
    key = line.split(maxsplit=1)[0]
    kept = [old for old in path.read_text().splitlines() if not old.startswith(f"{key} ")]
    path.write_text("\n".join([*kept, line]))
    with pytest.raises(InputError, match=key):
        profiles(tmp_path).read()


def test_without_a_folder_named_it_is_in_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for environ in ({}, {"XDG_CONFIG_HOME": ""}, {"XDG_CONFIG_HOME": "relative"}):
        assert read_settings(environ).folder == tmp_path / ".config" / "tidegate"


def test_a_signing_key_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    mine = profiles(tmp_path)
    assert mine.signing_key() is None
    before = os.umask(0)
    try:
        key = mine.make_signing_key("here")
    finally:
        os.umask(before)
    mine.save("here", PROFILE)
    assert mine.make_signing_key("here") == mine.signing_key() == key  # connecting again keeps it
    assert mine.make_signing_key("there") != key
    path = tmp_path / "tidegate" / "profiles" / "here.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert public_key(key).startswith("ssh-ed25519 ")
    path.chmod(0o640)
    with pytest.raises(InputError, match="others may read this file"):
        mine.signing_key()
    mine.remove("here")
    assert not path.exists()


def test_what_is_signed_says_what_the_experiment_says_and_no_more(tmp_path: Path) -> None:
    key, experiment = profiles(tmp_path).make_signing_key("here"), plan()
    authority = make_server_files(tmp_path, ["127.0.0.1"]).authority
    profile = PROFILE.model_copy(update={"authority": authority.read_text()})
    signer = Signer(profile=profile, key=key, days=3)
    signed = read_mandate(signer.run(experiment, ["w2", "w1"]))
    mandate, privacy = signed.mandate, experiment.privacy
    assert signed.key == public_key(key)
    assert (mandate.experiment, mandate.windows) == (experiment.digest, ("w1", "w2"))
    assert (mandate.epsilon, mandate.delta) == (privacy.epsilon, privacy.delta)
    assert mandate.scientist == PROFILE.person
    assert mandate.code == installed_code_hash()  # the same on a laptop as at a site
    assert mandate.authority == authority_fingerprint(authority.read_bytes()).hex()
    assert timedelta(days=2) < mandate.expires - datetime.now(UTC) <= timedelta(days=3)


@pytest.mark.parametrize("content", [b"", b"x", b"-----BEGIN OPENSSH PRIVATE KEY-----\n"])
def test_what_is_no_key_signs_nothing(content: bytes) -> None:
    with pytest.raises(InputError, match="no key to sign with"):
        public_key(content)
