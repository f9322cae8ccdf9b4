"""Messages and replies that were honest, with bytes changed: nobody falls over, and nothing is charged.

TIDEGATE_ADVERSARY=long sends 50,000 to a site's agent and 50,000 to the server.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from experiments.audit.hostile_server import KINDS, instruction_for, models_for, packed
from tests.adversary import wire
from tests.adversary.conftest import LaySite
from tests.adversary.hostile_site import HostileGrid, Question, honest
from tests.adversary.raw_messages import apart
from tests.adversary.rows import Figure, Rows
from tests.adversary.test_generated import LONG
from tests.adversary.test_server import plan

pytestmark = [pytest.mark.timeout(3600 if LONG else 900), pytest.mark.usefixtures("logs_dropped")]
MESSAGES = 50_000 if LONG else 500
BATCH = 500
ROGUES = ("south", "east", "up", "down", "far")


def changed(content: bytes, rng: random.Random) -> bytes:
    """The same with some bytes changed, cut out, doubled, or taken from elsewhere in it."""
    harmed = bytearray(content or b"\0")
    for _ in range(rng.choice((1, 1, 2, 8))):
        at, length = rng.randrange(len(harmed)), rng.randrange(1, 9)
        match rng.randrange(5):
            case 0:
                harmed[at] = rng.randrange(256)
            case 1:
                harmed[at] ^= 1 << rng.randrange(8)
            case 2:
                del harmed[at : at + length]
            case 3:
                harmed[at:at] = harmed[at : at + length] * rng.choice((1, 1, 100))
            case _:
                harmed[at : at + length] = rng.choice(
                    (b"NaN", b"-1", b"1e999", b"[", b"}", b"\0", b"\xff" * 8)
                )
        harmed = harmed or bytearray(b"\0")
    return bytes(harmed)


def message_for(kind: str, number: int, rng: random.Random | None = None) -> tuple[str, dict[str, bytes]]:
    """A message's id and its objects by id: honest, or with something changed inside or outside."""
    text, arrays = json.dumps(instruction_for(kind, run=f"r{number}")), packed(models_for(kind))
    where = "" if rng is None else rng.choice(("text", "text", "arrays", "objects"))
    if rng is not None and where == "text":
        text = changed(text.encode(), rng).decode("utf-8", "replace")
    if rng is not None and where == "arrays":
        arrays = changed(arrays, rng)
    name, objects = apart(kind, f"r{number}", {"instruction": text, "arrays": arrays})
    if rng is not None and where == "objects":
        victim = rng.choice(sorted(objects))
        objects[victim] = changed(objects[victim], rng)
    return name, objects


def test_an_agent_outlives_changed_messages_and_charges_nothing(
    lay: LaySite, rows: Rows, figure: Figure, tried: Figure
) -> None:
    """The cap is below what any question costs: what would be charged is refused, and a charge shows."""
    rng, site = random.Random(7), lay(rows, cap=0.01)
    words: Counter[str] = Counter()
    text = json.dumps(wire.base_experiment())

    def answer(work: Any) -> Message:
        context = Context(
            run_id=1,
            node_id=1,
            node_config={"site": str(site)},
            state=RecordDict(),
            run_config={"experiment": text},
        )
        reply = wire.answer(work.message, context)
        words[reply.error.reason if reply.has_error() else "answered"] += 1
        return reply

    def batch(start: int) -> Iterator[tuple[str, dict[str, bytes]]]:
        for number in range(start, start + BATCH):
            yield message_for(KINDS[number % len(KINDS)], number, rng)
        yield message_for(KINDS[0], start)

    before = [entry["kind"] for entry in wire.entries(site)]
    seen = 0
    for start in range(0, MESSAGES, BATCH):
        messages = list(batch(start))
        wire.serve_agent(messages, answer)  # returns once the last was attended to, which is an honest one
        seen += len(messages) - 1
    kinds = Counter(entry["kind"] for entry in wire.entries(site)) - Counter(before)
    tried(f"{seen:,} messages")
    figure(f"{MESSAGES:,} changed messages: words {dict(words)}, entries {dict(kinds)}")
    assert "answered" not in words
    assert set(kinds) <= {"refuse"}
    assert wire.spent(site) == 0


def test_a_server_outlives_changed_replies(tmp_path: Path, figure: Figure, tried: Figure) -> None:
    """Five sites of seven change each of their replies, every one on its own; two stay honest."""
    rng = random.Random(8)
    rounds, sent = min(MESSAGES, 5_000) // len(ROGUES), 0

    def rogue(question: Question) -> RecordDict:
        nonlocal sent
        reply = honest(question).config_records["reply"]["reply"]
        assert isinstance(reply, bytes)
        sent += 1
        return RecordDict({"reply": ConfigRecord({"reply": changed(reply, rng)})})

    failures: Counter[str] = Counter()
    for number in range(MESSAGES // (rounds * len(ROGUES))):
        grid = HostileGrid({"north": honest, **dict.fromkeys(ROGUES, rogue), "west": honest})
        experiment = plan(rounds=rounds, evaluate_every=rounds)
        with wire.states(tmp_path / str(number)) as state:
            trained = wire.train(experiment, grid, grid.names, state)
        failures.update(word for failed in trained.failures for word in failed)
        assert trained.counted["north"] == trained.counted["west"] == rounds
        assert all(np.isfinite(array).all() for array in trained.arrays.values())
    tried(f"{sent:,} replies")
    figure(f"{sent:,} changed replies: failed {dict(failures)}")
    assert set(failures) <= set(ROGUES)
    assert all(failures[name] > MESSAGES / len(ROGUES) / 2 for name in ROGUES)
