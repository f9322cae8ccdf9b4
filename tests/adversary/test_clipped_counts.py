"""A server that wants more counts of clipped gradients than an experiment has, and one that is told lies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from experiments.audit.hostile_server import TRAIN, Answer, HostileServer, instruction_for
from tests.adversary import wire
from tests.adversary.conftest import LaySite
from tests.adversary.rows import Figure, Rows
from tests.adversary.test_mandates import Attack, attack

__all__ = ["attack"]

BASE = wire.base_experiment()
COUNTED = BASE | {"strategy": {"rounds": 5, "evaluate_every": 5, "clipped_every": 3}}


def ask(server: HostileServer, step: int, experiment: dict[str, Any] = COUNTED, **more: Any) -> Answer:
    return server.ask(TRAIN, instruction_for(TRAIN, step=step, **more), experiment=experiment)


def charged(site: Any) -> list[str]:
    return [entry["plan"] for entry in wire.entries(site) if entry["kind"] == "reserve"]


def test_counts_come_in_the_rounds_of_the_experiment_and_in_no_other(
    lay: LaySite, rows: Rows, tried: Figure
) -> None:
    site = lay(rows, cap=50.0)
    server = HostileServer(site)
    steps = [0, 1, 2, 3, 4, 5, 6, 7, 10, 1_000_000]
    answers = {step: ask(server, step) for step in steps}
    assert [step for step, found in answers.items() if found.reply.get("clipped")] == [1, 4]
    assert charged(site).count("r/clipped") == 2
    tried(len(steps))


def test_a_round_that_is_asked_again_has_the_same_count_and_costs_nothing(lay: LaySite, rows: Rows) -> None:
    site = lay(rows, cap=50.0)
    server = HostileServer(site)
    first = ask(server, 1)
    spent = charged(site)
    others = [ask(server, 1), ask(server, 1, windows=["w2"]), ask(server, 1, evaluate=True)]
    assert {found.written for found in others} == {first.written}
    assert charged(site) == spent


@pytest.mark.parametrize(
    "more", [{"clipped": True}, {"clipped_every": 1}, {"noise_multiplier": 0.1}, {"clipped_epsilon": 9.0}]
)
def test_no_field_of_a_message_asks_for_one(
    lay: LaySite, rows: Rows, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    monkeypatch.setattr("clients.site.read_rows", _must_not_run)
    site = lay(rows, cap=50.0)
    assert ask(HostileServer(site), 2, **more).word == "input"
    assert charged(site) == []


PRIVACY = BASE["privacy"]
CHANGED: dict[str, dict[str, Any]] = {
    "more rounds": COUNTED | {"strategy": COUNTED["strategy"] | {"clipped_every": 1}},
    "more ε for them": COUNTED | {"privacy": PRIVACY | {"clipped_epsilon": 0.5}},
    "less ε for them": COUNTED | {"privacy": PRIVACY | {"clipped_epsilon": 0.001}},
    "none": COUNTED | {"strategy": {"rounds": 5, "evaluate_every": 5}},
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_mandate_covers_no_other_counts_than_were_signed(
    attack: Attack, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from contract.experiment import Experiment
    from contract.mandate import sign_mandate

    monkeypatch.setattr("clients.site.read_rows", _must_not_run)
    signed = sign_mandate(attack.mandate(Experiment.model_validate(COUNTED)), attack.key)
    found = attack.ask(signed, experiment=CHANGED[name])
    assert (found.word, attack.charged) == ("policy", 0)


@pytest.mark.parametrize("name", CHANGED)
def test_an_approval_is_for_the_counts_that_the_administrator_saw(
    lay: LaySite, rows: Rows, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clients.site.read_rows", _must_not_run)
    site = lay(rows, cap=50.0, policy=f'approved_experiments = ["{wire.digest(COUNTED)}"]')
    assert ask(HostileServer(site), 1, CHANGED[name]).word == "policy"
    assert charged(site) == []


def test_counts_that_the_cap_does_not_allow_are_refused_before_a_row_is_read(
    lay: LaySite, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clients.site.read_rows", _must_not_run)
    site = lay(rows, cap=0.9)  # the run costs 1 with its counts
    assert ask(HostileServer(site), 1).word == "budget"
    assert charged(site) == []


@pytest.mark.parametrize(
    ("rate", "theorem"), [(1.0, "Gaussian privacy filter"), (0.2, "and a Gaussian filter")]
)
def test_a_run_with_its_counts_costs_what_the_experiment_says(
    lay: LaySite, rows: Rows, figure: Figure, rate: float, theorem: str
) -> None:
    """Counts are of all rows, also where a step takes a sample, and are charged so beside its plan."""
    site = lay(rows, cap=1.0)  # which leaves nothing above it
    server, experiment = HostileServer(site), COUNTED | {"privacy": PRIVACY | {"sampling_rate": rate}}
    answers = [ask(server, step, experiment) for step in range(1, 6)]
    assert [found.word for found in answers] == [""] * 5
    assert theorem in answers[-1].reply["spent_in_run"]["method"]
    assert 0.98 < wire.spent(site) <= 1.0 + 1e-9
    assert ask(server, 6, experiment).word == "budget"
    figure(f"sampling rate {rate:g}: ε of training and two counts {wire.spent(site):.6f}, stated 1")


def _must_not_run(*_: Any, **__: Any) -> Callable[..., Any]:
    raise AssertionError("a row was read")
