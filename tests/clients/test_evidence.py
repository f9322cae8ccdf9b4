"""Evidence of a ledger: what it shows, and that nothing can be changed in it unnoticed."""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from clients.keys import fingerprint, make_node_key, read_private_key, read_public_key
from clients.ledger.chain import Cap, Entry, Ledger, Plan
from clients.ledger.entry_bodies import require_sound
from clients.ledger.evidence import Checked, check, export
from clients.ledger.evidence_file import LEDGER_VERSION, canonical, read_evidence
from clients.ledger.replay import block_totals, history, totals_of
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
    return Ledger(folder / "ledger.db", site="north", cap=cap, clock=Clock())


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
def ledger_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Three plans, thirteen entries: written once, for every entry waits for the disk."""
    made = open_ledger(tmp_path_factory.mktemp("ledger"))
    release(made, "run-1/train", times=2, uses=4, sampling_rate=0.1, noise_multiplier=1.5)
    release(made, "run-1/evaluate", blocks=("w1/holdout",))
    release(made, "run-2/train", blocks=("w2/train",), uses=2)
    made.close()
    with sqlite3.connect(made.path) as connection:
        connection.execute("pragma wal_checkpoint(truncate)")
    return made.path.read_bytes()


@pytest.fixture
def ledger(tmp_path: Path, ledger_file: bytes) -> Ledger:
    (tmp_path / "ledger.db").write_bytes(ledger_file)
    return open_ledger(tmp_path)


def made_from(ledger: Ledger, *, key: ec.EllipticCurvePrivateKey = KEY) -> Values:
    return export(ledger, site="north", key=key, made="2026-04-01T00:00:00+00:00", program="tidegate 1")


def signed_anew(values: Values, key: ec.EllipticCurvePrivateKey = KEY) -> Values:
    """As a site would that lies: with its own key."""
    signature = key.sign(canonical(values["statement"]), ec.ECDSA(hashes.SHA384()))
    return {**values, "signature": base64.b64encode(signature).decode()}


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
    assert made_from(ledger)["statement"]["ledger_version"] == LEDGER_VERSION


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


def other_signature(values: Values) -> None:
    values.update(signed_anew(values, OTHER_KEY))


@pytest.mark.parametrize(
    ("tamper", "sentence"),
    [
        (cheaper_plan, "entry 1 does not fit the hash chain"),
        (hidden_charge, "entry 2 does not fit the hash chain"),
        (removed, "entry 3 does not fit the hash chain"),
        (removed_tail, "it holds 12 entries, and the site signed for 13: the newest were removed"),
        (swapped, "entry 3 does not fit the hash chain"),
        (repeated, "entry 14 does not fit the hash chain"),
        (lower_total, "the signature does not fit the statement"),
        (raised_cap, "the signature does not fit the statement"),
        (other_signature, "the signature does not fit the statement"),
    ],
)
def test_what_is_changed_after_the_export_is_found(
    tmp_path: Path, ledger: Ledger, tamper: Callable[[Values], None], sentence: str
) -> None:
    values = made_from(ledger)
    assert len(values["entries"]) == 13
    tamper(values)
    with pytest.raises(LedgerError, match=sentence):
        checked(tmp_path, values)


def chained_anew(values: Values) -> None:
    """A chain over other entries, without a fault in it: the signed head is another."""
    import hashlib

    previous = "0" * 64
    for entry in values["entries"]:
        body = json.dumps(entry["body"], sort_keys=True)
        text = [previous, entry["sequence"], entry["kind"], entry["plan"], entry["request"], body]
        entry["hash"] = previous = hashlib.sha256(json.dumps(text).encode()).hexdigest()


def test_a_chain_that_was_made_anew_is_not_the_signed_one(tmp_path: Path, ledger: Ledger) -> None:
    values = made_from(ledger)
    cheaper_plan(values)
    chained_anew(values)
    with pytest.raises(LedgerError, match="not those that the site signed"):
        checked(tmp_path, values)


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
    values = made_from(ledger)
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
        (negative_noise, "entry 1 .* not a mechanism"),
        (a_word_for_noise, "entry 1 .* noise_multiplier: input should be a valid number"),
    ],
)  # fmt: skip
def test_entries_that_no_ledger_writes_are_found_though_chain_and_signature_hold(
    tmp_path: Path, ledger: Ledger, tamper: Callable[[Values], None], sentence: str
) -> None:
    values = made_from(ledger)
    tamper(values)
    chained_anew(values)
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


def test_a_rewound_ledger_is_found(tmp_path: Path, ledger: Ledger, ledger_file: bytes) -> None:
    release(ledger, "run-3/train", blocks=("w3/train",))
    earlier = read_evidence(written(tmp_path, made_from(ledger), "earlier.json"))
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "ledger.db").write_bytes(ledger_file)
    rewound = open_ledger(tmp_path / "again")
    assert checked(tmp_path, made_from(rewound)).entries == 13  # alone it is without a fault
    with pytest.raises(LedgerError, match=r"rewound: it has 13 entries, .*earlier\.json has 17"):
        checked(tmp_path, made_from(rewound), after=earlier)
    release(rewound, "run-4/train", times=3, blocks=("w4/train",))
    with pytest.raises(LedgerError, match=r"rewritten: entry 15 is not the one that .*earlier\.json holds"):
        checked(tmp_path, made_from(rewound), after=earlier)


def test_evidence_of_another_site_and_a_changed_earlier_one_are_found(tmp_path: Path, ledger: Ledger) -> None:
    values = made_from(ledger)
    south = signed_anew({**values, "statement": {**values["statement"], "site": "south"}})
    earlier = read_evidence(written(tmp_path, south, "earlier.json"))
    with pytest.raises(LedgerError, match=r"of site 'north', .*earlier\.json of 'south'"):
        checked(tmp_path, values, after=earlier)
    lower_total(values)
    changed = read_evidence(written(tmp_path, values, "earlier.json"))
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
        '{"statement": {"format": "tidegate-evidence/2"}}',
        '{"statement": {"format": "tidegate-evidence/1", "site": NaN}}',
        '{"statement": {"format": "tidegate-evidence/1"}, "signature": "", "entries": []}',
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


def test_a_member_that_is_there_twice_and_a_control_character_are_refused(
    tmp_path: Path, ledger: Ledger
) -> None:
    path = written(tmp_path, made_from(ledger))
    text = path.read_text()
    path.write_text(text.replace('"site": "north"', '"site": "south", "site": "north"'))
    with pytest.raises(InputError, match="there twice"):
        read_evidence(path)
    path.write_text(text.replace('["w1/train"]', r'["w1/train\u001b[2K"]'))
    with pytest.raises(InputError, match="control character"):
        read_evidence(path)


def test_a_key_whose_point_is_compressed_is_refused(tmp_path: Path, ledger: Ledger) -> None:
    values = made_from(ledger)
    kind, text = values["statement"]["public_key"].split()
    blob = bytearray(base64.b64decode(text))
    blob[-97] = 2  # in place of 4, which stands before both coordinates
    values["statement"]["public_key"] = f"{kind} {base64.b64encode(blob).decode()}"
    with pytest.raises(InputError, match="not evidence of a ledger"):
        read_evidence(written(tmp_path, values))
    (tmp_path / "key.pub").write_text(values["statement"]["public_key"])
    with pytest.raises(InputError, match="not a public key"):
        read_public_key(tmp_path / "key.pub")


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


# -- replay ---------------------------------------------------------------------


def test_a_replay_gives_the_ledgers_own_figures_at_every_step(tmp_path: Path) -> None:
    ledger, seen = open_ledger(tmp_path), []
    for name in ("run-1/train", "run-2/train"):
        release(ledger, name, sampling_rate=0.2, noise_multiplier=1.5, uses=2)
        seen.append((len(ledger.entries()), block_totals(ledger)))
    moments = history(ledger.entries(), site="north", cap=CAP)
    assert len(moments) == len(ledger.entries())
    assert moments[0].at == ledger.entries()[0].body["at"]
    for count, totals in seen:
        assert moments[count - 1].totals == totals
        assert totals_of(ledger.entries()[:count], site="north", cap=CAP) == totals


def test_a_long_history_is_sampled_and_ends_at_the_end(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    release(ledger, "run-1/train", times=30, uses=30, noise_multiplier=50.0)
    moments = history(ledger.entries(), site="north", cap=CAP, moments=7)
    assert len(moments) == 7
    assert moments[-1].totals == block_totals(ledger)
    assert history([], site="north", cap=CAP) == ()


def test_entries_that_cannot_be_replayed_are_refused(ledger: Ledger) -> None:
    first = ledger.entries()[0]
    reserve = Entry(**{**asdict(first), "kind": "reserve", "plan": "none", "body": {"at": ""}})
    with pytest.raises(LedgerError, match="not such as a ledger writes"):
        totals_of([reserve], site="north", cap=CAP)
    with pytest.raises(LedgerError, match="never authorised"):
        require_sound([reserve], where="here")
