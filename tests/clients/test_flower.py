"""The adapter to Flower's Fleet API, where a real SuperLink would take long to show it."""

from __future__ import annotations

import threading

import pytest

from clients.flower import _lasting_heartbeats


def test_heartbeats_go_on_after_an_error_that_flower_does_not_expect(
    caplog: pytest.LogCaptureFixture,
) -> None:
    beats, come = iter([RuntimeError("503"), ConnectionError("cut"), True]), threading.Event()

    def beat() -> bool:
        said = next(beats)
        if isinstance(said, Exception):
            raise said
        come.set()
        return said

    caplog.set_level("WARNING", "tidegate.agent")
    sender = _lasting_heartbeats(beat)
    sender.start()
    try:
        assert come.wait(30)
    finally:
        sender.stop()
    assert [message for message in caplog.messages if "the server did not take a heartbeat" in message] == [
        "the server did not take a heartbeat (503); trying again",
        "the server did not take a heartbeat (cut); trying again",
    ]
