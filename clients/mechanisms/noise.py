"""Noise: normal numbers from the operating system's generator, on a grid.

The random bits are those of `clients.mechanisms.entropy`, fresh in each call. Two
normal numbers are made from two 64-bit words (Box and Muller, 1958). A seeded
generator exists for runs that are marked "not private" alone.

A release is a whole number of steps of a grid (`grid_of`, a power of two): the value
is rounded to the grid *first*, the noise is rounded to it too, and whole numbers are
added, which no rounding spoils. For a value that lies on the grid this is the same as
adding a real normal number and rounding the sum, so that the exact Gaussian's
guarantee carries over by post-processing; and which numbers can come out does not
depend on the value, where the low bits of a plain floating-point sum give it away
(Mironov, 2012). Counts lie on every grid here. Other values are moved by rounding,
which `deviation_for` covers with noise. A discrete Gaussian (Canonne, Kamath and
Steinke, 2020) would do as well for counts, but has no exact composition theorem with
the Gaussian of the gradients; this has the same one.

What is left between the drawn and the exact normal: the uniform numbers behind it, which are right to one
part in 2^32 at least, however small they are. Numbers below 2^-20, from which the tails come, are drawn anew
within their cell of 52 bits, and so on: otherwise no number would be longer than 8.57 standard deviations,
and a value that moves by μ of them would show with probability Φ(μ - 8.57), whatever ε and δ say.
"""

from __future__ import annotations

import functools
import math
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from clients.mechanisms.entropy import buffer_size, random_words
from clients.mechanisms.processors import processors
from contract.errors import InputError

__all__ = [
    "NoNoise",
    "NormalSource",
    "SystemNoise",
    "add_noise",
    "deviation_for",
    "grid_of",
    "noisy",
    "require_deviation",
]

Floats = npt.NDArray[np.float64]

_AT_ONCE = 131_072
"""Numbers that noise is added to at once: enough that two threads seldom wait for each other at the
interpreter's lock. On a quarter of it they are no faster than one."""

_SMALL = 2.0**-20
"""A uniform number below which its 52 bits are too few."""
_MOST_CELLS = 10
"""One within the other: fewer than one number in 2^200 lies in more."""

_LEAST, _MOST = 1e-30, 1e30
"""Between which a deviation must be: far within what has a grid in double precision."""


class NormalSource(Protocol):
    """Makes normal numbers; several threads may ask at once."""

    def normal(self, shape: tuple[int, ...], deviation: float) -> Floats:
        """Independent normal numbers of mean 0 and the given standard deviation."""
        ...


class Room:
    """Memory that a thread makes normal numbers in: new memory for each piece costs as much as the rest."""

    def __init__(self, size: int) -> None:
        self.words = bytearray(buffer_size(size + size % 2))
        self.half = np.empty((size + 1) // 2)


class SystemNoise:
    """Normal numbers from the operating system's entropy."""

    def normal(self, shape: tuple[int, ...], deviation: float, room: Room | None = None) -> Floats:
        """Independent normal numbers of mean 0 and the given standard deviation.

        With a room, they lie in it until it is used again.
        """
        size = math.prod(shape)
        pairs = (size + 1) // 2
        room = Room(size) if room is None else room
        drawn = _uniform(2 * pairs, room.words)
        length, tangent, twice = drawn[:pairs], drawn[pairs:], room.half[:pairs]
        length -= 1 - 2.0**-53  # odd multiples of 2^-53 between 0 and 1
        for place in np.flatnonzero(length < _SMALL):
            length[place] = _refined(length[place])
        np.log(length, out=length)
        length *= -2.0 * deviation**2
        np.sqrt(length, out=length)  # deviation · √(-2 log uniform)
        tangent -= 1.5  # between -1/2 and 1/2
        tangent *= np.pi
        _tangents()(tangent)  # of half the angle: it gives sine and cosine
        np.multiply(tangent, tangent, out=twice)
        twice += 1.0
        np.divide(length, twice, out=twice)
        twice += twice  # 2 · length / (1 + tangent²)
        np.subtract(twice, length, out=length)  # length · cosine
        tangent *= twice  # length · sine
        return drawn[:size].reshape(shape)


class NoNoise:
    """Zeros: for runs that are marked "not private" all the way into the passport."""

    def normal(self, shape: tuple[int, ...], deviation: float) -> Floats:
        """Zeros."""
        return np.zeros(shape)


def grid_of(deviation: float) -> float:
    """The step of the grid of releases with noise of this deviation: between 2^-31 and 2^-30 of it.

    Never more than 2^-20, so that counts, and what is a multiple of that, lie on every grid.
    """
    return math.ldexp(1.0, min(math.frexp(deviation)[1] - 31, -20))


def deviation_for(noise_multiplier: float, sensitivity: float, size: int) -> float:
    """The deviation that gives `size` numbers of any value the noise multiplier after rounding.

    Rounding adds the grid's step times √size to the L2 sensitivity at most: for a million numbers one
    part in a million. The grid is that of the result: a larger result may have a coarser one, up to the
    coarsest that there is.
    """
    covered, grid = noise_multiplier * sensitivity, 0.0
    while noise_multiplier and grid != grid_of(covered):
        grid = grid_of(covered)
        covered = noise_multiplier * (sensitivity + grid * math.sqrt(size))
    return covered


def require_deviation(deviation: float, source: NormalSource) -> None:
    """Refuse noise that is none: a mechanism asks before it sees a row.

    Raises:
        InputError: the deviation is not a number that noise can have; 0 goes with `NoNoise` alone.
    """
    if isinstance(source, NoNoise) and deviation == 0:
        return
    if not _LEAST <= deviation <= _MOST:
        raise InputError(
            f"noise cannot have a standard deviation of {deviation}",
            where="the noise multiplier",
            remedy=f"It must lie between {_LEAST:g} and {_MOST:g}",
        )


def noisy(values: Floats, deviation: float, source: NormalSource) -> Floats:
    """`values` plus noise of the given standard deviation, both rounded to the noise's grid."""
    released = np.array(values, dtype=np.float64)
    add_noise([released], deviation, source)
    return released


def add_noise(arrays: Iterable[npt.NDArray[Any]], deviation: float, source: NormalSource) -> None:
    """What `noisy` does, in the place of several contiguous arrays of floating-point numbers.

    Small arrays share one call of the source, and large ones are taken in pieces, on all processors.

    Raises:
        ValueError: an array is not contiguous.
        InputError: the deviation is not one.
    """
    require_deviation(deviation, source)
    if deviation == 0:
        return
    pieces = deque(_pieces(arrays))
    work = functools.partial(_add_noise_to, pieces, deviation=deviation, source=source)
    threads = min(len(pieces), processors())
    if threads < 2:
        work()
        return
    # threads of this call alone: a pool that lasted would not survive a fork
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work) for _ in range(threads)]:
            done.result()


def _add_noise_to(pieces: deque[list[npt.NDArray[Any]]], *, deviation: float, source: NormalSource) -> None:
    """Take pieces from the front until there are none: what each thread does, with memory of its own."""
    room: Room | None = None
    while True:
        try:
            piece = pieces.popleft()
        except IndexError:
            return
        room = Room(sum(array.size for array in piece)) if room is None else room
        _add_noise_at_once(piece, deviation, source, room)


def _add_noise_at_once(
    pieces: list[npt.NDArray[Any]], deviation: float, source: NormalSource, room: Room
) -> None:
    grid = grid_of(deviation)
    values = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    scale = deviation / grid  # a power of two: the division is exact
    if isinstance(source, SystemNoise):
        drawn = source.normal(values.shape, scale, room)
    else:
        drawn = source.normal(values.shape, scale)
    np.rint(drawn, out=drawn)
    for begin in range(0, values.size, room.half.size):
        end = begin + room.half.size
        some = values[begin:end]
        steps = np.multiply(some, 1 / grid, out=room.half[: some.size], dtype=np.float64)
        np.rint(steps, out=steps)
        drawn[begin:end] += steps
    drawn *= grid
    end = 0
    for piece in pieces:
        piece[:] = drawn[end : (end := end + piece.size)]


def _pieces(arrays: Iterable[npt.NDArray[Any]]) -> Iterator[list[npt.NDArray[Any]]]:
    """Flat views of the arrays, in lists of `_AT_ONCE` numbers at most."""
    held: list[npt.NDArray[Any]] = []
    room = _AT_ONCE
    for array in arrays:
        if not array.flags.c_contiguous:  # the noise would be added to a copy
            raise ValueError("noise is added in place to contiguous arrays")
        flat = array.reshape(-1)
        while flat.size:
            held.append(flat[:room])
            flat, room = flat[room:], room - held[-1].size
            if not room:
                yield held
                held, room = [], _AT_ONCE
    if held:
        yield held


def _uniform(count: int, buffer: bytearray) -> Floats:
    """Numbers 1 + k · 2^-52, k uniform between 0 and 2^52: random bits behind the exponent of 1."""
    words = random_words(count, buffer)
    words >>= np.uint64(12)
    words |= np.uint64(0x3FF << 52)
    return words.view(np.float64)


def _refined(middle: float) -> float:
    """A uniform number within the cell of 2^-52 whose middle was drawn, to as many places as a double has."""
    low, cell, within = middle - 2.0**-53, 2.0**-52, 0.0
    for _ in range(_MOST_CELLS):
        (drawn,) = _uniform(1, bytearray(buffer_size(1)))
        within = float(drawn) - (1 - 2.0**-53)
        if within >= _SMALL:
            break
        low += cell * (within - 2.0**-53)
        cell *= 2.0**-52
    return low + cell * within


def _tangents() -> Callable[[Floats], object]:
    """What puts tangents in the place of angles, by the quickest way.

    numpy's takes five times as long where it has none for the processor's wide registers; torch, if it is
    loaded, has one for narrower ones too.
    """
    return _by_numpy if _numpy_is_wide() or "torch" not in sys.modules else _by_torch


def _by_numpy(angles: Floats) -> None:
    np.tan(angles, out=angles)


def _by_torch(angles: Floats) -> None:
    import torch

    torch.from_numpy(angles).tan_()


@functools.cache
def _numpy_is_wide() -> bool:
    """Whether numpy has a tangent of doubles for this processor, not the one for all."""
    from numpy.lib.introspect import opt_func_info

    found = opt_func_info(func_name="^tan$", signature="float64").get("tan", {})
    return bool(found) and all(not kind["current"].startswith("baseline") for kind in found.values())
