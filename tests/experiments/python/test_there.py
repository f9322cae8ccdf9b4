"""From Python, at a federation's server: the calls that here ask sites on this machine ask it there."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from contract.errors import InputError, TidegateError
from contract.federation_api import RunDetail
from experiments import Experiment, connect
from scientist.profiles import Profiles
from scientist.settings import read_settings
from server.line.certificates import authority_fingerprint
from tests.installations import python_with
from tests.scientist.conftest import Standing

Command = Callable[..., str]
ILL = {
    "name": "ill",
    "task": {
        "label": {"column": "ill", "classes": ["no", "yes"]},
        "features": [{"name": "age", "kind": "numeric", "low": 0, "high": 120}],
    },
    "privacy": {"epsilon": 3.0, "evaluation_epsilon": 3.0},
}


def test_it_asks_what_the_commands_ask(standing: Standing, tidegate: Command) -> None:
    standing.connect("ada", "scientist")
    federation = connect()
    assert "as ada" in repr(federation)
    assert {one.site for one in federation.cards()} == {"north", "south"}
    listed = json.loads(tidegate("runs", "list", "--json"))["runs"]
    assert [one.name for one in federation.runs()] == [one["name"] for one in listed]
    run = federation.run("first")
    assert run.status == "failed"
    assert run.detail() == RunDetail.model_validate_json(tidegate("runs", "show", "first", "--json"))
    with pytest.raises(TidegateError, match="the run is failed: too few sites"):
        run.result()
    assert federation.versions("fake") == [1, 2]
    model = federation.model("fake", 2)
    names = [one.name for one in standing.experiment.task.features]
    assert model.predict({name: [1.0, -1.0] for name in names})["prediction"] == ["1", "0"]
    for ask in (
        lambda: federation.model("fake", 9),
        lambda: federation.run("../x"),
        lambda: federation.run("x"),
    ):
        with pytest.raises(InputError):
            ask()


def test_a_run_is_signed_submitted_and_stopped(standing: Standing) -> None:
    standing.here()
    files, token = standing.served.files, standing.served.people.add("ada", "scientist")
    federation = connect(standing.served.url, token=token, authority=files.authority)
    experiment = Experiment(**ILL)
    drafted = Experiment.from_cards(federation, label="ill", features=["age"], sites=["north"])
    assert drafted.settings.task.features[0].name == "age"
    run = experiment.run(federation)
    kept = standing.served.submissions.get(run.name)
    assert kept is not None
    assert (kept.person, kept.mandate != "") == ("ada", True)
    assert run.status == "queued"
    assert "queued" in repr(run)
    run.stop()
    assert run.status == "stopped"
    with pytest.raises(InputError, match=r"strategy\.quorum is 3"):
        experiment.changed({"strategy.quorum": 3}).run(federation)


def test_a_run_without_a_key_warns_that_it_is_not_signed(standing: Standing) -> None:
    standing.connect("ada", "scientist")
    with pytest.warns(UserWarning, match="not signed"):
        Experiment(**ILL).run()


def test_an_address_and_a_token_make_a_profile(standing: Standing, monkeypatch: pytest.MonkeyPatch) -> None:
    standing.here()
    url, token = standing.served.url, standing.served.people.add("bob", "scientist")
    fingerprint = authority_fingerprint(standing.served.files.authority.read_bytes()).hex()
    with pytest.raises(InputError, match="is not known here: its SHA-256 is"):
        connect(url, token=token)
    with pytest.raises(InputError, match="another fingerprint"):
        connect(url, token=token, fingerprint="0" * 64)
    with pytest.raises(InputError, match="no token"):
        connect(url, fingerprint=fingerprint)
    assert Profiles(read_settings()).active() == ""
    assert "as bob" in repr(connect(url, token=token, fingerprint=fingerprint, profile="mine"))
    assert Profiles(read_settings()).active() == "mine"
    assert Profiles(read_settings()).signing_key() is not None
    assert "as bob" in repr(connect())
    monkeypatch.setenv("TIDEGATE_PROFILE", "-")
    assert "as bob" in repr(connect(profile="mine"))
    assert "as bob" in repr(connect(url, token=token, authority=standing.served.files.authority))


_LAPTOP = """
import sys
from experiments import Experiment, compare, connect
from contract.errors import InputError
federation = connect()
print(federation, federation.cards(), federation.run("first"), compare(federation.run("first")))
print(Experiment.from_cards(federation, label="ill", features=["age"], sites=["north"]))
assert federation._repr_html_() and federation.run("first")._repr_html_()
def needs(call):
    try:
        call()
    except InputError as exc:
        return str(exc)
experiment = Experiment.from_cards(federation, label="ill", features=["age"], sites=["north"])
print("MODEL", needs(lambda: federation.model("fake", 2)))
print("PLAN", needs(lambda: experiment.plan(federation)))
print("HERE", needs(lambda: connect(sites=["site.toml"])))
heavy = {"numpy", "torch", "pandas", "mlflow", "flwr"}
print(sorted({name.partition(".")[0] for name in sys.modules} & heavy))
"""


def test_the_least_installation_is_enough_and_says_what_more_needs(standing: Standing) -> None:
    standing.connect("ada", "scientist")
    done = python_with("scientist", standing.config.parent, _LAPTOP)
    assert done.returncode == 0, done.stderr
    told = dict(
        line.split(" ", 1) for line in done.stdout.splitlines() if line.startswith(("MODEL", "PLAN", "HERE"))
    )
    assert "pip install 'tidegate[predict]'" in told["MODEL"]
    assert "pip install 'tidegate[all]'" in told["PLAN"]
    assert "pip install 'tidegate[all]'" in told["HERE"]
    assert done.stdout.splitlines()[-1] == "[]"


_NOTEBOOK = """
from experiments import connect
from contract.errors import InputError
model = connect().model("fake", 2)
names = [one.name for one in model.predictor.experiment.task.features]
print(model.predict([dict.fromkeys(names, 1), {}]))
try:
    model.module()
except InputError as exc:
    print(exc)
"""


def test_predictions_need_numpy_and_no_torch(standing: Standing) -> None:
    standing.connect("ada", "scientist")
    done = python_with("predict", standing.config.parent, _NOTEBOOK)
    assert done.returncode == 0, done.stderr
    assert "'prediction': '1'" in done.stdout
    assert "a missing value" in done.stdout
    assert "needs torch" in done.stdout
