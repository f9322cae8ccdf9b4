"""Mandates: those of earlier versions are read as before, and a standing one says one thing."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from contract.errors import InputError
from contract.experiment import Experiment
from contract.experiment_file import parse_experiment
from contract.mandate import Mandate, Ranges, mandate_for, read_mandate
from contract.standing import Standing

PLAN = parse_experiment(
    'name = "small"\n[task]\nlabel = { column = "ill" }\ntime = "day"\n'
    '[[task.features]]\nname = "age"\nkind = "numeric"\nlow = 0\nhigh = 120\n[retraining]\nwindows = 2\n',
    where="test",
)
SEASONAL = Experiment.model_validate(
    PLAN.model_dump() | {"drift": {"reference": "same-season"}},
)
FIRST_VERSION = (
    r'{"mandate":"{\"authority\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\",'
    r"\"code\":\"cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc\",\"delta\":0.00001,"
    r"\"epsilon\":1,\"evaluation_epsilon\":1,"
    r"\"experiment\":\"117e1bef140cd0faa8c2e890fab7cdd86e72833eb7180e03c19790baaf8ed83c\","
    r"\"expires\":\"2026-12-13T12:00:00Z\",\"private\":true,\"run\":\"small-20261129-120000-abcd\","
    r'\"scientist\":\"Ada L.\",\"version\":1,\"windows\":[\"w1\",\"w2\"]}",'
    r'"key":"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4",'
    r'"signature":"dyx7ykfUUHDucAwGQshDV06h3aS7Z4C7kSCPrYMR77bKJCL0ur04lig7E6sTvRJzXZ20WKaB5T5IwvWJ5t/IAg=="}'
)
"""As the program signed it before there were standing mandates."""


def standing(**more: Any) -> Standing:
    values = {"every": "month", "first": "2026-03", "last": "2026-12", "tries": 2, "drift_epsilon": 0.5}
    return Standing(**values | more)


def test_a_mandate_of_version_1_is_read() -> None:
    signed = read_mandate(FIRST_VERSION)
    assert signed.mandate == Mandate(
        authority="a" * 64,
        scientist="Ada L.",
        run="small-20261129-120000-abcd",
        experiment="117e1bef140cd0faa8c2e890fab7cdd86e72833eb7180e03c19790baaf8ed83c",
        code="c" * 64,
        private=True,
        epsilon=1.0,
        delta=1e-5,
        evaluation_epsilon=1.0,
        windows=("w1", "w2"),
        expires=datetime(2026, 12, 13, 12, tzinfo=UTC),
    )
    name_in_ledgers = "6bf3b0831414c4091b16f84d804901d8034eee0ff346dc508fa4b5e33dc96c72"
    assert signed.mandate.digest == name_in_ledgers


@pytest.mark.parametrize(
    "wrong",
    [
        {"first": "2026-W01"},
        {"last": "2026-02"},
        {"last": "2026-13"},
        {"every": "year"},
        {"tries": 0},
        {"tries": 11},
        {"reference": ("w1", "w1")},
    ],
)
def test_what_is_no_span_of_windows_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        standing(**wrong)


def test_a_mandate_covers_one_thing() -> None:
    values: dict[str, Any] = {"run": "r", "code": "c" * 64, "authority": "a" * 64, "scientist": "ada"}
    values["expires"] = datetime(2026, 12, 13, tzinfo=UTC)
    ranges = Ranges(features=("age",), epsilon=0.1)
    made = [mandate_for(PLAN, **values), mandate_for(PLAN, covers=standing(), **values)]
    made.append(mandate_for(PLAN, covers=ranges, windows=("w1",), **values))
    assert [one.version for one in made] == [1, 2, 2]
    for wrong in ({"windows": ("w1",)}, {"ranges": ranges}):
        with pytest.raises(ValidationError, match="covers a schedule alone"):
            Mandate.model_validate(made[1].model_dump() | wrong, strict=True)
    for one in made:
        with pytest.raises(ValidationError, match="this version"):
            Mandate.model_validate(one.model_dump() | {"version": 3 - one.version}, strict=True)


def test_it_says_what_a_check_costs_by_its_experiment() -> None:
    values: dict[str, Any] = {"run": "r", "code": "c" * 64, "authority": "a" * 64, "scientist": "ada"}
    made = mandate_for(
        PLAN, covers=standing(drift_epsilon=9.0), expires=datetime(2026, 12, 13, tzinfo=UTC), **values
    )
    assert made.standing is not None
    assert made.standing.drift_epsilon == PLAN.drift.epsilon


def test_the_names_of_runs_follow_from_the_window() -> None:
    assert standing().runs("small-1", "2026-05") == ("small-1-2026-05-1", "small-1-2026-05-2")


@pytest.mark.parametrize(
    ("windows", "may"),
    [
        (("2026-03",), True),
        (("2026-02", "2026-03"), True),
        (("2026-01", "2026-03"), False),
        (("2026-03", "2026-04"), False),
        (("2026-02",), False),
        ((), False),
    ],
)
def test_a_challenger_is_trained_on_the_last_windows(windows: tuple[str, ...], may: bool) -> None:
    assert standing().may_train("2026-03", windows, PLAN) is may


@pytest.mark.parametrize(
    ("reference", "may"),
    [
        ((), True),
        (("2026-02", "2026-03"), True),
        (("2026-03", "2026-04"), True),
        (("2026-01",), False),
        (("2026-05",), False),
        (("2026-02", "2026-04"), False),
        (("2025-04", "2025-05"), False),
    ],
)
def test_a_reference_is_what_a_model_was_trained_on(reference: tuple[str, ...], may: bool) -> None:
    assert standing().may_compare("2026-05", reference, PLAN) is may


def test_the_reference_is_of_the_season_where_the_experiment_says_so() -> None:
    one = standing(reference=("2025-04", "2025-05", "2025-06"))
    assert one.may_compare("2026-05", ("2025-05",), SEASONAL)
    assert not one.may_compare("2026-05", ("2025-04", "2025-05", "2025-06"), SEASONAL)
    assert one.may_compare("2026-07", ("2025-04", "2025-05", "2025-06"), SEASONAL)
    with pytest.raises(InputError, match="no season"):
        standing(reference=("base",)).may_compare("2026-05", ("base",), SEASONAL)
