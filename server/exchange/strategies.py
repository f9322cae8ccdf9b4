"""Flower's own strategies, built from the experiment, and what a checkpoint must keep of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
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

from contract.errors import RoundError
from contract.experiment import Strategy
from contract.messages import ARRAYS, CONFIG, METRICS, WEIGHT, Reply, arrays_from_record, arrays_to_record
from contract.quantization import parameters
from server.exchange.weights import site_weights

__all__ = ["aggregate", "build_strategy", "restore_strategy", "strategy_state"]

Arrays = dict[str, np.ndarray[Any, Any]]


def build_strategy(strategy: Strategy) -> FedAvg:
    """The strategy that the experiment names.

    With the aggregation `mean`, stated rows weigh an update, none above a share of the round
    (`server.exchange.weights`). With any other a site has one vote,
    however many rows it states, so that nobody gets more weight by stating more; a small site's
    noisier update then counts as much as a large one's. Of private updates a median, and all the
    more the one that Krum takes, keeps more noise than their mean: robustness is paid for in it.

    Every connected site is asked in every round; who that is, the wait for a quorum,
    its deadline and its honest count are in `server.exchange.asking` and `server.exchange.answers`, for
    the strategies themselves wait without limit.
    """
    everyone: dict[str, Any] = {
        "fraction_train": 1.0,
        "fraction_evaluate": 1.0,
        "min_train_nodes": 1,
        "min_evaluate_nodes": 1,
        "min_available_nodes": 1,
        "weighted_by_key": WEIGHT,
        "arrayrecord_key": ARRAYS,
        "configrecord_key": CONFIG,
    }
    if strategy.aggregation != "mean":
        return _robust(strategy, everyone)
    adaptive: dict[str, Any] = {
        "eta": strategy.server_learning_rate,
        "eta_l": strategy.learning_rate,
        "beta_1": strategy.server_momentum,
        "tau": strategy.adaptivity,
    }
    match strategy.name:
        case "fedavg":
            return FedAvg(**everyone)
        case "fedavgm":
            return FedAvgM(
                **everyone,
                server_learning_rate=strategy.server_learning_rate,
                server_momentum=strategy.server_momentum,
            )
        case "fedprox":
            return FedProx(**everyone, proximal_mu=strategy.proximal_mu)
        case "fedadam":
            return FedAdam(**everyone, **adaptive)
        case "fedyogi":
            return FedYogi(**everyone, **adaptive)


def _robust(strategy: Strategy, everyone: dict[str, Any]) -> FedAvg:
    if strategy.aggregation == "trimmed-mean":
        return FedTrimmedAvg(**everyone, beta=strategy.trimmed_share)
    if strategy.aggregation == "median":
        return FedMedian(**everyone)
    return Krum(**everyone, num_malicious_nodes=strategy.malicious_sites)


def aggregate(strategy: FedAvg, number: int, model: Arrays, replies: Mapping[str, Reply]) -> Arrays:
    """The model after a round, by Flower's strategy.

    Args:
        strategy: what `build_strategy` gave.
        number: the round.
        model: what the round began with.
        replies: by site, with checked updates; taken in the order of names, so that sums are repeatable.

    Raises:
        RoundError: there is nothing to aggregate, or the model leaves what float32 can hold. Checked
            updates are far from that: then the experiment's server_learning_rate is too high.
    """
    if not replies:
        raise RoundError(f"round {number} has no reply to aggregate")
    answered: Any = _Answered(list(range(1, len(replies) + 1)))
    strategy.configure_train(number, arrays_to_record(model), ConfigRecord(), answered)
    # Krum's squared distances, in float32 and from scalar products, drown in the model's own norm;
    # they are the same between differences from it.
    origin = model if isinstance(strategy, Krum) else {}
    weights = site_weights({site: reply.stated_rows for site, reply in replies.items()})
    updates = [_message(reply, model, origin, weights[site]) for site, reply in sorted(replies.items())]
    record, _ = strategy.aggregate_train(number, updates)
    if record is None:
        raise RoundError(f"round {number} gave nothing to aggregate")
    arrays = arrays_from_record(ArrayRecord(dict(record.items())))
    result = {name: value + origin[name] if origin else value for name, value in arrays.items()}
    if not all(np.isfinite(value).all() for value in result.values()):
        raise RoundError(
            f"the model of round {number} holds a number that is not finite",
            remedy="Lower strategy.server_learning_rate",
        )
    return result


@dataclass(frozen=True)
class _Answered:
    """Those who answered, as the grid of which a strategy chooses everybody.

    Flower's strategies note the model that a round begins with when they choose whom to ask. They do
    not choose here: of those who are connected at a second look they take as many as at the first, so
    that where one joins in between another is left out, and where one leaves they wait without limit.
    """

    nodes: list[int]

    def get_node_ids(self) -> list[int]:
        return self.nodes


def _message(reply: Reply, model: Arrays, origin: Arrays, weight: float) -> Message:
    assert reply.update is not None  # server.exchange.checks has looked  # noqa: S101
    update = parameters(reply.update, model)  # in the model's order, by which FedAvgM goes
    arrays = {name: value - origin[name] for name, value in update.items()} if origin else update
    content = RecordDict({ARRAYS: arrays_to_record(arrays), METRICS: MetricRecord({WEIGHT: weight})})
    return Message(content=content, dst_node_id=1, message_type=MessageType.TRAIN)


def strategy_state(strategy: FedAvg) -> Arrays:
    """The moments that a strategy carries from round to round, by name."""
    if isinstance(strategy, FedAvgM):
        return {f"momentum/{index}": value for index, value in enumerate(strategy.momentum_vector or [])}
    state: Arrays = {}
    for kind in ("m_t", "v_t"):
        state |= {f"{kind}/{name}": value for name, value in (getattr(strategy, kind, None) or {}).items()}
    return state


def restore_strategy(strategy: FedAvg, state: Arrays, arrays: ArrayRecord) -> None:
    """Put back what `strategy_state` took, with the model of that round."""
    if isinstance(strategy, FedAvgM):
        strategy.current_arrays = arrays
        strategy.momentum_vector = [state[f"momentum/{index}"] for index in range(len(state))] or None
        return
    for kind in ("m_t", "v_t"):
        found = {
            name.removeprefix(f"{kind}/"): value for name, value in state.items() if name.startswith(kind)
        }
        if found:
            setattr(strategy, kind, found)
