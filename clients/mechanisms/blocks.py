"""A row gets the same numbers whichever rows are beside it: batches of whole blocks of rows.

A library multiplies most rows of a matrix by one program and the few that are left
over at its end by another, which adds in another order. So a row more or less may
change the last bits of up to three other rows, and a model made for it can turn last
bits into anything: it subtracts large numbers that are equal but for rounding, and
multiplies what is left with 1e30. The influence of one row would be that of four.

In a batch that is filled up with rows of zeros to whole blocks no row is left over.
Then a row's numbers depend neither on how many others there are nor on its place among
them. `tests/clients/test_blocks.py` holds the installed libraries to that, bit by bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["BLOCK", "in_blocks"]

BLOCK = 32
"""Rows; a multiple of what any processor's registers take at once."""


def in_blocks(inputs: Tensor) -> Tensor:
    """The rows, and rows of zeros after them up to a whole number of blocks, at least one."""
    missing = -len(inputs) % BLOCK if len(inputs) else BLOCK
    return inputs if not missing else torch.cat([inputs, inputs.new_zeros(missing, *inputs.shape[1:])])
