"""Flower's strategies go on from a checkpoint as if nothing had happened."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import (
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
)

from contract.errors import RoundError, StorageError
from contract.experiment import Strategy
from contract.messages import ARRAYS, METRICS, WEIGHT, Reply, arrays_from_record, arrays_to_record
from contract.releases import ModelUpdate, Spent
from experiments.runtimes.inline import InlineGrid
from server.exchange.checkpoint import Checkpoint
from server.exchange.strategies import aggregate as combine
from server.exchange.strategies import build_strategy, restore_strategy, strategy_state
from server.line.flower import assume_identity

Arrays = dict[str, np.ndarray[Any, Any]]

CLASSES = {"fedavg": FedAvg, "fedavgm": FedAvgM, "fedprox": FedProx, "fedadam": FedAdam, "fedyogi": FedYogi}
START: Arrays = {
    "layers.0.weight": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3),
    "layers.0.bias": np.zeros(2, dtype=np.float32),
}


@pytest.fixture(autouse=True)
def _identity() -> None:
    assume_identity(1)


def fresh(name: str) -> FedAvg:
    plan: Any = {"name": name, "server_learning_rate": 0.5, "server_momentum": 0.9, "learning_rate": 0.1}
    return build_strategy(Strategy(**plan, adaptivity=0.01, proximal_mu=0.25))


def update(arrays: Arrays, rows: int) -> Message:
    content = RecordDict({ARRAYS: arrays_to_record(arrays), METRICS: MetricRecord({WEIGHT: rows})})
    return Message(content=content, dst_node_id=1, message_type="train")


def two_sites() -> InlineGrid:
    client: Any = None  # nothing is sent
    return InlineGrid(client, [Path("north"), Path("south")], {})


def aggregate(strategy: FedAvg, number: int, arrays: Arrays, updates: list[Message]) -> Arrays:
    asked = list(strategy.configure_train(number, arrays_to_record(arrays), ConfigRecord(), two_sites()))
    assert sorted(message.metadata.dst_node_id for message in asked) == [1, 2]
    record, _ = strategy.aggregate_train(number, updates)
    assert record is not None
    return arrays_from_record(record)


def run(strategy: FedAvg, arrays: Arrays, rounds: range) -> Arrays:
    """Each site moves every value by its own amount, the same in each run of that round."""
    for number in rounds:
        updates = []
        for site, rows in enumerate((100, 300)):
            rng = np.random.default_rng([number, site])
            moved = {name: value + rng.normal(0.3, 0.2, value.shape) for name, value in arrays.items()}
            updates.append(update(moved, rows))
        arrays = aggregate(strategy, number, arrays, updates)
    return arrays


def largest_difference(one: Arrays, other: Arrays) -> float:
    assert list(one) == list(other)
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


def kept(strategy: FedAvg, arrays: Arrays) -> Checkpoint:
    before = Checkpoint(round=2, arrays=arrays, strategy=strategy_state(strategy))
    return Checkpoint.from_bytes(before.to_bytes())


@pytest.mark.parametrize("name", CLASSES)
def test_two_rounds_a_kill_and_two_more_are_four(name: str) -> None:
    straight = run(fresh(name), START, range(1, 5))
    first = fresh(name)
    checkpoint = kept(first, run(first, START, range(1, 3)))
    second = fresh(name)
    restore_strategy(second, checkpoint.strategy, arrays_to_record(checkpoint.arrays))
    resumed = run(second, checkpoint.arrays, range(3, 5))
    assert largest_difference(straight, START) > 0.1
    assert largest_difference(resumed, straight) <= 1e-6


@pytest.mark.parametrize("name", ["fedavgm", "fedadam", "fedyogi"])
def test_without_its_moments_an_adaptive_strategy_goes_elsewhere(name: str) -> None:
    straight = run(fresh(name), START, range(1, 5))
    first = fresh(name)
    checkpoint = kept(first, run(first, START, range(1, 3)))
    assert checkpoint.strategy
    forgetful = run(fresh(name), checkpoint.arrays, range(3, 5))
    assert largest_difference(forgetful, straight) > 0.01


@pytest.mark.parametrize("name", ["fedavg", "fedprox"])
def test_an_averaging_strategy_has_nothing_to_keep(name: str) -> None:
    strategy = fresh(name)
    run(strategy, START, range(1, 3))
    assert strategy_state(strategy) == {}


@pytest.mark.parametrize("name", CLASSES)
def test_the_experiment_names_the_class(name: str) -> None:
    assert type(fresh(name)) is CLASSES[name]


@pytest.mark.parametrize(
    ("aggregation", "kind"), [("trimmed-mean", FedTrimmedAvg), ("median", FedMedian), ("krum", Krum)]
)
def test_the_experiment_names_the_aggregation(aggregation: str, kind: type[FedAvg]) -> None:
    plan: Any = {"aggregation": aggregation, "quorum": 5}
    strategy = build_strategy(Strategy(**plan))
    assert type(strategy) is kind
    assert strategy_state(strategy) == {}


def reply(site: str, rows: int, *values: float) -> Reply:
    spent = Spent(epsilon=1.0, delta=1e-5, unit="record", method="PLD", block="all/train")
    return Reply(
        site=site,
        stated_rows=rows,
        mechanism="none",
        spent_in_run=spent,
        spent_in_total=spent,
        update=ModelUpdate(arrays={"w": np.array(values, np.float32)}),
    )


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("mean", [(1 * 1 + 2 * 2 + 3 * 3 + 4 * 4 - 1000 * 5) / 15, 0.0]),
        ("trimmed-mean", [2.0, 0.0]),
        ("median", [2.0, 0.0]),
        ("krum", [2.0, 0.0]),
    ],
)
def test_aggregations_by_hand(aggregation: str, expected: list[float]) -> None:
    """Updates 1, 2, 3, 4 and -1000 of sites that state 1, 2, 3, 4 and 5 rows.

    Trimmed of one at either end: (1 + 2 + 3) / 3. Krum with f = 1 takes the two nearest of each:
    squared distances 1 + 4, 1 + 1, 1 + 1, 1 + 4: the first of the two that tie, 2.
    """
    plan: Any = {"aggregation": aggregation, "quorum": 5}
    replies = {
        f"site-{number}": reply(f"site-{number}", number, value, 0.0)
        for number, value in enumerate((1.0, 2.0, 3.0, 4.0, -1000.0), start=1)
    }
    model = {"w": np.zeros(2, np.float32)}
    found = combine(build_strategy(Strategy(**plan)), 1, model, replies)
    assert found["w"] == pytest.approx(expected, rel=1e-6)
    assert found["w"].dtype == np.float32


def test_the_parameters_keep_the_models_order_whatever_order_a_site_sends() -> None:
    """FedAvgM's momentum goes by their place: with another order it would be added to other parameters."""
    turned = ModelUpdate(arrays={name: START[name] + 1 for name in reversed(START)})
    strategy, model = fresh("fedavgm"), START
    for number in (1, 2):
        model = combine(strategy, number, model, {"a": replace(reply("a", 1), update=turned)})
        assert list(model) == list(START)
    assert {name: value.shape for name, value in model.items()} == {
        name: value.shape for name, value in START.items()
    }


def test_without_a_reply_there_is_nothing_to_aggregate() -> None:
    with pytest.raises(RoundError, match="round 3 has no reply"):
        combine(fresh("fedavg"), 3, START, {})


def test_krum_sees_small_differences_of_a_large_model() -> None:
    """In float32, (10^5)² less (10^5 + .01)² is nothing: distances are taken from the model's own place."""
    plan: Any = {"aggregation": "krum", "quorum": 5}
    place = 65536.0
    steps = (0.0625, 0.0703125, 0.078125, 0.5, -0.5)
    replies = {
        f"site-{number}": reply(f"site-{number}", 1, place + step, place)
        for number, step in enumerate(steps, start=1)
    }
    model = {"w": np.full(2, place, np.float32)}
    found = combine(build_strategy(Strategy(**plan)), 1, model, replies)
    assert found["w"][0] - place == steps[1]


def test_a_round_of_fedavg_is_the_mean_weighted_by_stated_rows() -> None:
    """(100 · [1, 2] + 300 · [5, 6]) / 400 = [4, 5]."""
    updates = [
        update({"w": np.array([1, 2], np.float32)}, 100),
        update({"w": np.array([5, 6], np.float32)}, 300),
    ]
    found = aggregate(fresh("fedavg"), 1, {"w": np.zeros(2, np.float32)}, updates)
    assert found["w"].tolist() == [4.0, 5.0]
    assert found["w"].dtype == np.float32


def test_two_rounds_of_momentum_by_hand() -> None:
    """From 0, sites at +1: v = -1, w = 0.5; sites at +1 again: v = -1.9, w = 0.5 + 0.95."""
    strategy, arrays = fresh("fedavgm"), {"w": np.zeros(1, np.float32)}
    for number, expected in ((1, 0.5), (2, 1.45)):
        arrays = aggregate(strategy, number, arrays, [update({"w": arrays["w"] + 1}, 10)])
        assert arrays["w"] == pytest.approx([expected])


def test_a_checkpoint_survives_its_encoding() -> None:
    before = Checkpoint(
        round=7,
        arrays=START,
        averaged={name: value.astype(np.float64) * 3 for name, value in START.items()},
        averaged_rounds=3,
        strategy={"m_t/layers.0.bias": np.ones(2)},
    )
    after = Checkpoint.from_bytes(before.to_bytes())
    assert (after.round, after.averaged_rounds) == (7, 3)
    assert after.averaged["layers.0.weight"].dtype == np.float64
    assert list(after.strategy) == ["m_t/layers.0.bias"]
    assert largest_difference(after.arrays, START) == 0
    assert largest_difference(after.result(), START) <= 1e-7


def _of_another_kind() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, counts=np.array([1, 0]), **{"optimizer/w": np.ones(1)})
    return buffer.getvalue()


BLOB = Checkpoint(round=1, arrays={"w": np.ones(3, dtype=np.float32)}).to_bytes()
DAMAGED = {
    "nothing": b"",
    "text": b"not a checkpoint",
    "half": BLOB[: len(BLOB) // 2],
    "short": BLOB[:-1],
    "changed": BLOB.replace(np.float32(1).tobytes(), np.float32(2).tobytes(), 1),
    "other kind": _of_another_kind(),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_checkpoint_is_refused(damage: str) -> None:
    assert DAMAGED[damage] != BLOB
    with pytest.raises(StorageError, match="the checkpoint is damaged"):
        Checkpoint.from_bytes(DAMAGED[damage])
