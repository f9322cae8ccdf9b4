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
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict

from clients.app import app, warm_up
from clients.line.agent import serve
from clients.line.flower import FleetConnection, PackedReply, Work, connect, pack
from clients.line.spool import Spool
from clients.site_config import read_site_config
from contract.messages import ARRAYS, Instruction, Reply
from contract.messages import pack as pack_arrays

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
            return pack(honest)
        reply = pack(Message(self._changed(wrong, honest.content), reply_to=work.message))
        if wrong == "twice":
            self._connection.send(reply, 0.1)  # and once more by whoever called
        if wrong == "half":
            self._connection.send(replace(reply, objects={}), 0.1)  # the envelope alone
            os.kill(os.getpid(), signal.SIGKILL)
        return reply

    def _changed(self, wrong: str, honest: RecordDict) -> RecordDict:
        if wrong in ("twice", "half"):
            return honest
        if wrong == "stale":
            assert self._before is not None
            return self._before
        fields = dict(next(iter(honest.config_records.values())))
        name = next(iter(honest.config_records))
        arrays = Reply.from_records(honest).update
        assert arrays is not None
        if wrong == "huge":
            fields[ARRAYS] = ten_gigabytes(dict(arrays.arrays))
        else:
            fields[ARRAYS] = pack_arrays(CHANGES[wrong](dict(arrays.arrays)))
        return RecordDict({name: ConfigRecord(fields)})


def main() -> None:
    site, superlink, authority, key, *script = sys.argv[1:]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
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
        serve(connection, rogue.answer, stop, spool=spool)


if __name__ == "__main__":
    main()
