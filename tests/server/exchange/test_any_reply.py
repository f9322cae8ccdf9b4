"""Whatever a site writes in a reply of any kind is taken within bounds or refused: nothing else comes of it.

A whole reply as an honest site sends it, with a few of its values replaced by anything: numbers at every
end, other types, nested lists, texts that harm. `TIDEGATE_EXAMPLES` sets how many are tried.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract.errors import ReleaseError
from contract.experiment import Experiment, Privacy
from contract.messages import (
    CHALLENGER,
    COMPARE,
    DRIFT_QUERY,
    RANGES_QUERY,
    REPLY,
    Instruction,
    Reply,
    packed_limit,
)
from monitoring.verdict import form_verdict
from server.exchange.checks import (
    check_comparison,
    check_drift,
    check_public,
    check_ranges,
    check_scores,
    check_update,
    model_shapes,
)
from server.exchange.strategies import aggregate, build_strategy
from server.jobs.acceptance import judge
from server.jobs.quantiles import estimate_range, pool
from server.line.flower import assume_identity
from server.rounds import pooled
from server.state.participation import advice
from tests.server.federation import ROWS, Arrays, honest_reply, plan, text_of, written

KINDS = ("train", "evaluate", COMPARE, DRIFT_QUERY, RANGES_QUERY)
EXAMPLES = int(os.environ.get("TIDEGATE_EXAMPLES", "100"))
MODEL: Arrays = {
    "layers.0.weight": np.array([[0.5, -0.5, 0.1]], dtype=np.float32),
    "layers.0.bias": np.zeros(1, dtype=np.float32),
}
INSTRUCTIONS = {
    "train": Instruction(run="r", step=1, evaluate=True),
    "evaluate": Instruction(run="r", step=1, evaluate=True),
    COMPARE: Instruction(run="r", step=1),
    DRIFT_QUERY: Instruction(run="r", windows=("w2",), reference_windows=("w1",)),
    RANGES_QUERY: Instruction(run="r", features=("x0", "x2"), epsilon=0.5),
}
OPEN = plan()


@pytest.fixture(autouse=True)
def _identity() -> None:
    assume_identity(1)


def reply_of(site: str, kind: str) -> Reply:
    model = MODEL if kind != COMPARE else {**MODEL, **{f"{CHALLENGER}{name}": v for name, v in MODEL.items()}}
    return honest_reply(site, kind=kind, instruction=INSTRUCTIONS[kind], model=model)


ENDS = st.sampled_from(
    [
        *(math.nan, math.inf, -math.inf, 1e308, -1e308, 3e38, 1e-320, -0.0, 0.5),
        *(0, -1, 1, 2**31, 2**63, -(2**63), 10**12, 10**13, 10**400, True, None),
        *("", "north", "\ud800", "\0", "\x1b[2J", "all sites", "node 1", "9" * 5000, "1e999"),
    ]
)
ANYTHING = st.recursive(
    ENDS | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=25) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=25,
)


def places(values: object, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each value in it: of long rows of numbers, to the first three."""
    inner: list[tuple[Any, Any]] = []
    if isinstance(values, dict):
        inner = list(values.items())
    elif isinstance(values, list):
        inner = list(enumerate(values))[:3]
    found = [(*before, key) for key, _ in inner]
    return found + [place for key, value in inner for place in places(value, (*before, key))]


def replaced(values: dict[str, Any], changes: list[tuple[int, object]]) -> dict[str, Any]:
    values = copy.deepcopy(values)
    for number, change in changes:
        everywhere = places(values)
        *way, last = everywhere[number % len(everywhere)]
        inside: Any = values
        for key in way:
            inside = inside[key]
        inside[last] = change
    return values


def check_training(reply: Reply, experiment: Experiment) -> None:
    check_update(reply, experiment, MODEL)
    check_scores(reply, experiment)


CHECKS: dict[str, Callable[[Reply, Experiment], None]] = {
    "train": check_training,
    "evaluate": check_scores,
    COMPARE: check_comparison,
    DRIFT_QUERY: lambda reply, plan: check_drift(reply, plan, window="w2", reference_window="w1"),
    RANGES_QUERY: lambda reply, plan: check_ranges(reply, plan, features=("x0", "x2"), epsilon=0.5),
}
ASKED = {
    "train": {"update", "scores"},
    "evaluate": {"scores"},
    COMPARE: {"scores", "challenger_scores", "comparison"},
    DRIFT_QUERY: {"drift"},
    RANGES_QUERY: {"ranges"},
}


def read(values: object, arrays: Arrays, kind: str, experiment: Experiment) -> Reply:
    """As the server does.

    Raises:
        ReleaseError: it is refused.
    """
    reply = Reply.from_records(
        written(values, arrays),
        most_bytes=packed_limit(model_shapes(experiment)) if kind == "train" else 0,
    )
    request = None if kind == RANGES_QUERY else INSTRUCTIONS[kind].request(kind)
    check_public(
        reply, experiment, asked=ASKED[kind], request=request, stated={"north": ROWS}, question_epsilon=0.5
    )
    CHECKS[kind](reply, experiment)
    return reply


def use(kind: str, replies: dict[str, Reply], experiment: Experiment) -> list[float]:
    """What the server makes of replies that passed: figures that must be finite."""
    if kind == "train":
        found = aggregate(build_strategy(experiment.strategy), 1, MODEL, replies)
        return [float(np.abs(value).max()) for value in found.values()]
    if kind == "evaluate":
        metrics = pooled({site: reply.scores for site, reply in replies.items() if reply.scores})
        assert metrics is not None
        return [metrics.rows, metrics.log_loss, metrics.accuracy, metrics.brier]
    if kind == COMPARE:
        accepted = judge(replies, experiment.gate)
        return [accepted.gain, accepted.error]
    if kind == DRIFT_QUERY:
        summaries = {site: reply.drift for site, reply in replies.items() if reply.drift}
        verdict = form_verdict(summaries, drift=experiment.drift, rng=np.random.default_rng(0))
        features = [item for site in (*verdict.sites, verdict.pooled) for item in site.features]
        return [value for item in features for value in (item.p_value, item.distance)]
    together = pool(reply.ranges for reply in replies.values() if reply.ranges)
    estimates = [estimate_range(together, feature, 0.1) for feature in ("x0", "x2")]
    return [together.rows, *(item.missing_share for item in estimates)]


def require_words(refused: ReleaseError) -> None:
    """That say what to do, and that can be shown and stored."""
    assert advice(refused.what)
    assert refused.what.isprintable()


def arrays_of(reply: Reply) -> Arrays:
    return {} if reply.update is None else dict(reply.update.arrays)


@pytest.mark.parametrize("kind", KINDS)
def test_an_honest_reply_passes(kind: str) -> None:
    reply = reply_of("north", kind)
    assert read(text_of(reply), arrays_of(reply), kind, OPEN).site == "north"


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), ANYTHING), min_size=1, max_size=3))
def test_whatever_is_written_in_it_is_taken_within_bounds_or_refused(
    kind: str, changes: list[tuple[int, object]]
) -> None:
    reply = reply_of("north", kind)
    try:
        found = read(replaced(text_of(reply), changes), arrays_of(reply), kind, OPEN)
    except ReleaseError as exc:
        require_words(exc)
        return
    others = {site: reply_of(site, kind) for site in ("south", "west")}
    figures = use(kind, {"hostile": found, **others}, OPEN)
    assert all(math.isfinite(value) for value in figures)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(
            st.sampled_from([*MODEL, "layers.0.weights", "steps/layers.0.bias"]),
            st.sampled_from(["f2", "f4", "f8", "i1", "i4", "?"]),
            st.lists(st.integers(0, 4), max_size=3),
            st.sampled_from([0.0, 1.0, 1e9, 3e38, math.inf, math.nan]),
        ),
        max_size=3,
    ).map(lambda parts: {name: made(kind, shape, value) for name, kind, shape, value in parts}),
)
def test_whatever_arrays_come_with_it_the_model_stays_finite(arrays: Arrays) -> None:
    for experiment in (OPEN, PRIVATE):
        values = text_of(reply_of("north", "train")) | {"private": experiment.privacy.private}
        try:
            reply = Reply.from_records(
                written(values, arrays), most_bytes=packed_limit(model_shapes(experiment))
            )
            check_update(reply, experiment, MODEL)
        except ReleaseError as exc:
            require_words(exc)
            continue
        others = {site: reply_of(site, "train") for site in ("south", "west")}
        assert all(math.isfinite(value) for value in use("train", {"hostile": reply, **others}, OPEN))


PRIVATE = plan(private=True).model_copy(update={"privacy": Privacy(epsilon=2.0)})


def made(kind: str, shape: list[int], value: float) -> np.ndarray[Any, Any]:
    with np.errstate(all="ignore"):
        return np.full(shape, value).astype(kind)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_reply_are_refused(content: bytes) -> None:
    with pytest.raises(ReleaseError, match="does not understand"):
        Reply.from_records(RecordDict({REPLY: ConfigRecord({"reply": content})}), most_bytes=100)
