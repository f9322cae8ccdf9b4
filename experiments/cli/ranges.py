"""`tidegate ranges FILE`: private ranges for a task that has no public ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from contract.outside import shown
from contract.words import counted
from terminal.window_option import WindowNames

__all__ = ["ranges"]


def ranges(
    file: Annotated[
        Path, typer.Argument(help="An experiment file; numeric features without low and high are asked for.")
    ],
    epsilon: Annotated[float, typer.Option(help="What the answer may cost each site.")] = 0.1,
    share: Annotated[
        float, typer.Option(help="Of the rows, how many may lie below a range, and above it.")
    ] = 0.01,
    runtime: Annotated[str, typer.Option(help="inline, deployment or simulation.")] = "inline",
    site: Annotated[
        list[Path] | None,
        typer.Option(help="A site.toml; repeat for each site. Without: the experiment's data set."),
    ] = None,
    window: WindowNames = None,
    write: Annotated[
        Path | None, typer.Option(help="Write a copy of the experiment file with the ranges put in.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="End with one JSON object.")] = False,
) -> None:
    """Ask the sites for noisy counts of the features without a range, charged to their ledgers."""
    from contract.errors import InputError
    from experiments.federated_run import Request, named_runtime, run_experiment, sites_for
    from experiments.range_query import check_question, read_unranged, told_ranges, with_ranges
    from server.jobs.job import RangeQuestion
    from server.settings import apply_quiet_environment, read_settings
    from server.state.storage import name_run
    from terminal.experiment_files import read_text
    from terminal.output import print_json, quiet_flower, say

    apply_quiet_environment()
    quiet_flower()
    engine = named_runtime(runtime)
    if write is not None and write.exists():
        raise InputError("there is a file already", where=str(write), remedy="Name another file")
    unranged, settings = read_unranged(file), read_settings()
    experiment = unranged.experiment
    sites = sites_for(experiment, site or [], settings.home)
    question = RangeQuestion(features=unranged.features, epsilon=epsilon, share=share)
    check_question(question, experiment, sites)
    result = run_experiment(
        Request(
            experiment=experiment,
            run=name_run(f"{experiment.name}-ranges"),
            sites=sites,
            settings=settings,
            runtime=engine,
            windows=tuple(window or ()),
            question=question,
        )
    )
    told = told_ranges(result, experiment)
    if json:
        print_json(result)
    else:
        _show(result, told)
    if len(told) < len(unranged.features):
        raise typer.Exit(1)
    if write is not None:
        _write(write, with_ranges(read_text(file), told, where=str(file)))
        if not json:
            say(f"wrote {write}")


def _show(result: Mapping[str, Any], told: Mapping[str, tuple[float, float]]) -> None:
    from contract.epsilon import epsilon_words
    from experiments.range_query import MARGIN
    from terminal.output import print_table, say

    share = f"{result['share']:.1%}"
    rows = [
        (
            item["feature"],
            _end(item["low"], item["low_between"]),
            _end(item["high"], item["high_between"]),
            f"{item['missing_share']:.1%} ± {2 * item['missing_error']:.1%}",
            item["reason"]
            or ("" if item["feature"] in told else "a range for log1p must begin above -1: ask without it"),
        )
        for item in result["features"]
    ]
    title = (
        f"{result['experiment']}: {share} of the rows at most below, and above; "
        f"{counted(len(result['sites']), 'site')}"
    )
    print_table(("feature", "low", "high", "missing", "why there is no range"), rows, title=title)
    if not result["private"]:
        say("NOT PRIVATE: these counts give no guarantee.", "bold red")
    else:
        charged = ", ".join(
            f"{site} {epsilon_words(spent['epsilon_in_total'])}"
            for site, spent in sorted(result["sites"].items())
        )
        say(
            f"ε = {result['epsilon']:g} at δ = {result['delta']:g} for each site, charged once however often "
            f"this is asked; ε in total, at most, on any data block: {charged}"
        )
    for site, reason in sorted(result["failures"].items()):
        say(f"{site} did not take part: {reason}", "yellow")
    for feature, (low, high) in told.items():
        print(f"\n# {shown(feature)}\nlow = {low!r}\nhigh = {high!r}")
    if len(told) < len(result["features"]):
        worst = max(item["least_share"] or 1.0 for item in result["features"])
        print(
            "\nNo range is told where the noise leaves it no meaning. What helps: "
            f"a larger --epsilon (about {MARGIN * worst / result['share']:.1f} times this), more sites, "
            "a larger --share, or a range from public knowledge."
        )


def _end(edge: float | None, between: list[float | None] | None) -> str:
    """An edge with its error bar."""
    if edge is None or between is None:
        return "–"
    low, high = between
    if low == high:
        return f"{edge:g}"
    return f"{edge:g} ({'-∞' if low is None else f'{low:g}'} to {'∞' if high is None else f'{high:g}'})"


def _write(path: Path, text: str) -> None:
    from contract.errors import InputError

    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise InputError(
            f"cannot be written: {exc.strerror}",
            where=str(path),
            remedy="Name a file in a folder that exists",
        ) from exc
