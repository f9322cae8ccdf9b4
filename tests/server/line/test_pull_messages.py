"""Replies are pulled several at a time by Flower's own code, and given in order as they come."""

# ruff: noqa: N802 - Flower's names
from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.proto.error_pb2 import Error
from flwr.proto.message_pb2 import Message as EnvelopeProto
from flwr.proto.message_pb2 import Metadata, ObjectTree, PullObjectRequest, PullObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse
from flwr.supercore.run import Run
from flwr.superlink.grid.http_grid import HttpGrid

from clients.line.packing import PackedReply, pack
from server.line.app_messages import pull_messages
from server.line.flower import (
    MOST_OBJECTS,
    NO_ANSWER,
    REFUSED,
    TOO_LONG,
    TOO_MANY_PARTS,
    assume_identity,
    quicken_grid,
)

RUN = 5


class SuperLink:
    """The client of a grid whose SuperLink holds these replies."""

    def __init__(self, *replies: PackedReply) -> None:
        self.replies = replies
        self.parts = {name: part for reply in replies for name, part in reply.objects.items()}
        self.asked: list[list[str]] = []
        self.confirmed: list[str] = []
        self.most = 0
        self._now, self._lock = 0, threading.Lock()

    def PullMessages(self, request: PullAppMessagesRequest) -> PullAppMessagesResponse:
        self.asked.append(list(request.message_ids))
        return PullAppMessagesResponse(
            messages_list=[EnvelopeProto.FromString(reply.envelope) for reply in self.replies],
            message_object_trees=[ObjectTree.FromString(reply.tree) for reply in self.replies],
        )

    def PullObject(self, request: PullObjectRequest) -> PullObjectResponse:
        name, whole = (
            request.object_id,
            [reply for reply in self.replies if request.object_id in reply.objects],
        )
        assert whole
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(0.05)
        with self._lock:
            self._now -= 1
        return PullObjectResponse(
            object_found=True,
            object_available=name in self.parts,
            object_content=self.parts.get(name, b""),
        )

    def ConfirmMessageReceived(self, request: Any) -> None:
        self.confirmed.append(request.message_object_id)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    from flwr.superlink.grid import http_grid

    for name in ("pull_objects", "RuntimeHttpClient"):
        monkeypatch.setattr(http_grid, name, getattr(http_grid, name))  # as it was, afterwards
    monkeypatch.setattr("server.line.flower._LONGEST_PULL", 1.0)
    assume_identity(RUN)
    quicken_grid()


def packed(number: int) -> PackedReply:
    question = Message(RecordDict(), dst_node_id=10 + number, message_type="train")
    content = RecordDict({"reply": ConfigRecord({"number": number})})
    return pack(Message(content, reply_to=question), to=question)


def grid_of(link: Any) -> HttpGrid:
    grid = HttpGrid(token="token")
    grid.set_run(Run.create_empty(RUN))
    grid._client = link
    return grid


def numbers(messages: list[Message]) -> list[int]:
    return [int(str(message.content.config_records["reply"]["number"])) for message in messages]


def test_they_come_in_order_and_several_are_on_their_way_at_a_time() -> None:
    link = SuperLink(*(packed(number) for number in range(7)))
    grid = grid_of(link)
    assert numbers(list(pull_messages(grid, ["a", "b"]))) == list(range(7))
    assert link.asked == [["a", "b"]]
    assert sorted(link.confirmed) == sorted(list(reply.objects)[-1] for reply in link.replies)
    assert link.most > 3  # of one message's three parts it would be three
    assert grid._client is link


def test_replies_of_many_sites_wait_at_the_superlink_until_they_are_read() -> None:
    """Each may be as long as a reply may be: all at once would be more than the memory of the ServerApp."""
    link = SuperLink(*(packed(number) for number in range(20)))
    found = pull_messages(grid_of(link), [])
    for read in range(1, 5):
        next(found)
        time.sleep(0.5)
        assert len(link.confirmed) <= read + 3
    assert len(list(found)) == 16


def test_the_first_is_given_while_a_later_one_is_awaited() -> None:
    link = SuperLink(*(packed(number) for number in range(2)))
    late = list(link.replies[1].objects)[-1]
    content = link.parts.pop(late)
    found = pull_messages(grid_of(link), [])
    first = next(found)
    link.parts[late] = content
    assert numbers([first, *found]) == [0, 1]


def test_a_reply_of_which_a_part_does_not_come_costs_no_other() -> None:
    link = SuperLink(*(packed(number) for number in range(4)))
    del link.parts[list(link.replies[1].objects)[-1]]
    found = list(pull_messages(grid_of(link), []))
    assert found[1].has_error()
    assert found[1].error.code in NO_ANSWER
    assert numbers([found[0], *found[2:]]) == [0, 2, 3]


def refusal(name: str, reason: str) -> PackedReply:
    """What our SuperLink gives in the place of a reply."""
    error = Error(code=REFUSED, reason=reason)
    envelope = EnvelopeProto(metadata=Metadata(reply_to_message_id=name), error=error)
    return PackedReply(run=RUN, envelope=envelope.SerializeToString(), tree=b"", objects={})


def test_a_reply_that_the_superlink_refused_is_an_error_to_its_message() -> None:
    link = SuperLink(packed(0), refusal("question", TOO_LONG))
    first, second = pull_messages(grid_of(link), [])
    assert numbers([first]) == [0]
    assert second.metadata.reply_to_message_id == "question"
    assert (second.error.code, second.error.reason) == (REFUSED, TOO_LONG)


def test_a_reply_that_is_refused_while_it_is_pulled_is_asked_for_once_more() -> None:
    class Changing(SuperLink):
        def PullObject(self, request: PullObjectRequest) -> PullObjectResponse:
            self.replies = (refusal("other", TOO_MANY_PARTS), refusal(name, TOO_LONG))
            return PullObjectResponse(object_found=False)

    reply = packed(0)
    name = EnvelopeProto.FromString(reply.envelope).metadata.reply_to_message_id
    (found,) = pull_messages(grid_of(Changing(reply)), [name])
    assert found.metadata.reply_to_message_id == name
    assert (found.error.code, found.error.reason) == (REFUSED, TOO_LONG)


def test_a_reply_of_many_objects_is_not_pulled() -> None:
    question = Message(RecordDict(), dst_node_id=10, message_type="train")
    content = RecordDict({f"x{number}": ConfigRecord({"x": number}) for number in range(MOST_OBJECTS)})
    link = SuperLink(pack(Message(content, reply_to=question), to=question), packed(1))
    first, second = pull_messages(grid_of(link), [])
    assert (first.error.code, first.error.reason) == (REFUSED, TOO_MANY_PARTS)
    assert numbers([second]) == [1]
    assert len(link.confirmed) == 1


def test_what_the_superlink_refuses_is_raised() -> None:
    class Refusing(SuperLink):
        def PullObject(self, request: PullObjectRequest) -> PullObjectResponse:
            raise ConnectionError("the run is over")

    with pytest.raises(ConnectionError):
        list(pull_messages(grid_of(Refusing(packed(0), packed(1))), []))
