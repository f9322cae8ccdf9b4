"""What a ServerApp run is asked to do, read from Flower's run configuration.

Everything travels as text in the keys that `pyproject.toml` declares, so that
`flwr run` can give them too. An experiment may be given whole, as JSON, or left
out in favour of the TOML text of its file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal, cast, get_args

from pydantic import TypeAdapter, ValidationError

from contract.errors import ExperimentError
from contract.experiment import Experiment
from contract.experiment_file import parse_experiment
from contract.names import RunName, WindowName

__all__ = ["Job", "RangeQuestion", "read_job", "read_question"]

_Kind = Literal["train", "cycle", "ranges"]


@dataclass(frozen=True, kw_only=True)
class RangeQuestion:
    """Between which values all but a share of the rows lie, at either end.

    Attributes:
        features: the numeric features that are asked about.
        epsilon: what the answer may cost each site, at the experiment's δ.
        share: of the rows with a value, at most that much below the range, and above it.
    """

    features: tuple[str, ...]
    epsilon: float
    share: float


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of the ServerApp.

    Attributes:
        kind: `train` trains one model; `cycle` checks a window for drift and does
            what the retraining policy says; `ranges` asks for the ranges of features.
        run: its unique name; a name that exists is resumed.
        experiment: the plan.
        windows: for `train` and `ranges`, whose rows are used; empty for all.
        window: for `cycle`, the window that has closed.
        trigger: who or what started it, in words for the passport.
        question: for `ranges`, what is asked.
        mandate: what a scientist has signed for it (`contract.mandate`); empty without.
    """

    kind: _Kind
    run: str
    experiment: Experiment
    windows: tuple[str, ...] = ()
    window: str = ""
    trigger: str = "a data scientist"
    question: RangeQuestion | None = None
    mandate: str = ""

    def __post_init__(self) -> None:
        """Refuse names that no site would take.

        Raises:
            ExperimentError: of a run or a window.
            InputError: of a window without a season, where the experiment compares seasons.
        """
        named = (*self.windows, *((self.window,) if self.window else ()))
        self.experiment.drift.require_seasons(named)
        for kind, names, pattern in (("run", (self.run,), RunName), ("window", named, WindowName)):
            for name in names:
                try:
                    TypeAdapter(pattern).validate_python(name)
                except ValidationError as exc:
                    raise ExperimentError(
                        f"{name[:100]!r} cannot be the name of a {kind}",
                        where=kind,
                        remedy="Use letters, digits and . _ -, beginning with a letter or a digit",
                    ) from exc

    def to_run_config(self) -> dict[str, str]:
        """As values for Flower's run configuration."""
        return {
            "job": self.kind,
            "run": self.run,
            "experiment": self.experiment.model_dump_json(),
            "windows": json.dumps(self.windows),
            "window": self.window,
            "trigger": self.trigger,
            "question": "" if self.question is None else json.dumps(asdict(self.question)),
            "mandate": self.mandate,
        }


def read_job(config: Mapping[str, object], *, fallback_run: str) -> Job:
    """Read what `to_run_config` wrote, or what a person gave to `flwr run`.

    Raises:
        ExperimentError: a key is missing or wrong.
    """
    return Job(
        kind=_kind(str(config.get("job", "train"))),
        run=str(config.get("run") or fallback_run),
        experiment=_experiment(str(config.get("experiment", ""))),
        windows=tuple(str(window) for window in json.loads(str(config.get("windows") or "[]"))),
        window=str(config.get("window", "")),
        trigger=str(config.get("trigger", "a data scientist")),
        question=_question(str(config.get("question", ""))),
        mandate=str(config.get("mandate", "")),
    )


def _kind(text: str) -> _Kind:
    for kind in get_args(_Kind):
        if text == kind:
            return cast("_Kind", kind)
    raise ExperimentError(f"job = '{text}'", where="run config", remedy="Use 'train', 'cycle' or 'ranges'")


def read_question(values: object) -> RangeQuestion:
    """A question as `asdict` wrote it.

    Raises:
        ExperimentError: it is none.
    """
    try:
        return TypeAdapter(RangeQuestion).validate_python(values)
    except ValidationError as exc:
        raise ExperimentError("the question is not valid", where="run config") from exc


def _question(text: str) -> RangeQuestion | None:
    if not text.strip():
        return None
    try:
        return read_question(json.loads(text))
    except ValueError as exc:
        raise ExperimentError("the question is not valid", where="run config") from exc


def _experiment(text: str) -> Experiment:
    if not text.strip():
        raise ExperimentError(
            "no experiment is given",
            where="run config",
            remedy="Start runs with `tidegate run FILE`, or give the file's text as experiment = '''…'''",
        )
    if not text.lstrip().startswith("{"):
        return parse_experiment(text, where="run config")
    try:
        return Experiment.model_validate_json(text)
    except ValidationError as exc:
        raise ExperimentError("the experiment is not valid", where="run config") from exc
