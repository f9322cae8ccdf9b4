"""Why an update needs noise: patients' records and images, taken back out of one.

    python -m experiments.studies.gradient_inversion [--out FOLDER] [--json]

A site with one row, or four, trains one round, and the server tries to reconstruct the
rows from the update alone (`experiments.studies.inversion_attack`). What is attacked has gone
the whole way of a real run: a laid-out site, the ClientApp, ledger and gate
(`experiments.audit.observation.train`); not private, and private at three ε. "Clipped,
no noise" is no mode of a site: the site's own training is called past its gate.

Two kinds of rows: patients of the Cleveland hospital (the shipped `heart-disease.toml`)
and handwritten digits of 8 × 8 pixels. The attack is set beside the best guess of who
has seen no update: the middle of each public range. Figures are means over 5
repeats of images and 10 or 20 of patients, each with rows and a first model of its own,
with the standard deviation between repeats. Two rows of one class are told apart in the attacker's favour.

A picture, `gradient-inversion.png`, is written into FOLDER, by default
`gradient-inversion/` where the command is run.

That an attack fails proves nothing. The guarantee is ε, and `tidegate audit` shows how much
of it an attack on membership, which needs to learn far less, can use up.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from contract.errors import InputError, TidegateError
from contract.experiment import (
    CategoricalFeature,
    Experiment,
    Label,
    Model,
    NumericFeature,
    Privacy,
    Task,
)
from contract.quantization import parameters
from experiments.audit.observation import Rows, lay_out, temporary_folder, train
from experiments.studies.inversion_attack import Seen, is_flag, public_prior, reconstruct

if TYPE_CHECKING:
    import pandas as pd

    from contract.messages import Reply

__all__ = [
    "RELEASES",
    "Attempt",
    "Figures",
    "Release",
    "Setting",
    "conclusion",
    "decoded",
    "digits",
    "heart",
    "main",
    "recovered",
    "run_study",
    "settings",
    "summarise",
]

Floats = npt.NDArray[np.float64]
Progress = Callable[[int], None]

_CLOSE = 0.05
"""A number counts as recovered within this share of its public range."""
_HARM = 0.1
"""An update gives rows away if the attack's squared error is lower than the guess's by more than this."""
_FINEST = 1e-10
"""No squared error counts as less: updates are of single precision."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """How an update is made: exact, clipped alone, or private at an ε."""

    name: str
    epsilon: float | None = None
    clipped: bool = True


NOT_PRIVATE = Release(name="not private", clipped=False)
CLIPPED = Release(name="clipped, no noise")
RELEASES = (
    NOT_PRIVATE,
    CLIPPED,
    *(Release(name=f"ε = {epsilon:g}", epsilon=epsilon) for epsilon in (8.0, 1.0, 0.1)),
)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Whose rows are attacked, and how many at once.

    Attributes:
        name: of the setting.
        experiment: its task and model; its ε is replaced.
        pool: the rows of which each repeat takes some.
        rows: how many the site holds.
        repeats: of each attack; more where a row has few features, so that chance counts for more.
    """

    name: str
    experiment: Experiment
    pool: pd.DataFrame
    rows: int
    repeats: int

    @property
    def is_image(self) -> bool:
        """Whether a row is an image of 8 × 8 pixels."""
        return self.experiment.task.width == 64


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attack: the rows as the site's model saw them, and what the attacker made of the update.

    Attributes:
        setting, release, repeat: what was attacked.
        rows, found: model inputs in [0, 1], shape (rows, width).
        stated: the ε of the reply, as the site's ledger states it; None if it was not private.
    """

    setting: Setting
    release: Release
    repeat: int
    rows: Floats
    found: Floats
    stated: float | None

    @property
    def squared_error(self) -> float:
        """Mean over all model inputs of all rows."""
        return _squared_error(self.rows, self.found)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """How attacks on one kind of update came out, over the repeats: mean and standard deviation.

    Attributes:
        setting, release: what was attacked; `release` is empty for the guess from public ranges alone.
        recovered: share of features within 5 % of their range, or of the right category or flag.
        squared_error: mean squared error of the model's inputs, which lie in [0, 1].
        psnr: peak signal-to-noise ratio of that mean, in dB.
        correlation: Pearson's, of what was found with the rows, each less the public mean; NaN for the guess.
        gain: by how much the squared error is lower than the guess's, as a share of it.
        epsilon: the largest that a ledger stated; None if it was not private.
    """

    setting: str
    release: str
    recovered: tuple[float, float]
    squared_error: tuple[float, float]
    psnr: float
    correlation: tuple[float, float]
    gain: float
    epsilon: float | None


def settings() -> list[Setting]:
    """The six of the study.

    Raises:
        DataError: a data set's file is not to be had.
    """
    return [
        heart("linear", 1),
        heart("mlp", 4),
        digits("mlp", 1),
        digits("mlp", 4),
        digits("cnn", 1),
        digits("cnn", 4),
    ]


_MODELS = {"linear": "linear model", "mlp": "MLP", "cnn": "CNN"}


def _name(kind: str, rows: int, one: str) -> str:
    return f"{_MODELS[kind]}, {rows} {one}{'s' if rows > 1 else ''}"


def heart(kind: str, rows: int) -> Setting:
    """Patients of the Cleveland hospital, in the task of the shipped experiment."""
    from experiments.data.datasets import dataset_sites
    from terminal.experiment_files import read_experiment

    shipped = read_experiment(Path(__file__).parents[1] / "heart-disease.toml")
    return Setting(
        name=_name(kind, rows, "patient"),
        experiment=shipped.model_copy(update={"model": Model.model_validate({"kind": kind})}),
        pool=dataset_sites("heart-disease")[0].rows,
        rows=rows,
        repeats=20 if rows == 1 else 10,
    )


def digits(kind: str, rows: int) -> Setting:
    """Handwritten digits; a pixel is a number from 0 to 16."""
    from experiments.data.datasets import dataset_sites

    pixels = [
        NumericFeature(name=f"p{row}{column}", kind="numeric", low=0, high=16)
        for row in range(8)
        for column in range(8)
    ]
    label = Label(column="digit", classes=tuple("0123456789"))
    image = (1, 8, 8) if kind == "cnn" else None
    return Setting(
        name=_name(kind, rows, "image"),
        experiment=Experiment(
            name="digits",
            task=Task(label=label, features=tuple(pixels)),
            model=Model.model_validate({"kind": kind, "image": image}),
        ),
        pool=dataset_sites("digits")[0].rows,
        rows=rows,
        repeats=5,
    )


def run_study(
    chosen: Sequence[Setting],
    releases: Sequence[Release] = RELEASES,
    *,
    seed: int = 0,
    progress: Progress = lambda _done: None,
) -> list[Attempt]:
    """Attack every kind of update in every setting; within a repeat, of the same rows and model.

    Args:
        chosen: the settings.
        releases: the kinds of update.
        seed: of rows, models and the attacker's starts; the noise of updates is the system's.
        progress: is told how many repeats are done, of all settings together.
    """
    attempts: list[Attempt] = []
    done = 0
    for number, setting in enumerate(chosen):
        for repeat in range(setting.repeats):
            seeds = np.random.SeedSequence([seed, number, repeat]).spawn(3)
            rows = _drawn(setting, np.random.default_rng(seeds[0]))
            attempts += [_attack(setting, rows, release, repeat, seeds[1:]) for release in releases]
            done += 1
            progress(done)
    return attempts


def _drawn(setting: Setting, rng: np.random.Generator) -> Rows:
    """Rows of as many classes as there are, each class as often as the others."""
    task = setting.experiment.task
    classes = rng.permutation(len(task.label.classes))
    labels = np.sort(np.resize(classes, setting.rows))
    of_class = setting.pool[task.label.column].astype(str)
    places: list[int] = []
    for label in np.unique(labels):
        pool = np.flatnonzero(of_class == task.label.classes[label])
        places += rng.choice(pool, int((labels == label).sum()), replace=False).tolist()
    values = setting.pool[[feature.name for feature in task.features]].iloc[places]
    return Rows(values=values.to_numpy(np.float64), labels=labels, person=np.arange(setting.rows))


def _attack(
    setting: Setting,
    rows: Rows,
    release: Release,
    repeat: int,
    seeds: Sequence[np.random.SeedSequence],
) -> Attempt:
    """`seeds` of the first model and of the attacker's starts."""
    from clients.ledger.accounting import noise_multiplier
    from clients.site import close_site, open_site
    from contract.models import initial_arrays

    experiment = _released_as(setting.experiment, release)
    privacy = experiment.privacy
    sent = initial_arrays(experiment, np.random.default_rng(seeds[0]))
    with temporary_folder() as folder:
        path = lay_out(rows, Path(folder) / "site", experiment)
        table = open_site(path).table(experiment, (), holdout=False)
        if release == CLIPPED:
            released, stated = _clipped_alone(experiment, path, sent), None
        else:
            ((reply,),) = train(experiment, [path], sent, "run")
            released, stated = _update(reply, sent), reply.spent_in_run.epsilon if reply.private else None
        close_site(path)
    deviation = 0.0
    if release.epsilon is not None:
        multiplier = noise_multiplier(
            epsilon=release.epsilon, delta=privacy.delta, sampling_rate=1.0, steps=1
        )
        deviation = multiplier * privacy.clipping_norm
    seen = Seen.of(
        experiment,
        sent,
        released,
        setting.rows,
        clipping_norm=privacy.clipping_norm if release.clipped else None,
        deviation=deviation,
    )
    found = reconstruct(experiment, sent, seen, table.labels, np.random.default_rng(seeds[1]))
    truth = table.features.astype(np.float64)
    return Attempt(
        setting=setting,
        release=release,
        repeat=repeat,
        rows=truth,
        found=_paired(truth, found, table.labels),
        stated=stated,
    )


def _released_as(experiment: Experiment, release: Release) -> Experiment:
    """One round of one step on all rows, released so."""
    strategy = {"rounds": 1, "local_steps": 1}
    privacy: dict[str, object] = {"private": release.clipped, "sampling_rate": 1.0}
    if release.epsilon is not None:
        privacy["epsilon"] = release.epsilon
    return experiment.model_copy(
        update={
            "strategy": experiment.strategy.model_copy(update=strategy),
            "privacy": Privacy.model_validate(experiment.privacy.model_dump() | privacy),
        }
    )


def _update(reply: Reply, sent: Mapping[str, npt.NDArray[np.float32]]) -> dict[str, npt.NDArray[np.float32]]:
    assert reply.update is not None  # it is the answer to `train`  # noqa: S101
    return parameters(reply.update, sent)


def _clipped_alone(
    experiment: Experiment, path: Path, sent: dict[str, npt.NDArray[np.float32]]
) -> dict[str, npt.NDArray[np.float32]]:
    """The site's private training without its noise: past the gate, which lets no such update out."""
    from clients.mechanisms.noise import NoNoise
    from clients.mechanisms.training import LocalSteps, train_locally
    from clients.site import open_site

    site = open_site(path)
    steps = LocalSteps(experiment=experiment, stated_rows=site.config.stated_rows, noise_multiplier=0.0)
    update = train_locally(sent, site.table(experiment, (), holdout=False), steps, NoNoise())
    return {name: np.asarray(array, np.float32) for name, array in update.arrays.items()}


def _paired(truth: Floats, found: Floats, labels: npt.NDArray[np.int64]) -> Floats:
    """What was found, in the order of the rows that it is most like; the attacker knows each row's class."""
    from scipy.optimize import linear_sum_assignment

    cost = np.square(truth[:, None] - found[None]).sum(axis=2)
    cost[labels[:, None] != labels[None]] = np.inf
    paired: Floats = found[linear_sum_assignment(cost)[1]]
    return paired


def decoded(task: Task, inputs: Floats) -> list[float | str]:
    """One row of model inputs as the values of its features: numbers, and names of categories."""
    values: list[float | str] = []
    place = 0
    for feature in task.features:
        if isinstance(feature, CategoricalFeature):
            end = place + len(feature.categories)
            values.append(feature.categories[int(np.argmax(inputs[place:end]))])
        else:
            end = place + 1
            share = float(np.round(inputs[place])) if is_flag(feature) else float(inputs[place])
            values.append(feature.low + share * (feature.high - feature.low))
        place = end
    return values


def recovered(task: Task, row: Floats, found: Floats) -> list[bool]:
    """Of each feature, whether its value was found: within 5 % of its range, or its category or flag."""
    right = []
    for feature, true, guess in zip(task.features, decoded(task, row), decoded(task, found), strict=True):
        if isinstance(feature, NumericFeature) and not is_flag(feature):
            right.append(abs(float(guess) - float(true)) <= _CLOSE * (feature.high - feature.low))
        else:
            right.append(guess == true)
    return right


def summarise(attempts: Sequence[Attempt]) -> list[Figures]:
    """For each setting the guess from public ranges alone, and each kind of update."""
    summary = []
    for name in dict.fromkeys(attempt.setting.name for attempt in attempts):
        of_setting = [attempt for attempt in attempts if attempt.setting.name == name]
        releases = dict.fromkeys(attempt.release for attempt in of_setting)
        first = [attempt for attempt in of_setting if attempt.release == next(iter(releases))]
        guesses = [_guess(attempt) for attempt in first]
        error = float(np.mean([figures[1] for figures in guesses]))
        summary.append(_figures(name, "", guesses, error, None))
        for release in releases:
            made = [attempt for attempt in of_setting if attempt.release == release]
            stated = [attempt.stated for attempt in made if attempt.stated is not None]
            found = [_scores(attempt) for attempt in made]
            summary.append(_figures(name, release.name, found, error, max(stated, default=None)))
    return summary


def _scores(attempt: Attempt) -> tuple[float, float, float]:
    """Share recovered, squared error and correlation of one attack."""
    task = attempt.setting.experiment.task
    pairs = list(zip(attempt.rows, attempt.found, strict=True))
    right = np.mean([recovered(task, row, found) for row, found in pairs])
    mean = public_prior(task)[0]
    correlations = [np.corrcoef(row - mean, found - mean)[0, 1] for row, found in pairs]
    return float(right), attempt.squared_error, float(np.mean(correlations))


def _guess(attempt: Attempt) -> tuple[float, float, float]:
    """The same of who has seen no update; of categories and flags the expected share, for any is as good."""
    task = attempt.setting.experiment.task
    mean = public_prior(task)[0]
    shares = np.array([recovered(task, row, mean) for row in attempt.rows], dtype=np.float64)
    for place, feature in enumerate(task.features):
        if isinstance(feature, CategoricalFeature):
            shares[:, place] = 1 / len(feature.categories)
        elif is_flag(feature):
            shares[:, place] = 1 / 2
    return float(shares.mean()), _squared_error(attempt.rows, mean), math.nan


def _squared_error(rows: Floats, found: Floats) -> float:
    return float(np.square(rows - found).mean())


def _figures(
    setting: str,
    release: str,
    scores: Sequence[tuple[float, float, float]],
    guess_error: float,
    epsilon: float | None,
) -> Figures:
    right, errors, correlations = zip(*scores, strict=True)
    error = float(np.mean(errors))
    return Figures(
        setting=setting,
        release=release,
        recovered=_spread(right),
        squared_error=_spread(errors),
        psnr=-10 * math.log10(max(error, _FINEST)),
        correlation=_spread(correlations),
        gain=1 - error / guess_error,
        epsilon=epsilon,
    )


def _spread(values: Sequence[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def conclusion(figures: Sequence[Figures]) -> str:
    """What the figures say of each kind of update, and what they do not say."""
    guess = _between([one.recovered[0] for one in figures if not one.release])
    lines = [
        f"The public ranges alone tell {guess} of a row's features. With an update, the features that are "
        "right, and the change in squared error:"
    ]
    for name in dict.fromkeys(one.release for one in figures if one.release):
        made = [one for one in figures if one.release == name]
        harmed = sum(one.gain > _HARM for one in made)
        right = _between([one.recovered[0] for one in made])
        change = _between([-one.gain for one in made], sign="+")
        lines.append(
            f"  {name}: {right} right, error {change}; rows given away in {harmed} of {len(made)} settings"
        )
    lines.append(
        f"Rows are given away where the error falls by more than {100 * _HARM:g} %. Where this attack fails, "
        "nothing is proven: one that knows what such rows look like may do better, and to tell whether "
        "somebody is among the rows takes less. What bounds every attack is ε; tidegate audit shows how near "
        "to it one comes."
    )
    return "\n".join(lines)


def _between(shares: Sequence[float], sign: str = "") -> str:
    low, high = (f"{round(100 * share):{sign}d}" for share in (min(shares), max(shares)))
    return f"{low} %" if low == high else f"{low} to {high} %"


def _tell(figures: Sequence[Figures]) -> None:
    from terminal.output import cell, figure, print_table, say

    rows: list[tuple[object, ...]] = []
    for one in figures:
        if not one.release:
            rows.append((cell(one.setting, "bold"), "", "", "", ""))
        right, spread = (100 * value for value in one.recovered)
        rows.append(
            (
                f"  {one.release or 'ranges alone'}",
                f"{right:.0f} ± {spread:.0f} %",
                f"{one.squared_error[0]:.3f} ± {one.squared_error[1]:.3f}",
                figure(one.psnr, 0),
                _with_spread(one.correlation),
            )
        )
    print_table(
        ("update", "recovered", "squared error", "PSNR", "correlation"),
        rows,
        title="What the server reconstructs from one update: mean ± deviation of the repeats",
    )
    for line in conclusion(figures).splitlines():
        say(line)


def _with_spread(figures: tuple[float, float]) -> str:
    return f"{figures[0]:.2f} ± {figures[1]:.2f}" if math.isfinite(figures[0]) else "–"


def as_json(figures: Sequence[Figures]) -> list[dict[str, Any]]:
    """For programs; what is not a number is null."""
    rows = []
    for one in figures:
        values = asdict(one)
        if not math.isfinite(one.correlation[0]):
            values["correlation"] = None
        rows.append(values)
    return rows


def main(
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    out: Annotated[Path, typer.Option(help="The folder for the picture.")] = Path("gradient-inversion"),
) -> None:
    """Reconstruct rows from updates, and say which updates give them away."""
    from experiments.studies.inversion_picture import draw
    from server.settings import apply_quiet_environment
    from terminal.output import Steps, print_json, quiet_flower, say

    apply_quiet_environment()
    quiet_flower()
    logging.getLogger("tidegate.site").setLevel(
        logging.ERROR
    )  # of values outside their range, of no interest
    began = time.perf_counter()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise InputError(
            f"the folder cannot be made: {exc.strerror}", where=str(out), remedy="Name another with --out"
        ) from exc
    chosen = settings()
    steps = Steps("gradient inversion", sum(setting.repeats for setting in chosen), silent=json)
    try:
        attempts = run_study(chosen, progress=steps.show)
    finally:
        steps.close()
    figures = summarise(attempts)
    picture = out / "gradient-inversion.png"
    picture.write_bytes(draw(attempts))
    seconds = time.perf_counter() - began
    if json:
        print_json({"figures": as_json(figures), "picture": picture, "seconds": seconds})
        return
    _tell(figures)
    say(f"picture: {picture.resolve()}; {seconds:.0f} s")


if __name__ == "__main__":
    try:
        typer.run(main)
    except TidegateError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(problem.exit_code)
