"""The rows of the sites that are attacked, and what an exact answer to a question on them would be."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments.audit.hostile_server import Answer
from tests.adversary.wire import rows_text

__all__ = ["BINS", "Row", "Rows", "level_of", "make_rows", "noise_in", "sorting_model", "text", "with_row"]

Row = dict[str, Any]
Rows = list[Row]
Noise = list[tuple[Any, float]]
"""Of each release what is left without the truth, and its L2 sensitivity."""

BINS = 20
STATED_ROWS = 60
text = rows_text


def make_rows(seed: int = 1) -> Rows:
    """80 patients of window w1 and 40 of w2, a row each; every fourth is held out."""
    rng = np.random.default_rng(seed)
    return [
        {
            "level": round(float(rng.uniform(1, 99)), 3),
            "ward": "abc"[number % 3],
            "ill": int(rng.random() < 0.4),
            "window": "w1" if number < 80 else "w2",
            "patient": 1000 + number,
            "side": "holdout" if number % 4 == 0 else "train",
            "secret": "none",
        }
        for number in range(120)
    ]


def with_row(rows: Rows, place: int = 1, **changes: object) -> Rows:
    """The rows with another one in the place of one of them; that of 1 is for training, of 0 held out."""
    return [{**row, **changes} if number == place else row for number, row in enumerate(rows)]


def of(rows: Rows, side: str, windows: Sequence[str]) -> Rows:
    return [row for row in rows if row["side"] == side and row["window"] in windows]


def noise_in(answer: Answer, rows: Rows, windows: Sequence[str] = ("w1",)) -> Noise:
    """What an answer to a zero model, or a question for counts, holds beside the truth."""
    found: Noise = []
    scores = [answer.reply.get(name) for name in ("scores", "challenger_scores")]
    if any(scores):
        truth = _histogram(of(rows, "holdout", windows))
        parts = [np.subtract([*one["negative"], *one["positive"]], truth) for one in scores if one]
        found.append((np.concatenate(parts), 2.0 if answer.reply.get("comparison") else 1.0))
    if answer.arrays:
        found.append((_gradient_noise(answer, of(rows, "train", windows)), 1.0))
    return found


def _histogram(rows: Rows) -> list[float]:
    """A zero model gives every row the score of one half."""
    counts = [0.0] * (2 * BINS)
    for row in rows:
        counts[BINS * int(row["ill"]) + BINS // 2] += 1
    return counts


def _gradient_noise(answer: Answer, rows: Rows) -> Any:
    """One step of rate 1 from a zero model takes the sum of the rows' gradients over the stated rows."""
    weight, bias = (answer.arrays[f"layers.0.{name}"] for name in ("weight", "bias"))
    released = -STATED_ROWS * np.concatenate([weight.ravel(), bias]).astype(np.float64)
    truth = np.zeros(5)
    for row in rows:
        inputs = [row["level"] / 100, *(float(row["ward"] == name) for name in "abc"), 1.0]
        truth += (0.5 - int(row["ill"])) * np.array(inputs)
    return released - truth


def sorting_model() -> dict[str, Any]:
    """A model that puts a row of `level_of(bin)` into that bin of the score histogram."""
    return {
        "layers.0.weight": np.array([[10, 0, 0, 0]], np.float32),
        "layers.0.bias": np.array([-5], np.float32),
    }


def level_of(score_bin: int) -> float:
    middle = (score_bin + 0.5) / BINS
    return round(10 * (math.log(middle / (1 - middle)) + 5), 4)


def counted(answer: Answer) -> Any:
    """Noisy counts by bin of the score histogram, both outcomes together."""
    scores = answer.reply["scores"]
    return np.add(scores["negative"], scores["positive"])


Figure = Callable[[str], None]
"""Notes what an attack found, for the end of the tests."""
