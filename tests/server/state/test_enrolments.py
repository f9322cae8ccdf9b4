"""Invitations and requests: one key a token, one answer a request, whoever comes at the same moment."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from server.state.enrolments import Enrolments
from server.state.records import Enrolment
from server.state.storage import State, open_state

NOW = datetime(2026, 3, 1, tzinfo=UTC)
WEEK = timedelta(days=7)
SECRET, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def enrolments(state: State) -> Enrolments:
    return Enrolments(state.database, "standing")


def asked(key: str = "one", *, name: str = "north", rows: int = 50) -> Enrolment:
    return Enrolment(
        federation="standing",
        name=name,
        fingerprint=f"SHA256:{key}",
        public_key=key,
        signing_request="-",
        card=None,
        stated_rows=rows,
        asked=NOW,
    )


def test_what_was_asked_is_there_as_it_was_asked(enrolments: Enrolments) -> None:
    enrolments.invite("north", secret=SECRET, now=NOW, expires=NOW + WEEK)
    one = replace(asked(), card={"columns": []}, stated_rows=10**12)
    assert enrolments.join(one, secret=SECRET, now=NOW) == one
    assert enrolments.get("north") == one
    assert enrolments.invitations()[0].used == NOW
    assert enrolments.get("south") is None
    assert enrolments.all("confirmed") == ()


def test_no_card_is_no_value_in_the_database(enrolments: Enrolments, state: State) -> None:
    enrolments.invite("north", secret=SECRET, now=NOW, expires=NOW + WEEK)
    enrolments.join(asked(), secret=SECRET, now=NOW)
    with state.database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM enrolments WHERE card IS NULL")).scalar() == 1


def test_who_is_let_ask_for_nothing(enrolments: Enrolments) -> None:
    enrolments.invite("north", secret=SECRET, now=NOW, expires=NOW + WEEK)
    assert enrolments.join(asked(), secret=OTHER, now=NOW) is None
    assert enrolments.join(asked(name="south"), secret=SECRET, now=NOW) is None
    assert enrolments.join(asked(), secret=SECRET, now=NOW + WEEK) is None
    assert enrolments.all() == ()
    assert enrolments.join(asked(), secret=SECRET, now=NOW + WEEK - timedelta(seconds=1)) is not None
    assert enrolments.join(asked("two"), secret=SECRET, now=NOW) is None
    assert [(one.fingerprint, one.rival) for one in enrolments.all()] == [("SHA256:one", "SHA256:two")]


def test_a_newer_invitation_takes_the_place_of_the_older_and_of_its_request(enrolments: Enrolments) -> None:
    enrolments.invite("north", secret=SECRET, now=NOW, expires=NOW + WEEK)
    enrolments.join(asked(), secret=SECRET, now=NOW)
    enrolments.invite("north", secret=OTHER, now=NOW, expires=NOW + WEEK)
    assert enrolments.all() == ()
    assert enrolments.join(asked(), secret=SECRET, now=NOW) is None
    assert enrolments.join(asked("two"), secret=OTHER, now=NOW) is not None
    assert len(enrolments.invitations()) == 1


def test_a_request_is_answered_once(enrolments: Enrolments) -> None:
    enrolments.invite("north", secret=SECRET, now=NOW, expires=NOW + WEEK)
    one = enrolments.join(asked(), secret=SECRET, now=NOW)
    assert one is not None
    assert not enrolments.confirm(asked("two"), "c", now=NOW)  # another key's
    assert enrolments.confirm(one, "c", now=NOW)
    assert not enrolments.confirm(one, "d", now=NOW)
    assert not enrolments.refuse(one, now=NOW)
    again = enrolments.join(asked(rows=7), secret=SECRET, now=NOW)
    assert again is not None
    assert (again.state, again.certificate, again.stated_rows) == ("confirmed", "c", 50)


def test_what_was_revoked_is_renewed_no_more(enrolments: Enrolments) -> None:
    enrolments.invite("north", secret=SECRET, now=NOW, expires=NOW + WEEK)
    one = enrolments.join(asked(), secret=SECRET, now=NOW)
    assert one is not None
    assert not enrolments.ask_renewal(one, now=NOW)
    enrolments.confirm(one, "c", now=NOW)
    assert enrolments.ask_renewal(one, now=NOW)
    assert enrolments.renew(one, "d")
    assert not enrolments.renew(asked("two"), "e")
    assert enrolments.revoke("north", now=NOW)
    assert not enrolments.revoke("north", now=NOW)
    assert not enrolments.ask_renewal(one, now=NOW)
    assert not enrolments.renew(one, "e")
    found = enrolments.get("north")
    assert found is not None
    assert (found.state, found.certificate, found.renewal_asked) == ("revoked", "d", None)


def test_each_federation_has_its_own(enrolments: Enrolments, state: State) -> None:
    other = Enrolments(state.database, "other")
    for one in (enrolments, other):
        one.invite("north", secret=SECRET, now=NOW, expires=NOW + WEEK)
    enrolments.join(asked(), secret=SECRET, now=NOW)
    assert other.all() == ()
    assert other.invitations()[0].used is None


def test_on_postgresql_two_keys_at_once_are_one_after_the_other(postgres: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with open_state(postgres) as state:
        enrolments = Enrolments(state.database, "standing")
        enrolments.invite("north", secret=SECRET, now=NOW, expires=NOW + WEEK)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda n: enrolments.join(asked(str(n)), secret=SECRET, now=NOW), range(8)))
        assert sum(one is not None for one in found) == 1
        assert enrolments.all()[0].rival is not None
