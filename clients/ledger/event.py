"""What ran on a data block, as the accounting takes it; and the bounds of its parameters, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeGuard

from contract.errors import InputError

__all__ = [
    "LEAST_NOISE",
    "MOST_NOISE",
    "MOST_TIMES",
    "Event",
    "is_number",
    "require_count",
    "require_delta",
    "require_noise",
    "require_rate",
]

LEAST_NOISE, MOST_NOISE = 1e-3, 1e9
"""Bounds of a noise multiplier: below, nothing is hidden; above, nothing is left."""
_LEAST_RATE = 1e-4
"""Below it, sampling would have to be finer than it is (`clients.mechanisms`)."""
MOST_TIMES = 10**9
"""No mechanism runs more often on a block."""
_LEAST_DELTA = 1e-15
"""Below it, double precision cannot tell a δ from none."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """`count` uses of one mechanism on a block, as they ran.

    Attributes:
        noise_multiplier: noise standard deviation over the L2 sensitivity.
        sampling_rate: chance with which each unit took part, independently (Poisson);
            1 when every unit did.
        count: how many times.
        plan: names what fixed a sub-sampled event before the block's first release, None if
            nothing did. Events of one name are one plan. No meaning for other events.
    """

    noise_multiplier: float
    sampling_rate: float = 1.0
    count: int = 1
    plan: str | None = ""

    def __post_init__(self) -> None:
        require_noise(self.noise_multiplier)
        require_rate(self.sampling_rate)
        require_count(self.count, MOST_TIMES, "count")
        if self.plan is not None and type(self.plan) is not str:
            raise InputError("the name of a plan is a text")


def require_noise(value: object) -> None:
    """Refuse what is no noise multiplier: a finite number from `LEAST_NOISE` to `MOST_NOISE`."""
    if not is_number(value) or not LEAST_NOISE <= value <= MOST_NOISE:
        raise InputError(
            f"the noise multiplier {value!r:.40} is not from {LEAST_NOISE:g} to {MOST_NOISE:g}",
            remedy="Ask for another ε, or for fewer steps",
        )


def require_rate(value: object) -> None:
    """Refuse what is no sampling rate: a number from .0001 to 1."""
    if not is_number(value) or not _LEAST_RATE <= value <= 1:
        raise InputError(f"the sampling rate {value!r:.40} is not from {_LEAST_RATE:g} to 1")


def require_count(value: object, most: int, name: str) -> None:
    """Refuse what is no whole number from 1 to `most`; `name` says of what."""
    if type(value) is not int or not 1 <= value <= most:
        raise InputError(f"{name} = {value!r:.40} is not a whole number from 1 to {most:,}")


def require_delta(value: object) -> None:
    """Refuse what is no δ of a statement."""
    if not is_number(value) or not _LEAST_DELTA <= value < 1:
        raise InputError(f"δ = {value!r:.40} is not from {_LEAST_DELTA:g} to below 1")


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a real number, of which `True` is none; it may be infinite."""
    return isinstance(value, int | float) and not isinstance(value, bool)
