"""Round the loop once: from a closed window to a decision, and only then to the alias."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from clients.app import app
from contract.errors import RegistryError, RoundError
from contract.experiment import Experiment, Gate
from contract.experiment_file import parse_experiment
from contract.messages import DRIFT_QUERY, Instruction, Reply
from contract.releases import score_cell, score_middle
from contract.windows import places
from experiments.runtimes.inline import InlineGrid
from monitoring.policy import WindowOutcome
from server.api.overview import spending_of
from server.cycle import _budget, _decide, _last_retraining, run_cycle
from server.exchange.answers import Answers
from server.jobs.champion import Champion, champion_of
from server.jobs.job import Job
from server.jobs.training_job import Services
from server.line.flower import assume_identity
from server.registry.registry import CHAMPION, Registry
from server.state.storage import State
from tests.cards import card_for
from tests.server.federation import honest_reply

TEXT = """\
name = "model"
[task]
time = "window"
label = { column = "ill" }
[[task.features]]
name = "level"
kind = "numeric"
low = 0
high = 100
[strategy]
rounds = 2
local_steps = 15
learning_rate = 2.0
grace = 0.1
round_timeout = 60.0
[privacy]
private = false
seed = 7
[drift]
false_alarm_rate = 0.01
[retraining]
persistence = 1
of = 1
cooldown = 0
windows = 1
"""

SITES = ("north", "south", "west")
CALM, TURNED = "w2", "w3"
"""The window in which all is as in w1; and the one in which levels are higher and mean the contrary."""


class Recording(Registry):
    """The real registry, noting what was decided whenever an alias moves; away when it is told so."""

    def __init__(self, home: Path, state: State) -> None:
        super().__init__(f"sqlite:///{home}/mlflow.db", home / "artifacts")
        self.state = state
        self.alias_fails = False
        self.decided: list[tuple[str, int, list[tuple[str, str]]]] = []

    def set_alias(self, name: str, alias: str, version: int) -> None:
        self.decided.append((alias, version, decisions(self.state, name)))
        if self.alias_fails:
            raise RegistryError("MLflow is away")
        super().set_alias(name, alias, version)


def decisions(state: State, name: str) -> list[tuple[str, str]]:
    return [(decision.kind, decision.subject) for decision in state.decisions(name)]


@pytest.fixture(scope="module")
def mlruns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One MLflow for the module: making its database costs seconds."""
    yield tmp_path_factory.mktemp("mlruns")
    logging.getLogger("alembic").setLevel(logging.NOTSET)


@pytest.fixture
def registry(mlruns: Path, state: State) -> Recording:
    return Recording(mlruns, state)


@pytest.fixture
def nowhere(tmp_path: Path) -> Registry:
    """A registry that nobody can use."""
    (tmp_path / "file").write_text("")
    return Registry(f"sqlite:///{tmp_path}/file/mlflow.db", tmp_path / "artifacts")


@pytest.fixture
def sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.setattr("clients.mechanisms.drift.write_local_report", lambda *_: None)  # seconds
    return [_site(tmp_path / name, name, seed) for seed, name in enumerate(SITES)]


def _site(folder: Path, name: str, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    lines = ["level,ill,window,side"]
    for row in range(360):
        window = ("w1", CALM, TURNED)[row // 120]
        level = rng.uniform(30, 100) if window == TURNED else rng.uniform(0, 80)
        ill = (rng.random() < level / 100) != (window == TURNED)
        lines.append(f"{level:.3f},{ill:d},{window},{'holdout' if row % 4 == 0 else 'train'}")
    folder.mkdir()
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    (folder / "site.toml").write_text(
        f'name = "{name}"\nstated_rows = 90\n[data]\nkind = "csv"\npath = "rows.csv"\n'
        f"{card_for(plan('card'), holdout='side')}[policy]\nrequire_private = false\n"
    )
    return folder / "site.toml"


def plan(name: str, **gate: float) -> Experiment:
    return parse_experiment(TEXT, where="test").model_copy(update={"name": name, "gate": Gate(**gate)})


def services(job: Job, sites: list[Path], state: State, registry: Registry) -> Services:
    grid = InlineGrid(app, sites, job.to_run_config())
    assume_identity(grid.run_id)
    return Services(grid=grid, state=state, registry=registry, rng=np.random.default_rng(7))


def put_into_service(experiment: Experiment, state: State, registry: Recording) -> None:
    """Version 1, right for w1: the chance of being ill grows with the level."""
    name, run = experiment.name, f"{experiment.name}-1"
    state.start_run(run, experiment=experiment, job="train", trigger="test", code_hash="c0de")
    arrays = {"layers.0.weight": np.float32([[4]]), "layers.0.bias": np.float32([-2])}
    mlflow_run = registry.start_run(experiment, run_name=run)
    version = registry.register(name, mlflow_run, arrays, experiment=experiment, description="")
    state.link_run(run, model_version=version, result=json.dumps({"windows": ["w1"]}))
    decide(state, name, "promote", f"version {version}")
    registry.set_alias(name, CHAMPION, version)


def cycle(
    experiment: Experiment, window: str, sites: list[Path], state: State, registry: Registry
) -> dict[str, object]:
    job = Job(kind="cycle", run=f"{experiment.name}-{window}", experiment=experiment, window=window)
    run_cycle(job, services(job, sites, state, registry))
    record = state.run(job.run)
    assert record is not None
    assert (record.job, record.status, record.error) == ("cycle", "succeeded", "")
    return dict(json.loads(str(record.result)))


def decide(state: State, name: str, kind: str, subject: str) -> None:
    state.record_decision(name, window="w1", kind=kind, subject=subject, by="test", reason="")  # type: ignore[arg-type]


def test_the_champion_is_that_of_the_last_promotion_or_rollback(state: State) -> None:
    for kind, subject, expected in (
        ("promote", "version 1", 1),
        ("refuse", "version 2", 1),
        ("promote", "version 12", 12),
        ("retrain", "retraining", 12),
        ("approve", "version 3", 12),
        ("rollback", "version 1", 1),
        ("promote", "the run of version 4", 1),
    ):
        decide(state, "model", kind, subject)
        assert champion_of("model", state) == Champion(version=expected, windows=())


def test_a_model_that_was_never_promoted_has_no_champion(state: State) -> None:
    decide(state, "model", "refuse", "version 1")
    decide(state, "other", "promote", "version 1")
    with pytest.raises(RegistryError, match="'model' has no champion"):
        champion_of("model", state)


def test_the_champions_windows_are_those_that_its_run_was_trained_on(
    state: State, experiment: Experiment
) -> None:
    for version, windows in ((1, ["w1"]), (2, ["w2", "w3"])):
        state.start_run(f"r{version}", experiment=experiment, job="train", trigger="test", code_hash="c0de")
        state.link_run(f"r{version}", model_version=version, result=json.dumps({"windows": windows}))
        decide(state, experiment.name, "promote", f"version {version}")
    assert champion_of(experiment.name, state).windows == ("w2", "w3")
    decide(state, experiment.name, "rollback", "version 1")
    assert champion_of(experiment.name, state).windows == ("w1",)


def test_a_result_that_names_no_windows_is_of_all_rows(state: State, experiment: Experiment) -> None:
    state.start_run("r1", experiment=experiment, job="train", trigger="test", code_hash="c0de")
    state.link_run("r1", model_version=1, result=json.dumps({"metrics": {}}))
    decide(state, experiment.name, "promote", "version 1")
    assert champion_of(experiment.name, state) == Champion(version=1, windows=())


def test_a_cycle_without_a_champion_ends_as_failed(
    sites: list[Path], state: State, nowhere: Registry
) -> None:
    with pytest.raises(RegistryError, match="no champion"):
        cycle(plan("model"), CALM, sites, state, nowhere)
    (run,) = state.runs()
    assert run.status == "failed"
    assert "no champion to watch" in run.error


def test_a_quiet_window_leads_to_nothing_and_needs_no_registry(
    sites: list[Path], state: State, nowhere: Registry
) -> None:
    state.start_run("r1", experiment=plan("model"), job="train", trigger="test", code_hash="c0de")
    state.link_run("r1", model_version=1, result=json.dumps({"windows": ["w1"]}))
    decide(state, "model", "promote", "version 1")
    result = cycle(plan("model"), CALM, sites, state, nowhere)
    assert (result["decision"], result["alarm"], result["sites_in_alarm"]) == ("none", False, [])
    assert "challenger" not in result
    spending = spending_of(state.last_results(10))
    assert {site: (one.run, one.unit) for site, one in spending.items()} == dict.fromkeys(
        SITES, ("model-w2", "record")
    )
    assert decisions(state, "model") == [("promote", "version 1"), ("none", "retraining")]
    assert [run.job for run in state.runs()] == ["train", "cycle"]
    assert [(verdict.window, verdict.alarm) for verdict in state.verdicts("model")] == [(CALM, False)]
    assert {found.site for found in state.drift("model", CALM)} == set(SITES)


def test_a_drifted_window_ends_in_a_promotion_that_is_decided_before_the_alias_moves(
    sites: list[Path], state: State, registry: Recording
) -> None:
    experiment = plan("promoted")
    put_into_service(experiment, state, registry)
    assert champion_of("promoted", state) == Champion(version=1, windows=("w1",))
    result = cycle(experiment, TURNED, sites, state, registry)
    expected = [("promote", "version 1"), ("retrain", "retraining"), ("promote", "version 2")]
    assert decisions(state, "promoted") == expected
    assert registry.decided == [(CHAMPION, 1, expected[:1]), (CHAMPION, 2, expected)]
    assert champion_of("promoted", state) == Champion(version=2, windows=(TURNED,))
    assert registry.champion("promoted") == 2
    assert result["sites_in_alarm"] == list(SITES)
    assert (result["promoted"], result["champion"], result["challenger"]) == (True, 1, 2)
    assert set(result["privacy"]) == set(SITES)
    assert result["trained_on"] == [TURNED]
    assert result["gain"] == pytest.approx(_gain_by_hand(registry, sites), abs=1e-5)
    assert "accepted: Brier score better by" in registry.versions("promoted")[1].description


def _gain_by_hand(registry: Registry, sites: list[Path]) -> float:
    """Mean over all held-out rows of the turned window of how much lower the challenger's Brier score is."""
    rows = [line.split(",") for path in sites for line in path.with_name("rows.csv").read_text().split()]
    held_out = [row for row in rows if row[2:] == [TURNED, "holdout"]]
    level = np.array([float(row[0]) for row in held_out]) / 100
    sign = np.array([1 if row[1] == "1" else -1 for row in held_out])
    losses = []
    for version in (1, 2):
        arrays = registry.load_arrays("promoted", version)
        score = level * arrays["layers.0.weight"].item() + arrays["layers.0.bias"].item()
        middle = score_middle(score_cell(1 / (1 + np.exp(-score))))
        losses.append((middle - (sign > 0)) ** 2)
    return float((losses[0] - losses[1]).mean())


def test_what_a_site_can_pay_it_says_itself() -> None:
    def said(able: bool) -> Reply:
        asked = Instruction(run="r", windows=("w2",), reference_windows=("w1",))
        reply = honest_reply("north", kind=DRIFT_QUERY, instruction=asked, model={})
        assert reply.drift is not None
        return replace(reply, drift=replace(reply.drift, can_train=able))

    answers = Answers(
        asked=("north", "south", "west", "east"),
        replies={"north": said(True), "south": said(False)},
        failures={"west": "budget", "east": "no answer"},
    )
    assert _budget(answers) == {"north": True, "south": False, "west": False}


def test_an_attempt_that_failed_starts_no_cooldown_and_windows_keep_their_places(state: State) -> None:
    def outcome(window: str) -> WindowOutcome:
        return WindowOutcome(window=window, index=places([window])[window], alarm=True)

    history = [outcome(window) for window in ("2026-W05", "2026-W09")]
    job = Job(kind="cycle", run="r", experiment=plan("model"), window="2026-W09")
    state.record_decision(
        "model", window="2026-W05", kind="retrain", subject="retraining", by="policy", reason=""
    )
    assert _last_retraining(job, history, state) is None
    state.record_decision(
        "model", window="2026-W05", kind="refuse", subject="version 2", by="policy", reason=""
    )
    assert _last_retraining(job, history, state) == history[1].index - 4


def test_an_old_window_that_is_checked_late_replaces_no_newer_model(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody has a window of winter checked in summer: the challenger would be the better one in winter."""
    monkeypatch.setattr("server.cycle._budget", lambda _: dict.fromkeys(SITES, True))
    nothing: Any = None
    verdict: Any = SimpleNamespace(rests_on="")

    def action(window: str, *trained: str) -> tuple[str, str]:
        job = Job(kind="cycle", run="r", experiment=plan("model"), window=window)
        state.save_verdict("model", window=window, verdict={}, alarm=True)
        found = _decide(job, Champion(version=7, windows=trained), nothing, verdict, state)
        return found.action, found.reason

    for trained in ((), ("2026-W04", "2026-W05"), ("w1", "w9"), ("2026-03",)):
        assert action("2026-W05", *trained)[0] == "retrain", trained
    late, why = action("2026-W06", "2026-W19", "2026-W20")
    assert (late, "version 7, which is in service, was trained on 2026-W20, which is later" in why) == (
        "watch",
        True,
    )
    assert state.decisions("model")[-1].reason == why
    assert action("2026-W21", "2026-W19", "2026-W20")[0] == "retrain"
    assert action("w1", "w2")[0] == "retrain"  # whose order nobody knows


def test_a_challenger_that_the_gate_refuses_moves_nothing(
    sites: list[Path], state: State, registry: Recording
) -> None:
    experiment = plan("refused", min_improvement=0.99)
    put_into_service(experiment, state, registry)
    result = cycle(experiment, TURNED, sites, state, registry)
    assert decisions(state, "refused")[1:] == [("retrain", "retraining"), ("refuse", "version 2")]
    assert [version for _, version, _ in registry.decided] == [1]
    assert champion_of("refused", state).version == registry.champion("refused") == 1
    assert (result["promoted"], result["challenger"]) == (False, 2)
    assert "not accepted" in registry.versions("refused")[1].description


def test_a_stop_between_decision_and_alias_leaves_the_truth_in_the_decisions(
    sites: list[Path], state: State, registry: Recording
) -> None:
    experiment = plan("cut")
    put_into_service(experiment, state, registry)
    registry.alias_fails = True
    with pytest.raises(RegistryError, match="MLflow is away"):
        cycle(experiment, TURNED, sites, state, registry)
    assert champion_of("cut", state).version == 2
    assert registry.champion("cut") == 1
    record = state.run(f"cut-{TURNED}")
    assert record is not None
    assert (record.status, record.error) == ("failed", "MLflow is away.")
    before = state.decisions("cut")
    registry.alias_fails = False
    for path in sites:
        path.with_name("rows.csv").unlink()  # nobody is asked again
    result = cycle(experiment, TURNED, sites, state, registry)
    assert registry.champion("cut") == 2
    assert state.decisions("cut") == before
    assert (result["decision"], result["challenger"], result["promoted"]) == ("retrain", 2, True)
    assert result["sites_in_alarm"] == list(SITES)


def test_a_cycle_that_failed_in_training_goes_on_with_the_retraining_it_decided(
    sites: list[Path], state: State, registry: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = plan("resumed")
    put_into_service(experiment, state, registry)
    with monkeypatch.context() as away:
        away.setattr("clients.app._train", lambda _: 1 / 0)
        with pytest.raises(RoundError):
            cycle(experiment, TURNED, sites, state, registry)
    result = cycle(experiment, TURNED, sites, state, registry)
    assert result["decision"] == "retrain"
    assert champion_of("resumed", state).version == 2


def test_a_cycle_that_is_repeated_is_decided_without_what_came_later(
    sites: list[Path], state: State, nowhere: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = plan("model")
    state.start_run("r1", experiment=experiment, job="train", trigger="test", code_hash="c0de")
    state.link_run("r1", model_version=1, result=json.dumps({"windows": ["w1"]}))
    decide(state, "model", "promote", "version 1")
    with monkeypatch.context() as away:
        away.setattr("server.cycle.decide", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cycle(experiment, CALM, sites, state, nowhere)
    state.save_verdict("model", window="later", verdict={}, alarm=True)
    result = cycle(experiment, CALM, sites, state, nowhere)
    assert (result["decision"], result["alarm"]) == ("none", False)


def test_too_few_sites_end_the_cycle_with_everyones_reason_in_the_state(
    sites: list[Path], state: State, nowhere: Registry
) -> None:
    decide(state, "model", "promote", "version 1")
    for name, node in zip(SITES, (1, 2, 3), strict=True):
        state.record_site(name, node_id=node, stated_rows=90)
    sites[1].with_name("rows.csv").unlink()
    sites[2].write_text(sites[2].read_text().replace("false", "true"))
    with pytest.raises(RoundError):
        cycle(plan("model"), CALM, sites, state, nowhere)
    (run,) = state.runs()
    assert run.status == "failed"
    assert run.ended is not None
    assert (
        f"the drift check of window '{CALM}' needs 2 sites and got 1; missing: south (source), west (policy)"
        in run.error
    )
    assert decisions(state, "model") == [("promote", "version 1")]
    assert state.verdicts("model") == ()
