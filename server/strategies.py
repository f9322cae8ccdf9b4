"""Flower's own strategies, built from the experiment, and what a checkpoint must keep of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedProx, FedYogi

from contract.experiment import Strategy
from contract.messages import ARRAYS, CONFIG, WEIGHT

__all__ = ["build_strategy", "restore_strategy", "strategy_state"]

Arrays = dict[str, np.ndarray[Any, Any]]


def build_strategy(strategy: Strategy) -> FedAvg:
    """The strategy that the experiment names.

    Every connected site is asked in every round; the wait for a quorum, its
    deadline and its honest count are in `server.exchange`, for the strategies
    themselves wait without limit.
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
