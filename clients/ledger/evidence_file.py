"""The form of an evidence file, and its reading. What it must show is in `clients.ledger.evidence`.

One JSON object of three members:

    statement   what the site states: its name, the cap, how many entries its ledger has,
                the hash of the last one (the head), ε by block, its public key, the time
    signature   ECDSA with SHA-384 by the site's node key over the statement's canonical
                JSON, DER in base64
    entries     every entry, with what its hash covers

Canonical JSON: members sorted by name, no white space, other than ASCII escaped, numbers
in Python's shortest form, neither NaN nor infinity (an ε without a bound is null). The
entries need no signature of their own: each carries the hash of the one before, and the
head is signed. An entry's hash is the SHA-256 of the JSON list [hash before, sequence,
kind, plan, request, body], written as Python's `json.dumps` does, with the body in it as
the JSON text of `json.dumps(body, sort_keys=True)`. The hash before the first is 64 zeros.
"""

from __future__ import annotations

import base64
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clients.keys import PublicKey, read_bytes
from clients.ledger.chain import Cap, Entry
from contract.errors import InputError

__all__ = ["FORMAT", "LEDGER_VERSION", "Evidence", "StatedTotal", "Statement", "canonical", "read_evidence"]

FORMAT = "tidegate-evidence/1"
LEDGER_VERSION = 1
"""The ledger's format whose entries are hashed as said above."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class _Cap(_Strict):
    epsilon: Annotated[float, Field(gt=0)]
    delta: Annotated[float, Field(gt=0, lt=1)]


class _Figure(_Strict):
    epsilon: float | None
    method: str

    @property
    def bound(self) -> float:
        return math.inf if self.epsilon is None else self.epsilon


class StatedTotal(_Strict):
    """ε of one block, as the site states it (`clients.ledger.replay.BlockTotal.as_dict`)."""

    block: str
    unit: Literal["record", "person"]
    delta: float
    private: bool
    spent: _Figure
    promised: _Figure


class Statement(_Strict):
    """What the site signs."""

    format: Literal["tidegate-evidence/1"]
    site: str
    ledger_version: int
    cap: _Cap
    entries: int
    head: str
    totals: tuple[StatedTotal, ...]
    public_key: str
    made: str
    program: str


class _Entry(_Strict):
    sequence: int
    kind: Literal["authorise", "reserve", "commit", "close"]
    plan: str
    request: str
    body: dict[str, Any]
    hash: str


class _File(_Strict):
    statement: Statement
    signature: str
    entries: tuple[_Entry, ...]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """An evidence file, read and not yet checked.

    Attributes:
        where: the file, for messages.
        signed: the bytes that the signature is over.
        key: the public key that the file itself names.
    """

    where: str
    statement: Statement
    signed: bytes
    signature: bytes
    entries: tuple[Entry, ...]
    key: PublicKey

    @property
    def cap(self) -> Cap:
        """The site's limit on every block when the evidence was made."""
        return Cap(epsilon=self.statement.cap.epsilon, delta=self.statement.cap.delta)


def canonical(value: object) -> bytes:
    """The bytes that are signed: canonical JSON.

    >>> canonical({"b": [1.5, None], "a": "ε"}).decode()
    '{"a":"\\\\u03b5","b":[1.5,null]}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def read_evidence(path: Path) -> Evidence:
    """Read an evidence file, and check nothing but its form.

    Raises:
        InputError: there is no such file, it cannot be read, or it is not evidence.
    """
    content = read_bytes(path, remedy="Ask the site for it: `tidegate site ledger site.toml --export FILE`")
    try:
        return _parsed(content, str(path))
    except ValidationError as exc:
        fault = exc.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise _not_evidence(path, f"{place}: {fault['msg'].lower()}") from exc
    except (ValueError, RecursionError, NotImplementedError, UnsupportedAlgorithm) as exc:
        raise _not_evidence(path, str(exc) or type(exc).__name__) from exc


def _parsed(content: bytes, where: str) -> Evidence:
    values = json.loads(content, object_pairs_hook=_members, parse_constant=_no_number)
    stated = values.get("statement") if isinstance(values, dict) else None
    form = stated.get("format") if isinstance(stated, dict) else None
    if form is not None and form != FORMAT:
        raise ValueError(f"its format is {form!r}, and this program knows {FORMAT!r}")
    file = _File.model_validate_json(content)
    if file.statement.ledger_version != LEDGER_VERSION:
        raise ValueError(
            f"its ledger has format {file.statement.ledger_version}, and this program knows {LEDGER_VERSION}"
        )
    key = serialization.load_ssh_public_key(file.statement.public_key.encode())
    if not isinstance(key, PublicKey):
        raise ValueError("its public key is not an elliptic-curve key")  # noqa: TRY004 - of the file, not of a call
    return Evidence(
        where=where,
        statement=file.statement,
        signed=canonical(stated),
        signature=base64.b64decode(file.signature, validate=True),
        entries=tuple(Entry(**dict(entry)) for entry in file.entries),
        key=key,
    )


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose reader sees what the signature covers.

    Of two members with one name only the last would count, and a control character could
    hide on a terminal what is printed there.
    """
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member of an object is there twice")
    for name, value in pairs:
        texts = [name, *(value if isinstance(value, list) else [value])]
        if any(_CONTROL.search(text) for text in texts if isinstance(text, str)):
            raise ValueError("a text holds a control character")
    return members


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number")


def _not_evidence(path: Path, why: str) -> InputError:
    return InputError(
        f"this is not evidence of a ledger ({why})",
        where=str(path),
        remedy="Name a whole file that `tidegate site ledger site.toml --export FILE` wrote",
    )
