"""Signing in with a browser, and those who would like somebody else to have done so."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import httpx
import pytest

import server.api.session
from server.api.session import COOKIE, HOURS
from tests.server.api.conftest import Served

INSIDE = "/mlflow/version"
"""503 for who is let in: no MLflow runs behind these tests."""


def _browser(served: Served, **headers: str) -> httpx.Client:
    return served.client(headers={"Origin": served.url, **headers})


def _sign_in(client: httpx.Client, token: str) -> httpx.Response:
    return client.post("/sign-in", data={"token": token})


def test_a_token_is_exchanged_for_a_cookie_that_no_script_and_no_other_site_has(served: Served) -> None:
    token = served.people.add("rita", "reviewer")
    with _browser(served) as browser:
        assert "<form method=post" in browser.get("/sign-in").text
        answer = _sign_in(browser, f" {token}\n")
        assert (answer.status_code, answer.headers["location"]) == (303, "/mlflow/")
        cookie = answer.headers["set-cookie"]
        assert token not in cookie
        assert cookie.startswith("__Host-")
        for word in ("HttpOnly", "Secure", "SameSite=strict", f"Max-Age={HOURS * 3600}", "Path=/"):
            assert word in cookie
        assert "Domain" not in cookie
        assert browser.get(INSIDE).status_code == 503
        assert "You are rita, reviewer." in browser.get("/sign-in").text
        # the API itself takes a token alone, so no page in a browser can speak to it
        assert browser.get("/v1/whoami").status_code == 401
        out = browser.post("/sign-out")
        assert (out.status_code, "Max-Age=0" in out.headers["set-cookie"]) == (303, True)
    old = cookie.split(";")[0]
    with _browser(served, Cookie=old) as thief:
        assert thief.get(INSIDE).status_code == 401
        assert "<form" in thief.get("/sign-in").text
    assert "rita signs in" in served.log
    assert token not in served.log
    assert old.split("=")[1] not in served.log


def test_a_session_ends_with_its_hours_and_with_its_token(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=2)
    for name, expires in (("ada", None), ("ben", None), ("eve", soon)):
        token = served.people.add(name, "reviewer", expires=expires)
        with _browser(served) as browser:
            assert _sign_in(browser, token).status_code == 303
            if name != "eve":
                assert browser.get(INSIDE).status_code == 503
            if name == "ada":
                served.people.revoke("ada")
                served.people.add("ada", "operator")  # made anew: the old session does not rise with it
            elif name == "ben":
                later = SimpleNamespace(monotonic=lambda: time.monotonic() + HOURS * 3600)
                monkeypatch.setattr(server.api.session, "time", later)
            else:
                time.sleep(2.1)
            assert browser.get(INSIDE).status_code == 401
            monkeypatch.undo()


def test_ten_sessions_of_a_person_and_no_more(served: Served) -> None:
    tokens = [served.people.add(name, "reviewer") for name in ("ada", "ben")]
    browsers = [_browser(served) for _ in range(12)]
    other = _browser(served)
    assert _sign_in(other, tokens[1]).status_code == 303
    for browser in browsers:
        assert _sign_in(browser, tokens[0]).status_code == 303
    assert [one.get(INSIDE).status_code for one in browsers] == [401] * 2 + [503] * 10
    assert other.get(INSIDE).status_code == 503
    for browser in (*browsers, other):
        browser.close()


def test_guesses_at_the_form_are_slowed_and_told_nothing(served: Served) -> None:
    good = served.people.add("ada", "reviewer")
    with _browser(served) as stranger:
        answers = [_sign_in(stranger, f"guess {number}") for number in range(20)]
        assert [one.status_code for one in answers] == [401] * 10 + [429] * 10
        assert all("set-cookie" not in one.headers for one in answers)
        assert "guess" not in answers[0].text
        assert _sign_in(stranger, good).status_code == 303
    assert served.log.count("no good token") == 10
    assert "guess" not in served.log


def test_odd_forms_are_refused_in_words(served: Served) -> None:
    served.people.add("ada", "reviewer")
    with _browser(served) as stranger:
        for content in (
            b"", b"token", b"token=", b"\xff\xfe", b"token=%ff%00", b"token=a&" * 100, b"t" * 100_000,
            b"token=" + b"x" * 1_000_000,
        ):  # fmt: skip
            assert stranger.post("/sign-in", content=content).status_code == 401, content[:20]
        assert stranger.post("/sign-in", content=b"x" * (2**20 + 1)).status_code == 413
        for cookie in (f"{COOKIE}=", f"{COOKIE}=x", f'{COOKIE}="x', ";;;=", f"{COOKIE}=" + "x" * 20_000):
            assert stranger.get(INSIDE, headers={"Cookie": cookie}).status_code in (401, 429)


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "", None, "http://127.0.0.1", "same-but-http"]
)
def test_another_page_signs_nobody_in_and_changes_nothing(served: Served, origin: str | None) -> None:
    token = served.people.add("rita", "reviewer")
    headers = {} if origin is None else {"Origin": origin}
    if origin == "same-but-http":
        headers["Origin"] = served.url.replace("https", "http")
    with served.client(headers=headers) as foreign, _browser(served) as own:
        assert _sign_in(foreign, token).status_code == 403
        assert _sign_in(own, token).status_code == 303
        cookie = {"Cookie": f"{COOKIE}={own.cookies[COOKIE]}"}
        for method in ("POST", "PATCH", "DELETE", "PUT", "OPTIONS"):
            refused = foreign.request(method, "/mlflow/api/2.0/mlflow/runs/set-tag", json={}, headers=cookie)
            assert (refused.status_code, refused.json()["what"]) == (403, "this comes from another page")
        assert foreign.post("/sign-out", headers=cookie).status_code == 403
        assert own.get(INSIDE).status_code == 503
    with served.client(token) as program:  # a program has no pages, and a page no token
        assert program.post("/mlflow/graphql", json={}).status_code == 503


def test_the_token_in_an_address_is_no_token(served: Served) -> None:
    token = served.people.add("ada", "reviewer")
    with _browser(served) as browser:
        assert browser.get(INSIDE, params={"token": token, "access_token": token}).status_code == 401
        assert browser.post("/sign-in", params={"token": token}).status_code == 401
        assert (
            browser.get("/sign-in", params={"token": token, "next": "https://evil.example"}).status_code
            == 200
        )
