"""Reads Parquet files. Each value becomes what Python has for it, by itself; what it has not, is missing.

Whether a column can be read at all follows from its type, and so is settled before a row is read.

Facts: pyarrow checks no text for UTF-8 until it becomes a Python one, and dates reach far beyond
Python's; `to_pylist` then fails for the whole column. A dictionary's value fails in its `repr` too.
A zone of time that Python does not know fails as soon as one value is there. pandas would make decimals
of whole numbers beside a missing one, and takes columns into its index.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from clients.rows.parts import Part, dates_for_numbers, require_columns
from contract.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["check_parquet", "parquet_names", "read_parquet"]


def parquet_names(path: Path, *, where: str) -> list[str]:
    """The names of the columns.

    Raises:
        DataError: it is no Parquet file.
    """
    return list(_schema(path, where).names)


def check_parquet(path: Path, wanted: dict[str, str], numeric: set[str], *, where: str) -> None:
    """The schema has the columns, each of a type with one readable value a row, and no dates for numbers.

    Args:
        path: the file.
        wanted: the file's name of each column of the card.
        numeric: the card's names of those that are numeric.
        where: names the site and the file.

    Raises:
        DataError: with what is wrong.
    """
    import pyarrow as pa

    schema = _schema(path, where)
    require_columns(list(schema.names), wanted, where=where)
    for column in wanted.values():
        if not _is_readable(schema.field(column).type):
            raise DataError(
                f"column '{column}' is of the type {schema.field(column).type}, which cannot be read here",
                where=where,
                remedy="Deliver numbers, texts or times of a known zone, one a row, or take it off the card",
            )
    for name in numeric:
        if pa.types.is_temporal(schema.field(wanted[name]).type):
            raise dates_for_numbers(wanted[name], where=where)


def read_parquet(path: Path, wanted: dict[str, str], numeric: set[str], *, where: str) -> Part:
    """Every row.

    Raises:
        DataError: the file is broken, or has not the columns.
    """
    import pandas as pd
    from pyarrow import parquet

    require_columns(parquet_names(path, where=where), wanted, where=where)
    with _unbroken(where), parquet.ParquetFile(path) as file:
        table = file.read(columns=list(dict.fromkeys(wanted.values())))
    columns = {
        name: _numbers(table.column(column)) if name in numeric else _objects(table.column(column))
        for name, column in wanted.items()
    }
    return Part(name=str(path), frame=pd.DataFrame(columns))


def _schema(path: Path, where: str) -> pa.Schema:
    from pyarrow import parquet

    with _unbroken(where):
        return parquet.read_schema(path)


@contextmanager
def _unbroken(where: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except pa.ArrowException as exc:
        raise DataError("not a Parquet file, or a broken one", where=where, remedy="Write it again") from exc


def _numbers(column: pa.ChunkedArray[Any]) -> npt.NDArray[Any]:
    """As float64 where the type is a number's; else as they are."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_float32(kind) or pa.types.is_float64(kind):
        return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)
    return _objects(column)


def _is_readable(kind: pa.DataType) -> bool:
    """Whether a value of that type is one value, which Python has a type for."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _is_readable(kind.value_type)
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return _is_zone(kind.tz)
    if pa.types.is_temporal(kind):
        return not pa.types.is_interval(kind)
    return any(
        of_kind(kind)
        for of_kind in (
            pa.types.is_null,
            pa.types.is_boolean,
            pa.types.is_integer,
            pa.types.is_floating,
            pa.types.is_decimal,
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_string_view,
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_fixed_size_binary,
            pa.types.is_binary_view,
        )
    )


def _is_zone(name: str) -> bool:
    import pyarrow as pa

    try:
        pa.scalar(0, pa.timestamp("us", tz=name)).as_py()
    except Exception:  # whatever pyarrow and the zones' library raise for a name
        return False
    return True


def _objects(column: pa.ChunkedArray[Any]) -> npt.NDArray[np.object_]:
    found = np.empty(len(column), dtype=object)
    try:
        found[:] = column.to_pylist()
    except Exception:  # one value that Python has not: each by itself
        for place, value in enumerate(column):
            found[place] = _object(value)
    return _as_written(found, column.type)


def _as_written(values: npt.NDArray[np.object_], kind: pa.DataType) -> npt.NDArray[np.object_]:
    """Short floats of their own type, which says how large a whole number they hold exactly."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_float16(kind) or pa.types.is_float32(kind):
        short = np.float16 if pa.types.is_float16(kind) else np.float32
        values[:] = [None if value is None else short(value) for value in values]
    return values


def _object(value: pa.Scalar[Any]) -> object:
    """What Python has for it, the bytes of a text that is no UTF-8, or None.

    It raises nothing, whatever pyarrow does: a reply that fails for one row's value tells of that row.
    """
    import pyarrow as pa

    with suppress(Exception):
        return value.as_py()
    try:
        plain: Any = value.value if isinstance(value, pa.DictionaryScalar) else value
        return plain.as_buffer().to_pybytes()
    except Exception:  # such as a date beyond Python's, which has no bytes
        return None
