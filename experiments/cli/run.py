"""`tidegate run FILE`: train one model version."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from contract.outside import shown
from contract.windows import condensed
from terminal.window_option import WindowNames

__all__ = ["run"]

_LONGEST = 20_000
"""Characters of a command that are shown: one that is cut cannot be typed."""


def run(
    file: Annotated[Path, typer.Argument(help="An experiment file, such as experiments/heart-disease.toml.")],
    runtime: Annotated[
        str | None,
        typer.Option(
            help="inline, deployment or simulation, on this machine. Without, and without --site and "
            "--resume: the server that you are connected to, or else inline."
        ),
    ] = None,
    site: Annotated[
        list[Path] | None,
        typer.Option(help="A site.toml; repeat for each site. Without: the experiment's data set."),
    ] = None,
    window: WindowNames = None,
    resume: Annotated[str | None, typer.Option(help="Go on with this run from its last checkpoint.")] = None,
    sign_days: Annotated[
        int, typer.Option(min=1, max=366, help="At the server: so long sites take your signature of the run.")
    ] = 14,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask whether to run what `tidegate plan` warns of.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="End with one JSON object.")] = False,
) -> None:
    """Train across the sites and register a model version: at the server of your profile, or here."""
    from scientist.connected import is_connected

    if runtime is None and not site and resume is None and is_connected():
        _run_there(file, window or [], sign_days=sign_days, yes=yes, json=json)
        return
    runtime = runtime or "inline"
    from contract.names import name_run
    from experiments.cli.confirmation import confirm_here
    from experiments.federated_run import (
        Request,
        asked_sites,
        named_runtime,
        require_sites,
        run_experiment,
        sites_for,
        with_all_settings,
    )
    from server.settings import apply_quiet_environment, read_settings
    from terminal.experiment_files import read_experiment
    from terminal.output import (
        Steps,
        hidden_metrics,
        print_json,
        quiet_flower,
        say,
        say_recipe,
    )
    from terminal.run_results import say_diagnosis, show_metrics

    apply_quiet_environment()
    engine = named_runtime(runtime)
    settings = read_settings()
    experiment = read_experiment(file)
    sites = asked_sites(experiment, sites_for(experiment, site or [], settings.home))
    experiment = with_all_settings(experiment, sites)
    say_recipe(experiment, silent=json)
    if resume is None:
        require_sites(experiment, sites)  # what is wrong is said before what is doubtful
        confirm_here(experiment, sites, yes=yes)
    quiet_flower()
    name = resume or name_run(experiment.name)
    steps = Steps(experiment.name, experiment.strategy.rounds, silent=json)
    try:
        result = run_experiment(
            Request(
                experiment=experiment,
                run=name,
                sites=sites,
                settings=settings,
                runtime=engine,
                windows=tuple(window or ()),
                progress=steps.show,
            )
        )
    except KeyboardInterrupt:
        steps.close()
        command = _again(file, name, runtime=engine, sites=site or (), windows=window or (), json=json)
        print(shown(f"go on where it stopped with: {command}", limit=_LONGEST), file=sys.stderr)
        raise
    finally:
        steps.close()
    if json:
        print_json({**result, "recipe": experiment.strategy.reason or None})
        return
    show_metrics(result, title=f"{result['model']} version {result['version']}: {result['status']}")
    if result["private"] and hidden_metrics(result):
        say(
            "No metric can be told: the noise hides it. More held-out rows, or a larger "
            "privacy.evaluation_epsilon, would show it.",
            "yellow",
        )
    say_diagnosis(result)
    if result["status"] != "succeeded":
        say(f"INCOMPLETE: {result['incomplete']}", "bold yellow")
    if not result["private"]:
        say("NOT PRIVATE: this run gives no guarantee.", "bold red")
    else:
        say("A site's ledger states the same noise at the δ of its cap: another δ, another ε.")
    say(
        f"run {result['run']}, {result['seconds']['total']:.1f} s. "
        f"Open the passport with: tidegate models show {result['model']} {result['version']}"
    )


def _run_there(file: Path, windows: list[str], *, sign_days: int, yes: bool, json: bool) -> None:
    """At the server of the profile, which needs no heavy library here."""
    from experiments.cli.confirmation import confirm_there
    from scientist.cli.runs import run_there
    from scientist.cli.sites import with_all_settings
    from terminal.experiment_files import read_experiment
    from terminal.output import say_recipe

    plan = with_all_settings(read_experiment(file))
    say_recipe(plan, silent=json)
    confirm_there(plan, windows, yes=yes)
    run_there(plan, list(windows), json=json, days=sign_days)


def _again(
    file: Path, name: str, *, runtime: str, sites: Sequence[Path], windows: Sequence[str], json: bool
) -> str:
    """The command that goes on with the run, as a shell takes it."""
    options = [("--runtime", runtime)] if runtime != "inline" else []
    options += [("--site", str(path)) for path in sites]
    options += [("--window", window) for window in condensed(windows)]
    words = [word for option in options for word in option]
    return shlex.join(["tidegate", "run", str(file), *words, "--resume", name, *(["--json"] if json else [])])
