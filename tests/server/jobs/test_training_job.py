"""A run that lost a site in any way is never called a success, wherever it is read."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.errors import RoundError, TakenOverError
from contract.messages import Instruction, Reply
from server.jobs.job import Job
from server.jobs.training_job import Services, run_training
from server.line.flower import assume_identity
from server.registry.registry import Registry
from server.state.records import RunRecord
from server.state.storage import State
from tests.server.federation import Behaviour, FakeFederation, honest, plan

SITES = ("north", "south", "west")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """One MLflow for the module: making its database costs seconds."""
    home = tmp_path_factory.mktemp("mlruns")
    yield Registry(f"sqlite:///{home}/mlflow.db", home / "artifacts")
    logging.getLogger("alembic").setLevel(logging.NOTSET)


class Told:
    """What each place says of a run."""

    def __init__(
        self,
        state: State,
        registry: Registry,
        *,
        online: Mapping[str, range] | None = None,
        admitted: Mapping[int, str] | None = None,
        federation: str = "",
        **behaviours: Behaviour,
    ) -> None:
        assume_identity(1)
        self._state, self._registry = state, registry
        self.run = f"run-{next(_numbers)}"
        grid = FakeFederation({site: behaviours.get(site, honest) for site in SITES}, online)
        services = Services(
            grid=grid,
            state=state,
            registry=registry,
            rng=np.random.default_rng(0),
            admitted=admitted,
            federation=federation,
        )
        job = Job(kind="train", run=self.run, experiment=plan(rounds=6, round_timeout=0.4))
        self.model = run_training(job, services)

    @property
    def record(self) -> RunRecord:
        found = self._state.run(self.run)
        assert found is not None
        return found

    @property
    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(str(self.record.result))
        return found

    @property
    def passport(self) -> str:
        return next(
            version.description
            for version in self._registry.versions("fake")
            if version.version == self.model.version
        )

    @property
    def sites(self) -> list[dict[str, Any]]:
        """The table in MLflow."""
        return sites_json(self._registry, self.model.mlflow_run)


_numbers = iter(range(1000))


def sites_json(registry: Registry, mlflow_run: str) -> list[dict[str, Any]]:
    (path,) = Path(registry.artifact_root).rglob(f"{mlflow_run}/artifacts/sites.json")
    found: list[dict[str, Any]] = json.loads(path.read_text())
    return found


def on(step: int, said: Any) -> Behaviour:
    return lambda reply, told, _: said if told.step == step else reply


def test_a_whole_run_succeeded_everywhere(state: State, registry: Registry) -> None:
    told = Told(state, registry)
    assert (told.record.status, told.record.error) == ("succeeded", "")
    assert told.result["status"] == "succeeded"
    assert "INCOMPLETE" not in told.passport
    assert "| status | succeeded |" in told.passport
    assert {(row["site"], row["state"]) for row in told.sites} == {(site, "counted") for site in SITES}
    assert len(told.sites) == 3 * 7


LOSSES: dict[str, tuple[dict[str, Any], str, str]] = {
    "silent in the middle": (
        {"west": on(3, None)},
        "west: no answer in round 3",
        "west (5 of 6)",
    ),
    "refused by itself": (
        {"west": on(3, "failed")},
        "west: failed in round 3",
        "west (5 of 6)",
    ),
    "late": (
        {"online": {"west": range(5, 100)}},
        "west: not asked in 4 of 6 rounds",
        "west (2 of 6)",
    ),
    "away from the start": (
        {"online": {"west": range(0)}, "admitted": dict(enumerate(SITES, start=1))},
        "west: not connected in rounds 1–6; west: not connected in the final evaluation",
        "west (0 of 6)",
    ),
    "away in the middle": (
        {"online": {"west": range(1, 3)}},
        "west: not connected in rounds 3–6; west: not connected in the final evaluation",
        "west (2 of 6)",
    ),
    "silent in the evaluation": (
        {"west": on(7, None)},
        "west: no answer in the final evaluation",
        "Not in the final evaluation: west (no answer)",
    ),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_run_that_lost_a_site_is_partial_everywhere_and_says_when_and_why(
    state: State, registry: Registry, loss: str
) -> None:
    given, error, warning = LOSSES[loss]
    told = Told(state, registry, **given)
    assert told.record.status == "partial"
    assert told.record.error.startswith(error)
    if loss != "late":
        assert "What to do: west: " in told.record.error
    assert told.result["status"] == "partial"
    assert "**INCOMPLETE.**" in told.passport
    assert warning in told.passport
    assert "| status | partial: not every site counted throughout |" in told.passport


def test_a_late_site_counts_from_then_on_and_the_passport_says_in_which_rounds(
    state: State, registry: Registry
) -> None:
    told = Told(state, registry, online={"west": range(5, 100)})
    assert told.result["rounds_counted"] == {"north": 6, "south": 6, "west": 2}
    assert "| west | 100–1,000 | 2 of 6 | 2 of 6 (5–6) | – |" in told.passport


def test_what_a_lost_site_spent_stays_in_the_passport(state: State, registry: Registry) -> None:
    told = Told(state, registry, west=on(7, "failed"))
    assert "west" in told.result["privacy"]
    assert "never answered" not in told.passport


def test_only_admitted_sites_of_this_federation_are_expected(state: State, registry: Registry) -> None:
    state.admit_site("north", federation="here", node_id=1, key="k")
    state.admit_site("east", federation="elsewhere", node_id=9, key="k")
    assert Told(state, registry, federation="here").record.status == "succeeded"
    state.admit_site("east", federation="here", node_id=9, key="k")
    told = Told(state, registry, federation="here")
    assert told.record.status == "partial"
    assert told.record.error.startswith("east: not connected in rounds 1–6; east: not connected in")
    assert ("east", "enrolled", "not connected") in {
        (row["site"], row["state"], row["reason"]) for row in told.sites
    }


@pytest.mark.parametrize("fault", ["none", "another"])
def test_a_process_whose_run_was_taken_over_ends_and_says_nothing_of_the_run(
    state: State, registry: Registry, fault: str
) -> None:
    """Neither when it comes to its next round, nor when something else goes wrong for it before."""

    def taken_over(reply: Reply, told: Instruction, _model: Any) -> Any:
        if told.step == 3:
            state.take_over(told.run)
            return reply if fault == "none" else "budget"
        return reply

    with pytest.raises(TakenOverError, match="goes on there"):
        Told(state, registry, south=taken_over)
    record = state.runs()[-1]
    assert (record.status, record.error, record.model_version) == ("running", "", None)
    assert len(state.rounds(record.name)) == 2


def test_a_run_that_ended_without_a_model_says_who_was_missing_in_mlflow_too(
    state: State, registry: Registry
) -> None:
    with pytest.raises(RoundError):
        Told(state, registry, south=on(2, "budget"), west=on(2, None))
    record = state.runs()[-1]
    assert record.status == "failed"
    assert "round 2 of run" in record.error
    assert "south (budget), west (no answer)" in record.error
    assert "tidegate site cost" in record.error
    rows = [row for row in sites_json(registry, str(record.mlflow_run_id)) if row["round"] == 2]
    assert {(row["site"], row["state"], row["reason"]) for row in rows} == {
        ("north", "trained", ""),
        ("south", "connected", "budget"),
        ("west", "connected", "no answer"),
    }
    assert all(row["what_to_do"] for row in rows if row["reason"])
