"""How each public data set is dealt to sites, windows and sides.

The dealing is fixed and documented, part of laying a public data set out as if
it had lain at the sites from the start; a real site's own rows are never dealt
this way (`clients.rows.table` says how they are). Each site gets a folder with
`site.toml` and `rows/<window>.csv`; each row says its `split`: `train` or `holdout`, and, where the
set has windows, its `window`, or the day on which it was `reported`.

**RAND Health Insurance Experiment.** Years of one person, and persons of one
household, stand in consecutive rows, with no id. For an honest evaluation all
rows of a household are on one side: the file is cut where plan values and
health values change together, and of ten households of a plan in file order the
third, the sixth and the ninth are held out. Windows are another matter. With
households, persons or blocks of rows kept together in a window, or with windows
cut in file order, an ordinary χ² test (10 bins, Bonferroni over the features and
the label, 1 %) finds "drift" in 38 to 40 of the 40 site-weeks: rows of a cluster
are near copies, so a week holds far fewer independent draws than rows. So each
row is dealt by itself, by a fixed hash of its number, to a day on which it was
reported, as if a person's years were reported one by one: to each of twenty weeks of
2026 a twentieth. The first ten are for training, the others arrive later. The windows
are then exchangeable, which is the very hypothesis
that a drift test holds true, and the same test finds 1 of 40 (4.4 % of
all tests at the 5 % level). No household crosses from
training to evaluation, whatever its windows. That its years lie in several windows
makes windows more alike than strangers' would be, so less false drift, not more.

**Heart disease.** Cleaned and split as the FLamby benchmark does (Ogier du
Terrail et al., 2022): the last three attributes dropped, then patients with a
missing value, then 66/34, stratified where both classes have more than two.

**Bank marketing.** Rows are in date order without a date, so windows are tenths
of the file: `base` is the first five (May to August 2008, before the failure of
Lehman Brothers; its first three tenths hold telephone calls alone), `d06` … `d10` the
rest, to November 2010. Sites are type of contact × group of jobs; the telephone's later
windows are small, so it has two groups where the mobile has three.
"""

from __future__ import annotations

import functools
import io
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from contract.card import Card
from contract.windows import expanded, window_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "BASE",
    "RAND_BASE",
    "SiteRows",
    "bank_marketing",
    "card_of",
    "card_text",
    "digits",
    "heart_disease",
    "rand_health",
    "write_site",
]

BASE = "base"
"""The window on which the first model of bank-marketing is trained."""

RAND_BASE = expanded(["2026-W01..2026-W10"])
"""The weeks on which that of rand-health is."""

_ALL_ROWS = "all"
"""The file's name where a set has no windows."""


@dataclass(frozen=True, kw_only=True)
class SiteRows:
    """One site's share of a data set.

    Attributes:
        name: the site's public name, and its folder's.
        stated_rows: the public rough number of training rows (of the first windows, where there are some).
        rows: its records, with `split` and, where the set has windows, `window` or the day `reported`.
        card: whose card it has: the file's name in `experiments/data/cards`.
    """

    name: str
    stated_rows: int
    rows: pd.DataFrame
    card: str

    @property
    def windows(self) -> tuple[str, ...]:
        """The windows in order of time."""
        return tuple(sorted(set(self._window_of_rows)))

    def of(self, window: str) -> pd.DataFrame:
        """The rows of a window."""
        return self.rows[[window == one for one in self._window_of_rows]]

    @functools.cached_property
    def _window_of_rows(self) -> list[str]:
        if "reported" in self.rows:
            days = {day: window_of(date.fromisoformat(day), "week") for day in set(self.rows["reported"])}
            return [days[day] for day in self.rows["reported"]]
        return list(self.rows["window"]) if "window" in self.rows else []


def write_site(
    site: SiteRows, folder: Path, *, windows: Collection[str] | None = None, drift_reports: bool = True
) -> Path:
    """Write a site's `site.toml` and its rows, of all windows or of these; return the path of the first.

    Args:
        site: what is written.
        folder: where to.
        windows: None for all.
        drift_reports: whether a drift check also draws Evidently's report.
    """
    for window in site.windows or (_ALL_ROWS,):
        if windows is None or window in windows:
            deliver(folder, window, site.of(window) if site.windows else site.rows)
    path = folder / "site.toml"
    reports = "" if drift_reports else _NO_REPORTS
    text = _SITE_TOML.format(name=site.name, rows=site.stated_rows, reports=reports) + card_text(site.card)
    path.write_text(text, encoding="utf-8")
    return path


def card_text(name: str) -> str:
    """The card of a data set's sites, as TOML."""
    return (Path(__file__).parent / "cards" / f"{name}.toml").read_text(encoding="utf-8")


def card_of(name: str) -> Card:
    """The card of a data set's sites."""
    return Card.model_validate(tomllib.loads(card_text(name))["card"])


def deliver(folder: Path, window: str, rows: pd.DataFrame) -> None:
    """Put the rows of a window into a site's folder, whole or not at all."""
    path = folder / "rows" / f"{window}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    rows.to_csv(aside, index=False)
    aside.replace(path)


_SITE_TOML = """\
# A site of a public data set, laid out for trying things: see experiments/data/layout.py.
name = "{name}"
stated_rows = {rows}  # public and rough; never counted

[data]
kind = "csv"
path = "rows"  # every .csv file in this folder; new rows arrive as new files

[policy]
epsilon_cap = 8.0  # the most that any record may ever pay
delta_cap = 1e-4
require_private = false  # the rows are public; a site with private ones sets true

[storage]
folder = "tidegate"
{reports}
"""
_NO_REPORTS = "drift_reports = false  # to draw Evidently's takes a processor 8 s, and a second a report\n"


def rand_health(frame: pd.DataFrame) -> list[SiteRows]:
    """20,190 person-years at four insurance plans; the label is five or more visits to a doctor.

    `plan` is coinsurance and individual deductible in one category, `health` the self-rating
    in one. Both say what the original columns say, with fewer features to count in a drift check.
    """
    rows = frame[["lpi", "fmde", "physlm", "disea"]].round(6)
    rows["health"] = np.select(
        [frame["hlthp"] == 1, frame["hlthf"] == 1, frame["hlthg"] == 1], _HEALTH, "excellent"
    )
    coinsurance = np.expm1(frame["lncoins"]).round().astype(int)
    free = np.where(frame["idp"] == 1, "individual-deductible", "free-care")
    rows["plan"] = np.where(coinsurance == 0, free, [f"coinsurance-{rate}" for rate in coinsurance])
    rows["frequent_visitor"] = (frame["mdvis"] >= 5).astype(int)
    rows["reported"] = _dealt_day(len(rows))
    moved = _changes(frame, ["lpi", "fmde"]) & _changes(frame, ["physlm", "disea"])
    household = (moved | _changes(frame, ["lncoins", "idp"])).astype(int).cumsum()
    return [
        _plan_site(name, stated, rows[rows["plan"].isin(plans)], household) for name, stated, plans in _PLANS
    ]


_HEALTH = ["poor", "fair", "good"]

_PLANS = (
    ("free-care", 2400, ("free-care",)),
    ("individual-deductible", 1400, ("individual-deductible",)),
    ("quarter-coinsurance", 1400, ("coinsurance-25",)),
    ("high-coinsurance", 1800, ("coinsurance-50", "coinsurance-95", "coinsurance-100")),
)
"""Site, its stated training rows of `base`, and the plans that it insures."""


def _plan_site(name: str, stated: int, rows: pd.DataFrame, household: pd.Series[int]) -> SiteRows:
    order = household[rows.index].rank(method="dense").astype(int).to_numpy()
    return SiteRows(
        name=name,
        stated_rows=stated,
        rows=rows.assign(split=_split(np.isin(order % 10, (3, 6, 9)))),
        card="rand-health",
    )


def heart_disease(files: Mapping[str, bytes]) -> list[SiteRows]:
    """740 patients of four hospitals, as FLamby cleans and splits them; the label is disease."""
    return [
        SiteRows(
            name=hospital,
            stated_rows=_HOSPITALS[hospital][0],
            rows=_hospital(content, _HOSPITALS[hospital][1]),
            card="heart-disease",
        )
        for hospital, content in files.items()
    ]


_HOSPITALS = {
    "cleveland": (200, 0x20240501059E2CEE24501DA82E0240843E000D64A180C0542380AD2CC2489307C71000E75F2),
    "hungary": (170, 0x220108F97083A85910E01AA201270D2331A288269090245ED2740823005221746),
    "switzerland": (30, 0x1E18EA32030),
    "long-beach": (85, 0x1192000916D94083AE16C1221800E9D16),
}
"""Stated training rows, and FLamby's held-out patients: the last bit is the last patient.

The bits are what scikit-learn's `train_test_split` gives with `random_state=43` (a test
computes them again); written down, they save the two seconds of its import.
"""

_HEART_COLUMNS = (
    *("age", "sex", "chest_pain", "resting_pressure", "cholesterol", "fasting_sugar"),
    *("resting_ecg", "max_heart_rate", "exercise_angina", "st_depression"),
)


def _hospital(content: bytes, held_out: int) -> pd.DataFrame:
    import pandas as pd

    frame = pd.read_csv(io.BytesIO(content), header=None, na_values="?").drop(columns=[10, 11, 12]).dropna()
    rows = frame[list(range(10))].set_axis(list(_HEART_COLUMNS), axis=1)
    for whole in ("sex", "chest_pain", "fasting_sugar", "resting_ecg", "exercise_angina"):
        rows[whole] = rows[whole].astype(int)
    rows["disease"] = (frame[13] > 0).astype(int)
    rows["split"] = _split(np.array([bit == "1" for bit in f"{held_out:0{len(rows)}b}"]))
    return rows


_JOBS = {
    "office": ("admin.", "management", "entrepreneur", "self-employed"),
    "manual": ("blue-collar", "services", "technician", "housemaid"),
    "not-employed": ("retired", "student", "unemployed", "unknown"),
}


def bank_marketing(content: bytes) -> list[SiteRows]:
    """41,188 calls of a Portuguese bank in date order; the label is a subscribed deposit.

    `duration` is dropped: it is known only once the call, and its outcome, is over.
    """
    import pandas as pd

    frame = pd.read_csv(io.BytesIO(content), sep=";", keep_default_na=False)
    rows = frame.drop(columns=["duration", "pdays", "y"]).rename(columns=lambda name: name.replace(".", "_"))
    tenth = np.arange(len(rows)) * 10 // len(rows) + 1
    rows["subscribed"] = frame["y"]
    rows["window"] = np.where(tenth <= 5, BASE, np.char.mod("d%02d", tenth))
    rows["split"] = _split(_uniform("bank-marketing split", len(rows)) < 0.3)
    manual, office = frame["job"].isin(_JOBS["manual"]), frame["job"].isin(_JOBS["office"])
    mobile = frame["contact"] == "cellular"
    masks = {
        "mobile-office": (mobile & office, 2000),
        "mobile-manual": (mobile & manual, 2900),
        "mobile-not-employed": (mobile & ~office & ~manual, 360),
        "telephone-office": (~mobile & office, 3200),
        "telephone-other": (~mobile & ~office, 6000),
    }
    return [
        SiteRows(name=name, stated_rows=rough, rows=rows[mask], card="bank-marketing")
        for name, (mask, rough) in masks.items()
    ]


def digits(frame: pd.DataFrame) -> list[SiteRows]:
    """1,797 images of 8 × 8 pixels of handwritten digits, dealt at random to four sites."""
    pixels = {f"pixel_{row}_{column}": f"p{row}{column}" for row in range(8) for column in range(8)}
    rows = frame.rename(columns={**pixels, "target": "digit"}).astype(int)
    rows["split"] = _split(_uniform("digits split", len(rows)) < 0.3)
    site = (_uniform("digits site", len(rows)) * 4).astype(int)
    return [
        SiteRows(name=f"desk-{one + 1}", stated_rows=310, rows=rows[site == one], card="digits")
        for one in range(4)
    ]


def _dealt_day(rows: int) -> npt.NDArray[np.str_]:
    """Each row by itself, to a day of twenty weeks of 2026, of which the first begins on 29 December 2025."""
    place = np.floor(_uniform("rand-health window", rows) * 140).astype(int)
    return (np.datetime64("2025-12-29") + place).astype(str)


def _uniform(purpose: str, rows: int) -> npt.NDArray[np.float64]:
    """A fixed number in [0, 1) for each row number: BLAKE2b of purpose and number."""
    hashed = (blake2b(f"{purpose} {row}".encode(), digest_size=8).digest() for row in range(rows))
    return np.frombuffer(b"".join(hashed), dtype=">u8").astype(np.float64) / 2**64


def _changes(frame: pd.DataFrame, columns: list[str]) -> pd.Series[bool]:
    return (frame[columns] != frame[columns].shift()).any(axis=1)


def _split(holdout: npt.NDArray[np.bool_]) -> npt.NDArray[np.str_]:
    return np.where(holdout, "holdout", "train")
