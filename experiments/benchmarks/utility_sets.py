"""Six public data sets with natural sites, encoded as an experiment's public facts say.

Three are laid out by `experiments.data` and have experiment files of their own. The other three stand here
alone: nobody tuned a file on them, and no run uses them. Ranges and categories are those of each publisher's
description, rounded; values outside are clamped, or fall to the last category. Two of these files are packed
tables whose publisher keeps another form: they are taken from the folder that `TIDEGATE_DATA_DIR` names.

Rows are split anew for each seed, 70 to 30, at random; rows of one patient (diabetes-130) or of neighbouring
person-years (rand-health, where a household's rows stand together) are on one side.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from contract.experiment import CategoricalFeature, Feature, Label, NumericFeature, Task
from experiments.data.datasets import DataFile, dataset_sites, find

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["HELD_OUT", "SETS", "EncodedRows", "load", "rare"]

_UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases"
HELD_OUT = 0.3
"""Roughly the share of all rows that are held out."""

_DIABETES = DataFile(
    dataset="diabetes-130",
    name="dataset_diabetes.zip",
    address=f"{_UCI}/00296/dataset_diabetes.zip",
    sha256="0689e7ec031237dc63031b938805c48377748761a3b26acab621567afa24df97",
    member="dataset_diabetes/diabetic_data.csv",
)
_SHOPPERS = DataFile(
    dataset="online-shoppers",
    name="online_shoppers_intention.csv.gz",
    address=f"{_UCI}/00468/online_shoppers_intention.csv",
    sha256="c36ae5aebcffc6857102cd387fd0c78b29ed0905e0cfc0fa25bbd4bf16462345",
)
_CREDIT = DataFile(
    dataset="credit-default",
    name="UCI_Credit_Card.csv.gz",
    address=f"{_UCI}/00350/",
    sha256="cda23f8110baeabdb5fe276b50bd31f939cdb37d9c4d2526c17e308ab0a17557",
)


@dataclass(frozen=True, kw_only=True)
class EncodedRows:
    """All rows of a data set, as a site would encode them.

    Attributes:
        task: what is predicted, and from what.
        features: float32 [n, task.width].
        labels: int64 [n], 0 or 1; of a number float32 [n] in [-1, 1].
        site: int64 [n], which site a row lies at.
        group: int64 [n]; rows of a group stay on one side of a split.
    """

    task: Task
    features: npt.NDArray[np.float32]
    labels: npt.NDArray[Any]
    site: npt.NDArray[np.int64]
    group: npt.NDArray[np.int64]

    def held_out(self, seed: int) -> npt.NDArray[np.bool_]:
        """Which rows are held out: those of about 30 % of the groups."""
        groups = int(self.group.max()) + 1
        drawn: npt.NDArray[np.bool_] = np.random.default_rng(seed).random(groups) < HELD_OUT
        return drawn[self.group]

    def rows(self, chosen: npt.NDArray[Any]) -> EncodedRows:
        """The rows of a mask or of indices."""
        return EncodedRows(
            task=self.task,
            features=self.features[chosen],
            labels=self.labels[chosen],
            site=self.site[chosen],
            group=self.group[chosen],
        )


def load(name: str) -> EncodedRows:
    """The data set of that name in `SETS`."""
    return SETS[name]()


def rare(rows: EncodedRows, share: float, seed: int, *, stated: bool = False) -> EncodedRows:
    """The same rows with so many positives left out that they are this share of what remains.

    Args:
        rows: all rows of a set.
        share: below theirs.
        seed: of which are left out.
        stated: whether the task says the share in public.
    """
    positive = np.flatnonzero(rows.labels == 1)
    kept = round(share / (1 - share) * float((rows.labels == 0).sum()))
    left = np.random.default_rng(seed).permutation(positive)[:kept]
    some = rows.rows(np.sort(np.concatenate([np.flatnonzero(rows.labels == 0), left])))
    if not stated:
        return some
    label = rows.task.label.model_copy(update={"positive_share": share})
    return replace(some, task=rows.task.model_copy(update={"label": label}))


def _shipped(name: str, neighbours: int = 1) -> EncodedRows:
    """A data set that has an experiment file."""
    import pandas as pd

    from server.federation import project_root
    from terminal.experiment_files import read_experiment

    task = read_experiment(project_root() / "experiments" / f"{name}.toml").task
    parts = [site.rows.assign(site_=number) for number, site in enumerate(dataset_sites(name))]
    frame = pd.concat(parts).sort_index(kind="stable")
    group = np.arange(len(frame)) // neighbours
    return _encoded(frame, task, site=frame["site_"].to_numpy(), group=group)


def _encoded(
    frame: pd.DataFrame, task: Task, *, site: npt.NDArray[Any], group: npt.NDArray[Any]
) -> EncodedRows:
    columns = [_column(frame[feature.name], feature) for feature in task.features]
    label = frame[task.label.column].astype(str).to_numpy()
    return EncodedRows(
        task=task,
        features=np.concatenate(columns, axis=1, dtype=np.float32),
        labels=(label == task.label.classes[-1]).astype(np.int64),
        site=site.astype(np.int64),
        group=group.astype(np.int64),
    )


def _column(values: pd.Series[Any], feature: Feature) -> npt.NDArray[np.float64]:
    if isinstance(feature, NumericFeature):
        low, high = feature.scaled_range
        clamped = np.clip(values.to_numpy(float), feature.low, feature.high)
        scaled = np.log1p(clamped) if feature.transform == "log1p" else clamped
        return np.asarray((scaled - low) / (high - low))[:, None]
    named = values.astype(str)
    known = named.where(named.isin(feature.categories), feature.other or feature.categories[-1])
    found: npt.NDArray[np.float64] = (
        known.to_numpy()[:, None] == np.array(feature.categories)[None, :]
    ).astype(float)
    return found


def _number(name: str, low: float, high: float, *, log: bool = False) -> NumericFeature:
    return NumericFeature(name=name, kind="numeric", low=low, high=high, transform="log1p" if log else "none")


def _choice(name: str, categories: Sequence[object]) -> CategoricalFeature:
    named = tuple(str(one) for one in categories)
    return CategoricalFeature(name=name, kind="categorical", categories=named, other=named[-1])


def _task(label: str, positive: str, negative: str, *features: Feature) -> Task:
    return Task(label=Label(column=label, classes=(negative, positive)), features=features)


def _shoppers() -> EncodedRows:
    """12,330 visits of a shop; the label is a purchase, sites are nine regions."""
    import pandas as pd

    frame = pd.read_csv(io.BytesIO(find(_SHOPPERS)), compression="gzip")
    months = ("Jan", "Feb", "Mar", "Apr", "May", "June", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
    task = _task(
        *("Revenue", "True", "False"),
        *(_number(kind, 0, 30, log=True) for kind in ("Administrative", "Informational")),
        *(_number(f"{kind}_Duration", 0, 3600, log=True) for kind in ("Administrative", "Informational")),
        _number("ProductRelated", 0, 1000, log=True),
        _number("ProductRelated_Duration", 0, 36_000, log=True),
        *(_number(rate, 0, 0.2) for rate in ("BounceRates", "ExitRates")),
        _number("PageValues", 0, 400, log=True),
        _number("SpecialDay", 0, 1),
        _choice("Month", months),
        _choice("OperatingSystems", range(1, 9)),
        _choice("Browser", range(1, 14)),
        _choice("TrafficType", range(1, 21)),
        _choice("VisitorType", ("Returning_Visitor", "New_Visitor", "Other")),
        _choice("Weekend", ("False", "True")),
    )
    return _encoded(frame, task, site=frame["Region"].to_numpy(), group=np.arange(len(frame)))


def _credit() -> EncodedRows:
    """30,000 credit cards; the label is a default, sites are four levels of education."""
    import pandas as pd

    frame = pd.read_csv(io.BytesIO(find(_CREDIT)), compression="gzip").rename(
        columns={"default.payment.next.month": "default"}
    )
    months = range(1, 7)
    task = _task(
        *("default", "1", "0"),
        _number("LIMIT_BAL", 10_000, 1_000_000, log=True),
        _choice("SEX", (1, 2)),
        _choice("EDUCATION", (1, 2, 3, 4)),
        _choice("MARRIAGE", (1, 2, 3)),
        _number("AGE", 18, 80),
        *(_number(f"PAY_{month}", -2, 8) for month in (0, 2, 3, 4, 5, 6)),
        *(_number(f"BILL_AMT{month}", -100_000, 1_000_000) for month in months),
        *(_number(f"PAY_AMT{month}", 0, 1_000_000, log=True) for month in months),
    )
    site = np.where(frame["EDUCATION"].isin((1, 2, 3)), frame["EDUCATION"], 4)
    return _encoded(frame, task, site=site, group=np.arange(len(frame)))


_SPECIALTIES = ("?", "InternalMedicine", "Emergency/Trauma", "Family/GeneralPractice", "Cardiology")


def _diabetes() -> EncodedRows:
    """101,766 stays in hospital; the label is any later readmission, sites are seven medical specialties."""
    import pandas as pd

    frame = pd.read_csv(io.BytesIO(find(_DIABETES)), keep_default_na=False, low_memory=False)
    frame["readmitted"] = np.where(frame["readmitted"] == "NO", "no", "yes")
    drugs = (
        *("metformin", "insulin", "glipizide", "glyburide"),
        *("pioglitazone", "rosiglitazone", "glimepiride", "repaglinide"),
    )
    task = _task(
        *("readmitted", "yes", "no"),
        _choice("race", ("Caucasian", "AfricanAmerican", "Hispanic", "Asian", "Other")),
        _choice("gender", ("Female", "Male")),
        _choice("age", [f"[{decade}-{decade + 10})" for decade in range(0, 100, 10)]),
        _choice("admission_type_id", (1, 2, 3, "other")),
        _choice("discharge_disposition_id", (1, 2, 3, 5, 6, 11, 18, 22, "other")),
        _choice("admission_source_id", (1, 4, 6, 7, 17, "other")),
        _number("time_in_hospital", 1, 14),
        _number("num_lab_procedures", 0, 140),
        _number("num_procedures", 0, 6),
        _number("num_medications", 0, 80, log=True),
        _number("number_outpatient", 0, 50, log=True),
        _number("number_emergency", 0, 100, log=True),
        _number("number_inpatient", 0, 25, log=True),
        _number("number_diagnoses", 1, 16),
        _choice("max_glu_serum", (">200", ">300", "Norm", "None")),
        _choice("A1Cresult", (">7", ">8", "Norm", "None")),
        *(_choice(drug, ("No", "Steady", "Up", "Down")) for drug in drugs),
        _choice("change", ("Ch", "No")),
        _choice("diabetesMed", ("Yes", "No")),
    )
    specialty = frame["medical_specialty"]
    site = np.select([specialty == one for one in _SPECIALTIES], range(len(_SPECIALTIES)), len(_SPECIALTIES))
    site = np.where(specialty.str.startswith("Surgery"), len(_SPECIALTIES) + 1, site)
    group = np.unique(frame["patient_nbr"], return_inverse=True)[1]
    return _encoded(frame, task, site=site, group=group)


SETS: Mapping[str, Callable[[], EncodedRows]] = {
    "heart-disease": lambda: _shipped("heart-disease"),
    "bank-marketing": lambda: _shipped("bank-marketing"),
    "rand-health": lambda: _shipped("rand-health", neighbours=20),
    "diabetes-130": _diabetes,
    "online-shoppers": _shoppers,
    "credit-default": _credit,
}
"""Every data set by name."""
