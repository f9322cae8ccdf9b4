"""`tidegate plan FILE`: what a run would cost and what it could tell, before anything is spent."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from terminal.window_option import WindowNames

if TYPE_CHECKING:
    from contract.experiment import Experiment
    from experiments.planning.costs import SiteCost
    from experiments.planning.errors import ExpectedError
    from experiments.planning.planted import PlantedResult
    from experiments.planning.sites import PlannedSite

__all__ = ["plan"]

_LEAST_KEPT = 0.5
"""Of what can be learnt: with less, most of an effect is lost in noise."""
_SITE_LEVEL = 0.75
"""AUC of the imagined model for which a site's own error is told."""


def plan(
    file: Annotated[Path, typer.Argument(help="An experiment file, such as experiments/heart-disease.toml.")],
    site: Annotated[
        list[Path] | None,
        typer.Option(help="A site.toml; repeat. Without: the sites of your server, or of the data set."),
    ] = None,
    window: WindowNames = None,
    curve: Annotated[bool, typer.Option("--curve", help="Also at a quarter to four times the ε.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw that curve into this .png or .svg; needs tidegate[server].")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What a run would cost each site, and how well its result could be told. Nothing is spent.

    From public facts, and the ledgers of those sites whose files lie here.
    """
    from contract.recipe import with_recipe
    from experiments.planning.costs import site_cost
    from experiments.planning.errors import errors_by_site, expected_errors
    from experiments.planning.sites import asked_of
    from experiments.planning.warnings import doubts, hidden_auc, refusals
    from terminal.experiment_files import read_experiment
    from terminal.output import print_json

    stated, windows = read_experiment(file), tuple(window or ())
    if plot is not None:
        _require_picture(stated, plot)
    sites = asked_of(stated, _sites(stated, site or []))
    experiment = with_recipe(stated, [one.stated_rows for one in sites])
    costs = [site_cost(experiment, one, windows) for one in sites]
    held_out = [one.held_out_rows for one in sites]
    errors = expected_errors(experiment, held_out)
    own = errors_by_site(experiment, held_out, level=_SITE_LEVEL)
    learnt = _learnt(stated, sites, curve=curve or plot is not None, silent=json)
    warnings = [*refusals(experiment, sites, windows), *_unpaid(sites, costs), *doubts(experiment, sites)]
    warnings += [*hidden_auc(experiment, sites), *_too_noisy(experiment, learnt)]
    if plot is not None:
        _draw(experiment, learnt, plot)
    if json:
        print_json(_as_json(experiment, sites, costs, errors, own, learnt, warnings))
    else:
        _show(experiment, sites, costs, errors, own, learnt, warnings)


def _sites(experiment: Experiment, files: list[Path]) -> list[PlannedSite]:
    """Of these files; or of the profile's server; or of the experiment's data set; or of the server here."""
    from experiments.federated_run import sites_for
    from experiments.planning.sites import of_cards, of_files
    from scientist.cli.sites import all_cards
    from scientist.connected import is_connected
    from server.cli.here import pages, reading_here
    from server.settings import read_settings

    if files:
        return of_files(files)
    if is_connected():
        return _some(of_cards(all_cards()), "the server of your profile")
    if experiment.data is not None:
        return of_files(sites_for(experiment, [], read_settings().home))
    with reading_here() as reading:
        return _some(
            of_cards([one for page in pages(reading.cards) for one in page.cards]), "the server here"
        )


def _some(sites: list[PlannedSite], where: str) -> list[PlannedSite]:
    from contract.errors import InputError

    if not sites:
        raise InputError(
            "no site has stated its rows yet",
            where=where,
            remedy="Name each site's file with --site SITE.toml, or wait until sites have joined",
        )
    return sites


def _unpaid(sites: Sequence[PlannedSite], costs: Sequence[SiteCost]) -> list[str]:
    """What the caps that are known do not allow."""
    return [
        f"Site {site.name} would refuse the run: its cap of ε = {cost.cap.epsilon:g} would be passed on "
        f"{', '.join(block.block for block in cost.blocks if not block.fits)}. "
        f"`tidegate site cost` says what would fit."
        for site, cost in zip(sites, costs, strict=True)
        if cost.cap is not None and not cost.fits
    ]


def _learnt(
    stated: Experiment, sites: Sequence[PlannedSite], *, curve: bool, silent: bool
) -> list[PlantedResult]:
    """What the noise leaves of a planted effect, at the experiment's ε or along a curve."""
    from experiments.planning.planted import FACTORS, REPEATS, can_be_planted, planted_result
    from terminal.output import Steps, quiet_flower

    if not can_be_planted(stated):
        return []
    quiet_flower()
    factors = FACTORS if curve and stated.privacy.private else (1.0,)
    steps = Steps("training on rows with a planted effect", len(factors) * REPEATS, silent=silent)
    done = itertools.count(1)
    try:
        return [
            planted_result(stated, sites, factor=one, told=lambda: steps.show(next(done))) for one in factors
        ]
    finally:
        steps.close()


def _too_noisy(experiment: Experiment, learnt: Sequence[PlantedResult]) -> list[str]:
    return [
        f"The model would learn little: of an effect that is there it reaches AUC {one.auc:.2f} at "
        f"privacy.epsilon = {one.epsilon:g}, and {one.without_privacy:.2f} could be reached without privacy."
        for one in learnt
        if one.epsilon == experiment.privacy.epsilon and one.kept < _LEAST_KEPT
    ]


def _require_picture(stated: Experiment, file: Path) -> None:
    """Before any work is done for it."""
    from contract.errors import InputError
    from experiments.planning.planted import can_be_planted
    from terminal.new_files import plot_kind

    plot_kind(file)
    if not file.parent.is_dir():
        raise InputError(
            "its folder is missing", where=str(file), remedy="Name a file in a folder that exists"
        )
    if not can_be_planted(stated) or not stated.privacy.private:
        raise InputError(
            "there is no curve of this experiment: it is for two classes, a small model, and privacy",
            where="--plot",
            remedy="Leave --plot out",
        )


def _draw(experiment: Experiment, learnt: Sequence[PlantedResult], file: Path) -> None:
    from experiments.planning.curve_plot import plot_curve
    from terminal.new_files import write_plot

    stated = experiment.privacy.epsilon
    write_plot(file, lambda kind: plot_curve(learnt, name=experiment.name, stated=stated, kind=kind))


def _as_json(
    experiment: Experiment,
    sites: Sequence[PlannedSite],
    costs: Sequence[SiteCost],
    errors: Sequence[ExpectedError],
    own: Sequence[Sequence[ExpectedError]],
    learnt: Sequence[PlantedResult],
    warnings: Sequence[str],
) -> dict[str, Any]:
    from contract.json_values import finite

    strategy, privacy = experiment.strategy, experiment.privacy
    settings = strategy.model_dump(mode="json", exclude={"reason"})
    return {
        "experiment": experiment.name,
        "private": privacy.private,
        "recipe": strategy.reason or None,
        "settings": {**settings, "clipping_norm": privacy.clipping_norm},
        "exchanges": strategy.rounds + 1,
        "evaluations": strategy.evaluations,
        "delta": privacy.delta,
        "sites": [
            {
                "site": site.name,
                "stated_rows": site.stated_rows,
                "held_out_rows": site.held_out_rows,
                "held_out_share_is_told": site.share_is_told,
                "epsilon_of_training_rows": finite(cost.train),
                "epsilon_of_held_out_rows": finite(cost.evaluate),
                "cap": None if cost.cap is None else vars(cost.cap),
                "blocks": [finite(vars(block)) for block in cost.blocks],
                "errors": [_error_json(error) for error in of_site],
            }
            for site, cost, of_site in zip(sites, costs, own, strict=True)
        ],
        "errors": [_error_json(error) for error in errors],
        "planted_effect": [{**finite(vars(one)), "kept": one.kept} for one in learnt],
        "warnings": list(warnings),
    }


def _error_json(error: ExpectedError) -> dict[str, Any]:
    from contract.json_values import finite

    return {
        "metric": error.figure.name,
        **{name: finite(value) for name, value in vars(error).items() if name != "figure"},
    }


def _show(
    experiment: Experiment,
    sites: Sequence[PlannedSite],
    costs: Sequence[SiteCost],
    errors: Sequence[ExpectedError],
    own: Sequence[Sequence[ExpectedError]],
    learnt: Sequence[PlantedResult],
    warnings: Sequence[str],
) -> None:
    from contract.words import counted
    from terminal.output import print_table, say

    strategy, privacy = experiment.strategy, experiment.privacy
    say(
        strategy.reason
        or f"The file states its settings: {strategy.name}, step size {strategy.learning_rate:g}, "
        f"clipping norm {privacy.clipping_norm:g}."
    )
    say(
        f"{counted(strategy.rounds, 'round')}, so {counted(strategy.rounds + 1, 'exchange')} with each site; "
        f"{counted(strategy.evaluations, 'evaluation')} of each held-out row."
    )
    print_table(_site_headings(experiment), _site_rows(experiment, sites, costs, own), title=experiment.name)
    if not all(site.share_is_told for site in sites):
        say("~: a column of the site says which rows are held out. They are taken for three tenths of all.")
    print_table(
        _error_headings(experiment),
        _error_rows(errors),
        title=f"Standard errors over about {sum(site.held_out_rows for site in sites):,} held-out rows",
    )
    _show_learnt(experiment, learnt)
    if not privacy.private:
        say("NOT PRIVATE: this run would give no guarantee.", "bold red")
    for warning in warnings:
        say(f"WARNING: {warning}", "yellow")
    say("Nothing was spent.")


def _show_learnt(experiment: Experiment, learnt: Sequence[PlantedResult]) -> None:
    from terminal.output import print_table, say

    if not learnt:
        say(
            "What noise leaves of an effect is not simulated here: it is for two classes, and a linear or "
            "mlp model of at most 2,000 parameters."
        )
        return
    print_table(
        ("ε", "AUC", "without privacy", "learnt of what can be", "rounds"),
        (
            (
                f"{one.epsilon:g}" if experiment.privacy.private else "∞",
                f"{one.auc:.3f} ± {one.spread:.3f}",
                f"{one.without_privacy:.3f}",
                f"{'█' * round(20 * min(1.0, max(0.0, one.kept)))} {max(0.0, one.kept):.0%}",
                one.rounds,
            )
            for one in learnt
        ),
        title="What noise leaves of an effect planted in imagined rows: what rows and ε allow, no forecast",
    )


def _site_headings(experiment: Experiment) -> tuple[str, ...]:
    from contract.epsilon import delta_words
    from contract.figures import figures_for

    at = f" (δ {delta_words(experiment.privacy.delta)})"
    figure = _main_figure(figures_for(experiment.task.label))
    return (
        "site",
        "training rows",
        "held out, about",
        f"ε of training rows{at}",
        f"ε of held-out rows{at}",
        "left by data block: before, after",
        f"{figure.word} of its own rows",
    )


def _main_figure(figures: Sequence[Any]) -> Any:
    """AUC, or of numbers the first."""
    return next((one for one in figures if one.name == "auc"), figures[0])


def _site_rows(
    experiment: Experiment,
    sites: Sequence[PlannedSite],
    costs: Sequence[SiteCost],
    own: Sequence[Sequence[ExpectedError]],
) -> list[tuple[object, ...]]:
    from contract.epsilon import epsilon_words

    rows: list[tuple[object, ...]] = []
    for site, cost, errors in zip(sites, costs, own, strict=True):
        figure = _main_figure([error.figure for error in errors])
        (error,) = (one for one in errors if one.figure == figure)
        rows.append(
            (
                site.name,
                f"{site.stated_rows:,}",
                f"{'' if site.share_is_told else '~'}{site.held_out_rows:,}",
                epsilon_words(cost.train),
                epsilon_words(cost.evaluate),
                _left(cost) if experiment.privacy.private else "",
                f"± {_digits(error.error)}" if math.isfinite(error.error) else "too noisy",
            )
        )
    return rows


def _left(cost: SiteCost) -> str:
    """Of each block, but of many windows the one with the least alone."""
    from contract.epsilon import left_words

    if cost.cap is None:
        return "the site knows"
    shown = sorted(cost.blocks, key=lambda block: -block.then)[:4]
    words = [
        f"{block.block}: {left_words(cost.cap.epsilon, block.now)}, "
        + (left_words(cost.cap.epsilon, block.then) if block.fits else "REFUSED")
        for block in shown
    ]
    more = len(cost.blocks) - len(shown)
    return "; ".join([*words, f"{more} more with no less"] if more else words)


def _error_headings(experiment: Experiment) -> tuple[str, ...]:
    from experiments.planning.errors import LEVELS

    if experiment.task.label.kind == "numeric":
        return ("metric", *(f"where R² is {2 * level - 1:.2g}" for level in LEVELS))
    return ("metric", *(f"where AUC is {level:g}" for level in LEVELS))


def _error_rows(errors: Sequence[ExpectedError]) -> list[tuple[object, ...]]:
    figures = list(dict.fromkeys(error.figure for error in errors))
    return [
        (figure.word, *(_error_words(error) for error in errors if error.figure == figure))
        for figure in figures
    ]


def _error_words(error: ExpectedError) -> str:
    if not math.isfinite(error.error):
        return "too noisy"
    return f"± {_digits(error.error)} (noise {_digits(error.of_noise)}, rows {_digits(error.of_rows)})"


def _digits(value: float) -> str:
    """Two digits: an error of an error says no more."""
    return f"{value:.2g}"
