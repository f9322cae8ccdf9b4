"""The form of an evidence file, and its reading. What it must show is in `clients.ledger.evidence`.

A DSSE envelope (`contract.envelope`), signed with the site's node key. Its payload is canonical JSON
by RFC 8785, of type `PAYLOAD`, with two members:

    statement   what the site states: its name, the cap, how many entries its ledger has,
                the hash of the last one (the head), ε by block, its public keys, the time
    entries     every entry, with what its hash covers and its own signature
                (`clients.ledger.entries` says how it is hashed and signed)

So any DSSE library checks the signature, any RFC 8785 library and SHA-256 the chain. An ε without a bound is
null. Of each block the *guaranteed* ε is the cap (null where more was spent before a cap was lowered),
*spent* is what was counted so far, and *promised* what open plans may bring it to.
"""

from __future__ import annotations

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
from clients.ledger.entries import FORMAT as LEDGER_VERSION
from clients.ledger.entries import Entry, Kind, canonical
from clients.ledger.plan import Cap
from contract.envelope import read
from contract.errors import InputError

__all__ = ["FORMAT", "LEDGER_VERSION", "PAYLOAD", "Evidence", "StatedTotal", "Statement", "read_evidence"]

FORMAT = "tidegate-evidence/2"
PAYLOAD = "application/vnd.tidegate.evidence+json"
"""The envelope's type of payload."""

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
    guaranteed: float | None
    spent: _Figure
    promised: _Figure


class Statement(_Strict):
    """What the site signs."""

    format: Literal["tidegate-evidence/2"]
    site: str
    ledger_version: int
    cap: _Cap
    entries: int
    head: str
    totals: tuple[StatedTotal, ...]
    public_key: str
    ledger_key: str
    made: str
    program: str


class _Entry(_Strict):
    sequence: int
    kind: Kind
    plan: str
    request: str
    body: dict[str, Any]
    hash: str
    signature: str


class _Payload(_Strict):
    statement: Statement
    entries: tuple[_Entry, ...]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """An evidence file, read and not yet checked.

    Attributes:
        where: the file, for messages.
        envelope: what the signature is in.
        key: the public key that the file itself names.
    """

    where: str
    envelope: Any
    statement: Statement
    entries: tuple[Entry, ...]
    key: PublicKey

    @property
    def cap(self) -> Cap:
        """The site's limit on every block when the evidence was made."""
        return Cap(epsilon=self.statement.cap.epsilon, delta=self.statement.cap.delta)


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
    except InputError as exc:
        raise _not_evidence(path, exc.what) from exc
    except (ValueError, RecursionError, NotImplementedError, UnsupportedAlgorithm) as exc:
        raise _not_evidence(path, str(exc) or type(exc).__name__) from exc


def _parsed(content: bytes, where: str) -> Evidence:
    envelope = json.loads(content)
    kind, payload_bytes = read(envelope)
    if kind != PAYLOAD:
        raise ValueError(f"it holds {kind!r:.80}, not {PAYLOAD!r}")
    values = json.loads(payload_bytes, object_pairs_hook=_members, parse_constant=_no_number)
    stated = values.get("statement") if isinstance(values, dict) else None
    form = stated.get("format") if isinstance(stated, dict) else None
    if form is not None and form != FORMAT:
        raise ValueError(f"its format is {form!r}, and this program knows {FORMAT!r}")
    payload = _Payload.model_validate_json(payload_bytes)
    if canonical(values) != payload_bytes:
        raise ValueError("it is not in canonical form")
    if payload.statement.ledger_version != LEDGER_VERSION:
        raise ValueError(
            f"its ledger has format {payload.statement.ledger_version}, "
            f"and this program knows {LEDGER_VERSION}"
        )
    key = serialization.load_ssh_public_key(payload.statement.public_key.encode())
    if not isinstance(key, PublicKey):
        raise ValueError("its public key is not an elliptic-curve key")  # noqa: TRY004 - of the file, not of a call
    return Evidence(
        where=where,
        envelope=envelope,
        statement=payload.statement,
        entries=tuple(Entry(**dict(entry)) for entry in payload.entries),
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
