"""An upgrade of a database with rows in every table, from each earlier revision, keeps each of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import server.state.database
from server.state.database import open_database
from server.state.tables import HEAD, metadata
from tests.server.state.revisions import migrate

EARLIER = [
    revision.revision
    for revision in ScriptDirectory(
        str(Path(server.state.database.__file__).parent / "migrations")
    ).walk_revisions()
    if revision.revision != HEAD
]
ROWS = 3
FIRST = ("alembic_version", "runs")
"""What other tables refer to."""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Of an empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/state.db"
        return
    address = request.getfixturevalue("postgres").replace("postgresql://", "postgresql+psycopg://")
    yield address
    with engine(address) as one, one.begin() as connection:
        connection.execute(sa.text("DROP SCHEMA public CASCADE"))
        connection.execute(sa.text("CREATE SCHEMA public"))


@contextmanager
def engine(url: str) -> Iterator[sa.Engine]:
    one = sa.create_engine(url)
    yield one
    one.dispose()


@pytest.mark.parametrize("revision", EARLIER)
def test_an_upgrade_keeps_every_row(url: str, revision: str) -> None:
    with engine(url) as one:
        with one.begin() as connection:
            migrate(connection, revision)
            fill(connection)
        before = rows(one)
    assert all(len(found) == ROWS for name, found in before.items() if name != "alembic_version"), before
    database = open_database(url)
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    after = rows(database.engine)
    database.engine.dispose()
    assert after.pop("alembic_version") == [{"version_num": HEAD}]
    before.pop("alembic_version")
    for table, found in before.items():
        kept = [{name: row[name] for name in found[0]} for row in after[table]]
        assert kept == found, table
    open_database(url).engine.dispose()  # what was upgraded is not upgraded again


def test_an_upgrade_that_is_cut_off_leaves_what_was_there(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine(url) as one:
        with one.begin() as connection:
            migrate(connection, EARLIER[-1])
            fill(connection)
        before = rows(one)
        monkeypatch.setattr("alembic.op.add_column", cut_off)
        with pytest.raises(KeyboardInterrupt):
            open_database(url)
        assert rows(one) == before
    monkeypatch.undo()
    open_database(url).engine.dispose()


def cut_off(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def fill(connection: sa.Connection) -> None:
    """Rows in every table that the database has."""
    known = sa.MetaData()
    known.reflect(connection)
    for table in sorted(known.tables.values(), key=lambda table: table.name not in FIRST):
        if table.name != "alembic_version":
            for number in range(1, ROWS + 1):
                connection.execute(table.insert().values({c.name: value(c, number) for c in table.c}))


def value(column: sa.Column[Any], number: int) -> object:
    if column.name == "run":
        return f"name {number}"
    kind = column.type
    values: dict[type, object] = {
        sa.Boolean: number % 2 == 0,
        sa.Integer: number,
        sa.Float: number / 4,
        sa.DateTime: datetime(2026, 11, number, 8, tzinfo=UTC),
        sa.LargeBinary: bytes([0, number]),
        sa.JSON: {"number": number, "words": 'ε "quoted"'},
        sa.String: f"{column.name} {number}"[: getattr(kind, "length", None)],
    }
    return next(found for known, found in values.items() if isinstance(kind, known))


def rows(one: sa.Engine) -> dict[str, list[dict[str, Any]]]:
    known = sa.MetaData()
    with one.connect() as connection:
        known.reflect(connection)
        return {
            name: [
                dict(row._mapping)
                for row in connection.execute(sa.select(table).order_by(*table.primary_key))
            ]
            for name, table in known.tables.items()
        }
