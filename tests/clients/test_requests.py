"""The record of requests: bounded, of this user alone, and no server's words break it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from clients import requests as record
from clients.requests import LARGEST_REQUEST, MOST_REQUESTS, Request, Requests
from contract.errors import PolicyError, StorageError
from contract.experiment_file import parse_experiment
from contract.messages import Instruction

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
PLAN = parse_experiment(
    'name = "small"\n[task]\nlabel = { column = "ill" }\n'
    '[[task.features]]\nname = "age"\nkind = "numeric"\nlow = 0\nhigh = 120\n',
    where="test",
)


def request(number: int = 0, at: datetime = NOW, **more: Any) -> Request:
    task = PLAN.task.model_copy(update={"description": f"variant {number}"})
    values = {"asked": Instruction(run="r", windows=("w1",)), "trigger": "a person", "kind": "train", **more}
    plan = PLAN.model_copy(update={"task": task})
    return Request(plan=plan, code="c" * 64, first=at, last=at, times=1, **values)


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_what_is_asked_again_is_one_request(tmp_path: Path) -> None:
    book = Requests(tmp_path)
    for minute in range(3):
        again = Instruction(run=f"r{minute}", step=minute, windows=("w1",))
        kind = "train" if minute else "evaluate"
        assert book.enter(request(at=NOW + timedelta(minutes=minute), asked=again, kind=kind))
    (found,) = book.all()
    assert (found.times, found.first, found.last) == (3, NOW, NOW + timedelta(minutes=2))
    assert found.plan.digest == request().plan.digest
    (path,) = (tmp_path / "waiting").iterdir()
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "other",
    [
        {"asked": Instruction(run="r", windows=("w2",))},
        {"asked": Instruction(run="r", windows=("w1",), reference_windows=("w0",))},
        {"kind": "query.drift"},
    ],
)
def test_other_windows_and_another_question_are_another_request(tmp_path: Path, other: Any) -> None:
    book = Requests(tmp_path)
    book.enter(request())
    book.enter(request(**other))
    assert len(book.all()) == 2


def test_a_flood_fills_the_record_and_not_the_disk(tmp_path: Path) -> None:
    book = Requests(tmp_path)
    entered = [book.enter(request(number)) for number in range(MOST_REQUESTS + 200)]
    assert entered == [True] * MOST_REQUESTS + [False] * 200
    assert len(book.all()) == MOST_REQUESTS
    before = size(tmp_path)
    for _ in range(50):
        assert book.enter(request(0))
    assert size(tmp_path) <= before + 100
    assert book.enter(request(1, at=NOW + timedelta(days=1)))  # what is known is counted on


def test_a_full_record_lets_go_what_nobody_asks_for_any_more(tmp_path: Path) -> None:
    book = Requests(tmp_path)
    for number in range(MOST_REQUESTS):
        book.enter(request(number))
    book.enter(request(7, at=NOW + timedelta(days=20)))
    assert not book.enter(request(1000, at=NOW + timedelta(days=30)))
    assert book.enter(request(1000, at=NOW + timedelta(days=31)))
    assert [found.plan.task.description for found in book.all()] == ["variant 7", "variant 1000"]


def test_one_that_is_too_large_is_refused_whatever_the_record_holds(tmp_path: Path) -> None:
    book = Requests(tmp_path)
    names = tuple(f"{number:06}{'ä' * 190}" for number in range(1000))
    wide = Instruction(run="r", features=names)
    for _ in range(2):
        book.enter(request(asked=wide))
    features = tuple(
        PLAN.task.features[0].model_copy(update={"name": f"{number:06}{'ä' * 190}"}) for number in range(3000)
    )
    task = PLAN.task.model_copy(update={"features": features})
    large = request().model_copy(update={"plan": PLAN.model_copy(update={"task": task})})
    with pytest.raises(PolicyError, match="too large"):
        book.enter(large)
    assert size(tmp_path) < LARGEST_REQUEST


@pytest.mark.parametrize("text", ["", "{", "[]", json.dumps({"plan": 1}), "\x00", "9" * 10**6])
def test_a_file_that_is_no_request_is_left_out(tmp_path: Path, text: str) -> None:
    book = Requests(tmp_path)
    book.enter(request())
    (tmp_path / "waiting" / f"{'0' * 32}.json").write_text(text)
    (moved,) = (path for path in (tmp_path / "waiting").iterdir() if path.stem != "0" * 32)
    (tmp_path / "waiting" / f"{'1' * 32}.json").write_bytes(moved.read_bytes())  # under another's name
    assert len(book.all()) == 1


def test_a_record_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "waiting").write_text("a file in the folder's place")
    with pytest.raises(StorageError, match="cannot be written"):
        Requests(tmp_path).enter(request())


def test_a_kill_while_it_is_written_leaves_the_whole_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = Requests(tmp_path)
    book.enter(request())

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(record.Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            book.enter(request())
    assert [found.times for found in book.all()] == [1]
    book.enter(request())
    assert len(list((tmp_path / "waiting").iterdir())) == 1


def test_a_plan_is_kept_under_its_digest_or_not_at_all(tmp_path: Path) -> None:
    book = Requests(tmp_path)
    book.keep_approved(PLAN)
    assert book.approved(PLAN.digest) == PLAN
    path = tmp_path / "approved" / f"{PLAN.digest}.json"
    path.write_text(path.read_text().replace('"ill"', '"dead"'))
    assert book.approved(PLAN.digest) is None
    assert book.approved("0" * 64) is None
