"""A site whose clock is wrong dates its requests by the server's."""

from __future__ import annotations

import datetime
import time
from email.utils import formatdate
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flwr.supercore.interceptors.http.utils import add_headers

from clients.line.clock import ServerClock


class Server:
    """Refuses what is dated as Flower refuses it; its clock is `off` seconds from the one here."""

    def __init__(self, clock: ServerClock, off: float) -> None:
        self.clock, self.off, self.asked = clock, off, 0
        self.says: Any = lambda: formatdate(time.time() + self.off, usegmt=True)

    def __call__(self, context: Any) -> httpx.Response:
        self.asked += 1
        add_headers(context.request, {"signed": "yes"})  # which Flower does once
        age = time.time() + self.off - self.clock.now().timestamp()
        said = self.says()
        return httpx.Response(200 if -5 < age < 305 else 401, headers={} if said is None else {"date": said})

    def ask(self) -> int:
        context = SimpleNamespace(request=httpx.Request("POST", "https://server"))
        status: int = self.clock.intercept(context, self).status_code
        return status


@pytest.mark.parametrize("off", [-1800.0, -30.0, -6.0, 0.0, 30.0, 299.0, 400.0, 3500.0])
def test_a_request_is_let_in_whatever_the_clock_here_says(off: float) -> None:
    server = Server(ServerClock(), off)
    assert [server.ask() for _ in range(3)] == [200] * 3
    assert server.asked == (3 if -5 < off < 305 else 4)  # the first of them twice
    told = server.clock.now() - datetime.datetime.now(tz=datetime.UTC)
    assert abs(told.total_seconds() - off) < 3


def test_a_clock_that_is_set_is_followed_no_more(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "tidegate.agent")
    server = Server(ServerClock(), -30.0)
    assert server.ask() == 200
    server.off = 0.0
    assert [server.ask(), server.ask()] == [200, 200]
    assert [message.split(":")[0] for message in caplog.messages] == [
        "the clock here is 30 s ahead of the server's",
        "the clock here agrees with the server's again",
    ]


@pytest.mark.parametrize(
    "said", [None, "", "noon", "Sun, 99 Nov 2026 16:28:47 GMT", "Sun, 29 Nov 99999 16:28:47 GMT", "0" * 9999]
)
def test_what_is_no_date_changes_nothing(said: str | None) -> None:
    server = Server(ServerClock(), 0.0)
    server.says = lambda: said
    assert server.ask() == 200
    assert abs(server.clock.now().timestamp() - time.time()) < 3


def test_an_answer_that_was_held_or_came_late_is_no_wrong_clock(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server may say the time of when the question came, and hold the answer for seconds."""
    server, times = Server(ServerClock(), 0.0), iter([1000.0, 1001.0, 1030.0])
    monkeypatch.setattr(time, "time", lambda: next(times))
    server.says = lambda: formatdate(1000.0, usegmt=True)
    monkeypatch.setattr(server.clock, "now", lambda: datetime.datetime.fromtimestamp(1000, tz=datetime.UTC))
    assert server.ask() == 200
    assert caplog.messages == []


@pytest.mark.parametrize("off", [-7200.0, 86400.0, 10.0**9])
def test_a_clock_that_is_hours_off_is_not_followed(off: float) -> None:
    """Then certificates are out of time too; `tidegate site doctor` says so."""
    server = Server(ServerClock(), off)
    assert server.ask() == 401
    assert server.asked == 1
