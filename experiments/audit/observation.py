"""What the server of one run sees of a site, through the path that every run takes.

Rows are written to a file, a site is laid out around it, and messages go to the
ClientApp: source, preprocessing, plan, gate, ledger, sampler, clipping, noise and
reply are those of a real run. The server is the worst that the guarantee allows
for: it knows every row but the canaries', and sends a model at which each
canary's gradient is longer than the clipping norm.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from contract.errors import AuditError
from contract.experiment import Experiment, Label, Model, NumericFeature, Task
from contract.messages import Instruction, Reply
from contract.quantization import parameters
from contract.releases import Spent

if TYPE_CHECKING:
    from clients.ledger.chain import Ledger

__all__ = ["Rows", "View", "audited", "lay_out", "observe", "stated_noise", "temporary_folder", "train"]

Floats = npt.NDArray[np.float64]

_STILL = 1e-4
"""The learning rate: the model hardly moves, so that the server knows each row's gradient."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows as they lie at a site: `values` of shape (rows, features), labels as the place of
    their class, and whose they are."""

    values: Floats
    labels: npt.NDArray[np.int64]
    person: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class View:
    """What the server knows of one site after a run.

    Attributes:
        sums: each round's noisy sum of clipped gradients, shape (rounds, features + 1), the
            bias last, in units of the noise's stated standard deviation in one step.
        stated: what the site's reply says that the run spent.
        noise_multiplier: as the site's plan states it.
    """

    sums: Floats
    stated: Spent
    noise_multiplier: float


def audited(
    experiment: Experiment, *, features: int, rounds: int, epsilon: float, low: float = -1.0
) -> Experiment:
    """The experiment's privacy and local steps, on a linear model of `features` numbers in [low, 1]."""
    numbers = [
        NumericFeature(name=f"x{place}", kind="numeric", low=low, high=1.0) for place in range(features)
    ]
    person = experiment.privacy.unit == "person"
    task = Task(
        label=Label(column="label"),
        features=tuple(numbers),
        person="person" if person else None,
        scaling="unit" if low == 0 else "symmetric",
    )
    strategy = experiment.strategy.model_copy(update={"rounds": rounds, "learning_rate": _STILL})
    privacy = experiment.privacy.model_copy(update={"epsilon": epsilon, "runs": 1})
    return Experiment(name="audit", task=task, model=Model(), strategy=strategy, privacy=privacy)


def observe(experiment: Experiment, sites: Sequence[Rows], folder: Path, run: str) -> list[View]:
    """Lay the sites out in the new folder `folder`, and run all rounds of `run`.

    Raises:
        AuditError: a site refused to take part.
    """
    from clients.site import close_site, open_site

    paths = [lay_out(rows, folder / f"site-{number}", experiment) for number, rows in enumerate(sites)]
    replies = train(experiment, paths, _model(experiment), run)
    views = []
    for path, answers in zip(paths, zip(*replies, strict=True), strict=True):
        noise_multiplier = stated_noise(open_site(path).ledger)
        stated_rows = open_site(path).config.stated_rows
        sums = np.array([_sum(answer, experiment, stated_rows) for answer in answers])
        deviation = noise_multiplier * experiment.privacy.clipping_norm * experiment.privacy.rows_per_person
        views.append(
            View(
                sums=sums / deviation,
                stated=answers[-1].spent_in_run,
                noise_multiplier=noise_multiplier,
            )
        )
        close_site(path)
    return views


def train(
    experiment: Experiment, paths: Sequence[Path], arrays: Mapping[str, npt.NDArray[np.float32]], run: str
) -> list[list[Reply]]:
    """What laid-out sites answer, by round and site, when every round they are to train the same model.

    Raises:
        AuditError: a site refused to take part.
    """
    from flwr.app import Message

    from clients.app import app
    from experiments.runtimes.inline import InlineGrid
    from server.line.flower import assume_identity

    grid = InlineGrid(app, paths, {"experiment": experiment.model_dump_json()})
    assume_identity(grid.run_id)
    rounds = experiment.strategy.rounds
    replies: list[list[Reply]] = []
    for number in range(1, rounds + 1):
        content = Instruction(run=run, step=number).to_records(arrays)
        messages = [Message(content, dst_node_id=node, message_type="train") for node in grid.get_node_ids()]
        replies.append([_reply(message) for message in grid.send_and_receive(messages)])
    return replies


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """In memory where the system has that: the sites' ledgers wait for the disk at every step."""
    memory = Path("/dev/shm")  # noqa: S108 - a fresh folder in it, of this user alone
    return tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None)


def lay_out(rows: Rows, folder: Path, experiment: Experiment) -> Path:
    """A site in the new folder `folder` that trains on these rows; the path of its site.toml."""
    path = folder / "site.toml"
    folder.mkdir(parents=True)
    task = experiment.task
    names = [feature.name for feature in task.features]
    lines = [",".join([*names, task.label.column, "person", "side"])]
    for values, label, person in zip(rows.values, rows.labels, rows.person, strict=True):
        named = task.label.classes[label]
        lines.append(",".join([*(f"{value:g}" for value in values), named, str(person), "train"]))
    (folder / "rows.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    path.write_text(
        f'name = "{folder.name}"\nstated_rows = {max(1, len(rows.labels))}\n'
        '[data]\nkind = "csv"\npath = "rows.csv"\n'
        f"{_card(experiment)}"
        f"[policy]\nepsilon_cap = 1e4\ndelta_cap = {experiment.privacy.delta!r}\n"
        f"require_private = {str(experiment.privacy.private).lower()}\n",
        encoding="utf-8",
    )
    return path


def _card(experiment: Experiment) -> str:
    """Persons are all on the training side: their keyed hash would hold some out."""
    task = experiment.task
    person = experiment.privacy.unit == "person"
    side = 'person = "person"\nholdout = { share = 0.01 }' if person else 'holdout = { column = "side" }'
    columns = [
        _column(feature.name, () if isinstance(feature, NumericFeature) else feature.categories)
        for feature in task.features
    ]
    return f"[card]\n{side}\n{''.join(columns)}{_column(task.label.column, task.label.classes)}"


def _column(name: str, categories: Sequence[str]) -> str:
    """Of numbers, where there are no categories."""
    kind = f'"categorical"\ncategories = {json.dumps(list(categories))}' if categories else '"numeric"'
    return f'[[card.columns]]\nname = "{name}"\nkind = {kind}\n'


def _model(experiment: Experiment) -> dict[str, npt.NDArray[np.float32]]:
    from contract.models import initial_arrays

    return initial_arrays(experiment, np.random.default_rng(0))  # zeros: every row scores one half


def stated_noise(ledger: Ledger) -> float:
    """Of the plan that was entered last."""
    plans = [entry.body for entry in ledger.entries() if entry.kind == "authorise"]
    return float(plans[-1]["noise_multiplier"])


def _reply(message: Any) -> Reply:
    if message.has_error():
        raise AuditError(
            f"a laid-out site answered '{message.error.reason}'",
            remedy="Read the site's own line above; nothing is changed at your own sites",
        )
    return Reply.from_records(message.content)


def _sum(reply: Reply, experiment: Experiment, stated_rows: int) -> Floats:
    """The sum that the model's step was made of."""
    assert reply.update is not None  # it is the answer to `train`  # noqa: S101
    model = parameters(reply.update, _model(experiment))  # from zero, so that it is the step
    step = np.concatenate([np.ravel(array).astype(np.float64) for array in model.values()])
    expected = max(1, round(stated_rows * experiment.privacy.sampling_rate))
    scale: float = expected / experiment.strategy.learning_rate
    if not np.isfinite(step).all() or not math.isfinite(scale):
        raise AuditError("a site of the audit released numbers that are not finite")
    return -step * scale
