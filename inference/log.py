"""What was asked and told, and what came of it: kept at the site, in its own database.

A request is one record, written into a journal before it is answered (`inference.journal`): who kills the
process loses no answer that was given. A moment later it is in the database, with its rows as JSON. For each
model there is a view, `served_MODEL`, with a row a prediction: the columns of the model's features, `served`
(when), `prediction`, the label's column once it is known, `model_version`, `answer` and `row`. It is a table
like any other to a site's `[data]` section, so that drift is looked for, and the next version trained, on
what the service was really asked.

Facts: SQLite in WAL mode without a sync at each commit loses nothing when the process is killed, and the last
moments when the machine loses its power. `json_each` is built into SQLite since 3.38.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite

from contract.errors import StorageError
from contract.experiment import Experiment, NumericFeature
from inference.journal import Journal

__all__ = ["Entry", "PredictionLog", "UnknownAnswerError", "new_id", "view_name"]

_tables = sa.MetaData()
_answers = sa.Table(
    "answers",
    _tables,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("served", sa.String(20), nullable=False, index=True),  # as a site's table has a time
    sa.Column("model", sa.String(100), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("role", sa.String(10), nullable=False),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("data", sa.Text, nullable=False),  # of each row: what was asked, and what was told
)
_labels = sa.Table(
    "labels",
    _tables,
    sa.Column("answer", sa.String(32), primary_key=True),
    sa.Column("row", sa.Integer, primary_key=True),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("came", sa.String(20), nullable=False),
)
_models = sa.Table(
    "models",
    _tables,
    sa.Column("model", sa.String(100), primary_key=True),
    sa.Column("columns", sa.Text, nullable=False),
)
_DIALECTS: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
_URLS = "Give a URL that begins with sqlite:/// or postgresql+psycopg://"
_encode = msgspec.json.Encoder().encode


class UnknownAnswerError(Exception):
    """A label is for a row of no answer that is here.

    Args:
        place: of the label among those that were given.
    """

    def __init__(self, place: int) -> None:
        super().__init__(place)
        self.place = place


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One answer.

    Attributes:
        id: of the answer.
        version: of the model.
        role: `served`, `shadow` (computed and told to nobody) or `canary`.
        given: the rows, by feature, as they were sent.
        count: of rows.
        told: of each row: the prediction, then the probabilities.
    """

    id: str
    version: int
    role: str
    given: dict[str, Sequence[Any]]
    count: int
    told: Sequence[Sequence[Any]]


def new_id() -> str:
    """Of an answer: 32 hexadecimal characters that nobody can guess."""
    return os.urandom(16).hex()


def view_name(model: str) -> str:
    """The view with a model's predictions as rows."""
    return f"served_{re.sub('[^A-Za-z0-9]', '_', model)}"


class PredictionLog:
    """The log of one model in a database.

    Args:
        url: SQLAlchemy's, of an SQLite file or PostgreSQL.
        journal: the file in which answers wait for the database.
        keep_days: after which answers and their labels are forgotten.

    Raises:
        StorageError: by each method: the database cannot be used.
    """

    def __init__(self, url: str, journal: Path, *, keep_days: float = 90.0) -> None:
        self._engine = _engine(url)
        self._url, self._keep = self._engine.url.render_as_string(), timedelta(days=keep_days)
        name = self._engine.dialect.name
        self._postgresql = name == "postgresql"
        if name == "sqlite":
            event.listen(self._engine, "connect", _on_connect)
        self._kind = _DIALECTS[name]
        self._insert = self._kind(_answers).on_conflict_do_nothing()
        self._features: tuple[str, ...] = ()
        self._model, self._forgotten = "", 0.0
        self._journal: Journal | None = None
        self._path = journal

    def prepare(self, experiment: Experiment) -> None:
        """Make tables, and the view of this model as this version has its columns."""
        with self._errors():
            with self._engine.begin() as connection:
                _tables.create_all(connection)
                kept = connection.execute(
                    sa.select(_models.c.columns).where(_models.c.model == experiment.name)
                ).scalar()
                # of older answers too, in the order in which they came: a record has no names
                names: dict[str, bool] = msgspec.json.decode(kept) if kept else {}
                names |= {one.name: isinstance(one, NumericFeature) for one in experiment.task.features}
                text = _encode(names).decode()
                connection.execute(
                    self._kind(_models)
                    .values(model=experiment.name, columns=text)
                    .on_conflict_do_update(index_elements=[_models.c.model], set_={"columns": text})
                )
                self._make_view(connection, experiment, names)
            self._model, self._features = experiment.name, tuple(names)
        if self._journal is None:
            self._journal = Journal(self._path, self._insert_records)
            self._journal.flush()

    def add(self, entries: Sequence[Entry]) -> None:
        """Write answers; they are in the database with the next `move`."""
        now, model = _moment(), self._model
        records = [
            {
                "id": one.id,
                "served": now,
                "model": model,
                "version": one.version,
                "role": one.role,
                "rows": one.count,
                "data": list(zip(self._rows(one), one.told, strict=True)),
            }
            for one in entries
        ]
        self._opened().append(records)

    def move(self) -> None:
        """Have in the database what was written until now."""
        self._opened().flush()

    def _insert_records(self, records: Sequence[dict[str, Any]]) -> None:
        # PostgreSQL reads no JSON with a NUL in a text
        rows = [
            one | {"data": _encode(one["data"]).decode().replace("\\u0000", "\\ufffd")} for one in records
        ]
        with self._errors(), self._engine.begin() as connection:
            connection.execute(self._insert, rows)

    def add_labels(self, labels: Sequence[tuple[str, int, str]]) -> int:
        """Write what came of rows; one that is known is replaced. Gives how many there were.

        Args:
            labels: the answer, the row's number, the label.

        Raises:
            UnknownAnswerError: there is no such answer or row; nothing is written then.
        """
        self.move()
        with self._errors(), self._engine.begin() as connection:
            wanted = {answer for answer, _, _ in labels}
            found = connection.execute(
                sa.select(_answers.c.id, _answers.c.rows).where(
                    _answers.c.id.in_(wanted), _answers.c.model == self._model
                )
            ).all()
            counts = {one.id: one.rows for one in found}
            for place, (answer, row, _) in enumerate(labels):
                if not 0 <= row < counts.get(answer, 0):
                    raise UnknownAnswerError(place)
            latest = {(answer, row): label for answer, row, label in labels}
            now = _moment()
            insert = self._kind(_labels)
            connection.execute(
                insert.on_conflict_do_update(
                    index_elements=[_labels.c.answer, _labels.c.row],
                    set_={"label": insert.excluded.label, "came": insert.excluded.came},
                ),
                [
                    {"answer": answer, "row": row, "label": label, "came": now}
                    for (answer, row), label in latest.items()
                ],
            )
        return len(latest)

    def forget(self) -> int:
        """Remove what is older than is kept, once an hour at most; gives how many answers."""
        if time.monotonic() - self._forgotten < 3600 and self._forgotten:
            return 0
        self._forgotten = time.monotonic()
        until = _moment(datetime.now(UTC) - self._keep)
        with self._errors(), self._engine.begin() as connection:
            old = sa.select(_answers.c.id).where(_answers.c.served < until)
            connection.execute(_labels.delete().where(_labels.c.answer.in_(old)))
            return connection.execute(_answers.delete().where(_answers.c.served < until)).rowcount

    def close(self) -> None:
        """Close all connections."""
        try:
            if self._journal is not None:
                self._journal.close()
        finally:
            self._engine.dispose()

    def _rows(self, entry: Entry) -> list[Any]:
        nothing = [None] * entry.count
        columns = [entry.given.get(name, nothing) for name in self._features]
        return list(zip(*columns, strict=True))

    def _opened(self) -> Journal:
        if self._journal is None:
            raise ValueError("a log that is not prepared")
        return self._journal

    def _make_view(
        self, connection: sa.Connection, experiment: Experiment, names: Mapping[str, bool]
    ) -> None:
        quote = self._engine.dialect.identifier_preparer.quote_identifier
        name, label = quote(view_name(experiment.name)), experiment.task.label
        taken = {*names, label.column}
        columns = [
            f"{self._value(0, place, is_number=is_number)} AS {quote(one)}"
            for place, (one, is_number) in enumerate(names.items())
        ]
        known = "CAST(l.label AS DOUBLE PRECISION)" if label.range is not None else "l.label"
        others = {
            "served": "a.served",
            "prediction": self._value(1, 0, is_number=label.range is not None),
            "model_version": "a.version",
            "answer": "a.id",
            "row": "(r.place - 1)" if self._postgresql else "r.key",
        }
        if self._postgresql:
            rows = "jsonb_array_elements(a.data::jsonb) WITH ORDINALITY AS r(value, place) ON true"
        else:
            rows = "json_each(a.data) r ON true"
        columns.append(f"{known} AS {quote(label.column)}")
        columns += [f"{what} AS {quote(one)}" for one, what in others.items() if one not in taken]
        model = experiment.name.replace("'", "''")
        connection.exec_driver_sql(f"DROP VIEW IF EXISTS {name}")
        connection.exec_driver_sql(
            f"CREATE VIEW {name} AS SELECT {', '.join(columns)} FROM answers a JOIN {rows} "  # noqa: S608
            f"LEFT JOIN labels l ON l.answer = a.id AND l.row = {others['row']} "
            f"WHERE a.model = '{model}' AND a.role <> 'shadow'"
        )  # a view takes no parameters: names are quoted, and no value of a row is in it

    def _value(self, part: int, place: int, *, is_number: bool) -> str:
        """A value of a row: of what was asked (0) or told (1)."""
        if not self._postgresql:
            return f"json_extract(r.value, '$[{part}][{place}]')"
        text = f"(r.value -> {part} ->> {place})"
        if not is_number:
            return text
        kind = f"jsonb_typeof(r.value -> {part} -> {place})"
        return f"CASE WHEN {kind} = 'number' THEN {text}::double precision END"

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """SQLAlchemy's errors become ours."""
        try:
            yield
        except sa.exc.SQLAlchemyError as exc:
            raise StorageError(
                f"the prediction log cannot be used ({type(getattr(exc, 'orig', exc)).__name__})",
                where=self._url,
                remedy="See that the database can be reached and written, and that its disk has room",
            ) from exc


def _engine(url: str) -> sa.Engine:
    try:
        name = sa.make_url(url).get_backend_name()
        if name in _DIALECTS:
            return sa.create_engine(url)
    except (sa.exc.ArgumentError, ModuleNotFoundError) as exc:
        raise StorageError(
            f"no such database can be opened here ({exc})", where="serve.log", remedy=_URLS
        ) from exc
    raise StorageError(
        f"the prediction log is kept in SQLite or PostgreSQL, and not in {name}",
        where="serve.log",
        remedy=_URLS,
    )


def _on_connect(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for words in ("journal_mode = WAL", "synchronous = NORMAL", "busy_timeout = 30000"):
        cursor.execute(f"PRAGMA {words}")
    cursor.close()


def _moment(when: datetime | None = None) -> str:
    """In ISO 8601, to the second, in UTC: texts of this form are in the order of time."""
    return (when or datetime.now(UTC)).isoformat(timespec="seconds").replace("+00:00", "Z")
