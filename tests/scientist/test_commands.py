"""The commands by a profile: the same words as here, by role; a sentence for what stands in the way."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from contract.errors import InputError
from contract.experiment import Experiment, NumericFeature
from contract.experiment_file import parse_experiment
from contract.federation_api import SigningKey, Sites, Whoami
from contract.mandate import Ranges, read_mandate
from contract.names import is_run_of
from contract.recipe import needs_recipe, with_recipe
from contract.windows import window_of
from scientist.connected import connect
from scientist.profiles import Profiles
from scientist.settings import read_settings
from scientist.signing import active_signer, public_key
from server.state.records import RunStatus
from server.state.schedules import Schedules
from terminal.experiment_files import read_experiment
from tests.hostile import HOSTILE, require_harmless
from tests.scientist.conftest import Standing

Command = Callable[..., str]
READS = (
    ("drift", "list", "fake"),
    ("drift", "list", "never"),
    ("drift", "show", "fake", "2026-W05"),
    ("models", "list", "fake"),
    ("models", "list", "never"),
    ("models", "show", "fake", 2),
    ("schedule", "list"),
    ("schedule", "list", "fake"),
    ("sites", "cards"),
    ("sites", "cards", "north"),
    ("sites", "cards", "south"),
    ("compare", "first", "second"),
)
"""What is said; `sites list` adds here that no server runs."""
STORED = HOSTILE.replace("\ud800", "")


def plan_file(standing: Standing, folder: Path, *, name: str = "other", unranged: bool = False) -> Path:
    lines = [f'name = "{name}"', "[task]", 'label = { column = "ill" }']
    for feature in standing.experiment.task.features:
        assert isinstance(feature, NumericFeature)
        lines += ["[[task.features]]", f'name = "{feature.name}"', 'kind = "numeric"']
        lines += [] if unranged else ["low = -1", "high = 1"]
    file = folder / f"{name}.toml"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_a_profile_changes_who_is_asked_and_nothing_that_is_said(
    standing: Standing, tidegate: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = [*READS, *((*command, "--json") for command in (*READS, ("sites", "list")))]
    standing.here()
    here = [tidegate(*command) for command in everything]
    assert "No server runs here now" in tidegate("sites", "list")
    standing.connect("rita", "reviewer")
    for name in ("TIDEGATE_HOME", "MLFLOW_TRACKING_URI", "TIDEGATE_ARTIFACT_ROOT"):
        standing.patch.delenv(name)
    for command, told in zip(everything, here, strict=True):
        assert tidegate(*command) == told, command
    standing.here()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(standing.config / "rita"))
    note = "asks the server of the profile 'there'; TIDEGATE_PROFILE=- asks the one in"
    assert note in tidegate(*READS[0])
    monkeypatch.setenv("TIDEGATE_PROFILE", "-")
    assert tidegate(*READS[0]) == here[0]
    assert "Passport 2" in here[READS.index(("models", "show", "fake", 2))]
    card = here[READS.index(("sites", "cards", "north"))]
    for words in ("age", "0 to 120", "no range", "no, yes", "each week of 'day'", "about 5,000 rows"):
        assert words in card
    assert "has given the server no card" in here[READS.index(("sites", "cards", "south"))]


def test_unknown_names_are_a_sentence_and_end_with_2(standing: Standing, tidegate: Command) -> None:
    standing.connect("ada", "scientist")
    for command, words in (
        (("drift", "show", "fake", "2026-W40"), "no verdict on window '2026-W40'"),
        (("drift", "list", "No Experiment!"), "cannot be the name of an experiment"),
        (("drift", "show", "fake", "../x"), "cannot be the name of a window"),
        (("models", "show", "fake", 9), "there is no such version"),
        (("models", "list", "x' or name='y"), "cannot be the name of an experiment"),
        (("schedule", "list", "never"), "'never' has no schedule"),
        (("sites", "cards", "west"), "there is no such site"),
        (("sites", "cards", "../north"), "cannot be the name of a site"),
        (("runs", "resume", "never"), "there is no such run"),
        (("runs", "resume", "first"), "was not submitted over the API"),
        (("compare", "first", "never"), "there is no such run"),
    ):
        told = tidegate(*command, code=2)
        assert told.startswith("error: "), told
        assert words in told
        assert told.count("\n") == 1


def test_who_may_not_is_told_so_and_nothing_changes(
    standing: Standing, tidegate: Command, tmp_path: Path
) -> None:
    file, word = plan_file(standing, tmp_path), ("fake", 1, "--reason", "good")
    changes = {
        "operator": (
            ("schedule", "add", file), ("schedule", "unsign", "fake"), ("schedule", "pause", "fake"),
            ("schedule", "resume", "fake"), ("schedule", "remove", "fake"),
        ),
        "reviewer": tuple(("models", kind, *word) for kind in ("approve", "refuse", "rollback")),
    }  # fmt: skip
    kept = Schedules(standing.served.state.database)
    before = kept.all(), standing.served.state.decisions()
    for role in ("scientist", "operator", "reviewer"):
        standing.connect(role, role)
        for owner, commands in changes.items():
            for command in commands if owner != role else ():
                assert f"a{'n' if role == 'operator' else ''} {role} may not do this" in tidegate(
                    *command, code=2
                )
    standing.connect("rob", "reviewer")
    unranged = plan_file(standing, tmp_path, name="asks", unranged=True)
    for command in (("ranges", unranged), ("run", file, "--yes")):
        asked = tidegate(*command, code=2)
        assert "a reviewer may not do this" in asked
        assert "not signed" not in asked  # that would have them connect again for nothing
    assert (kept.all(), standing.served.state.decisions()) == before


def test_an_operator_keeps_schedules(standing: Standing, tidegate: Command, tmp_path: Path) -> None:
    standing.connect("olga", "operator")
    file = plan_file(standing, tmp_path)
    told = tidegate("schedule", "add", file, "--every", "month", "--first", "2026-01", "--lag", "2d")
    assert "'other' is watched, month by month, from 2026-01 on." in told
    kept = Experiment.model_validate_json(
        Schedules(standing.served.state.database).get("other").experiment_json
    )
    assert kept.strategy.reason in " ".join(told.split())  # what the recipe chose is what is kept
    assert not needs_recipe(kept)
    assert kept == with_recipe(read_experiment(file), [5000, 5000])
    assert "waits for a first version" in told
    assert "has a schedule" in tidegate("schedule", "add", file, code=2)
    assert "paused" in tidegate("schedule", "pause", "other")
    assert json.loads(tidegate("schedule", "list", "other", "--json"))[0]["paused"] is True
    assert "waits for a first version" in tidegate("schedule", "resume", "other")
    assert "'other' is watched no more." in tidegate("schedule", "remove", "other")
    for option, value in (("--cron", "* *"), ("--zone", "No/Where"), ("--first", "2026-13"), ("--lag", "x")):
        told = tidegate("schedule", "add", file, option, value, code=2)
        assert told.count("\n") == 1
    assert "'other' has no schedule" in tidegate("schedule", "pause", "other", code=2)
    assert "olga adds the schedule of other" in standing.served.log


def keyed(standing: Standing, name: str, role: str) -> str:
    """Connect as that person, who has a key as `tidegate connect` makes it; the public key."""
    standing.connect(name, role)
    key = public_key(Profiles(read_settings()).make_signing_key("there"))
    with connect() as connection:
        connection.post("/v1/signing-key", Whoami, SigningKey(key=key))
    return key


def test_a_schedule_is_signed_by_whoever_adds_it_or_by_a_scientist_later(
    standing: Standing, tidegate: Command, tmp_path: Path
) -> None:
    keyed(standing, "olga", "operator")
    file, kept = plan_file(standing, tmp_path), Schedules(standing.served.state.database)
    told = tidegate("schedule", "add", file, "--every", "week", "--first", "2026-W05")
    assert "signed by olga for 2026-W05 to " in told
    assert "'other' is watched no more." in tidegate("schedule", "remove", "other")
    standing.connect("otto", "operator")
    told = tidegate("schedule", "add", file, "--every", "week")
    assert "Not signed: sites that name scientists take no part" in told
    assert "you have no key to sign with" in tidegate("schedule", "sign", file, code=2)
    key = keyed(standing, "ada", "scientist")
    told = tidegate("schedule", "sign", file, "--first", "2026-W05", "--trained-on", "2026-W01..2026-W04")
    assert "'other' is signed: 2026-W05 to " in told
    assert "each week at most 2 times, against 2026-W01..2026-W04; until " in told
    signed = read_mandate(kept.get("other").mandate)
    standing_one = signed.mandate.standing
    assert standing_one is not None
    assert (signed.key, signed.mandate.scientist, standing_one.first) == (key, "ada", "2026-W05")
    assert standing_one.reference == ("2026-W01", "2026-W02", "2026-W03", "2026-W04")
    found = json.loads(tidegate("schedule", "list", "other", "--json"))[0]["signed"]
    assert found.startswith(f"by ada for 2026-W05 to {standing_one.last}, until ")
    today = window_of(datetime.now(UTC).date(), "week")
    assert f"signed: {today} to " in tidegate("schedule", "sign", file)
    for wrong, words in (
        (("--first", "2026-13"), "is no week"),
        (("--first", "2999-W01"), "Give more --sign-days"),
        (("--trained-on", "w1", "--trained-on", "w1"), "named twice"),
        (("--trained-on", "no\x1bwindow"), "no windows"),
    ):
        told = tidegate("schedule", "sign", file, *wrong, code=2)
        assert (words in told, told.count("\n")) == (True, 1), told
    keyed(standing, "bea", "scientist")
    assert "tidegate schedule unsign other" in tidegate("schedule", "sign", file, code=2)
    assert tidegate("schedule", "unsign", "other", code=2)
    standing.patch.setenv("XDG_CONFIG_HOME", str(standing.config / "otto"))
    assert json.loads(tidegate("schedule", "unsign", "other", "--json"))["signed"] == ""
    standing.patch.setenv("XDG_CONFIG_HOME", str(standing.config / "bea"))
    assert "'other' is signed: " in tidegate("schedule", "sign", file)
    changed = plan_file(standing, tmp_path)
    changed.write_text(f"{changed.read_text()}[drift]\nepsilon = 0.4\n")
    assert "for something else" in tidegate("schedule", "sign", changed, code=2)
    standing.here()
    told = tidegate("schedule", "unsign", "other")
    assert "'other': Not signed: sites that name scientists take no part" in " ".join(told.split())
    assert "one signs at the server of a profile" in tidegate("schedule", "sign", file, code=2)


def test_a_question_for_ranges_is_signed(standing: Standing, tidegate: Command, tmp_path: Path) -> None:
    keyed(standing, "ada", "scientist")
    file = plan_file(standing, tmp_path, name="asks", unranged=True)
    told = tidegate("ranges", file, "--epsilon", "0.0001", code=2)
    assert "no site answers such a question" in told
    signer = active_signer(3)
    assert signer is not None
    mandate = read_mandate(signer.ranges(standing.experiment, ["w2", "w1"], ["x1", "x0"], 0.25)).mandate
    assert mandate.ranges == Ranges(features=("x0", "x1"), epsilon=0.25)
    assert (mandate.windows, is_run_of("fake-ranges", mandate.run)) == (("w1", "w2"), True)


def test_a_reviewer_approves_refuses_and_goes_back_with_a_reason(
    standing: Standing, tidegate: Command
) -> None:
    standing.made_here()
    standing.connect("rita", "reviewer")
    assert "version 1 of 'fake' is the champion (approved by rita)" in tidegate(
        "models", "approve", "fake", 1, "--reason", "the first"
    )
    assert "version 2 of 'fake' is refused by rita" in tidegate(
        "models", "refuse", "fake", 2, "--reason", "too early"
    )
    told = tidegate("models", "approve", "fake", 2, "--reason", "better at north")
    assert "version 2 of 'fake' is the champion (approved by rita)" in told
    assert "champion" in tidegate("models", "list", "fake")
    told = tidegate("models", "rollback", "fake", 1, "--reason", "complaints", "--by", "rita")
    assert "version 1 of 'fake' is the champion (gone back to by rita)" in told
    found = [one for one in standing.served.state.decisions("fake") if one.by == "rita"]
    assert [(one.kind, one.subject, one.reason) for one in found] == [
        ("approve", "version 1", "the first"),
        ("refuse", "version 2", "too early"),
        ("approve", "version 2", "better at north"),
        ("rollback", "version 1", "complaints"),
    ]
    told = tidegate("models", "history", "fake")
    for words in ("too early", "approved by rita", "put into service again", "complaints", "review"):
        assert words in told
    assert [one["kind"] for one in json.loads(tidegate("models", "history", "fake", "--json"))] == [
        "approve", "promote", "refuse", "approve", "promote", "rollback"
    ]  # fmt: skip
    for wrong, words in (
        (("fake", 9, "--reason", "x"), "there is no such version"),
        (("fake", 1, "--reason", " "), "cannot be recorded"),
        (("fake", 1, "--reason", "\x1b[2J"), "cannot be recorded"),
        (("fake", 1, "--reason", "x" * 10_001), "1 to 10,000 characters"),
        (("fake", 1, "--reason", "x", "--by", "somebody"), "you are 'rita' there"),
    ):
        assert words in tidegate("models", "approve", *wrong, code=2)
    assert [one for one in standing.served.state.decisions("fake") if one.by == "rita"] == found


def test_names_with_markup_and_escapes_are_shown_as_signs(standing: Standing, tidegate: Command) -> None:
    for number in range(3):
        standing.verdict(f"w{number}", STORED)
    run = standing.served.submissions.add(standing.experiment, person="ada", federation="x").run
    standing.served.state.start_run(
        run, experiment=standing.experiment, job="train", trigger="t", code_hash="c"
    )
    standing.served.state.finish_run(run, "failed", error=STORED)
    standing.connect("ada", "scientist")
    for command in (
        ("drift", "list", "fake"), ("drift", "show", "fake", "w1"), ("runs", "list"), ("compare", run, run),
    ):  # fmt: skip
        require_harmless(tidegate(*command, width=6000))
        require_harmless(tidegate(*command, "--json"))


def test_long_lists_are_read_page_by_page(standing: Standing, tidegate: Command) -> None:
    windows = [f"2020-W{week:02}" for week in range(1, 53)] + [f"w{number}" for number in range(180)]
    Schedules(standing.served.state.database).enter("fake", [(name, datetime.now(UTC)) for name in windows])
    standing.connect("ada", "scientist")
    (found,) = json.loads(tidegate("schedule", "list", "--json"))
    assert [one["window"] for one in found["windows"]][4:] == windows


def test_an_older_server_is_said_so(standing: Standing) -> None:
    standing.connect("ada", "scientist")
    with connect() as asked, pytest.raises(InputError, match="does not know this question") as refused:
        asked.get("/v1/questions-to-come", Sites)
    assert "older version" in str(refused.value)


def test_a_server_that_is_away_is_a_sentence(standing: Standing, tidegate: Command) -> None:
    standing.connect("ada", "scientist")
    (profile,) = (standing.config / "ada").rglob("there.toml")
    profile.write_text(profile.read_text().replace(standing.served.url, "https://127.0.0.1:1"))
    for command in READS:
        told = tidegate(*command, code=2)
        assert "the server cannot be reached" in told
        assert told.count("\n") == 1


def test_a_run_that_failed_goes_on_for_its_owner_and_an_operator_alone(
    standing: Standing, tidegate: Command
) -> None:
    served, state, submissions = standing.served, standing.served.state, standing.served.submissions

    def failed(status: RunStatus = "failed") -> str:
        run = submissions.add(standing.experiment, person="ada", federation=standing.federation).run
        taken = submissions.take(standing.federation, at_once=100)
        assert taken is not None
        state.start_run(run, experiment=standing.experiment, job="train", trigger="ada", code_hash="c")
        state.finish_run(run, status, error="too few sites")
        submissions.settle(taken)
        return run

    run, done = failed(), failed("succeeded")
    tokens = {name: served.people.add(name, "scientist") for name in ("ada", "ben")}
    with served.client(tokens["ben"]) as ben:
        refused = ben.post(f"/v1/runs/{run}/resume")
        assert (refused.status_code, "ada's" in refused.json()["what"]) == (403, True)
    with served.client(tokens["ada"]) as ada:
        waiting = submissions.add(standing.experiment, person="ben", federation=standing.federation).run
        found = ada.post(f"/v1/runs/{run}/resume")
        assert found.status_code == 202
        stands = found.json()["run"]
        assert (stands["name"], stands["status"], stands["place"], stands["error"]) == (run, "queued", 2, "")
        assert submissions.places(standing.federation) == {waiting: 1, run: 2}
        for name, words in ((run, "goes on"), (done, "has its result"), ("first", "was not submitted over")):
            again = ada.post(f"/v1/runs/{name}/resume")
            assert (again.status_code, words in again.json()["what"]) == (409, True), again.text
        stopped = ada.post(f"/v1/runs/{run}/stop").json()["run"]
        assert stopped["status"] in ("failed", "stopped")
    olga = served.people.add("olga", "operator")
    with served.client(olga) as operator:
        assert operator.post(f"/v1/runs/{run}/resume").status_code == 202


def test_a_question_for_ranges_joins_the_queue_and_its_answer_is_shown(
    standing: Standing, tidegate: Command, tmp_path: Path
) -> None:
    standing.connect("ada", "scientist")
    file, written = plan_file(standing, tmp_path, name="asks", unranged=True), tmp_path / "whole.toml"
    submissions, state = standing.served.submissions, standing.served.state
    ended = threading.Event()

    def answer() -> None:
        while (taken := submissions.take(standing.federation, at_once=1)) is None and not ended.is_set():
            time.sleep(0.05)
        assert taken is not None
        experiment = Experiment.model_validate_json(taken.experiment_json)
        state.start_run(taken.run, experiment=experiment, job="ranges", trigger="ada", code_hash="c")
        names = [feature.name for feature in experiment.task.features]
        state.link_run(taken.run, result=json.dumps(ranges_result(taken.run, names)))
        state.finish_run(taken.run, "succeeded")
        submissions.settle(taken)

    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(answer)
        try:
            told = tidegate("ranges", file, "--epsilon", 0.9, "--share", 0.3, "--write", written)
        finally:
            ended.set()
        asked.result()
    (found,) = [one for one in state.runs("asks") if one.job == "ranges"]
    submission = submissions.get(found.name)
    assert submission is not None
    assert submission.question == {"features": ["x0", "x1", "x2"], "epsilon": 0.9, "share": 0.3}
    assert "low = -2.0\nhigh = 3.0" in told
    assert parse_experiment(written.read_text(), where="written").task.features[0].low == -2.0  # type: ignore[union-attr]
    assert "-2 (-3 to -1)" in tidegate("runs", "show", found.name)
    for option, value, words in (
        ("--epsilon", 100, "above the experiment's own"),
        ("--epsilon", 0, "greater than 0"),
        ("--share", 0.5, "less than 0.5"),
        ("--epsilon", 0.01, "nothing was asked and nothing charged"),
        ("--write", written, "there is a file already"),
    ):
        told = tidegate("ranges", file, option, value, code=2)
        assert words in told, told


def ranges_result(run: str, names: list[str]) -> dict[str, Any]:
    feature = {"low": -2.0, "low_between": [-3.0, -1.0], "high": 3.0, "high_between": [2.0, 4.0]}
    rest = {"missing_share": 0.0, "missing_error": 0.0, "reason": "", "least_share": 0.001}
    spent = {"epsilon_in_total": 0.5, "block": "all", "method": "PLD"}
    return {
        "run": run, "experiment": "asks", "share": 0.01, "private": True, "epsilon": 0.5, "delta": 1e-5,
        "sites": {"north": spent, "south": spent}, "failures": {},
        "features": [{"feature": name, **feature, **rest} for name in names],
    }  # fmt: skip


def test_a_draft_is_made_from_the_cards_of_the_federation(
    standing: Standing, tidegate: Command, tmp_path: Path
) -> None:
    standing.connect("ada", "scientist")
    file = tmp_path / "ill.toml"
    tidegate("new", file, "--feature", "age")
    experiment = parse_experiment(file.read_text(), where="draft")
    assert (experiment.task.label.column, experiment.task.time) == ("ill", "day")
    for name in ("south", "west"):  # of the first no card is known
        told = tidegate("new", tmp_path / "x.toml", "--site", name, code=2)
        assert f"no card of {name} is known" in told
    assert not (tmp_path / "x.toml").exists()
