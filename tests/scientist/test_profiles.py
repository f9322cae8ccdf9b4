"""Profiles: who may read them, what is refused, which one commands use."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from contract.errors import InputError
from scientist.profiles import Profile, Profiles, require_name
from scientist.settings import read_settings

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
