"""A row gets the same numbers whichever rows are beside it: calls of one shape, on one thread.

A library multiplies most rows of a matrix by one program and the few that are left over at its end by
another, which adds in another order; it chooses the program by the number of rows, and the order in a row by
where in memory it lies; and it cuts what is long between its threads, where each part has an end of its own.
So a row more or less may change the last bits of other rows, and a model made for it can turn last bits into
anything: it subtracts large numbers that are equal but for rounding, and multiplies what is left with 1e30.
Measured: with four threads, MKL takes another program from 128 rows on, and one row more turned the clipped
gradients of all others (136 clipping norms); with two threads, a sigmoid of 32,769 numbers differs from one
of 32,768 in sixteen; and in every third shape of a small model a row that moves up by one place gets other
bits (15 to 25 clipping norms).

So every call has exactly as many rows as public facts say (`block_rows`), rows of zeros after the true ones,
and runs on one thread (`one_thread`); more rows are more calls, side by side on threads of our own; and MKL
runs in its strict mode of reproducible results (`clients.mechanisms`). Then a row's numbers depend neither on
how many others there are nor on its place among them. `tests/clients/mechanisms/test_blocks.py` holds the
installed libraries to that, bit by bit, and each site tries it for a model's own shapes
(`clients.mechanisms.places`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["BLOCK", "MOST_ROWS", "block_rows", "in_blocks", "one_thread"]

BLOCK = 32
"""Rows; a multiple of what any processor's registers take at once."""
MOST_ROWS = 4096
"""Rows of which gradients are held at once; a larger batch is summed in parts."""
_LARGE = 100_000
"""Parameters from which a call is long enough to be worth a thread of its own."""


def block_rows(expected: int, parameters: int) -> int:
    """How many rows each call has: a power of two, by the batch that public facts say to expect.

    Args:
        expected: the stated rows times the sampling rate.
        parameters: of the model.

    >>> block_rows(60, 5), block_rows(256, 5), block_rows(256, 10**6), block_rows(10**6, 5)
    (64, 256, 128, 4096)
    """
    wanted = min(expected / 2 if parameters >= _LARGE else expected, MOST_ROWS)
    rows = BLOCK
    while rows < wanted:
        rows *= 2
    return rows


def in_blocks(inputs: Tensor, rows: int = BLOCK) -> Tensor:
    """The rows, and rows of zeros after them up to a whole number of blocks, at least one.

    Args:
        inputs: the first dimension is that of the rows.
        rows: of a block.
    """
    missing = -len(inputs) % rows if len(inputs) else rows
    return inputs if not missing else torch.cat([inputs, inputs.new_zeros(missing, *inputs.shape[1:])])


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it, no call of this thread is cut between threads, nor any of threads that begin within it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
