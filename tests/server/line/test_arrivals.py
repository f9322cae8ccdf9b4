"""Which messages the ServerApp's question is about: no reply waits for it, and nobody is asked in vain."""

from __future__ import annotations

from server.line.arrivals import Arrivals


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_message_is_asked_for_once_in_a_second_and_at_once_when_its_reply_is_whole() -> None:
    clock = Clock()
    arrivals = Arrivals(clock)
    assert arrivals.worth_asking(["a", "b", "c"]) == ["a", "b", "c"]
    clock.now += 0.5
    assert arrivals.worth_asking(["a", "b", "c"]) == []
    arrivals.is_whole("b")
    assert arrivals.worth_asking(["a", "b", "c"]) == ["b"]
    assert arrivals.worth_asking(["a", "b", "c"]) == []
    clock.now += 0.5
    assert arrivals.worth_asking(["a", "b", "c"]) == ["a", "c"]


def test_a_reply_on_its_way_is_not_asked_for_until_it_is_whole_or_takes_too_long() -> None:
    clock = Clock()
    arrivals = Arrivals(clock)
    arrivals.announced("a")
    arrivals.announced("b")
    assert arrivals.worth_asking(["a", "b"]) == []
    arrivals.is_whole("a")
    assert arrivals.worth_asking(["a", "b"]) == ["a"]
    clock.now += 7.9
    assert "b" not in arrivals.worth_asking(["a", "b"])
    clock.now += 0.2
    assert "b" in arrivals.worth_asking(["a", "b"])


def test_a_site_that_announces_again_and_again_is_no_reason_to_forget_others() -> None:
    clock = Clock()
    arrivals = Arrivals(clock)
    arrivals.announced("honest")
    for number in range(1000):
        arrivals.announced(f"{number}")
    arrivals.is_whole("honest")
    assert arrivals.worth_asking(["honest"]) == ["honest"]
