"""`tidegate site personal` and `predict`: a part of the site's own, for predictions at the site."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clients import site as sites
from contract.experiment import Experiment
from contract.experiment_file import parse_experiment
from contract.messages import COMPARE, Reply
from contract.model_version import ARRAYS_FILE, EXPERIMENT_FILE
from contract.models import initial_arrays
from terminal.predictions import write_files
from tests.cards import card_for
from tests.clients.test_app import EXPERIMENT, TEXT, TWICE, ask

Command = Callable[..., str]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A site where nine of ten are ill, whatever their level is; the shared model knows of half."""
    monkeypatch.setattr(sites, "_open", {})
    rng = np.random.default_rng(1)
    lines = ["level,ill,window,side"]
    lines += [
        f"{rng.uniform(0, 100):.3f},{row % 10 > 0:d},w1,{'holdout' if row % 4 == 0 else 'train'}"
        for row in range(400)
    ]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "site.toml").write_text(
        'name = "north"\nstated_rows = 300\n[data]\nkind = "csv"\npath = "rows.csv"\n'
        f"{card_for(EXPERIMENT, holdout='side')}[policy]\nepsilon_cap = 10.0\n"
    )
    yield tmp_path / "site.toml"
    for known in sites._open.values():
        known.ledger.close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return folder_of(EXPERIMENT, tmp_path / "small-1")


def folder_of(experiment: Experiment, folder: Path, seed: int = 0) -> Path:
    """A version's folder, as `tidegate models fetch` writes it."""
    arrays = initial_arrays(experiment, np.random.default_rng(seed))
    arrays["layers.0.weight"] += np.float32(seed / 10)  # a linear model begins with zeros
    archive = folder.with_suffix(".npz")
    np.savez(archive, allow_pickle=False, **arrays)
    files = {
        EXPERIMENT_FILE: experiment.model_dump_json().encode(),
        ARRAYS_FILE: archive.read_bytes(),
    }
    write_files(files, folder)
    return folder


def test_a_part_is_fitted_judged_and_predicted_with(tidegate: Command, site: Path, model: Path) -> None:
    told = json.loads(tidegate("site", "personal", site, model, "--json"))
    assert told["part"] == "bias"
    assert (told["training_rows"], told["held_out_rows"]) == (300, 100)
    assert told["personal"]["log loss"] < told["shared"]["log loss"]
    assert told["personal"]["accuracy"] == pytest.approx(0.9, abs=0.1)
    text = tidegate("site", "personal", site, model, "--part", "head")
    assert "for you alone" in text
    assert "not private" in text
    rows = site.with_name("new.csv")
    rows.write_text("level\n10\n90\nmany\n")
    ours = json.loads(tidegate("site", "predict", site, model, rows, "--json"))
    assert ours["part"] == "head"
    assert [row["prediction"] for row in ours["predictions"]] == ["1", "1", None]
    shared = json.loads(tidegate("site", "predict", site, model, rows, "--shared", "--json"))
    assert shared["part"] is None
    assert shared["predictions"][0]["probability_1"] != ours["predictions"][0]["probability_1"]
    assert "they are not private" in tidegate("site", "predict", site, model, rows)


def test_what_cannot_be_done_is_one_sentence(tidegate: Command, site: Path, model: Path) -> None:
    rows = site.with_name("new.csv")
    rows.write_text("level\n10\n")
    assert "no part of this model was fitted here" in tidegate("site", "predict", site, model, rows, code=2)
    tidegate("site", "personal", site, model)
    other = folder_of(EXPERIMENT, site.with_name("small-2"), seed=1)
    assert "no part of this model" in tidegate("site", "predict", site, other, rows, code=2)
    for name in ("one.csv", "nothing-here"):
        assert "cannot be read" in tidegate("site", "personal", site, site.with_name(name), code=2)
    foreign = parse_experiment(TEXT.replace('"level"', '"height"'), where="small")
    text = tidegate("site", "personal", site, folder_of(foreign, site.with_name("foreign")), code=2)
    assert "height" in text
    (site.with_name("rows.csv")).write_text("level,ill,window,side\n50,1,w1,train\n")
    sites._open.clear()
    assert "1 training rows and 0 held-out rows" in tidegate("site", "personal", site, model, code=2)


def test_a_fitted_part_changes_nothing_that_is_sent(tidegate: Command, site: Path, model: Path) -> None:
    """Each kind of exchange with a model, without noise, so that what it holds is the rows' own."""
    open_plan = parse_experiment(f"{TEXT}private = false\n", where="small")
    site.write_text(site.read_text().replace("[policy]", "[policy]\nrequire_private = false"))
    found = []
    for run in ("before", "after"):
        for kind in ("train", "evaluate", COMPARE):
            answer = ask(site, kind, experiment=open_plan, instruction=replace(TWICE, run=run))
            assert not answer.has_error(), answer.error
            found.append(released(Reply.from_records(answer.content)))
        tidegate("site", "personal", site, model, "--part", "head")
    assert found[:3] == found[3:]


def released(reply: Reply) -> str:
    """All numbers that a reply releases."""
    arrays = {} if reply.update is None else {k: v.tolist() for k, v in reply.update.arrays.items()}
    scores = (reply.scores, reply.challenger_scores)
    counts = [(one.negative.tolist(), one.positive.tolist()) for one in scores if one is not None]
    return repr((arrays, counts, reply.comparison))
