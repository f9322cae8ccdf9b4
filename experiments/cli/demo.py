"""`tidegate demo`: the whole loop on this machine, on real rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contract.outside import shown

__all__ = ["demo"]


def demo(
    folder: Annotated[
        Path, typer.Option(help="Where everything goes; one of an earlier demo is replaced.")
    ] = Path("demo"),
    drift: Annotated[
        bool,
        typer.Option(
            "--drift/--no-drift", help="Roll the new coding out, or let the same weeks pass without it."
        ),
    ] = True,
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running until Ctrl-C.")] = False,
    weeks: Annotated[int, typer.Option(min=4, max=10, help="How many weeks arrive.")] = 10,
    ui_port: Annotated[int, typer.Option(help="Port of the MLflow UI; 0 takes a free one.")] = 0,
    json: Annotated[
        bool, typer.Option("--json", help="End with one JSON object, with the speed goals measured.")
    ] = False,
) -> None:
    """Train, watch, see drift, retrain, compare, promote: real processes, real rows."""
    import sys
    import time

    from experiments.demo.demo import Demo, DemoOptions
    from server.settings import apply_quiet_environment
    from terminal.output import cell, print_json, print_table, quiet_flower, say

    apply_quiet_environment()
    quiet_flower()

    def tell(line: str) -> None:
        print(shown(line, limit=5000), file=sys.stderr if json else sys.stdout, flush=True)

    def wait() -> None:
        tell(f"MLflow UI: {told.ui} (Ctrl-C ends the demo)")
        while True:
            time.sleep(1)

    told = Demo(
        options=DemoOptions(folder=folder.absolute(), drift=drift, weeks=weeks, ui_port=ui_port), say=tell
    )
    result = told.run(keep=wait if keep else None)
    if json:
        from experiments.benchmarks import start_up
        from experiments.benchmarks.measurement import to_json

        result["goals"] += to_json(start_up.measure())
        print_json(result)
    else:
        print_table(
            ("step", "came out", "seconds", ""),
            (
                (
                    step["name"],
                    "yes" if step["ok"] else cell("NO", "red"),
                    f"{step['seconds']:.1f}" if step["seconds"] else "",
                    step["detail"],
                )
                for step in result["steps"]
            ),
        )
        say(f"{result['seconds']:.0f} s in all. The plot by week: {result['plot']}")
        say("Look at versions and passports with:")
        say(f"  MLFLOW_TRACKING_URI={result['tracking_uri']} tidegate models ui")
        say(f"What was decided: TIDEGATE_HOME={folder / 'server'} tidegate models history {result['model']}")
        say(f"What a site spent: tidegate site ledger {next((folder / 'sites').iterdir())}/site.toml")
    if not result["ok"]:
        raise typer.Exit(1)
