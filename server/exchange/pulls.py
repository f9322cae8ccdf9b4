"""Where the updates of a run pulled the model: each site's, early in it and late.

A round's update, less the model that it began from, is the site's step: along its mean clipped gradient, and
noise. Over a span of rounds the noise averages out, for that of each round is new; and how much of it is left
is known, for the noise's scale is public (`contract.norm_bound.noise_variance`). So with u the mean step of m
rounds, and S the expected squared length of the noise in one,

    ‖u‖² - S / m

is without bias the squared length of the mean step that the data made, and its standard error is known too.
Where the scale of the noise is not public, the spread of the rounds stands for it, which counts changes of
the gradient as noise.

All of it is made of what was released: it costs no privacy. Of a large model some parameters stand for all.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from contract.experiment import Experiment
from contract.messages import Reply
from contract.norm_bound import noise_variance
from contract.quantization import parameters
from server.exchange.weights import site_weights

__all__ = ["SPANS", "Pull", "Pulls", "Span", "Step"]

Arrays = Mapping[str, npt.NDArray[Any]]
Span = Literal["early", "late"]

SPANS: tuple[Span, Span] = ("early", "late")
_KEPT = 2048
"""Parameters that are looked at, evenly chosen where there are more: each checkpoint holds them."""
_FEWEST_ROUNDS = 4


@dataclass(frozen=True, kw_only=True)
class Step:
    """A mean step, and how much of it is noise.

    Attributes:
        mean: parameter by parameter, float64 [kept].
        noise: the expected squared length of the noise in it; NaN where it is not known.
    """

    mean: npt.NDArray[np.float64]
    noise: float

    @property
    def signal(self) -> float:
        """Its squared length without the noise, without bias: it may be below 0."""
        return float(self.mean @ self.mean) - self.noise

    @property
    def error(self) -> float:
        """The standard error of `signal`."""
        return math.sqrt((2 * self.noise**2 + 4 * self.noise * max(0.0, self.signal)) / len(self.mean))

    def less(self, other: Step) -> Step:
        """How it differs from another, whose noise is its own."""
        return Step(mean=self.mean - other.mean, noise=self.noise + other.noise)


@dataclass(frozen=True, kw_only=True)
class Pull:
    """The steps of a site in a span of rounds.

    Attributes:
        total: the steps, added up, parameter by parameter, float64 [kept].
        squares: the squared lengths of the steps, added up.
        noise: what noise alone adds to `squares` in expectation; NaN where its scale is not public.
        rounds: how many steps there are.
        rows: that the site states.
    """

    total: npt.NDArray[np.float64]
    squares: float
    noise: float
    rounds: int
    rows: int

    @property
    def step(self) -> Step:
        """The mean step."""
        each = self.noise / self.rounds if math.isfinite(self.noise) else self.spread
        return Step(mean=self.total / self.rounds, noise=each / self.rounds)

    @property
    def spread(self) -> float:
        """The squared length by which steps differ from their mean: noise, and changes of the gradient.

        NaN of one step.
        """
        if self.rounds < 2:
            return math.nan
        around = self.squares - float(self.total @ self.total) / self.rounds
        return max(0.0, around) / (self.rounds - 1)

    def __add__(self, other: Pull) -> Pull:
        """The steps of both spans."""
        return Pull(
            total=self.total + other.total,
            squares=self.squares + other.squares,
            noise=self.noise + other.noise,
            rounds=self.rounds + other.rounds,
            rows=other.rows,
        )


@dataclass(frozen=True, kw_only=True)
class Pulls:
    """What is known of a run's steps so far.

    Attributes:
        spans: by span and site.
        kept: the share of the parameters that is kept.
    """

    spans: Mapping[tuple[Span, str], Pull] = field(default_factory=dict)
    kept: float = 1.0

    @property
    def sites(self) -> list[str]:
        """Those that counted early and late."""
        early, late = ({site for span, site in self.spans if span == one} for one in SPANS)
        return sorted(early & late)

    def of(self, site: str, span: Span | None = None) -> Pull:
        """A site's pull in a span, or in both."""
        if span is None:
            return self.spans["early", site] + self.spans["late", site]
        return self.spans[span, site]

    def mean(self, experiment: Experiment, sites: Collection[str], span: Span | None = None) -> Step:
        """The mean step of these sites, weighed as the server weighs them."""
        found = {site: self.of(site, span) for site in sites}
        weights = _weights(experiment, {site: pull.rows for site, pull in found.items()})
        return Step(
            mean=np.sum([weights[site] * pull.step.mean for site, pull in found.items()], axis=0),
            noise=sum(weights[site] ** 2 * pull.step.noise for site, pull in found.items()),
        )

    def with_round(
        self, number: int, replies: Mapping[str, Reply], model: Arrays, experiment: Experiment
    ) -> Pulls:
        """This, and a round.

        Args:
            number: the round, from 1.
            replies: by site, with checked updates.
            model: what the round began from.
            experiment: the plan.
        """
        span = _span_of(number, experiment.strategy.rounds)
        if span is None:
            return self
        found = dict(self.spans)
        for site, reply in replies.items():
            pull = _pull(reply, model, experiment)
            before = found.get((span, site))
            found[span, site] = pull if before is None else before + pull
        size = sum(array.size for array in model.values())
        return Pulls(spans=found, kept=min(1.0, _KEPT / size))

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """For a checkpoint."""
        found: dict[str, npt.NDArray[Any]] = {}
        for (span, site), pull in self.spans.items():
            found[f"{span}/{site}/total"] = pull.total
            sums = (pull.squares, pull.noise, pull.rounds, pull.rows, self.kept)
            found[f"{span}/{site}/sums"] = np.array(sums, dtype=np.float64)
        return found

    @classmethod
    def of_arrays(cls, arrays: Arrays) -> Pulls:
        """What `to_arrays` made; nothing of a checkpoint that an earlier program wrote."""
        spans: dict[tuple[Span, str], Pull] = {}
        kept = 1.0
        for span in SPANS:
            for name in (one for one in arrays if one.startswith(f"{span}/") and one.endswith("/sums")):
                site = name.split("/")[1]
                squares, noise, rounds, rows, kept = arrays[name].tolist()
                spans[span, site] = Pull(
                    total=arrays[f"{span}/{site}/total"],
                    squares=squares,
                    noise=noise,
                    rounds=int(rounds),
                    rows=int(rows),
                )
        return cls(spans=spans, kept=kept)


def _pull(reply: Reply, model: Arrays, experiment: Experiment) -> Pull:
    """Of one round."""
    assert reply.update is not None  # server.exchange.checks has looked  # noqa: S101
    step = _chosen(parameters(reply.update, model), model)
    variance = noise_variance(experiment, reply.stated_rows)
    return Pull(
        total=step,
        squares=float(step @ step),
        noise=math.nan if variance is None else variance * len(step),
        rounds=1,
        rows=reply.stated_rows,
    )


def _span_of(number: int, rounds: int) -> Span | None:
    """The first quarter of the rounds is early, the last one late."""
    if rounds < _FEWEST_ROUNDS:
        return None
    quarter = rounds // 4
    return "early" if number <= quarter else "late" if number > rounds - quarter else None


def _weights(experiment: Experiment, rows: Mapping[str, int]) -> dict[str, float]:
    """What share of the mean each site has; a vote each where the aggregation gives them that."""
    counted: Mapping[str, float] = (
        site_weights(rows) if experiment.strategy.aggregation == "mean" else dict.fromkeys(rows, 1)
    )
    total = sum(counted.values())
    return {site: weight / total for site, weight in counted.items()}


def _chosen(after: Arrays, before: Arrays) -> npt.NDArray[np.float64]:
    """The step, in the parameters that are kept."""
    size = sum(array.size for array in before.values())
    places = np.arange(size) if size <= _KEPT else np.linspace(0, size - 1, _KEPT).astype(np.int64)
    found, first = [], 0
    for name in sorted(before):
        here = places[(places >= first) & (places < first + before[name].size)] - first
        chosen = after[name].ravel()[here].astype(np.float64)
        found.append(chosen - before[name].ravel()[here])
        first += before[name].size
    return np.concatenate(found)
