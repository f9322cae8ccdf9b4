"""One exchange with the sites: send, wait for the quorum, say who is missing.

Flower's strategies wait without limit and its grid polls every three seconds.
Here an exchange ends when every site has answered; or when the quorum has and
the others were given their grace; or at the deadline. It never passes off a
subset as the whole: whoever was asked and did not count is named with a reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid

from contract.errors import RefusalCode, ReleaseError, RoundError
from contract.messages import Instruction, Reply

__all__ = ["LOST", "Answers", "Patience", "connected_sites", "exchange", "instruct"]

LOST = "no answer"
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.01, 0.25

Arrays = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long an exchange may take.

    Attributes:
        quorum: how many sites must count.
        deadline: seconds until the exchange ends whatever came.
        grace: seconds that the others have once the quorum has answered; doubled
            if the quorum took longer than that.
    """

    quorum: int
    deadline: float
    grace: float


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What came back.

    Attributes:
        asked: the sites that were asked, by name (or by node, if never heard of).
        replies: what counts, by site.
        failures: who does not count, and why, by site.
        nodes: the node that each counted site answered from.
        seconds: how long the exchange took.
    """

    asked: tuple[str, ...]
    replies: dict[str, Reply]
    failures: dict[str, str] = field(default_factory=dict)
    nodes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def require(self, quorum: int, what: str) -> None:
        """Refuse to go on with fewer sites than the quorum.

        Raises:
            RoundError: with every site that is missing and its reason.
        """
        if len(self.replies) >= quorum:
            return
        reasons = ", ".join(f"{site} ({reason})" for site, reason in sorted(self.failures.items()))
        raise RoundError(
            f"{what} needs {quorum} sites and got {len(self.replies)}; "
            f"missing: {reasons or 'no site is connected'}",
            remedy="Start the missing sites, or read their own logs for the reason, and resume the run: "
            "it goes on from the last checkpoint",
        )


def connected_sites(grid: Grid, patience: Patience, *, pause: float = 0.1) -> list[int]:
    """Node ids of the connected sites, in order, once there are as many as the quorum.

    Raises:
        RoundError: the deadline passed first.
    """
    end = time.monotonic() + patience.deadline
    while len(nodes := sorted(grid.get_node_ids())) < patience.quorum:
        if time.monotonic() > end:
            raise RoundError(
                f"{len(nodes)} sites are connected, and {patience.quorum} are needed",
                remedy="Start the sites with `tidegate site up`, or lower strategy.quorum",
            )
        time.sleep(pause)
    return nodes


def instruct(
    nodes: Iterable[int], kind: str, instruction: Instruction, arrays: Arrays | None
) -> list[Message]:
    """The same instruction for every node."""
    records = instruction.to_records(arrays)
    return [Message(content=records, dst_node_id=node, message_type=kind) for node in nodes]


def exchange(
    grid: Grid,
    messages: Iterable[Message],
    *,
    names: Mapping[int, str],
    patience: Patience,
    check: Callable[[Reply], None] = lambda _: None,
) -> Answers:
    """Send the messages, collect the replies.

    Args:
        grid: Flower's, or the inline runtime's.
        messages: one for each site asked.
        names: the site's name by node, as far as it is known.
        patience: quorum, deadline and grace.
        check: raises ReleaseError for a reply that must not count.
    """
    began = time.monotonic()
    messages = list(messages)
    asked = [message.metadata.dst_node_id for message in messages]
    waiting = dict(zip(grid.push_messages(messages), asked, strict=True))
    replies: dict[str, Reply] = {}
    failures: dict[str, str] = {}
    nodes: dict[str, int] = {}
    pause, ends = _SHORTEST_PAUSE, began + patience.deadline
    graced = False
    while waiting:
        for message in grid.pull_messages(list(waiting)):
            node = waiting.pop(message.metadata.reply_to_message_id)
            pause = _SHORTEST_PAUSE
            reply = _accept(message, names.get(node, f"node {node}"), check, replies, failures)
            if reply is not None:
                replies[reply.site], nodes[reply.site] = reply, node
        if waiting and not graced and len(replies) >= patience.quorum:
            graced, taken = True, time.monotonic() - began
            ends = min(ends, time.monotonic() + max(patience.grace, 2 * taken))
        if time.monotonic() >= ends:
            break
        if waiting:
            time.sleep(pause)
            pause = min(_LONGEST_PAUSE, 1.5 * pause)
    failures |= {names.get(node, f"node {node}"): LOST for node in waiting.values()}
    return Answers(
        asked=tuple(sorted(set(replies) | set(failures))),
        replies=dict(sorted(replies.items())),
        failures=failures,
        nodes=nodes,
        seconds=time.monotonic() - began,
    )


def _accept(
    message: Message,
    name: str,
    check: Callable[[Reply], None],
    replies: Mapping[str, Reply],
    failures: dict[str, str],
) -> Reply | None:
    """The reply if it counts; otherwise enter the reason."""
    if message.has_error():
        reason = message.error.reason
        failures[name] = reason if reason in RefusalCode.ALL else LOST
        return None
    try:
        reply = Reply.from_records(message.content)
        check(reply)
    except ReleaseError as exc:
        failures[name] = exc.what
        return None
    if reply.site in replies:
        failures[f"{name} as {reply.site}"] = "two nodes gave the same site name"
        return None
    return reply
