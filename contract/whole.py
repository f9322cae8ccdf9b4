"""A message with all that it holds, in one request: several of Flower's requests or answers in a row.

Flower asks for a message, then for each of its objects, then says that it has arrived; and announces a reply,
then sends each of its objects. Over a long line each of these costs the time there and back.

    POST PULL   a PullMessagesRequest       its answer, and the objects of the message that are not long,
                                            in the order of `object_names`
    POST PUSH   a PushMessagesRequest,      its answer, and those to the objects that were wanted
                a PushObjectRequest each,
                a ConfirmMessageReceivedRequest

And a site that is to stop has its question for a message answered, which the server holds:

    POST RELEASE   a SendNodeHeartbeatRequest   its answer

Each part is preceded by its length, four bytes, the most significant first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

__all__ = ["MOST_SAID", "MOST_TOGETHER", "PULL", "PUSH", "RELEASE", "Parts", "join", "object_names", "split"]

PULL, PUSH = "/v1/fleet/whole/pull", "/v1/fleet/whole/push"
RELEASE = "/v1/fleet/whole/release"
MOST_TOGETHER = 2**19
"""Bytes of the objects of a message, or a reply, that travel with it; longer ones travel alone."""
MOST_SAID = 2**16
"""Bytes of a request of a site that has no object in it: read, its nested messages take some forty times as
many. An object is read as it is."""
_LENGTH = 4


def join(parts: Sequence[bytes]) -> bytes:
    """The parts one after another.

    >>> split(join([b"one", b"", b"three"]), most=3)
    [b'one', b'', b'three']
    """
    return b"".join(item for part in parts for item in (len(part).to_bytes(_LENGTH, "big"), part))


def split(content: bytes, *, most: int) -> list[bytes]:
    """The parts again.

    Args:
        content: as `join` made it, or anything.
        most: how many there may be.

    Raises:
        ValueError: it is not so many parts, or their lengths are not those that it says.
    """
    parts: list[bytes] = []
    at = 0
    while at < len(content):
        end = at + _LENGTH + int.from_bytes(content[at : at + _LENGTH], "big")
        if at + _LENGTH > len(content) or end > len(content) or len(parts) == most:
            raise ValueError("no message with what it holds")
        parts.append(content[at + _LENGTH : end])
        at = end
    return parts


class Parts:
    """Looks to Flower's clients like a protobuf message, and is the parts of one of these.

    Args:
        parts: of a request.
    """

    MOST: ClassVar[int] = 64
    """Of an answer; an honest one to a site has about five."""

    def __init__(self, parts: Sequence[bytes] = ()) -> None:
        self.parts = list(parts)

    def SerializeToString(self, deterministic: bool = True) -> bytes:  # noqa: N802 - protobuf's
        """The parts one after another."""
        return join(self.parts)

    def ParseFromString(self, content: bytes) -> None:  # noqa: N802 - protobuf's name
        """Take what `join` made.

        Raises:
            ValueError: it is none, or has more than `MOST` parts.
        """
        self.parts = split(content, most=self.MOST)


def object_names(tree: Any) -> Iterator[str]:
    """The ids of a message's objects, from an `ObjectTree`: the message's own first, each before its parts.

    The message itself is pushed last: when it is there, so is what it holds.
    """
    yield tree.object_id
    for child in tree.children:
        yield from object_names(child)
