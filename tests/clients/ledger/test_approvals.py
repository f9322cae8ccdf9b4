"""An approval covers what it names and no more, in the ledger, and nobody can unsay it."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clients.keys import site_signer
from clients.ledger.approvals import Asked, Terms
from clients.ledger.backup import back_up, restore
from clients.ledger.chain import Cap, Ledger, Plan
from clients.ledger.cost import alone
from clients.ledger.entry_bodies import require_sound
from contract.errors import ApprovalError, InputError, LedgerError, PolicyError

DIGEST, OTHER, CODE = "a" * 64, "b" * 64, "c" * 64
PLAN = Plan(name="r/train", run="r", purpose="train", blocks=("w1/train",), noise_multiplier=5.0, uses=3)
CAP = Cap(epsilon=8.0, delta=1e-5)
COST = alone([PLAN], CAP)
ASKED = Asked(experiment=DIGEST, code=CODE, windows=("w1",))
TERMS = Terms(
    experiment=DIGEST,
    name="small",
    code=CODE,
    epsilon=COST,
    delta=1e-5,
    windows=("w1",),
    purposes=("drift", "train"),
)


class Clock:
    """Tells what it is told."""

    def __init__(self) -> None:
        self.now = "2026-11-29T12:00:00+00:00"

    def __call__(self) -> str:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Ledger:
    return open_ledger(tmp_path, clock)


def open_ledger(folder: Path, clock: Clock) -> Ledger:
    return Ledger(folder / "ledger.db", site="north", cap=CAP, clock=clock, signer=site_signer(folder))


def use(ledger: Ledger, step: int = 1, plan: Plan = PLAN, asked: Asked = ASKED) -> None:
    ledger.authorise(plan, asked=asked)
    ledger.reserve(f"{plan.run}/train/{step}", plan.name, asked=asked)


def kinds(ledger: Ledger) -> list[str]:
    return [entry.kind for entry in ledger.entries()]


def test_nothing_is_entered_without_an_approval(ledger: Ledger) -> None:
    with pytest.raises(ApprovalError, match="no experiment of this digest is approved"):
        ledger.authorise(PLAN, asked=ASKED)
    ledger.authorise(PLAN)
    with pytest.raises(ApprovalError):
        ledger.reserve("r/train/1", PLAN.name, asked=ASKED)
    assert kinds(ledger) == ["authorise"]


def test_an_approval_lets_run_what_it_names_and_each_use_names_it(ledger: Ledger) -> None:
    number = ledger.approve(TERMS)
    for step in (1, 2, 3):
        use(ledger, step)
    reserved = [entry for entry in ledger.entries() if entry.kind == "reserve"]
    assert [entry.body["approval"] for entry in reserved] == [number] * 3
    assert ledger.verify() == 5
    require_sound(ledger.entries(), where="here")
    (approval,), _ = ledger.approvals()
    assert approval.spent == pytest.approx(COST)
    assert approval.runs == {"r"}


@pytest.mark.parametrize(
    ("asked", "plan", "why"),
    [
        (replace(ASKED, experiment=OTHER), PLAN, "no experiment of this digest"),
        (replace(ASKED, code="d" * 64), PLAN, "other code is installed"),
        (replace(ASKED, windows=("w1", "w2")), PLAN, "does not name w2"),
        (replace(ASKED, windows=("*",)), PLAN, r"does not name \*"),
        (ASKED, replace(PLAN, noise_multiplier=4.9), "above the approved"),
        (ASKED, replace(PLAN, uses=4), "above the approved"),
        (ASKED, replace(PLAN, noise_multiplier=0.0), "not private"),
        (ASKED, replace(PLAN, purpose="ranges", uses=1), "not for ranges"),
    ],
)
def test_what_differs_in_one_thing_is_asked_anew(ledger: Ledger, asked: Asked, plan: Plan, why: str) -> None:
    ledger.approve(TERMS)
    for _ in range(2):
        with pytest.raises(ApprovalError, match=why):
            use(ledger, asked=asked, plan=plan)
    assert kinds(ledger) == ["approve"]


def test_a_second_run_does_not_fit_into_the_price_of_one(ledger: Ledger) -> None:
    ledger.approve(TERMS)
    use(ledger)
    with pytest.raises(ApprovalError, match="above the approved"):
        use(ledger, plan=replace(PLAN, name="s/train", run="s"))
    assert kinds(ledger) == ["approve", "authorise", "reserve"]


def test_a_charge_that_a_crash_repeats_counts_too(ledger: Ledger) -> None:
    ledger.approve(TERMS)
    for _ in range(3):
        use(ledger)
    with pytest.raises(ApprovalError, match="above the approved"):
        use(ledger)


def test_runs_are_counted_and_a_look_without_a_run_is_none(ledger: Ledger) -> None:
    ledger.approve(replace(TERMS, epsilon=8.0, runs=2))
    reference = replace(PLAN, name="reference", run="reference", purpose="drift", uses=1)
    use(ledger, plan=reference)
    use(ledger)
    use(ledger, plan=replace(PLAN, name="s/train", run="s"))
    with pytest.raises(ApprovalError, match="for 2 runs"):
        use(ledger, plan=replace(PLAN, name="t/train", run="t"))
    use(ledger, step=2, plan=replace(PLAN, name="s/train", run="s"))


def test_two_approvals_stand_beside_each_other(ledger: Ledger) -> None:
    first, second = ledger.approve(TERMS), ledger.approve(TERMS)
    use(ledger)
    use(ledger, plan=replace(PLAN, name="s/train", run="s"))
    told = [entry.body["approval"] for entry in ledger.entries() if entry.kind == "reserve"]
    assert sorted(told) == [first, second]


def test_revocation_ends_a_run_and_frees_what_it_was_promised(ledger: Ledger) -> None:
    ledger.approve(TERMS)
    use(ledger)
    ledger.revoke(DIGEST, reason="no more")
    with pytest.raises(PolicyError, match="declined or revoked"):
        use(ledger, step=2)
    assert kinds(ledger) == ["approve", "authorise", "reserve", "revoke", "close"]
    assert ledger.spent(promised=True).epsilon == ledger.spent().epsilon
    ledger.approve(TERMS)  # a person's word, and only that, opens it again
    use(ledger, step=2)
    require_sound(ledger.entries(), where="here")


def test_revocation_by_another_process_is_seen_by_the_next_use(tmp_path: Path, clock: Clock) -> None:
    ledger, other = open_ledger(tmp_path, clock), open_ledger(tmp_path, clock)
    ledger.approve(TERMS)
    ledger.authorise(PLAN, asked=ASKED)
    other.revoke(DIGEST)
    with pytest.raises(PolicyError):
        ledger.reserve("r/train/1", PLAN.name, asked=ASKED)
    assert "reserve" not in kinds(ledger)


def test_what_was_never_approved_cannot_be_revoked(ledger: Ledger, clock: Clock) -> None:
    with pytest.raises(InputError, match="in force"):
        ledger.revoke(DIGEST)
    ledger.approve(replace(TERMS, until="2026-12-01T00:00:00+00:00"))
    clock.now = "2026-12-01T00:00:00+00:00"
    with pytest.raises(InputError, match="in force"):
        ledger.revoke(DIGEST)


def test_a_declined_experiment_is_refused_until_it_is_approved(ledger: Ledger) -> None:
    ledger.decline(DIGEST, reason="not ours\x1b[2J")
    with pytest.raises(PolicyError):
        ledger.require_not_declined(DIGEST)
    ledger.require_not_declined(OTHER)
    assert ledger.approvals() == ((), {DIGEST: "not ours?[2J"})
    ledger.approve(TERMS)
    use(ledger)


def test_an_approval_ends_with_its_date_whatever_the_clock_says_later(ledger: Ledger, clock: Clock) -> None:
    ledger.approve(replace(TERMS, until="2026-12-01T00:00:00+00:00"))
    clock.now = "2026-11-30T23:59:59.999+00:00"
    use(ledger)
    clock.now = "2026-12-01T00:00:00+00:00"
    with pytest.raises(ApprovalError, match="ended on 2026-12-01"):
        use(ledger, step=2)
    ledger.refuse("r/train/2", "approval")
    clock.now = "2026-11-30T00:00:00+00:00"
    with pytest.raises(ApprovalError, match="ended on 2026-12-01"):
        use(ledger, step=2)


def test_a_restored_ledger_has_no_approvals(tmp_path: Path, clock: Clock) -> None:
    """What was revoked since the backup would be in force again."""
    ledger, signer = open_ledger(tmp_path, clock), site_signer(tmp_path)
    ledger.approve(TERMS)
    back_up(ledger.path, tmp_path / "copy.db")
    ledger.revoke(DIGEST)
    ledger.close()
    ledger.path.unlink()
    names: dict[str, Any] = {"site": "north", "cap": CAP, "clock": clock, "signer": signer}
    restore(ledger.path, tmp_path / "copy.db", **names)
    again = open_ledger(tmp_path, clock)
    with pytest.raises(ApprovalError, match="restored"):
        again.require_approved(ASKED, [])
    assert again.approvals() == ((), {})


def test_an_approval_that_was_put_in_or_changed_is_found(tmp_path: Path, clock: Clock) -> None:
    ledger = open_ledger(tmp_path, clock)
    ledger.approve(TERMS)
    ledger.close()
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("DROP TRIGGER entries_no_update")
        connection.execute("UPDATE entries SET body = replace(body, 'w1', 'w2')")
    with pytest.raises(LedgerError, match="hash chain"):
        open_ledger(tmp_path, clock).verify()


@pytest.mark.parametrize("ended", ["revoke", "decline", "restore"])
def test_evidence_that_charges_to_an_ended_approval_is_none_of_a_ledger(ledger: Ledger, ended: str) -> None:
    ledger.approve(TERMS)
    use(ledger)
    approve, authorise, reserve = ledger.entries()
    restored = {"backup": {"entries": 1, "head": "0" * 64}, "lost": None, "windows": None, "key": ""}
    said = restored if ended == "restore" else {"experiment": DIGEST, "reason": ""}
    between: Any = replace(approve, sequence=2, kind=ended, body={"at": "", **said})
    for forged in ([approve, between, authorise, reserve], [authorise, reserve]):
        with pytest.raises(LedgerError, match="rests on approval 1, which was not in force"):
            require_sound(forged, where="evidence")


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": 7},
        {"windows": ["\x1b"]},
        {"code": "x"},
        {"epsilon": -1.0},
        {"runs": 0},
        {"until": "soon"},
        {"purposes": []},
        {"purposes": ["look"]},
    ],
)
def test_an_approve_entry_holds_nothing_else(ledger: Ledger, wrong: dict[str, Any]) -> None:
    ledger.approve(TERMS)
    (entry,) = ledger.entries()
    require_sound([entry], where="evidence")
    with pytest.raises(LedgerError):
        require_sound([replace(entry, body={**entry.body, **wrong})], where="evidence")


def test_that_a_request_waits_is_entered_once_and_a_flood_of_others_is_bounded(ledger: Ledger) -> None:
    for _ in range(5):
        assert ledger.refuse("r/train/1", "approval")
    assert kinds(ledger) == ["refuse"]
    assert not all(ledger.refuse(f"r{number}/train/1", "approval") for number in range(250))
    assert len(ledger.entries()) == 200
    assert ledger.refuse("r100/train/1", "approval")  # it is entered, and may be told again
