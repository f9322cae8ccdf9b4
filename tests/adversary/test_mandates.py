"""A site that names scientists answers what they have signed, and nothing that a server makes of it."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from clients.code import installed_code_hash
from clients.mandates import TOLERANCE, authority_of
from contract.experiment import Experiment
from contract.mandate import Mandate, authority_digest, mandate_for, public_key_of, read_mandate, sign_mandate
from experiments.audit.hostile_server import EVALUATE, KINDS, TRAIN, Answer, HostileServer, instruction_for
from server.line.certificates import make_server_files
from tests.adversary import wire
from tests.adversary.conftest import LaySite
from tests.adversary.rows import Figure, Rows

AUTHORITY = "a" * 64


@dataclass
class Attack:
    """A site that names a scientist, that scientist's key, and the server between them."""

    site: Path
    key: Ed25519PrivateKey
    server: HostileServer

    def mandate(self, plan: Experiment | None = None, **more: Any) -> Mandate:
        """What the scientist means to be done: run `r` on window `w1`."""
        values = {"run": "r", "windows": ("w1",), "code": installed_code_hash(), "authority": AUTHORITY}
        values |= {"scientist": "ada", "expires": datetime.now(UTC) + timedelta(days=1)}
        return mandate_for(plan or Experiment.model_validate(wire.base_experiment()), **values | more)

    def ask(self, mandate: str, kind: str = TRAIN, **more: Any) -> Answer:
        experiment = more.pop("experiment", None)
        of_a_run = {"step": 1, "evaluate": True} if kind == TRAIN else {"step": 2 if kind == EVALUATE else 1}
        asked = instruction_for(kind, **of_a_run | more)
        return self.server.ask(kind, asked, experiment=experiment, mandate=mandate)

    @property
    def charged(self) -> int:
        return [entry["kind"] for entry in wire.entries(self.site)].count("reserve")


@pytest.fixture
def attack(lay: LaySite, rows: Rows) -> Attack:
    key = Ed25519PrivateKey.generate()
    site = lay(rows, cap=50.0, policy=f'scientists = {{ ada = "{public_key_of(key)} ada@laptop" }}')
    return Attack(site=site, key=key, server=HostileServer(site, AUTHORITY))


def test_what_is_signed_is_answered_and_its_digest_is_kept(attack: Attack) -> None:
    mandate = attack.mandate()
    signed = sign_mandate(mandate, attack.key)
    assert [attack.ask(signed).word, attack.ask(signed, EVALUATE).word] == ["", ""]
    kept = [
        entry["body"].get("mandate")
        for entry in wire.entries(attack.site)
        if entry["kind"] in ("reserve", "commit")
    ]
    assert kept == [mandate.digest] * 5  # training, evaluation, its reply; evaluation, its reply


EXPERIMENT = wire.base_experiment()
PRIVACY = EXPERIMENT["privacy"]
OTHER_QUESTIONS: dict[str, dict[str, Any]] = {
    "another run": {"run": "r2"},
    "a run of nearly that name": {"run": "R"},
    "another window": {"windows": ["w2"]},
    "one window more": {"windows": ["w1", "w2"]},
    "all rows": {"windows": []},
    "a larger ε": {"experiment": EXPERIMENT | {"privacy": PRIVACY | {"epsilon": 1.01}}},
    "a larger δ": {"experiment": EXPERIMENT | {"privacy": PRIVACY | {"delta": 9.9e-6}}},
    "no noise": {"experiment": EXPERIMENT | {"privacy": PRIVACY | {"private": False}}},
    "another experiment": {"experiment": EXPERIMENT | {"strategy": {"rounds": 2, "evaluate_every": 1}}},
}


@pytest.mark.parametrize("other", OTHER_QUESTIONS)
def test_a_server_asks_for_something_else_under_the_same_mandate(
    attack: Attack, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clients.site.read_rows", must_not_run)
    found = attack.ask(sign_mandate(attack.mandate(), attack.key), **OTHER_QUESTIONS[other])
    assert (found.word, attack.charged) == ("policy", 0)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in (TRAIN, EVALUATE)])
def test_a_mandate_for_training_covers_no_other_question(attack: Attack, kind: str) -> None:
    found = attack.ask(sign_mandate(attack.mandate(windows=()), attack.key), kind)
    assert (found.word, attack.charged) == ("policy", 0)


def test_a_second_run_under_one_mandate_spends_nothing_more(attack: Attack) -> None:
    signed = sign_mandate(attack.mandate(), attack.key)
    first = attack.ask(signed)
    charged = attack.charged
    again = [attack.ask(signed) for _ in range(5)]  # as a server does that has forgotten the run, or says so
    assert {one.written for one in again} == {first.written}
    assert attack.charged == charged


def test_no_round_and_no_evaluation_more_than_were_signed(attack: Attack, tried: Figure) -> None:
    """The cap has room for many more. What is charged comes to the signed ε: the uses of the run's plans."""
    experiment = EXPERIMENT | {"strategy": {"rounds": 3, "evaluate_every": 2}}
    plan = Experiment.model_validate(experiment)
    signed = sign_mandate(attack.mandate(plan), attack.key)
    answered = [
        (kind, step, evaluate)
        for kind in (TRAIN, EVALUATE)
        for step in range(8)
        for evaluate in (False, True)
        if not attack.ask(signed, kind, step=step, evaluate=evaluate, experiment=experiment).word
    ]
    rounds = [(TRAIN, 1, True), (TRAIN, 2, False), (TRAIN, 3, True)]
    assert answered == [
        *rounds,
        (EVALUATE, 4, False),
        (EVALUATE, 4, True),
    ]
    charged = [entry["plan"] for entry in wire.entries(attack.site) if entry["kind"] == "reserve"]
    assert (charged.count("r/train"), charged.count("r/evaluate")) == (3, plan.strategy.evaluations)
    tried(32)


def change_each_value(text: str) -> dict[str, str]:
    """The signed text with one value of the mandate changed at a time, as a server would that wants more."""
    outer = json.loads(text)
    wanted = {
        "authority": "b" * 64,
        "scientist": "eve",
        "run": "r2",
        "experiment": "c" * 64,
        "code": "d" * 64,
        "private": False,
        "epsilon": 2,
        "delta": 0.001,
        "evaluation_epsilon": 2,
        "windows": ["w1", "w2"],
        "expires": "2999-01-01T00:00:00Z",
        "version": 2,
        "standing": {
            "every": "week", "first": "2026-W01", "last": "2026-W09", "tries": 1, "drift_epsilon": 0.5,
            "reference": [],
        },
        "ranges": {"features": ["level"], "epsilon": 1},
        "package": {"distribution": "example", "version": "1.0", "sha256": "a" * 64},
    }  # fmt: skip
    found = {}
    for name, value in wanted.items():
        mandate = json.loads(outer["mandate"])
        assert mandate.get(name) != value
        spelled = json.dumps(mandate | {name: value}, sort_keys=True, separators=(",", ":"))
        found[name] = json.dumps(outer | {"mandate": spelled})
    return found


@pytest.mark.parametrize("name", Mandate.model_fields)
def test_no_value_of_a_mandate_can_be_changed(attack: Attack, name: str) -> None:
    changed = change_each_value(sign_mandate(attack.mandate(), attack.key))[name]
    more: dict[str, Any] = {"run": {"run": "r2"}, "windows": {"windows": ["w1", "w2"]}}.get(name, {})
    assert attack.ask(changed, **more).word == "policy"
    assert attack.charged == 0


def test_another_key_is_nobody(attack: Attack) -> None:
    other = Ed25519PrivateKey.generate()
    theirs = sign_mandate(attack.mandate(), other)
    swapped = json.dumps(json.loads(theirs) | {"key": public_key_of(attack.key)})
    claimed = json.dumps(
        json.loads(sign_mandate(attack.mandate(), attack.key)) | {"key": public_key_of(other)}
    )
    assert [attack.ask(text).word for text in (theirs, swapped, claimed)] == ["policy"] * 3
    assert attack.charged == 0


@pytest.mark.parametrize("text", ["", "{}", "null", "[]", "{", "\x00", "[" * 100_000, "x" * 2**20])
def test_without_a_signature_nothing_is_answered(attack: Attack, text: str) -> None:
    assert {attack.ask(text, kind).word for kind in KINDS} == {"policy"}
    assert attack.charged == 0


@pytest.mark.parametrize("signature", ["", "AAAA", "=", b64encode(bytes(64)).decode(), "é"])
def test_a_signature_that_is_none(attack: Attack, signature: str) -> None:
    outer = json.loads(sign_mandate(attack.mandate(), attack.key)) | {"signature": signature}
    assert (attack.ask(json.dumps(outer)).word, attack.charged) == ("policy", 0)


def test_what_is_no_text_is_no_signature(attack: Attack) -> None:
    for value in (7, True, 1.5, b"{}", ["{}"]):
        found = attack.server.send(
            TRAIN, records(), run_config={"experiment": json.dumps(EXPERIMENT), "mandate": value}
        )
        assert found.word == "policy"


def records() -> Any:
    from flwr.app import ConfigRecord, RecordDict

    from experiments.audit.hostile_server import models_for, packed

    said = json.dumps(instruction_for(TRAIN, evaluate=True))
    return RecordDict({"config": ConfigRecord({"instruction": said, "arrays": packed(models_for(TRAIN))})})


def test_an_expired_mandate_is_good_for_the_tolerance_and_no_longer(attack: Attack) -> None:
    now = datetime.now(UTC)
    over = sign_mandate(attack.mandate(expires=now - TOLERANCE - timedelta(seconds=1)), attack.key)
    assert (attack.ask(over).word, attack.charged) == ("policy", 0)
    just = sign_mandate(attack.mandate(expires=now - TOLERANCE + timedelta(minutes=4)), attack.key)
    assert attack.ask(just).word == ""
    assert attack.ask(over).word == "policy"  # nor is what was answered given again


def test_a_mandate_for_other_code_is_refused(attack: Attack) -> None:
    other = sign_mandate(attack.mandate(code="0" * 64), attack.key)
    assert (attack.ask(other).word, attack.charged) == ("policy", 0)


def test_a_server_with_another_authority_holds_a_mandate_for_nothing(attack: Attack, tmp_path: Path) -> None:
    """A site that was started with --root-certificates: whose server it is, its agent says, and no server."""
    authorities = [
        make_server_files(tmp_path / name, ["127.0.0.1"]).authority.read_bytes() for name in ("one", "other")
    ]
    both, alone = authority_of(b"".join(authorities)), authority_of(authorities[1])
    signed = sign_mandate(attack.mandate(), attack.key)
    for said in (alone, both, authority_of(b""), authority_of(b"x"), "b" * 64):
        attack.server = HostileServer(attack.site, said)
        assert {attack.ask(signed, kind).word for kind in KINDS} == {"policy"}
    assert (both, len(alone), attack.charged) == ("", 64, 0)
    attack.server = HostileServer(attack.site, alone)
    assert attack.ask(sign_mandate(attack.mandate(authority=alone), attack.key)).word == ""


def test_a_mandate_for_another_federation_is_refused(attack: Attack, tmp_path: Path) -> None:
    attack.server = HostileServer(attack.site)
    none = sign_mandate(attack.mandate(), attack.key)
    (attack.site.parent / "keys" / "ca.pem").unlink(missing_ok=True)
    assert (attack.ask(none).word, attack.charged) == ("policy", 0)
    authority = make_server_files(tmp_path / "server", ["127.0.0.1"]).authority.read_text()
    (attack.site.parent / "keys" / "ca.pem").write_text(authority)
    mine = sign_mandate(attack.mandate(authority=authority_digest(authority)), attack.key)
    theirs = sign_mandate(attack.mandate(), attack.key)
    assert (attack.ask(theirs).word, attack.charged) == ("policy", 0)
    assert attack.ask(mine).word == ""
    (attack.site.parent / "keys" / "ca.pem").write_text("x")
    assert attack.ask(mine).word == "policy"


SPELLINGS: dict[str, Callable[[str], str]] = {
    "a key named twice, the good value last": lambda text: text.replace("{", '{"epsilon":2,', 1),
    "a key named twice, the good value first": lambda text: text[:-1] + ',"epsilon":2}',
    "a decimal": lambda text: text.replace('"epsilon":1,', '"epsilon":1.0,'),
    "an exponent": lambda text: text.replace('"epsilon":1,', '"epsilon":1e0,'),
    "an escaped letter": lambda text: text.replace('"ada"', '"\\u0061da"'),
    "another order": lambda text: json.dumps(dict(reversed(json.loads(text).items())), separators=(",", ":")),
    "blanks": lambda text: json.dumps(json.loads(text), sort_keys=True),
    "a blank at the end": lambda text: text + "\n",
    "one key more": lambda text: text.replace("{", '{"a":1,', 1),
    "windows out of order": lambda text: text.replace('["w1"]', '["w2","w1"]'),
    "a window twice": lambda text: text.replace('["w1"]', '["w1","w1"]'),
    "a time zone": lambda text: text.replace('Z","private', '+00:00","private'),
    "a true number": lambda text: text.replace('"version":1', '"version":true'),
    "no number": lambda text: text.replace('"epsilon":1,', '"epsilon":NaN,'),
    "a list": lambda text: f"[{text}]",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_one_spelling_alone_is_good_even_if_it_is_signed(attack: Attack, spelling: str) -> None:
    """What parsers may read in several ways is not signed: a site and an auditor must read the same."""
    text = attack.mandate().canonical().decode()
    other = SPELLINGS[spelling](text)
    assert other != text
    assert attack.ask(signed_text(other, attack.key)).word == "policy"
    assert attack.charged == 0
    assert attack.ask(signed_text(text, attack.key)).word == ""


def signed_text(text: str, key: Ed25519PrivateKey) -> str:
    signature = b64encode(key.sign(b"tidegate-mandate/1\n" + text.encode())).decode()
    return json.dumps({"mandate": text, "key": public_key_of(key), "signature": signature})


def test_a_signature_over_something_else_is_none_of_a_mandate(attack: Attack) -> None:
    text = attack.mandate().canonical()
    for signed in (text, b"tidegate-ledger-entry/2\n" + text):
        signature = b64encode(attack.key.sign(signed)).decode()
        sent = json.dumps(
            {"mandate": text.decode(), "key": public_key_of(attack.key), "signature": signature}
        )
        assert attack.ask(sent).word == "policy"
    assert attack.charged == 0


def test_a_key_of_another_kind_is_none(attack: Attack) -> None:
    outer = json.loads(sign_mandate(attack.mandate(), attack.key))
    other = (attack.site.parent / "keys" / "node.pub").read_text()
    for key in (other, f"{outer['key']} comment", "", "ssh-ed25519", "ssh-ed25519 AAAA"):
        assert attack.ask(json.dumps(outer | {"key": key})).word == "policy"
    assert attack.charged == 0


def test_refusal_says_nothing_of_the_rows(lay: LaySite, rows: Rows, figure: Figure) -> None:
    """Sites with and without rows, which name a scientist, refuse alike."""
    pinned = public_key_of(Ed25519PrivateKey.generate())
    for content in (rows, "level,ward\n", b"\xff"):
        site = lay(content, policy=f'scientists = {{ ada = "{pinned}" }}')
        assert {HostileServer(site).ask(kind).word for kind in KINDS} == {"policy"}
    figure("unsigned questions: refused with one word before the card or the source is looked at")


def must_not_run(*_: Any, **__: Any) -> None:
    raise AssertionError("a row was read")


def test_a_mandate_is_read_as_it_was_signed(attack: Attack) -> None:
    mandate = attack.mandate(scientist="Ädä Lovelace")
    signed = read_mandate(sign_mandate(mandate, attack.key))
    assert (signed.mandate, signed.key) == (mandate, public_key_of(attack.key))
