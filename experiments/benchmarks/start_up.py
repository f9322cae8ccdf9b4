"""How long a person waits before anything happens, and for a whole run: commands timed as they are typed."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from contract.errors import RoundError
from experiments.benchmarks.measurement import Measurement

__all__ = ["measure"]

_FIRST_ROUND = ": 1 of "
"""What `tidegate run` says when its first round is done."""


def measure() -> list[Measurement]:
    """`tidegate --help`, and thirty rounds of `heart-disease.toml` with the wait for the first of them."""
    from experiments.data.datasets import HEART, is_at_hand

    helped = min(_seconds(["--help"])[0] for _ in range(3))
    plan = Path(__file__).parents[1] / "heart-disease.toml"
    whole, first, note = math.nan, math.nan, "the data set is not here: set TIDEGATE_DATA_DIR"
    if is_at_hand(HEART.values()):
        (whole, first), note = _seconds(["run", str(plan)], until=_FIRST_ROUND), ""
    run = "tidegate run heart-disease.toml, 30 rounds inline, in a fresh folder"
    return [
        Measurement(name="tidegate --help", ours=helped, theirs=None, unit="s", goal=0.5),
        Measurement(name=run, ours=whole, theirs=None, unit="s", goal=15.0, note=note),
        Measurement(
            name="of which start-up, until its first round is done",
            ours=first,
            theirs=None,
            unit="s",
            goal=5.0,
            note=note,
        ),
    ]


def _seconds(arguments: list[str], *, until: str = "") -> tuple[float, float]:
    """Wall time of a command in a home of its own: all of it, and until it says `until`."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "TIDEGATE_HOME": folder,
            "TIDEGATE_ARTIFACT_ROOT": str(Path(folder) / "artifacts"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        }
        environment.pop("TIDEGATE_STATE_URL", None)
        command = [sys.executable, "-m", "experiments.cli.main", *arguments]
        began, said = time.perf_counter(), math.nan
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None  # a pipe was asked for  # noqa: S101
            for line in process.stderr:
                if until and until in line and math.isnan(said):
                    said = time.perf_counter() - began
        if process.returncode != 0:
            raise RoundError(f"'tidegate {' '.join(arguments)}' ended with status {process.returncode}")
        return time.perf_counter() - began, said
