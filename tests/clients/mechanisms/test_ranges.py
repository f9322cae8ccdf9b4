"""A site's answer to a question for ranges: charged once, of the stated noise, and without a value in it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

from clients import site as sites
from clients.app import app
from clients.ledger.plan import Split
from clients.ledger.plans import ranges_plan
from clients.mechanisms.noise import NoNoise
from clients.mechanisms.ranges import noisy_range_counts, ranges_deviation
from clients.rows.rows import Rows
from clients.site import open_site
from contract.errors import InputError, ReleaseError
from contract.experiment import Experiment
from contract.experiment_file import parse_unranged
from contract.messages import RANGES_QUERY, Instruction, Reply
from contract.range_grid import CELLS, MISSING_CELL, cells_of
from contract.releases import RangeSummary
from experiments.runtimes.inline import InlineGrid
from server.line.flower import assume_identity
from serving.values import numbers
from tests.cards import card_for

SPLIT = Split(name="", lasting=True)
TEXT = """\
name = "small"
[task]
time = "window"
label = { column = "ill" }
[[task.features]]
name = "level"
kind = "numeric"
[[task.features]]
name = "dose"
kind = "numeric"
[[task.features]]
name = "age"
kind = "numeric"
low = 0
high = 120
[privacy]
delta = 1e-4
"""
UNRANGED = parse_unranged(TEXT, where="small")
EXPERIMENT = UNRANGED.experiment
ASK = Instruction(run="r", features=UNRANGED.features, epsilon=0.5)
ROWS = 200
CANARIES = [7.3e9 + number * 131072.0 for number in range(ROWS // 2)]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A site whose levels are canaries in every second row, with a missing dose in every fifth."""
    monkeypatch.setattr(sites, "_open", {})
    rng = np.random.default_rng(1)
    lines = ["level,dose,age,ill,window,patient,side"]
    for row in range(ROWS):
        level = CANARIES[row // 2] if row % 2 else float(rng.lognormal())
        dose = "" if row % 5 == 0 else str(row)
        side = "holdout" if row % 4 == 0 else "train"
        lines.append(f"{level},{dose},50,{row % 3 == 0:d},w{row % 2},p{row // 4},{side}")
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "site.toml").write_text(
        'name = "north"\nstated_rows = 150\n[data]\nkind = "csv"\npath = "rows.csv"\n'
        f"{card_for(EXPERIMENT, holdout='side')}"  # of persons: see `with_persons`
        "[policy]\nepsilon_cap = 1.0\nrequire_private = false\n"
    )
    yield tmp_path / "site.toml"
    for known in sites._open.values():
        known.ledger.close()


def with_persons(site: Path) -> None:
    text = site.read_text().replace(
        card_for(EXPERIMENT, holdout="side"), card_for(EXPERIMENT, person="patient", share=0.25)
    )
    assert 'person = "patient"' in text
    site.write_text(text)


def ask(site: Path, instruction: Instruction = ASK, experiment: Experiment = EXPERIMENT) -> Message:
    grid = InlineGrid(app, [site], {"experiment": experiment.model_dump_json()})
    assume_identity(grid.run_id)
    message = Message(content=instruction.to_records(), dst_node_id=1, message_type=RANGES_QUERY)
    (answer,) = grid.send_and_receive([message])
    return answer


def answered(message: Message) -> RangeSummary:
    assert message.has_content(), message.error.reason
    ranges = Reply.from_records(message.content).ranges
    assert ranges is not None
    return ranges


def sent(message: Message) -> bytes:
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

    return b"".join(item.deflate() for item in get_all_nested_objects(message).values())


def privacy(**changes: object) -> Experiment:
    return EXPERIMENT.model_copy(update={"privacy": EXPERIMENT.privacy.model_copy(update=changes)})


def test_a_question_is_charged_once_for_training_and_held_out_rows_together(site: Path) -> None:
    answered(ask(site))
    ledger = open_site(site).ledger
    assert [entry.kind for entry in ledger.entries()] == ["authorise", "reserve", "commit"]
    (plan,) = [item for entry in ledger.entries()[:1] for item in ledger.plans(entry.plan)]
    assert (plan.purpose, plan.uses, plan.steps) == ("ranges", 1, 1)
    spent = ledger.spent_by_block(delta=1e-4)
    assert spent.keys() == {"all/train", "all/holdout"}
    assert [item.epsilon for item in spent.values()] == pytest.approx([0.5, 0.5], rel=1e-6)
    assert ledger.verify() == 3


def test_the_same_question_gets_the_same_bytes_whoever_asks_and_costs_nothing(site: Path) -> None:
    one = ask(site)
    charged = open_site(site).ledger.entries()
    turned = replace(ASK, run="another", step=7, features=tuple(reversed(ASK.features)))
    strategy = EXPERIMENT.strategy.model_copy(update={"rounds": 99})
    other = ask(site, turned, EXPERIMENT.model_copy(update={"strategy": strategy}))
    assert sent(one.content) == sent(other.content)
    assert open_site(site).ledger.entries() == charged


@pytest.mark.parametrize(
    "other",
    [replace(ASK, epsilon=0.4), replace(ASK, windows=("w1",)), replace(ASK, features=("level",))],
    ids=["epsilon", "window", "features"],
)
def test_another_question_has_noise_and_a_charge_of_its_own(site: Path, other: Instruction) -> None:
    one, two = answered(ask(site)), answered(ask(site, other))
    level = [{item.feature: item.counts for item in found.features}["level"] for found in (one, two)]
    assert level[0].tolist() != level[1].tolist()
    assert [entry.kind for entry in open_site(site).ledger.entries()].count("reserve") == 2
    if other.windows:
        assert "w1/holdout" in open_site(site).ledger.spent_by_block()


def test_the_noise_has_the_stated_scale(site: Path) -> None:
    exact, noise = answered(ask(site, ASK, privacy(private=False))), []
    assert exact.noise_deviation == 0
    for number in range(10):
        found = answered(ask(site, replace(ASK, epsilon=0.05 + number / 1000)))
        for noisy, plain in zip(found.features, exact.features, strict=True):
            assert plain.counts.sum() == ROWS
            noise.append((noisy.counts - plain.counts) / found.noise_deviation)
    together = np.concatenate(noise)
    assert together.size == 10 * 2 * CELLS
    assert together.mean() == pytest.approx(0, abs=0.05)
    assert together.std() == pytest.approx(1, abs=0.04)  # 1.2 % is its standard error: 2/3 or 3/2 would fail
    plan = ranges_plan(EXPERIMENT, ASK, SPLIT)
    assert ranges_deviation(EXPERIMENT, 2, plan.noise_multiplier) == plan.noise_multiplier * 2**0.5


def test_counts_are_over_the_grid_and_what_is_no_number_has_its_own(site: Path) -> None:
    level, dose = answered(ask(site, ASK, privacy(private=False))).features
    assert (level.feature, dose.feature) == UNRANGED.features
    assert level.counts[cells_of(np.array(CANARIES[:1]))[0]] == len(CANARIES)
    assert level.counts[MISSING_CELL] == 0
    assert dose.counts[MISSING_CELL] == ROWS / 5
    import pandas as pd

    values, unreadable = numbers(pd.Series(["1.0", "a", None, "inf", "-0.5"]), missing=())
    held = Rows(frame=pd.DataFrame({"x": values}), person=None, window=None, holdout=np.zeros(5, np.bool_))
    (counts,) = noisy_range_counts(held, EXPERIMENT, ["x"], 0.0, NoNoise())
    assert counts.counts.sum() == 5
    assert (counts.counts[MISSING_CELL], unreadable.sum()) == (3, 2)


def test_no_canary_is_in_the_reply(site: Path) -> None:
    """Nor where no noise hides it: counts by cell are all that is made."""
    for answer in (ask(site), ask(site, ASK, privacy(private=False))):
        content = sent(answer)
        assert len(content) > 1000
        for number in CANARIES:
            forms = (
                struct.pack("<d", number),
                struct.pack("<f", number),
                b"%r" % number,
                b"%d" % int(number),
            )
            assert not any(form in content for form in forms)


def test_the_unit_can_be_the_person(site: Path) -> None:
    with_persons(site)
    people = privacy(unit="person", rows_per_person=2)
    summary = answered(ask(site, experiment=people))
    plan = ranges_plan(people, ASK, SPLIT)
    assert summary.noise_deviation == pytest.approx(2 * 2**0.5 * plan.noise_multiplier)
    assert open_site(site).ledger.spent().unit == "person"
    exact = answered(ask(site, ASK, privacy(unit="person", rows_per_person=2, private=False)))
    assert [item.counts.sum() for item in exact.features] == [ROWS / 2] * 2  # two of each person's four rows


def test_a_row_without_a_person_is_left_out_where_the_person_is_the_unit(site: Path) -> None:
    with_persons(site)
    rows = site.with_name("rows.csv")
    rows.write_text(f"{rows.read_text()}1,1,50,0,w1,,train\n")
    exact = answered(ask(site, ASK, privacy(unit="person", rows_per_person=2, private=False)))
    assert [item.counts.sum() for item in exact.features] == [ROWS / 2] * 2
    assert ask(site).error.reason == "card"  # a record would be the unit


@pytest.mark.parametrize(
    ("instruction", "word"),
    [
        (replace(ASK, epsilon=3.0), "policy"),
        (replace(ASK, epsilon=1.0001), "policy"),
        (replace(ASK, epsilon=0.0), "input"),
        (replace(ASK, epsilon=float("nan")), "input"),
        (replace(ASK, features=()), "input"),
        (replace(ASK, features=("level", "level")), "input"),
        (replace(ASK, features=("ill",)), "input"),
        (replace(ASK, windows=("w9\0",)), "input"),
        (replace(ASK, windows=("../w9",)), "input"),
    ],
)
def test_a_refusal_is_one_word_and_charges_nothing(site: Path, instruction: Instruction, word: str) -> None:
    answer = ask(site, instruction)
    assert not answer.has_content()
    assert answer.error.reason == word
    assert [entry.kind for entry in open_site(site).ledger.entries()] == ["refuse"]


def test_a_reply_with_another_number_of_counts_is_not_understood(site: Path) -> None:
    reply = Reply.from_records(ask(site).content)
    assert reply.ranges is not None
    stored = reply.to_bytes()
    assert Reply.from_bytes(stored).to_bytes() == stored
    object.__setattr__(reply.ranges.features[0], "counts", np.ones(CELLS - 1))
    with pytest.raises(ReleaseError):
        Reply.from_records(reply.to_records())


def test_what_is_not_finite_does_not_pass_the_gate(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clients.mechanisms.ranges.ranges_deviation", lambda *_: float("nan"))
    assert ask(site).error.reason == "failed"
    assert [entry.kind for entry in open_site(site).ledger.entries()] == ["authorise", "reserve", "refuse"]


def test_a_plan_needs_a_positive_epsilon() -> None:
    for epsilon in (-1.0, 0.0, 1e-4, float("nan")):
        with pytest.raises(InputError):  # an infinite one is refused where the message is parsed
            ranges_plan(EXPERIMENT, replace(ASK, epsilon=epsilon), SPLIT)
