"""Who puts a version into service; against who would do it alone, in another's name, or behind its back.

MLflow is real, a file in a folder; so is the state database.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from contract.errors import ChangedError, InputError, RegistryError, TidegateError
from contract.experiment import Experiment
from contract.names import challenger_run
from server.alias_watch import AliasWatch
from server.jobs import review
from server.jobs.champion import champion_number
from server.jobs.registered import registered_hashes
from server.registry.aliases import champions
from server.registry.model_files import hashes_of
from server.registry.registry import CHAMPION, Registry
from server.state.storage import State, open_state
from server.state.submissions import Submissions
from server.state.versions import RegisteredVersions
from tests.mlflow_database import lay_mlflow_database
from tests.server.federation import plan

ARRAYS = {"layers.0.weight": np.ones((1, 3), dtype=np.float32), "layers.0.bias": np.ones(1, dtype=np.float32)}
PASSPORT = "# Model passport\n\nε = 1"


@dataclass
class Made:
    """Versions of a model, each with a run."""

    folder: Path
    state: State
    registry: Registry

    def version(
        self,
        approval: str = "policy",
        *,
        least: int = 0,
        by: str = "",
        gate: bool = True,
        record: bool = True,
        name: str = "",
    ) -> int:
        """One that was trained, and what the gate then says of it."""
        experiment = with_approval(approval)
        name = name or f"run-{len(self.state.runs(experiment.name)) + 1}"
        if by:
            name = Submissions(self.state.database).add(experiment, person=by, federation="f").run
        run = self.registry.start_run(experiment, run_name=name)
        version = self.registry.register(
            experiment.name, run, ARRAYS, experiment=experiment, description=PASSPORT
        )
        self.state.start_run(name, experiment=experiment, job="train", trigger="t", code_hash="c")
        self.state.link_run(name, model_version=version)
        if record:
            registered = RegisteredVersions(self.state.database)
            registered.add_files(experiment.name, version, hashes_of(ARRAYS, experiment))
            registered.add_passport(experiment.name, version, PASSPORT)
        if not gate:
            return version
        needed = review.approvals_needed(experiment, self.state, least)
        review.enter_gate(
            experiment,
            version,
            self.state,
            self.registry,
            window="",
            kind="propose" if needed else "promote",
            reason="better",
        )
        return version

    def says(
        self, kind: str, version: int, by: str, *, least: int = 0, reason: str = "seen"
    ) -> review.ReviewStatus:
        return review.ACTS[kind](NAME, version, self.state, self.registry, by=by, reason=reason, least=least)

    def forged(self, statement: str, *values: object, rows: bool = True) -> None:
        """What somebody does who reaches MLflow's database."""
        with sqlite3.connect(self.folder / "mlflow.db") as connection:
            done = connection.execute(statement, values).rowcount
            assert done > 0 or not rows
        connection.close()

    @property
    def alias(self) -> int | None:
        return champions(self.registry.tracking_uri).get(NAME)


NAME = plan().name


def with_approval(approval: str) -> Experiment:
    experiment = plan()
    return Experiment.model_validate(
        {
            **experiment.model_dump(),
            "retraining": {**experiment.retraining.model_dump(), "approval": approval},
        }
    )


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    lay_mlflow_database(tmp_path / "mlflow.db")
    registry = Registry(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "artifacts")
    with open_state(f"sqlite:///{tmp_path / 'state.db'}") as state:
        yield Made(tmp_path, state, registry)


@pytest.mark.parametrize(
    ("approval", "least", "people"),
    [("policy", 0, 0), ("policy", 1, 1), ("reviewer", 0, 1), ("two-reviewers", 1, 2), ("reviewer", 2, 2)],
)
def test_the_stricter_of_experiment_and_server_says_how_many_must_approve(
    made: Made, approval: str, least: int, people: int
) -> None:
    version = made.version(approval, least=least)
    for number in range(people):
        assert (made.alias, champion_number(NAME, made.state)) == (None, None)
        status = made.says("approve", version, f"reviewer {number}", least=least)
        assert (status.needed, status.in_service) == (people, number + 1 == people)
    assert made.alias == version
    kinds = [one.kind for one in review.history(NAME, made.state)]
    assert kinds == (["propose", *["approve"] * people, "promote"] if people else ["promote"])
    assert {one.evidence for one in review.history(NAME, made.state)} == {review.sha256(PASSPORT.encode())}


def test_one_person_is_not_two_and_a_refusal_ends_what_was_approved(made: Made) -> None:
    version = made.version("two-reviewers")
    made.says("approve", version, "rita")
    with pytest.raises(InputError, match="'rita' has approved version 1 already"):
        made.says("approve", version, "rita")
    assert made.says("refuse", version, "omar").approved_by == ()
    assert made.says("approve", version, "omar").missing == 1
    assert made.alias is None
    assert made.says("approve", version, "rita").in_service
    with pytest.raises(InputError, match="is in service already"):
        made.says("approve", version, "rob")
    with pytest.raises(InputError, match="is in service"):
        made.says("refuse", version, "rob")


@pytest.mark.parametrize("by", ["policy", "Review", " server "])
def test_nobody_decides_in_the_name_of_who_decides_by_itself(made: Made, by: str) -> None:
    version = made.version("reviewer")
    with pytest.raises(InputError, match="decides by itself, and nobody in its name"):
        made.says("approve", version, by)
    assert made.alias is None


def test_who_had_a_version_trained_does_not_decide_on_it(made: Made) -> None:
    version = made.version("reviewer", by="ada")
    for kind in ("approve", "refuse", "rollback"):
        with pytest.raises(InputError, match="'ada' had version 1 of 'fake' trained"):
            made.says(kind, version, "ada")
    assert made.says("approve", version, "rita").in_service
    challenger = made.version("reviewer")  # a schedule's: of whoever submitted the model that it watches
    with pytest.raises(InputError, match="'ada' had version 2"):
        made.says("approve", challenger, "ada")


def test_one_person_goes_back_but_only_to_what_was_in_service(made: Made) -> None:
    first, second = made.version(), made.version("two-reviewers")
    with pytest.raises(InputError, match="version 2 of 'fake' was never in service"):
        made.says("rollback", second, "rita")
    for name in ("rita", "omar"):
        made.says("approve", second, name)
    assert made.alias == second
    assert made.says("rollback", first, "rita", reason="complaints").in_service
    assert made.alias == first
    tags = {one.version: one.tags[review.REVIEW_TAG] for one in made.registry.versions(NAME)}
    assert tags == {first: "in service", second: "was in service"}


def test_mlflow_shows_the_decisions_and_a_passport_that_was_changed_there_is_named(made: Made) -> None:
    version = made.version("reviewer")
    made.says("approve", version, "rita", reason="all sites | are in")
    (record,) = made.registry.versions(NAME)
    assert "| approved | rita | all sites \\| are in |" in record.description
    assert review.shown_passport(NAME, record, made.state) == (record.description.strip(), "")
    made.forged("UPDATE model_versions SET description = 'All fine, epsilon = 0.01'")
    (forged,) = made.registry.versions(NAME)
    shown, warning = review.shown_passport(NAME, forged, made.state)
    assert (shown, "changed there" in warning) == (record.description.strip(), True)


def test_a_file_that_was_changed_with_its_hash_in_mlflow_is_not_approved_and_not_used(made: Made) -> None:
    version = made.version("reviewer")
    (arrays,) = (made.folder / "artifacts").rglob("arrays.npz")
    arrays.write_bytes(b"others")
    made.forged(
        "UPDATE model_version_tags SET value = ? WHERE key = 'tidegate.arrays_sha256'",
        review.sha256(b"others"),
    )
    assert made.registry.files(NAME, version)["arrays.npz"] == b"others"  # as far as MLflow can tell
    with pytest.raises(RegistryError, match="arrays are not those that were registered"):
        made.says("approve", version, "rita")
    known = RegisteredVersions(made.state.database).hashes(NAME, version)
    with pytest.raises(RegistryError, match="arrays are not those that were registered"):
        made.registry.load_arrays(NAME, version, known)
    assert made.alias is None


def test_an_alias_that_another_moved_is_put_back_told_and_entered(made: Made) -> None:
    said: list[str] = []
    watch = AliasWatch(made.state, made.registry, said.append)
    watch.look_now()
    waits = made.version("reviewer")
    made.registry.set_alias(NAME, CHAMPION, waits)  # before anybody approved it
    watch.look_now()
    assert made.alias is None
    made.says("approve", waits, "rita")
    second = made.version("reviewer")
    made.forged("UPDATE registered_model_aliases SET version = ?", second)
    watch.look_now()
    assert made.alias == waits
    made.forged("DELETE FROM registered_model_aliases")
    watch.look_now()
    assert made.alias == waits
    watch.look_now()
    assert [one.partition(", which")[0] for one in said] == [
        "model 'fake': the alias 'champion' pointed at version 1",
        "model 'fake': the alias 'champion' pointed at version 2",
        "model 'fake': the alias 'champion' was taken away. It was put back",
    ]
    assert [one.kind for one in made.state.decisions(NAME)].count("restore") == 3
    assert champion_number(NAME, made.state) == waits


def test_the_alias_of_a_model_that_is_not_ours_is_left_alone(made: Made) -> None:
    made.version()
    run = made.registry.start_run(plan(), run_name="another's")
    other = plan().model_copy(update={"name": "theirs"})
    made.registry.register("theirs", run, ARRAYS, experiment=other, description="")
    made.registry.set_alias("theirs", CHAMPION, 1)
    AliasWatch(made.state, made.registry, pytest.fail).look_now()
    assert champions(made.registry.tracking_uri) == {NAME: 1, "theirs": 1}


def test_a_watch_is_neither_blinded_nor_ended_by_what_stands_in_mlflows_database(made: Made) -> None:
    """A text for a number, a line of another workspace, a version that is gone, a table that refuses."""
    first = made.version()
    second = made.version("reviewer")
    said: list[str] = []
    watch = AliasWatch(made.state, made.registry, said.append)
    made.forged("UPDATE registered_model_aliases SET version = 'x'")
    watch.look_now()
    assert made.alias == first
    made.forged("UPDATE registered_model_aliases SET version = ?", second)
    made.forged(
        "INSERT INTO registered_model_aliases (alias, version, name, workspace) "
        "VALUES ('champion', ?, ?, 'zz')",
        first,
        NAME,
    )
    watch.look_now()
    assert made.alias == first
    made.forged("DELETE FROM registered_model_aliases WHERE workspace = 'zz'")
    made.forged("UPDATE model_versions SET current_stage = 'Deleted_Internal' WHERE version = ?", first)
    made.registry.set_alias(NAME, CHAMPION, second)
    watch.look_now()
    assert made.alias is None  # better none than one that nobody decided
    assert f"version {first}, which is in service, is gone from MLflow" in said[-1]
    told = len(made.state.decisions(NAME))
    watch.look_now()
    assert len(made.state.decisions(NAME)) == told


def test_an_alias_that_lags_behind_its_decision_is_no_crime(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the two; and a look that falls between them says nothing."""
    monkeypatch.setattr("server.alias_watch._PAUSE", 0.0)
    first, second = made.version(), made.version("reviewer")
    made.state.record_decision(
        NAME, window="", kind="promote", subject=f"version {second}", by="review", reason="x"
    )
    said: list[str] = []
    watch = AliasWatch(made.state, made.registry, said.append)
    watch.look()
    assert (said, made.alias) == ([], first)
    watch.look()
    assert made.alias == second
    assert "still pointed at version 1, whose place another has taken" in said[0]
    tags = {one.version: one.tags[review.REVIEW_TAG] for one in made.registry.versions(NAME)}
    assert tags == {first: "was in service", second: "in service"}


def test_a_model_of_our_name_that_another_made_keeps_its_alias(made: Made) -> None:
    run = made.registry.start_run(plan(), run_name="another's")
    theirs = made.registry.register(NAME, run, ARRAYS, experiment=plan(), description="")
    made.registry.set_alias(NAME, CHAMPION, theirs)
    made.version("reviewer")
    AliasWatch(made.state, made.registry, pytest.fail).look_now()
    assert made.alias == theirs
    with pytest.raises(InputError, match="no run of this server has made version 1"):
        made.says("approve", theirs, "rita")


def test_a_passport_that_was_changed_in_mlflow_is_decided_on_by_nobody(made: Made) -> None:
    """They read another text than the one that would be written beside their word."""
    version = made.version("reviewer")
    for kind in ("approve", "refuse"):
        made.forged("UPDATE model_versions SET description = 'All fine, epsilon = 0.01'")
        with pytest.raises(ChangedError, match="was changed there: nothing was decided"):
            made.says(kind, version, "rita")
        (record,) = made.registry.versions(NAME)
        assert review.shown_passport(NAME, record, made.state)[1] == ""  # put back
    kinds = [one.kind for one in made.state.decisions(NAME)]
    assert kinds == ["propose", "restore", "restore"]
    assert made.says("approve", version, "rita").in_service


def test_a_word_that_was_cut_off_before_its_promotion_is_finished(made: Made) -> None:
    version = made.version("reviewer")
    made.state.record_decision(
        NAME, window="", kind="approve", subject=f"version {version}", by="rita", reason="x",
        evidence=review.sha256(PASSPORT.encode()),
    )  # fmt: skip
    assert review.review_of(NAME, version, made.state, least=0).missing == 0
    assert made.says("approve", version, "rita").in_service
    assert [one.kind for one in made.state.decisions(NAME)] == ["propose", "approve", "promote"]


def test_a_challenger_is_decided_on_once_the_gate_has_spoken_and_lowers_no_bar(made: Made) -> None:
    first = made.version("two-reviewers")
    for name in ("rita", "omar"):
        made.says("approve", first, name)
    second = made.version("policy")  # of whoever checks a window, or trains, with a plan of their own
    assert made.alias == first
    assert review.history(NAME, made.state)[-1].kind == "propose"
    assert made.says("approve", second, "rita").missing == 1
    made.state.start_run("check", experiment=plan(), job="cycle", trigger="t", code_hash="c")
    fourth = made.version("policy", gate=False, name=challenger_run("check"))
    with pytest.raises(InputError, match="is being compared with the champion"):
        made.says("approve", fourth, "rita")


@pytest.mark.parametrize("by", ["Ada", " ada", "ＡＤＡ"])
def test_a_name_that_could_be_taken_for_another_counts_as_that(made: Made, by: str) -> None:
    version = made.version("reviewer", by="ada")
    with pytest.raises(InputError, match="trained"):
        made.says("approve", version, by)


def test_what_an_earlier_tidegate_registered_is_kept_from_its_first_reading_on(made: Made) -> None:
    version = made.version("reviewer", record=False)
    made.says("approve", version, "rita")
    known = RegisteredVersions(made.state.database).hashes(NAME, version)
    assert set(known) == {"arrays.npz", "experiment.json"}
    assert registered_hashes(NAME, version, made.state, made.registry) == known
    assert RegisteredVersions(made.state.database).passport(NAME, version) == PASSPORT


def test_a_database_that_is_away_is_said_once_and_the_server_goes_on(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.alias_watch._PAUSE", 0.0)
    said: list[str] = []
    watch = AliasWatch(made.state, Registry("http://127.0.0.1:9", made.folder), said.append)
    for _ in range(3):
        watch.look()
    (told,) = said
    assert told.startswith("where aliases point is not known for now: MLflow does not say")


def test_what_cannot_be_recorded_is_refused_before_anything_is_read(made: Made) -> None:
    version = made.version("reviewer")
    wrong = (("rita", " "), ("rita", "x" * 10_001), ("\x1b[2J", "seen"), ("", "seen"))
    for by, reason in wrong:
        with pytest.raises(TidegateError, match="cannot be recorded"):
            made.says("approve", version, by, reason=reason)
    with pytest.raises(InputError, match="there is no version 9"):
        made.says("approve", 9, "rita")
