"""kill -9 at every step of one exchange, on the real client path: no charge is lost, none is doubled.

One process imports everything once and forks for each exchange. The fork answers a `train` message through
`clients.app`, on a real site.toml, CSV and ledger, and dies by SIGKILL: at a named step, before each SQL
statement, or at a random moment. Then a new fork is asked the same again, twice.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from clients.ledger.accounting import compose
from clients.ledger.chain import Entry
from clients.site import Site
from clients.site_config import read_site_config
from contract.experiment_file import parse_experiment
from contract.messages import Instruction
from tests.cards import card_for
from tests.failure.federation import LONG

REQUESTS = 10
"""Of one site: the ledger that is killed has a past."""
KILLS = 100 if LONG else 2 * REQUESTS
"""At random moments; a kill before each SQL statement meets all states of the file already."""

EXPERIMENT = parse_experiment(
    """\
name = "small"
[task]
time = "window"
label = { column = "ill" }
[[task.features]]
name = "level"
kind = "numeric"
low = 0
high = 100
[strategy]
local_steps = 20
[privacy]
epsilon = 2.0
delta = 1e-4
""",
    where="small",
)

SITE = f"""\
name = "north"
stated_rows = 60
[data]
kind = "csv"
path = "rows.csv"
{card_for(EXPERIMENT, holdout="side")}
[policy]
epsilon_cap = 100.0
"""

PROGRAM = """\
import json, os, signal, sys, time
from pathlib import Path
from contract.collector import collect_rarely
collect_rarely()
import numpy as np
import sqlalchemy as sa
from flwr.app import Message
from clients import app, site as sites
from clients.mechanisms import training
from clients.ledger.chain import Ledger
from clients.mechanisms.noise import SystemNoise
from contract.experiment import Experiment
from contract.messages import Instruction, Reply
from contract.models import initial_arrays
from experiments.runtimes.inline import InlineGrid
from server.line.flower import assume_identity

experiment = Experiment.model_validate_json(sys.argv[1])

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def die_before(owner, name):
    setattr(owner, name, lambda *_, **__: die())

def run_before(owner, name, first):
    original = getattr(owner, name)
    setattr(owner, name, lambda *given, **named: (first(), original(*given, **named))[1])

def die_after(owner, name):
    original = getattr(owner, name)
    setattr(owner, name, lambda *given, **named: (original(*given, **named), die()))

def die_at_commit():
    sa.event.listen(sa.engine.Engine, "commit", die)

def die_before_statement(number):
    left = iter(range(number - 1, -1, -1))
    sa.event.listen(sa.engine.Engine, "before_cursor_execute", lambda *_: next(left) or die())

STEPS = {
    "before authorise": lambda: die_before(Ledger, "authorise"),
    "after authorise": lambda: die_before(Ledger, "reserve"),
    "in the reserves' transaction": lambda: run_before(Ledger, "reserve", die_at_commit),
    "after both reserves": lambda: die_before(SystemNoise, "normal"),
    "in the middle of compute": lambda: die_after(SystemNoise, "normal"),
    "after compute": lambda: die_after(training, "train_locally"),
    "before commit": lambda: die_before(Ledger, "commit"),
    "in the commit's transaction": lambda: run_before(Ledger, "commit", die_at_commit),
    "after commit": lambda: die_after(Ledger, "commit"),
    "before the reply is sent": lambda: die_before(Reply, "records_of"),
}

def answer(order):
    grid = InlineGrid(app.app, [Path(order["site"])], {"experiment": sys.argv[1]})
    assume_identity(grid.run_id)
    arrays = initial_arrays(experiment, np.random.default_rng(0))
    content = Instruction(**order["instruction"]).to_records(arrays)
    (reply,) = grid.send_and_receive([Message(content=content, dst_node_id=1, message_type="train")])
    aside = Path(order["out"] + ".part")
    aside.write_bytes(Reply.from_records(reply.content).to_bytes())
    aside.rename(order["out"])

def fork(order):
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        if "at" in order:
            STEPS[order["at"]]()
        if "statement" in order:
            die_before_statement(order["statement"])
        answer(order)
        status = 0
    finally:
        os._exit(status)

app.warm_up()
answer(json.loads(sys.argv[2]))  # the imports and first calls of an exchange: every fork inherits them
sites._open.popitem()[1].ledger.close()
for line in sys.stdin:
    order = json.loads(line)
    started = time.perf_counter()
    child = fork(order)
    if "delay" in order:
        time.sleep(order["delay"])
        os.kill(child, signal.SIGKILL)  # not waited for yet, so the number is still its own
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([status, time.perf_counter() - started]), flush=True)
"""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the ledger's file holds of one request, read by a process that wrote none of it."""

    entries: list[Entry]
    stored: bytes | None
    request: str
    spent: dict[str, float]
    owed: dict[str, float]

    @property
    def charges(self) -> Counter[str]:
        """Reserves of the request by plan."""
        own = [entry for entry in self.entries if entry.request == self.request]
        return Counter(entry.plan for entry in own if entry.kind == "reserve")

    @property
    def phase(self) -> str:
        if self.stored is not None:
            return "after commit"
        return "between reserve and commit" if self.charges else "before reserve"


class Warm:
    """Asks sites through the warm process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._answers = 0
        command = [sys.executable, "-c", PROGRAM, EXPERIMENT.model_dump_json()]
        self.process = subprocess.Popen(
            [*command, json.dumps(self._order(self.new_site(), 1))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def new_site(self) -> Path:
        self._answers += 1
        place = self._folder / f"site-{self._answers}"
        place.mkdir()
        rows = [
            f"{row * 7 % 100},{row % 3 == 0:d},w1,{'holdout' if row % 4 == 0 else 'train'}"
            for row in range(80)
        ]
        (place / "rows.csv").write_text("\n".join(["level,ill,window,side", *rows]) + "\n")
        (place / "site.toml").write_text(SITE)
        return place / "site.toml"

    def ask(self, site: Path, step: int = 1, **kill: Any) -> tuple[bytes | None, int, float]:
        """The reply's bytes if one came, the process's exit status and its seconds."""
        order = self._order(site, step)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({**order, **kill}) + "\n")
        self.process.stdin.flush()
        status, seconds = json.loads(self.process.stdout.readline())
        out = Path(order["out"])
        return (out.read_bytes() if out.exists() else None), status, seconds

    def _order(self, site: Path, step: int) -> dict[str, Any]:
        self._answers += 1
        instruction = Instruction(run="r", step=step, windows=("w1",), evaluate=True)
        out = self._folder / f"reply-{self._answers}"
        return {"site": str(site), "instruction": asdict(instruction), "out": str(out)}


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    warm = Warm(tmp_path_factory.mktemp("crash"))
    with warm.process:
        yield warm
        warm.process.kill()


def look(site: Path, step: int = 1) -> Found:
    request = f"r/train/{step}"
    ledger = Site(read_site_config(site)).ledger
    try:
        entries = ledger.entries()
        assert ledger.verify() == len(entries)
        reserved = Counter(entry.plan for entry in entries if entry.kind == "reserve")
        owed = {
            plan.blocks[0]: compose(plan.events(reserved[plan.name]), 1e-4)[0] for plan in ledger.plans("r")
        }
        spent = {block: spent.epsilon for block, spent in ledger.spent_by_block().items()}
        return Found(
            entries=entries, stored=ledger.stored_reply(request), request=request, spent=spent, owed=owed
        )
    finally:
        ledger.close()


def ask_again_and_compare(warm: Warm, site: Path, step: int, left: bytes | None) -> tuple[str, Counter[str]]:
    """The phase in which the kill landed, and what is wrong after it: nothing, one hopes.

    `left` is the reply that the killed process still sent.
    """
    killed = look(site, step)
    reply, status, _ = warm.ask(site, step)
    assert status == 0
    answered = look(site, step)
    repeated, _, _ = warm.ask(site, step)
    wrong = Counter[str]()
    expected = killed.charges if killed.stored else killed.charges + Counter(["r/train", "r/evaluate"])
    commits = [
        entry for entry in answered.entries if entry.kind == "commit" and entry.request == f"r/train/{step}"
    ]
    wrong["charges lost"] += sum((expected - answered.charges).values())
    wrong["charges lost"] += answered.entries[: len(killed.entries)] != killed.entries
    wrong["charges lost"] += any(found.spent != pytest.approx(found.owed) for found in (killed, answered))
    wrong["charges lost"] += left is not None and not killed.charges
    wrong["charges doubled"] += sum((answered.charges - expected).values())
    wrong["charges doubled"] += look(site, step).entries != answered.entries
    wrong["replies uncommitted"] += len(commits) != 1 or (left is not None and killed.stored is None)
    replies = {left, killed.stored, reply, answered.stored, repeated} - {None}
    wrong["replies that differ"] += len(replies) - 1
    return killed.phase, +wrong


@pytest.mark.parametrize(
    ("step", "phase", "charged"),
    [
        ("before authorise", "before reserve", 0),
        ("after authorise", "before reserve", 0),
        ("in the reserves' transaction", "before reserve", 0),
        ("after both reserves", "between reserve and commit", 2),
        ("in the middle of compute", "between reserve and commit", 2),
        ("after compute", "between reserve and commit", 2),
        ("before commit", "between reserve and commit", 2),
        ("in the commit's transaction", "between reserve and commit", 2),
        ("after commit", "after commit", 2),
        ("before the reply is sent", "after commit", 2),
    ],
)
def test_a_kill_at_a_step_loses_and_doubles_nothing(warm: Warm, step: str, phase: str, charged: int) -> None:
    site = warm.new_site()
    left, status, _ = warm.ask(site, at=step)
    assert (left, status) == (None, -9)
    assert look(site).charges.total() == charged
    assert ask_again_and_compare(warm, site, 1, left) == (phase, Counter())


def test_a_kill_before_any_sql_statement_loses_and_doubles_nothing(warm: Warm) -> None:
    """What comes after the last one lies on disk as before the next: all states of the file are met."""
    phases, status, statement = Counter[str](), -9, 0
    while status == -9:
        statement += 1
        site = warm.new_site()
        left, status, _ = warm.ask(site, statement=statement)
        phase, wrong = ask_again_and_compare(warm, site, 1, left)
        assert wrong == Counter(), f"statement {statement}"
        phases[phase] += 1
    print(f"{statement - 1} SQL statements, killed before each: {dict(phases)}")
    assert status == 0
    assert len(phases) == 3


def test_kills_at_random_moments_lose_and_double_nothing(warm: Warm) -> None:
    rng = random.Random(20261124)
    whole = sorted(warm.ask(warm.new_site())[2] for _ in range(5))[2]
    phases, wrong = Counter[str](), Counter[str]()
    for kill in range(KILLS):
        if kill % REQUESTS == 0:
            site = warm.new_site()
        step = kill % REQUESTS + 1
        left, _, _ = warm.ask(site, step, delay=rng.uniform(0, 1.1 * whole))
        phase, found = ask_again_and_compare(warm, site, step, left)
        phases[phase] += 1
        wrong += found
    lost, doubled = wrong["charges lost"], wrong["charges doubled"]
    print(f"{KILLS} kills in exchanges of {whole:.3f} s: {dict(phases)}; charges {lost=}, {doubled=}")
    assert wrong == Counter()
    assert phases.total() == KILLS
    assert len(phases) >= 2, "the kills landed in one phase: they show nothing"
