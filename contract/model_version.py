"""The files of a registered model version, and the tags that hold their hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from contract.errors import TidegateError

__all__ = [
    "ARRAYS_FILE",
    "EXPERIMENT_FILE",
    "GRAPH_FILE",
    "HASH_TAGS",
    "PASSPORT_DATA",
    "PASSPORT_FILE",
    "SUMS_FILE",
    "VARIANTS_FILE",
    "require_registered",
    "sha256",
    "sums_of",
]

ARRAYS_FILE = "arrays.npz"
EXPERIMENT_FILE = "experiment.json"
GRAPH_FILE, VARIANTS_FILE = "model.onnx", "variants.json"
"""The model as an ONNX graph with its preprocessing, and what was measured of each of its forms; not every
version has them."""
PASSPORT_FILE, PASSPORT_DATA = "passport.md", "passport.json"
SUMS_FILE = "SHA256SUMS"

HASH_TAGS: Mapping[str, str] = {
    ARRAYS_FILE: "tidegate.arrays_sha256",
    EXPERIMENT_FILE: "tidegate.experiment_sha256",
}
"""Of what a prediction depends on: the tag of a version that has the file's SHA-256."""

_PLAIN = {
    ARRAYS_FILE: "arrays are not those that were",
    EXPERIMENT_FILE: "experiment is not the one that was",
}


def sha256(content: bytes) -> str:
    """The hash in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def sums_of(files: Mapping[str, bytes]) -> str:
    """The text of `SHA256SUMS` for these files, in the form of the program `sha256sum`."""
    return "".join(f"{sha256(content)}  {name}\n" for name, content in files.items())


def require_registered(
    name: str, content: bytes, tags: Mapping[str, str], *, error: type[TidegateError], where: str
) -> None:
    """Refuse a file that is not the one of a version, whose tags these are.

    Raises:
        TidegateError: of the given kind.
    """
    known = tags.get(HASH_TAGS[name])
    if known is None:
        raise error(
            f"the version was registered without a hash of {name}, by an earlier Tidegate",
            where=where,
            remedy="Train it again: what cannot be compared is not used",
        )
    if sha256(content) != known:
        raise error(
            f"the model's {_PLAIN[name]} registered",
            where=where,
            remedy="Do not serve it; restore the artifact or roll back to another version",
        )
