"""Reads a site's rows: CSV and Parquet files, or any database that SQLAlchemy knows.

Only the columns that the task names are read. The frame has the task's names
for them, whatever the source calls them: numbers as float64 (missing is NaN),
everything else as the text that the source holds (missing is None). The values
are untouched: `clients.rows.table` encodes them, the drift check counts them.

Errors name file, column, row and value: they are for the site's own people.
Rows are counted from 1, without the header.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clients.site_config import DataSource, SiteConfig, database_url
from contract.errors import DataError
from contract.experiment import NumericFeature, Task

if TYPE_CHECKING:
    import pandas as pd
    from sqlalchemy import Connection, Engine

__all__ = ["HOLDOUT", "load_frame", "locate", "source_files"]

HOLDOUT = "tidegate holdout"
"""The frame's name for the column that says which rows are held out."""

_ENDINGS = {"csv": (".csv", ".csv.gz"), "parquet": (".parquet",)}


def load_frame(config: SiteConfig, task: Task) -> pd.DataFrame:
    """The site's rows, with the columns that the task needs.

    Returns:
        A frame of the task's features, label, person and time columns, and `HOLDOUT` where the
        site names such a column; `locate` tells where a row of it came from.

    Raises:
        DataError: the source is missing, empty or unreadable, lacks a column, or holds a value
            in a numeric column that is not a number.
    """
    import pandas as pd

    source = config.data
    wanted = _wanted(source, task)
    parts = _from_database(source, wanted) if source.kind == "sql" else _from_files(source, wanted)
    frame = pd.concat([part for _, part in parts], ignore_index=True)
    origin = tuple((name, len(part)) for name, part in parts)
    if frame.empty:
        raise DataError(
            "there are no rows", where=", ".join(name for name, _ in parts), remedy="Deliver rows"
        )
    frame.attrs["origin"] = origin
    numeric = {feature.name for feature in task.features if isinstance(feature, NumericFeature)}
    columns = {
        name: _numbers(frame, column, name) if name in numeric else _texts(frame[column])
        for name, column in wanted.items()
    }
    typed = pd.DataFrame(columns)
    typed.attrs["origin"] = origin
    return typed


def locate(frame: pd.DataFrame, position: int) -> str:
    """Where the row at `position` came from, such as `2024.csv, row 12`."""
    for name, rows in frame.attrs.get("origin", ()):
        if position < rows:
            return f"{name}, row {position + 1}"
        position -= rows
    return f"row {position + 1}"


def _wanted(source: DataSource, task: Task) -> dict[str, str]:
    """The source's name of each column, by the task's name."""
    names = [*(feature.name for feature in task.features), task.label.column]
    names += [name for name in (task.person, task.time) if name is not None]
    wanted = {name: source.column(name) for name in names}
    if source.holdout_column is not None:
        wanted[HOLDOUT] = source.holdout_column
    return wanted


def _check_columns(wanted: dict[str, str], present: Iterable[str], where: str) -> None:
    known = list(present)
    for name, column in wanted.items():
        if column not in known:
            nearest = difflib.get_close_matches(column, known, n=1, cutoff=0.5)
            hint = f" (nearest: '{nearest[0]}')" if nearest else f" (it has: {', '.join(known[:20])})"
            setting = "data.holdout_column" if name == HOLDOUT else "data.columns"
            raise DataError(
                f"column '{column}' is missing{hint}",
                where=where,
                remedy=f"Deliver it, or say its name under {setting} in site.toml",
            )


Parts = list[tuple[str, "pd.DataFrame"]]


def _from_files(source: DataSource, wanted: dict[str, str]) -> Parts:
    read = _read_csv if source.kind == "csv" else _read_parquet
    parts: Parts = []
    for path in source_files(source):
        try:
            parts.append((path.name, read(path, source, wanted)))
        except OSError as exc:
            reason = exc.strerror or "not a file of this kind"
            raise DataError(f"cannot be read: {reason}", where=str(path), remedy="Check the file") from exc
    return parts


def source_files(source: DataSource) -> list[Path]:
    """The files that `data.path` names: itself, those in the folder, or those of the pattern.

    Raises:
        DataError: there is none.
    """
    path = Path(str(source.path))
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [item for item in sorted(path.iterdir()) if item.name.lower().endswith(_ENDINGS[source.kind])]
    else:
        parts = path.parts
        fixed = next(
            (i for i, part in enumerate(parts) if any(sign in part for sign in "*?[")), len(parts) - 1
        )
        found = sorted(Path(*parts[:fixed]).glob("/".join(parts[fixed:])))
    if not found:
        what = f"holds no {' or '.join(_ENDINGS[source.kind])} file" if path.is_dir() else "no such file"
        raise DataError(what, where=str(path), remedy="Correct data.path in site.toml, or deliver the file")
    return found


def _read_csv(path: Path, source: DataSource, wanted: dict[str, str]) -> pd.DataFrame:
    import pandas as pd

    text: dict[str, Any] = {
        "sep": source.separator,
        "encoding": "utf-8-sig",
        "dtype": str,
        "index_col": False,
    }
    try:
        header = list(pd.read_csv(path, nrows=0, **text).columns)
        if len(header) == 1 and len(set(wanted.values())) > 1:
            raise DataError(
                f"the header has one column only, read with separator '{source.separator}'",
                where=str(path),
                remedy="Set data.separator in site.toml to the file's own",
            )
        _check_columns(wanted, header, str(path))
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(path, na_values=list(source.na_values), keep_default_na=False, **text)
    except pd.errors.EmptyDataError as exc:
        raise DataError(
            "the file is empty", where=str(path), remedy="Deliver it with header and rows"
        ) from exc
    except UnicodeDecodeError as exc:
        raise DataError("not UTF-8 text", where=str(path), remedy="Save the file as UTF-8") from exc
    except (pd.errors.ParserError, pd.errors.ParserWarning) as exc:
        raise DataError(
            "a row has more fields than the header",
            where=str(path),
            remedy="Quote fields that hold the separator",
        ) from exc
    if frame.empty:
        raise DataError("the file has a header and no rows", where=str(path), remedy="Deliver rows")
    chosen: pd.DataFrame = frame[list(dict.fromkeys(wanted.values()))]
    return chosen


def _read_parquet(path: Path, source: DataSource, wanted: dict[str, str]) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa
    from pyarrow import parquet

    try:
        _check_columns(wanted, parquet.read_schema(path).names, str(path))
        columns = list(dict.fromkeys(wanted.values()))
        frame: pd.DataFrame = pd.read_parquet(
            path, columns=columns, engine="pyarrow", dtype_backend="numpy_nullable"
        )
    except pa.ArrowInvalid as exc:
        raise DataError(
            "not a Parquet file, or a broken one", where=str(path), remedy="Write it again"
        ) from exc
    if frame.empty:
        raise DataError("the file has no rows", where=str(path), remedy="Deliver rows")
    return frame


def _from_database(source: DataSource, wanted: dict[str, str]) -> Parts:
    from sqlalchemy.exc import NoSuchModuleError, NoSuchTableError, SQLAlchemyError

    url = database_url(source)
    where = url.render_as_string(hide_password=True)
    try:
        engine = _read_only_engine(source)
        try:
            with engine.connect() as connection:
                return [(source.table or "data.query", _select(connection, source, wanted, where))]
        finally:
            engine.dispose()
    except NoSuchTableError as exc:
        raise DataError(
            f"there is no table '{source.table}'", where=where, remedy="Correct data.table in site.toml"
        ) from exc
    except (NoSuchModuleError, ImportError) as exc:
        raise DataError(
            "the driver of this database is not installed", where=where, remedy="Install the driver's package"
        ) from exc
    except SQLAlchemyError as exc:
        raise DataError(
            f"the database refused or cannot be reached: {_first_line(exc)}",
            where=where,
            remedy="Check data.url, the password variable and data.query in site.toml",
        ) from exc


def _read_only_engine(source: DataSource) -> Engine:
    """An engine that cannot write, where the database has such a mode.

    SQLite would create a missing file; opened by `mode=ro` it refuses instead.
    """
    from urllib.parse import quote

    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    url = database_url(source)
    options: dict[str, Any] = {}
    if url.get_backend_name() == "sqlite":
        url = url.set(database=f"file:{quote(str(url.database))}", query={"mode": "ro", "uri": "true"})
    elif url.get_backend_name() == "postgresql":
        options = {"execution_options": {"postgresql_readonly": True}}
    return create_engine(url, poolclass=NullPool, **options)


def _select(connection: Connection, source: DataSource, wanted: dict[str, str], where: str) -> pd.DataFrame:
    import sqlalchemy as sa

    columns = list(dict.fromkeys(wanted.values()))
    statement: sa.Executable
    if source.table is not None:
        schema, _, name = source.table.rpartition(".")
        present = sa.inspect(connection).get_columns(name, schema=schema or None)
        _check_columns(wanted, [str(item["name"]) for item in present], f"{where}, table '{source.table}'")
        table = sa.table(name, *(sa.column(column) for column in columns), schema=schema or None)
        statement = sa.select(table)
    else:
        statement = sa.text(str(source.query))
    result = connection.execute(statement)
    _check_columns(wanted, result.keys(), f"{where}, data.query")
    return _nullable(result.mappings().all(), columns)


def _nullable(rows: Iterable[Any], columns: list[str]) -> pd.DataFrame:
    """Whole numbers stay whole beside NULL, so that a category 1 is not read as 1.0."""
    import pandas as pd

    held = list(rows)
    return pd.DataFrame({name: pd.Series([row[name] for row in held], dtype=object) for name in columns})


def _numbers(frame: pd.DataFrame, column: str, name: str) -> pd.Series[float]:
    """The column as float64; booleans are 0 and 1."""
    import pandas as pd

    values = pd.to_numeric(frame[column], errors="coerce")
    if values.dtype != "float64":  # whole numbers, booleans, or what a nullable column holds
        values = values.astype("Float64").astype("float64")
    unreadable = values.isna().to_numpy()
    if unreadable.any():  # or missing
        unreadable &= frame[column].notna().to_numpy()
    if unreadable.any():
        first = int(unreadable.argmax())
        shown = repr(frame[column].iloc[first])
        raise DataError(
            f"column '{column}' holds {shown}, which is not a number",
            where=locate(frame, first),
            remedy=f"Correct it, add it to data.na_values, or declare '{name}' categorical",
        )
    return values


def _texts(column: pd.Series[Any]) -> pd.Series[Any]:
    """The column as text. A whole number of a decimal column (`2.0`) is `2`."""
    import pandas as pd

    values = [None if missing else _text(value) for value, missing in zip(column, column.isna(), strict=True)]
    return pd.Series(values, index=column.index, dtype=object)


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _first_line(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    return str(cause).strip().partition("\n")[0]
