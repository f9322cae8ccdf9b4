"""What a run needs to go on after a kill, as one blob: model, average, strategy, pulls, round."""

from __future__ import annotations

import io
import zipfile
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from contract.errors import StorageError

__all__ = ["Checkpoint"]

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The state of a run after a round.

    Attributes:
        round: the last round that was aggregated; 0 before the first.
        arrays: the model after it.
        averaged: sum of the models of the rounds that count towards the average.
        averaged_rounds: how many those are.
        strategy: what `server.exchange.strategies.strategy_state` gave.
        pulls: what `server.exchange.pulls.Pulls.to_arrays` gave.
        share: that of the positive outcome from which training began anew (`server.exchange.first_share`).
    """

    round: int
    arrays: Arrays
    averaged: Arrays = field(default_factory=dict)
    averaged_rounds: int = 0
    strategy: Arrays = field(default_factory=dict)
    pulls: Arrays = field(default_factory=dict)
    share: float | None = None

    def result(self) -> Arrays:
        """The model that the run stands for: the average if one was taken, else the last."""
        if not self.averaged_rounds:
            return self.arrays
        return {
            name: (value / self.averaged_rounds).astype(np.float32) for name, value in self.averaged.items()
        }

    def to_bytes(self) -> bytes:
        """As one npz file, without pickles."""
        buffer = io.BytesIO()
        named = {
            **{f"arrays/{name}": value for name, value in self.arrays.items()},
            **{f"averaged/{name}": value for name, value in self.averaged.items()},
            **{f"strategy/{name}": value for name, value in self.strategy.items()},
            **{f"pulls/{name}": value for name, value in self.pulls.items()},
            "counts": np.array([self.round, self.averaged_rounds]),
            **({} if self.share is None else {"share": np.array(self.share)}),
        }
        np.savez(buffer, allow_pickle=False, **named)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, blob: bytes) -> Checkpoint:
        """Read what `to_bytes` wrote.

        Raises:
            StorageError: the blob is damaged.
        """
        try:
            with np.load(io.BytesIO(blob), allow_pickle=False) as file:
                counts = file["counts"]
                share = float(file["share"]) if "share" in file.files else None
                parts: dict[str, Arrays] = {"arrays": {}, "averaged": {}, "strategy": {}, "pulls": {}}
                for name in file.files:
                    kind, _, rest = name.partition("/")
                    if rest:
                        parts[kind][rest] = file[name]
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as exc:
            raise StorageError("the checkpoint is damaged", remedy="Start the run again") from exc
        return cls(round=int(counts[0]), averaged_rounds=int(counts[1]), share=share, **parts)
