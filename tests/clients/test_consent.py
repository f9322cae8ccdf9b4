"""Nothing of an experiment is answered that the administrator has not approved, or has revoked.

A real site, its ClientApp and its commands; the server writes its own messages.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from flwr.app import Message

from clients import site as sites
from clients.cli.join import end_approvals_of_another
from clients.code import installed_code_hash
from clients.requests import MOST_REQUESTS, Requests
from clients.site import open_site
from contract.errors import StorageError
from contract.experiment import Experiment
from contract.mandate import mandate_for, public_key_of, sign_mandate
from contract.messages import COMPARE, DRIFT_QUERY, Instruction
from server.line.certificates import make_server_files
from tests.cli.conftest import tidegate
from tests.clients.test_app import EXPERIMENT, append, ask, entries, forget_sites, site
from tests.hostile import HOSTILE, require_harmless

__all__ = ["site", "tidegate"]

Command = Callable[..., str]
TRAIN = Instruction(run="r", step=1, windows=("w1",), evaluate=True)
LAST = Instruction(run="r", step=99, windows=("w1",), evaluate=True)


@pytest.fixture(autouse=True)
def _asks(site: Path) -> None:
    site.write_text(f'{site.read_text()}approval = "ask"\n')


def changed(**keys: Any) -> Experiment:
    """The experiment with keys of its privacy section changed."""
    return EXPERIMENT.model_copy(update={"privacy": EXPERIMENT.privacy.model_copy(update=keys)})


def word(answer: Message) -> str:
    return answer.error.reason if answer.has_error() else "answered"


def asked(site: Path, instruction: Instruction = TRAIN, kind: str = "train", **more: Any) -> str:
    return word(ask(site, kind, instruction=instruction, **more))


def asked_or_silent(site: Path, instruction: Instruction) -> str:
    try:
        return asked(site, instruction)
    except ValueError:  # there is no answer to take apart
        return ""


def listed(tidegate: Command, site: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(tidegate("site", "requests", site, "--json"))
    return found


def approve(tidegate: Command, site: Path, *more: object, digest: str = EXPERIMENT.digest) -> dict[str, Any]:
    """As an administrator does who has looked: what was asked after an earlier look waits on."""
    if not open_site(site).requests.to_decide(digest, by="program"):
        listed(tidegate, site)
    found: dict[str, Any] = json.loads(tidegate("site", "approve", site, digest, *more, "--json"))
    return found


def charged(site: Path) -> int:
    return entries(site).count("reserve")


def test_a_site_that_asks_reads_no_row_and_enters_the_request(
    site: Path, tidegate: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_rows(*_: Any, **__: Any) -> None:
        raise AssertionError("a row was read")

    monkeypatch.setattr("clients.site.read_rows", read_rows)
    assert [asked(site) for _ in range(3)] == ["approval"] * 3
    assert entries(site) == ["refuse"]
    found = listed(tidegate, site)
    (request,) = found["requests"]
    assert request["digest"] == EXPERIMENT.digest
    assert (request["times"], request["installed"], request["windows"]) == (3, True, ["w1"])
    assert request["fits"]
    assert request["epsilon"] > 0
    assert {block["block"] for block in request["blocks"]} == {"w1/train", "w1/holdout"}
    assert all(block["left"] == 10.0 for block in request["blocks"])
    assert found["approved"] == found["declined"] == []


def test_a_run_that_waits_through_its_rounds_never_silences_the_site(site: Path, tidegate: Command) -> None:
    words = [asked_or_silent(site, replace(TRAIN, step=step)) for step in range(1, 211)]
    assert words == ["approval"] * 210
    assert entries(site) == ["refuse"]
    (request,) = listed(tidegate, site)["requests"]
    assert request["times"] == 210


def test_an_approved_run_is_answered_and_nothing_else(site: Path, tidegate: Command) -> None:
    assert asked(site) == "approval"
    terms = approve(tidegate, site)
    assert terms["windows"] == ["w1"]
    assert listed(tidegate, site)["requests"] == []
    assert asked(site) == "answered"
    assert asked(site, kind="evaluate", instruction=LAST) == "answered"
    assert asked(site, kind=COMPARE) == "answered"
    before = charged(site)
    again = [
        asked(site, replace(TRAIN, windows=("w2",), run="s")),
        asked(site, replace(TRAIN, windows=("w1", "w2"), run="s")),
        asked(site, replace(TRAIN, windows=(), run="s")),
        asked(site, replace(TRAIN, run="s")),  # a second run for the price of one
        asked(site, replace(TRAIN, step=2), experiment=changed(epsilon=2.001)),
        asked(site, replace(TRAIN, step=2), experiment=changed(clipping_norm=1.5)),
        asked(site, Instruction(run="d", windows=("w1",), reference_windows=("w1",)), DRIFT_QUERY),
    ]
    assert again == ["approval"] * len(again)
    assert charged(site) == before
    assert len(listed(tidegate, site)["requests"]) == len(again)


def test_other_code_than_the_approved_is_asked_anew(
    site: Path, tidegate: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(site)
    approve(tidegate, site)
    assert asked(site) == "answered"
    for module in ("clients.gate", "clients.app"):
        monkeypatch.setattr(f"{module}.installed_code_hash", lambda: "0" * 64)
    assert asked(site, replace(TRAIN, step=2)) == "approval"
    monkeypatch.undo()
    assert "other code" in tidegate("site", "approve", site, EXPERIMENT.digest, code=2)  # not looked at
    (request,) = listed(tidegate, site)["requests"]
    assert request["installed"] is False
    assert "IS NOT" in tidegate("site", "requests", site)
    assert "other code" in tidegate("site", "approve", site, EXPERIMENT.digest, code=2)


def test_a_listing_that_could_not_be_written_was_not_shown(
    site: Path, tidegate: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    asked(site)
    for screen, more in (("say", ()), ("print_json", ("--json",))):
        with monkeypatch.context() as patch:
            patch.setattr(f"terminal.output.{screen}", no_room)
            assert "No space left" in tidegate("site", "requests", site, *more, code=2)
        assert "was shown to you yet" in tidegate("site", "approve", site, EXPERIMENT.digest, *more, code=2)
    approve(tidegate, site)


def test_revocation_ends_a_run_and_its_replay(site: Path, tidegate: Command) -> None:
    asked(site)
    approve(tidegate, site, "--epsilon", "9")
    assert asked(site) == "answered"
    before = charged(site)
    tidegate("site", "revoke", site, EXPERIMENT.digest, "--reason", "complaint")
    assert asked(site) == "policy"  # what was answered is not given again
    assert asked(site, replace(TRAIN, step=2)) == "policy"
    assert asked(site, kind="evaluate", instruction=LAST) == "policy"
    assert charged(site) == before
    found = listed(tidegate, site)
    assert found["requests"] == found["approved"] == []
    assert found["declined"] == [{"digest": EXPERIMENT.digest, "reason": "complaint"}]
    forget_sites()
    assert asked(site) == "policy"
    assert "in force" in tidegate("site", "revoke", site, EXPERIMENT.digest, code=2)
    other = changed(epsilon=1.5)
    assert asked(site, experiment=other) == "policy"  # the same reply, by another name
    assert asked(site, replace(TRAIN, run="s"), experiment=other) == "approval"


def test_what_is_refused_stays_refused_whatever_the_policy_allows(site: Path, tidegate: Command) -> None:
    site.write_text(site.read_text().replace('approval = "ask"', 'approval = "automatic"'))
    assert asked(site) == "answered"
    tidegate("site", "refuse", site, EXPERIMENT.digest)
    assert asked(site, replace(TRAIN, step=2)) == "policy"
    assert asked(site, experiment=changed(epsilon=1.0), instruction=replace(TRAIN, run="s")) == "answered"


def test_what_was_refused_or_revoked_may_ask_again_once_that_is_undone(site: Path, tidegate: Command) -> None:
    asked(site)
    tidegate("site", "refuse", site, EXPERIMENT.digest)
    assert asked(site) == "policy"
    assert "no request" in tidegate("site", "approve", site, EXPERIMENT.digest, code=2)
    tidegate("site", "refuse", site, EXPERIMENT.digest, "--undo")
    assert asked(site) == "approval"
    approve(tidegate, site)
    assert asked(site) == "answered"
    tidegate("site", "revoke", site, EXPERIMENT.digest)
    tidegate("site", "refuse", site, EXPERIMENT.digest, "--undo")
    assert asked(site, replace(TRAIN, step=2)) == "approval"  # the revoked approval is not back
    assert "is not refused" in tidegate("site", "refuse", site, EXPERIMENT.digest, "--undo", code=2)
    from clients.ledger.entry_bodies import require_sound

    require_sound(open_site(site).ledger.entries(), where="here")


def test_an_approval_ends_with_its_day(
    site: Path, tidegate: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(site)
    assert approve(tidegate, site, "--until", "2099-12-31")["until"] == "2100-01-01T00:00:00+00:00"
    assert asked(site) == "answered"
    monkeypatch.setattr(sites, "_now", lambda: "2100-01-01T00:00:00+00:00")
    assert asked(site, replace(TRAIN, step=2)) == "approval"
    assert asked(site) == "answered"  # what was released before is given again: it costs nothing
    assert listed(tidegate, site)["approved"] == []


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        (f'experiments = ["{EXPERIMENT.digest}"]', "answered"),
        ('label = "ill"\nfeatures = ["level"]', "answered"),
        ('label = "ill"\nepsilon = 3.0', "answered"),
        ('label = "ill"\nepsilon = 0.1', "approval"),
        ('label = "ill"\nfeatures = ["age"]', "approval"),
        (f'code = ["{"0" * 64}"]', "approval"),
    ],
)
def test_a_rule_answers_in_the_administrators_place(site: Path, rule: str, wanted: str) -> None:
    site.write_text(f"{site.read_text()}[policy.allow]\n{rule}\n")
    assert asked(site) == wanted
    automatic = site.read_text().replace('approval = "ask"', 'approval = "automatic"')
    site.write_text(automatic)
    assert asked(site, replace(TRAIN, run="s")) == wanted.replace("approval", "policy")


def test_a_rule_bounds_a_run_and_not_a_message(site: Path) -> None:
    site.write_text(f'{site.read_text()}[policy.allow]\nlabel = "ill"\nepsilon = 1.0\n')
    check = Instruction(run="d", windows=("w1",), reference_windows=("w1",))
    words = [asked(site, replace(check, step=step), DRIFT_QUERY) for step in range(1, 6)]
    assert words[0] == "answered"
    assert words[-1] == "approval"


def test_two_tables_get_the_same_words(site: Path, tmp_path: Path, tidegate: Command) -> None:
    """Whatever is approved, refused or waits: the answers of sites of other rows differ in nothing."""
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(site, other / "site.toml")
    (other / "rows.csv").write_text("level,ill,window,side\nx,9,w9,train\n")
    pair = (site, other / "site.toml")

    def both(instruction: Instruction = TRAIN) -> list[str]:
        return [asked(one, instruction) for one in pair]

    assert both() == ["approval"] * 2
    for one in pair:
        approve(tidegate, one)
    assert both() == ["answered"] * 2
    assert both(replace(TRAIN, windows=("w9",), run="s")) == ["approval"] * 2
    for one in pair:
        tidegate("site", "revoke", one, EXPERIMENT.digest)
    assert both(replace(TRAIN, step=2)) == ["policy"] * 2
    assert entries(pair[0]) == entries(pair[1])


def test_a_flood_of_requests_is_answered_in_the_same_word_and_bounded(site: Path, tidegate: Command) -> None:
    variants = [changed(epsilon=1 + number / 1000) for number in range(MOST_REQUESTS + 5)]
    assert {asked(site, experiment=plan) for plan in variants} == {"approval"}
    assert len(listed(tidegate, site)["requests"]) == MOST_REQUESTS
    assert entries(site) == ["refuse"]  # all of one name
    numbered = (replace(TRAIN, run=f"r{number}") for number in range(210))
    words = [asked_or_silent(site, one) for one in numbered]
    assert words == ["approval"] * 199 + [""] * 11  # which is no answer at all
    assert entries(site) == ["refuse"] * 200
    first = variants[0].digest
    tidegate("site", "refuse", site, first)
    assert asked(site, experiment=variants[-1]) == "approval"
    assert variants[-1].digest in {item["digest"] for item in listed(tidegate, site)["requests"]}


def test_a_record_that_cannot_be_written_changes_no_word(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> bool:
        raise StorageError("no space left")

    monkeypatch.setattr(Requests, "enter", full)
    assert asked(site) == "approval"


def test_killed_between_the_entry_and_the_answer_it_is_asked_and_answered_again(
    site: Path, tidegate: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        """No handler takes it."""

    def killed(*_: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("clients.app._enter_refusal", killed)
        with pytest.raises(KilledError):
            asked(site)
    forget_sites()
    assert [item["times"] for item in listed(tidegate, site)["requests"]] == [1]
    assert asked(site) == "approval"
    assert [item["times"] for item in listed(tidegate, site)["requests"]] == [2]


def test_what_the_server_calls_things_is_shown_escaped(
    site: Path, tidegate: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clients.app import _Exchange

    begin = _Exchange.__init__

    def hostile(self: _Exchange, *arguments: Any) -> None:
        begin(self, *arguments)
        self.trigger = HOSTILE.replace("\ud800", "")

    monkeypatch.setattr(_Exchange, "__init__", hostile)
    assert asked(site) == "approval"
    require_harmless(tidegate("site", "requests", site, width=6000))
    tidegate("site", "refuse", site, EXPERIMENT.digest, "--reason", HOSTILE.replace("\ud800", ""))
    for command in ("requests", "ledger"):
        more = ["--entries"] if command == "ledger" else []
        require_harmless(tidegate("site", command, site, *more, width=6000))


def test_the_difference_to_what_was_approved_last_is_told(site: Path, tidegate: Command) -> None:
    asked(site)
    approve(tidegate, site)
    task = EXPERIMENT.task.model_copy(update={"description": "the same, they say"})
    other = changed(epsilon=3.5).model_copy(update={"task": task})
    asked(site, experiment=other)
    (request,) = listed(tidegate, site)["requests"]
    assert request["compared_with"] == EXPERIMENT.digest
    assert {item["key"]: (item["before"], item["now"]) for item in request["differences"]} == {
        "privacy.epsilon": ("2.0", "3.5"),
        "task.description": ('""', '"the same, they say"'),
    }
    assert "privacy.epsilon" in tidegate("site", "requests", site)


def test_runs_and_their_epsilon_go_together(site: Path, tidegate: Command) -> None:
    asked(site)
    one = approve(tidegate, site)["epsilon"]
    asked(site, replace(TRAIN, run="s"))
    asked(site, replace(TRAIN, run="t"))
    two = approve(tidegate, site, "--runs", "2")["epsilon"]
    assert one < two < 2 * one
    for run in ("s", "t", "u"):
        assert asked(site, replace(TRAIN, run=run)) == "answered"  # one more is the first approval's
    assert asked(site, replace(TRAIN, run="v")) == "approval"


def test_a_drift_check_is_approved_with_its_reference_and_told_again(site: Path, tidegate: Command) -> None:
    check = Instruction(run="d", windows=("w2",), reference_windows=("w1",))
    assert asked(site, check, DRIFT_QUERY) == "approval"
    assert approve(tidegate, site, "--any-window", "--runs", "2")["purposes"] == ["drift"]
    for _ in range(2):
        assert asked(site, check, DRIFT_QUERY) == "answered"
    assert charged(site) == 2  # the reference and the check, once each
    assert asked(site, replace(check, run="e", windows=("w3",)), DRIFT_QUERY) == "answered"
    assert asked(site, replace(check, run="f", windows=("w4",)), DRIFT_QUERY) == "approval"
    assert asked(site) == "approval"


def test_any_window_may_be_approved(site: Path, tidegate: Command) -> None:
    asked(site)
    approve(tidegate, site, "--any-window")
    assert asked(site, replace(TRAIN, windows=("w2",))) == "answered"


def test_what_a_server_adds_after_the_look_is_not_approved_with_it(site: Path, tidegate: Command) -> None:
    """The administrator sees one window, and the server asks for others before the approval is typed."""
    asked(site)
    (seen,) = listed(tidegate, site)["requests"]
    other = replace(TRAIN, run="more", windows=("w2",))
    asked(site, other)
    drift = Instruction(run="d", step=0, windows=("w2",), reference_windows=("w1",))
    asked(site, drift, DRIFT_QUERY)
    terms = approve(tidegate, site)
    assert (terms["windows"], terms["wait"]) == (["w1"], 2)
    assert terms["epsilon"] == pytest.approx(seen["epsilon"], abs=2e-3)
    assert [asked(site), asked(site, other)] == ["answered", "approval"]
    assert asked(site, drift, DRIFT_QUERY) == "approval"
    late = listed(tidegate, site)["requests"]
    assert sorted(request["kind"] for request in late) == ["query.drift", "train"]
    assert approve(tidegate, site)["wait"] == 0
    assert [asked(site, other), listed(tidegate, site)["requests"]] == ["answered", []]


def test_a_program_that_watches_looks_for_no_administrator(site: Path, tidegate: Command) -> None:
    """It reads the requests each minute: what a server adds is not approved because it has seen it."""
    asked(site)
    listed(tidegate, site)
    assert "shown to you yet" in tidegate("site", "approve", site, EXPERIMENT.digest, code=2)
    tidegate("site", "requests", site)
    other = replace(TRAIN, run="more", windows=("w2",))
    asked(site, other)
    listed(tidegate, site)
    said = tidegate("site", "approve", site, EXPERIMENT.digest)
    assert "came since you looked" in said
    (approved,) = listed(tidegate, site)["approved"]
    assert approved["windows"] == ["w1"]
    assert [asked(site), asked(site, other)] == ["answered", "approval"]


def test_what_nobody_has_looked_at_is_not_approved(
    site: Path, tidegate: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An administrator who was told the digest by a scientist does not take what a server has added to it."""
    asked(site)
    other = replace(TRAIN, run="more", windows=("w2",))
    asked(site, other)
    before = entries(site)
    for more in ((), ("--any-window", "--epsilon", "9"), ("--json",)):
        said = tidegate("site", "approve", site, EXPERIMENT.digest, *more, code=2)
        assert "nothing of experiment" in said
        assert "was shown to you yet" in said
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, code in ((False, 1), (True, 0)):
        assert entries(site) == before
        monkeypatch.setattr("typer.confirm", lambda _question, answer=answer: answer)
        said = tidegate("site", "approve", site, EXPERIMENT.digest, code=code)
        assert "a training run on w1" in said
        assert "a training run on w2" in said
    assert [asked(site), asked(site, other)] == ["answered", "answered"]


def test_what_was_approved_for_one_federation_holds_for_no_other(
    site: Path, tidegate: Command, tmp_path: Path
) -> None:
    """The site joins another federation, whose server asks for what was approved for the first one's."""
    first, second = (
        x509.load_pem_x509_certificate(make_server_files(tmp_path / name, ["h"]).authority.read_bytes())
        for name in ("first", "second")
    )
    asked(site)
    approve(tidegate, site)
    assert (end_approvals_of_another(site, second), asked(site)) == ((), "answered")  # it was in none before
    (site.parent / "keys").mkdir(exist_ok=True)
    (site.parent / "keys" / "ca.pem").write_bytes(first.public_bytes(Encoding.PEM))
    assert end_approvals_of_another(site, first) == ()  # with a new token of the same
    assert end_approvals_of_another(site, second) == (EXPERIMENT.name,)
    assert asked(site, replace(TRAIN, step=2)) == "approval"
    assert end_approvals_of_another(site, second) == ()  # cut off and done again
    assert listed(tidegate, site)["declined"] == []
    approve(tidegate, site)
    assert asked(site, replace(TRAIN, step=2)) == "answered"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["0" * 64], "no request of experiment"),
        (["abc"], "Give all 64 digits"),
        ([EXPERIMENT.digest, "--until", "2026-01-01"], "is over"),
        ([EXPERIMENT.digest, "--until", "soon"], "is no day"),
        ([EXPERIMENT.digest, "--epsilon", "0"], "cannot be approved"),
        ([EXPERIMENT.digest, "--epsilon", "nan"], "cannot be approved"),
    ],
)
def test_what_cannot_be_approved_is_said_and_nothing_is_entered(
    site: Path, tidegate: Command, more: list[str], says: str
) -> None:
    asked(site)
    tidegate("site", "requests", site)
    assert says in tidegate("site", "approve", site, *more, code=2)
    assert entries(site) == ["refuse"]


def test_approvals_stand_in_the_ledger_and_in_evidence(site: Path, tidegate: Command, tmp_path: Path) -> None:
    from clients.keys import make_node_key

    asked(site)
    approve(tidegate, site)
    asked(site)
    tidegate("site", "revoke", site, EXPERIMENT.digest)
    assert open_site(site).ledger.verify() == len(entries(site))
    told = tidegate("site", "ledger", site, "--entries")
    assert "approve" in told
    assert EXPERIMENT.digest in told
    key, public = make_node_key(tmp_path / "keys")
    tidegate("site", "ledger", site, "--export", tmp_path / "evidence.json", "--key", key)
    assert "It holds" in tidegate("site", "evidence", tmp_path / "evidence.json", "--public-key", public)


def test_cost_and_status_say_that_it_would_wait(site: Path, tidegate: Command, tmp_path: Path) -> None:
    from tests.clients.test_app import TEXT

    file = tmp_path / "small.toml"
    file.write_text(TEXT)
    assert "A run would wait" in tidegate("site", "cost", site, file, "--window", "w1")
    found = json.loads(tidegate("site", "cost", site, file, "--window", "w1", "--json"))
    assert found["accepted"] is False
    assert "waits for approval" in found["approval"]
    assert "what you approve" in tidegate("site", "status", site)


def test_late_rows_change_no_request(site: Path, tidegate: Command) -> None:
    asked(site)
    (before,) = listed(tidegate, site)["requests"]
    append(site, "50,1,w1,train")
    (after,) = listed(tidegate, site)["requests"]
    assert before == after


KEY = Ed25519PrivateKey.generate()
EXPIRES = datetime(2999, 1, 2, 3, 4, tzinfo=UTC)


def signed(**more: Any) -> str:
    values = {"run": "r", "windows": ("w1",), "code": installed_code_hash(), "authority": "a" * 64}
    return sign_mandate(
        mandate_for(EXPERIMENT, **{**values, "scientist": "Ada", "expires": EXPIRES, **more}), KEY
    )


def test_an_administrator_sees_who_signed_until_when_and_for_what(site: Path, tidegate: Command) -> None:
    assert asked(site) == "approval"
    assert listed(tidegate, site)["requests"][0]["signature"]["fault"] == "not signed"
    assert "not signed" in tidegate("site", "requests", site)
    assert asked(site, mandate=signed()) == "approval"
    (request,) = listed(tidegate, site)["requests"]
    assert (request["signature"]["key"], request["signature"]["name"]) == (public_key_of(KEY), "")
    said = tidegate("site", "requests", site)
    assert "whom your policy does not name, until 2999-01-02 03:04 UTC" in said
    assert public_key_of(KEY) in said.replace("\n", " ")
    assert asked(site, mandate=signed(windows=("w2",))) == "approval"
    assert "DOES NOT COVER IT: signed for other windows" in tidegate("site", "requests", site)
    assert asked(site, mandate="{}") == "approval"
    assert "mandate is not valid" in tidegate("site", "requests", site)
    assert charged(site) == 0


def test_a_site_that_names_scientists_asks_its_administrator_of_theirs_alone(
    site: Path, tidegate: Command
) -> None:
    site.write_text(f'{site.read_text()}scientists = {{ "ada b" = "{public_key_of(KEY)}" }}\n')
    assert asked(site) == "policy"
    assert asked(site, mandate=signed(run="s")) == "policy"
    assert listed(tidegate, site)["requests"] == []
    assert asked(site, mandate=signed()) == "approval"
    assert "signed by 'ada b' of your policy, until 2999-01-02" in tidegate("site", "requests", site)
    approve(tidegate, site)
    assert asked(site) == "policy"  # an approval is not a signature
    assert asked(site, mandate=signed()) == "answered"
    (left,) = [one for one in json.loads(tidegate("site", "egress", site, "--json")) if "bytes" in one]
    assert len(left["mandate"]) == 64
    tidegate("site", "ledger", site)
    open_site(site).ledger.verify()
