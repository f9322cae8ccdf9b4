"""Where all randomness of a private run comes from: the operating system's cryptographic generator.

Every call takes a fresh 256-bit key from `os.urandom` and stretches it with AES in
counter mode, as system generators do within; no state lasts from one call to the
next. Nobody who sees some numbers can predict others, and no two sites, calls or
forked processes can share a stream.
"""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

__all__ = ["buffer_size", "random_words"]

_ZEROS = memoryview(bytes(2**20))
"""What is encrypted, a piece at a time."""


def random_words(count: int, buffer: bytearray | None = None) -> npt.NDArray[np.uint64]:
    """Independent uniform integers of 64 bits.

    Args:
        count: how many.
        buffer: memory to write them to, of `buffer_size(count)` bytes at least; new memory without.
    """
    # the key is used once, so that the counter may start at 0
    stream = Cipher(AES256(os.urandom(32)), CTR(bytes(16))).encryptor()
    buffer = bytearray(buffer_size(count)) if buffer is None else buffer
    view = memoryview(buffer)
    for begin in range(0, 8 * count, len(_ZEROS)):
        stream.update_into(_ZEROS[: 8 * count - begin], view[begin:])
    return np.frombuffer(buffer, dtype=np.uint64, count=count)


def buffer_size(count: int) -> int:
    """The bytes of so many words, and room for the cipher's block, as it asks."""
    return 8 * count + 15
