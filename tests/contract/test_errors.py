from __future__ import annotations

import pytest

from contract import errors
from contract.errors import BudgetError, DataError, InputError, RefusalCode, TidegateError

KINDS = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]


def test_every_error_is_exported() -> None:
    defined = {
        name
        for name, item in vars(errors).items()
        if isinstance(item, type) and item.__module__ == errors.__name__
    }
    assert defined == set(errors.__all__)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_has_the_exit_code_of_its_branch_and_a_code_of_the_closed_list(
    kind: type[TidegateError],
) -> None:
    assert kind.exit_code == (2 if issubclass(kind, InputError) else 1)
    assert kind.code in RefusalCode.ALL


def test_the_sentence_says_place_fault_and_remedy() -> None:
    error = DataError("the file is empty.", where="rows.csv", remedy="Deliver rows.")
    assert str(error) == "rows.csv: the file is empty. Deliver rows."
    assert str(TidegateError("it failed")) == "it failed."


def test_what_crosses_the_boundary_carries_no_value() -> None:
    error = BudgetError("patient 4711 is over", where="rows.csv")
    assert "4711" not in error.code
    assert error.code == RefusalCode.BUDGET
