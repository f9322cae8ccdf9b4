"""Rounds over slow and lossy lines: the server and each site on a host of its own, on this machine."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from experiments.benchmarks.lines import enter, lacking, lay_line, space
from experiments.benchmarks.measurement import Measurement
from experiments.benchmarks.rounds_trial import SITES, Outcome, Place, Trial

__all__ = ["DELAY", "LOSS", "measure", "table"]

DELAY, LOSS = 40.0, 0.01
"""Of each line: milliseconds each way, and the share of packets that do not arrive."""
_ROUNDS = 60


def measure(folder: Path, rounds: int = _ROUNDS) -> list[Measurement]:
    """No-op rounds in times there and back; a row without a figure where hosts cannot be made."""
    why = lacking()
    return table(_rounds(folder, rounds), "") if not why else table(None, why)


def table(outcome: Outcome | None, why: str) -> list[Measurement]:
    """The row.

    Args:
        outcome: what the rounds came to; None where they could not be held.
        why: they could not.
    """
    there_and_back = 2 * DELAY / 1000
    return [
        Measurement(
            name=f"no-op round, {SITES} sites, {DELAY:.0f} ms each way and {100 * LOSS:.0f} % loss",
            ours=math.nan if outcome is None or outcome.missing else outcome.median / there_and_back,
            theirs=None,
            unit="round-trip times",
            goal=8.0,
            note=f"not measured: {why}" if outcome is None else _note(outcome, there_and_back),
        )
    ]


def _note(outcome: Outcome, there_and_back: float) -> str:
    nearly_all = outcome.quantile(0.9) / there_and_back
    return (
        f"one is {1000 * there_and_back:.0f} ms; median of {len(outcome.steady)} rounds "
        f"{outcome.median:.3f} s, nine of ten within {nearly_all:.1f}; "
        f"answers missing: {outcome.missing} of {outcome.expected}; {outcome.breakdown()}"
    )


def _rounds(folder: Path, rounds: int) -> Outcome:
    name = f"tgb{os.getpid()}"
    with ExitStack() as stack:
        server = stack.enter_context(space(f"{name}-server"))
        places = []
        for number in range(1, SITES + 1):
            site = stack.enter_context(space(f"{name}-site-{number}"))
            addresses = f"10.78.{number}.1", f"10.78.{number}.2"
            devices = f"tgb{os.getpid() % 100_000}a{number}", f"tgb{os.getpid() % 100_000}b{number}"
            line = lay_line((server, site), devices, addresses, DELAY, LOSS)
            stack.callback(line.wait)
            stack.callback(line.kill)
            places.append(Place(space=site, server=addresses[0]))
        # a process of its own: a namespace is left with the process alone
        process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), enter, (server,))
        return stack.enter_context(process).submit(_trial, folder, places, rounds).result()


def _trial(folder: Path, places: Sequence[Place], rounds: int) -> Outcome:
    with Trial(folder, places=places) as trial:
        trial.start_agents(SITES)
        return trial.rounds("noop", rounds, SITES)
