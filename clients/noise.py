"""Where noise comes from: the operating system's cryptographic generator.

Every call takes a fresh 256-bit key from `os.urandom` and stretches it with AES in
counter mode, as system generators do within; no state lasts from one call to the
next. Nobody who sees some noise can predict other noise, and no two sites, calls
or forked processes can share a stream. Two normal numbers are made from two 64-bit
words (Box and Muller, 1958). A seeded generator exists for runs that are marked
"not private" alone.

The 53-bit grid cuts the tails at about 8.6 standard deviations (probability
below 1e-16 a draw). Floating-point noise leaves a known theoretical weakness in
its low bits (Mironov, 2012); values are therefore rounded to a fixed grid of
2^-20 standard deviations after adding, which is post-processing of the sum and
takes the low bits away from both.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["NoNoise", "NormalSource", "SystemNoise", "add_noise", "noisy"]

_AT_ONCE = 16_000
"""Numbers that noise is added to at once. They fit the processor's cache, and take less than the 128 KiB from
which on the allocator asks the system for pages each time, which was three times as slow."""


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
        length = words[:pairs].astype(np.float64)  # becomes deviation · √(-2 log uniform)
        length += 0.5
        length *= 2.0**-53
        np.log(length, out=length)
        length *= -2.0 * deviation**2
        np.sqrt(length, out=length)
        tangent = words[pairs:].astype(np.float64)  # of half the angle: it gives sine and cosine
        tangent -= 2.0**52 - 0.5
        tangent *= np.pi * 2.0**-53
        np.tan(tangent, out=tangent)
        twice = tangent * tangent  # becomes 2 · length / (1 + tangent²)
        twice += 1.0
        twice *= 0.5
        np.divide(length, twice, out=twice)
        drawn = np.empty(2 * pairs)
        np.subtract(twice, length, out=drawn[:pairs])  # length · cosine
        np.multiply(twice, tangent, out=drawn[pairs:])  # length · sine
        return drawn[:size].reshape(shape)


class NoNoise:
    """Zeros: for runs that are marked "not private" all the way into the passport."""

    def normal(self, shape: tuple[int, ...], deviation: float) -> npt.NDArray[np.float64]:
        """Zeros."""
        return np.zeros(shape)


def noisy(values: npt.NDArray[np.float64], deviation: float, source: NormalSource) -> npt.NDArray[np.float64]:
    """`values` plus noise of the given standard deviation, rounded to the noise's grid."""
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
    ends = list(itertools.accumulate(piece.size for piece in pieces))
    drawn = source.normal((ends[-1],), deviation)
    places = [drawn[end - piece.size : end] for piece, end in zip(pieces, ends, strict=True)]
    for place, piece in zip(places, pieces, strict=True):
        np.add(place, piece, out=place)
    grid = deviation * 2.0**-20
    drawn /= grid
    np.rint(drawn, out=drawn)
    drawn *= grid
    for place, piece in zip(places, pieces, strict=True):
        piece[:] = place


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
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import AES256
    from cryptography.hazmat.primitives.ciphers.modes import CTR

    # the key is used once, so that the counter may start at 0
    stream = Cipher(AES256(os.urandom(32)), CTR(bytes(16))).encryptor()
    buffer = bytearray(8 * count + 15)  # room for the cipher's block, as it asks
    stream.update_into(bytes(8 * count), buffer)
    words = np.frombuffer(buffer, dtype=np.uint64, count=count)
    words >>= np.uint64(11)
    return words
