"""What a hostile server can do with a mandate for a schedule: what was signed, each once, and no more."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from clients.mandates import TOLERANCE
from clients.site import open_site
from contract.experiment import Experiment
from contract.mandate import Mandate, Ranges, authority_digest, public_key_of, sign_mandate
from contract.standing import Standing
from experiments.audit.hostile_server import (
    COMPARE,
    DRIFT,
    EVALUATE,
    KINDS,
    RANGES,
    TRAIN,
    Answer,
    HostileServer,
)
from server.line.certificates import make_server_files
from tests.adversary import wire
from tests.adversary.conftest import LaySite
from tests.adversary.rows import Figure, Rows, text
from tests.adversary.test_mandates import AUTHORITY, Attack, must_not_run

FIRST, LAST = "2026-W10", "2026-W13"
BEFORE, AFTER = ("2026-W08", "2026-W09"), "2026-W14"
TRAINED = ("2026-W01", "2026-W02")
"""The windows that the first model was trained on."""
EXPERIMENT = wire.base_experiment() | {"retraining": {"windows": 3}}
STANDING = Standing(
    every="week", first=FIRST, last=LAST, tries=2, drift_epsilon=0.5, reference=TRAINED
)  # fmt: skip


class Schedule(Attack):
    """The scientist of a schedule, and the server that holds the standing mandate."""

    def standing(self, standing: Standing = STANDING, **more: Any) -> str:
        plan = Experiment.model_validate(EXPERIMENT)
        return sign_mandate(self.mandate(plan, **{"windows": (), "covers": standing, **more}), self.key)

    def check(self, mandate: str, window: str = FIRST, number: object = 1, **more: Any) -> Answer:
        values = {"run": f"r-{window}-{number}", "step": 0, "windows": [window]}
        values |= {"reference_windows": list(TRAINED), "experiment": EXPERIMENT}
        return self.ask(mandate, DRIFT, **values | more)

    def retrain(
        self, mandate: str, kind: str = TRAIN, window: str = FIRST, number: object = 1, **more: Any
    ) -> Answer:
        values = {"run": f"r-{window}-{number}-challenger", "windows": [window], "experiment": EXPERIMENT}
        return self.ask(mandate, kind, **values | more)

    @property
    def plans(self) -> Counter[str]:
        """How often each plan was charged."""
        return Counter(entry["plan"] for entry in wire.entries(self.site) if entry["kind"] == "reserve")


@pytest.fixture
def attack(lay: LaySite, rows: Rows) -> Schedule:
    key = Ed25519PrivateKey.generate()
    content = text(rows).replace("w1", FIRST).replace("w2", "2026-W11")
    site = lay(content, cap=5000.0, policy=f'scientists = {{ ada = "{public_key_of(key)}" }}')
    return Schedule(site=site, key=key, server=HostileServer(site, AUTHORITY))


def test_a_schedule_that_is_signed_is_answered(attack: Schedule) -> None:
    """Check, retraining on this window and the ones before it, comparison; then against the challenger."""
    signed, windows = attack.standing(), [*BEFORE, FIRST]
    assert attack.check(signed).word == ""
    assert [attack.retrain(signed, kind, windows=windows).word for kind in (TRAIN, EVALUATE, COMPARE)] == [
        ""
    ] * 3
    assert attack.check(signed, "2026-W11", reference_windows=windows).word == ""
    kept = {
        entry["body"].get("mandate")
        for entry in wire.entries(attack.site)
        if entry["kind"] in ("reserve", "commit")
    }
    assert len(kept) == 1
    assert None not in kept
    reference, other = sorted(name for name in attack.plans if "/reference/" in name)
    assert attack.plans == {
        "r-2026-W10-1/drift/0": 1,
        "r-2026-W10-1-challenger/train": 1,
        "r-2026-W10-1-challenger/evaluate": 2,
        "r-2026-W10-1-challenger/compare": 1,
        "r-2026-W11-1/drift/0": 1,
        reference: 1,
        other: 1,
    }


PRIVACY = EXPERIMENT["privacy"]
ANY: dict[str, dict[str, Any]] = {
    "a window before": {"window": "2026-W09"},
    "a window after": {"window": AFTER},
    "a window of another kind": {"window": "2026-03"},
    "no window": {"window": "w1"},
    "all rows": {"windows": []},
    "a try more": {"number": 3},
    "a try before the first": {"number": 0},
    "a try with a nought": {"number": "01"},
    "any name": {"run": "r"},
    "another window's name": {"run": "r-2026-W11-1"},
    "another schedule's name": {"run": "s-2026-W10-1"},
    "a challenger's challenger": {"run": "r-2026-W10-1-challenger-challenger"},
    "a larger ε": {"experiment": EXPERIMENT | {"privacy": PRIVACY | {"epsilon": 1.01}}},
    "a larger ε of the check": {"experiment": EXPERIMENT | {"drift": {"epsilon": 0.6}}},
    "no noise": {"experiment": EXPERIMENT | {"privacy": PRIVACY | {"private": False}}},
    "more windows to retrain on": {"experiment": EXPERIMENT | {"retraining": {"windows": 4}}},
}
CHECKS: dict[str, dict[str, Any]] = {
    "another step": {"step": 1},
    "two windows": {"windows": ["2026-W11", FIRST]},
    "a challenger's name": {"run": "r-2026-W10-1-challenger"},
    "a part of the reference": {"reference_windows": ["2026-W01"]},
    "the reference in another order": {"reference_windows": list(reversed(TRAINED))},
    "all rows as the reference": {"reference_windows": []},
    "a reference of any windows": {"reference_windows": ["2025-W40"]},
    "a reference that is too long": {"window": LAST, "reference_windows": [*BEFORE, FIRST, "2026-W11"]},
    "a reference with a gap": {"window": LAST, "reference_windows": ["2026-W09", "2026-W12"]},
    "a reference out of order": {"window": LAST, "reference_windows": ["2026-W11", FIRST]},
    "the window itself as its reference": {"reference_windows": [FIRST]},
    "a later window as its reference": {"reference_windows": ["2026-W11"]},
    "a label as its reference": {"reference_windows": ["w1"]},
}
TRAININGS: dict[str, dict[str, Any]] = {
    "a check's name": {"run": "r-2026-W10-1"},
    "a round more": {"step": 2},
    "no round": {"step": 0},
    "four windows": {"windows": ["2026-W07", *BEFORE, FIRST]},
    "an old window": {"windows": ["2026-W01", FIRST]},
    "a window twice over": {"windows": [FIRST, "2026-W09", FIRST]},
    "windows out of order": {"windows": ["2026-W09", "2026-W08", FIRST]},
    "a later window": {"windows": [FIRST, "2026-W11"]},
    "a label among them": {"windows": ["base", FIRST]},
    "retraining that is switched off": {"experiment": EXPERIMENT | {"retraining": {"enabled": False}}},
}


@pytest.mark.parametrize("other", [*ANY, *CHECKS])
def test_a_server_asks_for_another_check(
    attack: Schedule, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clients.site.read_rows", must_not_run)
    found = attack.check(attack.standing(), **(ANY | CHECKS)[other])
    assert (found.word, attack.charged) in (("policy", 0), ("input", 0))
    assert found.word == "policy" or other == "a window twice over"


@pytest.mark.parametrize("kind", [TRAIN, EVALUATE, COMPARE])
@pytest.mark.parametrize("other", [*ANY, *TRAININGS])
def test_a_server_asks_for_another_training(
    attack: Schedule, kind: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clients.site.read_rows", must_not_run)
    more = dict((ANY | TRAININGS)[other])
    if kind == EVALUATE and "step" in more:
        more["step"] += 3
    found = attack.retrain(attack.standing(), kind, **more)
    assert attack.charged == 0
    assert found.word == ("input" if other == "a window twice over" else "policy")


def test_a_schedule_that_does_not_retrain_signs_no_training(attack: Schedule) -> None:
    quiet = EXPERIMENT | {"retraining": {"enabled": False}}
    mandate = attack.mandate(Experiment.model_validate(quiet), windows=(), covers=STANDING)
    signed = sign_mandate(mandate, attack.key)
    assert attack.check(signed, experiment=quiet).word == ""
    charged = attack.charged
    for kind in (TRAIN, EVALUATE, COMPARE):
        assert attack.retrain(signed, kind, experiment=quiet).word == "policy"
    assert attack.charged == charged


def test_it_covers_no_question_for_ranges(attack: Schedule) -> None:
    for run in ("r", "r-2026-W10-1", "r-2026-W10-1-challenger"):
        found = attack.ask(attack.standing(), RANGES, run=run, windows=[FIRST], experiment=EXPERIMENT, step=0)
        assert (found.word, attack.charged) == ("policy", 0)


def test_all_that_a_server_can_ask_comes_to_the_tries_that_were_signed(
    attack: Schedule, tried: Figure
) -> None:
    """It asks under every name, in any order, each many times and on changing windows; the cap has room."""
    signed, asked = attack.standing(), 0
    weeks = ("2026-W09", FIRST, "2026-W11", AFTER)
    spans = [list(found) for size in (1, 2) for found in itertools.combinations([*BEFORE, *weeks], size)]
    for window, number, windows in itertools.product(reversed(weeks), (3, 2, 1), spans):
        attack.check(signed, window, number, reference_windows=windows)
        attack.retrain(signed, window=window, number=number, windows=windows)
        attack.retrain(signed, COMPARE, window=window, number=number, windows=windows)
        asked += 3
    plans = attack.plans
    assert set(plans.values()) <= {1}
    kinds = Counter(name.split("/")[1] if "/reference/" not in name else "reference" for name in plans)
    tries = 2 * STANDING.tries  # two of the weeks are covered
    assert kinds == {
        "drift": tries,
        "reference": kinds["reference"],
        "train": tries,
        "evaluate": tries,
        "compare": tries,
    }
    assert kinds["reference"] <= tries
    tried(asked)


def test_a_check_that_is_asked_again_pays_for_no_other_reference(attack: Schedule) -> None:
    signed = attack.standing()
    first = attack.check(signed, LAST)
    charged = attack.charged
    again = [
        attack.check(signed, LAST, reference_windows=windows)
        for windows in (["2026-W11"], ["2026-W12"], ["2026-W11", "2026-W12"], list(BEFORE))
    ]
    assert {one.written for one in again} == {first.written}
    assert attack.charged == charged


def test_a_site_that_names_nobody_pays_for_no_other_reference_either(lay: LaySite, rows: Rows) -> None:
    site = lay(rows, cap=50.0)
    server = HostileServer(site)
    first = server.ask(DRIFT)
    charged = len(wire.entries(site))
    asked = [{"run": "r", "step": 1, "windows": ["w2"], "reference_windows": other} for other in ([], ["w2"])]
    assert {server.ask(DRIFT, one).written for one in asked} == {first.written}
    assert len(wire.entries(site)) == charged


def test_it_ends_with_its_date(attack: Schedule) -> None:
    over = attack.standing(expires=datetime.now(UTC) - TOLERANCE - timedelta(seconds=1))
    assert attack.check(over).word == attack.retrain(over).word == "policy"
    assert attack.charged == 0


def test_it_ends_when_the_administrator_wants_no_more_of_it(attack: Schedule) -> None:
    """Each of two ways: the experiment is declined; the scientist is no longer named."""
    signed = attack.standing()
    assert attack.check(signed).word == ""
    charged = attack.charged
    ledger = open_site(attack.site).ledger
    ledger.decline(Experiment.model_validate(EXPERIMENT).digest, reason="no more")
    asked = [
        lambda: attack.check(signed),
        lambda: attack.check(signed, "2026-W11"),
        lambda: attack.retrain(signed),
    ]
    assert {ask().word for ask in asked} == {"policy"}
    ledger.reopen(Experiment.model_validate(EXPERIMENT).digest)
    assert attack.check(signed).word == ""
    other = public_key_of(Ed25519PrivateKey.generate())
    attack.site.write_text(attack.site.read_text().replace(public_key_of(attack.key), other))
    assert {ask().word for ask in asked} == {"policy"}
    assert attack.charged == charged


def test_it_is_good_for_no_other_federation_and_no_other_code(attack: Schedule, tmp_path: Path) -> None:
    attack.server = HostileServer(attack.site)
    authority = make_server_files(tmp_path / "server", ["127.0.0.1"]).authority.read_text()
    (attack.site.parent / "keys" / "ca.pem").write_text(authority)
    assert attack.check(attack.standing()).word == "policy"
    mine = authority_digest(authority)
    assert attack.check(attack.standing(authority=mine, code="0" * 64)).word == "policy"
    assert attack.charged == 0
    assert attack.check(attack.standing(authority=mine)).word == ""


CHANGED: dict[str, Any] = {
    "every": "month",
    "first": "2026-W01",
    "last": "2027-W01",
    "tries": 10,
    "drift_epsilon": 5,
    "reference": [],
}


@pytest.mark.parametrize("name", Standing.model_fields)
def test_no_value_of_it_can_be_changed(attack: Schedule, name: str) -> None:
    outer = json.loads(attack.standing())
    mandate = json.loads(outer["mandate"])
    assert mandate["standing"][name] != CHANGED[name]
    mandate["standing"][name] = CHANGED[name]
    changed = json.dumps(outer | {"mandate": json.dumps(mandate, sort_keys=True, separators=(",", ":"))})
    assert attack.check(changed).word == "policy"
    assert attack.charged == 0


def test_one_mandate_is_not_taken_for_another(attack: Schedule) -> None:
    """That of a schedule trains nothing by itself, and that of a run checks nothing."""
    plan = Experiment.model_validate(EXPERIMENT)
    of_run = sign_mandate(attack.mandate(plan, run="r-2026-W10-1", windows=(FIRST,)), attack.key)
    assert attack.check(of_run).word == "policy"
    of_ranges = sign_mandate(
        attack.mandate(
            plan, run="r-2026-W10-1", windows=(FIRST,), covers=Ranges(features=("level",), epsilon=1.0)
        ),
        attack.key,
    )
    assert attack.check(of_ranges).word == attack.ask(of_ranges, run="r-2026-W10-1", windows=[FIRST]).word
    assert attack.charged == 0


def test_a_question_for_ranges_is_answered_as_it_was_signed(attack: Schedule) -> None:
    plan = Experiment.model_validate(EXPERIMENT)
    asked = Ranges(features=("level",), epsilon=0.5)
    mandate: Mandate = attack.mandate(plan, windows=(FIRST,), covers=asked)
    signed = sign_mandate(mandate, attack.key)
    honest = {"windows": [FIRST], "epsilon": 0.5, "experiment": EXPERIMENT}
    others: list[dict[str, Any]] = [
        {"epsilon": 0.6}, {"epsilon": 0.0}, {"windows": []}, {"windows": ["2026-W11"]}, {"run": "r2"},
        {"features": ["level", "age"]}, {"features": []},
    ]  # fmt: skip
    for other in others:
        assert attack.ask(signed, RANGES, **honest | other).word == "policy", other
    for kind in set(KINDS) - {RANGES}:
        assert attack.ask(signed, kind, windows=[FIRST], experiment=EXPERIMENT).word == "policy"
    assert attack.charged == 0
    first = attack.ask(signed, RANGES, **honest)
    assert first.word == ""
    assert attack.ask(signed, RANGES, **honest | {"step": 7}).written == first.written
    assert attack.charged == 1
