"""Small inputs that went wrong once, each with the right value, through a whole site.

Each folder here holds the rows of one. They come beside two ordinary windows of 300 rows. Runs are
without noise, so that what is released is what was counted.
"""

from __future__ import annotations

import logging
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from clients.app import app
from clients.rows.table import Fit, prepare
from clients.site import Site, close_site, open_site
from contract.errors import RefusalCode
from contract.experiment import Experiment
from contract.experiment_file import parse_experiment
from contract.messages import DRIFT_QUERY, Instruction, Reply
from contract.models import initial_arrays
from experiments.runtimes.inline import InlineGrid
from monitoring.binning import feature_bins
from monitoring.report import write_report
from monitoring.verdict import form_verdict
from server.line.flower import assume_identity

CASES = Path(__file__).parent
EXPERIMENT = """\
name = "clinic"
[task]
label = { column = "outcome" }
[[task.features]]
name = "age"
kind = "numeric"
low = 0
high = 100
[[task.features]]
name = "chol"
kind = "numeric"
low = 100
high = 400
missing = 200
[[task.features]]
name = "country"
kind = "categorical"
categories = ["DE", "FR", "NA", "unknown"]
missing = "unknown"
[[task.features]]
name = "ward"
kind = "categorical"
categories = ["icu", "er", "general"]
[strategy]
rounds = 3
learning_rate = 2.0
[privacy]
private = false
seed = 7
"""
CODES = EXPERIMENT.replace('"country"', '"edu"').replace(
    '["DE", "FR", "NA", "unknown"]', '["1", "2", "3", "unknown"]\nother = "unknown"'
)
PERSONS = EXPERIMENT.replace("[privacy]", '[privacy]\nunit = "person"\nrows_per_person = 2')
CARD = """\
name = "a"
stated_rows = 300
[data]
kind = "csv"
path = "rows"
[policy]
epsilon_cap = 50.0
require_private = false
[card]
time = { column = "window" }
[[card.columns]]
name = "age"
kind = "numeric"
low = 0
high = 120
[[card.columns]]
name = "chol"
kind = "numeric"
[[card.columns]]
name = "country"
kind = "categorical"
categories = ["DE", "FR", "NA"]
[[card.columns]]
name = "ward"
kind = "categorical"
categories = ["icu", "er", "general"]
[[card.columns]]
name = "outcome"
kind = "categorical"
categories = ["0", "1"]
"""

Lay = Callable[..., Path]


@pytest.fixture
def lay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lay]:
    """A site with the rows of a case, beside those of ordinary windows."""
    monkeypatch.setattr("clients.mechanisms.drift.write_local_report", lambda *_: None, raising=False)
    path = tmp_path / "a" / "site.toml"

    def made(case: str = "", *, windows: tuple[str, ...] = ("base", "w1"), card: str = CARD) -> Path:
        rows = path.parent / "rows"
        rows.mkdir(parents=True, exist_ok=True)
        path.write_text(card)
        rng = random.Random(0)
        for window in windows:
            (rows / f"{window}.csv").write_text("\n".join(ordinary(rng, window)) + "\n")
        if case:
            for file in (CASES / case).glob("*.csv"):
                shutil.copy(file, rows / f"case-{file.name}")
        return path

    yield made
    close_site(path)


def ordinary(rng: random.Random, window: str) -> list[str]:
    lines = ["age,chol,country,ward,outcome,window"]
    for _ in range(300):
        age, chol = rng.randint(18, 95), round(rng.gauss(230, 40), 1)
        ill = int(rng.random() < 1 / (1 + 2.718 ** (-(age - 60) / 10)))
        country, ward = rng.choice(["DE", "FR", "NA"]), rng.choice(["icu", "er", "general"])
        lines.append(f"{age},{chol},{country},{ward},{ill},{window}")
    return lines


def experiment(text: str = EXPERIMENT) -> Experiment:
    return parse_experiment(text, where="clinic")


def ask(path: Path, kind: str, asked: Experiment, *windows: str, reference: tuple[str, ...] = ()) -> Message:
    """The ClientApp's answer to one message."""
    grid = InlineGrid(app, [path], {"experiment": asked.model_dump_json()})
    assume_identity(grid.run_id)
    instruction = Instruction(run="r", step=1, windows=windows, reference_windows=reference)
    arrays = {} if kind == DRIFT_QUERY else initial_arrays(asked, np.random.default_rng(0))
    (answer,) = grid.send_and_receive(
        [Message(content=instruction.to_records(arrays), dst_node_id=1, message_type=kind)]
    )
    return answer


def answered(*asked: Any, **more: Any) -> Reply:
    message = ask(*asked, **more)
    assert not message.has_error(), message.error
    return Reply.from_records(message.content)


def drifted(path: Path, asked: Experiment, window: str) -> dict[str, dict[str, float]]:
    """The counts of a window against `base`, by the names of their cells; they can be judged."""
    summary = answered(path, DRIFT_QUERY, asked, window, reference=("base",)).drift
    assert summary is not None
    verdict = form_verdict({"a": summary, "b": summary}, drift=asked.drift, rng=np.random.default_rng(1))
    assert len(verdict.sites) == 2
    cells = {item.feature: item.cells for item in feature_bins(asked.task, asked.drift.bins)}
    return {
        found.feature: {cell: n for cell, n in zip(cells[found.feature], found.current, strict=True) if n}
        for found in summary.features
    }


def trained(path: Path, asked: Experiment, *windows: str) -> dict[str, np.ndarray[Any, Any]]:
    update = answered(path, "train", asked, *windows).update
    assert update is not None
    return dict(update.arrays)


def fit(site: Site, asked: Experiment, *windows: str) -> Fit:
    """How the rows of a window fit, of both sides."""
    return prepare(site.rows(windows), asked, site.card).fit


def test_new_category(lay: Lay, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is counted as undeclared, judged and drawn; training leaves its row out, and says so at the site."""
    path, asked = lay("new-category"), experiment()
    counts = drifted(path, asked, "w2")
    assert counts["ward"] == {"icu": 1, "undeclared": 1}
    assert counts["country"] == {"DE": 1, "FR": 1}
    site = open_site(path)
    report = tmp_path / "report.html"
    frames = site.rows(("base",)).frame, site.rows(("w2",)).frame
    write_report(*frames, task=asked.task, drift=asked.drift, path=report, rng=np.random.default_rng(1))
    assert report.stat().st_size > 1000
    assert fit(site, asked, "w2").left_out == {"ward": {"a category that the card does not declare": 1}}
    with caplog.at_level(logging.WARNING, logger="tidegate.site"):
        assert all(np.isfinite(array).all() for array in trained(path, asked, "w1", "w2").values())
        sides = [site.table(asked, ("w2",), holdout=side) for side in (True, False)]
    assert sorted(len(table.labels) for table in sides) == [0, 1]
    told = [record.getMessage() for record in caplog.records if record.name == "tidegate.site"]
    assert [line for line in told if "administrator alone" in line] == told[:1]
    # the site's own secret deals the rows: both of the window may be held out
    assert re.search(r"alone: \d+ of \d+ (training|held-out) rows? fits?: ", told[0])
    assert "telehealth" not in caplog.text


def test_unlabelled_rows(lay: Lay) -> None:
    """Drift is judged without the label; older windows train as before; this one leaves the row out."""
    asked = experiment()
    path = lay()
    before = open_site(path).table(asked, ("w1",), holdout=False)
    path = lay("unlabelled-rows")
    after = open_site(path).table(asked, ("w1",), holdout=False)
    np.testing.assert_array_equal(before.features, after.features)
    np.testing.assert_array_equal(before.labels, after.labels)
    assert after.fit.left_out == {}
    assert trained(path, asked, "w1")
    counts = drifted(path, asked, "w2")
    assert counts["outcome"] == {"1": 1, "missing": 1}
    assert sum(counts["age"].values()) == 2
    site = open_site(path)
    assert fit(site, asked, "w1").left_out == {}
    assert fit(site, asked, "w2").left_out == {"outcome": {"no label": 1}}
    assert not ask(path, "train", asked, "w2").has_error()


def test_int_category_as_float(lay: Lay) -> None:
    """`1.0` is the code `1`; what falls to `other` is told."""
    card = CARD.replace('"country"', '"edu"').replace('["DE", "FR", "NA"]', '["1", "2", "3"]')
    path, asked = lay("int-category-as-float", windows=(), card=card), experiment(CODES)
    assert drifted(path, asked, "base")["edu"] == {"1": 1, "2": 1, "3": 1, "missing": 1}
    site = open_site(path)
    table = prepare(site.rows(("base",)), asked, site.card)
    assert table.features[:, 2:6].tolist() == np.eye(4).tolist()
    assert table.fit.filled == {"edu": 1}
    assert table.fit.other == {}
    file = path.parent / "rows" / "case-base.csv"
    file.write_text(file.read_text() + "50,210,4.0,er,0,base\n")
    site = open_site(path)
    assert fit(site, asked, "base").other == {"edu": 1}
    assert site.rows(("base",)).reading.undeclared == {"edu": {"4": 1}}


def test_na_country(lay: Lay) -> None:
    """A declared category is never read as missing; an empty value is."""
    path, asked = lay("na-country", windows=()), experiment()
    assert drifted(path, asked, "base")["country"] == {"DE": 1, "NA": 1, "missing": 1}
    site = open_site(path)
    table = prepare(site.rows(("base",)), asked, site.card)
    assert table.features[:, 2:6].tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert table.fit.filled == {"country": 1}


def test_person_id_float(lay: Lay) -> None:
    """One person in both files: on one side, under one limit."""
    card = CARD.replace("[card]\n", '[card]\nperson = "pid"\n')
    path, asked = lay("person-id-float", windows=(), card=card), experiment(PERSONS)
    site = open_site(path)
    rows = site.rows(("base",))
    assert rows.person is not None
    assert sorted(rows.person) == ["1001"] * 4 + ["1002"] * 2
    sides = {(person, bool(side)) for person, side in zip(rows.person, rows.holdout, strict=True)}
    assert len(sides) == 2
    table = prepare(rows, asked, site.card)
    assert len(table.labels) == 6
    assert len(table.limited(2).labels) == 4
    counts = drifted(path, asked, "base")
    assert sum(counts["age"].values()) == 4  # two rows of each


PATH = "../../../../../scratch/www/index"


@pytest.mark.parametrize("place", ["window", "reference"])
@pytest.mark.parametrize("name", [PATH, "..", "a/../b", "/index", "w1\0", "w1\n", "2020.0"])
def test_window_name_path(lay: Lay, tmp_path: Path, place: str, name: str) -> None:
    """It is refused where the message is parsed: nothing is charged, read or written for it."""
    path = lay()
    windows, reference = (((name,), ("base",)), (("w1",), (name,)))[place == "reference"]
    open_site(path)
    before = {item for item in tmp_path.rglob("*") if item.suffix not in {".db-wal", ".db-shm"}}
    answer = ask(path, DRIFT_QUERY, experiment(), *windows, reference=reference)
    assert answer.error.reason == RefusalCode.INPUT
    assert [entry.kind for entry in open_site(path).ledger.entries() if entry.kind != "refuse"] == []
    after = {item for item in tmp_path.rglob("*") if item.suffix not in {".db-wal", ".db-shm"}}
    assert after == before
