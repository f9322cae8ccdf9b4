"""Where noise comes from: the operating system's cryptographic generator.

Every call takes a fresh 256-bit key from `os.urandom` and stretches it with AES in
counter mode, as system generators do within; no state lasts from one call to the
next. Nobody who sees some noise can predict other noise, and no two sites, calls
or forked processes can share a stream. Two normal numbers are made from two 64-bit
words (Box and Muller, 1958). A seeded generator exists for runs that are marked
"not private" alone.

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

What is left between the drawn and the exact normal: tails that end at about 8.6
standard deviations (probability below 1e-16 a draw), and the 53-bit grid of the
uniform numbers behind them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

__all__ = ["NoNoise", "NormalSource", "SystemNoise", "add_noise", "deviation_for", "grid_of", "noisy"]

_AT_ONCE = 32_768
"""Numbers that noise is added to at once, which with what they need fit the processor's cache. Two threads
would have to take 131,072 each to be any faster: on less, they wait for the interpreter's lock."""


class NormalSource(Protocol):
    """Makes normal numbers."""

    def normal(self, shape: tuple[int, ...], deviation: float) -> npt.NDArray[np.float64]:
        """Independent normal numbers of mean 0 and the given standard deviation."""
        ...


class SystemNoise:
    """Normal numbers from the operating system's entropy."""

    def normal(self, shape: tuple[int, ...], deviation: float) -> npt.NDArray[np.float64]:
        """Independent normal numbers of mean 0 and the given standard deviation."""
        size = math.prod(shape)
        pairs = (size + 1) // 2
        words = _words(2 * pairs)
        drawn = words.astype(np.float64)
        length, tangent = drawn[:pairs], drawn[pairs:]
        length += 0.5
        length *= 2.0**-53
        np.log(length, out=length)
        length *= -2.0 * deviation**2
        np.sqrt(length, out=length)  # deviation · √(-2 log uniform)
        tangent -= 2.0**52 - 0.5
        tangent *= np.pi * 2.0**-53
        np.tan(tangent, out=tangent)  # of half the angle: it gives sine and cosine
        twice = words.view(np.float64)[:pairs]  # in the words' place: they are used up
        np.multiply(tangent, tangent, out=twice)
        twice += 1.0
        twice *= 0.5
        np.divide(length, twice, out=twice)  # 2 · length / (1 + tangent²)
        np.subtract(twice, length, out=length)  # length · cosine
        tangent *= twice  # length · sine
        return drawn[:size].reshape(shape)


class NoNoise:
    """Zeros: for runs that are marked "not private" all the way into the passport."""

    def normal(self, shape: tuple[int, ...], deviation: float) -> npt.NDArray[np.float64]:
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
    part in a million.
    """
    if noise_multiplier == 0:
        return 0.0
    step = 2 * grid_of(
        noise_multiplier * sensitivity
    )  # of the result, which is larger by far less than twice
    return noise_multiplier * (sensitivity + step * math.sqrt(size))


def noisy(values: npt.NDArray[np.float64], deviation: float, source: NormalSource) -> npt.NDArray[np.float64]:
    """`values` plus noise of the given standard deviation, both rounded to the noise's grid."""
    released = np.array(values, dtype=np.float64)
    add_noise([released], deviation, source)
    return released


def add_noise(arrays: Iterable[npt.NDArray[Any]], deviation: float, source: NormalSource) -> None:
    """What `noisy` does, in the place of several contiguous arrays of floating-point numbers.

    Small arrays share one call of the source, and large ones are taken in pieces.

    Raises:
        ValueError: an array is not contiguous.
    """
    if deviation == 0:
        return
    for pieces in _pieces(arrays):
        _add_noise_at_once(pieces, deviation, source)


def _add_noise_at_once(pieces: list[npt.NDArray[Any]], deviation: float, source: NormalSource) -> None:
    grid = grid_of(deviation)
    values = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    drawn = source.normal(values.shape, deviation / grid)  # a power of two: the division is exact
    np.rint(drawn, out=drawn)
    steps = np.multiply(values, 1 / grid, dtype=np.float64)
    np.rint(steps, out=steps)
    drawn += steps
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


def _words(count: int) -> npt.NDArray[np.uint64]:
    """Random integers of 53 bits."""
    # the key is used once, so that the counter may start at 0
    stream = Cipher(AES256(os.urandom(32)), CTR(bytes(16))).encryptor()
    buffer = bytearray(8 * count + 15)  # room for the cipher's block, as it asks
    stream.update_into(bytes(8 * count), buffer)
    words = np.frombuffer(buffer, dtype=np.uint64, count=count)
    words >>= np.uint64(11)
    return words
