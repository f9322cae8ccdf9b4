"""A site that answers wrongly, on purpose: an admitted key, the real protocol, another program.

Run as `python -m tests.failure.rogue_site SITE.TOML SUPERLINK AUTHORITY KEY NAME=ROUND …`: in the rounds
that are named, the honest reply is changed as the name says; in all others it goes out as it is.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import add_header_to_object_body

from clients.app import app, warm_up
from clients.line.agent import serve, stopped_by_signals
from clients.line.flower import FleetConnection, connect
from clients.line.packing import PackedReply, Work, pack
from clients.line.spool import Spool
from clients.site_config import read_site_config
from contract.messages import REPLY, Instruction, Reply

Arrays = dict[str, np.ndarray]

_HUGE = 10 * 2**30


def with_nan(arrays: Arrays) -> Arrays:
    first = next(iter(arrays))
    return {**arrays, first: np.full_like(arrays[first], np.nan)}


def wrong_shape(arrays: Arrays) -> Arrays:
    first = next(iter(arrays))
    return {**arrays, first: np.concatenate([arrays[first]] * 2)}


def wrong_dtype(arrays: Arrays) -> Arrays:
    first = next(iter(arrays))
    return {**arrays, first: arrays[first].astype(np.float64)}


CHANGES: dict[str, Callable[[Arrays], Arrays]] = {"nan": with_nan, "shape": wrong_shape, "dtype": wrong_dtype}


def ten_gigabytes(arrays: Arrays) -> bytes:
    """A file whose first array says that it has 10 GB, and has four bytes."""
    facts = {"dtype": "F32", "shape": [_HUGE // 4], "data_offsets": [0, _HUGE]}
    header = json.dumps({f"000000/{next(iter(arrays))}": facts}).encode()
    return struct.pack("<Q", len(header)) + header + b"\0\0\0\0"


def garbled(kind: str, body: bytes) -> type[ConfigRecord]:
    """A record whose head says this kind, and whose body is these bytes."""

    class Garbled(ConfigRecord):
        def deflate(self) -> bytes:
            return add_header_to_object_body(body, self)

    Garbled.__qualname__ = kind
    return Garbled


GARBLED = {
    "no protobuf": garbled("ConfigRecord", b"\xff" * 64),
    "another kind": garbled("MetricRecord", ConfigRecord({"reply": "x"}).deflate()),
    "unknown kind": garbled("os.system", b"true"),
    "array of objects": garbled("Array", b"\x80\x04."),
}
TYPES = {
    "no records": RecordDict(),
    "texts": RecordDict({REPLY: ConfigRecord({"reply": "{}"})}),
    "numbers": RecordDict({REPLY: MetricRecord({"reply": 1})}),
    "arrays": RecordDict({REPLY: ArrayRecord([np.ones(3)])}),
}

MORE = {"many parts": (30, 2**20), "a long part": (1, 80 * 2**20)}
"""How many records stand beside the reply, and how many bytes each has."""


class Rogue:
    """Makes the replies of a site that follows a script.

    Args:
        script: what is wrong with the reply, by round.
        connection: to the server.
    """

    def __init__(self, script: dict[int, str], connection: FleetConnection) -> None:
        self._script, self._connection = script, connection
        self._before: RecordDict | None = None

    def answer(self, work: Work) -> PackedReply:
        instruction, _ = Instruction.from_records(work.message.content)
        honest = app(work.message, work.context)
        wrong = self._script.get(instruction.step, "") if honest.has_content() else ""
        if not wrong:
            self._before = honest.content if honest.has_content() else self._before
            return pack(honest, to=work.message)
        reply = pack(Message(self._changed(wrong, honest.content), reply_to=work.message), to=work.message)
        if wrong == "twice":
            self._connection.send(reply)  # and once more by whoever called
        if wrong == "half":
            self._connection.send(replace(reply, objects={}))  # the envelope alone
            os.kill(os.getpid(), signal.SIGKILL)
        return reply

    def _changed(self, wrong: str, honest: RecordDict) -> RecordDict:
        if wrong in ("twice", "half", *MORE):
            parts, size = MORE.get(wrong, (0, 0))
            more = {f"part {number}": ConfigRecord({"b": bytes([number]) * size}) for number in range(parts)}
            return RecordDict({**honest.config_records, **more})
        if wrong == "stale":
            assert self._before is not None
            return self._before
        if wrong in GARBLED:
            return RecordDict({REPLY: GARBLED[wrong]({"reply": b"x"})})
        if wrong in TYPES:
            return TYPES[wrong]
        reply = Reply.from_records(honest)
        assert reply.update is not None
        if wrong == "huge":
            return Reply.records_of(ten_gigabytes(dict(reply.update.arrays)))
        changed = CHANGES[wrong](dict(reply.update.arrays))
        return replace(reply, update=replace(reply.update, arrays=changed)).to_records()


def main() -> None:
    site, superlink, authority, key, *script = sys.argv[1:]
    standing: list[FleetConnection] = []
    stop = stopped_by_signals(standing)
    warm_up()
    spool = Spool(read_site_config(Path(site)).storage.spool)
    with connect(
        superlink,
        root_certificates=Path(authority),
        private_key=Path(key),
        node_config={"site": str(Path(site).resolve())},
    ) as connection:
        rogue = Rogue(
            {int(number): name for name, number in (item.split("=") for item in script)}, connection
        )
        standing.append(connection)
        serve(connection, rogue.answer, stop, spool=spool)


if __name__ == "__main__":
    main()
