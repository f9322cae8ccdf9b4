"""Bounding how many rows one person contributes, so that a person can be the privacy unit."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from contract.experiment import Privacy

if TYPE_CHECKING:
    from clients.rows.rows import Rows

__all__ = ["limited", "numbered", "rows_within_limit"]


def limited(rows: Rows, privacy: Privacy) -> Rows:
    """Where a person is the privacy unit: at most `rows_per_person` rows of each; of nobody's rows none."""
    if privacy.unit == "record" or rows.person is None:
        return rows
    named = rows.chosen(np.fromiter((name is not None for name in rows.person), np.bool_, len(rows)))
    assert named.person is not None  # as above  # noqa: S101
    return named.chosen(rows_within_limit(numbered(named.person), privacy.rows_per_person))


def numbered(names: npt.NDArray[np.object_]) -> npt.NDArray[np.int64]:
    """A number for each name. numpy's own texts would take two for one that differ in their end."""
    numbers: dict[object, int] = {}
    return np.fromiter(
        (numbers.setdefault(name, len(numbers)) for name in names), dtype=np.int64, count=len(names)
    )


def rows_within_limit(person: npt.NDArray[Any], most: int) -> npt.NDArray[np.intp]:
    """Positions of at most `most` rows of each person, in order.

    Which rows of a person stay is drawn by the system's generator, from that
    person's rows alone: other persons' rows change nothing.

    Args:
        person: whose row it is, shape (rows,).
        most: the experiment's `rows_per_person`.
    """
    order = np.random.default_rng(secrets.randbits(128)).permutation(len(person))
    grouped = order[np.argsort(person[order], kind="stable")]
    _, starts, lengths = np.unique(person[grouped], return_index=True, return_counts=True)
    rank = np.arange(len(grouped)) - np.repeat(starts, lengths)
    return np.sort(grouped[rank < most])
