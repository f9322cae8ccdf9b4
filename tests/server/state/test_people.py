"""Who may be a person, and what is shown of one whom an older program let in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import update

from contract.errors import InputError
from contract.mandate import mandate_for, sign_mandate
from contract.standing import Standing
from server.state import tables
from server.state.people import People
from server.state.records import ScheduleRecord
from server.state.schedules import Schedules
from server.state.storage import State, open_state
from server.state.submissions import Submissions
from tests.commands import tidegate
from tests.server.federation import plan


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with open_state(f"sqlite:///{tmp_path}/.tidegate/state.db") as found:
        yield found


@pytest.mark.parametrize(
    "name", ["", " ada", "ada ", "a\x1b[2J", "a\nb", "a\u202eb", "x" * 101, "\ud800", "a\x00b", "a\u200bb"]
)
def test_a_name_that_cannot_be_shown_is_refused(state: State, name: str) -> None:
    with pytest.raises(InputError, match="cannot be a person's name"):
        People(state.database).add(name, "scientist")
    assert People(state.database).all() == ()


@pytest.mark.parametrize(
    "name", ["Ada", "ada  b", "ADA B", "ada\u00a0b", "ａda b", "Policy", "policy", "e\u0301va", "É\u0056A"]
)
def test_a_name_that_is_taken_for_another_is_refused(state: State, name: str) -> None:
    people = People(state.database)
    for known in ("ada", "ada b", "éva"):
        people.add(known, "reviewer")
    with pytest.raises(InputError, match="is taken for"):
        people.add(name, "reviewer")
    people.revoke("ada")
    people.add("ada", "reviewer")
    people.add("adam", "reviewer")


def test_tokens_are_256_bits_and_no_two_are_one(state: State) -> None:
    people = People(state.database)
    tokens = [people.add(f"p{number}", "reviewer") for number in range(20)]
    assert len(set(tokens)) == 20
    assert {len(token) for token in tokens} == {43}
    assert [people.with_token(token).name for token in tokens] == [f"p{n}" for n in range(20)]  # type: ignore[union-attr]
    assert people.with_token("") is people.with_token("\ud800") is None


def test_a_hostile_name_in_the_database_does_nothing_to_a_terminal(state: State, tmp_path: Path) -> None:
    people = People(state.database)
    token = people.add("ada", "scientist")
    with state.database.write() as connection:
        connection.execute(update(tables.people).values(name="a\x1b[2J\nben  operator"))
    listed = tidegate(tmp_path, "server", "person", "list")
    assert listed.returncode == 0, listed.stderr
    assert "\x1b[2J" not in listed.stdout
    assert r"\x1b[2J\nben" in listed.stdout
    assert token not in listed.stdout
    for arguments, words in (
        (("add", "ben", "--role", "root"), "root"),
        (("add", "b\x1b[2Jn", "--role", "scientist"), "cannot be a person's name"),
        (("revoke", "ben"), "nobody named 'ben'"),
        (("add", "ben", "--role", "scientist", "--days", "0"), "days"),
    ):
        refused = tidegate(tmp_path, "server", "person", *arguments)
        assert refused.returncode == 2, refused.stdout
        assert words in refused.stderr
        assert "\x1b[2J" not in refused.stderr


def test_who_revokes_somebody_is_told_what_ends_with_them(state: State, tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    weeks = Standing(every="week", first="2026-W01", last="2026-W05", tries=1, drift_epsilon=0.5)
    signed = mandate_for(
        plan(), run="fake-1", code="c" * 64, authority="a" * 64, scientist="ada",
        expires=datetime.now(UTC) + timedelta(days=1), covers=weeks,
    )  # fmt: skip
    people, runs, schedules = (kind(state.database) for kind in (People, Submissions, Schedules))
    for name in ("ada", "ben"):
        people.add(name, "scientist")
    begun, waits = (runs.add(plan(), person="ada", federation="standing").run for _ in range(2))
    kept = runs.add(plan(), person="ben", federation="standing").run
    assert runs.take("standing", at_once=1) is not None
    schedules.add(ScheduleRecord.of(plan(), every="week", first="2026-W01"))
    schedules.sign("fake", sign_mandate(signed, key))
    schedules.ask(plan(), "2026-W01", by="ada", now=datetime.now(UTC))
    done = tidegate(tmp_path, "server", "person", "revoke", "ada")
    told = " ".join(done.stdout.split())
    assert f"their run '{begun}' is stopped" in told
    assert f"their run '{waits}' is taken out of the queue" in told
    assert "they signed the schedule of 'fake'" in told
    assert "the check of 'fake', window 2026-W01, is not theirs any more" in told
    assert kept not in told
    assert runs.places("standing") == {kept: 1}
    assert json.loads(tidegate(tmp_path, "server", "person", "revoke", "ben", "--json").stdout) == {
        "name": "ben",
        "runs": [kept],
        "schedules": [],
        "checks": [],
    }
