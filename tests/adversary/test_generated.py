"""Messages, models and tables that nobody thought of.

Every message goes to two sites of the same books and other rows. Whatever it is: nothing is raised, both
answer alike but for noise, both stay under their cap, and nothing lies outside their folders or breaks
who looks at the egress log. TIDEGATE_ADVERSARY=long makes 10,000 examples of each.
"""

from __future__ import annotations

import csv
import gc
import io
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from experiments.audit.hostile_server import (
    COMPARE,
    EVALUATE,
    KINDS,
    TRAIN,
    Answer,
    HostileServer,
    instruction_for,
    models_for,
    packed,
)
from tests.adversary import wire
from tests.adversary.hostile_site import (
    HostileGrid,
    Question,
    drift_counts,
    drift_reply,
    honest,
    public,
    records,
    scores,
)
from tests.adversary.privacy import least_epsilon
from tests.adversary.raw_messages import taken_apart
from tests.adversary.rows import Rows, make_rows, noise_in, text, with_row
from tests.adversary.test_output import harmful
from tests.adversary.test_server import plan as server_plan

LONG = os.environ.get("TIDEGATE_ADVERSARY") == "long"
pytestmark = [pytest.mark.timeout(3600 if LONG else 900), pytest.mark.usefixtures("logs_dropped")]
CAP = 1.4
"""Two or three honest answers fit below it, or only one: the cap has something to refuse."""
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
"""Where what is synced at each step costs no time."""

generated = settings(
    max_examples=10_000 if LONG else 15,
    derandomize=not LONG,
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink] if LONG else [Phase.generate],
    suppress_health_check=list(HealthCheck),
)

ONE = make_rows()
OTHER: Rows = [
    *with_row(with_row(make_rows(2), 0, ward="hospice", ill=9), 1, level="", patient=""),
    {**ONE[0], "window": "w3"},
]

# -- anything near a message ---------------------------------------------------------------

NUMBERS = st.sampled_from(
    [
        0,
        -1,
        1,
        2,
        7,
        2**31,
        2**63,
        -(2**63),
        10**30,
        0.5,
        1e-06,
        1e-16,
        1e-300,
        5e-324,
        1e300,
        -1e300,
        -0.0,
        math.inf,
        -math.inf,
        math.nan,
        1.0000000000000002,
        8.0,
    ]
)
TEXTS = st.one_of(
    st.sampled_from(
        ["", "w1", "w2", "w3", "w1\0", "../w1", "[/x]", "\x1b[2J", "\ud800", "1", "nan", "level"]
    ),
    st.text(max_size=8),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)
SLOW = frozenset({"local_steps", "hidden", "image", "sampling_rate", "bins", "false_alarm_rate"})
"""Where a large or tiny number that is allowed keeps a site busy, and no more."""


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    yield at
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*at, key))


@st.composite
def mutated(draw: st.DrawFn, valid: Any) -> Any:
    """A valid JSON value with other values in a few places, keys left out and keys added."""
    value = json.loads(json.dumps(valid))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.sampled_from(list(places(value))))
        if not at:
            if draw(st.integers(0, 9)) == 0:
                return draw(VALUES)
            if isinstance(value, dict):
                value[draw(TEXTS)] = draw(VALUES)
            continue
        holder = value
        for key in at[:-1]:
            holder = holder[key]
        if draw(st.integers(0, 4)) == 0:
            del holder[at[-1]]
        elif SLOW.isdisjoint(at):
            holder[at[-1]] = draw(VALUES)
    return value


WHOLE_EXPERIMENT = {
    **wire.base_experiment(),
    "model": {"kind": "linear"},
    "drift": {"epsilon": 0.5},
    "placement": {"latency_ms": 100.0},
}

ARRAYS = st.one_of(
    st.sampled_from(["float32", "float64", "float16", "int8", "int64", "uint8", "bool"]).flatmap(
        lambda kind: st.lists(st.integers(0, 4), max_size=3).map(lambda shape: np.ones(shape, kind))
    ),
    st.lists(
        st.floats(width=32) | st.sampled_from([3e38, -3e38, 1e-40, math.inf, math.nan]),
        min_size=4,
        max_size=4,
    ).map(lambda numbers: np.array([numbers], np.float32)),
    st.floats(width=32).map(lambda number: np.array([number], np.float32)),
)
NAMES = st.one_of(
    st.sampled_from(
        [
            "layers.0.weight",
            "layers.0.bias",
            "challenger/layers.0.weight",
            "challenger/layers.0.bias",
            "",
            "../x",
        ]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
)


@st.composite
def models(draw: st.DrawFn, kind: str) -> Any:
    """Arrays near those that go with the kind, or bytes that are none."""
    valid = models_for(kind)
    for name in [*valid, draw(NAMES)]:
        if draw(st.integers(0, 2)) == 0:
            valid[name] = draw(ARRAYS)
    if valid and draw(st.integers(0, 4)) == 0:
        valid.pop(draw(st.sampled_from(sorted(valid))))
    return valid if draw(st.integers(0, 3)) else draw(broken(packed(valid)))


@st.composite
def broken(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes cut short, lengthened, or changed in a few places."""
    changed = bytearray(content or b"\0" * 8)
    for _ in range(draw(st.integers(1, 4))):
        changed[draw(st.integers(0, len(changed) - 1))] = draw(st.integers(0, 255))
    end = draw(st.integers(0, len(changed)))
    return bytes(changed[:end] if draw(st.booleans()) else changed) + draw(st.binary(max_size=4))


# -- two sites that must answer alike --------------------------------------------------------

FREE = frozenset({"at", "salt", "bytes", "sha256"})
"""Of an entry's body: when it was, and what hides that; how long the noisy numbers are, and their hash."""


def public_part(entry: dict[str, Any]) -> object:
    """What no row may have a say in."""
    body = {name: value for name, value in entry["body"].items() if name not in FREE}
    return entry["kind"], entry["plan"], entry["request"], body


class Twins:
    """Two sites of the same books and other rows, in a folder where nothing else may appear."""

    def __init__(self, folder: Path, one: str, other: str) -> None:
        self.folder = folder
        self.sites = [
            wire.lay_begun_site(folder / name / "outside" / "site", rows, cap=CAP)
            for name, rows in (("one", one), ("other", other))
        ]
        self.servers = [HostileServer(site) for site in self.sites]
        self.answers: list[Answer] = []

    def ask(self, kind: str, instruction: object = None, **more: Any) -> Answer:
        return self.took([server.ask(kind, instruction, **more) for server in self.servers])

    def send(self, kind: str, content: RecordDict, **more: Any) -> Answer:
        return self.took([server.send(kind, content, **more) for server in self.servers])

    def took(self, answers: list[Answer]) -> Answer:
        """Hold both answers against each other."""
        one, other = answers
        assert one.outcome == other.outcome
        assert one.word in wire.WORDS or not one.word
        self.answers.append(one)
        return one

    def hold(self) -> None:
        """What must hold of both sites, whatever they were sent."""
        one, other = ([public_part(entry) for entry in wire.entries(site)] for site in self.sites)
        assert one == other
        assert all(wire.spent(site) <= CAP * (1 + 1e-9) for site in self.sites)
        code, printed = wire.command("site", "egress", str(self.sites[0]))  # the other's says the same
        assert code == 0
        assert not harmful(printed)
        inside = [site.parent for site in self.sites]
        strange = [
            path
            for path in self.folder.rglob("*")
            if path.is_file() and not any(home in path.parents for home in inside)
        ]
        assert not strange


@pytest.fixture(scope="module", autouse=True)
def _ground() -> Iterator[None]:
    """A place for the examples, each at the same path as the one before, and what makes them cheap."""
    gc.collect()
    gc.freeze()  # the libraries' objects stay: looking through them again and again takes a tenth of the time
    with (
        tempfile.TemporaryDirectory(prefix="tidegate-adversary-", dir=MEMORY) as folder,
        wire.engines_kept(),
    ):
        GROUND.append(Path(folder))
        yield
        GROUND.clear()
    gc.unfreeze()


GROUND: list[Path] = []


@contextmanager
def ground() -> Iterator[Path]:
    """An empty folder in memory."""
    folder = GROUND[0] / "example"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def twins(one: str = text(ONE), other: str = text(OTHER)) -> Iterator[Twins]:
    with ground() as folder:
        pair = Twins(folder, one, other)
        try:
            yield pair
            pair.hold()
        finally:
            for site in pair.sites:
                wire.forget(site)


@generated
@given(data=st.data(), kind=st.sampled_from(KINDS))
def test_any_instruction(data: st.DataObject, kind: str) -> None:
    with twins() as pair:
        for step in range(2):
            told = data.draw(mutated(instruction_for(kind, step=step)))
            found = pair.ask(kind, told)
            if (
                kind in (TRAIN, EVALUATE, COMPARE)
                and isinstance(told, dict)
                and told.get("windows") == ["w1"]
            ):
                assert least_epsilon(noise_in(found, ONE), 1e-5) <= CAP
        pair.ask(EVALUATE, instruction_for(EVALUATE, run="after"))


@generated
@given(data=st.data(), kind=st.sampled_from(KINDS))
def test_any_experiment(data: st.DataObject, kind: str) -> None:
    with twins() as pair:
        pair.ask(kind, experiment=data.draw(mutated(WHOLE_EXPERIMENT)))
        pair.ask(kind, instruction_for(kind, run="after"))


@generated
@given(data=st.data(), kind=st.sampled_from([TRAIN, EVALUATE, COMPARE]))
def test_any_model(data: st.DataObject, kind: str) -> None:
    with twins() as pair:
        found = pair.ask(kind, arrays=data.draw(models(kind)))
        assert all(np.isfinite(array).all() for array in found.arrays.values())


FIELDS = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.binary(max_size=40),
    st.booleans(),
    st.lists(st.binary(max_size=4), max_size=3),
    st.lists(st.integers(0, 9), min_size=1, max_size=3),
    st.sampled_from(
        ["{}", "[]", "null", "[" * 10_000, '{"run":' * 5000, "\ufeff{}", "1e999", '{"run": NaN}']
    ),
)
RECORDS = st.one_of(
    st.fixed_dictionaries({}, optional={"instruction": FIELDS, "arrays": FIELDS, "more": FIELDS}).map(
        lambda fields: ConfigRecord(dict(fields))
    ),
    st.just(ArrayRecord({"config": Array(np.zeros(2))})),
    st.just(MetricRecord({"instruction": 1})),
)


@generated
@given(
    data=st.data(),
    kind=st.sampled_from(KINDS),
    content=st.dictionaries(st.sampled_from(["config", "reply", "x"]), RECORDS, max_size=2),
    run_config=st.dictionaries(
        st.sampled_from(["experiment", "job"]), st.text(max_size=9) | st.integers(0, 9)
    ),
)
def test_any_records(
    data: st.DataObject, kind: str, content: dict[str, Any], run_config: dict[str, Any]
) -> None:
    with twins() as pair:
        pair.send(kind, RecordDict(content), group=data.draw(TEXTS))
        pair.send(kind, RecordDict(content), run_config=run_config)
        valid = {"instruction": json.dumps(instruction_for(kind)), "arrays": packed(models_for(kind))}
        cut = valid | {"arrays": data.draw(broken(valid["arrays"]))}
        pair.send(kind, RecordDict({"config": ConfigRecord(cut)}))


CELLS = st.one_of(
    st.sampled_from(
        [
            "",
            " ",
            "NA",
            "nan",
            "NaN",
            "None",
            "null",
            "inf",
            "-inf",
            "1e400",
            "-1e400",
            "5e-324",
            "-0",
            "0x10",
            "1,5",
            "1_000",
            "１",
            '"',
            "'",
            "\n",
            "\r",
            "\x00",
            "a\x00",
            "a ",
            "A",
            "w1",
            "w2 ",
            "w1.0",
            "01",
            "1.0",
            "train",
            "holdout",
            "Train",
            "9" * 400,
            "a" * 5000,
            "\ufeff",
            "\u202e",
            "=1+1",
            "</script>",
            "true",
        ]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
)
USUAL: dict[str, st.SearchStrategy[Any]] = {
    "level": st.integers(-5, 105),
    "ward": st.sampled_from("abc"),
    "ill": st.integers(0, 1),
    "window": st.sampled_from(["w1", "w2"]),
    "patient": st.integers(1, 5),
    "side": st.sampled_from(["train", "holdout"]),
    "secret": st.just("none"),
}


@st.composite
def tables(draw: st.DrawFn) -> str:
    """A CSV file of up to a dozen rows, most cells as they should be."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(wire.COLUMNS)
    for _ in range(draw(st.integers(0, 12))):
        odd = draw(st.sets(st.sampled_from(wire.COLUMNS), max_size=2))
        writer.writerow([draw(CELLS if name in odd else USUAL[name]) for name in wire.COLUMNS])
    return written.getvalue()


@generated
@given(data=st.data(), one=tables(), other=tables())
def test_any_two_tables(data: st.DataObject, one: str, other: str) -> None:
    with twins(one, other) as pair:
        for number, kind in enumerate(data.draw(st.permutations(KINDS))[:3]):
            pair.ask(kind, instruction_for(kind, run=f"r{number}"))


# -- the agent, and the server -----------------------------------------------------------------


@generated
@given(data=st.data())
def test_the_agent_outlives_any_bytes(data: st.DataObject) -> None:
    name, objects = taken_apart(1)
    victim = data.draw(st.sampled_from(sorted(objects)))
    harmed = {**objects, victim: data.draw(broken(objects[victim]))}
    if data.draw(st.booleans()):
        del harmed[data.draw(st.sampled_from(sorted(harmed)))]

    def refuse(work: Any) -> Message:
        return Message(Error(code=0, reason="failed"), reply_to=work.message)

    served = wire.serve_agent([(name, harmed), taken_apart(2)], refuse)
    assert served[-1].reply.run == 2


@generated
@given(data=st.data())
def test_any_reply(data: st.DataObject) -> None:
    def rogue(question: Question) -> RecordDict:
        reply = public(question, scores=scores())
        if data.draw(st.booleans()):  # of those that are as they should be the arrays are looked at
            reply = data.draw(mutated(reply))
        model = dict(question.model.items())
        for name in list(model):
            if data.draw(st.booleans()):
                model[name] = data.draw(ARRAYS)
        return records(reply, model if data.draw(st.booleans()) else data.draw(broken(packed(model))))

    with ground() as folder, wire.states(folder) as state:
        grid = HostileGrid({"north": honest, "south": rogue, "west": honest})
        trained = wire.train(server_plan(rounds=1), grid, grid.names, state)
        assert trained.counted["north"] == trained.counted["west"] == 1
        assert all(np.isfinite(array).all() for array in trained.arrays.values())


@generated
@given(data=st.data())
def test_any_drift_summary(data: st.DataObject) -> None:
    def rogue(question: Question) -> RecordDict:
        counts = data.draw(mutated(drift_counts()))
        return records(public(question, drift=counts))

    with ground() as folder, wire.states(folder) as state:
        grid = HostileGrid({"north": drift_reply, "south": rogue, "west": drift_reply})
        status, result, _ = wire.check_drift(server_plan(), grid, grid.names, state, window="w2")
        assert status in ("partial", "succeeded")
        assert "alarm" in result
