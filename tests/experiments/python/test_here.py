"""From Python, at sites on this machine: from cards to predictions, and each thing that can go wrong."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from contract.errors import ExperimentError, InputError, TidegateError
from experiments import Experiment, Federation, compare, connect
from scientist.progress import Step
from tests.experiments.python.conftest import ROWS, small


def test_from_cards_to_predictions(
    here: Federation, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    drafted = Experiment.from_cards(here, label="ill", name="drafted")
    assert {one.name for one in drafted.settings.task.features} == {"age", "ward"}
    told: list[Step] = []
    run = small().run(here)
    assert run.follow(told.append) is run
    assert [one.round for one in told] == [1, 2, 3]
    result = run.result()
    assert (run.status, result.model, result.version, result.private) == ("succeeded", "small", 1, True)
    # a held-out row pays most here, for the evaluations
    assert result.epsilon == {"north": pytest.approx(4.0, rel=1e-3), "south": pytest.approx(4.0, rel=1e-3)}
    assert here.versions("small") == [1]
    model = run.model()
    frame = pd.DataFrame(ROWS, index=["x", "y", "z"])
    told_frame = model.predict(frame)
    assert list(told_frame.index) == ["x", "y", "z"]
    assert told_frame["reason"].tolist() == ["", "", "age: a missing value"]
    rows = [dict(zip(ROWS, values, strict=True)) for values in zip(*ROWS.values(), strict=True)]
    columns = model.predict(ROWS)
    assert columns["probability_1"] == [*told_frame["probability_1"][:2], None]
    assert model.predict(rows) == [
        dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
    ]
    inputs, fits = model.inputs(frame)
    chances = torch.sigmoid(model.module()(torch.from_numpy(inputs[fits])))[:, 0].tolist()
    assert chances == pytest.approx(columns["probability_1"][:2], abs=1e-6)
    model.save(tmp_path / "kept")
    assert (tmp_path / "kept" / "SHA256SUMS").exists()
    assert capfd.readouterr() == ("", "")  # a call prints nothing
    again = here.run(run.name)
    assert again.result().metrics == result.metrics
    assert again.follow() is again
    assert [one.name for one in here.runs()] == [run.name]
    second = small().run(here).follow()
    side_by_side = compare(run, second)
    assert run.name in repr(side_by_side)
    assert repr(side_by_side) == repr(here.compare(run.name, second.name))
    assert side_by_side._repr_html_().count("data:image/png;base64,") == 1
    for kept in ("state.db", "state.db-wal"):
        path = tmp_path / ".tidegate" / kept
        assert not path.exists() or not stat.S_IMODE(path.stat().st_mode) & 0o077


def test_what_could_not_succeed_is_not_begun(here: Federation, tmp_path: Path) -> None:
    hidden = small().changed({"privacy.epsilon": 0.05})
    with pytest.raises(InputError, match=r"not begun, and nothing was spent.*would learn little.*yes=True"):
        hidden.run(here)
    assert not (tmp_path / ".tidegate").exists()
    assert hidden.run(here, yes=True).result().private


def test_a_run_that_ends_without_a_model_says_why_to_whoever_asks(here: Federation, tmp_path: Path) -> None:
    (tmp_path / "north" / "rows.csv").write_text("age,ward,ill,window,side\n")
    run = small().run(here)
    with pytest.raises(TidegateError, match="none of 0 training rows"):
        run.follow()
    for ask in (run.result, run.model):
        with pytest.raises(TidegateError, match=r"the run is failed: .*none of 0 training rows"):
            ask()
    assert run.status == "failed"
    assert "none of 0 training rows" in repr(run)


def test_a_run_is_stopped_and_goes_on(here: Federation) -> None:
    seen = threading.Event()
    run = small(rounds=60).run(here, yes=True)
    with pytest.raises(InputError, match="the run goes on"):
        run.resume()

    def stop(step: Step) -> None:
        if step.round == 2 and not seen.is_set():
            seen.set()
            run.stop()

    run.follow(stop)
    assert run.status == "stopped"
    done = run.detail().run.rounds
    assert 2 <= done < 60
    with pytest.raises(TidegateError, match="the run is stopped"):
        run.result()
    with pytest.raises(InputError, match="does not go on"):
        run.stop()
    assert run.resume().result().version == 1
    assert run.detail().run.rounds == 60


def test_two_runs_wait_for_each_other(here: Federation) -> None:
    """Flower has one identity in a process: the second would answer for the first."""
    first, second = small().run(here), small().changed({"name": "other"}).run(here)
    told: list[str] = []
    second.follow(lambda step: told.append(step.words))
    assert told[0] == "waits until the run before it has ended"
    assert (first.result().model, second.result().model) == ("small", "other")


def test_a_plan_spends_nothing_and_is_the_command_s(here: Federation, tmp_path: Path) -> None:
    count: list[int] = []
    plan = small().plan(here, told=count.append)
    assert count == [1, 2, 3, 4, 5]
    assert plan.to_json()["exchanges"] == 4
    assert not (tmp_path / "north" / "tidegate").exists()
    for words in ("3 rounds, so 4 exchanges", "north", "Nothing was spent."):
        assert words in repr(plan)
        assert words in plan._repr_html_()
    with pytest.raises(InputError, match="no curve"):
        plan.plot()


def test_arguments_that_do_not_go_together(here: Federation, tmp_path: Path) -> None:
    site = tmp_path / "north" / "site.toml"
    for arguments, words in (
        ({"url": "https://host:1", "sites": [site]}, "both named"),
        ({"data": "rand-health", "sites": [site]}, "both named"),
        ({}, "not connected to a server"),
        ({"profile": "nowhere"}, "no profile 'nowhere'"),
        ({"sites": [tmp_path / "away" / "site.toml"]}, "no such file"),
        ({"data": "away"}, "away"),
    ):
        with pytest.raises(InputError, match=words):
            connect(**arguments)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not connected"):
        small().run()
    with pytest.raises(InputError, match="no run 'away'"):
        here.run("away")
    with pytest.raises(InputError, match="no version 1"):
        here.model("small", 1)
    with pytest.raises(InputError, match="no run is named"):
        compare()
    with pytest.raises(InputError, match="is on no card"):
        Experiment.from_cards(here, label="ill", features=["size"])
    with pytest.raises(InputError, match="no card of west"):
        Experiment.from_cards(here, label="ill", sites=["west"])


def test_an_experiment_is_checked_whole_where_it_is_made(tmp_path: Path) -> None:
    features = [{"name": "age", "kind": "numeric", "low": 0, "high": 120}]
    made = Experiment(name="ill", task={"label": {"column": "ill"}, "features": features})
    assert made.settings.name == made.name == "ill"
    assert made == Experiment.from_text(made.text, where="Experiment()")
    for keys, words in (
        ({"name": "ill"}, "task"),
        ({"name": "ill", "task": {"label": {"column": "ill"}, "features": []}}, "features"),
        ({"name": "ill", "tusk": {}}, "tusk"),
        ({"name": object()}, "cannot be written"),
        ({"name": None}, "cannot be written|name"),
    ):
        with pytest.raises(ExperimentError, match=words):
            Experiment(**keys)
    with pytest.raises(ExperimentError, match="roundz"):
        made.changed({"strategy.roundz": 3})
    bolder = made.changed({"privacy.epsilon": 2, "strategy.name": "fedavgm", "name": "bolder"})
    assert (bolder.settings.privacy.epsilon, bolder.settings.strategy.name) == (2.0, "fedavgm")
    assert made.settings.privacy.epsilon == 1.0
    assert Experiment.from_file(bolder.save(tmp_path / "bolder.toml")).settings == bolder.settings
    with pytest.raises(InputError, match="there is a file already"):
        bolder.save(tmp_path / "bolder.toml")
    with pytest.raises(ExperimentError, match="cannot be read"):
        Experiment.from_file(tmp_path / "away.toml")
    unranged = Experiment(
        name="ill", task={"label": {"column": "ill"}, "features": [{"name": "age", "kind": "numeric"}]}
    )
    assert "no range yet" in repr(unranged)
    with pytest.raises(ExperimentError, match="no low and high"):
        _ = unranged.settings


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("age", "no rows"),
        (3, "no rows"),
        ([1, 2], "no rows"),
        ({"age": "9", "ward": "a"}, "no list of values"),
        ({"age": [1, 2], "ward": ["a"]}, "1 and 2 values"),
        ({"age": [1]}, "no column 'ward'"),
        ({"age": np.ones((2, 2)), "ward": ["a", "b"]}, "no list of values"),
        (pd.DataFrame([[1, 2, "a"]], columns=["age", "age", "ward"]), "twice"),
        ([], "no column 'age'"),
    ],
    ids=str,
)
def test_what_are_no_rows_is_one_sentence(rows: object, words: str) -> None:
    from serving.prediction import Predictor
    from serving.rows import columns_of

    predictor = Predictor(experiment=small().settings, arrays={})
    with pytest.raises(InputError, match=words):
        predictor.predict(columns_of(rows))
