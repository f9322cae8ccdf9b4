from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.experiment import CategoricalFeature, Experiment, Label, NumericFeature, Strategy, Task
from server.state.storage import State, open_state
from tests.postgres import postgres

__all__ = ["experiment", "postgres", "state"]


@pytest.fixture
def experiment() -> Experiment:
    return Experiment(
        name="rand-health",
        task=Task(
            description="Five or more visits to a doctor in a year",
            label=Label(column="visits"),
            features=(
                NumericFeature(name="age", kind="numeric", low=0, high=100),
                CategoricalFeature(name="sex", kind="categorical", categories=("f", "m")),
            ),
        ),
        strategy=Strategy(rounds=10),
    )


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with open_state(f"sqlite:///{tmp_path}/home/state.db") as opened:
        yield opened
