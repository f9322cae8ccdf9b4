"""Who took part in what, site by site: how far each came, why no further, and what to do about it.

    enrolled    the operator admitted its key, and it is not connected
    connected   it is online and was asked; nothing that may count has come
    trained     its reply to a round has arrived
    answered    its reply to anything else has arrived
    counted     the reply passed every check and is part of the result

Each is reached through the one before it. A reason is one of the words and beginnings
below, for some with particulars after a colon, and stands where a site came no further.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from contract.errors import RefusalCode
from contract.federation_api import WAITING

__all__ = [
    "BEGIN_ANEW",
    "GO_ON",
    "LOST",
    "NAME_REFUSED",
    "NOT_CONNECTED",
    "NOT_UNDERSTOOD",
    "PACKAGE_FAULTS",
    "WAITING",
    "SiteState",
    "SiteStatus",
    "Step",
    "advice",
    "kind_of",
    "printable",
    "runs_of",
    "told",
]

SiteState = Literal["enrolled", "connected", "trained", "answered", "counted"]

LOST = "no answer"
NOT_CONNECTED = "not connected"
NAME_REFUSED = "name refused"
NOT_UNDERSTOOD = "a site sent a reply that this version does not understand"
TWICE = "two nodes gave the same site name"

GO_ON = (
    "go on with `tidegate runs resume RUN` where it was submitted to a server, else with `tidegate run FILE "
    "--resume RUN` and the other options as before; with a window's check, `tidegate drift check FILE WINDOW`"
)
"""What to do about a run that ended before its work was done, of either kind."""

BEGIN_ANEW = "begin a new run: a package with other files is another experiment"
PACKAGE_FAULTS = frozenset(
    (
        RefusalCode.MIXES_ROWS,
        RefusalCode.KEEPS_STATE,
        RefusalCode.NOT_FINITE,
        RefusalCode.WRONG_SHAPES,
    )
)
"""Words of a site for what no second try with the same package would mend."""

_RETURNS = "it is asked again in the next round"
_ADVICE = {
    LOST: f"see that its agent runs and reaches the server (`tidegate site status`); {_RETURNS}",
    NOT_CONNECTED: "start its agent with `tidegate site up`, and it is asked from the next round on; "
    "if it has left, `tidegate server revoke NAME`",
    NAME_REFUSED: "find out who has that key: a site answers under the name it was admitted with; "
    "correct `name` in its site.toml, or admit it anew with `tidegate server admit`",
    NOT_UNDERSTOOD: "install the server's version of Tidegate at the site",
    TWICE: "give each site a name of its own in its site.toml",
    "update refused": "have its administrator look at the site's log, rows and stated_rows; until it is "
    "known why, do without the site, or set strategy.aggregation to one that bears bad updates",
    "scores refused": "install the server's version of Tidegate at the site, and look at its stated_rows",
    "reply refused": "have its administrator look at the site's log and site.toml; if it is to have other "
    "rows from now on, `tidegate server readmit NAME`",
    "reply too large": "have its administrator look at the site's log; where a model is that large, raise "
    "TIDEGATE_LARGEST_REPLY (in MB) and start the server again",
    "ledger refused": "have its administrator find out which copy of the ledger is open there; if it is "
    "right so, `tidegate server readmit NAME`",
    "old reply": f"restart its agent; {_RETURNS}",
    RefusalCode.BUDGET: "ask its administrator what `tidegate site cost` says of the experiment",
    RefusalCode.INPUT: "install the server's version of Tidegate at the site",
    RefusalCode.CARD: "the site does not offer what the experiment asks for: read its card, and "
    "choose among its columns, ranges and windows",
    WAITING: "ask its administrator to look at `tidegate site requests`, and to approve or refuse; "
    f"{_RETURNS}",
    RefusalCode.POLICY: "ask its administrator what the policy allows; it may have refused or revoked the "
    "experiment",
    RefusalCode.SOURCE: "ask its administrator for the site's log: its files or its database are not there, "
    "or lack a column of its card",
    RefusalCode.LEDGER: "ask its administrator for `tidegate site ledger FILE --verify`",
    RefusalCode.NOT_INSTALLED: "the very version of the model's package that the experiment names is not "
    "installed there: ask its administrator to look at it, to install it and to start the agent again",
    RefusalCode.MIXES_ROWS: "the model's package mixes rows: no row's part in its gradients can be bounded; "
    "change the package, such as BatchNorm to GroupNorm",
    RefusalCode.KEEPS_STATE: "the model's package keeps state from call to call, or draws random numbers: "
    "change the package, so that outputs follow from the parameters and the row alone",
    RefusalCode.NOT_FINITE: "the model's package gives NaN or infinities on public random rows: change the "
    "package, or where its parameters begin",
    RefusalCode.WRONG_SHAPES: "the model's package builds another module than it says, or fails on rows of "
    "this experiment: change the package or model.parameters",
    RefusalCode.FAILED: "ask its administrator for the site's log",
}


@dataclass(frozen=True, kw_only=True)
class Step:
    """One exchange of a run: a round, or what comes beside the rounds.

    Attributes:
        run: the run's name.
        kind: the message type: `train` for a round.
        number: the round, counted from 1; the number of the exchange otherwise.
    """

    run: str
    kind: str
    number: int

    def __str__(self) -> str:
        names = {"train": f"round {self.number}", "evaluate": "the evaluation"}
        return f"{names.get(self.kind, self.kind)} of run '{self.run}'"


@dataclass(frozen=True, kw_only=True)
class SiteStatus:
    """How far a site came in one exchange.

    Attributes:
        state: the furthest state.
        reason: why no further; empty where it counted, or is still at work.
        node: the node it was asked at; None if it was not.
        stated_rows: what its reply stated; None without one that was accepted.
    """

    state: SiteState
    reason: str = ""
    node: int | None = None
    stated_rows: int | None = None


def printable(text: str, most: int = 200) -> str:
    """What a site wrote, as a reason may hold it: the beginning, on one line, with nothing that steers.

    >>> printable("north\\n\\x1b[2J")
    'north??[2J'
    """
    return "".join(letter if letter.isprintable() else "?" for letter in text[:most])


def kind_of(reason: str) -> str:
    """A reason without its particulars.

    >>> kind_of("update refused: its norm is 8.1, an honest one is at most 3.2")
    'update refused'
    """
    return reason.partition(":")[0]


def advice(reason: str) -> str:
    """What an operator can do about it; empty if nothing is known.

    >>> advice("not connected")
    'start its agent with `tidegate site up`, and it is asked from the next round on; if it has left, \
`tidegate server revoke NAME`'
    """
    return _ADVICE.get(kind_of(reason), "")


def told(failures: Mapping[str, str]) -> str:
    """What to do about several sites, each advice once, in the order of the sites' names.

    >>> told({"west": "failed", "south": "failed", "north": "old reply"})
    "north: restart its agent; it is asked again in the next round. south, west: ask its administrator for \
the site's log"
    """
    sites: dict[str, list[str]] = {}
    for site, reason in sorted(failures.items()):
        if words := advice(reason):
            sites.setdefault(words, []).append(site)
    return ". ".join(f"{', '.join(names)}: {words}" for words, names in sites.items())


def runs_of(numbers: Iterable[int]) -> str:
    """Numbers as ranges.

    >>> runs_of([1, 2, 3, 5, 8, 9])
    '1–3, 5, 8–9'
    """
    ranges: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(f"{low}–{high}" if high > low else f"{low}" for low, high in ranges)
