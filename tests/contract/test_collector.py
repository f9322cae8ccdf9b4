"""A command does not look among all that its libraries made, again and again, for what nobody needs."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

_PROGRAM = """\
import atexit, gc, json, sys, weakref

class Kept:
    pass

def looked(phase, facts):
    if phase == "start":
        looks[facts["generation"]] += 1

looks, gone = [0, 0, 0], []
kept = [{"number": [number]} for number in range(300_000)] if "before" in sys.argv else []
if "rarely" in sys.argv:
    from contract.collector import collect_rarely
    collect_rarely()
    collect_rarely()
gc.callbacks.append(looked)
kept += [{"number": [number]} for number in range(300_000)]
for _ in range(20_000):
    turn = Kept()
    turn.self = turn
    gone.append(weakref.ref(turn))
del turn
print(json.dumps({"looks": sum(looks), "gone": sum(reference() is None for reference in gone)}), flush=True)
atexit.unregister(gc.freeze) if "thawed" in sys.argv else None

class Last:
    def __del__(self):
        sys.stdout.write("found at the end")
        sys.stdout.flush()

last = Last()
last.self = last
del last
"""


def run(*words: str) -> tuple[dict[str, Any], str]:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *words], capture_output=True, text=True, check=True
    )
    first, _, rest = done.stdout.partition("\n")
    return json.loads(first), rest


def test_what_stays_is_looked_through_less_often_and_cycles_are_still_freed() -> None:
    (usual, _), (rare, _) = run(), run("rarely")
    assert 0 < rare["looks"] < usual["looks"] / 10
    assert rare["gone"] >= 10_000


def test_nothing_is_looked_for_at_the_end() -> None:
    assert "found" in run()[1]
    assert "found" in run("rarely", "thawed")[1]
    assert "found" not in run("rarely")[1]


_LEFT = """\
import gc, weakref
from contract.collector import leave_loaded

class Kept:
    pass

def cycle():
    turn = Kept()
    turn.self = turn
    return weakref.ref(turn)

before = cycle()
leave_loaded()
left, after = gc.get_freeze_count(), cycle()
gc.collect()
print(left > 1000, len(gc.get_objects()) < left, before() is None, after() is None)
"""


def test_what_is_loaded_is_left_and_what_comes_after_is_not() -> None:
    done = subprocess.run([sys.executable, "-c", _LEFT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 4
