"""Asks before a run is paid for that a plan would warn of. Needs no heavy library.

Nobody can be asked where there is no terminal: a script says `--yes`, or nothing is spent.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from contract.experiment import Experiment

__all__ = ["confirm_here", "confirm_there"]


def confirm_here(experiment: Experiment, sites: Sequence[Path], *, yes: bool) -> None:
    """Ask about a run at these site.toml files; what they would refuse they say themselves.

    Raises:
        Exit: whoever is asked says no.
        InputError: nobody can be asked.
    """
    from experiments.planning.sites import of_files
    from experiments.planning.warnings import doubts

    _confirm(experiment, doubts(experiment, of_files(sites, drafts=True)), yes=yes)


def confirm_there(experiment: Experiment, windows: Sequence[str], *, yes: bool) -> None:
    """Ask about a run at the server of the profile.

    Raises:
        Exit: whoever is asked says no.
        InputError: nobody can be asked.
    """
    from experiments.planning.sites import asked_of, of_cards
    from experiments.planning.warnings import doubts, refusals
    from scientist.cli.sites import all_cards

    cards = all_cards()
    sites = asked_of(experiment, of_cards(cards))
    asked = len(experiment.strategy.sites) or len(cards)
    refused = refusals(experiment, sites, windows, admitted=asked)
    _confirm(experiment, (*refused, *doubts(experiment, sites)), yes=yes)


def _confirm(experiment: Experiment, warnings: Sequence[str], *, yes: bool) -> None:
    """Say the warnings, and ask a person at a terminal."""
    from contract.outside import shown
    from experiments.planning.warnings import not_begun
    from terminal.output import errors

    if warnings and not yes and not sys.stdin.isatty():
        raise not_begun(experiment, warnings, "`tidegate plan` says more; --yes runs it all the same")
    for warning in warnings:
        errors.print(shown(f"WARNING: {warning}", limit=5000), style="yellow", soft_wrap=True)
    if not warnings or yes:
        return
    if not typer.confirm("Run it all the same?", err=True):
        errors.print("Not run: nothing was spent. `tidegate plan` says more.")
        raise typer.Exit(1)
