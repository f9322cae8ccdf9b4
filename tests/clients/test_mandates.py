"""What a site finds about a signature, in words for its administrator."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from clients.mandates import AUTHORITY, TOLERANCE, Found, examine
from clients.policy import Policy
from contract.errors import PolicyError
from contract.experiment import Experiment
from contract.experiment_file import parse_experiment
from contract.mandate import mandate_for, public_key_of, sign_mandate
from contract.messages import Instruction
from contract.standing import Standing
from server.line.certificates import make_server_files

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
CODE = "c" * 64
KEY = Ed25519PrivateKey.generate()
PLAN = parse_experiment(
    'name = "small"\n[task]\nlabel = { column = "ill" }\n'
    '[[task.features]]\nname = "age"\nkind = "numeric"\nlow = 0\nhigh = 120\n[strategy]\nrounds = 2\n',
    where="test",
)
OTHER = PLAN.model_copy(update={"name": "other"})
PINNED = Policy(scientists={"ada": f"{public_key_of(KEY)} ada@laptop"})
ASKED = Instruction(run="r", step=1, windows=("w2", "w1"), evaluate=True)


def found(text: str | None = None, *, site: Path = Path("nowhere/site.toml"), **more: Any) -> Found:
    asked = {
        "policy": PINNED,
        "experiment": PLAN,
        "kind": "train",
        "instruction": ASKED,
        "code": CODE,
        "node": {"site": str(site), AUTHORITY: "a" * 64},
        "now": NOW,
    }
    return examine(signed() if text is None else text, **asked | more)


def signed(key: Ed25519PrivateKey = KEY, plan: Experiment = PLAN, **more: Any) -> str:
    values = {"run": "r", "windows": ("w1", "w2"), "code": CODE, "authority": "a" * 64, "scientist": "Ada L."}
    return sign_mandate(mandate_for(plan, **values | {"expires": NOW} | more), key)


def test_what_is_signed_is_covered_whatever_the_order_of_its_windows() -> None:
    one = found()
    assert (one.name, one.fault, one.expires) == ("ada", "", NOW)
    one.require(PINNED, where="here")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"instruction": Instruction(run="s", step=1, windows=("w1", "w2"), evaluate=True)}, "another run"),
        ({"instruction": Instruction(run="r", step=1, windows=("w1",), evaluate=True)}, "other windows"),
        ({"instruction": Instruction(run="r", step=1, evaluate=True)}, "other windows"),
        ({"instruction": Instruction(run="r", step=3, windows=("w1", "w2"), evaluate=True)}, "another one"),
        ({"experiment": OTHER}, "another experiment"),
        ({"code": "d" * 64}, "other code"),
        ({"kind": "query.drift"}, "asked for 'query.drift'"),
        ({"now": NOW + TOLERANCE + timedelta(seconds=1)}, "which is over"),
    ],
)
def test_what_is_not_covered_is_said_and_refused(asked: dict[str, Any], words: str) -> None:
    one = found(**asked)
    assert words in one.fault
    with pytest.raises(PolicyError, match=f"signed by 'ada', but .*{words}"):
        one.require(PINNED, where="here")
    one.require(Policy(), where="here")  # a site that names nobody works as before


def test_of_a_standing_mandate_it_is_said_what_it_covers() -> None:
    weeks = Standing(every="week", first="2026-W02", last="2026-W09", tries=2, drift_epsilon=0.5)
    check = Instruction(run="r-2026-W02-1", windows=("2026-W02",))
    text = signed(windows=(), covers=weeks)
    asked = {"text": text, "kind": "query.drift", "instruction": check}
    one = found(**asked)
    assert (one.fault, one.covers) == ("", "2026-W02 to 2026-W09, each week at most 2 times")
    other = replace(check, windows=("2026-W10",))
    assert found(**asked | {"instruction": other}).fault == (
        "signed for 2026-W02 to 2026-W09, each week at most 2 times, and asked for another window"
    )
    assert (
        "another reference"
        in found(**asked | {"instruction": replace(check, reference_windows=("x",))}).fault
    )


def test_a_reference_without_a_season_is_a_fault_and_no_error() -> None:
    values = PLAN.model_dump() | {"task": PLAN.task.model_dump() | {"time": "day"}}
    seasonal = Experiment.model_validate(values | {"drift": {"reference": "same-season"}})
    weeks = Standing(
        every="week", first="2026-W02", last="2026-W09", tries=2, drift_epsilon=0.5, reference=("base",)
    )
    text = signed(windows=(), covers=weeks, plan=seasonal)
    check = Instruction(run="r-2026-W02-1", windows=("2026-W02",), reference_windows=("base",))
    one = found(text, kind="query.drift", instruction=check, experiment=seasonal)
    assert "no season" in one.fault


def test_the_clock_of_a_site_may_be_wrong_a_little() -> None:
    assert found(now=NOW + TOLERANCE).fault == ""


def test_who_is_not_named_is_refused_by_the_fingerprint() -> None:
    one = found(signed(Ed25519PrivateKey.generate()))
    assert (one.name, one.fault) == ("", "")
    with pytest.raises(PolicyError, match=r"signed by SHA256:.*does not name"):
        one.require(PINNED, where="here")


def test_without_a_signature_it_is_said_so() -> None:
    assert found("").fault == "not signed"
    with pytest.raises(PolicyError, match="not signed"):
        found("").require(PINNED, where="here")


def test_a_site_of_another_federation_is_another_authority(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "ca.pem").write_bytes(make_server_files(tmp_path, ["127.0.0.1"]).authority.read_bytes())
    joined = {"site": str(tmp_path / "site.toml")}
    assert "another federation" in found(node=joined).fault
    assert found(node={**joined, AUTHORITY: "a" * 64}).fault == ""
    assert found(node={**joined, AUTHORITY: "b" * 64}).fault == "signed for another federation"
    (keys / "ca.pem").write_text("-----")
    assert "cannot be read" in found(node=joined).fault
    assert "it is not known which federation asks" in found(node={"site": "nowhere/site.toml"}).fault
    for said in ("", None, 7):
        assert "not of one authority alone" in found(node={**joined, AUTHORITY: said}).fault


@pytest.mark.parametrize(
    "scientists",
    [{}, {"ada": ""}, {"ada": "ssh-rsa AAAA"}, {"": public_key_of(KEY)}, {"ada\n": public_key_of(KEY)},
     {"ada": public_key_of(KEY), "eve": f"{public_key_of(KEY)} eve"}],
)  # fmt: skip
def test_what_names_nobody_is_refused_whole(scientists: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Policy(scientists=scientists)
