"""Bounding how many rows one person contributes, so that a person can be the privacy unit."""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["rows_within_limit"]


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
