"""The prediction log in SQLite and in a real PostgreSQL: one table of rows to whoever reads it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from contract.errors import StorageError
from contract.experiment import Experiment
from inference.log import Entry, PredictionLog, UnknownAnswerError, new_id, view_name
from tests.postgres import postgres  # noqa: F401 - a fixture
from tests.serving.test_prediction import LABELS, experiment


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'log.db'}"
    found: str = request.getfixturevalue("postgres")
    with sa.create_engine(found, poolclass=sa.NullPool).begin() as connection:
        for view in (view_name("small"), view_name("it's")):
            connection.exec_driver_sql(f"DROP VIEW IF EXISTS {view}")
        connection.exec_driver_sql("DROP TABLE IF EXISTS answers, labels, models")
    return found


def entry(count: int = 2, *, role: str = "served", told: Any = None, **given: Any) -> Entry:
    columns: dict[str, Any] = {
        "age": [61] * count,
        "cost": [None] * count,
        "ward": ["1"] * count,
        "sex": ["f"] * count,
    }
    said = [["yes", 0.25, 0.75]] * count if told is None else told
    return Entry(id=new_id(), version=1, role=role, given={**columns, **given}, count=count, told=said)


def rows(url: str, model: str = "small") -> list[dict[str, Any]]:
    with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
        wanted = sa.select(sa.text("*")).select_from(sa.table(view_name(model)))
        found = connection.execute(wanted.order_by(sa.text("answer, row"))).mappings()
        return [dict(one) for one in found]


def log_of(url: str, tmp_path: Path, made: Experiment, **more: Any) -> PredictionLog:
    log = PredictionLog(url, tmp_path / "journal", **more)
    log.prepare(made)
    return log


def test_each_row_is_a_row_with_its_label_once_it_is_known(url: str, tmp_path: Path) -> None:
    log = log_of(url, tmp_path, experiment())
    one, other = entry(age=[61, 20.5], ward=["1", None]), entry(1, role="shadow")
    log.add([one, other])
    assert log.add_labels([(one.id, 1, "no"), (one.id, 1, "yes")]) == 1
    assert log.add_labels([(one.id, 1, "no")]) == 1
    log.close()
    first, second = rows(url)
    assert first == {
        "age": 61, "cost": None, "ward": "1", "sex": "f", "ill": None, "served": first["served"],
        "prediction": "yes", "model_version": 1, "answer": one.id, "row": 0,
    }  # fmt: skip
    assert (second["age"], second["ward"], second["ill"], second["row"]) == (20.5, None, "no", 1)
    assert datetime.fromisoformat(first["served"]) <= datetime.now(UTC)


def test_a_label_is_for_an_answer_that_was_given(url: str, tmp_path: Path) -> None:
    log = log_of(url, tmp_path, experiment())
    one = entry()
    log.add([one])
    for answer, row in ((new_id(), 0), (one.id, 2), (one.id, -1), ("' OR 1=1 --", 0)):
        with pytest.raises(UnknownAnswerError):
            log.add_labels([(one.id, 0, "yes"), (answer, row, "yes")])
    log.close()
    assert [one["ill"] for one in rows(url)] == [None, None]


def test_what_is_older_than_is_kept_is_forgotten(url: str, tmp_path: Path) -> None:
    log = log_of(url, tmp_path, experiment(), keep_days=30)
    old, new = entry(), entry()
    log.add([old, new])
    log.add_labels([(old.id, 0, "yes")])
    then = (datetime.now(UTC) - timedelta(days=31)).strftime("%Y-%m-%dT%H:%M:%SZ")
    with sa.create_engine(url, poolclass=sa.NullPool).begin() as connection:
        update = sa.text("UPDATE answers SET served = :then WHERE id = :id")
        connection.execute(update, {"then": then, "id": old.id})
    assert log.forget() == 1
    log.close()
    assert {one["answer"] for one in rows(url)} == {new.id}
    with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM labels").scalar() == 0


def test_a_later_version_may_have_other_columns_and_odd_names(url: str, tmp_path: Path) -> None:
    made = experiment(label=LABELS["a number"]).model_copy(update={"name": "it's"})
    log = log_of(url, tmp_path, made)
    log.add([entry(1, told=[[3.5]])])
    odd = made.task.features[0].model_copy(update={"name": 'a "b" 100%'})
    features = (odd, *made.task.features[1:])
    other = made.model_copy(update={"task": made.task.model_copy(update={"features": features})})
    log.prepare(other)
    given: dict[str, Any] = {'a "b" 100%': [33.0]}
    log.add([entry(1, told=[[4.5]], **given)])
    log.close()
    found = {one['a "b" 100%']: one for one in rows(url, "it's")}
    assert found.keys() == {None, 33.0}
    assert (found[None]["age"], found[None]["prediction"], found[None]["days"]) == (61, 3.5, None)


def test_a_text_where_a_number_is_meant_fails_no_reading(url: str, tmp_path: Path) -> None:
    log = log_of(url, tmp_path, experiment())
    log.add([entry(1, age=["?"], sex=[{"a": 1}], told=[[None, None, None]])])
    log.close()
    (one,) = rows(url)
    assert one["age"] in (None, "?")
    assert one["prediction"] is None


def test_a_nul_blinds_no_reader(url: str, tmp_path: Path) -> None:
    log = log_of(url, tmp_path, experiment())
    log.add([entry(1, ward=["a\0b"])])
    log.close()
    assert [one["ward"] for one in rows(url)] == ["a\ufffdb"]


def test_the_same_label_many_times_at_once(url: str, tmp_path: Path) -> None:
    log = log_of(url, tmp_path, experiment())
    one = entry(1)
    log.add([one])
    with ThreadPoolExecutor(4) as labelling:
        assert set(labelling.map(lambda _: log.add_labels([(one.id, 0, "yes")]), range(40))) == {1}
    log.close()
    assert [found["ill"] for found in rows(url)] == ["yes"]


def test_a_long_answer_is_read_in_time_that_grows_with_it(url: str, tmp_path: Path) -> None:
    log = log_of(url, tmp_path, experiment())
    log.add([entry(100_000)])
    log.close()
    with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
        found = sa.select(sa.func.count()).select_from(sa.table(view_name("small")))
        assert connection.execute(found).scalar() == 100_000


def test_another_database_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="in SQLite or PostgreSQL, and not in mysql"):
        PredictionLog("mysql+pymysql://here/log", tmp_path / "journal")
    log = PredictionLog(f"sqlite:///{tmp_path}/no/such/folder/log.db", tmp_path / "journal")
    with pytest.raises(StorageError, match="cannot be used"):
        log.prepare(experiment())
