"""A question to every connected site, and the record of who came how far with it.

1. wait for the quorum to be connected
2. send, and wait as `server.exchange.answers` says
3. where the quorum lacks nothing but the approval of sites' administrators, ask those sites again, ever
   more slowly, until there are enough or the time for it is over; otherwise they are asked in the next round
4. whoever was admitted and is not connected is missing too
5. write down how far each site came; meanwhile too, for who watches
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from flwr.serverapp import Grid

from contract.errors import RefusalCode
from contract.messages import Anchor, Instruction, Reply
from server.exchange.answers import Answers, Patience, connected_sites, exchange, instruct
from server.exchange.bounds import ReplySize
from server.state.participation import NOT_CONNECTED, SiteState, SiteStatus, Step

__all__ = ["Question", "SiteMemory", "ask", "require"]

_log = logging.getLogger("flwr")
_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 30.0
"""Seconds between two questions to sites whose administrators have not approved the experiment."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked.

    Attributes:
        kind: the message type.
        instruction: what each site is told.
        patience: quorum, deadline and grace.
        arrays: the model that it is about.
        check: raises ReleaseError for a reply that must not count.
        size: how long a reply may be.
        needs: what to do at a site that has not the model's package.
        sites: the names of those that are asked; none for all.
    """

    kind: str
    instruction: Instruction
    patience: Patience
    arrays: Mapping[str, np.ndarray[Any, Any]] | None = None
    check: Callable[[Reply], None] = lambda _: None
    size: ReplySize = field(default_factory=ReplySize)
    needs: str = ""
    sites: Collection[str] = ()

    @property
    def step(self) -> Step:
        """The exchange that it makes."""
        return Step(run=self.instruction.run, kind=self.kind, number=self.instruction.step)


class SiteMemory(Protocol):
    """What is known of the sites, and where it is written."""

    def admitted(self) -> Mapping[int, str]:
        """The sites that the operator admitted, by node; none where nobody is admitted by key."""
        ...

    def site_names(self) -> Mapping[int, str]:
        """The name of each node that was heard of, to speak of it: it may be out of date."""
        ...

    def stated_rows(self, run: str) -> Mapping[str, int]:
        """The rows that each site stated in this run."""
        ...

    def remember_anchor(self, site: str, anchor: Anchor | None) -> None:
        """Note where a site's ledger ends.

        Raises:
            ReleaseError: it was longer before.
        """
        ...

    def record_sites(self, step: Step, sites: Mapping[str, SiteStatus], *, ended: bool) -> None:
        """Write how far each site came; until the exchange has ended, now and then."""
        ...

    def wait_for_approval(self, step: Step, sites: Mapping[str, SiteStatus]) -> None:
        """Write how far each site came, and say for whose approval the exchange waits."""
        ...


def ask(question: Question, grid: Grid, memory: SiteMemory) -> Answers:
    """Ask every connected site.

    Args:
        question: what is asked.
        grid: Flower's, or the inline runtime's.
        memory: what is known of the sites.

    Raises:
        RoundError: the quorum was not connected by the deadline.
    """
    step, admitted = question.step, memory.admitted()
    names = {**memory.site_names(), **admitted}
    asked_only = (
        {node for node, site in admitted.items() if site in question.sites} if question.sites else None
    )
    if asked_only is not None:
        admitted = {node: site for node, site in admitted.items() if node in asked_only}

    def connecting(nodes: list[int]) -> None:
        sites = {names.get(node, f"node {node}"): SiteStatus(state="connected", node=node) for node in nodes}
        memory.record_sites(step, {**sites, **_enrolled(admitted, nodes)}, ended=False)

    def check(reply: Reply) -> None:
        question.check(reply)
        memory.remember_anchor(reply.site, reply.anchor)

    def reached(answers: Answers) -> dict[str, SiteStatus]:
        return {**absent, **_statuses(question, answers)}  # who came back as another node is not absent

    nodes = connected_sites(
        grid, question.patience, what=str(step), names=admitted, watch=connecting, only=asked_only
    )
    absent = _enrolled(admitted, nodes)

    def asked(nodes: list[int], patience: Patience, so_far: Answers | None = None) -> Answers:
        def together(answers: Answers) -> Answers:
            answers = _with_needs(answers, question.needs)
            return answers if so_far is None else so_far.joined(answers)

        return together(
            exchange(
                grid,
                instruct(nodes, question.kind, question.instruction, question.arrays),
                names=names,
                patience=patience,
                check=check,
                admitted=admitted,
                size=question.size,
                watch=lambda now: memory.record_sites(step, reached(together(now)), ended=False),
            )
        )

    def waits(answers: Answers) -> None:
        memory.wait_for_approval(step, reached(answers))

    answers = _until_approved(question, waits, asked, asked(nodes, question.patience))
    sites = reached(answers)
    memory.record_sites(step, sites, ended=True)
    missing = {site: status.reason for site, status in sites.items() if status.state == "enrolled"}
    return replace(answers, failures={**answers.failures, **missing})


def _until_approved(
    question: Question,
    waits: Callable[[Answers], None],
    ask_again: Callable[[list[int], Patience, Answers], Answers],
    answers: Answers,
) -> Answers:
    """Ask the sites that wait for approval again, as long as they could make up the quorum.

    Each is asked the same request: one that answers is charged once, and one that waits has nothing to
    enter. Sites that answered are not asked again, nor are those that said no.
    """
    quorum, ends = question.patience.quorum, time.monotonic() + question.patience.approval
    pause = _FIRST_PAUSE
    while len(answers.replies) < quorum <= len(answers.replies) + len(answers.unapproved):
        left = ends - time.monotonic()
        if left <= 0:
            break
        waiting = answers.unapproved
        waits(answers)
        _log.warning("%s: waiting for approval at %s", question.step, ", ".join(waiting))
        time.sleep(min(pause, left))
        pause = min(_LONGEST_PAUSE, 1.5 * pause)
        missing = replace(question.patience, quorum=max(1, quorum - len(answers.replies)))
        answers = ask_again([answers.nodes[site] for site in waiting], missing, answers)
    return answers


def _with_needs(answers: Answers, needs: str) -> Answers:
    """Beside the word of a site that has not the model's package, what to do about it."""
    if not needs:
        return answers
    lacking = RefusalCode.NOT_INSTALLED
    told = {site: f"{why}: {needs}" if why == lacking else why for site, why in answers.failures.items()}
    return replace(answers, failures=told)


def require(answers: Answers, question: Question) -> None:
    """Refuse to go on with fewer sites than the quorum.

    Raises:
        RoundError: with every site that is missing and its reason.
    """
    answers.require(question.patience.quorum, str(question.step))


def _enrolled(admitted: Mapping[int, str], nodes: list[int]) -> dict[str, SiteStatus]:
    absent = [site for node, site in admitted.items() if node not in nodes]
    return {site: SiteStatus(state="enrolled", reason=NOT_CONNECTED) for site in absent}


def _statuses(question: Question, answers: Answers) -> dict[str, SiteStatus]:
    arrived: SiteState = "trained" if question.kind == "train" else "answered"
    enough = not answers.waiting and len(answers.replies) >= question.patience.quorum
    # a round is counted when it is aggregated; any other answer as soon as there are enough
    reached: SiteState = "counted" if enough and arrived == "answered" else arrived
    statuses = {}
    for site in answers.asked:
        reply = answers.replies.get(site)
        if reply is not None:
            status = SiteStatus(state=reached, stated_rows=reply.stated_rows)
        else:
            state: SiteState = arrived if site in answers.refused else "connected"
            status = SiteStatus(state=state, reason=answers.failures.get(site, ""))
        statuses[site] = replace(status, node=answers.nodes.get(site))
    return statuses
