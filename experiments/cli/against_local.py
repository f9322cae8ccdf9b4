"""`tidegate compare RUN --against local`: asks each site alone, once it is said what that costs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from contract.errors import InputError, TidegateError

if TYPE_CHECKING:
    from contract.experiment import Experiment
    from contract.federation_api import Run, RunDetail
    from experiments.against_local import ComparedSite
    from experiments.planning.sites import PlannedSite

__all__ = ["compare_here", "compare_there"]

_Found = dict[str, tuple[str, Mapping[str, Any]]]
"""The name and the result of a run, by that of its experiment."""
_LAST = 200
"""Runs among which one that was paid for earlier is looked for."""
_ENDED = ("succeeded", "partial")


def compare_here(name: str, *, files: Sequence[Path], yes: bool, json: bool) -> None:
    """Of a run of the server that is here, with sites whose site.toml lies here.

    Raises:
        InputError: there is no such run, or it has no result, or nobody said yes.
    """
    from contract.experiment import Experiment
    from contract.names import name_run
    from experiments.federated_run import Request, run_experiment, sites_for
    from experiments.planning.sites import of_files
    from server.api.reading import Page
    from server.cli.here import reading_here
    from server.settings import apply_quiet_environment, read_settings
    from terminal.output import quiet_flower

    apply_quiet_environment()
    quiet_flower()
    settings = read_settings()
    with reading_here() as reading:
        record, detail = reading.state.run(name), reading.run_detail(name)
        if record is None or detail is None:
            raise InputError(
                f"there is no run '{name}'", where="RUN", remedy="`tidegate server status` lists them"
            )
        experiment = Experiment.model_validate_json(record.experiment_json)
    result = _result_of(detail)
    sites = {one.name: one for one in of_files(sites_for(experiment, files, settings.home))}

    def known(names: Collection[str]) -> _Found:
        with reading_here() as reading:
            listed = reading.runs(Page(limit=_LAST)).runs
            return _newest(listed, names, lambda run: _require(reading.run_detail(run.name)).result)

    def run(plan: Experiment, site: str) -> tuple[str, Mapping[str, Any]]:
        file = sites[site].file
        assert file is not None  # noqa: S101 - it came from one
        found = run_experiment(
            Request(
                experiment=plan,
                run=name_run(plan.name),
                sites=[file],
                settings=settings,
                windows=tuple(result["windows"]),
                trigger=f"a comparison with run {name}",
            )
        )
        return str(found["run"]), found

    _compare(name, experiment, result, sites, known, run, yes=yes, json=json)


def compare_there(name: str, *, yes: bool, json: bool) -> None:
    """Of a run of the server of the profile.

    Raises:
        InputError: there is no such run, or it has no result, or nobody said yes.
    """
    from contract.experiment import Experiment
    from contract.federation_api import RunDetail, Runs
    from contract.model_version import EXPERIMENT_FILE
    from experiments.planning.sites import of_cards
    from scientist.cli.runs import run_there
    from scientist.cli.sites import all_cards
    from scientist.connected import connect, path_of
    from scientist.federation import model_files

    with connect() as connection:
        detail = connection.get(path_of("runs", name), RunDetail)
        result = _result_of(detail)
        files = model_files(connection, str(result["model"]), int(result["version"]))
        experiment = Experiment.model_validate_json(files[EXPERIMENT_FILE])
    sites = {one.name: one for one in of_cards(all_cards())}

    def known(names: Collection[str]) -> _Found:
        with connect() as connection:
            listed = connection.get("/v1/runs", Runs, limit=_LAST).runs
            return _newest(
                listed, names, lambda run: connection.get(path_of("runs", run.name), RunDetail).result
            )

    def run(plan: Experiment, site: str) -> tuple[str, Mapping[str, Any]]:
        del site  # the plan names it
        ended = run_there(plan, list(result["windows"]), json=json, shown=False)
        return ended.run.name, ended.result or {}

    _compare(name, experiment, result, sites, known, run, yes=yes, json=json)


def _compare(
    name: str,
    experiment: Experiment,
    result: Mapping[str, Any],
    sites: Mapping[str, PlannedSite],
    known: Callable[[Collection[str]], _Found],
    run: Callable[[Experiment, str], tuple[str, Mapping[str, Any]]],
    *,
    yes: bool,
    json: bool,
) -> None:
    """Say the cost, ask, run each site that has not run yet, and show."""
    from experiments.against_local import alone, compared_sites

    asked = [site for site in sorted(result["privacy"]) if site in sites]
    windows = result["windows"]
    plans = {site: alone(experiment, site, sites[site].stated_rows, windows) for site in asked}
    paid = known({plan.name for plan in plans.values()})
    found = {site: paid[plan.name] for site, plan in plans.items() if plan.name in paid}
    to_run = [site for site in asked if site not in found]
    reasons = {
        site: "its site.toml was not given, or its card is not known"
        for site in result["privacy"]
        if site not in sites
    }
    if to_run:
        _confirm([(sites[site], plans[site]) for site in to_run], windows, yes=yes)
    for number, site in enumerate(to_run, start=1):
        print(f"{site} alone: {number} of {len(to_run)}", file=sys.stderr, flush=True)
        try:
            found[site] = run(plans[site], site)
        except TidegateError as exc:  # of one site; the others are as good as before
            reasons[site] = str(exc)
    _show(name, result, compared_sites(result, found, reasons), json=json)


def _confirm(runs: Sequence[tuple[PlannedSite, Experiment]], windows: Sequence[str], *, yes: bool) -> None:
    """Say what each site would be charged, and ask.

    Raises:
        InputError: there is nobody to ask.
        Exit: whoever is asked says no.
    """
    from contract.epsilon import delta_words, epsilon_words
    from contract.outside import shown
    from contract.words import counted
    from experiments.planning.costs import site_cost
    from terminal.output import errors

    private = runs[0][1].privacy.private
    errors.print(f"{counted(len(runs), 'run')}, one a site, each charged to that site:")
    for site, plan in runs:
        cost = site_cost(plan, site, tuple(windows))
        refused = [block.block for block in cost.blocks if not block.fits]
        promise = (
            f"ε = {epsilon_words(cost.train)} for training rows and {epsilon_words(cost.evaluate)} for "
            f"held-out rows at δ {delta_words(plan.privacy.delta)}"
            if private
            else "no privacy"
        )
        words = f"  {site.name}: {promise}; {counted(plan.strategy.rounds, 'round')}"
        if refused:
            words += f"; its cap does not allow it on {', '.join(refused)}, so that it will refuse"
        errors.print(shown(words, limit=2000), soft_wrap=True)
    errors.print("Each ledger composes it with what it has spent before.")
    if yes:
        return
    if not sys.stdin.isatty():
        raise InputError(
            "nothing was spent: nobody said that these runs may be charged",
            where="--against local",
            remedy="Say --yes",
        )
    if not typer.confirm("Ask each site alone?", err=True):
        errors.print("Not asked: nothing was spent.")
        raise typer.Exit(1)


def _show(name: str, result: Mapping[str, Any], sites: Sequence[ComparedSite], *, json: bool) -> None:
    from experiments.against_local import shown_figures, worth
    from terminal.output import measured, print_json, print_table, say

    figures = shown_figures(result)
    if json:
        print_json({"run": name, "against": "local", "sites": [_plain(one, result) for one in sites]})
        return
    headings = [
        "site",
        *(
            f"{figure.word} {word}"
            for figure in figures
            for word in ("together", "alone", "together better by")
        ),
    ]
    rows = []
    for one in sites:
        cells: list[object] = [one.site]
        for figure in figures:
            better = one.better(figure)
            cells += [
                measured(one.together, figure.name),
                measured(one.alone, figure.name) if one.run else "not run",
                "not measurable" if better is None else f"{better[0]:+.3f} ± {better[1]:.3f}",
            ]
        rows.append(cells)
    print_table(headings, rows, title=f"run {name} against each site alone, on that site's held-out rows")
    for figure in figures:
        say(worth(sites, figure))
    say(
        "± is one standard error. Both models are judged on the same rows, so that a difference's error is "
        "rather smaller than this."
    )
    for one in sites:
        if one.reason:
            say(f"{one.site} was not run alone: {one.reason}", "yellow")
        if one.was_spoilt:
            say(f"{one.site} alone ended as {one.verdict}: another run of it may reach more.", "yellow")


def _plain(one: ComparedSite, result: Mapping[str, Any]) -> dict[str, Any]:
    from experiments.against_local import shown_figures

    better = {figure.name: one.better(figure) for figure in shown_figures(result)}
    return {
        "site": one.site,
        "run": one.run or None,
        "not_run_because": one.reason or None,
        "verdict_alone": one.verdict or None,
        "together": dict(one.together),
        "alone": dict(one.alone),
        "better_together": {
            name: None if gain is None else {"value": gain[0], "error": gain[1]}
            for name, gain in better.items()
        },
    }


def _newest(
    runs: Sequence[Run], names: Collection[str], result_of: Callable[[Run], Mapping[str, Any] | None]
) -> _Found:
    """Runs of these experiments that have a result, newest first, by the name of the experiment."""
    found: _Found = {}
    for run in runs:
        if run.experiment in names and run.status in _ENDED and run.experiment not in found:
            result = result_of(run)
            if result:
                found[run.experiment] = run.name, result
    return found


def _require(detail: RunDetail | None) -> RunDetail:
    assert detail is not None  # noqa: S101 - it was listed a moment ago
    return detail


def _result_of(detail: RunDetail) -> Mapping[str, Any]:
    result = detail.result
    if result is None or not {"metrics", "privacy", "windows", "version"} <= result.keys():
        raise InputError(
            f"run '{detail.run.name}' has no result of a training",
            where="RUN",
            remedy="Name a run that has ended with a model",
        )
    return result
