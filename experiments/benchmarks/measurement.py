"""What a benchmark measured: ours and the alternative in one run, and the goal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from contract.json_values import finite

__all__ = ["Measurement", "to_json"]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One line of a benchmark.

    Attributes:
        name: what was measured.
        ours: our figure.
        theirs: the alternative's, measured in the same run; None where there is none to run.
        unit: of both; `ratio` where ours is already over something else.
        goal: the most that ours may be, or the least with `at_least`.
        at_least: whether more is better.
        note: what the alternative is, and where the time goes.
    """

    name: str
    ours: float
    theirs: float | None
    unit: str
    goal: float
    at_least: bool = False
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether the goal is met."""
        return self.ours >= self.goal if self.at_least else self.ours <= self.goal


def to_json(measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    """What `tidegate bench NAME --json` prints; a figure that is not finite is null."""
    rows = [{**asdict(item), "holds": item.holds} for item in measurements]
    return [finite(row) for row in rows]
