"""Signing in: what a cookie is good for, and what those get who come by another way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx
import pytest
from starlette.responses import Response

import server.api.events
from contract.experiment import Experiment
from server.api.session import COOKIE, SESSION_SECONDS, Sessions
from server.state.people import Person
from tests.server.api.conftest import Served, submission

OWN = {"Sec-Fetch-Site": "same-origin"}
ADA = Person(name="ada", role="scientist", made=datetime.now(UTC), expires=None, revoked=None)


def sign_in(client: httpx.Client, token: str, headers: dict[str, str] | None = None) -> httpx.Response:
    return client.post("/sign-in", data={"token": token}, headers=OWN if headers is None else headers)


def begin(sessions: Sessions, person: Person = ADA) -> str:
    answer = Response()
    sessions.begin(person, answer)
    return answer.headers["set-cookie"].partition("=")[2].partition(";")[0]


def test_the_cookie_is_this_hosts_alone_and_reads(served: Served, experiment: Experiment) -> None:
    token = served.people.add("ada", "operator", expires=datetime.now(UTC) + timedelta(hours=1))
    run = served.submissions.add(experiment, person="ada", federation="standing").run
    with served.client() as ada:
        answer = sign_in(ada, f" {token}\n")  # as it is pasted
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        first, *parts = answer.headers["set-cookie"].split("; ")
        assert first.startswith(f"{COOKIE}=")
        assert token not in first
        age = next(part for part in parts if part.startswith("Max-Age="))
        assert set(parts) == {age, "HttpOnly", "Path=/", "SameSite=strict", "Secure"}
        assert 3500 < int(age.partition("=")[2]) <= 3600  # no longer than the token
        assert ada.get("/v1/whoami").json()["name"] == "ada"
        assert "ada" in ada.get("/").text
        for path, content in (("/v1/runs", submission(experiment)), (f"/v1/runs/{run}/stop", None)):
            assert ada.post(path, json=content, headers=OWN).status_code == 401
        assert served.submissions.get(run).stopped_by == ""  # type: ignore[union-attr]


def test_no_page_of_another_site_uses_it(served: Served) -> None:
    token = served.people.add("ada", "scientist")
    with served.client() as ada:
        for headers in (
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site", "Origin": served.url},
            {"Sec-Fetch-Site": "none"},
            {"Origin": "null"},
            {"Origin": served.url.replace("127.0.0.1", "127.0.0.2")},
            {"Origin": f"{served.url}0"},
            {},
        ):
            refused = sign_in(ada, token, headers)
            assert (refused.status_code, "set-cookie" in refused.headers) == (403, False), headers
        assert sign_in(ada, token, {"Origin": served.url}).status_code == 303  # an older browser
        for site in ("cross-site", "same-site"):
            assert ada.get("/v1/whoami", headers={"Sec-Fetch-Site": site}).status_code == 401
            assert ada.post("/sign-out", headers={"Sec-Fetch-Site": site}).status_code == 403
        answer = ada.get("/v1/whoami", headers={"Sec-Fetch-Site": "same-origin"})
        assert answer.status_code == 200
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in answer.headers


def test_a_token_in_an_address_is_none(served: Served) -> None:
    token = served.people.add("ada", "scientist")
    with served.client() as ada:
        for method, path in (
            ("GET", f"/sign-in?token={token}"),
            ("GET", f"/?token={token}"),
            ("POST", f"/sign-in?token={token}"),
        ):
            answer = ada.request(method, path, headers=OWN)
            assert "set-cookie" not in answer.headers
            assert token not in answer.text
    assert token not in served.log


def test_guesses_at_the_form_are_counted_with_those_at_the_api(served: Served) -> None:
    token = served.people.add("ada", "scientist")
    with served.client() as stranger:
        codes = [sign_in(stranger, f"guess {number}").status_code for number in range(6)]
        codes += [stranger.get("/v1/whoami").status_code for _ in range(6)]
        codes += [sign_in(stranger, "guess").status_code for _ in range(3)]
        assert codes == [401] * 10 + [429] * 5
        assert "wait a minute" in sign_in(stranger, "guess").text
        assert served.log.count("has no good token") == 10
        # The page takes no token of a header: there nobody would count the guesses.
        assert "Your token" in stranger.get("/", headers={"Authorization": f"Bearer {token}"}).text
        assert sign_in(stranger, token).status_code == 303


@pytest.mark.parametrize(
    "body",
    [b"", b"token", b"\xff\xfe", b"token=%ff", b"a=1&" * 900, b"token=" + b"x" * 3000, b'{"token": 1}'],
)
def test_an_odd_form_is_a_wrong_token(served: Served, body: bytes) -> None:
    with served.client() as stranger:
        assert stranger.post("/sign-in", content=body, headers=OWN).status_code == 401
        assert stranger.post("/sign-in", content=b"x" * 5000, headers=OWN).status_code == 413


def test_a_session_ends_with_signing_out_and_with_the_token(served: Served) -> None:
    token = served.people.add("ada", "scientist")
    with served.client() as ada, served.client() as thief:
        sign_in(ada, token)
        stolen = {"Cookie": f"{COOKIE}={ada.cookies[COOKIE]}"}
        assert thief.get("/v1/whoami", headers=stolen).status_code == 200
        assert "Max-Age=0" in ada.post("/sign-out", headers=OWN).headers["set-cookie"]
        assert thief.get("/v1/whoami", headers=stolen).status_code == 401
        sign_in(ada, token)
        served.people.revoke("ada")
        served.people.add("ada", "operator")
        assert ada.get("/v1/whoami").status_code == 401
        assert "Your token" in ada.get("/").text


def test_a_stream_ends_with_the_session_that_opened_it(
    served: Served, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.api.events, "_HEARTBEAT", 0.1)
    monkeypatch.setattr(server.api.events, "_LOOK", 0.05)
    token = served.people.add("ada", "scientist")
    served.state.start_run("r1", experiment=experiment, job="train", trigger="t", code_hash="c")
    with served.client() as ada, served.client() as other:
        sign_in(ada, token)
        kept = {"Cookie": f"{COOKIE}={ada.cookies[COOKIE]}", **OWN}
        with other.stream("GET", "/v1/runs/r1/events", headers=kept) as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith(":")
            ada.post("/sign-out", headers=OWN)
            list(lines)  # ends


def test_hours_end_a_session_and_of_too_many_the_oldest_goes() -> None:
    now = [0.0]
    sessions = Sessions(is_good=lambda _: True, now=lambda: now[0])
    first = begin(sessions)
    now[0] = SESSION_SECONDS - 1
    assert sessions.person(first) == ADA
    now[0] = SESSION_SECONDS
    assert sessions.person(first) is None
    opened = [begin(sessions) for _ in range(21)]
    assert len(set(opened)) == 21
    assert [sessions.person(one) is not None for one in opened] == [False] + [True] * 20
    assert sessions.person("") is None
    assert first not in repr(sessions)
    assert opened[-1] not in repr(sessions)
