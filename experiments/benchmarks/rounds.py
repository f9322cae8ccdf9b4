"""Rounds in deployment, ours and stock Flower's: four sites as processes of this machine, TLS on loopback.

Ours is Tidegate's agent, gateway with mutual TLS, SuperLink, grid and exchange; the alternative is stock
SuperNodes, which start a process for each message, a stock SuperLink and stock `Grid.send_and_receive`. Both
have TLS and node authentication, and the same app.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from experiments.benchmarks import rounds_heart, scientist_start, server_idle
from experiments.benchmarks.measurement import Measurement
from experiments.benchmarks.raw_tls import seconds_over_tls
from experiments.benchmarks.rounds_trial import SITES, STOCK_SUPERLINK, Outcome, Trial

__all__ = ["Figures", "measure", "table"]

_MEGABYTES = 100
_NOOP_ROUNDS, _BYTES_ROUNDS, _STOCK_ROUNDS = 30, 12, 3
_FEW, _MANY = 16, 64
"""Sites, to see how a round's time grows with them."""
_FEW_ROUNDS, _MANY_ROUNDS = 24, 8
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
        few, many: ours, with so many sites.
    """

    raw: float
    noop: Outcome
    large: Outcome
    stock_noop: Outcome
    stock_large: Outcome
    few: Outcome
    many: Outcome


def measure(progress: Progress = lambda _percent, _note: None) -> list[Measurement]:
    """All of it, in about five minutes; `progress` is told the share that is done, in percent."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw = statistics.median(
            seconds_over_tls(folder / "raw", parts=SITES, part_bytes=_MEGABYTES * 1_000_000) for _ in range(3)
        )
        progress(3, "(raw TLS)")
        with Trial(folder / "ours") as trial:
            trial.start_agents(SITES)
            noop = trial.rounds("noop", _NOOP_ROUNDS, SITES)
            progress(8, "(no-op rounds)")
            large = trial.rounds("bytes", _BYTES_ROUNDS, SITES, megabytes=_MEGABYTES)
        progress(16, f"({_MEGABYTES} MB rounds)")
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
        progress(54, f"({_MANY} sites)")
        few = before.and_then(_of_many(folder / "after", _FEW, _FEW_ROUNDS))
        progress(58, f"({_FEW} sites)")
        idle = server_idle.measure(folder / "idle")
        progress(62, "(idle server)")
        start = scientist_start.measure(folder / "start")
        progress(66, "(Enter to first round)")
        heart = rounds_heart.measure(folder / "heart", progress)
    figures = Figures(
        raw=raw,
        noop=noop,
        large=large,
        stock_noop=stock_noop,
        stock_large=stock_large,
        few=few,
        many=many,
    )
    return table(figures) + heart + idle + start


def _of_many(folder: Path, sites: int, rounds: int) -> Outcome:
    with Trial(folder) as trial:
        trial.start_agents(sites, threads=_THREADS)
        return trial.rounds("noop", rounds, sites)


def table(figures: Figures) -> list[Measurement]:
    """The rows that need no data set."""
    few, many = figures.few, figures.many
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
        Measurement(
            name=f"no-op round, {_MANY} sites over {_FEW}, a site",
            ours=_growth(few, many),
            theirs=None,
            unit="ratio",
            goal=1.0,
            note=f"{few.median:.2f} s and {many.median:.2f} s; {_THREADS} sites a process; answers missing: "
            f"{few.missing + many.missing} of {few.expected + many.expected}; {many.breakdown()}",
        ),
    ]


def _growth(few: Outcome, many: Outcome) -> float:
    """How much longer a site's share of a round is with many; not a number if an answer is missing."""
    if few.missing or many.missing:
        return math.nan
    return (many.median / few.median) / (_MANY / _FEW)
