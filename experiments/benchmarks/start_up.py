"""How long a person waits before anything happens, and for a whole run: commands timed as they are typed."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.benchmarks.measurement import Measurement

__all__ = ["measure"]

_NO_DATA = "the data set is not here: set TIDEGATE_DATA_DIR"


def measure() -> list[Measurement]:
    """`tidegate --help`, and thirty rounds of `heart-disease.toml` inline with their start-up."""
    from experiments.datasets import HEART, is_at_hand

    helped = min(_seconds(["--help"])[0] for _ in range(3))
    plan = Path(__file__).parents[1] / "heart-disease.toml"
    whole, printed = _seconds(["run", str(plan), "--json"]) if is_at_hand(HEART.values()) else (math.nan, "")
    result: dict[str, Any] = json.loads(printed) if printed.startswith("{") else {}
    phases = result.get("seconds", {})
    within = phases.get("rounds", math.nan) + phases.get("publish", math.nan)
    note = "" if result else _NO_DATA
    return [
        Measurement(name="tidegate --help", ours=helped, theirs=None, unit="s", goal=0.5),
        Measurement(
            name="tidegate run heart-disease.toml, 30 rounds inline",
            ours=whole,
            theirs=None,
            unit="s",
            goal=15.0,
            note=note,
        ),
        Measurement(
            name="of which start-up, the interpreter's included",
            ours=whole - within,
            theirs=None,
            unit="s",
            goal=5.0,
            note=note,
        ),
    ]


def _seconds(arguments: list[str]) -> tuple[float, str]:
    """Wall time of a command in a home of its own, and what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "TIDEGATE_HOME": folder,
            "TIDEGATE_ARTIFACT_ROOT": str(Path(folder) / "artifacts"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        }
        environment.pop("TIDEGATE_STATE_URL", None)
        command = [sys.executable, "-m", "experiments.cli.main", *arguments]
        began = time.perf_counter()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return time.perf_counter() - began, done.stdout
