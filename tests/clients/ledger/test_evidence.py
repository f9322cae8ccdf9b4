"""Evidence of a ledger: what it shows, and that nothing can be changed in it unnoticed."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey

from clients.keys import fingerprint, make_node_key, read_private_key, read_public_key, site_signer
from clients.ledger.backup import back_up, restore
from clients.ledger.chain import Ledger
from clients.ledger.entries import Entry, canonical
from clients.ledger.entries import sealed as sealed_entry
from clients.ledger.entry_bodies import require_sound
from clients.ledger.evidence import Checked, check, export
from clients.ledger.evidence_file import LEDGER_VERSION, PAYLOAD, read_evidence
from clients.ledger.plan import Cap, Plan
from clients.ledger.replay import block_totals, history, totals_of
from contract.envelope import sign
from contract.errors import InputError, LedgerError

CAP = Cap(epsilon=8.0, delta=1e-5)
KEY = ec.generate_private_key(ec.SECP384R1())
OTHER_KEY = ec.generate_private_key(ec.SECP384R1())
Values = dict[str, Any]


class Clock:
    """An hour an entry."""

    def __init__(self) -> None:
        self.hours = 0

    def __call__(self) -> str:
        self.hours += 1
        return f"2026-03-{1 + self.hours // 24:02}T{self.hours % 24:02}:00:00+00:00"


def open_ledger(folder: Path, *, cap: Cap = CAP) -> Ledger:
    return Ledger(folder / "ledger.db", site="north", cap=cap, clock=Clock(), signer=site_signer(folder))


def release(ledger: Ledger, name: str, *, times: int = 1, **values: Any) -> None:
    run, _, purpose = name.partition("/")
    settings: Values = {"blocks": ("w1/train",), "noise_multiplier": 5.0, "uses": 3, **values}
    ledger.authorise(Plan(name=name, run=run, purpose=purpose, **settings))  # type: ignore[arg-type]
    for number in range(times):
        request = f"{name}/{number}"
        ledger.reserve(request, name)
        body = {"releases": ["update"], "experiment": "d" * 64, "private": bool(settings["noise_multiplier"])}
        ledger.commit(request, name, b"reply", body)


@pytest.fixture(scope="module")
def ledger_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three plans, thirteen entries: written once, for every entry waits for the disk."""
    folder = tmp_path_factory.mktemp("ledger")
    made = open_ledger(folder)
    release(made, "run-1/train", times=2, uses=4, sampling_rate=0.1, noise_multiplier=1.5)
    release(made, "run-1/evaluate", blocks=("w1/holdout",))
    release(made, "run-2/train", blocks=("w2/train",), uses=2)
    made.close()
    return folder


@pytest.fixture
def ledger(tmp_path: Path, ledger_files: Path) -> Ledger:
    shutil.copytree(ledger_files, tmp_path, dirs_exist_ok=True)
    return open_ledger(tmp_path)


def made_from(ledger: Ledger, *, key: ec.EllipticCurvePrivateKey = KEY) -> Values:
    """The envelope, as it is written."""
    return export(ledger, site="north", key=key, made="2026-04-01T00:00:00+00:00", program="tidegate 1")


def contents(envelope: Values) -> Values:
    """What it says: statement and entries."""
    values: Values = json.loads(base64.b64decode(envelope["payload"]))
    return values


def put_in(envelope: Values, values: Values) -> Values:
    """Other contents under the signature that is there."""
    return {**envelope, "payload": base64.b64encode(canonical(values)).decode()}


def signed_anew(values: Values, key: ec.EllipticCurvePrivateKey = KEY) -> Values:
    """As a site would that lies: with its own key."""
    return sign(PAYLOAD, canonical(values), key)


def checked(folder: Path, values: Values, **arguments: Any) -> Checked:
    return check(read_evidence(written(folder, values)), **{"public_key": KEY.public_key(), **arguments})


def written(folder: Path, values: Values, name: str = "evidence.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def test_a_third_party_gets_the_sites_own_figures(tmp_path: Path, ledger: Ledger) -> None:
    found = checked(tmp_path, made_from(ledger))
    assert found.totals == block_totals(ledger)
    assert [total.block for total in found.totals] == ["w1/holdout", "w1/train", "w2/train"]
    assert all(0 < total.spent.epsilon < total.promised.epsilon for total in found.totals[2:])
    assert (found.site, found.entries, found.head) == ("north", ledger.verify(), ledger.entries()[-1].hash)
    assert found.notes == ()
    assert found.added is None


def test_the_files_own_key_is_said_to_be_a_claim(tmp_path: Path, ledger: Ledger) -> None:
    (note,) = checked(tmp_path, made_from(ledger), public_key=None).notes
    assert fingerprint(KEY.public_key()) in note
    assert "claim" in note


def test_an_empty_ledger_has_evidence_too(tmp_path: Path) -> None:
    found = checked(tmp_path, made_from(open_ledger(tmp_path)))
    assert (found.entries, found.totals) == (0, ())


def test_the_format_is_the_ledgers(tmp_path: Path, ledger: Ledger) -> None:
    with sqlite3.connect(ledger.path) as connection:
        assert connection.execute("select version from about").fetchall() == [(LEDGER_VERSION,)]
    assert contents(made_from(ledger))["statement"]["ledger_version"] == LEDGER_VERSION


def test_what_is_not_private_or_above_the_cap_is_said(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, cap=Cap(epsilon=50.0, delta=1e-5))
    release(ledger, "run-1/train", noise_multiplier=0.0)
    release(ledger, "run-2/train", blocks=("w2/train",), noise_multiplier=1.0)
    ledger.close()
    lowered = open_ledger(tmp_path, cap=Cap(epsilon=1.0, delta=1e-5))
    found = checked(tmp_path, made_from(lowered))
    plain, private = found.totals
    assert not plain.private
    assert plain.as_dict()["spent"] == {"epsilon": None, "method": "not private"}
    assert plain.left(1.0) == private.left(1.0) == 0
    assert "no privacy guarantee: w1/train." in found.notes[0]
    assert "more than the cap: w2/train." in found.notes[1]
    assert "a larger one was in force then, which no entry keeps (ask the site): w2/train." in found.notes[2]
    assert private.as_dict()["guaranteed"] is None


def cheaper_plan(values: Values) -> None:
    values["entries"][0]["body"]["noise_multiplier"] = 15.0


def hidden_charge(values: Values) -> None:
    values["entries"][1]["kind"] = "close"


def removed(values: Values) -> None:
    del values["entries"][2]


def removed_tail(values: Values) -> None:
    del values["entries"][-1]


def swapped(values: Values) -> None:
    values["entries"][2:4] = values["entries"][3:1:-1]


def repeated(values: Values) -> None:
    values["entries"].append({**values["entries"][-1]})


def lower_total(values: Values) -> None:
    values["statement"]["totals"][0]["spent"]["epsilon"] = 0.1


def raised_cap(values: Values) -> None:
    values["statement"]["cap"]["epsilon"] = 9.0


CHANGES = [cheaper_plan, hidden_charge, removed, removed_tail, swapped, repeated, lower_total, raised_cap]


@pytest.mark.parametrize("tamper", CHANGES)
def test_what_is_changed_after_the_export_is_found(
    tmp_path: Path, ledger: Ledger, tamper: Callable[[Values], None]
) -> None:
    envelope = made_from(ledger)
    values = contents(envelope)
    tamper(values)
    with pytest.raises(LedgerError, match="the signature does not fit"):
        checked(tmp_path, put_in(envelope, values))


def test_anothers_signature_and_anothers_type_are_found(tmp_path: Path, ledger: Ledger) -> None:
    envelope = made_from(ledger)
    other = signed_anew(contents(envelope), OTHER_KEY)
    with pytest.raises(LedgerError, match="the signature does not fit"):
        checked(tmp_path, other)
    with pytest.raises(LedgerError, match="the signature does not fit"):
        checked(tmp_path, {**envelope, "signatures": other["signatures"]})
    with pytest.raises(InputError, match="it holds 'application/json'"):
        checked(tmp_path, {**envelope, "payloadType": "application/json"})


@pytest.mark.parametrize(
    ("tamper", "sentence"),
    [
        (cheaper_plan, "entry 1 does not fit the hash chain"),
        (hidden_charge, "entry 2 does not fit the hash chain"),
        (removed, "entry 3 does not fit the hash chain"),
        (removed_tail, "it holds 12 entries, and the site signed for 13: the newest were removed"),
        (swapped, "entry 3 does not fit the hash chain"),
        (repeated, "entry 14 does not fit the hash chain"),
        (lower_total, "total of block 'w1/holdout' does not follow"),
    ],
)
def test_what_is_changed_before_the_export_is_found_though_the_site_signed_it(
    tmp_path: Path, ledger: Ledger, tamper: Callable[[Values], None], sentence: str
) -> None:
    values = contents(made_from(ledger))
    assert len(values["entries"]) == 13
    tamper(values)
    with pytest.raises(LedgerError, match=sentence):
        checked(tmp_path, signed_anew(values))


def chained_anew(values: Values, folder: Path | None = None) -> None:
    """A chain over other entries, without a fault in it: signed too, where the ledger's folder is given."""
    signer, previous = None if folder is None else site_signer(folder), "0" * 64
    for number, entry in enumerate(values["entries"], start=1):
        body, kept = entry["body"], entry["signature"]
        new = sealed_entry(previous, number, entry["kind"], entry["plan"], entry["request"], body, signer)
        values["entries"][number - 1] = {**new, "body": body, "signature": new["signature"] or kept}
        previous = new["hash"]


def test_a_chain_that_was_made_anew_is_not_the_signed_one(tmp_path: Path, ledger: Ledger) -> None:
    values = contents(made_from(ledger))
    cheaper_plan(values)
    chained_anew(values)
    with pytest.raises(LedgerError, match="not those that the site signed"):
        checked(tmp_path, signed_anew(values))
    values["statement"]["head"] = values["entries"][-1]["hash"]
    with pytest.raises(LedgerError, match="entry 1 is not signed with the ledger's key"):
        checked(tmp_path, signed_anew(values))


def no_total(values: Values) -> None:
    del values["statement"]["totals"][0]


def other_method(values: Values) -> None:
    values["statement"]["totals"][0]["spent"]["method"] = "a better theorem"


def larger_unit(values: Values) -> None:
    values["statement"]["totals"][0]["unit"] = "person"


def hidden_infinity(values: Values) -> None:
    values["statement"]["totals"][0]["promised"]["epsilon"] = None


@pytest.mark.parametrize("tamper", [lower_total, no_total, other_method, larger_unit, hidden_infinity])
def test_totals_that_do_not_follow_are_found_though_the_site_signed_them(
    tmp_path: Path, ledger: Ledger, tamper: Callable[[Values], None]
) -> None:
    values = contents(made_from(ledger))
    tamper(values)
    with pytest.raises(LedgerError, match="total of block 'w1/holdout' does not follow from the entries"):
        checked(tmp_path, signed_anew(values))


def uncharged(values: Values) -> None:
    values["entries"][1].update(kind="close", body={"at": "then"})


def twice_authorised(values: Values) -> None:
    """A plan that is made cheaper after its use would take its own cost back."""
    body = {**values["entries"][0]["body"], "noise_multiplier": 100.0}
    values["entries"][4] = {**values["entries"][0], "sequence": 5, "body": body}


def no_plan(values: Values) -> None:
    values["entries"][4].update(kind="reserve", plan="run-9/train", body={"at": "then"})


def a_row(values: Values) -> None:
    values["entries"][1]["body"]["row"] = [63, "f", 1]


def a_row_in_a_plan(values: Values) -> None:
    values["entries"][0]["body"]["rows"] = "63;f;1"


def hardly_a_use(values: Values) -> None:
    values["entries"][0]["body"]["uses"] = 1e-6


def negative_noise(values: Values) -> None:
    values["entries"][0]["body"]["noise_multiplier"] = -1.0


def a_word_for_noise(values: Values) -> None:
    values["entries"][0]["body"]["noise_multiplier"] = "5"


@pytest.mark.parametrize(
    ("tamper", "sentence"),
    [
        (uncharged, "entry 3 is not one that a ledger writes: request 'run-1/train/0' was committed"),
        (twice_authorised, "entry 5 .* authorised with other parameters"),
        (no_plan, "entry 5 .* plan 'run-9/train' was never authorised"),
        (a_row, "entry 2 .* row: extra inputs are not permitted"),
        (a_row_in_a_plan, "entry 1 .* a plan has no 'rows'"),
        (hardly_a_use, "entry 1 .* uses: input should be a valid integer"),
        (negative_noise, "entry 1 .* not a mechanism"),
        (a_word_for_noise, "entry 1 .* noise_multiplier: input should be a valid number"),
    ],
)  # fmt: skip
def test_entries_that_no_ledger_writes_are_found_though_chain_and_signature_hold(
    tmp_path: Path, ledger: Ledger, tamper: Callable[[Values], None], sentence: str
) -> None:
    values = contents(made_from(ledger))
    tamper(values)
    chained_anew(values, tmp_path)
    values["statement"]["head"] = values["entries"][-1]["hash"]
    with pytest.raises(LedgerError, match=sentence):
        checked(tmp_path, signed_anew(values))


def test_an_entry_that_holds_more_than_a_ledger_writes_does_not_get_out(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    release(ledger, "run-1/train")
    ledger.reserve("run-1/train/9", "run-1/train")
    ledger.commit("run-1/train/9", "run-1/train", b"reply", {"first_row": "63;f;1"})
    with pytest.raises(LedgerError, match=r"entry 5 .* first_row") as caught:
        made_from(ledger)
    assert "63" not in str(caught.value).replace(str(tmp_path), "")


def test_a_damaged_ledger_gives_no_evidence(ledger: Ledger) -> None:
    with sqlite3.connect(ledger.path) as connection:
        connection.execute("drop trigger entries_no_update")
        connection.execute("update entries set body = replace(body, '1.5', '9.5') where sequence = 1")
    with pytest.raises(LedgerError, match="hash chain"):
        made_from(ledger)


def test_another_sites_key_is_found(tmp_path: Path, ledger: Ledger) -> None:
    values = made_from(ledger, key=OTHER_KEY)
    with pytest.raises(LedgerError, match=r"it is signed with the key SHA256:.*, not with SHA256:"):
        checked(tmp_path, values)


# -- after ----------------------------------------------------------------------


def test_a_ledger_that_only_grew_continues_its_earlier_evidence(tmp_path: Path, ledger: Ledger) -> None:
    earlier = read_evidence(written(tmp_path, made_from(ledger), "earlier.json"))
    assert checked(tmp_path, made_from(ledger), after=earlier).added == 0
    release(ledger, "run-3/train", blocks=("w3/train",))
    found = checked(tmp_path, made_from(ledger), after=earlier)
    assert found.added == 4  # three, and the other run's plan was closed
    assert found.notes == ()


def test_a_new_key_and_another_cap_are_said(tmp_path: Path, ledger: Ledger) -> None:
    earlier = read_evidence(written(tmp_path, made_from(ledger, key=OTHER_KEY), "earlier.json"))
    ledger.close()
    raised = open_ledger(tmp_path, cap=Cap(epsilon=10.0, delta=1e-5))
    key, cap = checked(tmp_path, made_from(raised), after=earlier).notes
    assert fingerprint(OTHER_KEY.public_key()) in key
    assert "ε = 8" in cap


def test_a_rewound_ledger_is_found(tmp_path: Path, ledger: Ledger, ledger_files: Path) -> None:
    release(ledger, "run-3/train", blocks=("w3/train",))
    earlier = read_evidence(written(tmp_path, made_from(ledger), "earlier.json"))
    shutil.copytree(ledger_files, tmp_path / "again")
    rewound = open_ledger(tmp_path / "again")
    assert checked(tmp_path, made_from(rewound)).entries == 13  # alone it is without a fault
    with pytest.raises(LedgerError, match=r"rewound: it has 13 entries, .*earlier\.json has 17"):
        checked(tmp_path, made_from(rewound), after=earlier)
    release(rewound, "run-4/train", times=3, blocks=("w4/train",))
    with pytest.raises(LedgerError, match=r"rewritten: entry 14 is not the one that .*earlier\.json holds"):
        checked(tmp_path, made_from(rewound), after=earlier)


def test_evidence_of_another_site_and_a_changed_earlier_one_are_found(tmp_path: Path, ledger: Ledger) -> None:
    envelope = made_from(ledger)
    values = contents(envelope)
    south = signed_anew({**values, "statement": {**values["statement"], "site": "south"}})
    earlier = read_evidence(written(tmp_path, south, "earlier.json"))
    with pytest.raises(LedgerError, match=r"of site 'north', .*earlier\.json of 'south'"):
        checked(tmp_path, envelope, after=earlier)
    lower_total(values)
    changed = read_evidence(written(tmp_path, put_in(envelope, values), "earlier.json"))
    with pytest.raises(LedgerError, match=r"earlier\.json: the signature"):
        checked(tmp_path, made_from(ledger), after=changed)


# -- files ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[]",
        "null",
        "evidence",
        '{"statement": {"format": "tidegate-evidence/1"}, "signature": "", "entries": []}',
        '{"payload": "", "payloadType": "", "signatures": []}',
        '{"payload": "e30=", "payloadType": "application/vnd.tidegate.evidence+json", "signatures": [{}]}',
        '{"payload": "!", "payloadType": 5, "signatures": 5}',
        '{"payload": "e30=", "payloadType": "application/json", "signatures": [{"keyid": "", "sig": ""}]}',
        "[" * 100_000,
        b"\xff\xfe".decode("latin-1"),
    ],
)
def test_a_file_that_is_not_evidence_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match="not evidence of a ledger"):
        read_evidence(path)


def test_a_truncated_file_is_refused(tmp_path: Path, ledger: Ledger) -> None:
    path = written(tmp_path, made_from(ledger))
    whole = path.read_bytes()
    for length in (1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="not evidence of a ledger"):
            read_evidence(path)


def holding(folder: Path, envelope: Values, payload: bytes | str) -> Path:
    text = payload if isinstance(payload, bytes) else payload.encode()
    return written(folder, {**envelope, "payload": base64.b64encode(text).decode()})


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('"site":"north"', '"site":"south","site":"north"', "there twice"),
        ('["w1/train"]', r'["w1/train\u001b[2K"]', "control character"),
        ('"sequence":1,', '"sequence": 1,', "not in canonical form"),
        ('"sequence":1,', '"sequence":NaN,', "NaN is not a number"),
        ("tidegate-evidence/2", "tidegate-evidence/1", "its format is 'tidegate-evidence/1'"),
        ('"ledger_version":2', '"ledger_version":3', "its ledger has format 3"),
    ],
)
def test_a_payload_that_two_readers_could_read_in_two_ways_is_refused(
    tmp_path: Path, ledger: Ledger, old: str, new: str, sentence: str
) -> None:
    envelope = made_from(ledger)
    text = base64.b64decode(envelope["payload"]).decode()
    assert old in text
    with pytest.raises(InputError, match=sentence):
        read_evidence(holding(tmp_path, envelope, text.replace(old, new, 1)))


def test_a_key_whose_point_is_compressed_is_refused(tmp_path: Path, ledger: Ledger) -> None:
    values = contents(made_from(ledger))
    kind, text = values["statement"]["public_key"].split()
    blob = bytearray(base64.b64decode(text))
    blob[-97] = 2  # in place of 4, which stands before both coordinates
    values["statement"]["public_key"] = f"{kind} {base64.b64encode(blob).decode()}"
    with pytest.raises(InputError, match="not evidence of a ledger"):
        read_evidence(written(tmp_path, signed_anew(values)))
    (tmp_path / "key.pub").write_text(values["statement"]["public_key"])
    with pytest.raises(InputError, match="not a public key"):
        read_public_key(tmp_path / "key.pub")


# -- with others' tools ---------------------------------------------------------------------------


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_others_verify_the_envelope_and_the_chain_with_their_own_tools(
    tmp_path: Path, ledger: Ledger, curve: ec.EllipticCurve
) -> None:
    """securesystemslib, which TUF and in-toto use; RFC 8785 and SHA-256; and no code of ours."""
    key = ec.generate_private_key(curve)
    public = SSlibKey.from_crypto(key.public_key(), keyid=fingerprint(key.public_key()))
    envelope = Envelope.from_dict(json.loads(written(tmp_path, made_from(ledger, key=key)).read_text()))
    assert envelope.verify([public], 1) == {public.keyid: public}
    payload = json.loads(envelope.payload)
    assert rfc8785.dumps(payload) == envelope.payload
    site_key = serialization.load_ssh_public_key(payload["statement"]["ledger_key"].encode())
    assert isinstance(site_key, ec.EllipticCurvePublicKey)
    previous = "0" * 64
    for entry in payload["entries"]:
        body = rfc8785.dumps(entry["body"]).decode()
        hashed = [previous, entry["sequence"], entry["kind"], entry["plan"], entry["request"], body]
        previous = hashlib.sha256(rfc8785.dumps(hashed)).hexdigest()
        assert entry["hash"] == previous
        signed = b"tidegate-ledger-entry/2\n" + previous.encode()
        site_key.verify(base64.b64decode(entry["signature"]), signed, ec.ECDSA(hashes.SHA256()))
    assert payload["statement"]["head"] == previous


def test_a_ledger_of_an_earlier_version_whose_entries_have_no_salt_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("clients.ledger.store.stamped", lambda body, at: {**body, "at": at})
        old = open_ledger(tmp_path)
        release(old, "run-1/train")
        old.close()
    ledger = open_ledger(tmp_path)
    release(ledger, "run-2/train")
    assert ledger.verify() == 7
    salts = [entry.body.get("salt", "") for entry in ledger.entries()]
    assert salts[:3] == [""] * 3
    assert len({*salts[3:]}) == 4
    assert checked(tmp_path, made_from(ledger)).entries == 7


def test_both_words_stand_in_the_evidence(ledger: Ledger) -> None:
    for total in contents(made_from(ledger))["statement"]["totals"]:
        assert total["guaranteed"] == CAP.epsilon
        assert total["spent"]["epsilon"] <= total["promised"]["epsilon"] <= total["guaranteed"]


def test_a_restored_ledger_says_so_beside_the_evidence_of_before(tmp_path: Path, ledger: Ledger) -> None:
    back_up(ledger.path, tmp_path / "backup.db")
    release(ledger, "run-3/train", blocks=("w3/train",))
    earlier = read_evidence(written(tmp_path, made_from(ledger), "earlier.json"))
    ledger.close()
    ledger.path.unlink()
    restore(
        ledger.path,
        tmp_path / "backup.db",
        site="north",
        cap=CAP,
        clock=Clock(),
        signer=site_signer(tmp_path),
    )
    found = checked(tmp_path, made_from(open_ledger(tmp_path)), after=earlier)
    assert found.added == 1
    (note,) = found.notes
    assert "from a backup of 13 entries: 4 of the earlier evidence are lost" in note
    assert all(total.spent.epsilon == CAP.epsilon for total in found.totals)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    for read in (read_evidence, read_public_key, read_private_key):
        with pytest.raises(InputError, match="nothing: no such file"):
            read(tmp_path / "nothing")
        with pytest.raises(InputError, match="a folder, not a file"):
            read(tmp_path)


def test_keys_are_read_as_they_are_made_and_others_refused(tmp_path: Path) -> None:
    private, public = make_node_key(tmp_path / "keys")
    key = read_private_key(private)
    assert fingerprint(read_public_key(public)) == fingerprint(key.public_key())
    pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (tmp_path / "key.pem").write_bytes(pem)
    assert fingerprint(read_public_key(tmp_path / "key.pem")) == fingerprint(key.public_key())
    (tmp_path / "text").write_text("no key")
    edwards = ed25519.Ed25519PrivateKey.generate()
    openssh = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    (tmp_path / "edwards").write_bytes(edwards.public_key().public_bytes(*openssh))
    with pytest.raises(InputError, match="not an OpenSSH private key"):
        read_private_key(tmp_path / "text")
    with pytest.raises(InputError, match="not a public key"):
        read_public_key(tmp_path / "text")
    with pytest.raises(InputError, match="not an elliptic-curve key"):
        read_public_key(tmp_path / "edwards")
    with pytest.raises(InputError, match="a PRIVATE key, which must never leave its site"):
        read_public_key(private)


def test_a_key_that_this_user_may_not_read_is_not_to_be_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(InputError, match="Permission denied") as caught:
        read_private_key(tmp_path / "node.key")
    assert "readable for this user" in caught.value.remedy
    assert "init" not in caught.value.remedy


# -- replay ---------------------------------------------------------------------


def test_a_replay_gives_the_ledgers_own_figures_at_every_step(tmp_path: Path) -> None:
    ledger, seen = open_ledger(tmp_path), []
    for name in ("run-1/train", "run-2/train"):
        release(ledger, name, sampling_rate=0.2, noise_multiplier=1.5, uses=2)
        seen.append((len(ledger.entries()), block_totals(ledger)))
    moments = history(ledger.entries(), cap=CAP)
    assert len(moments) == len(ledger.entries())
    assert moments[0].at == ledger.entries()[0].body["at"]
    for count, totals in seen:
        assert moments[count - 1].totals == totals
        assert totals_of(ledger.entries()[:count], cap=CAP) == totals


def test_a_long_history_is_sampled_and_ends_at_the_end(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    release(ledger, "run-1/train", times=30, uses=30, noise_multiplier=50.0)
    moments = history(ledger.entries(), cap=CAP, moments=7)
    assert len(moments) == 7
    assert moments[-1].totals == block_totals(ledger)
    assert history([], cap=CAP) == ()


def test_entries_that_cannot_be_replayed_are_refused(ledger: Ledger) -> None:
    first = ledger.entries()[0]
    reserve = Entry(**{**asdict(first), "kind": "reserve", "plan": "none", "body": {"at": ""}})
    with pytest.raises(LedgerError, match="not such as a ledger writes"):
        totals_of([reserve], cap=CAP)
    with pytest.raises(LedgerError, match="never authorised"):
        require_sound([reserve], where="here")
