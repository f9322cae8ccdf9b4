"""What a standing mandate covers: the windows of a schedule, and how often each.

Each window has so many tries. A try is one drift check and, where the retraining policy asks for it, one
training of a challenger with its comparison to the champion. The name of each of its runs follows from the
mandate's: `RUN-2026-W05-1`, and `RUN-2026-W05-1-challenger`. A site answers each request of a run once. So
a server gets no more than these tries, however often and in whatever order it asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from contract.experiment import Epsilon, Experiment
from contract.names import WindowName
from contract.windows import Every, is_window, places

__all__ = ["MOST_TRIES", "Standing"]

MOST_TRIES = 10


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) != len(names):
        raise ValueError("name one twice")
    return names


class Standing(BaseModel):
    """Which windows may be checked, and what may be done for each.

    Attributes:
        every: how long a window is.
        first, last: of the windows that may be checked.
        tries: how often each may be; beyond the first only where another model is in service meanwhile.
        drift_epsilon: what a check may spend on a row of its window, and once on a row of each reference.
            A comparison may spend the mandate's `evaluation_epsilon`.
        reference: the windows that the first model was trained on; empty for all rows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    every: Every
    first: WindowName
    last: WindowName
    tries: Annotated[int, Field(ge=1, le=MOST_TRIES)]
    drift_epsilon: Epsilon
    reference: Annotated[tuple[WindowName, ...], Field(max_length=1000), AfterValidator(_distinct)] = ()

    @model_validator(mode="after")
    def _is_span(self) -> Self:
        if not (is_window(self.first, self.every) and is_window(self.last, self.every)):
            raise ValueError(f"first and last are not each a {self.every}")
        if self.first > self.last:
            raise ValueError("the last window comes before the first")
        return self

    def covers(self, window: str) -> bool:
        """Whether the window may be checked."""
        return is_window(window, self.every) and self.first <= window <= self.last

    def runs(self, run: str, window: str) -> tuple[str, ...]:
        """The names that the tries of a window have, in their order; `run` is the mandate's."""
        return tuple(f"{run}-{window}-{number}" for number in range(1, self.tries + 1))

    def may_train(self, window: str, windows: Sequence[str], experiment: Experiment) -> bool:
        """Whether a challenger of this window may be trained on these: the last few, up to the window."""
        return (
            experiment.retraining.enabled
            and tuple(windows[-1:]) == (window,)
            and self._is_recent(windows, experiment)
        )

    def may_compare(self, window: str, reference: Sequence[str], experiment: Experiment) -> bool:
        """Whether this may be a window's reference: what the first model was trained on, or a challenger.

        Raises:
            InputError: the experiment compares seasons, and one of these windows has none.
        """
        if tuple(reference) == experiment.drift.reference_of((window,), self.reference):
            return True
        return self._is_recent(reference, experiment) and reference[-1] < window

    def _is_recent(self, windows: Sequence[str], experiment: Experiment) -> bool:
        """Whether a challenger of a covered window may be trained on these."""
        if not windows or list(windows) != sorted(set(windows)):
            return False
        if not all(is_window(name, self.every) for name in windows):
            return False
        place, most = places([*windows, self.first]), experiment.retraining.windows
        earliest, latest = place[windows[0]], place[windows[-1]]
        return latest - earliest < most and earliest > place[self.first] - most
