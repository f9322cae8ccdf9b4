"""Whether a message is answered, and with which word it is refused, no row has a say in.

Two sites differ in their rows alone and are sent the same message. Whatever came out of one and not
out of the other would be an answer about rows that nobody was charged for.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict

import clients.site
from clients.ledger.entries import canonical, entry_hash
from experiments.audit.hostile_server import (
    COMPARE,
    DRIFT,
    EVALUATE,
    KINDS,
    RANGES,
    TRAIN,
    Answer,
    HostileServer,
    instruction_for,
    zero_model,
)
from tests.adversary import wire
from tests.adversary.conftest import LaySite
from tests.adversary.raw_messages import taken_apart
from tests.adversary.rows import Figure, Row, Rows, make_rows, text, with_row

ROWS = make_rows()
W1 = [row for row in ROWS if row["window"] == "w1"]
Task = dict[str, Any]


def kinds_of(site: Any) -> list[str]:
    return [entry["kind"] for entry in wire.entries(site)]


class Twins:
    """Two sites of the same books and other rows."""

    def __init__(self, lay: LaySite, one: Rows | str | bytes, other: Rows | str | bytes, **how: Any) -> None:
        self.servers = [HostileServer(lay(rows, **how)) for rows in (one, other)]

    def ask(self, kind: str, instruction: object = None, **more: Any) -> tuple[Answer, Answer]:
        one, other = (server.ask(kind, instruction, **more) for server in self.servers)
        return one, other

    def books(self) -> list[list[str]]:
        return [kinds_of(server.site) for server in self.servers]


def told(*answers: Answer) -> str:
    return " / ".join(answer.word or "answered" for answer in answers)


def task(**changes: Any) -> Task:
    plan = wire.base_experiment()
    plan["task"] |= changes
    return plan


def categories(*names: str, **more: Any) -> Task:
    plan = wire.base_experiment()
    plan["task"]["features"][1] |= {"categories": list(names), **more}
    return plan


def range_of(low: float, high: float, **more: Any) -> Task:
    plan = task(**more)
    plan["task"]["features"][0] |= {"low": low, "high": high}
    return plan


def column(name: str, kind: str = "numeric") -> Task:
    plan = wire.base_experiment()
    plan["task"]["features"].append({"name": name, "kind": kind, "low": 0.0, "high": 1.0})
    return plan


def more(rows: Rows, *added: Row) -> Rows:
    return [*rows, *({**rows[1], "patient": 5000 + place, **row} for place, row in enumerate(added))]


BASE = wire.base_experiment()
ILL = {"label": {"column": "ill", "classes": ["0", "1"]}}
SECRET = {"label": {"column": "secret", "classes": ["none", "hiv"]}}

CASES: dict[str, tuple[Rows | str | bytes, Task, list[str]]] = {
    # what it shows: the other site's rows (the one's are ROWS), the experiment, the windows
    "a window with rows": (more(ROWS, {"window": "w9"}), BASE, ["w9"]),
    "a window with a held-out row": (more(ROWS, {"window": "w9", "side": "holdout"}), BASE, ["w9"]),
    "one class": ([{**row, "ill": 0} for row in ROWS], BASE, ["w1"]),
    "one class of a window": (
        [{**row, "ill": 0 if row["window"] == "w2" else row["ill"]} for row in ROWS],
        BASE,
        ["w2"],
    ),
    "no training rows": ([{**row, "side": "holdout"} for row in ROWS], BASE, ["w1"]),
    "no held-out rows": ([{**row, "side": "train"} for row in ROWS], BASE, ["w1"]),
    "out of range": (with_row(ROWS, level=100.5), task(out_of_range="refuse"), ["w1"]),
    "out of the server's range": (
        with_row(ROWS, level=99.5),
        range_of(0.0, 99.2, out_of_range="refuse"),
        ["w1"],
    ),
    "another category": (with_row(ROWS, ward="hospice"), BASE, ["w1"]),
    "a category that is not asked for": (with_row(ROWS, ward="c"), categories("a", "b", "d"), ["w1"]),
    "a missing category": (with_row(ROWS, ward=""), BASE, ["w1"]),
    "a missing number": (with_row(ROWS, level=""), BASE, ["w1"]),
    "a missing label": (with_row(ROWS, ill=""), BASE, ["w1"]),
    "a missing window": (with_row(ROWS, window=""), BASE, ["w1"]),
    "a missing person": (with_row(ROWS, patient=""), task(person="patient"), ["w1"]),
    "another label": (with_row(ROWS, ill=2), BASE, ["w1"]),
    "a text for a number": (with_row(ROWS, level="high"), BASE, ["w1"]),
    "an infinite number": (with_row(ROWS, level="inf"), BASE, ["w1"]),
    "a huge number": (with_row(ROWS, level="1e400"), BASE, ["w1"]),
    "another side": (with_row(ROWS, side="test"), BASE, ["w1"]),
    "a newer file's odd row": (with_row(ROWS, 101, ward="hospice", ill=7, level="?"), BASE, ["w1"]),
    "a diagnosis as time": (with_row(ROWS, secret="hiv"), task(time="secret"), ["hiv"]),
    "a diagnosis as label": (with_row(ROWS, secret="hiv"), task(**SECRET), ["w1"]),
    "a diagnosis as feature": (with_row(ROWS, secret="0.5"), column("secret"), ["w1"]),
    "an id as window": (with_row(ROWS, patient=4711), task(time="patient"), ["4711"]),
    "a row too long": (text(ROWS) + "50,a,0,w1,1,train,none,more\n", BASE, ["w1"]),
    "a row too short": (text(ROWS) + "50,a\n", BASE, ["w1"]),
    "not UTF-8": (text(ROWS).encode() + b"50,\xff\xfe,0,w1,1,train,none\n", BASE, ["w1"]),
    "a quote that does not end": (text(ROWS) + '50,"a,0,w1,1,train,none\n', BASE, ["w1"]),
    "a zero byte": (text(ROWS) + "50,a\0,0,w1,1,train,none\n", BASE, ["w1"]),
    "no rows": (text([]), BASE, ["w1"]),
    "one row": (ROWS[:1], BASE, ["w1"]),
}


@pytest.mark.parametrize("case", CASES)
def test_no_word_tells_two_tables_apart(lay: LaySite, figure: Figure, case: str) -> None:
    others, plan, windows = CASES[case]
    twins = Twins(lay, ROWS, others, cap=20.0)
    different = []
    for number, kind in enumerate(KINDS):
        asked = {"reference_windows": ["w1"]} if kind == DRIFT else {}
        one, other = twins.ask(
            kind, instruction_for(kind, run=f"r{number}", windows=windows, **asked), experiment=plan
        )
        if one.outcome != other.outcome:
            books = [len(book) for book in twins.books()]
            different.append(f"{kind}: {told(one, other)} (entries in the ledgers: {books})")
    figure(f"{case}: {'; '.join(different) or 'nothing'} tells it")
    assert not different
    assert twins.books()[0] == twins.books()[1]


@pytest.mark.parametrize("case", ["a window with rows", "no rows", "another label", "a zero byte"])
def test_what_waits_for_approval_waits_whatever_the_rows_hold(
    lay: LaySite, figure: Figure, case: str
) -> None:
    others, plan, windows = CASES[case]
    twins = Twins(lay, ROWS, others, cap=20.0, policy='approval = "ask"')
    words = set()
    for number, kind in enumerate(KINDS):
        more = {"reference_windows": ["w1"]} if kind == DRIFT else {}
        asked = instruction_for(kind, run=f"r{number}", windows=windows, **more)
        for one, other in (twins.ask(kind, asked, experiment=plan) for _ in range(2)):
            assert one.outcome == other.outcome
            words |= {one.word, other.word}
    figure(f"{case}: asked twice of each kind, every answer was {words}")
    assert words == {"approval"}
    assert twins.books() == [["refuse"] * len(KINDS)] * 2
    assert [wire.spent(server.site) for server in twins.servers] == [0.0, 0.0]


def test_no_series_of_questions_finds_the_maximum(lay: LaySite, rows: Rows, figure: Figure) -> None:
    highest = max(row["level"] for row in rows)
    server = HostileServer(lay(rows))
    low, high, questions = 0.0, 128.0, 0
    words: set[str] = set()
    while high - low > 1e-3:
        middle, questions = (low + high) / 2, questions + 1
        plan = range_of(-1.0, middle, out_of_range="refuse")
        plan["privacy"]["evaluation_epsilon"] = 1e-5  # an answer says the same as a refusal
        found = server.ask(EVALUATE, instruction_for(EVALUATE, run=f"r{questions}"), experiment=plan)
        words.add(found.word or "answered")
        low, high = (middle, high) if found.refused else (low, middle)
    figure(
        f"{questions} questions: the highest level lies in [{low:.3f}, {high:.3f}], it is {highest}; "
        f"spent {wire.spent(server.site):.2g}"
    )
    assert not (low <= highest <= high and high - low < 1)
    assert len(words) == 1


def test_no_series_of_questions_lists_who_is_here(lay: LaySite, rows: Rows, figure: Figure) -> None:
    server = HostileServer(lay(rows))
    here = {}
    for patient in range(990, 1010):
        told_ = instruction_for(EVALUATE, run=f"r{patient}", windows=[str(patient)])
        here[patient] = server.ask(EVALUATE, told_, experiment=task(time="patient")).word
    words = set(here.values())
    figure(f"of 20 ids asked for, 10 here: words {sorted(word or 'answered' for word in words)}")
    assert len(words) == 1


# -- after the charge ------------------------------------------------------------------

HUGE = {
    "layers.0.weight": np.array([[3e38, 3e38, 3e38, 3e38]], np.float32),
    "layers.0.bias": np.array([-3e38], np.float32),
}
ONLY_LEVEL = {
    "layers.0.weight": np.array([[3e38, 0, 0, 0]], np.float32),
    "layers.0.bias": np.zeros(1, np.float32),
}
UNDEFINED = {
    "layers.0.weight": np.array([[np.nan, 0, 0, 0]], np.float32),
    "layers.0.bias": np.zeros(1, np.float32),
}
INFINITE = {
    "layers.0.weight": np.array([[np.inf, 0, 0, 0]], np.float32),
    "layers.0.bias": np.zeros(1, np.float32),
}
BARE = {
    "layers.0.weight": np.array([[0, 3e38, 3e38, -3e38]], np.float32),
    "layers.0.bias": np.array([3e38], np.float32),
}
MODELS = {
    "huge": HUGE,
    "only level": ONLY_LEVEL,
    "undefined": UNDEFINED,
    "infinite": INFINITE,
    "by ward": BARE,
}
ZERO_LEVELS: Rows = [{**row, "level": 0} for row in ROWS]
ONE_LEVEL = with_row(with_row(ZERO_LEVELS, 0, level=100, ill=0), 1, level=100, ill=0)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", [TRAIN, EVALUATE, COMPARE])
def test_no_weight_turns_one_row_into_a_refusal(lay: LaySite, figure: Figure, kind: str, model: str) -> None:
    champion = MODELS[model]
    arrays = champion
    if kind == COMPARE:
        opposite = {name: -value for name, value in champion.items()}
        arrays = {**champion, **{f"challenger/{name}": value for name, value in opposite.items()}}
    found = {}
    for name, other in {"a level": ONE_LEVEL, "a ward": with_row(ZERO_LEVELS, 0, ward="c")}.items():
        one, two = Twins(lay, ZERO_LEVELS, other).ask(kind, arrays=arrays)
        found[name] = (one.outcome == two.outcome, told(one, two))
    figure(
        f"{kind} of a model that is {model}: "
        + ", ".join(f"{name} {said}" for name, (_, said) in found.items())
    )
    assert all(same for same, _ in found.values())


def above(level: float, name: str = "") -> dict[str, np.ndarray[Any, Any]]:
    """A model whose score is ∞ − ∞ for rows above that level, and a number for all others."""
    first = {"weight": np.array([[1, 0, 0, 0]]), "bias": np.array([-level / 100])}
    second = {"weight": np.array([[3e38]]), "bias": np.zeros(1)}
    third = {"weight": np.full((2, 1), 3e38), "bias": np.zeros(2)}
    last = {"weight": np.array([[1, -1]]), "bias": np.zeros(1)}
    return {
        f"{name}layers.{place}.{part}": array.astype(np.float32)
        for place, layer in enumerate((first, second, third, last))
        for part, array in layer.items()
    }


@pytest.mark.parametrize("kind", [COMPARE, EVALUATE, TRAIN])
@pytest.mark.parametrize("place", [0, 1])
def test_no_undefined_score_of_one_row_is_seen(lay: LaySite, figure: Figure, kind: str, place: int) -> None:
    plan = {**wire.base_experiment(), "model": {"kind": "mlp", "hidden": [1, 1, 2]}}
    calm = [{**row, "level": 20} for row in ROWS]
    twins = Twins(lay, calm, with_row(calm, place, level=60))
    model = above(50) if kind != COMPARE else {**above(50), **above(50, "challenger/")}
    one, other = twins.ask(kind, experiment=plan, arrays=model)
    figure(f"{kind}, ∞ − ∞ in one row above level 50: {told(one, other)}; entries {twins.books()}")
    assert one.outcome == other.outcome


DEGENERATE = [
    (0.0, 5e-324, "log1p"),
    (1e17, 1.0000000000000002e17, "log1p"),
    (-0.9999999999999999, -0.9999999999999998, "log1p"),
    (-1.7e308, 1.7e308, "none"),
    (-0.5, 1.7e308, "log1p"),
    (50.0, 50.00000000000001, "log1p"),
    (50.0, 50.00000000000001, "none"),
]


@pytest.mark.parametrize("odd", [0, "1e308", "inf"])
@pytest.mark.parametrize(("low", "high", "transform"), DEGENERATE)
def test_no_degenerate_range_turns_a_row_into_a_refusal(
    lay: LaySite, figure: Figure, low: float, high: float, transform: str, odd: object
) -> None:
    plan = range_of(low, high)
    plan["task"]["features"][0]["transform"] = transform
    twins = Twins(lay, ROWS, with_row(with_row(ROWS, 0, level=odd), 1, level=odd), cap=20.0)
    different = []
    for number, kind in enumerate((TRAIN, COMPARE, DRIFT)):
        one, other = twins.ask(kind, instruction_for(kind, run=f"r{number}"), experiment=plan)
        if one.outcome != other.outcome:
            different.append(f"{kind}: {told(one, other)}")
    figure(f"[{low:g}, {high:g}] {transform} and a level of {odd}: {different or 'nothing'}")
    assert not different


def test_an_update_tells_not_how_many_rows_there_are(lay: LaySite, figure: Figure) -> None:
    """Of a model that is wrong everywhere, every row's gradient has the whole clipping norm."""
    many: Rows = [{**W1[1], "ill": place % 2, "level": 90, "patient": place} for place in range(2000)]
    wrong = {
        "layers.0.weight": np.array([[1e4, 0, 0, 0]], np.float32),
        "layers.0.bias": np.array([-1e3], np.float32),
    }
    plan = wire.base_experiment()
    plan["strategy"]["learning_rate"] = 1.0
    twins = Twins(lay, many[:60], many, cap=20.0)
    one, other = twins.ask(TRAIN, arrays=wrong, experiment=plan)
    figure(f"60 rows and 2000 where 60 are stated: {told(one, other)}; entries {twins.books()}")
    assert one.outcome == other.outcome


@pytest.mark.parametrize("rate", [1e30, 1e36, 1e38, 3e38, 1e39, 1e308])
def test_no_learning_rate_turns_rows_into_a_refusal(lay: LaySite, figure: Figure, rate: float) -> None:
    plan = wire.base_experiment()
    plan["strategy"]["learning_rate"] = rate
    one, other = Twins(lay, ROWS, with_row(W1[:40], level=0)).ask(TRAIN, experiment=plan)
    figure(f"learning rate {rate:g}: {told(one, other)}")
    assert one.outcome == other.outcome
    assert one.refused or all(np.isfinite(array).all() for array in one.arrays.values())


@pytest.mark.parametrize("number", [1001, 10_000])
def test_a_server_does_not_choose_how_many_bytes_a_row_takes(
    lay: LaySite, figure: Figure, number: int
) -> None:
    """With 40 kB a row the worker's memory would count the rows: one more, and the reply is `failed`."""
    plan = categories("a", *(f"x{place}" for place in range(number - 1)))
    width = number + 1
    model = {
        "layers.0.weight": np.zeros((1, width), np.float32),
        "layers.0.bias": np.zeros(1, np.float32),
    }
    server = HostileServer(lay(ROWS, cap=20.0))
    words = {kind: server.ask(kind, experiment=plan, arrays=model).word for kind in (TRAIN, EVALUATE)}
    words |= {kind: server.ask(kind, experiment=plan).word for kind in (DRIFT, RANGES)}
    figure(f"{width:,} columns: {words}")
    assert set(words.values()) == {"card"}
    assert wire.spent(server.site) == 0


# -- a refusal is an answer too, and is written down ------------------------------------

REFUSED: dict[str, Callable[[HostileServer], Answer]] = {
    "budget": lambda server: server.ask(EVALUATE, experiment=dear()),
    "instruction": lambda server: server.ask(EVALUATE, '{"run": 1}'),
    "experiment": lambda server: server.ask(EVALUATE, experiment='{"name": 1}'),
    "window": lambda server: server.ask(EVALUATE, instruction_for(EVALUATE, windows=["../w"])),
    "column": lambda server: server.ask(EVALUATE, experiment=column("nothing")),
    "arrays": lambda server: server.ask(EVALUATE, arrays=b"no arrays"),
}


def dear() -> Task:
    plan = wire.base_experiment()
    plan["privacy"]["evaluation_epsilon"] = 100.0
    return plan


@pytest.mark.parametrize("reason", REFUSED)
def test_a_refusal_is_one_known_word_and_a_line_of_the_egress_log(
    lay: LaySite, rows: Rows, figure: Figure, reason: str
) -> None:
    server = HostileServer(lay(rows))
    found = REFUSED[reason](server)
    code, printed = wire.command("site", "egress", str(server.site), "--json")
    lines = json.loads(printed) if code == 0 else []
    kinds = kinds_of(server.site)
    figure(f"{reason}: {found.word}; entries {kinds or 'none'}; {len(lines)} lines in the egress log")
    assert found.word in wire.WORDS
    assert kinds == ["refuse"]
    assert len(lines) == 1
    assert found.word in json.dumps(lines)


def test_refusals_are_limited_in_number(lay: LaySite, rows: Rows, figure: Figure) -> None:
    """Each is a word from a site: a server that may have any number of them has a channel."""
    server = HostileServer(lay(rows))
    size = {}
    for number in range(1200):
        server.ask(EVALUATE, instruction_for(EVALUATE, run=f"r{number}", windows=["../w"]))
        if number in (399, 1199):
            size[number] = len(wire.entries(server.site))
    figure(f"400 and 1200 refusals: {list(size.values())} entries")
    assert 0 < size[1199] <= 1000


def test_no_seconds_leave_in_a_reply(lay: LaySite, rows: Rows) -> None:
    server = HostileServer(lay(rows))
    for kind in KINDS:
        found = server.ask(kind, instruction_for(kind, run=kind))
        names = json.dumps(found.reply).lower()
        assert not [word for word in ("second", "time", "duration", "clock") if f'"{word}' in names]


@pytest.mark.parametrize("refuses", [False, True])
def test_the_time_that_a_question_took_is_not_sent(figure: Figure, *, refuses: bool) -> None:
    """Byte for byte: also what Flower writes on the envelope, which is made before the agent waits."""

    def answer_after(seconds: float) -> wire.Served:
        def slow(work: Any) -> Message:
            time.sleep(seconds)
            if refuses:
                return Message(Error(code=0, reason="failed"), reply_to=work.message)
            return Message(RecordDict({"reply": ConfigRecord({"reply": b"the same"})}), reply_to=work.message)

        (served,) = wire.serve_agent([taken_apart(1)], slow)
        return served

    quick, long = answer_after(0.0), answer_after(0.2)
    differ = [name for name, value in vars(quick.reply).items() if value != vars(long.reply)[name]]
    figure(
        f"beside a reply the agent sends {quick.beside} after a quick question, {long.beside} after a slow "
        f"one; of the replies differs: {', '.join(differ) or 'nothing'}"
    )
    assert quick == long


@pytest.mark.parametrize("kind", KINDS)
def test_neither_the_anchor_nor_evidence_tells_how_long_a_question_took(
    lay: LaySite, figure: Figure, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The server knows of each entry all but its time: of a hash of that alone it could try every time."""
    server = HostileServer(lay(ROWS, cap=100.0))
    server.ask(EVALUATE, instruction_for(EVALUATE, run="before"))
    before = len(wire.entries(server.site))
    real = clients.site.read_rows

    def read_slowly(*asked: Any, **more: Any) -> Any:
        time.sleep(0.02)
        return real(*asked, **more)

    monkeypatch.setattr(clients.site, "read_rows", read_slowly)
    wire.forget(server.site)
    assert not server.ask(kind, instruction_for(kind, run="asked")).refused
    made = wire.entries(server.site)[before:]
    last = made[-1]
    known = {name: value for name, value in last["body"].items() if name != "salt"}  # and its time: guessed
    guess = entry_hash(
        made[-2]["hash"],
        last["sequence"],
        *(last[name] for name in ("kind", "plan", "request")),
        canonical(known).decode(),
    )
    moments = {entry["body"]["at"] for entry in made}
    figure(
        f"{kind}: the head is {'found' if guess == last['hash'] else 'hidden'}, "
        f"its entries name {len(moments)} moments"
    )
    assert guess != last["hash"]
    assert len(moments) == 1


def test_the_model_of_the_server_is_not_part_of_what_is_asked(lay: LaySite) -> None:
    """The same question with another model is refused or is the stored reply: never new noise for free."""
    server = HostileServer(lay(ROWS))
    one = server.ask(EVALUATE)
    other = server.ask(EVALUATE, arrays={**zero_model(), "layers.0.bias": np.array([9], np.float32)})
    assert other.refused or other.reply == one.reply
    assert server.ask(RANGES, instruction_for(RANGES, features=["level", "level"])).refused
