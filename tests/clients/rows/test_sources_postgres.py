"""A site whose rows are in a real PostgreSQL (`tests/postgres.py`)."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from clients.app import app
from clients.rows.databases import _connected
from clients.rows.rows import Rows, read_rows
from clients.rows.sources import check_source
from clients.site import open_site
from clients.site_config import DataSource, SiteConfig, read_site_config
from contract.card import Card
from contract.errors import DataError, InputError, SiteConfigError
from contract.experiment import Experiment
from contract.experiment_file import parse_experiment
from experiments.runtimes.inline import InlineGrid
from server.app import run_job
from server.jobs.job import Job
from server.line.flower import assume_identity
from server.registry.registry import Registry
from server.settings import read_settings
from tests.postgres import ROLE_WITH_PASSWORD
from tests.rows_of_a_site import KEY, card_of, numeric, one_of

PASSWORD = "s3cret:/@%p w"  # noqa: S105  # every character that has a meaning in a URL
UTF8 = "?client_encoding=utf8"
VARIABLE = "TIDEGATE_TEST_CLINIC_PASSWORD"

EXPERIMENT = """\
name = "clinic"
[task]
time = "day"
label = { column = "ill", classes = ["False", "True"] }
[[task.features]]
name = "age"
kind = "numeric"
low = 0
high = 120
missing = 50
[[task.features]]
name = "dose"
kind = "numeric"
low = 0
high = 10
[[task.features]]
name = "smoker"
kind = "numeric"
low = 0
high = 1
[[task.features]]
name = "grade"
kind = "categorical"
categories = ["1", "2", "none"]
missing = "none"
[[task.features]]
name = "ward"
kind = "categorical"
categories = ["a", "b"]
[model]
kind = "mlp"
hidden = [4]
[strategy]
rounds = 2
learning_rate = 0.5
[privacy]
private = false
seed = 7
"""

CARD = """\
[card]
time = { column = "day" }
[[card.columns]]
name = "age"
kind = "numeric"
[[card.columns]]
name = "dose"
kind = "numeric"
low = 0
high = 10
[[card.columns]]
name = "smoker"
kind = "numeric"
[[card.columns]]
name = "grade"
kind = "categorical"
categories = ["1", "2", "none"]
[[card.columns]]
name = "ward"
kind = "categorical"
categories = ["a", "b"]
[[card.columns]]
name = "ill"
kind = "categorical"
categories = ["False", "True"]
"""

CREATE = """\
CREATE TABLE clinic.visits (
    number integer PRIMARY KEY, age integer, dose numeric(4, 2) NOT NULL, smoker boolean NOT NULL,
    grade smallint, ward text NOT NULL, day date NOT NULL, ill boolean NOT NULL
)"""
"""Every kind of column that a clinic's database has; NULL for unknown ages and grades."""

SITES = ("north", "south")
ROWS = 120


def visits(seed: int) -> pd.DataFrame:
    """Rows as a CSV file of the same table would hold them, in the order of `number`."""
    rng = np.random.default_rng(seed)
    age = rng.integers(0, 120, ROWS)
    return pd.DataFrame(
        {
            "number": np.arange(ROWS) + seed * ROWS,
            "age": pd.array([None if row % 9 == 0 else int(age[row]) for row in range(ROWS)], dtype="Int64"),
            "dose": [f"{value:.2f}" for value in rng.uniform(0, 10, ROWS)],
            "smoker": rng.integers(0, 2, ROWS) == 1,
            "grade": pd.array([(1, 2, None)[row % 3] for row in range(ROWS)], dtype="Int64"),
            "ward": ["ab"[row % 2] for row in range(ROWS)],
            "day": ["2026-03-02" if row < ROWS // 2 else "2026-03-09" for row in range(ROWS)],
            "ill": rng.random(ROWS) < age / 120,
        }
    )


@pytest.fixture
def owner(postgres: str) -> Iterator[sa.Connection]:
    """A connection that may do everything; schema and reader are made for the test and dropped."""
    url = sa.make_url(postgres).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text("CREATE SCHEMA clinic"))
        connection.exec_driver_sql(
            f"CREATE ROLE {ROLE_WITH_PASSWORD} LOGIN PASSWORD '{PASSWORD.replace('%', '%%')}'"
        )
        connection.execute(sa.text(f"GRANT USAGE ON SCHEMA clinic TO {ROLE_WITH_PASSWORD}"))
        connection.execute(
            sa.text(
                f"ALTER DEFAULT PRIVILEGES IN SCHEMA clinic GRANT SELECT ON TABLES TO {ROLE_WITH_PASSWORD}"
            )
        )
        try:
            yield connection
        finally:
            connection.execute(sa.text("DROP SCHEMA clinic CASCADE"))
            connection.execute(sa.text(f"DROP OWNED BY {ROLE_WITH_PASSWORD}"))
            connection.execute(sa.text(f"DROP ROLE {ROLE_WITH_PASSWORD}"))
    engine.dispose()


@pytest.fixture
def reader(owner: sa.Connection, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL that a site writes down; the password is in the environment."""
    monkeypatch.setenv(VARIABLE, PASSWORD)
    return owner.engine.url.set(username=ROLE_WITH_PASSWORD, password=None).render_as_string()


def fill(owner: sa.Connection) -> None:
    """The visits of both sites, in one table."""
    owner.execute(sa.text(CREATE))
    rows = pd.concat([visits(seed) for seed in range(len(SITES))])
    values: list[dict[Any, Any]] = rows.astype(object).to_dict("records")
    known = [{key: None if pd.isna(value) else value for key, value in row.items()} for row in values]
    names = ", ".join(rows.columns)
    marks = ", ".join(f":{name}" for name in rows.columns)
    owner.execute(sa.text(f"INSERT INTO clinic.visits ({names}) VALUES ({marks})"), known)  # noqa: S608


def site(folder: Path, name: str, data: str) -> Path:
    """A site.toml, beside a hold-out key that is the same for each site of that name."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "site.toml"
    path.write_text(
        f'name = "{name}"\nstated_rows = 80\n[data]\n{data}\n[policy]\nrequire_private = false\n{CARD}',
        encoding="utf-8",
    )
    key = open_site(path).config.storage.holdout_key  # the ledger comes before the key, or the site was used
    key.write_bytes(name.encode().ljust(32))
    return path


def sql_config(folder: Path, url: str, source: str) -> SiteConfig:
    return read_site_config(site(folder, "north", sql(url, source)))


def sql(url: str, source: str) -> str:
    return f"kind = 'sql'\nurl = '{url}'\npassword_env = '{VARIABLE}'\n{source}"


def clinic() -> Experiment:
    return parse_experiment(EXPERIMENT, where="clinic")


def test_rows_in_postgresql_train_the_model_that_the_same_rows_in_csv_train(
    tmp_path: Path, owner: sa.Connection, reader: str
) -> None:
    fill(owner)
    owner.execute(sa.text("CREATE VIEW clinic.north AS SELECT * FROM clinic.visits WHERE number < 120"))
    queried = "SELECT * FROM clinic.visits WHERE number >= 120 AND ward LIKE '%' ORDER BY number"
    sources = {"north": "table = 'clinic.north'", "south": f'query = "{queried}"'}
    for seed, name in enumerate(SITES):
        (tmp_path / "csv" / name).mkdir(parents=True)
        visits(seed).to_csv(tmp_path / "csv" / name / "rows.csv", index=False)
    federations = {
        "csv": [site(tmp_path / "csv" / name, name, "kind = 'csv'\npath = 'rows.csv'") for name in SITES],
        "sql": [site(tmp_path / "sql" / name, name, sql(reader, sources[name])) for name in SITES],
    }
    weights = {kind: trained(tmp_path / "server", kind, paths) for kind, paths in federations.items()}
    for path, other in zip(*federations.values(), strict=True):
        for holdout in (False, True):
            table, same = (open_site(each).table(clinic(), (), holdout=holdout) for each in (path, other))
            np.testing.assert_array_equal(table.features, same.features)
            np.testing.assert_array_equal(table.labels, same.labels)
    assert max(np.abs(array).max() for array in weights["csv"].values()) > 0.01
    for name, array in weights["csv"].items():
        np.testing.assert_allclose(weights["sql"][name], array, atol=1e-6, rtol=0)


def trained(home: Path, run: str, sites: list[Path]) -> dict[str, np.ndarray[Any, Any]]:
    """The weights after two rounds on the rows of the first day, by the real ClientApp."""
    home.mkdir(exist_ok=True)
    settings = read_settings(
        {
            "TIDEGATE_HOME": str(home),
            "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db",
            "TIDEGATE_ARTIFACT_ROOT": str(home / "artifacts"),
        }
    )
    job = Job(kind="train", run=run, experiment=clinic(), windows=("2026-03-02",))
    grid = InlineGrid(app, sites, job.to_run_config())
    assume_identity(grid.run_id)
    reports: list[Any] = []
    names = {node: path.parent.name for node, path in enumerate(sites, start=1)}
    run_job(job, grid, settings, watch=reports.append, admitted=names)
    assert [(report.round, len(report.counted)) for report in reports] == [(1, 2), (2, 2)]
    version = {"csv": 1, "sql": 2}[run]
    return dict(Registry(settings.tracking_uri, settings.artifact_root).load_arrays("clinic", version))


TYPES = """\
CREATE TYPE clinic.kind AS ENUM ('in', 'out');
CREATE TABLE clinic.types (
    small smallint, whole bigint, exact numeric(9, 3), real double precision, flag boolean, day date,
    moment timestamp, word text, short varchar(9), code uuid, kind clinic.kind, ill integer
);
INSERT INTO clinic.types VALUES
    (1, 9007199254740993, 2.5, 0.1, true, '2026-03-02', '2026-03-02 08:30:00', '01', 'é, "x"',
     '12345678-1234-5678-1234-567812345678', 'in', 0);
INSERT INTO clinic.types (ill) VALUES (1)"""

AS_TEXT = {
    "small": "1",
    "whole": "9007199254740993",
    "exact": "2.500",
    "real": "0.1",
    "flag": "True",
    "day": "2026-03-02",
    "moment": "2026-03-02 08:30:00",
    "word": "01",
    "short": 'é, "x"',
    "code": "12345678-1234-5678-1234-567812345678",
    "kind": "in",
    "ill": "0",
}


def read(config: SiteConfig, card: Card) -> Rows:
    check_source(config, card)
    return read_rows(config, card, key=KEY)


def test_every_type_comes_out_as_its_text_in_a_csv_file(
    tmp_path: Path, owner: sa.Connection, reader: str
) -> None:
    """Whole numbers stay whole beside NULL, a numeric keeps its digits, and NULL is missing."""
    for statement in TYPES.split(";\n"):
        owner.exec_driver_sql(statement)
    card = card_of(*(one_of(name, "a", "b") for name in AS_TEXT))
    found = read(sql_config(tmp_path / "sql", reader, "table = 'clinic.types'"), card)
    assert found.frame.iloc[0].to_dict() == AS_TEXT
    assert found.frame.iloc[1].to_dict() == {**dict.fromkeys(AS_TEXT), "ill": "1"}
    path = site(tmp_path / "csv", "north", "kind = 'csv'\npath = 'rows.csv'")
    pd.DataFrame([AS_TEXT, {"ill": "1"}]).to_csv(path.with_name("rows.csv"), index=False)
    in_csv = read(read_site_config(path), card)
    pd.testing.assert_frame_equal(in_csv.frame, found.frame)
    assert in_csv.holdout.tolist() == found.holdout.tolist()


def test_every_type_of_number_and_a_boolean_are_numbers(
    tmp_path: Path, owner: sa.Connection, reader: str
) -> None:
    for statement in TYPES.split(";\n"):
        owner.exec_driver_sql(statement)
    numbers = {"small": 1.0, "whole": 9007199254740992.0, "exact": 2.5, "real": 0.1, "flag": 1.0}
    frame = read(
        sql_config(tmp_path, reader, "table = 'clinic.types'"), card_of(*(numeric(name) for name in numbers))
    ).frame
    assert set(frame.dtypes.astype(str)) == {"float64"}
    assert frame.iloc[0].to_dict() == numbers
    assert frame.iloc[1].isna().all()


ODD = """\
CREATE TABLE clinic.odd (day date, moment timestamp, zoned timestamptz, clock time, span interval,
    exact numeric, real double precision, raw bytea, days date[], number integer);
INSERT INTO clinic.odd VALUES
    ('infinity', '-infinity', '10000-01-01 00:00:00Z', '24:00', '10000000 years', 'NaN', 'NaN',
     '\\xff', '{infinity}', 0),
    ('0044-03-15 BC', 'infinity', 'infinity', '08:30', '1 day', 'Infinity', '-Infinity', NULL, '{}', 1),
    ('2026-03-02', '2026-03-02', NULL, NULL, NULL, 1.0, 1.0, 'ab', NULL, 2)"""


def test_what_python_has_not_is_read_as_the_text_of_the_database(
    tmp_path: Path, owner: sa.Connection, reader: str
) -> None:
    """One date without an end, one time at 24:00 or one year 10000 does not make the table unreadable."""
    for statement in ODD.split(";\n"):
        owner.exec_driver_sql(statement)
    texts = ("day", "moment", "zoned", "clock", "span", "raw", "days")
    card = card_of(
        numeric("exact"), numeric("real"), *(one_of(name, "a") for name in texts), one_of("number", "0")
    )
    for number, source in enumerate(
        ("table = 'clinic.odd'", "query = 'SELECT * FROM clinic.odd ORDER BY number'")
    ):
        frame = read(sql_config(tmp_path / str(number), reader, source), card).frame
        assert frame["day"].tolist() == ["infinity", "0044-03-15 BC", "2026-03-02"]
        assert frame["moment"].tolist() == ["-infinity", "infinity", "2026-03-02"]
        assert frame["zoned"].tolist()[1:] == ["infinity", None]
        assert frame["clock"].tolist() == ["24:00:00", "08:30:00", None]
        assert frame["span"][0] == "10000000 years"
        assert frame["raw"].tolist() == ["\\xff", None, "ab"]
        assert frame["exact"].tolist()[2:] == frame["real"].tolist()[2:] == [1.0]
        assert frame["exact"][:2].isna().all()
        assert frame["real"][:2].isna().all()


DEEP = 3000
LITERALS = (
    *("infinity", "-infinity", "NaN", "Infinity", "0", "-1", "true", "NULL", "", " ", "a", "é", "\\xff00"),
    *("0044-03-15 BC", "4713-01-01 BC", "294276-12-31 23:59:59", "5874897-12-31", "10000-01-01 00:00:00Z"),
    *("0001-01-01 00:00:00+15:59", "9999-12-31 23:59:59-15:59", "24:00", "24:00+15:59:59", "23:59:60"),
    *("178000000 years", "-178000000 years", "1 day", "9" * 131_000, "-0." + "1" * 16_000, "1e-16000"),
    *("9223372036854775807", "18446744073709551615", "-92233720368547758.08", "1e308", "1e-320"),
    *("[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP, "9" * 5000, "[" + "9" * 5000 + "]"),
    *('"\\ud800"', '"\\u0000"', '{"a": "\\ud800", "a": 1e999}', '"a"', "null", "[1e999]"),
    *("empty", "[1,2)", "(,)", "[infinity,infinity]", "[NaN,NaN]", "[2026-01-01,infinity)"),
    *("{}", "{empty}", "{(,)}", "{[1,2),[5,6)}", "{(,0044-03-15 BC),[infinity,infinity]}"),
    *("{[2026-01-01,2026-01-02),[294276-01-01,infinity)}", "{(,1),[5,NaN]}", "{(,-infinity],[infinity,)}"),
    *(
        "{NULL}",
        "{{NULL,NULL}}",
        "[-5:-4]={1,2}",
        "{infinity}",
        "{NaN}",
        "{0044-03-15 BC}",
        '{"", "{", "\\""}',
    ),
    *("{24:00,08:30}", '{"(,)"}', '{"[infinity,infinity]"}', '{"\\"\\\\ud800\\""}', "{t,f}", '{"{}"}'),
    *("(Infinity,NaN)", "<(0,0),Infinity>", "[(0,0),(NaN,1)]", "((0,0),(1,1))", "{1,2,3}", "{0,NaN,1}"),
    *("::ffff:1.2.3.4/1", "1.2.3.4/24", "0.0.0.0/0", "08:00:2b:01:02:03", "08:00:2b:01:02:03:04:05"),
    *("00000000-0000-0000-0000-000000000000", "101", "a & b", "'a':1A 'b':2", "0/0", "FFFFFFFF/FFFFFFFF"),
    *("(4294967295,65535)", "10:20:10,14", "1 2 3", "$.a", "<a/>", "tidegate=r/tidegate", "pg_class"),
)
"""Odd values of every type, and the most that each holds: a type takes those that are its own."""


FILL = """\
DO $$ DECLARE kind record; odd record; BEGIN
    FOR kind IN SELECT typname AS name, format_type(oid, NULL) AS written FROM pg_type
        WHERE typtype IN ('b', 'r', 'm') AND typnamespace = 'pg_catalog'::regnamespace
    LOOP BEGIN
        EXECUTE format('CREATE TABLE clinic.%I (value %s)', 't' || kind.name, kind.written);
        EXECUTE format('INSERT INTO clinic.%I VALUES (NULL)', 't' || kind.name);
        FOR odd IN SELECT value FROM clinic.literals LOOP BEGIN
            EXECUTE format('INSERT INTO clinic.%I VALUES ($1::%s)', 't' || kind.name, kind.written)
                USING odd.value;
        EXCEPTION WHEN OTHERS THEN END; END LOOP;  -- no value of this type
    EXCEPTION WHEN OTHERS THEN END; END LOOP;  -- a type of the database's own tables
END $$"""


def fill_with_odd_values(owner: sa.Connection) -> dict[str, int]:
    """A table for every built-in type, and for its arrays; how many rows each has."""
    owner.exec_driver_sql("CREATE TABLE clinic.literals (value text)")
    for literal in LITERALS:
        owner.exec_driver_sql("INSERT INTO clinic.literals VALUES (%s)", (literal,))
    owner.exec_driver_sql(FILL.replace("%", "%%"))
    owner.exec_driver_sql("DROP TABLE clinic.literals")
    tables = owner.exec_driver_sql("SELECT tablename FROM pg_tables WHERE schemaname = 'clinic'").scalars()
    return {
        name: owner.exec_driver_sql(f'SELECT count(*) FROM clinic."{name}"').scalar_one()  # noqa: S608
        for name in list(tables)
    }


@pytest.mark.filterwarnings("ignore:Did not recognize type")
def test_no_value_of_any_type_makes_a_table_unreadable(owner: sa.Connection, reader: str) -> None:
    """A server names the column: if a row's value made reading fail, the word `failed` would tell of it."""
    filled = fill_with_odd_values(owner)
    assert sum(count > 1 for count in filled.values()) > 130
    card = card_of(one_of("text", "a"), numeric("amount", 0, 1), person="whose")
    failed = {}
    for name, count in filled.items():
        how: dict[str, Any] = {"url": reader, "password_env": VARIABLE, "table": f"clinic.{name}"}
        source = DataSource(kind="sql", columns=dict.fromkeys(("text", "amount", "whose"), "value"), **how)
        try:
            found = read_rows(SiteConfig(name="north", stated_rows=3, data=source), card, key=KEY)
        except Exception as exc:
            failed[name] = f"{type(exc).__name__}: {exc}"[:300]
        else:
            assert len(found) == count
    assert failed == {}


@pytest.mark.parametrize(("encoding", "asked"), [("WIN1252", ""), ("WIN1252", UTF8), ("SQL_ASCII", UTF8)])
def test_no_text_of_a_database_of_any_encoding_makes_it_unreadable(
    owner: sa.Connection, reader: str, encoding: str, asked: str
) -> None:
    """The byte 81 is no letter of WIN1252; neither PostgreSQL nor Python has another form of it."""
    template = f"TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
    owner.exec_driver_sql(f"CREATE DATABASE tidegate_encoded {template}")
    there = owner.engine.url.set(database="tidegate_encoded", query={"client_encoding": "utf8"})
    engine = sa.create_engine(there, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"SET client_encoding TO '{encoding}'")
            connection.exec_driver_sql('CREATE TABLE visits (word text, kind "char", age integer)')
            connection.exec_driver_sql(
                f"INSERT INTO visits VALUES ('a', 'a', 1), (convert_from('\\x81', '{encoding}'), 'b', 2)"  # noqa: S608
            )
            connection.exec_driver_sql(f"GRANT SELECT ON visits TO {ROLE_WITH_PASSWORD}")
        url = sa.make_url(reader).set(database="tidegate_encoded").render_as_string() + asked
        source = DataSource(kind="sql", url=url, password_env=VARIABLE, table="visits")
        config = SiteConfig(name="north", stated_rows=3, data=source)
        found = read(config, card_of(one_of("word", "a"), one_of("kind", "a"), numeric("age", 0, 3)))
        assert found.frame["age"].tolist() == [1.0, 2.0]
        assert found.frame["word"].tolist() == ["a", "\\x81"]
        assert found.frame["kind"].tolist() == ["a", "b"]
    finally:
        engine.dispose()
        owner.exec_driver_sql("DROP DATABASE tidegate_encoded WITH (FORCE)")


def test_dates_for_numbers_are_refused_before_a_row_is_read(
    tmp_path: Path, owner: sa.Connection, reader: str
) -> None:
    owner.execute(sa.text("CREATE TABLE clinic.dated (age date, at timestamptz, gone interval)"))
    config = sql_config(tmp_path, reader, "table = 'clinic.dated'")
    for name in ("age", "at", "gone"):
        with pytest.raises(DataError, match=f"site 'north'.*column '{name}' holds dates"):
            check_source(config, card_of(numeric(name)))


def test_columns_go_by_the_names_of_the_database(tmp_path: Path, owner: sa.Connection, reader: str) -> None:
    owner.execute(
        sa.text('CREATE TABLE clinic."Visits" AS SELECT 30 AS "Age (years)", \'holdout\' AS side, 1 AS ill')
    )
    source = "table = 'clinic.Visits'\ncolumns = { age = 'Age (years)' }"
    config = sql_config(tmp_path, reader, source)
    found = read(config, card_of(numeric("age"), holdout={"column": "side"}))
    assert found.frame["age"].tolist() == [30.0]
    assert found.holdout.tolist() == [True]


def test_the_url_may_leave_the_driver_out(tmp_path: Path, owner: sa.Connection, reader: str) -> None:
    fill(owner)
    url = reader.replace("postgresql+psycopg:", "postgresql:")
    assert len(read(sql_config(tmp_path, url, "table = 'clinic.visits'"), AGE)) == len(SITES) * ROWS


AGE = card_of(numeric("age", 0, 120), one_of("ill", "0", "1"))


def refusal(config: SiteConfig, kind: type[InputError] = DataError, card: Card = AGE) -> str:
    """The one sentence; it says where and what to do, in one line and without the password."""
    with pytest.raises(kind) as caught:
        check_source(config, card)
    with pytest.raises(kind):
        read_rows(config, card, key=KEY)
    message = str(caught.value)
    assert caught.value.where
    assert caught.value.remedy
    assert "\n" not in message
    assert PASSWORD not in message
    assert quote_plus(PASSWORD) not in message
    return message


def test_a_password_that_is_not_set_is_told(
    tmp_path: Path, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE)
    message = refusal(sql_config(tmp_path, reader, "table = 'clinic.visits'"), SiteConfigError)
    assert f"variable {VARIABLE} is not set" in message


@pytest.mark.skipif(
    bool(os.environ.get("TIDEGATE_TEST_POSTGRES")), reason="a server given may ask nobody for a password"
)
def test_a_wrong_password_is_told_and_not_shown(
    tmp_path: Path, owner: sa.Connection, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(owner)
    config = sql_config(tmp_path, reader, "table = 'clinic.visits'")
    assert len(read(config, AGE)) == len(SITES) * ROWS
    monkeypatch.setenv(VARIABLE, "wr0ng-Secret")
    message = refusal(config)
    assert f'password authentication failed for user "{ROLE_WITH_PASSWORD}"' in message
    assert "wr0ng-Secret" not in message


def test_a_password_in_the_url_is_refused_before_it_is_used(tmp_path: Path, reader: str) -> None:
    url = reader.replace(f"{ROLE_WITH_PASSWORD}@", f"{ROLE_WITH_PASSWORD}:abc@")
    with pytest.raises(SiteConfigError, match=r"holds a password.*data\.password_env") as caught:
        sql_config(tmp_path, url, "table = 'clinic.visits'")
    assert "abc@" not in str(caught.value)


@pytest.mark.usefixtures("reader")
def test_a_database_that_is_down_is_told(tmp_path: Path) -> None:
    with socket.socket() as closed:  # bound, not listening
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        url = f"postgresql+psycopg://{ROLE_WITH_PASSWORD}@{address}/clinic"
        message = refusal(sql_config(tmp_path, url, "table = 'clinic.visits'"))
    assert address in message
    assert "cannot be reached" in message


def test_an_unknown_database_is_told(tmp_path: Path, reader: str) -> None:
    url = sa.make_url(reader).set(database="no_such_clinic").render_as_string()
    message = refusal(sql_config(tmp_path, url, "table = 'clinic.visits'"))
    assert 'database "no_such_clinic" does not exist' in message


def test_a_missing_table_and_a_missing_column_are_told(
    tmp_path: Path, owner: sa.Connection, reader: str
) -> None:
    fill(owner)
    assert "there is no table 'clinic.visit'" in refusal(
        sql_config(tmp_path / "a", reader, "table = 'clinic.visit'")
    )
    aged = card_of(numeric("agee", 0, 1))
    for number, source in enumerate(("table = 'clinic.visits'", "query = 'SELECT * FROM clinic.visits'")):
        message = refusal(sql_config(tmp_path / f"b{number}", reader, source), card=aged)
        assert "column 'agee' of the card is missing (nearest: 'age')" in message
        assert "data.columns" in message
    wrong = sql_config(tmp_path / "c", reader, "query = 'SELECT agee FROM clinic.visits'")
    assert 'column "agee" does not exist' in refusal(wrong)


def test_a_table_that_may_not_be_read_is_told_and_an_empty_one_is_read(
    tmp_path: Path, owner: sa.Connection, reader: str
) -> None:
    owner.execute(sa.text("CREATE TABLE clinic.empty (age integer, ill integer)"))
    config = sql_config(tmp_path, reader, "table = 'clinic.empty'")
    assert len(read(config, AGE)) == 0
    owner.execute(sa.text(f"REVOKE ALL ON clinic.empty FROM {ROLE_WITH_PASSWORD}"))
    assert "permission denied for table empty" in refusal(config)


def test_a_value_that_is_no_number_is_counted(tmp_path: Path, owner: sa.Connection, reader: str) -> None:
    owner.execute(sa.text("CREATE TABLE clinic.texts AS SELECT '3O' AS age, 0 AS ill"))
    found = read(sql_config(tmp_path, reader, "table = 'clinic.texts'"), AGE)
    assert found.reading.unreadable == {"age": 1}


def test_a_query_cannot_write(tmp_path: Path, owner: sa.Connection, reader: str) -> None:
    fill(owner)
    owner.execute(sa.text(f"GRANT ALL ON clinic.visits TO {ROLE_WITH_PASSWORD}"))
    config = sql_config(tmp_path, reader, "query = 'DELETE FROM clinic.visits RETURNING age, ill'")
    assert "the database refused" in refusal(config)
    with (
        _connected(config.data, "north") as connection,
        pytest.raises(sa.exc.InternalError, match="read-only"),
    ):
        connection.execute(sa.text(str(config.data.query)))
    assert owner.execute(sa.text("SELECT count(*) FROM clinic.visits")).scalar() == len(SITES) * ROWS
