"""What leaves a site when it refuses: one word. What leaves it when it is asked again: the same bytes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from clients import site as sites
from clients.app import app
from clients.ledger.plan import Plan
from clients.ledger.plans import retraining_plans
from clients.mandates import AUTHORITY
from clients.site import open_site
from contract.errors import BudgetError, DataError, RefusalCode
from contract.experiment import Experiment
from contract.experiment_file import parse_experiment
from contract.messages import COMPARE, CONFIG, DRIFT_QUERY, Instruction, Reply
from contract.models import initial_arrays
from experiments.runtimes.inline import InlineGrid
from server.line.flower import assume_identity
from tests.cards import card_for

TEXT = """\
name = "small"
[task]
time = "window"
label = { column = "ill" }
[[task.features]]
name = "level"
kind = "numeric"
low = 0
high = 100
[privacy]
epsilon = 2.0
delta = 1e-4
"""

CANARY = "7300131072"
EXPERIMENT = parse_experiment(TEXT, where="small")
TWICE = Instruction(run="r", step=1, windows=("w1",))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A site's site.toml; whatever site was opened is closed afterwards."""
    monkeypatch.setattr(sites, "_open", {})
    monkeypatch.setattr("clients.mechanisms.drift.write_local_report", lambda *_: None)  # seconds
    rng = np.random.default_rng(1)
    lines = ["level,ill,window,side"]
    lines += [
        f"{rng.uniform(0, 100):.3f},{row % 3 == 0:d},w1,{'holdout' if row % 4 == 0 else 'train'}"
        for row in range(80)
    ]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "site.toml").write_text(
        'name = "north"\nstated_rows = 60\n[data]\nkind = "csv"\npath = "rows.csv"\n'
        f"{card_for(EXPERIMENT, holdout='side')}[policy]\nepsilon_cap = 10.0\n"
    )
    yield tmp_path / "site.toml"
    forget_sites()


def forget_sites() -> None:
    """As the end of the process would."""
    for known in sites._open.values():
        known.ledger.close()
    sites._open.clear()


def ask(
    site: Path,
    kind: str = "evaluate",
    *,
    instruction: Instruction = TWICE,
    experiment: Experiment = EXPERIMENT,
    records: RecordDict | None = None,
    mandate: str = "",
) -> Message:
    """The ClientApp's answer to one message."""
    grid = InlineGrid(app, [site], {"experiment": experiment.model_dump_json(), "mandate": mandate})
    grid._contexts[1].node_config[AUTHORITY] = "a" * 64
    assume_identity(grid.run_id)
    arrays = initial_arrays(experiment, np.random.default_rng(0))
    if kind == COMPARE:
        arrays |= {f"challenger/{name}": value for name, value in arrays.items()}
    content = records or instruction.to_records({} if kind == DRIFT_QUERY else arrays)
    message = Message(content=content, dst_node_id=1, message_type=kind)
    (answer,) = grid.send_and_receive([message])
    return answer


def sent(message: Message) -> bytes:
    """The message's bytes as they travel, object by object."""
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

    return b"".join(item.deflate() for item in get_all_nested_objects(message).values())


def append(site: Path, row: str) -> None:
    rows = site.with_name("rows.csv")
    rows.write_text(f"{rows.read_text()}{row}\n")


def entries(site: Path) -> list[str]:
    return [entry.kind for entry in open_site(site).ledger.entries()]


def _spends_too_much(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.write_text(site.read_text().replace("10.0", f"0.00{CANARY}"))


def _is_forbidden(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.write_text(f'{site.read_text()}approved_experiments = ["{CANARY:0>64}"]\n')


def _has_a_wrong_value(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(site, f"x{CANARY},0,w1,train")


def _has_a_wrong_label(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(site, f"50,{CANARY},w1,train")


def _has_no_file(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.write_text(site.read_text().replace("rows.csv", f"rows-{CANARY}.csv"))


def _has_a_wrong_setting(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.write_text(f"{site.read_text()}password = {CANARY}\n")


def _has_a_broken_ledger(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = site.with_name("tidegate")
    folder.mkdir()
    (folder / "ledger.db").write_bytes(CANARY.encode() * 1000)


def _diverges(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from contract.releases import ScoreHistogram

    wrong = ScoreHistogram(negative=np.array([np.nan, float(CANARY)]), positive=np.ones(2), noise_deviation=0)
    monkeypatch.setattr("clients.mechanisms.evaluation.evaluate", lambda *_, **__: wrong)


def _raises(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate(*_: Any, **__: Any) -> None:
        raise ValueError(f"level = {CANARY} in {site}")

    monkeypatch.setattr("clients.mechanisms.evaluation.evaluate", evaluate)


def _raises_reading(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_rows(*_: Any, **__: Any) -> None:
        raise MemoryError(f"level = {CANARY} in {site}")

    monkeypatch.setattr("clients.site.read_rows", read_rows)


def _loses_its_disk(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_rows(*_: Any, **__: Any) -> None:
        raise DataError(f"cannot be read: {CANARY}", where=str(site))

    monkeypatch.setattr("clients.site.read_rows", read_rows)


def _lacks_a_column(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = site.with_name("rows.csv")
    rows.write_text(rows.read_text().replace("level,", f"level-{CANARY},"))


def _offers_something_else(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.write_text(site.read_text().replace('"level"', f'"level-{CANARY}"'))


def _has_a_draft(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.write_text(site.read_text().replace("[card]", f'[card]\ndescription = "{CANARY}"\ndraft = true'))


@pytest.mark.parametrize(
    ("word", "wrong"),
    [
        ("budget", _spends_too_much),
        ("policy", _is_forbidden),
        ("source", _has_no_file),
        ("source", _lacks_a_column),
        ("card", _offers_something_else),
        ("input", _has_a_draft),
        ("input", _has_a_wrong_setting),
        ("ledger", _has_a_broken_ledger),
        ("failed", _diverges),
        ("failed", _loses_its_disk),
        ("failed", _raises),
        ("failed", _raises_reading),
    ],
)
def test_a_refusal_is_one_word_and_carries_no_value_and_no_path(
    site: Path, monkeypatch: pytest.MonkeyPatch, word: str, wrong: Callable[[Path, pytest.MonkeyPatch], None]
) -> None:
    wrong(site, monkeypatch)
    answer = ask(site)
    assert not answer.has_content()
    assert answer.error.reason == word
    assert word in RefusalCode.ALL
    content = sent(answer)
    for secret in (CANARY, str(site.parent), "rows", "level"):
        assert secret.encode() not in content


@pytest.mark.parametrize("wrong", [_has_no_file, _loses_its_disk, _raises])
def test_the_sites_own_log_has_the_whole_sentence(
    site: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    wrong: Callable[[Path, pytest.MonkeyPatch], None],
) -> None:
    wrong(site, monkeypatch)
    ask(site)
    assert CANARY in caplog.text


def test_every_kind_of_message_is_refused_alike(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _lacks_a_column(site, monkeypatch)
    for kind in ("train", "evaluate", COMPARE, DRIFT_QUERY):
        assert ask(site, kind).error.reason == "source"
    assert "reserve" not in entries(site)


@pytest.mark.parametrize("kind", ["train", "evaluate", COMPARE, DRIFT_QUERY])
@pytest.mark.parametrize("wrong", [_has_a_wrong_value, _has_a_wrong_label])
def test_a_row_that_does_not_fit_is_left_out_and_nobody_hears_of_it(
    site: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    wrong: Callable[[Path, pytest.MonkeyPatch], None],
) -> None:
    wrong(site, monkeypatch)
    answer = ask(site, kind)
    assert answer.has_content()
    assert CANARY.encode() not in sent(answer)


def test_a_run_without_noise_is_refused_where_noise_is_required(site: Path) -> None:
    plain = EXPERIMENT.model_copy(
        update={"privacy": EXPERIMENT.privacy.model_copy(update={"private": False, "seed": 7})}
    )
    for kind in ("train", "evaluate", COMPARE, DRIFT_QUERY):
        assert ask(site, kind, experiment=plain).error.reason == "policy"
    assert "reserve" not in entries(site)


def test_rows_of_one_class_and_windows_without_rows_get_an_ordinary_reply(site: Path) -> None:
    for row in range(20):
        append(site, f"{row},0,w2,train")
    sizes = set()
    for window in ("w1", "w2", "w9"):
        answer = ask(site, "train", instruction=Instruction(run=f"run-{window}", windows=(window,)))
        assert answer.has_content()
        sizes.add(len(Reply.from_records(answer.content).to_bytes()) // 100)
    assert len(sizes) == 1


def test_an_instruction_of_another_version_is_refused(site: Path) -> None:
    unknown = RecordDict({CONFIG: ConfigRecord({"instruction": "{}", "arrays": b""})})
    assert ask(site, records=unknown).error.reason == "input"


def test_a_node_without_a_site_is_refused(site: Path) -> None:
    grid = InlineGrid(app, [Path()], {"experiment": EXPERIMENT.model_dump_json()})
    assume_identity(grid.run_id)
    message = Message(content=TWICE.to_records(), dst_node_id=1, message_type="evaluate")
    grid._contexts[1].node_config = {}
    (answer,) = grid.send_and_receive([message])
    assert answer.error.reason == "input"


@pytest.mark.parametrize("kind", ["train", "evaluate", COMPARE, DRIFT_QUERY])
def test_a_repeated_request_gets_the_same_bytes_and_is_charged_once(site: Path, kind: str) -> None:
    one = ask(site, kind)
    charged, spent = entries(site), open_site(site).ledger.spent()
    again = ask(site, kind)
    forget_sites()
    afterwards = ask(site, kind)
    assert sent(one.content) == sent(again.content) == sent(afterwards.content)
    assert charged
    assert entries(site) == charged
    assert open_site(site).ledger.spent() == spent
    assert spent.epsilon > 0


def test_a_new_request_has_new_noise_and_a_new_charge(site: Path) -> None:
    one = ask(site)
    before = entries(site).count("reserve")
    other = ask(site, instruction=Instruction(run="r", step=2, windows=("w1",)))
    found = [Reply.from_records(message.content).scores for message in (one, other)]
    assert found[0] is not None
    assert found[1] is not None
    assert found[0].negative.tolist() != found[1].negative.tolist()
    assert entries(site).count("reserve") == before + 1


def test_what_was_reserved_for_an_answer_that_failed_stays_spent(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _raises(site, monkeypatch)
    assert ask(site).error.reason == "failed"
    assert entries(site) == ["authorise", "reserve", "refuse"]
    assert open_site(site).ledger.spent().epsilon > 0
    rows = sqlite3.connect(site.with_name("tidegate") / "ledger.db")
    try:
        assert rows.execute("SELECT count(*) FROM replies").fetchone() == (0,)
    finally:
        rows.close()


@pytest.mark.parametrize(("cap", "able"), [(10.0, True), (2.0, False)])
def test_a_drift_check_says_whether_the_budget_allows_a_training(site: Path, cap: float, able: bool) -> None:
    """The check itself costs .5 on each window; a training 2 on the current one's training rows."""
    site.write_text(site.read_text().replace("10.0", str(cap)))
    asked = Instruction(run="r", windows=("w2",), reference_windows=("w1",))
    append(site, "50,1,w2,train")
    found = Reply.from_records(ask(site, DRIFT_QUERY, instruction=asked).content).drift
    assert found is not None
    assert found.can_train is able
    plans = retraining_plans(EXPERIMENT, asked, open_site(site).split)
    with nullcontext() if able else pytest.raises(BudgetError):
        enter(site, plans)


def enter(site: Path, plans: list[Plan]) -> None:
    for plan in plans:
        open_site(site).ledger.authorise(plan)
