"""Rounds in deployment, ours and stock Flower's: four sites as processes of this machine, TLS on loopback.

Ours is Tidegate's agent, gateway with mutual TLS, SuperLink, grid and exchange; the alternative is stock
SuperNodes, which start a process for each message, a stock SuperLink and stock `Grid.send_and_receive`. Both
have TLS and node authentication, and the same app.
"""

from __future__ import annotations

import functools
import math
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from contract.errors import TidegateError
from experiments.benchmarks import rounds_delayed, rounds_heart, scientist_start, server_idle
from experiments.benchmarks.measurement import Measurement
from experiments.benchmarks.raw_tls import seconds_over_tls
from experiments.benchmarks.rounds_trial import SITES, STOCK_SUPERLINK, Outcome, Trial

__all__ = ["Figures", "measure", "table"]

_MEGABYTES = 100
_NOOP_ROUNDS, _BYTES_ROUNDS, _STOCK_ROUNDS = 30, 5, 3
_TURNS = 3
"""Of large rounds and raw TLS: what else this machine does changes by the minute, and touches both."""
_FEW, _MANY, _MOST = 16, 64, 256
"""Sites, to see how a round's time grows with them."""
_FEW_ROUNDS, _MANY_ROUNDS, _MOST_ROUNDS = 24, 8, 4
_THREADS = 8
"""Sites that share a process when there are many: 64 processes would need 5 GB and a minute to start."""

Progress = Callable[[int, str], None]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What the trials gave.

    Attributes:
        raw: seconds for the bytes of one large round over one TLS connection.
        noop, large: ours.
        stock_noop, stock_large: stock Flower's.
        few, many, most: ours, with so many sites.
    """

    raw: float
    noop: Outcome
    large: Outcome
    stock_noop: Outcome
    stock_large: Outcome
    few: Outcome
    many: Outcome
    most: Outcome


def measure(progress: Progress = lambda _percent, _note: None) -> list[Measurement]:
    """All of it, in about twelve minutes; `progress` is told the share that is done, in percent."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Trial(folder / "ours") as trial:
            trial.start_agents(SITES)
            noop = trial.rounds("noop", _NOOP_ROUNDS, SITES)
            progress(5, "(no-op rounds)")
            raw, large = _large_rounds(trial, folder / "raw")
        progress(14, f"({_MEGABYTES} MB rounds)")
        delayed = _or_why("rounds over long lines", lambda: rounds_delayed.measure(folder / "delayed"))
        progress(16, "(rounds over long lines)")
        with Trial(folder / "stock", superlink=STOCK_SUPERLINK) as trial:
            trial.start_supernodes(SITES)
            stock_noop = trial.rounds("noop", _STOCK_ROUNDS, SITES, engine="stock")
            progress(26, "(stock no-op rounds)")
            stock_large = trial.rounds("bytes", 1, SITES, megabytes=_MEGABYTES, engine="stock")
        progress(36, f"(stock {_MEGABYTES} MB round)")
        # The few before and after the many: what else this machine does changes by the minute.
        before = _of_many(folder / "before", _FEW, _FEW_ROUNDS)
        progress(42, f"({_FEW} sites)")
        many = _of_many(folder / "many", _MANY, _MANY_ROUNDS)
        progress(48, f"({_MANY} sites)")
        few = before.and_then(_of_many(folder / "after", _FEW, _FEW_ROUNDS))
        progress(50, f"({_FEW} sites)")
        most = _of_many(folder / "most", _MOST, _MOST_ROUNDS)
        few = few.and_then(_of_many(folder / "end", _FEW, _FEW_ROUNDS))
        progress(60, f"({_MOST} sites)")
        idle = _or_why("idle server", lambda: server_idle.measure(folder / "idle"))
        progress(62, "(idle server)")
        start = _or_why("Enter to first round", lambda: scientist_start.measure(folder / "start"))
        progress(66, "(Enter to first round)")
        heart = _or_why("heart disease", lambda: rounds_heart.measure(folder / "heart", progress))
    figures = Figures(
        raw=raw,
        noop=noop,
        large=large,
        stock_noop=stock_noop,
        stock_large=stock_large,
        few=few,
        many=many,
        most=most,
    )
    return table(figures) + delayed + heart + idle + start


def _or_why(name: str, measured: Callable[[], list[Measurement]]) -> list[Measurement]:
    """The rows of a part; where it fails, one that says why: the other parts took minutes, and stand."""
    try:
        return measured()
    except TidegateError as exc:
        note = f"not measured: {exc}"
        return [Measurement(name=name, ours=math.nan, theirs=None, unit="", goal=math.nan, note=note)]


def _large_rounds(trial: Trial, folder: Path) -> tuple[float, Outcome]:
    """Rounds with a large update from each site, and the seconds of their bytes over raw TLS, in turns."""
    seconds, turns = [], []
    for _ in range(_TURNS):
        seconds.append(seconds_over_tls(folder, parts=SITES, part_bytes=_MEGABYTES * 1_000_000))
        turns.append(trial.rounds("bytes", _BYTES_ROUNDS, SITES, megabytes=_MEGABYTES))
    seconds.append(seconds_over_tls(folder, parts=SITES, part_bytes=_MEGABYTES * 1_000_000))
    return statistics.median(seconds), functools.reduce(Outcome.and_then, turns)


def _of_many(folder: Path, sites: int, rounds: int) -> Outcome:
    with Trial(folder) as trial:
        trial.start_agents(sites, threads=_THREADS)
        return trial.rounds("noop", rounds, sites)


def table(figures: Figures) -> list[Measurement]:
    """The rows that need no data set."""
    return [
        Measurement(
            name=f"no-op round, {SITES} sites",
            ours=figures.noop.median,
            theirs=figures.stock_noop.median,
            unit="s",
            goal=0.15,
            note=figures.noop.breakdown(),
        ),
        Measurement(
            name=f"round with a {_MEGABYTES} MB update from each of {SITES} sites",
            ours=figures.large.median / figures.raw,
            theirs=figures.stock_large.median / figures.raw,
            unit="ratio over raw TLS",
            goal=1.5,
            note=f"raw: {figures.raw:.2f} s for all of them over one connection; ours "
            f"{figures.large.median:.2f} s, quantized to a quarter as the gate does, through the SuperLink "
            f"and so two connections, and restored; stock: as they are; {figures.large.breakdown()}",
        ),
        _growth(_MANY, figures.few, figures.many),
        _growth(_MOST, figures.few, figures.most),
    ]


def _growth(sites: int, few: Outcome, many: Outcome) -> Measurement:
    """How much longer a site's share of a round is with many; not a number if an answer is missing."""
    missing = few.missing + many.missing
    return Measurement(
        name=f"no-op round, {sites} sites over {_FEW}, a site's share",
        ours=math.nan if missing else (many.median / few.median) / (sites / _FEW),
        theirs=None,
        unit="ratio",
        goal=1.1,
        note=f"{few.median:.2f} s and {many.median:.2f} s; {_THREADS} sites a process, each with an agent's "
        f"loop and connection of its own; answers missing: {missing} of {few.expected + many.expected}; "
        f"{many.breakdown()}",
    )
