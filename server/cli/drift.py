"""`tidegate drift …`: what the drift checks found and what was decided."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contract.outside import shown

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Verdicts on windows, and the decisions that followed.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="The experiment file.")],
    window: Annotated[str, typer.Argument(help="The window's name.")],
    json: Json = False,
) -> None:
    """Check one window now, and do what the retraining policy says; also one that was not judged.

    It is checked by the server that runs here. Ctrl-C leaves the check to it; the same command waits again.
    """
    import signal
    import sys
    import threading
    from datetime import UTC, datetime

    from contract.errors import InputError, RoundError
    from server.cycle import champion_of
    from server.federation import running_control
    from server.schedule import WindowChecks
    from server.settings import apply_quiet_environment, read_settings
    from server.state.storage import open_known_state
    from terminal.experiment_files import read_experiment
    from terminal.output import print_json, say

    apply_quiet_environment()
    experiment, settings, stop = read_experiment(file), read_settings(), threading.Event()
    experiment.drift.require_seasons([window])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def tell(words: str) -> None:
        say(words) if not json else print(shown(words), file=sys.stderr, flush=True)

    with open_known_state(settings.state_url) as state:
        champion_of(experiment.name, state)  # says what to do where there is none
        checks = WindowChecks(state=state, control=lambda: running_control(settings), stop=stop, say=tell)
        checks.schedules.enter(experiment.name, [(window, datetime.now(UTC))])
        came = checks.check(experiment, window)
    if came is None:
        raise InputError(
            f"another window of '{experiment.name}' is being checked",
            remedy=f"Wait for it: tidegate schedule list {experiment.name}",
        )
    if json:
        print_json({name: value for name, value in vars(came).items() if name != "id"})
    if stop.is_set():
        raise KeyboardInterrupt
    if came.state != "done":
        raise RoundError(came.detail, where=f"window '{window}'")


@app.command("list")
def list_verdicts(
    experiment: Annotated[str, typer.Argument(help="The experiment's name.")], json: Json = False
) -> None:
    """Each window's verdict and decision."""
    from monitoring.verdict import Verdict
    from server.settings import read_settings
    from server.state.storage import open_known_state
    from terminal.output import cell, print_json, print_table, say

    with open_known_state(read_settings().state_url) as state:
        records, decisions = state.verdicts(experiment), state.decisions(experiment)
    if json:
        print_json(
            {
                "verdicts": [vars(record) for record in records],
                "decisions": [vars(item) for item in decisions],
            }
        )
        return
    import json as json_text

    reasons = {
        item.window: f"{item.kind}: {item.reason}" for item in decisions if item.subject == "retraining"
    }
    rows = []
    for record in records:
        verdict = Verdict.from_json(json_text.dumps(dict(record.verdict)))
        features = sorted(
            {name for site in verdict.sites for name in site.drifted} | set(verdict.pooled.drifted)
        )
        rows.append(
            (
                record.window,
                cell("alarm", "red") if record.alarm else "quiet",
                ", ".join(verdict.sites_in_alarm) or "–",
                ", ".join(features) or "–",
                verdict.reference or "all training windows",
                reasons.get(record.window, "–"),
            )
        )
    if not rows:
        say(f"No window of '{experiment}' was checked for drift yet.")
        return
    print_table(
        ("window", "verdict", "sites", "features", "against", "decision"), rows, unbroken=("verdict",)
    )


@app.command()
def show(
    experiment: Annotated[str, typer.Argument(help="The experiment's name.")],
    window: Annotated[str, typer.Argument(help="The window's name.")],
    json: Json = False,
) -> None:
    """One window's verdict by site and feature, and which training windows it was compared with."""
    import json as json_text

    from contract.errors import InputError
    from contract.windows import condensed
    from monitoring.verdict import Verdict
    from server.settings import read_settings
    from server.state.storage import open_known_state
    from terminal.output import cell, figure, print_json, print_table, say

    with open_known_state(read_settings().state_url) as state:
        found = [record for record in state.verdicts(experiment) if record.window == window]
    if not found:
        raise InputError(
            f"there is no verdict on window '{window}'",
            where=experiment,
            remedy=f"See `tidegate drift list {experiment}`",
        )
    if json:
        print_json(vars(found[0]))
        return
    verdict = Verdict.from_json(json_text.dumps(dict(found[0].verdict)))
    rows = [
        (
            site.site,
            feature.feature,
            f"{feature.p_value:.2g}",
            figure(feature.distance),
            cell("drift", "red") if feature.drifted else "",
        )
        for site in (*verdict.sites, verdict.pooled)
        for feature in site.features
    ]
    windows = ", ".join(condensed(verdict.reference_window.split("+")))
    title = f"{experiment}, window {window} against {windows or 'all rows'}"
    print_table(("site", "feature", "p-value", "distance", ""), rows, title=title)
    if verdict.reference:
        say(f"Compared with {verdict.reference}.")
