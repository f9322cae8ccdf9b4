"""Whatever one site sends, the others' run goes on, and what that site changed lies within public bounds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from experiments.audit.hostile_server import packed
from tests.adversary import wire
from tests.adversary.hostile_site import (
    ROWS,
    TURNED,
    Behaviour,
    HostileGrid,
    Question,
    drift_counts,
    drift_reply,
    honest,
    public,
    records,
    scores,
    undecodable,
)
from tests.adversary.rows import Figure

SITES = ("north", "south", "west")


def plan(**strategy: Any) -> dict[str, Any]:
    """Not private: replies can be made by hand, and nothing but the checks stands between."""
    experiment = wire.base_experiment()
    experiment["strategy"] |= {"rounds": 2, "quorum": 2, "grace": 0.05, "round_timeout": 5.0, **strategy}
    experiment["privacy"] = {"private": False}
    experiment["retraining"] = {"enabled": False}
    return experiment


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Any]:
    with wire.states(tmp_path / "server") as opened:
        yield opened


def grid(rogue: Behaviour, others: Behaviour = honest) -> HostileGrid:
    return HostileGrid({"north": others, "south": rogue, "west": others})


# -- one bad reply is one failure --------------------------------------------------------


def said(**more: Any) -> Behaviour:
    return lambda question: honest(question, **more)


def raw(**fields: Any) -> Behaviour:
    return lambda _: RecordDict({"reply": ConfigRecord(fields)})


def written(said: str) -> Behaviour:
    """This text in the place of the reply's JSON."""
    content = packed({"reply.json": np.frombuffer(said.encode(), dtype=np.uint8)})
    return raw(reply=content)


def with_arrays(change: Callable[[Any], Any]) -> Behaviour:
    def behave(question: Question) -> RecordDict:
        arrays = {name: change(array) for name, array in question.model.items()}
        return records(public(question, scores=scores()), arrays)

    return behave


DEEP = "[" * 100_000 + "]" * 100_000

REPLIES: dict[str, Behaviour] = {
    "a body that is no protobuf": undecodable,
    "no records": lambda _: RecordDict(),
    "another record of that name": lambda _: RecordDict({"reply": MetricRecord({"reply": 1})}),
    "arrays of that name": lambda _: RecordDict({"reply": ArrayRecord({})}),
    "a number for bytes": raw(reply=1),
    "a list for bytes": raw(reply=["{}"]),
    "a text for bytes": raw(reply="{}"),
    "another field": lambda question: RecordDict({"reply": ConfigRecord({"more": b"", "reply": b""})}),
    "deep JSON": written(DEEP),
    "no JSON": written("{"),
    "a list": written("[]"),
    "bytes that are none": raw(reply=b"\xff" * 64),
    "a header of a huge length": raw(reply=(2**62).to_bytes(8, "little") + b"{}"),
    "a truncated file": lambda question: records(public(question), packed(dict(question.model))[:-3]),
    "a name that is a number": said(site=7),
    "a name that is markup": said(site="[/x]"),
    "a name of another": said(site="north"),
    "a lone surrogate": said(mechanism="\ud800"),
    "an escape sequence": said(mechanism="\x1b[2J"),
    "a method of many lines": said(
        spent_in_run={"epsilon": 1.0, "delta": 1e-5, "unit": "record", "method": "x\n" * 3000, "block": ""}
    ),
    "a negative ε": said(
        spent_in_total={"epsilon": -1.0, "delta": 1e-5, "unit": "record", "method": "", "block": ""}
    ),
    "an undefined ε": said(
        spent_in_total={"epsilon": math.nan, "delta": 1e-5, "unit": "record", "method": "", "block": ""}
    ),
    "fractional rows": said(stated_rows=200.5),
    "rows as a text": said(stated_rows="200"),
    "true rows": said(stated_rows=True),
    "unknown fields": said(more=1),
    "half numbers": with_arrays(lambda array: array.astype(np.float16)),
    "undefined numbers": with_arrays(lambda array: array * np.nan),
    "texts for a word": lambda _: "\x1b[2J" * 1000,
    "an unknown word": lambda _: "hiv",
}


@pytest.mark.parametrize("case", REPLIES)
def test_one_bad_reply_is_one_failure(state: Any, figure: Figure, case: str) -> None:
    sites = grid(REPLIES[case])
    try:
        trained = wire.train(plan(), sites, sites.names, state)
    except Exception as exc:
        figure(f"{case}: the run ended with {type(exc).__name__}")
        raise
    figure(f"{case}: rounds that counted {trained.counted}, failures {trained.failures[0]!r:.120}")
    assert trained.counted["north"] == trained.counted["west"] == 2
    assert trained.counted.get("south", 0) == 0
    assert all(list(failed) == ["south"] for failed in trained.failures)
    told = json.dumps(trained.failures)
    assert len(told) < 2000
    assert "\\u001b" not in told


@pytest.mark.parametrize(
    "case", ["a body that is no protobuf", "deep JSON", "no records", "a lone surrogate"]
)
def test_a_drift_check_outlives_one_bad_reply(state: Any, figure: Figure, case: str) -> None:
    sites = grid(REPLIES[case])
    status, result, error = wire.check_drift(plan(), sites, sites.names, state, window="w2")
    figure(f"{case}: the check is '{status}', {result.get('decision')}, {error!r:.80}")
    assert status == "partial"
    assert "south" in error
    assert result["alarm"] is False


def test_every_exception_ends_a_run_as_failed_with_its_reason(state: Any, figure: Figure) -> None:
    class Broken(HostileGrid):
        def push_messages(self, messages: Any) -> list[str]:
            raise RuntimeError("the line is cut")

    sites = Broken(dict.fromkeys(SITES, honest))
    status, _, error = wire.check_drift(plan(), sites, sites.names, state, window="w2")
    figure(f"an error of the line leaves the run '{status}', {error!r}")
    assert status == "failed"
    assert error


# -- what one site can do to a verdict --------------------------------------------------------

HUGE, MANY = [1e12], [1e4]
LIES: dict[str, dict[str, Any]] = {
    "huge counts": {"counts": drift_counts(HUGE)},
    "fifty times the stated rows": {"counts": drift_counts(MANY)},
    "negative counts": {"counts": drift_counts([-1e6, 1e6])},
    "undefined counts": {"counts": drift_counts([math.nan] * 11)},
    "a huge deviation": {"counts": drift_counts(TURNED, current_deviation=1e9)},
    "a huge deviation of the reference": {"counts": drift_counts(reference_deviation=1e12)},
    "a deviation that is not the plan's": {"counts": drift_counts(current_deviation=1.5)},
    "another window": {"counts": drift_counts(window="w9")},
    "another reference": {"counts": drift_counts(reference_window="w0")},
    "a window of markup": {"counts": drift_counts(window="[/x]")},
    "a feature twice": {
        "counts": drift_counts(features=[*drift_counts()["features"], drift_counts()["features"][0]])
    },
    "no features": {"counts": drift_counts(features=[])},
    "endless counts": {"counts": drift_counts([1.0] * 100_000)},
    "nested counts": {
        "counts": drift_counts(features=[{"feature": "level", "reference": [[1]], "current": [[1]]}])
    },
    "another site's rows": {"stated_rows": 10**15},
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("drifted", [False, True], ids=["calm", "drifted"])
def test_one_site_neither_forces_nor_silences_the_alarm_of_the_others(
    state: Any, figure: Figure, lie: str, drifted: bool
) -> None:
    def others(question: Question) -> RecordDict:
        return drift_reply(question, drift_counts(TURNED) if drifted else None)

    sites = grid(lambda question: drift_reply(question, **LIES[lie]), others)
    status, result, error = wire.check_drift(plan(), sites, sites.names, state, window="w2")
    figure(
        f"{'drifted' if drifted else 'calm'}, {lie} at one of three sites: check '{status}', "
        f"alarm {result.get('alarm')}, in alarm {result.get('sites_in_alarm')}, {error!r:.60}"
    )
    assert status == "partial"
    assert error.startswith("south")
    assert result["alarm"] is drifted
    pooled = json.loads(json.dumps(state.verdicts("hostile")[0].verdict))["pooled"]
    assert any(feature["drifted"] for feature in pooled["features"]) is drifted


# -- what one site can do to a mean ------------------------------------------------------------


@pytest.mark.parametrize("stated", [ROWS, 10 * ROWS, 10**6, 10**9, 10**12])
def test_no_site_is_the_mean(state: Any, figure: Figure, stated: int) -> None:
    def pulling(question: Question) -> RecordDict:
        if question.kind != "train":
            return honest(question, stated_rows=stated)
        moved = {name: array + np.float32(1) for name, array in question.model.items()}
        return records(public(question, scores=scores(), stated_rows=stated), moved)

    sites = grid(pulling)
    trained = wire.train(plan(rounds=1, average_last=0.0), sites, sites.names, state)
    share = float(np.mean([array.mean() for array in trained.arrays.values()]))
    figure(f"a site of three that states {stated:,} rows where others state {ROWS}: {share:.1%} of the mean")
    assert share <= 10 / 12 + 1e-6  # ten times the others at most


def test_rows_are_those_of_admission_in_a_later_run_too(state: Any, figure: Figure) -> None:
    quiet = grid(honest)
    wire.train(plan(rounds=1), quiet, quiet.names, state, run="first")
    grown = grid(lambda question: honest(question, stated_rows=100 * ROWS))
    trained = wire.train(plan(rounds=1), grown, grown.names, state, run="second")
    figure(f"stated {ROWS} rows in one run and {100 * ROWS} in the next: counted {trained.counted}")
    assert trained.counted["south"] == 0
