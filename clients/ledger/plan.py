"""What a run may do to some data blocks, fixed before its first release; and the cap on a block.

Both check themselves when they are made, so that nothing that is no mechanism is ever charged,
composed or held against a cap.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from clients.ledger.event import (
    MOST_TIMES,
    Event,
    is_number,
    require_count,
    require_delta,
    require_noise,
    require_rate,
)
from contract.errors import InputError

__all__ = ["WHOLE", "Cap", "Plan", "Purpose", "Split", "Unit", "as_name", "places", "require_name", "side_of"]

Unit = Literal["record", "person"]
Purpose = Literal["train", "clipped", "evaluate", "drift", "ranges"]

WHOLE = "all"
"""The window of a block that is the whole data set, all windows together."""

_MOST_USES, _MOST_BLOCKS, _LONGEST_NAME = 10**6, 10_000, 500


@dataclass(frozen=True, kw_only=True)
class Cap:
    """The most that any block may ever spend: ε at δ.

    Raises:
        InputError: ε is no positive number, or δ is out of bounds.
    """

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        require_delta(self.delta)
        if not is_number(self.epsilon) or not 0 < self.epsilon < math.inf:
            raise InputError(f"a cap of ε = {self.epsilon!r:.40} is not a positive number")

    def holds(self, epsilon: float) -> bool:
        """Whether a block may have paid that at `delta`, but for the arithmetic's last digits."""
        return 0 <= epsilon <= self.epsilon * (1 + 1e-9)  # false for what is not a number


@dataclass(frozen=True, kw_only=True)
class Split:
    """How a site deals records into windows and sides.

    Attributes:
        name: of all that has a say in it but the rows.
        lasting: whether a record keeps its side whatever becomes of its other values. If not, it may
            be a training record today and a held-out one tomorrow, and a plan is on both sides.
    """

    name: str
    lasting: bool


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run may do to some blocks, fixed before its first release.

    Attributes:
        name: unique; the run's name and the purpose.
        run: the run that it belongs to.
        purpose: what the releases are for.
        blocks: the data blocks that each use touches.
        noise_multiplier, sampling_rate: of one use; a noise multiplier of 0 marks
            a run that is not private.
        uses: how often at most.
        steps: mechanism applications in one use.
        unit: `record` or `person`.
        split: names how records are dealt into windows and sides (`Split.name`).
        allowance: names what this plan is one run of; of the same mechanism, `runs` of them
            may use a block.
        runs: how many.

    Raises:
        InputError: it is not the plan of a mechanism.
    """

    name: str
    run: str
    purpose: Purpose
    blocks: tuple[str, ...]
    noise_multiplier: float
    uses: int
    sampling_rate: float = 1.0
    steps: int = 1
    unit: Unit = "record"
    split: str = ""
    allowance: str = ""
    runs: int = 1

    def __post_init__(self) -> None:
        if type(self.blocks) is not tuple or not 1 <= len(self.blocks) <= _MOST_BLOCKS:
            raise InputError(f"a plan has from 1 to {_MOST_BLOCKS:,} data blocks")
        for text in (self.name, self.run, *self.blocks, *filter(None, (self.split, self.allowance))):
            require_name(text)
        if self.purpose not in get_args(Purpose) or self.unit not in get_args(Unit):
            raise InputError("a plan has another purpose or unit than there are")
        for name, most in (("uses", _MOST_USES), ("steps", _MOST_USES), ("runs", _MOST_USES)):
            require_count(getattr(self, name), most, name)
        require_count(self.uses * self.steps * self.runs, MOST_TIMES, "uses of a mechanism")
        require_rate(self.sampling_rate)
        if self.noise_multiplier != 0 or not is_number(self.noise_multiplier):
            require_noise(self.noise_multiplier)
        # as they are read from an entry, so that one plan has one name
        object.__setattr__(self, "noise_multiplier", float(self.noise_multiplier))
        object.__setattr__(self, "sampling_rate", float(self.sampling_rate))

    @property
    def foreseen(self) -> str:
        """Names everything that must be fixed in advance to compose several runs as one plan."""
        mechanism = (self.noise_multiplier, self.sampling_rate, self.uses, self.steps, self.runs)
        return f"{self.allowance or self.name} {mechanism}"

    @property
    def whole(self) -> bool:
        """Whether it is on the whole data set, and so on every window."""
        return any(block.rpartition("/")[0] == WHOLE for block in self.blocks)

    @property
    def sampled(self) -> bool:
        """Whether a use looks at a random part of the rows."""
        return self.sampling_rate < 1

    @property
    def private(self) -> bool:
        """Whether its releases carry noise."""
        return self.noise_multiplier > 0

    def covers(self, split: str, block: str) -> bool:
        """Whether the plan is for that side of the data: another run of its allowance may touch the block."""
        return self.split == split and side_of(block) in {side_of(own) for own in self.blocks}

    def touches(self, split: str, block: str) -> bool:
        """Whether a record of that block may be among the rows that a use looks at."""
        whole = f"{WHOLE}/{side_of(block)}"
        return self.split != split or block in self.blocks or whole in self.blocks

    def events(self, uses: int, plan: str | None = None) -> list[Event]:
        """What `uses` uses cost; `plan` names what fixed them in advance."""
        if not self.private or not uses:
            return []
        return [
            Event(
                noise_multiplier=self.noise_multiplier,
                sampling_rate=self.sampling_rate,
                count=uses * self.steps,
                plan=plan,
            )
        ]


def places(plans: Iterable[Plan]) -> list[tuple[str, str]]:
    """Each block of the plans, with the split that it belongs to."""
    return sorted({(plan.split, block) for plan in plans for block in plan.blocks})


def side_of(block: str) -> str:
    """`train` or `holdout`: what stands behind a block's window."""
    return block.rpartition("/")[2]


def require_name(text: object) -> None:
    """Refuse what could hide on a terminal, or be read as another name: blanks at an end, control characters.

    Raises:
        InputError: it is not a text of 1 to 500 printable characters.
    """
    if (
        type(text) is not str
        or not 1 <= len(text) <= _LONGEST_NAME
        or not text.isprintable()
        or text != text.strip()
    ):
        raise InputError(f"a name is not of 1 to {_LONGEST_NAME} printable characters")


def as_name(text: str) -> str:
    """What somebody else called a thing, cut to what is a name."""
    printable = "".join(letter if letter.isprintable() else "?" for letter in text[:200]).strip()
    return printable or "?"
