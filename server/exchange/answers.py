"""One exchange with the sites: send, wait for the quorum, say who is missing.

Flower's strategies wait without limit and its grid polls every three seconds.
Here an exchange ends when every site has answered; or when the quorum has and
the others were given their grace; or at the deadline. It never passes off a
subset as the whole: whoever was asked and did not count is named with a reason.
In a simulation nobody is left out for being slow: a virtual node waits for a worker,
and a result that depended on how busy the machine is could not be repeated.
Nothing that a site sends ends it: what is no message, is not a reply to this very one, or fails
its checks, is refused or ignored, and said. It costs no other site anything.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from contract.errors import RefusalCode, ReleaseError, RoundError, StorageError
from contract.experiment import Strategy
from contract.messages import REPLY, Instruction, Reply
from contract.words import counted, verb
from server.exchange.bounds import ReplySize
from server.line.app_messages import content_size, pull_messages, push_messages
from server.line.flower import (
    NO_ANSWER,
    REFUSED,
    TOO_LONG,
    TOO_MANY_PARTS,
    UNREADABLE,
    is_simulated,
)
from server.settings import approval_seconds
from server.state.participation import (
    BEGIN_ANEW,
    GO_ON,
    LOST,
    NAME_REFUSED,
    NOT_UNDERSTOOD,
    PACKAGE_FAULTS,
    TWICE,
    WAITING,
    printable,
    told,
)

__all__ = ["LOST", "Answers", "Patience", "connected_sites", "exchange", "instruct"]

_log = logging.getLogger("flwr")
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.01, 0.25
_FIRST_REPEAT = 10.0
"""Seconds until a site that has not answered is sent its instruction again; each time it is twice as long."""

Arrays = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long an exchange may take.

    Attributes:
        quorum: how many sites must count.
        deadline: seconds until the exchange ends whatever came.
        grace: seconds that the others have once the quorum has answered; doubled
            if the quorum took longer than that.
        approval: seconds that a quorum is waited for which lacks nothing but sites' approvals.
    """

    quorum: int
    deadline: float
    grace: float
    approval: float = 0.0

    @classmethod
    def of(cls, strategy: Strategy) -> Patience:
        """What an experiment says of waiting, and the server's settings of waiting for approval."""
        return cls(
            quorum=strategy.quorum,
            deadline=strategy.round_timeout,
            grace=strategy.grace,
            approval=approval_seconds(),
        )


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What came back.

    Attributes:
        asked: the sites that were asked, by name (or by node, if never heard of).
        replies: what counts, by site.
        failures: who does not count, and why, by site.
        nodes: the node that each site was asked at, whether it counts or not.
        refused: of `failures`, those whose reply came and was refused here.
        waiting: who may still answer; none once the exchange has ended.
        seconds: how long the exchange took.
    """

    asked: tuple[str, ...]
    replies: dict[str, Reply]
    failures: dict[str, str] = field(default_factory=dict)
    nodes: dict[str, int] = field(default_factory=dict)
    refused: frozenset[str] = frozenset()
    waiting: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def unapproved(self) -> tuple[str, ...]:
        """The sites whose administrators have not approved the experiment yet."""
        return tuple(sorted(site for site, reason in self.failures.items() if reason == WAITING))

    def joined(self, later: Answers) -> Answers:
        """These answers, and those of sites of `failures` that were asked once more."""
        again = set(later.nodes.values())
        open_ones = {later.nodes[site] for site in later.waiting}  # what they said before holds meanwhile
        answered = again - open_ones
        kept = {s: reason for s, reason in self.failures.items() if self.nodes.get(s) not in answered}
        # a name that another node has answered under already counts once, as within one exchange
        twice = later.replies.keys() & self.replies.keys()
        renamed = {f"node {later.nodes[site]} as {site}": later.nodes[site] for site in twice}
        replies = {**self.replies, **{site: r for site, r in later.replies.items() if site not in twice}}
        nodes = {site: node for site, node in self.nodes.items() if node not in again}
        nodes |= {site: node for site, node in later.nodes.items() if site not in twice} | renamed
        failures = {**kept, **later.failures, **dict.fromkeys(renamed, TWICE)}
        return Answers(
            asked=tuple(sorted({*replies, *failures, *later.waiting})),
            replies=dict(sorted(replies.items())),
            failures=failures,
            nodes=nodes,
            refused=frozenset({*self.refused, *later.refused, *renamed} & failures.keys()),
            waiting=later.waiting,
            seconds=self.seconds + later.seconds,
        )

    def require(self, quorum: int, what: str) -> None:
        """Refuse to go on with fewer sites than the quorum.

        Raises:
            RoundError: with every site that is missing and its reason.
        """
        if len(self.replies) >= quorum:
            return
        reasons = ", ".join(f"{site} ({reason})" for site, reason in sorted(self.failures.items()))
        later = BEGIN_ANEW if PACKAGE_FAULTS & set(self.failures.values()) else GO_ON
        raise RoundError(
            f"{what} needs {counted(quorum, 'site')} and got {len(self.replies)}; "
            f"missing: {reasons or 'no site is connected'}",
            remedy=f"{told(self.failures) or 'Start the missing sites'}. Then {later}",
        )


def connected_sites(
    grid: Grid,
    patience: Patience,
    *,
    pause: float = 0.1,
    what: str = "",
    names: Mapping[int, str] = MappingProxyType({}),
    watch: Callable[[list[int]], None] = lambda _: None,
    only: Collection[int] | None = None,
) -> list[int]:
    """Node ids of the connected sites, in order, once there are as many as the quorum.

    Args:
        grid: knows who is connected.
        patience: quorum and deadline.
        pause: seconds between two looks.
        what: what they are needed for, for the error.
        names: the admitted site of each node, as far as it is known.
        watch: is told who is connected at each look.
        only: the nodes that may be asked; None for all.

    Raises:
        RoundError: the deadline passed first.
    """
    end = time.monotonic() + patience.deadline
    while True:
        nodes = sorted(node for node in grid.get_node_ids() if only is None or node in only)
        watch(nodes)
        if len(nodes) >= patience.quorum:
            return nodes
        if time.monotonic() > end:
            missing = ", ".join(sorted(name for node, name in names.items() if node not in nodes))
            raise RoundError(
                f"{counted(len(nodes), 'site')} {verb(len(nodes), 'is', 'are')} connected, "
                f"and {patience.quorum} {verb(patience.quorum, 'is', 'are')} needed"
                f"{f'; not connected: {missing}' if missing else ''}",
                where=what,
                remedy="Start the sites with `tidegate site up`, or lower strategy.quorum",
            )
        time.sleep(pause)


def instruct(
    nodes: Iterable[int], kind: str, instruction: Instruction, arrays: Arrays | None
) -> list[Message]:
    """The same instruction for every node; a site's agent reads of it no more than its request's name."""
    records, request = instruction.to_records(arrays), instruction.request(kind)
    return [Message(content=records, dst_node_id=node, message_type=kind, group_id=request) for node in nodes]


def exchange(
    grid: Grid,
    messages: Iterable[Message],
    *,
    names: Mapping[int, str],
    patience: Patience,
    check: Callable[[Reply], None] = lambda _: None,
    admitted: Mapping[int, str] = MappingProxyType({}),
    size: ReplySize | None = None,
    watch: Callable[[Answers], None] = lambda _: None,
) -> Answers:
    """Send the messages, collect the replies.

    Args:
        grid: Flower's, or the inline runtime's.
        messages: one for each site asked.
        names: the site's name by node, as far as it is known, to speak of it.
        patience: quorum, deadline and grace.
        check: raises ReleaseError for a reply that must not count.
        admitted: the name under which a node must answer, and no other node may.
        size: how long a reply may be; None for what `contract.messages` allows.
        watch: is told at each look how it stands.
    """
    began = time.monotonic()
    messages = list(messages)
    asked = [message.metadata.dst_node_id for message in messages]
    sent = dict(zip(push_messages(grid, messages), asked, strict=True))
    waiting = {message.metadata.dst_node_id: message for message in messages}
    desk = _Desk(
        names=names,
        check=check,
        size=size,
        admitted={node: site for node, site in admitted.items() if node in asked},
    )
    pause, ends = _SHORTEST_PAUSE, began + patience.deadline
    repeat_after, repeats = _FIRST_REPEAT, began + _FIRST_REPEAT
    graced = simulated = is_simulated(grid)
    while waiting:
        looked = time.monotonic()
        for message in pull_messages(grid, list(sent)):
            node = sent.pop(message.metadata.reply_to_message_id, None)
            if node is None:
                _log.warning("ignored a reply from node %d: to no open message", message.metadata.src_node_id)
            elif message.has_error() and message.error.code in NO_ANSWER:
                repeats = min(repeats, time.monotonic() + _FIRST_REPEAT)
            elif waiting.pop(node, None) is not None:  # else it was asked twice, and answers twice
                pause = _SHORTEST_PAUSE
                desk.take(message, node)
        watch(desk.answers(waiting, time.monotonic() - began))
        if waiting and not graced and len(desk.replies) >= patience.quorum:
            graced, taken = True, time.monotonic() - began
            ends = min(ends, time.monotonic() + max(patience.grace, 2 * taken))
        if time.monotonic() >= ends:
            break
        if waiting and not simulated and time.monotonic() >= repeats:
            again = [_repeated(message) for message in waiting.values()]
            sent |= zip(push_messages(grid, again), waiting, strict=True)
            repeat_after *= 2
            repeats = time.monotonic() + repeat_after
        if waiting:
            time.sleep(max(0.0, looked + pause - time.monotonic()))  # none is left where the server held it
            pause = min(_LONGEST_PAUSE, 1.5 * pause)
    for node in waiting:
        desk.fail(node, LOST)
    return desk.answers((), time.monotonic() - began)


def _repeated(message: Message) -> Message:
    """The same instruction once more: Flower delivers a message once, and what a cut loses of it is gone.

    A site that has answered it answers from its ledger, without new noise or charge.
    """
    metadata = message.metadata
    return Message(
        message.content,
        dst_node_id=metadata.dst_node_id,
        message_type=metadata.message_type,
        group_id=metadata.group_id,
    )


@dataclass(kw_only=True)
class _Desk:
    """Takes the replies of one exchange: what counts, and who does not and why."""

    names: Mapping[int, str]
    check: Callable[[Reply], None]
    admitted: Mapping[int, str]
    size: ReplySize | None
    replies: dict[str, Reply] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    nodes: dict[str, int] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)

    def take(self, message: Message, node: int) -> None:
        """Enter the reply if it counts; otherwise the reason."""
        if message.has_error():
            if message.error.code == UNREADABLE:
                self.refused.add(self.fail(node, NOT_UNDERSTOOD))
                return
            reason = message.error.reason
            if message.error.code == REFUSED and reason in (TOO_LONG, TOO_MANY_PARTS):
                self.refused.add(self.fail(node, reason))
                return
            if reason == RefusalCode.APPROVAL:
                reason = WAITING
            self.fail(node, reason if reason == WAITING or reason in RefusalCode.ALL else LOST)
            return
        try:
            reply = self._read(message.content)
            self._check_name(reply.site, node)
            self.check(reply)
        except ReleaseError as exc:
            self.refused.add(self.fail(node, exc.what))
            return
        except StorageError:
            raise  # it is the server's own fault, and no site's
        except Exception:  # of whatever kind: it is about this reply, and the others are as good as before
            _log.exception("the reply of %s could not be checked", self.name(node))
            self.refused.add(self.fail(node, NOT_UNDERSTOOD))
            return
        if reply.site in self.replies:
            name = f"{self.name(node)} as {reply.site}"
            self.failures[name], self.nodes[name] = TWICE, node
            self.refused.add(name)
            return
        self.replies[reply.site], self.nodes[reply.site] = reply, node

    def fail(self, node: int, reason: str) -> str:
        """Enter the reason; give the name it was entered under."""
        name = self.name(node)
        self.failures[name], self.nodes[name] = reason, node
        return name

    def name(self, node: int) -> str:
        """The site's name, or its node's number if it was never heard of."""
        return self.admitted.get(node) or self.names.get(node) or f"node {node}"

    def answers(self, waiting: Iterable[int], seconds: float) -> Answers:
        """How it stands."""
        still = {self.name(node): node for node in waiting}
        return Answers(
            asked=tuple(sorted({*self.replies, *self.failures, *still})),
            replies=dict(sorted(self.replies.items())),
            failures=dict(self.failures),
            nodes={**self.nodes, **still},
            refused=frozenset(self.refused),
            waiting=tuple(sorted(still)),
            seconds=seconds,
        )

    def _read(self, content: RecordDict) -> Reply:
        """Its size first: a text takes many times its length when it is read. What is beside it has none."""
        if set(content) != {REPLY}:
            raise ReleaseError(NOT_UNDERSTOOD)
        if self.size is None:
            return Reply.from_records(content)
        found, most = content_size(content), self.size.arrays + self.size.text
        if found > most:
            what = "update" if self.size.arrays else "reply"
            raise ReleaseError(f"{what} refused: it has {found:,} bytes, and may have {most:,}")
        return Reply.from_records(content, most_bytes=self.size.arrays)

    def _check_name(self, site: str, node: int) -> None:
        """A node answers under its own name; one without, under nobody else's."""
        own = self.admitted.get(node, site)
        if site != own or (node not in self.admitted and site in self.admitted.values()):
            raise ReleaseError(f"{NAME_REFUSED}: it answered as '{printable(site, 100)}'")
