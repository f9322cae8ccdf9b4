"""What Schemathesis makes of the API's own document, asked in the name of each role and of nobody.

TIDEGATE_ADVERSARY=long tries 2,000 requests of each kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)
from sqlalchemy import text

from contract.errors import AddressError
from server.api.app import Api, make_app
from server.api.reading import Reading
from server.gateway.connections import CONNECTION
from server.registry.registry import Registry
from server.state import tables
from server.state.people import People
from server.state.records import ScheduleRecord
from server.state.schedules import Schedules
from server.state.storage import State, open_state
from server.state.submissions import Submissions
from tests.adversary.rows import Figure
from tests.adversary.test_generated import LONG
from tests.mlflow_database import lay_mlflow_database
from tests.server.federation import plan

pytestmark = pytest.mark.timeout(4 * 3600 if LONG else 900)  # an hour was too short on a busy machine
EXAMPLES = 2_000 if LONG else 8
ROLES = ("reviewer", "scientist", "operator", "nobody")
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
FITTING, ODD = (
    methodcaller("as_strategy", generation_mode=mode)
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
)


KNOWN = {"site": "north", "experiment": "fake", "model": "fake"}


@dataclass
class Answers:
    """The API, with something of everything in its state."""

    schema: Any
    state: State
    tokens: dict[str, str]
    run: str

    def rows(self) -> dict[str, list[Any]]:
        """Every row that there is."""
        with self.state.database.read() as connection:
            return {
                name: sorted(map(str, connection.execute(text(f"SELECT * FROM {name}")).all()))  # noqa: S608
                for name in tables.metadata.tables
            }


class OwnConnection:
    """In the place of a port's: each request has one, and nobody has too many (`tests/server/gateway`)."""

    def recognize(self, name: bytes) -> bool:
        return bool(name)

    def abort(self) -> None:
        raise AssertionError("an answer was not taken in time")


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answers]:
    home = tmp_path_factory.mktemp("api")
    lay_mlflow_database(home / "mlflow.db")

    def away() -> Any:
        raise AddressError("there is no SuperLink here", where="nowhere")

    with open_state(f"sqlite:///{home / 'state.db'}") as state:
        reading = Reading(
            state=state,
            registry=Registry(f"sqlite:///{home / 'mlflow.db'}", Path(home / "artifacts")),
            control=away,
            federation="standing",
        )
        reading.registry.connect()  # which takes seconds, and is no part of a request's time
        people, submissions = People(state.database), Submissions(state.database)
        tokens = {role: people.add(role, role) for role in ROLES[:-1]}  # type: ignore[arg-type]
        run = submissions.add(plan(), person="somebody", federation="standing").run
        submissions.stop(run, by="somebody")
        state.start_run(run, experiment=plan(), job="train", trigger="somebody", code_hash="c")
        state.finish_run(run, "failed", error="no site came")
        state.admit_site("north", federation="standing", node_id=1, key="k", stated_rows=50)
        Schedules(state.database).add(ScheduleRecord.of(plan(), every="week", first="2026-W05"))
        state.save_verdict("fake", window="w1", verdict={"score": float("inf")}, alarm=True)
        state.record_decision("fake", window="w1", kind="watch", subject="s\x1b[2J", by="policy", reason="r")
        app = make_app(Api(reading=reading, authority=b"", mlflow=Path("/nowhere")))

        async def connected(scope: dict[str, Any], receive: Any, send: Any) -> None:
            await app(scope | {CONNECTION: OwnConnection()}, receive, send)

        schema = schemathesis.openapi.from_asgi("/openapi.json", connected)
        yield Answers(schema, state, {**tokens, "nobody": "x" * 43}, run)


@pytest.mark.parametrize("role", ROLES)
def test_every_answer_is_one_that_the_document_has(
    answers: Answers, role: str, figure: Figure, tried: Figure
) -> None:
    """And who may change nothing, changes nothing; not even what only they see."""
    before, words = answers.rows(), Counter[str]()
    headers = {"Authorization": f"Bearer {answers.tokens[role]}"}
    operations = [found.ok() for found in answers.schema.get_all_operations()]
    assert len(operations) == 31

    for operation in operations:

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=FITTING(operation) | ODD(operation))
        def ask(case: Any) -> None:
            if "name" in (case.path_parameters or {}) and words.total() % 2:
                case.path_parameters["name"] = answers.run
            for name, known in KNOWN.items():
                if name in (case.path_parameters or {}) and words.total() % 2:
                    case.path_parameters[name] = known
            response = case.call(headers=headers, timeout=600)
            case.validate_response(response, checks=CHECKS)
            if case.path.endswith("/resume"):  # or its events would be waited for until it has ended
                Submissions(answers.state.database).stop(answers.run, by="somebody")
            words[str(response.status_code)] += 1

        ask()
    tried(f"{words.total():,} requests as {role}")
    figure(f"as {role}: {dict(sorted(words.items()))}")
    if role in ("reviewer", "nobody"):  # a reviewer changes what service a version is in, and there is none
        assert answers.rows() == before
    assert set(words) <= {"401", "429"} if role == "nobody" else words["200"]
