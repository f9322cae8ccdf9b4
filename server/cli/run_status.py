"""What `tidegate server status` shows: runs, and how far each site came in each round."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from contract.errors import InputError

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

    from server.state.records import ParticipationRecord, RunRecord
    from server.state.storage import State

__all__ = ["RunView", "read_runs", "show_runs", "watch_runs"]

_REFRESH_SECONDS = 0.5
_COLOURS = {
    "counted": "green",
    "trained": "cyan",
    "answered": "cyan",
    "connected": "yellow",
    "enrolled": "dim",
}


@dataclass(frozen=True, kw_only=True)
class RunView:
    """A run as it is shown.

    Attributes:
        rounds: how many are finished, of how many.
        sites: how far each site came: of one exchange, or of all; none if they are not to be shown.
        unapproved: the sites whose administrators have not approved it yet.
    """

    run: RunRecord
    rounds: tuple[int, int]
    sites: Sequence[ParticipationRecord]
    unapproved: Sequence[str]


def read_runs(state: State, name: str | None) -> list[RunView]:
    """The run of that name with every exchange; or all runs, of which those in progress, or the last one,
    with the exchange in which they stand.

    Raises:
        InputError: there is no run of that name.
    """
    runs = [run for run in state.runs() if name in (None, run.name)]
    if name is not None and not runs:
        known = ", ".join(run.name for run in state.runs()[-3:])
        raise InputError(
            f"there is no run '{name}'",
            where="--run",
            remedy=f"The last ones are: {known}" if known else "Start one with `tidegate run`",
        )
    shown = [run.name for run in runs if run.status == "running"] or [run.name for run in runs[-1:]]
    return [_view(state, run, whole=name is not None, sites=run.name in shown) for run in runs]


def show_runs(views: Sequence[RunView], *, json: bool) -> None:
    """Print them."""
    from terminal.output import print_json, print_uncut, say

    if json:
        print_json([_plain(view) for view in views])
    elif not views:
        say("No run yet: `tidegate run FILE` starts one.")
    else:
        print_uncut(_tables(views))


def watch_runs(state: State, name: str | None) -> None:
    """Print them anew until none is in progress: in place on a terminal, when something changed elsewhere."""
    from rich.live import Live

    from terminal.output import console, print_uncut

    views = read_runs(state, name)
    followed = {view.run.name for view in views if view.run.status == "running"}
    with Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
        shown: list[RunView] = []
        while True:
            if live is not None:
                live.update(_tables(views), refresh=True)
            elif views != shown:
                print_uncut(_tables(views))
            if not any(view.run.status == "running" and view.run.name in followed for view in views):
                return
            time.sleep(_REFRESH_SECONDS)
            shown, views = views, read_runs(state, name)


def _view(state: State, run: RunRecord, *, whole: bool, sites: bool) -> RunView:
    from contract.experiment import Experiment

    finished = state.rounds(run.name)
    planned = 0
    if run.job == "train":
        planned = Experiment.model_validate_json(run.experiment_json).strategy.rounds
    records: Sequence[ParticipationRecord] = ()
    if sites:
        records = state.participation(run.name) if whole else state.last_exchange(run.name)
    return RunView(run=run, rounds=(len(finished), planned), sites=records, unapproved=state.unapproved(run))


def _plain(view: RunView) -> dict[str, Any]:
    from server.state.participation import advice

    return {
        **vars(view.run),
        "experiment_json": None,
        "rounds": view.rounds[0],
        "of": view.rounds[1],
        "unapproved": list(view.unapproved),
        "sites": [{**vars(site), "what_to_do": advice(site.reason)} for site in view.sites],
    }


def _tables(views: Sequence[RunView]) -> Group:
    from rich.console import Group

    from contract.federation_api import waiting_words
    from terminal.output import cell, table_of

    runs = []
    for view in views:
        run, (done, of) = view.run, view.rounds
        rounds = f"{done} of {of}" if of else "–"
        told = run.error or waiting_words(view.unapproved)
        runs.append((run.name, run.job, run.status, rounds, str(run.model_version or "–"), told))
    headings = ("run", "job", "status", "rounds", "version", "what happened")
    parts: list[RenderableType] = [table_of(headings, runs, unbroken=("status", "rounds", "version"))]
    for view in views:
        if view.sites:
            parts.append(_sites(view))
            parts += [cell(line) for line in _advice(view)]
    return Group(*parts)


def _advice(view: RunView) -> list[str]:
    """What to do about each reason that is shown, once."""
    from server.state.participation import advice, kind_of

    kinds = sorted({kind_of(site.reason) for site in view.sites if advice(site.reason)})
    return [f"{kind}: {advice(kind)}" for kind in kinds]


def _sites(view: RunView) -> RenderableType:
    from terminal.output import cell, table_of, times

    since, moments = times([f"{site.since:%Y-%m-%dT%H:%M:%S}" for site in view.sites])
    rows = [
        (
            site.round if site.kind == "train" else site.kind,
            site.site,
            cell(site.state, _COLOURS.get(site.state, "white")),
            site.reason,
            moment,
        )
        for site, moment in zip(view.sites, moments, strict=True)
    ]
    headings = ("round", "site", "state", "reason", f"since ({since})")
    title = f"sites of run {view.run.name}"
    return table_of(headings, rows, title=title, unbroken=("round", "state", headings[-1]))
