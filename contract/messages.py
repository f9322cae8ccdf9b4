"""How an instruction and a reply travel in Flower's records.

An instruction is the model's arrays and one config record. A reply is the
arrays (training only), the one weight that Flower's strategies need (the
*stated* number of rows, public), and one config record that holds the other
releases. Few records, because Flower moves each as an object of its own.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from contract.errors import ReleaseError
from contract.releases import DriftSummary, FeatureCounts, ModelUpdate, ScoreHistogram, Spent

__all__ = [
    "ARRAYS",
    "CONFIG",
    "DRIFT_QUERY",
    "METRICS",
    "REPLY",
    "WEIGHT",
    "Instruction",
    "Reply",
    "arrays_from_record",
    "arrays_to_record",
]

ARRAYS = "arrays"
CONFIG = "config"
METRICS = "metrics"
REPLY = "reply"
WEIGHT = "num-examples"
DRIFT_QUERY = "query.drift"


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """What the server asks of a site, beside the model's arrays.

    Attributes:
        run: the run's name; with `round` and the message type it names the request,
            so that a site can tell a repeated request from a new one.
        round: counted from 1; 0 for an exchange outside rounds.
        windows: the windows whose rows are used; empty for all rows of sites
            whose task names no time column.
        reference_windows: for a drift check, the windows compared against.
        evaluations: how many evaluations on these held-out rows the run plans
            in all, which fixes the noise of each.
        evaluate: whether this exchange evaluates the incoming model.
        evaluation: 1, 2, … of those planned; names the request and its charge.
    """

    run: str
    round: int = 0
    windows: tuple[str, ...] = ()
    reference_windows: tuple[str, ...] = ()
    evaluations: int = 1
    evaluate: bool = True
    evaluation: int = 1

    def to_record(self) -> ConfigRecord:
        """As a Flower config record."""
        return ConfigRecord({"instruction": json.dumps(asdict(self))})

    @classmethod
    def from_record(cls, record: ConfigRecord) -> Instruction:
        """Read what `to_record` wrote.

        Raises:
            ReleaseError: it is not an instruction of this program's version.
        """
        try:
            values = json.loads(str(record["instruction"]))
            for key in ("windows", "reference_windows"):
                values[key] = tuple(str(window) for window in values[key])
            return cls(**values)
        except (KeyError, TypeError, ValueError) as exc:
            raise ReleaseError(
                "the server sent an instruction that this version does not understand",
                remedy="Run the same Tidegate version on both sides",
            ) from exc


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a site sends back: releases, and public facts about itself.

    Attributes:
        site: the site's name, public.
        stated_rows: the number of rows that the administrator stated, public: it
            weighs the site and never comes from counting.
        spent_in_run, spent_in_total: the most that any data block has paid.
        mechanism: what made the releases, in words, with its parameters.
    """

    site: str
    stated_rows: int
    mechanism: str
    spent_in_run: Spent
    spent_in_total: Spent
    private: bool = True
    update: ModelUpdate | None = None
    scores: ScoreHistogram | None = None
    drift: DriftSummary | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def to_records(self) -> RecordDict:
        """As Flower records."""
        records = RecordDict({REPLY: ConfigRecord({"reply": json.dumps(_public(self))})})
        if self.update is not None:
            records[ARRAYS] = arrays_to_record(self.update.arrays)
            records[METRICS] = MetricRecord({WEIGHT: self.stated_rows})
        return records

    @classmethod
    def from_records(cls, records: RecordDict) -> Reply:
        """Read what `to_records` wrote.

        Raises:
            ReleaseError: it is not a reply of this program's version.
        """
        try:
            values = json.loads(str(records.config_records[REPLY]["reply"]))
            update = (
                ModelUpdate(arrays=arrays_from_record(records.array_records[ARRAYS]))
                if ARRAYS in records.array_records
                else None
            )
            return cls(
                site=str(values["site"]),
                stated_rows=int(values["stated_rows"]),
                mechanism=str(values["mechanism"]),
                spent_in_run=Spent(**values["spent_in_run"]),
                spent_in_total=Spent(**values["spent_in_total"]),
                private=bool(values["private"]),
                update=update,
                scores=_scores(values["scores"]),
                drift=_drift(values["drift"]),
                seconds={str(name): float(value) for name, value in values["seconds"].items()},
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise ReleaseError(
                "a site sent a reply that this version does not understand",
                remedy="Run the same Tidegate version on both sides",
            ) from exc


def arrays_to_record(arrays: dict[str, np.ndarray[Any, np.dtype[np.float32]]]) -> ArrayRecord:
    """Named float32 arrays as a Flower array record, in their order."""
    return ArrayRecord({name: FlowerArray(np.asarray(value, dtype=np.float32)) for name, value in arrays.items()})


def arrays_from_record(record: ArrayRecord) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Named float32 arrays of a Flower array record, in their order."""
    return {name: array.numpy().astype(np.float32, copy=False) for name, array in record.items()}


def _public(reply: Reply) -> dict[str, Any]:
    values = {key: value for key, value in vars(reply).items() if key != "update"}
    for key in ("spent_in_run", "spent_in_total"):
        values[key] = asdict(values[key])
    for key in ("scores", "drift"):
        values[key] = None if values[key] is None else _plain(asdict(values[key]))
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _scores(values: dict[str, Any] | None) -> ScoreHistogram | None:
    if values is None:
        return None
    return ScoreHistogram(
        negative=np.asarray(values["negative"], dtype=np.float64),
        positive=np.asarray(values["positive"], dtype=np.float64),
        noise_deviation=float(values["noise_deviation"]),
        binary=bool(values["binary"]),
    )


def _drift(values: dict[str, Any] | None) -> DriftSummary | None:
    if values is None:
        return None
    kind: Literal["features"] = "features"
    features = tuple(
        FeatureCounts(
            feature=str(item["feature"]),
            reference=np.asarray(item["reference"], dtype=np.float64),
            current=np.asarray(item["current"], dtype=np.float64),
        )
        for item in values[kind]
    )
    return DriftSummary(**{**values, kind: features})
