"""A site's answer to a message that asks for nothing, or for many bytes."""

from __future__ import annotations

import functools

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from contract.messages import Reply
from contract.quantization import quantize
from contract.releases import ModelUpdate, Spent

__all__ = ["MODEL", "app", "random_update"]

MODEL = 0
"""Seed of the model that the updates began from."""

_FREE = Spent(epsilon=0.0, delta=0.0, unit="record", method="none", block="none")

app = ClientApp()


@app.query("noop")
def noop(message: Message, context: Context) -> Message:
    """The smallest reply that the contract allows."""
    return _reply(message, context, None)


@app.query("bytes")
def many_bytes(message: Message, context: Context) -> Message:
    """A model update of as many megabytes (10^6 bytes) as the run asks for, quantized as the gate does it.

    Stock Flower's way has no quantization: there it travels as it is.
    """
    megabytes, ours = int(context.run_config["megabytes"]), context.run_config["engine"] == "ours"
    update, model = random_update(megabytes, 1), random_update(megabytes, MODEL)
    return _reply(message, context, quantize(update, model.arrays) if ours else update)


def _reply(message: Message, context: Context, update: ModelUpdate | None) -> Message:
    reply = Reply(
        site=f"site-{context.node_id}",
        stated_rows=1,
        mechanism="none",
        spent_in_run=_FREE,
        spent_in_total=_FREE,
        update=update,
    )
    return Message(reply.to_records(), reply_to=message)


@functools.cache
def random_update(megabytes: int, seed: int) -> ModelUpdate:
    """Random weights in four layers, the same in every round: to draw them is no part of a round."""
    rng = np.random.default_rng(seed)
    size = megabytes * 1_000_000 // 16
    return ModelUpdate(arrays={f"layer-{number}": rng.random(size, dtype=np.float32) for number in range(4)})
