"""Whatever a server writes, what a site lets out is worth no more ε than its cap.

The truth of the rows is known here, and the noise is what is left of the numbers that came without
it: what they are worth is worked out from them alone (`tests.adversary.privacy`).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients.site import open_site
from experiments.audit.hostile_server import (
    COMPARE,
    DRIFT,
    EVALUATE,
    RANGES,
    TRAIN,
    Answer,
    HostileServer,
    instruction_for,
)
from tests.adversary import wire
from tests.adversary.conftest import LaySite
from tests.adversary.privacy import least_epsilon
from tests.adversary.rows import Figure, Rows, counted, level_of, noise_in, sorting_model

CAP, DELTA = 2.0, 1e-5
INF, NAN = math.inf, math.nan


def worth(answers: list[Answer], rows: Rows) -> float:
    """ε that these answers on the same rows are worth at least."""
    return least_epsilon([noise for answer in answers for noise in noise_in(answer, rows)], DELTA)


def changed(**sections: dict[str, Any]) -> dict[str, Any]:
    """The usual experiment with other values in some sections."""
    plan = wire.base_experiment()
    return {**plan, **{name: {**plan.get(name, {}), **values} for name, values in sections.items()}}


def exact(answers: list[Answer], rows: Rows) -> str:
    """What the first answer gives away, in words."""
    noises = [noise for answer in answers for noise, _ in noise_in(answer, rows)]
    off = max((float(np.abs(noise).max()) for noise in noises), default=NAN)
    return f"worst error of a count or gradient {off:.1e}"


# -- how often it will be asked is not for the server to say -------------------


@pytest.mark.parametrize("value", [1e-6, 1e-16, 5e-324, 0.5, 0, -1, True, "1", [1], 1e300, INF, NAN, 10**30])
@pytest.mark.parametrize(
    ("kind", "key"), [(TRAIN, "rounds"), (EVALUATE, "evaluations"), (COMPARE, "evaluations")]
)
def test_a_server_cannot_say_how_often_it_will_ask(
    lay: LaySite, rows: Rows, figure: Figure, kind: str, key: str, value: object
) -> None:
    server = HostileServer(lay(rows, cap=CAP))
    found = server.ask(kind, instruction_for(kind, **{key: value}))
    figure(
        f"{kind} with {key}={value!r:.12}: {found.word or 'answered'}"
        + ("" if found.refused else f", {exact([found], rows)}, worth ε {worth([found], rows):.3g} of {CAP}")
    )
    assert worth([found], rows) <= CAP
    assert found.refused
    assert not [entry for entry in wire.entries(server.site) if entry["kind"] in ("reserve", "commit")]


def test_approval_of_the_experiment_covers_how_often_it_is_asked(
    lay: LaySite, rows: Rows, figure: Figure
) -> None:
    plan = changed(privacy={"epsilon": 0.25, "evaluation_epsilon": 0.25})
    approved = f'approved_experiments = ["{wire.digest(plan)}"]'
    server = HostileServer(lay(rows, cap=0.25, policy=approved))
    found = [
        server.ask(EVALUATE, instruction_for(EVALUATE, evaluations=1e-16), experiment=plan),
        server.ask(TRAIN, instruction_for(TRAIN, rounds=1e-16), experiment=plan),
    ]
    figure(f"cap .25, approved experiments only: {exact(found, rows)}, worth ε {worth(found, rows):.3g}")
    assert worth(found, rows) <= 0.25


def test_no_run_of_questions_passes_the_cap_by_its_own_account(
    lay: LaySite, rows: Rows, figure: Figure
) -> None:
    server = HostileServer(lay(rows, cap=CAP))
    answers = [
        server.ask(EVALUATE, instruction_for(EVALUATE, run=f"r{run}", step=step, evaluations=fraction))
        for run, fraction in enumerate((0.1, 0.01, 1))
        for step in range(3)
    ]
    answers += [server.ask(EVALUATE, instruction_for(EVALUATE, run=f"s{run}")) for run in range(9)]
    spent = wire.spent(server.site)
    figure(
        f"{sum(not answer.refused for answer in answers)} answers: "
        f"spent {spent:.3g} by the ledger, {worth(answers, rows):.3g} in truth, cap {CAP}"
    )
    assert spent <= CAP * (1 + 1e-9)
    assert worth(answers, rows) <= CAP


def test_honest_questions_are_answered_up_to_the_cap_and_no_further(lay: LaySite, rows: Rows) -> None:
    """That nothing is answered at all would pass every other test here."""
    server = HostileServer(lay(rows, cap=CAP))
    answers = [server.ask(EVALUATE, instruction_for(EVALUATE, run=f"r{run}")) for run in range(12)]
    assert 2 <= sum(not answer.refused for answer in answers) <= 8
    assert 0.8 * CAP < wire.spent(server.site) <= CAP
    assert worth(answers, rows) <= CAP
    trained = server.ask(TRAIN)
    assert not trained.refused
    assert worth([trained], rows) <= CAP


# -- what is not a number is no room in the budget -------------------------------

POISONS = [
    {"evaluations": INF},
    {"evaluations": NAN},
    {"evaluations": 1e308},
    {"evaluations": -INF},
    {"step": INF},
]


@pytest.mark.parametrize("poison", POISONS, ids=str)
def test_infinite_and_undefined_values_make_no_room(
    lay: LaySite, rows: Rows, figure: Figure, poison: dict[str, float]
) -> None:
    server = HostileServer(lay(rows, cap=CAP))
    loud = changed(privacy={"evaluation_epsilon": 200.0})
    server.ask(EVALUATE, instruction_for(EVALUATE, **poison))
    answers = [server.ask(kind, experiment=loud) for kind in (COMPARE, EVALUATE)]
    stated = [answer.reply["spent_in_total"]["epsilon"] for answer in answers if not answer.refused]
    figure(
        f"after {poison}: at ε = 200 {[answer.word or 'answered' for answer in answers]}, "
        f"stated {stated}, worth {worth(answers, rows):.3g}"
    )
    assert worth(answers, rows) <= CAP


HOSTILE_PRIVACY = [
    {"epsilon": 1e-300, "evaluation_epsilon": 1e-300},
    {"epsilon": 1e300, "evaluation_epsilon": 1e300},
    {"epsilon": 1.7e308, "evaluation_epsilon": 709.8},
    {"delta": 5e-324},
    {"delta": 1e-300, "evaluation_epsilon": 1e-3},
    {"sampling_rate": 5e-324},
    {"sampling_rate": 2e-8},
    {"sampling_rate": 9.9e-5},
    {"clipping_norm": 1e-300},
    {"clipping_norm": 1e300},
    {"runs": 10**30},
    {"epsilon": "Infinity"},
    {"delta": "1e-5"},
    {"epsilon": True},
]


@pytest.mark.timeout(120)  # a question that keeps a site busy for ever is an attack too
@pytest.mark.parametrize("privacy", HOSTILE_PRIVACY, ids=str)
def test_an_experiment_of_extreme_values_is_worth_no_more_than_the_cap(
    lay: LaySite, rows: Rows, figure: Figure, privacy: dict[str, Any]
) -> None:
    server = HostileServer(lay(rows, cap=CAP))
    plan = changed(privacy=privacy)
    answers = [server.ask(kind, experiment=plan) for kind in (EVALUATE, TRAIN, DRIFT)]
    figure(f"{privacy}: {[answer.word or 'answered' for answer in answers]}")
    scored = [answer for answer in answers if answer.reply.get("scores")]
    assert worth(scored, rows) <= CAP
    assert wire.spent(server.site) <= CAP * (1 + 1e-9)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("rate", [2e-8, 9.9e-5, 1e-300])
def test_a_rate_too_small_to_be_drawn_is_refused(
    lay: LaySite, rows: Rows, figure: Figure, rate: float
) -> None:
    """A draw from a grid of 2⁻²⁴ takes a row with the chance of the next multiple."""
    server = HostileServer(lay(rows, cap=CAP))
    drawn = math.ceil(rate * 2**24) / 2**24
    figure(f"rate {rate:g}: a grid of 2⁻²⁴ draws with {drawn / rate:.3g} times it, if it is drawn at all")
    found = server.ask(TRAIN, experiment=changed(privacy={"sampling_rate": rate, "epsilon": 1.0}))
    assert found.refused


def test_no_seedable_generator_has_a_part_in_private_training(
    lay: LaySite, rows: Rows, figure: Figure, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    used: list[str] = []

    class Watched(torch.Generator):
        def manual_seed(self, seed: int) -> Any:
            used.append(f"a generator seeded with {seed % 2**32} of 2^32")
            return super().manual_seed(seed)

    draw = torch.rand

    def rand(*arguments: Any, **named: Any) -> Any:
        used.append("torch.rand")
        return draw(*arguments, **named)

    monkeypatch.setattr(torch, "Generator", Watched)
    monkeypatch.setattr(torch, "rand", rand)
    server = HostileServer(lay(rows, cap=CAP))
    found = server.ask(TRAIN, experiment=changed(privacy={"sampling_rate": 0.1}, strategy={"local_steps": 3}))
    assert not found.refused
    figure(f"three sampled steps used {', '.join(used) or 'none'}")
    assert used == []


# -- one window has one budget, by whatever name ------------------------------------


def numbered(window: str) -> dict[str, Any]:
    """An experiment that takes the time column for a number too."""
    plan = wire.base_experiment()
    feature = {"name": window, "kind": "numeric", "low": 0.0, "high": 1e6}
    plan["task"]["features"] = [plan["task"]["features"][0], feature]
    return plan


@pytest.mark.parametrize(
    "names",
    [
        [["w1" + zeros * "\0"] for zeros in range(15)],
        [["w1"], ["w1", "w1"], ["w1", "none"], ["w1\0", "none"], {"w1\0": 1}],
        ["w1", ["w1"], [["w1"]]],
    ],
    ids=["trailing zeros", "lists", "shapes"],
)
def test_a_window_of_many_names_has_one_budget(
    lay: LaySite, rows: Rows, figure: Figure, names: list[Any]
) -> None:
    server = HostileServer(lay(rows, cap=CAP))
    loud = changed(privacy={"evaluation_epsilon": CAP})
    answers = [
        server.ask(EVALUATE, instruction_for(EVALUATE, run=f"r{run}", windows=name), experiment=loud)
        for run, name in enumerate(names)
    ]
    stated = [answer.reply["spent_in_total"]["epsilon"] for answer in answers if not answer.refused]
    # an answer on no rows has nothing of the truth in it, and no noise to measure
    full = [answer for answer in answers if not answer.refused and counted(answer).sum() > 10]
    figure(
        f"{len(full)} answers on the same rows: stated ε {stated}, worth {worth(full, rows):.3g}, cap {CAP}"
    )
    assert worth(full, rows) <= CAP


def test_a_time_that_is_a_number_too_is_the_same_time(lay: LaySite, figure: Figure, rows: Rows) -> None:
    years: Rows = [{**row, "window": "2020" if row["window"] == "w1" else "2021"} for row in rows]
    server = HostileServer(lay(years, cap=CAP))
    answers = []
    for run, window in enumerate(("2020", "2020.0", "2020.00", "2.02e3")):
        plan = numbered("window") if run else wire.base_experiment()
        plan["privacy"]["epsilon"] = CAP
        told = instruction_for(RANGES, run=f"r{run}", windows=[window], epsilon=CAP)
        answers.append(server.ask(RANGES, told, experiment=plan))
    counts = [answer.reply["ranges"]["features"][0]["counts"] for answer in answers if not answer.refused]
    full = [found for found in counts if sum(found) > 60]
    found = least_epsilon([(found[:180], 1.0) for found in full], DELTA)  # the cells of negative numbers
    figure(f"2020 and 2020.0: {len(full)} answers on the same rows, worth ε {found:.3g}, cap {CAP}")
    assert found <= CAP
    assert len(full) <= 1  # each alone spends the cap


def test_an_approval_is_worth_no_more_than_the_experiment_says(
    lay: LaySite, figure: Figure, rows: Rows
) -> None:
    """What a question for ranges costs stands in the instruction, which nobody approves."""
    small = changed(privacy={"epsilon": 0.1, "evaluation_epsilon": 0.1}, drift={"epsilon": 0.1})
    policy = f'approved_experiments = ["{wire.digest(small)}"]'
    server = HostileServer(lay(rows, cap=CAP, policy=policy))
    words = {}
    for epsilon in (0.100001, 1.0, CAP):
        words[epsilon] = server.ask(RANGES, instruction_for(RANGES, epsilon=epsilon), experiment=small).word
    figure(f"approved at ε = 0.1, asked at more: {words}, spent {wire.spent(server.site)}")
    assert set(words.values()) == {"policy"}
    assert wire.spent(server.site) == 0
    assert not server.ask(RANGES, instruction_for(RANGES, epsilon=0.1), experiment=small).refused


DEALT_ANEW = {
    "a text for a missing value": ('path = "rows.csv"', 'path = "rows.csv"\nmissing = { level = ["-9"] }'),
    "a text for all": ('path = "rows.csv"', 'path = "rows.csv"\nna_values = ["", "-9"]'),
    "another side": ('path = "rows.csv"', 'path = "rows.csv"\ncolumns = { side = "secret" }'),
    "a category of another form": ('"1.0"]', '"1"]'),
}


@pytest.mark.parametrize("edit", DEALT_ANEW)
def test_rows_that_site_toml_deals_anew_do_not_pay_twice(
    lay: LaySite, figure: Figure, rows: Rows, edit: str
) -> None:
    """What was trained on, and is held out after the edit, has no budget of its own."""
    odd: Rows = [
        {
            **row,
            "level": -9 if place % 5 == 2 else row["level"],
            "ward": row["ward"].replace("c", "1.0"),
            "secret": "train" if row["side"] == "holdout" else "holdout",
        }
        for place, row in enumerate(rows)
    ]
    site = lay(odd, cap=CAP)
    said = site.read_text().replace('"c"]', '"1.0"]')
    if edit != "another side":
        said = said.replace('[card.holdout]\ncolumn = "side"\n', "")
    site.write_text(said)
    server, plan = (
        HostileServer(site),
        changed(privacy={"epsilon": CAP * 0.9, "evaluation_epsilon": CAP * 0.9}),
    )
    assert not server.ask(TRAIN, experiment=plan).refused
    site.write_text(said.replace(*DEALT_ANEW[edit]))
    word = server.ask(EVALUATE, experiment=plan).word
    figure(f"{edit}: {word or 'answered'}, spent {wire.spent(site):.3g} of {CAP}")
    assert word == "budget"


LASTING = {
    "the hold-out column": "",
    "an id of the record": '[card.holdout]\nshare = 0.5\nrecord = "patient"\n',
    "nothing": "[card.holdout]\nshare = 0.5\n",
}


@pytest.mark.parametrize("what", LASTING)
def test_a_record_whose_label_comes_late_pays_within_the_cap(
    lay: LaySite, figure: Figure, rows: Rows, what: str
) -> None:
    """A value that is filled in after training takes a record to no side where it has a budget of its own."""
    site = lay(rows, cap=CAP)
    said = site.read_text()
    if LASTING[what]:
        said = said.replace('[card.holdout]\ncolumn = "side"\n', LASTING[what])
        site.write_text(said)
    before = open_site(site).rows(()).holdout
    server = HostileServer(site)
    plan = changed(privacy={"epsilon": CAP * 0.9, "evaluation_epsilon": CAP * 0.9})
    assert not server.ask(TRAIN, experiment=plan).refused
    late: Rows = [{**row, "ill": 1 - row["ill"], "level": row["level"] / 2} for row in rows]
    (site.parent / "rows.csv").write_text(wire.rows_text(late))
    moved = int((before != open_site(site).rows(()).holdout).sum())
    word = server.ask(EVALUATE, experiment=plan).word
    figure(
        f"{what}: {moved} records changed sides, {word or 'answered'}, spent {wire.spent(site):.3g} of {CAP}"
    )
    assert word == ("budget" if what == "nothing" else "")
    assert (moved > 0) == (what == "nothing")
    assert wire.spent(site) <= CAP


# -- who is a person, and on which side, the site says --------------------------------


def sides(persons: int, forms: tuple[str, ...] = ("{}",)) -> Rows:
    """Of each person a row in each form of the id; ten groups of persons, each form in bins of its own."""
    return [
        {
            "level": level_of(person % 10 + 10 * place),
            "ward": "a",
            "ill": person % 2,
            "window": "w1",
            "patient": form.format(1000 + person),
            "side": "train",
            "secret": "none",
        }
        for person in range(persons)
        for place, form in enumerate(forms)
    ]


LOUD = {"unit": "person", "evaluation_epsilon": 60.0, "epsilon": 60.0}


def test_a_person_is_on_one_side_however_the_server_reads_the_id(lay: LaySite, figure: Figure) -> None:
    site = lay(sides(1000), cap=500.0, person=True)
    server = HostileServer(site)
    plain = wire.base_experiment()
    plain["task"]["person"] = "patient"
    plain["privacy"] |= LOUD
    number = {"name": "patient", "kind": "numeric", "low": 0.0, "high": 1e6}
    also = {**plain, "task": {**plain["task"], "features": [plain["task"]["features"][0], number]}}
    short = {
        "layers.0.weight": np.array([[10, 0]], np.float32),
        "layers.0.bias": np.array([-5], np.float32),
    }
    one = server.ask(EVALUATE, instruction_for(EVALUATE, run="a"), experiment=plain, arrays=sorting_model())
    two = server.ask(EVALUATE, instruction_for(EVALUATE, run="b"), experiment=also, arrays=short)
    if one.refused or two.refused:
        figure(f"an id that is a feature too: {two.word}")
        assert two.refused
        assert not one.refused
        return
    moved = float(np.abs(counted(one) - counted(two))[:10].mean())
    figure(f"held-out persons of a group of 100 differ by {moved:.1f} as the id is read as text or number")
    assert moved < 2


def test_a_person_of_two_spellings_is_one_person(lay: LaySite, figure: Figure) -> None:
    server = HostileServer(lay(sides(1000, ("{}", "{}.0")), cap=500.0, person=True))
    plan = wire.base_experiment()
    plan["task"]["person"] = "patient"
    plan["privacy"] |= {**LOUD, "rows_per_person": 2}
    found = server.ask(EVALUATE, experiment=plan, arrays=sorting_model())
    assert not found.refused
    counts = counted(found)
    moved = float(np.abs(counts[:10] - counts[10:]).mean())
    figure(f"1001 and 1001.0 of a group of 100 persons: held out on different sides by {moved:.1f}")
    assert moved < 2


def test_a_person_does_not_pay_twice_for_lying_on_both_sides(lay: LaySite, figure: Figure) -> None:
    both: Rows = [
        {**row, "level": 50.0, "ill": int(person % 10 > 0), "side": side}
        for person, row in enumerate(sides(400))
        for side in ("train", "holdout")
    ]
    server = HostileServer(lay(both, cap=60.0, stated_rows=400, person=True))
    plan = wire.base_experiment()
    plan["task"]["person"] = "patient"
    plan["privacy"] |= {**LOUD, "clipping_norm": 10.0}
    scored = server.ask(EVALUATE, experiment=plan)
    trained = server.ask(TRAIN, experiment=plan)
    held_out = 0.0 if scored.refused else float(counted(scored).sum())
    in_training = 0.0 if trained.refused else float(trained.arrays["layers.0.bias"][0]) * 400 / 0.4
    figure(
        f"400 persons with a row on either side: {held_out:.0f} held out and {in_training:.0f} trained on, "
        "each side with a cap of its own"
    )
    assert held_out + in_training < 500


@pytest.mark.parametrize("column", ["level", "secret", "side", "window", "nobody"])
def test_the_server_does_not_say_which_column_is_a_person(
    lay: LaySite, rows: Rows, figure: Figure, column: str
) -> None:
    one: Rows = [
        {**row, "patient": 7, "window": "w1", "secret": f"s{place}"} for place, row in enumerate(rows)
    ]
    server = HostileServer(lay(one, cap=100.0, person=True))
    plan = wire.base_experiment()
    plan["task"]["person"] = column
    plan["privacy"] |= LOUD
    found = server.ask(EVALUATE, experiment=plan)
    count = 0.0 if found.refused else float(counted(found).sum())
    figure(f"person = '{column}': {found.word or f'{count:.0f} rows of one person counted where 1 may be'}")
    assert found.refused


@pytest.mark.parametrize("column", ["patient", "secret", "level", "side", "ill", "nowhen"])
def test_the_server_does_not_say_which_column_is_time(
    lay: LaySite, rows: Rows, figure: Figure, column: str
) -> None:
    server = HostileServer(lay(rows, cap=CAP))
    plan = wire.base_experiment()
    plan["task"]["time"] = column
    found = server.ask(EVALUATE, instruction_for(EVALUATE, windows=["1000"]), experiment=plan)
    none = server.ask(EVALUATE, instruction_for(EVALUATE, run="n", windows=["9999"]), experiment=plan)
    figure(f"time = '{column}', windows 1000 and 9999: {found.word or 'answered'}, {none.word or 'answered'}")
    assert found.refused
    assert none.word == found.word


# -- what is stated is what holds --------------------------------------------------


def test_a_site_of_many_rows_does_not_answer_at_a_delta_that_gives_rows_away(
    lay: LaySite, rows: Rows, figure: Figure
) -> None:
    site = lay(rows, stated_rows=10_000_000, delta_cap=1e-5)
    plan = changed(privacy={"delta": 1e-8})
    try:
        found = HostileServer(site).ask(EVALUATE, experiment=plan)
        held_at = 1e-5 if not found.refused else 0.0
    except Exception:
        held_at = 0.0
    figure(f"10,000,000 rows stated, cap held at δ = {held_at:g}: {held_at * 1e7:.0f} rows may be given away")
    assert held_at * 1e7 < 1


def test_a_site_folder_is_all_that_is_written(lay: LaySite, rows: Rows, tmp_path: Path) -> None:
    server = HostileServer(lay(rows))
    for kind in (TRAIN, EVALUATE, DRIFT, RANGES):
        server.ask(kind)
    outside = [path for path in tmp_path.rglob("*") if server.site.parent not in (path, *path.parents)]
    assert outside == [server.site.parents[1]]
