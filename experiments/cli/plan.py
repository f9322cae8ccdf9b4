"""`tidegate plan FILE`: what a run would cost and what it could tell, before anything is spent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from terminal.window_option import WindowNames

if TYPE_CHECKING:
    from contract.experiment import Experiment
    from experiments.planning.sites import PlannedSite

__all__ = ["plan"]


def plan(
    file: Annotated[Path, typer.Argument(help="An experiment file, such as experiments/heart-disease.toml.")],
    site: Annotated[
        list[Path] | None,
        typer.Option(help="A site.toml; repeat. Without: the sites of your server, or of the data set."),
    ] = None,
    window: WindowNames = None,
    curve: Annotated[bool, typer.Option("--curve", help="Also at a quarter to four times the ε.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw that curve into this .png or .svg; needs tidegate[notebook].")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What a run would cost each site, and how well its result could be told. Nothing is spent.

    From public facts, and the ledgers of those sites whose files lie here.
    """
    from experiments.planning.plan import PlanSettings, make_plan, trainings
    from experiments.planning.plan_words import plan_in_words
    from experiments.planning.sites import asked_of
    from terminal.experiment_files import read_experiment
    from terminal.new_files import write_plot
    from terminal.output import Steps, print_json, quiet_flower
    from terminal.parts import print_parts

    stated = read_experiment(file)
    if plot is not None:
        _require_picture(stated, plot)
    sites, curve = asked_of(stated, _sites(stated, site or [])), curve or plot is not None
    quiet_flower()
    count = trainings(stated, curve=curve)
    steps = Steps("training on rows with a planted effect", count, silent=json or not count)
    try:
        settings = PlanSettings(windows=tuple(window or ()), curve=curve, told=steps.show)
        made = make_plan(stated, sites, settings)
    finally:
        steps.close()
    if plot is not None:
        write_plot(plot, made.plot)
    if json:
        print_json(made.to_json())
    else:
        print_parts(plan_in_words(made))


def _sites(experiment: Experiment, files: list[Path]) -> list[PlannedSite]:
    """Of these files; or of the profile's server; or of the experiment's data set; or of the server here."""
    from experiments.federated_run import sites_for
    from experiments.planning.sites import of_cards, of_files, require_some
    from scientist.cli.sites import all_cards
    from scientist.connected import is_connected
    from server.cli.here import pages, reading_here
    from server.settings import read_settings

    if files:
        return of_files(files)
    if is_connected():
        return require_some(of_cards(all_cards()), where="the server of your profile")
    if experiment.data is not None:
        return of_files(sites_for(experiment, [], read_settings().home))
    with reading_here() as reading:
        cards = [one for page in pages(reading.cards) for one in page.cards]
        return require_some(of_cards(cards), where="the server here")


def _require_picture(stated: Experiment, file: Path) -> None:
    """Before any work is done for it."""
    from contract.errors import InputError
    from experiments.planning.planted import not_planted
    from terminal.new_files import plot_kind

    plot_kind(file)
    if not file.parent.is_dir():
        raise InputError(
            "its folder is missing", where=str(file), remedy="Name a file in a folder that exists"
        )
    why = not_planted(stated) or ("" if stated.privacy.private else "The experiment is not private.")
    if why:
        raise InputError(
            f"there is no curve of this experiment. {why.rstrip('.')}",
            where="--plot",
            remedy="Leave --plot out",
        )
