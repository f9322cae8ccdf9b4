"""A server that writes its own messages: does a site let anything out that it did not charge?

Each attack lays sites out as the audit's other probes do, sends raw records to the ClientApp that
every run goes through, and reads what comes back and what the site's ledger says of it. A `try`
counts as let through if the server learnt something that it did not pay for: a reply to a question
that no experiment asks, a second answer on a budget for one, another answer because one row is
another one, a row that counts for more than its clipping norm, an answer between two times.

    one site      what the ledger says afterwards, against what came out
    two sites     that differ in a row: whether anything but the noise differs
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from experiments.audit.hostile_server import (
    CARD_COLUMNS,
    COMPARE,
    EVALUATE,
    KINDS,
    RANGES,
    TRAIN,
    Answer,
    Arrays,
    HostileServer,
    Json,
    base_experiment,
    instruction_for,
    models_for,
)
from experiments.audit.observation import stated_noise, temporary_folder

__all__ = ["ATTACKS", "Attempt", "attack_site"]

Rows = list[Json]

_CAP = 2.0
_STATED_ROWS = 400
_MOST = 9e29
"""No parameter that a site takes is greater than 1e30."""
_TINY_TIMES_HUGE = (
    (1e3, 0.0, 1.0),
    (1e19, -52.5, 1e-3),
    (9e19, -48.0, 1e-3),
    (_MOST, 0.0, 1.0),
    (1e-40, -100.0, 1.0),
)
"""Of each model: the activation's size, the bias behind it that makes the output's gradient small, and the
clipping norm. In single precision 1e-22 squared is 0."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What came of one kind of attack.

    Attributes:
        attack: what the server did.
        tries: messages, or pairs of them, that could have told it something.
        let_through: how many did; 0 if the site holds.
        seconds: how long it took.
    """

    attack: str
    tries: int
    let_through: int
    seconds: float

    @property
    def alarm(self) -> bool:
        """Whether the site let anything out that was not charged."""
        return self.let_through > 0


class _Site:
    """A laid-out site of window w1 and w2, and the one who sends it messages."""

    def __init__(self, folder: Path, rows: Rows, *, cap: float = _CAP) -> None:
        folder.mkdir(parents=True)
        self.path = folder / "site.toml"
        columns = ("level", "ward", "ill", "window", "side")
        lines = [",".join(columns), *(",".join(str(row[name]) for name in columns) for row in rows)]
        (folder / "rows.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.path.write_text(_SITE.format(cap=cap, rows=_STATED_ROWS) + CARD_COLUMNS, encoding="utf-8")
        self._server = HostileServer(self.path)
        self._asked = 0

    def ask(
        self, kind: str, *, experiment: object = None, arrays: Arrays | bytes | None = None, **fields: object
    ) -> Answer:
        """Send one message: a valid one of that kind, but for what is given."""
        self._asked += 1
        instruction = {**instruction_for(kind, run=f"r{self._asked}"), **fields}
        return self._server.ask(kind, instruction, experiment=experiment, arrays=arrays)

    @property
    def spent(self) -> float:
        from clients.site import open_site

        return float(open_site(self.path).ledger.spent().epsilon)

    @property
    def charges(self) -> int:
        """How many there were."""
        from clients.site import open_site

        return sum(entry.kind == "reserve" for entry in open_site(self.path).ledger.entries())

    @property
    def noise_multiplier(self) -> float:
        """Of the plan that was entered last."""
        from clients.site import open_site

        return stated_noise(open_site(self.path).ledger)


Lay = Callable[..., _Site]


# -- the attacks ----------------------------------------------------------------


def fractional_counts(lay: Lay) -> Iterator[bool]:
    """Counts and numbers that are none: how often it will be asked is not for the server to say."""
    values = (1e-16, 0.5, -1, True, "1", math.inf, math.nan, 10**30)
    keys = ((TRAIN, "rounds"), (EVALUATE, "evaluations"), (COMPARE, "evaluations"), (TRAIN, "step"))
    site = lay(_rows())
    for (kind, key), value in product(keys, values):
        fields: Json = {key: value}
        yield not site.ask(kind, **fields).word
    for section, key in (("strategy", "rounds"), ("privacy", "epsilon"), ("privacy", "delta")):
        for value in (1e-16 if key == "rounds" else 1e300, math.inf, math.nan, True, "1", -1):
            plan = _experiment(**{section: {key: value}})
            yield not site.ask(TRAIN, experiment=plan).word
    yield site.spent > 0


def window_aliases(lay: Lay) -> Iterator[bool]:
    """One window by many names: all answers on its rows have one budget."""
    names: list[Any] = [["w1"], "w1", ["w1", "w1"], [["w1"]], {"w1": 1}, ["w1", "w9"], []]
    names += [["w1" + zeros * "\0"] for zeros in (1, 2)]
    names += [[odd] for odd in ("w1 ", " w1", "w1\n", "W1", "ｗ1", "w1\u200b", "w\u0131", "w1.0")]
    site = lay(_rows())
    loud = _experiment(privacy={"evaluation_epsilon": 0.9 * _CAP})
    answers = [site.ask(EVALUATE, experiment=loud, windows=name) for name in names]
    full = [answer for answer in answers if _counted(answer) > _STATED_ROWS / 8]  # there are twice as many
    for place, _ in enumerate(names):
        yield 1 <= place < len(full)  # the first pays for what it gets
    yield site.spent > _CAP * (1 + 1e-9)


def unfit_rows(lay: Lay) -> Iterator[bool]:
    """Rows that are no numbers, no categories or out of range: nothing tells that they are there."""
    odd = ({"level": "nan"}, {"level": "1e999"}, {"level": "x"}, {"ward": "z"}, {"ill": ""}, {"level": 1e300})
    for changes in odd:
        yield from _told(lay, _rows(), _with_row(_rows(), **changes), [(kind, {}) for kind in KINDS])


def extreme_weights(lay: Lay) -> Iterator[bool]:
    """Models whose scores overflow at some rows alone: no row may turn a reply into a refusal."""
    deep = _experiment(model={"kind": "mlp", "hidden": [1, 1, 2]})
    asked: list[tuple[str, Json]] = []
    for kind in (TRAIN, EVALUATE, COMPARE):
        for weight in (3e38, math.nan, math.inf):
            linear = {
                name: np.full(array.shape, weight, np.float32) for name, array in models_for(kind).items()
            }
            asked.append((kind, {"arrays": linear}))
        prefixes = ("", "challenger/") if kind == COMPARE else ("",)
        undefined = {prefix + name: array for prefix in prefixes for name, array in _above_half().items()}
        asked.append((kind, {"arrays": undefined, "experiment": deep}))
    plain = [{**row, "level": 20.0} for row in _rows()]
    yield from _told(lay, plain, _with_row(plain, level=60.0), asked)


def _above_half() -> Arrays:
    """A model whose score is ∞ − ∞ for rows above the middle of the range, and a number for all others."""
    layers = (
        ([[1, 0, 0, 0]], [-0.5]),
        ([[_MOST]], [0]),
        ([[_MOST], [_MOST]], [0, 0]),
        ([[1, -1]], [0]),
    )
    return {
        f"layers.{place}.{part}": np.array(values, np.float32)
        for place, layer in enumerate(layers)
        for part, values in zip(("weight", "bias"), layer, strict=True)
    }


def tiny_norms(lay: Lay) -> Iterator[bool]:
    """A tiny gradient beside a huge activation: a row counts one clipping norm, whatever made it."""
    calm = [{**row, "level": 0.0, "ward": "b"} for row in _rows(12)]
    for size, bias, norm in _TINY_TIMES_HUGE:
        model = {
            "layers.0.weight": np.array([[size, 0, 0, 0]], np.float32),
            "layers.0.bias": np.zeros(1, np.float32),
            "layers.1.weight": np.zeros((1, 1), np.float32),
            "layers.1.bias": np.array([bias], np.float32),
        }
        plan = _experiment(
            model={"kind": "mlp", "hidden": [1]},
            strategy={"update_bits": 32},
            privacy={"clipping_norm": norm, "epsilon": 8.0},
        )
        sums, deviation = [], math.inf
        for rows in (calm, _with_row(calm, level=100.0, ill=0)):
            site = lay(rows, cap=10.0)
            answer = site.ask(TRAIN, experiment=plan, arrays=model)
            if answer.refused:
                continue
            deviation = site.noise_multiplier * norm
            steps = [_STATED_ROWS * (answer.arrays[name].astype(np.float64) - model[name]) for name in model]
            sums.append(np.array([float(step.sum()) / math.sqrt(step.size) for step in steps]))
        if len(sums) == 1:  # a row decided whether there is an answer
            yield True
        elif sums:
            yield bool(np.abs(sums[1] - sums[0]).max() > norm * (1 + 1e-3) + 7 * math.sqrt(2) * deviation)


def refusals(lay: Lay) -> Iterator[bool]:
    """Questions that were once refused for what rows hold: empty windows, one class, other columns."""
    label = {"label": {"column": "ward", "classes": ["a", "b"]}}
    asked: list[tuple[str, Json]] = [
        (kind, fields)
        for kind in KINDS
        for fields in (
            {"windows": ["w9"]},
            {"windows": ["w3"]},
            {"windows": ["w1", "w3"], "experiment": _experiment(task=label)},
            {"experiment": _experiment(task={"time": "level"})},
            {"experiment": _experiment(task={"person": "ward"})},
        )
    ]
    asked.append((RANGES, {"features": ["secret"]}))
    other = _with_row(_with_row(_rows(), place=2, window="w3"), level=-7.0, ill=1)
    yield from _told(lay, _rows(), other, asked)


def replays(lay: Lay) -> Iterator[bool]:
    """A request that was answered, again with other content: the same bytes, or none, and no charge."""
    loud = {"experiment": _experiment(privacy={"evaluation_epsilon": 0.3, "epsilon": 0.3})}
    for kind in KINDS:
        site = lay(_rows(), cap=20.0)
        same: Json = {"run": "again", "step": 1}
        first = site.ask(kind, **same)
        paid = site.charges
        ones = {name: array + 1 for name, array in models_for(kind).items()}
        for changes in ({}, {"arrays": ones}, {"windows": ["w2"]}, {"evaluate": True}, loud):
            later = site.ask(kind, **{**same, **changes})
            new = not later.word and later.written != first.written
            yield new and site.charges == paid
            paid = site.charges


def times(lay: Lay) -> Iterator[bool]:
    """Rows that take longer: on a grid of stated seconds, an answer leaves at its times alone."""
    del lay
    from clients.line.agent import serve

    took, grid = (0.02, 0.14, 0.26), 0.4
    line: Any = _Line(len(took))

    def answer(work: Any) -> Any:
        time.sleep(took[work.run])
        return work

    serve(line, answer, line.stop, reply_seconds=grid)
    for came, sent in zip(line.came, line.sent, strict=True):
        yield sent - came < 0.95 * grid  # later is what a busy machine makes of it


ATTACKS: Mapping[str, Callable[[Lay], Iterator[bool]]] = {
    "counts that are no counts": fractional_counts,
    "one window by many names": window_aliases,
    "rows that do not fit": unfit_rows,
    "weights that overflow": extreme_weights,
    "gradients too small to square": tiny_norms,
    "words of refusal": refusals,
    "a request again, with other content": replays,
    "when an answer comes": times,
}


def attack_site(names: Sequence[str] = tuple(ATTACKS)) -> Iterator[Attempt]:
    """Make these attacks on freshly laid-out sites, one after the other."""
    for name in names:
        began = time.perf_counter()
        with _sites() as lay:
            tries = list(ATTACKS[name](lay))
        yield Attempt(
            attack=name,
            tries=len(tries),
            let_through=sum(tries),
            seconds=time.perf_counter() - began,
        )


# -- what they need ---------------------------------------------------------------

_SITE = """\
name = "north"
stated_rows = {rows}
[data]
kind = "csv"
path = "rows.csv"
[storage]
drift_reports = false
[policy]
epsilon_cap = {cap!r}
delta_cap = 1e-5
[card]
time = {{ column = "window" }}
holdout = {{ column = "side" }}
"""


@contextmanager
def _sites() -> Iterator[Lay]:
    from clients.site import close_site

    made: list[_Site] = []
    with temporary_folder() as folder:

        def lay(rows: Rows, *, cap: float = _CAP) -> _Site:
            made.append(_Site(Path(folder) / str(len(made)), rows, cap=cap))
            return made[-1]

        try:
            yield lay
        finally:
            for site in made:
                close_site(site.path)


class _Line:
    """A connection that brings some messages, notes when each came and was sent, and stops the agent."""

    node_id = 1

    def __init__(self, messages: int) -> None:
        self._messages, self._waiting = messages, list(range(messages))
        self.stop, self.came, self.sent = threading.Event(), list[float](), list[float]()

    def receive(self, keep: Callable[[Any], None]) -> Any:
        from clients.line.packing import Work

        if not self._waiting:
            return None
        number = self._waiting.pop(0)
        self.came.append(time.monotonic())
        work = Work(
            run=number,
            message_id=f"message-{number}",
            contents={},
            node_id=1,
            node_config={},
            run_config={},
            made_at=0.0,
            request=f"{number}/train/1",
        )
        keep(work)
        return work

    def bundle(self, run: int) -> Any:
        from clients.code import installed_code
        from clients.line.packing import Bundle

        del run
        return Bundle(files=installed_code(), sha256="ab" * 32)

    def send(self, _reply: object) -> None:
        self.sent.append(time.monotonic())
        if len(self.sent) == self._messages:
            self.stop.set()


def _told(lay: Lay, rows: Rows, other: Rows, asked: Sequence[tuple[str, Json]]) -> Iterator[bool]:
    """Of each question to two sites that differ in their rows: whether anything but noise differs."""
    one, two = lay(rows, cap=1e3), lay(other, cap=1e3)
    for kind, fields in asked:
        yield one.ask(kind, **fields).outcome != two.ask(kind, **fields).outcome


def _rows(number: int = _STATED_ROWS) -> Rows:
    """The same every time; three quarters of them of window w1, every second one held out."""
    rng = np.random.default_rng(number)
    return [
        {
            "level": round(float(rng.uniform(1, 99)), 3),
            "ward": "abc"[place % 3],
            "ill": int(rng.random() < 0.4),
            "window": "w2" if place % 4 == 3 else "w1",
            "side": "holdout" if place % 2 else "train",
        }
        for place in range(number)
    ]


def _with_row(rows: Rows, place: int = 0, **changes: object) -> Rows:
    """Another row in that place, and in the place behind it, which is on the other side."""
    return [{**row, **changes} if at in (place, place + 1) else row for at, row in enumerate(rows)]


def _experiment(**sections: Json) -> Json:
    """An honest one, with other values in some sections."""
    plan = base_experiment()
    return {**plan, **{name: {**plan.get(name, {}), **values} for name, values in sections.items()}}


def _counted(answer: Answer) -> float:
    """About how many rows an answer counts: a model of zeros gives all the score of one half."""
    scores = answer.reply.get("scores")
    if scores is None:
        return 0.0
    half = len(scores["negative"]) // 2
    return float(scores["negative"][half] + scores["positive"][half])
