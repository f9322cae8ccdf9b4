"""Everything of Tidegate that the attacks touch, in one place.

The attacks speak raw records, as a program of somebody else would. What they need of Tidegate is
its two entries (a site's ClientApp and the server's loops), a site that is laid out on disk, the
site's own books, and the command line. Whoever moves or renames one of these changes this file.
"""

from __future__ import annotations

import atexit
import functools
import io
import json
import shutil
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy
import typer
from flwr.app import Message
from flwr.serverapp import Grid

from clients.app import warm_up
from clients.code import installed_code
from clients.keys import make_node_key
from clients.line.agent import serve
from clients.line.packing import Bundle, Work, pack
from clients.mechanisms.drawing import ReportQueue, report_queue
from clients.site import close_site, open_site
from contract.experiment import Experiment
from contract.models import parameter_shapes
from experiments.audit.hostile_server import CARD_COLUMNS, answer, base_experiment
from experiments.cli import main as tidegate
from monitoring.binning import feature_bins
from server.cycle import run_cycle
from server.jobs.job import Job
from server.jobs.memory import RunMemory
from server.jobs.training_job import Services
from server.line.flower import assume_identity
from server.rounds import Training
from server.rounds import train as train_rounds
from server.state import database
from server.state.storage import open_state

__all__ = [
    "WORDS",
    "Served",
    "answer",
    "assume_identity",
    "base_experiment",
    "check_drift",
    "command",
    "digest",
    "drift_cells",
    "engines_kept",
    "entries",
    "forget",
    "lay_begun_site",
    "lay_site",
    "model_shapes",
    "reports_held_back",
    "rows_text",
    "serve_agent",
    "spent",
    "states",
    "train",
    "warm_up",
    "write_drift_report",
]

Json = dict[str, Any]

WORDS = frozenset({"input", "card", "policy", "approval", "budget", "ledger", "source", "failed"})
"""The words with which a site refuses; none of them says anything of its rows."""

COLUMNS = ("level", "ward", "ill", "window", "patient", "side", "secret")
"""Of every site here. The card offers the first three; `secret` is on no card."""


def lay_site(
    folder: Path,
    rows: str | bytes,
    *,
    cap: float = 2.0,
    stated_rows: int = 60,
    policy: str = "",
    person: bool = False,
    delta_cap: float = 1e-5,
) -> Path:
    """Lay a site out on disk; return its site.toml.

    Args:
        folder: made for it.
        rows: the text of its CSV file.
        cap: ε that each of its data blocks may spend.
        stated_rows: public.
        policy: further lines of that section.
        person: whether `patient` is a person, of whom a hash says on which side; if not, the column `side`
            says so of each row.
        delta_cap: the δ of the cap.
    """
    folder.mkdir(parents=True)
    (folder / "rows.csv").write_bytes(rows if isinstance(rows, bytes) else rows.encode())
    (folder / "site.toml").write_text(
        f'name = "north"\nstated_rows = {stated_rows}\n'
        f'[data]\nkind = "csv"\npath = "rows.csv"\n'
        f"[policy]\nepsilon_cap = {cap!r}\ndelta_cap = {delta_cap!r}\n{policy}\n"
        f"{_card(person)}"
    )
    shutil.copytree(_keys(), folder / "keys")
    return folder / "site.toml"


def lay_begun_site(folder: Path, rows: str, *, cap: float) -> Path:
    """As `lay_site`, with a ledger that has begun and is empty: a copy, for beginning one takes longer."""
    shutil.copytree(_begun(cap), folder)
    (folder / "rows.csv").write_text(rows, encoding="utf-8")
    return folder / "site.toml"


@functools.cache
def _begun(cap: float) -> Path:
    site = lay_site(_kept() / f"begun-{cap}", "", cap=cap)
    open_site(site)
    close_site(site)
    return site.parent


def _card(person: bool) -> str:
    whose = 'person = "patient"\n' if person else ""
    side = "" if person else '[card.holdout]\ncolumn = "side"\n'
    return f'[card]\n{whose}[card.time]\ncolumn = "window"\n{side}{CARD_COLUMNS}'


def rows_text(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as the text of a CSV file."""
    lines = [",".join(COLUMNS)]
    lines += [",".join(str(row[name]) for name in COLUMNS) for row in rows]
    return "\n".join(lines) + "\n"


@functools.cache
def _kept() -> Path:
    """What is made once, until this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="tidegate-adversary-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def _keys() -> Path:
    folder = _kept() / "keys"
    make_node_key(folder)
    return folder


@contextmanager
def engines_kept() -> Iterator[None]:
    """Databases that come one after the other at the same path have one SQLAlchemy engine.

    An engine compiles each of its statements once. A new one for each example compiles them all again, which
    takes longer than the statements. Connections are closed with each database all the same.
    """
    made: dict[tuple[str, str], sqlalchemy.Engine] = {}
    make = sqlalchemy.create_engine

    def kept(url: Any, **options: Any) -> sqlalchemy.Engine:
        name = (str(url), repr(options))
        if name not in made:
            made[name] = make(url, **options)
        return made[name]

    with pytest.MonkeyPatch.context() as patch:
        for module in (sqlalchemy, database):
            patch.setattr(module, "create_engine", kept)
        yield


# -- the site ----------------------------------------------------------------


def forget(site: Path) -> None:
    """What the end of the process would do."""
    close_site(site)


def entries(site: Path) -> list[Json]:
    """The lines of the site's ledger, oldest first."""
    return [{**vars(entry), "body": dict(entry.body)} for entry in open_site(site).ledger.entries()]


def spent(site: Path) -> float:
    """ε that the worst data block has spent, by the site's own account."""
    return float(open_site(site).ledger.spent().epsilon)


def digest(experiment: Json) -> str:
    """What the administrator enters to approve an experiment."""
    return Experiment.model_validate_json(json.dumps(experiment)).digest


@contextmanager
def reports_held_back(take: Callable[[Any], None]) -> Iterator[Callable[[list[Any]], None]]:
    """Drift reports are given to `take` instead of being drawn; gives what draws some of them after all."""
    draw = ReportQueue.add

    def really(held: list[Any]) -> None:
        for drawing in held:
            draw(report_queue(), drawing)
        report_queue().settle()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReportQueue, "add", lambda _, drawing: take(drawing))
        yield really


def write_drift_report(path: Path, values: Sequence[str], categories: Sequence[str]) -> str:
    """The local drift report of one categorical column, as HTML."""
    import pandas as pd

    from contract.experiment import CategoricalFeature, Drift, Label, Task
    from monitoring.report import write_report

    column = CategoricalFeature(name="ward", kind="categorical", categories=tuple(categories))
    task = Task(label=Label(column="ill"), features=(column,))
    frame = pd.DataFrame({"ward": list(values), "ill": ["0", "1"] * (len(values) // 2)})
    write_report(frame, frame, task=task, drift=Drift(), path=path, rng=np.random.default_rng(0))
    return path.read_text(encoding="utf-8")


# -- the agent ---------------------------------------------------------------


@dataclass(frozen=True)
class Served:
    """What the agent sent for one message: the reply, and what it said beside it."""

    reply: Any
    beside: tuple[object, ...]


def serve_agent(
    contents: Sequence[tuple[str, Mapping[str, bytes]]], answers: Callable[[Any], Message]
) -> list[Served]:
    """Have the real agent answer messages that come as raw objects; what it sent, in order.

    Args:
        contents: of each message its id, and its objects by id.
        answers: stands for the worker.
    """
    line: Any = _Line(contents)
    serve(line, lambda work: pack(answers(work), to=work.message), line.stop)
    served: list[Served] = line.served
    return served


class _Line:
    """A connection that brings some messages and then stops the agent."""

    def __init__(self, contents: Sequence[tuple[str, Mapping[str, bytes]]]) -> None:
        self._bundle = Bundle(files=installed_code(), sha256="ab" * 32)
        self._waiting = [
            Work(
                run=number,
                message_id=message_id,
                contents=objects,
                node_id=1,
                node_config={},
                run_config={},
                made_at=0.0,
                request=f"{number}/train/1",
            )
            for number, (message_id, objects) in enumerate(contents, start=1)
        ]
        self.stop, self.served = threading.Event(), list[Served]()
        self.node_id = 1

    def receive(self, keep: Callable[[Any], None] = lambda _: None) -> Any:
        if not self._waiting:
            self.stop.set()
            return None
        work = self._waiting.pop(0)
        keep(work)
        return work

    def bundle(self, run: int) -> Any:
        del run
        return self._bundle

    def send(self, reply: Any, *beside: object, **named: object) -> None:
        self.served.append(Served(reply, (*beside, *named.values())))


# -- the server ---------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """What a run of `server.rounds` ended with."""

    arrays: dict[str, np.ndarray[Any, Any]]
    counted: dict[str, int]
    failures: list[dict[str, str]]


@functools.cache
def _empty_state() -> Path:
    path = _kept() / "empty.db"
    open_state(f"sqlite:///{path}").close()
    return path


@contextmanager
def states(folder: Path) -> Iterator[Any]:
    """A new state database: a copy of an empty one, for its migrations take a while."""
    folder.mkdir(parents=True, exist_ok=True)
    copy = shutil.copy(_empty_state(), folder / "state.db")
    with open_state(f"sqlite:///{copy}") as state:
        yield state


_FEDERATION = "home"


class _NoMlflow:
    """Stands for MLflow, which these runs do not need."""


def train(experiment: Json, grid: Grid, names: Mapping[int, str], state: Any, *, run: str = "r") -> Trained:
    """One training run of the real server over this grid."""
    plan = Experiment.model_validate_json(json.dumps(experiment))
    _admit(names, state)
    memory = RunMemory(state, admitted=lambda: dict(names), federation=_FEDERATION)
    if state.run(run) is None:
        state.start_run(run, experiment=plan, job="train", trigger="test", code_hash="c0de")
    result = train_rounds(Training(run=run, experiment=plan), grid, memory, np.random.default_rng(0))
    failures = [dict(record.failures) for record in state.rounds(run)]
    return Trained(dict(result.arrays), dict(result.counted), failures)


def check_drift(
    experiment: Json, grid: Grid, names: Mapping[int, str], state: Any, *, window: str
) -> tuple[str, Json, str]:
    """One closed window through the real loop: the run's status, its result, and its error."""
    plan = Experiment.model_validate_json(json.dumps(experiment))
    name = plan.name
    _admit(names, state)
    if not state.decisions(name):
        state.start_run("first", experiment=plan, job="train", trigger="test", code_hash="c0de")
        state.link_run("first", model_version=1, result=json.dumps({"windows": ["w1"]}))
        state.record_decision(
            name, window="w1", kind="promote", subject="version 1", by="policy", reason="test"
        )
    registry: Any = _NoMlflow()
    services = Services(
        grid=grid, state=state, registry=registry, rng=np.random.default_rng(1), federation=_FEDERATION
    )
    run = f"cycle-{window}"
    try:
        run_cycle(Job(kind="cycle", run=run, experiment=plan, window=window), services)
    except Exception:  # what matters is what the state says of it
        traceback.print_exc()
    record = state.run(run)
    return record.status, json.loads(record.result or "{}"), record.error


def _admit(names: Mapping[int, str], state: Any) -> None:
    """As the operator does, whose word it is which node is which site."""
    known = {site.name for site in state.admitted_sites(_FEDERATION)}
    for node, name in names.items():
        if name not in known:
            state.admit_site(name, federation=_FEDERATION, node_id=node, key="k")


def drift_cells(experiment: Json) -> dict[str, int]:
    """How many counts a drift check has of each feature, and of the label."""
    plan = Experiment.model_validate_json(json.dumps(experiment))
    return {item.feature: len(item.cells) for item in feature_bins(plan.task, plan.drift.bins)}


def model_shapes(experiment: Json) -> dict[str, tuple[int, ...]]:
    """Of the experiment's parameters, by name."""
    plan = Experiment.model_validate_json(json.dumps(experiment))
    task = plan.task
    return parameter_shapes(plan.model, inputs=task.width, classes=len(task.label.classes))


# -- the command line -----------------------------------------------------------


@functools.cache
def _commands() -> Any:
    """Every command of `tidegate`: to put them together at each call takes longer than most of them run."""
    return typer.main.get_command(tidegate.app)


def command(*arguments: str) -> tuple[int, str]:
    """`tidegate …` in this process: its exit code, and what a terminal would get.

    What it prints goes through UTF-8, as on a terminal; an exception that comes out of it is a 70.
    """
    printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    before, sys.argv = sys.argv, ["tidegate", *arguments]
    code = 0
    try:
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), redirect_stderr(printed):
            patch.setattr(tidegate, "app", _commands())
            tidegate.main()
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    except Exception:
        code = 70
        traceback.print_exc()
    finally:
        sys.argv = before
    buffer: Any = printed.buffer
    return code, buffer.getvalue().decode()
