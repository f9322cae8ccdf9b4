"""The entries of a ledger: their form, their hashes and signatures. The file that holds them is elsewhere.

An entry's hash is the SHA-256 of the JSON list [hash of the one before, sequence, kind, plan, request,
body], canonical by RFC 8785, with the body in it as its own canonical JSON text. The hash before the
first is 64 zeros. A site with a key signs `tidegate-ledger-entry/2`, a line feed and the hash.

    authorise   a plan: what a run may do to which blocks       body: the plan
    reserve     one use of it, for a request                    before anything is computed; body: the
                number of the approval, where one was needed,
                                                                and the digest of the mandate, where one came
    commit      the reply to the request                        body: what it held, its size and SHA-256
    close       another run's plan has ended this one
    expire      the plan's replies were removed; their hashes stay
    refuse      a request was refused                           body: the word
    approve     the administrator approved an experiment        body: what of it, and until when
    decline     the administrator declined one, until an approval comes
    revoke      the approvals of an experiment ended; it is declined
    reopen      what was declined or revoked may ask again
    restore     the file was put back from a backup             body: what is known of what was lost

Every body has the time, `at`, and 128 random bits, `salt`: the server is told the hash of the last entry and
knows all else that is in it, so it would find the time, and with it how long a site computed, by trying.
Entries of earlier versions have no salt.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import rfc8785

from clients.keys import Signer, verifies

__all__ = [
    "FIRST_HASH",
    "FORMAT",
    "OF_ALL",
    "BrokenChainError",
    "Entry",
    "Kind",
    "Row",
    "canonical",
    "entry_hash",
    "is_signed",
    "keys_in_force",
    "sealed",
    "signed_bytes",
    "stamped",
    "walk",
]

Kind = Literal[
    "authorise",
    "reserve",
    "commit",
    "close",
    "expire",
    "refuse",
    "restore",
    "approve",
    "decline",
    "revoke",
    "reopen",
]

FORMAT = 2
"""Version of the file's form, and of what is hashed and signed."""

FIRST_HASH = "0" * 64
"""What the first entry carries as the hash of the one before."""

OF_ALL = frozenset({"at", "salt"})
"""What a body of any kind holds beside its own."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the ledger; `signature` is base64, empty in a ledger without a key."""

    sequence: int
    kind: Kind
    plan: str
    request: str
    body: Mapping[str, Any]
    hash: str
    signature: str = ""


class Row(Protocol):
    """An entry as the file holds it."""

    sequence: int
    kind: str
    plan: str
    request: str
    body: str
    hash: str
    signature: str


class BrokenChainError(ValueError):
    """An entry does not follow from the one before; the message names it."""


def canonical(value: Any) -> bytes:
    """Canonical JSON by RFC 8785: one text for one value, in any language.

    >>> canonical({"b": [1.50, None], "a": "ε"}).decode()
    '{"a":"ε","b":[1.5,null]}'

    Raises:
        ValueError: the value has no such form.
    """
    return rfc8785.dumps(value)


def entry_hash(previous: str, sequence: int, kind: str, plan: str, request: str, body: str) -> str:
    """The hash that an entry carries; `body` is its JSON text, byte for byte."""
    return hashlib.sha256(canonical([previous, sequence, kind, plan, request, body])).hexdigest()


def signed_bytes(hash_: str) -> bytes:
    """What a signature of an entry is over."""
    return b"tidegate-ledger-entry/2\n" + hash_.encode()


def stamped(body: Mapping[str, Any], at: str) -> dict[str, Any]:
    """The body of a new entry: with the time, and with what nobody can guess."""
    return {**body, "at": at, "salt": secrets.token_hex(16)}


def sealed(
    previous: str,
    sequence: int,
    kind: Kind,
    plan: str,
    request: str,
    body: Mapping[str, Any],
    signer: Signer | None,
) -> dict[str, Any]:
    """The columns of a new entry, hashed and signed."""
    text = canonical(body).decode()
    digest = entry_hash(previous, sequence, kind, plan, request, text)
    signature = "" if signer is None else base64.b64encode(signer.sign(signed_bytes(digest))).decode()
    return {
        "sequence": sequence,
        "kind": kind,
        "plan": plan,
        "request": request,
        "body": text,
        "hash": digest,
        "signature": signature,
    }


def walk(rows: Iterable[Row], *, after: int = 0, hash_before: str = FIRST_HASH) -> Iterator[Entry]:
    """The entries of these rows, each checked to follow from the one before.

    Raises:
        BrokenChainError: one does not.
    """
    for position, row in enumerate(rows, start=after + 1):
        try:
            expected = entry_hash(hash_before, position, row.kind, row.plan, row.request, row.body)
            body = json.loads(row.body)
        except (TypeError, ValueError, RecursionError, AttributeError) as exc:
            raise BrokenChainError(f"entry {position}") from exc
        whole = row.kind in get_args(Kind) and type(body) is dict and type(row.signature) is str
        if row.sequence != position or row.hash != expected or not whole:
            raise BrokenChainError(f"entry {position}")
        yield Entry(
            sequence=position,
            kind=row.kind,  # type: ignore[arg-type]  # one of them: see above
            plan=row.plan,
            request=row.request,
            body=body,
            hash=expected,
            signature=row.signature,
        )
        hash_before = expected


def keys_in_force(entries: Iterable[Entry], key: str) -> Iterator[tuple[Entry, str]]:
    """Each entry with the public key that signs it: the file's first, and from a restore on that entry's."""
    for entry in entries:
        if entry.kind == "restore":
            key = str(entry.body.get("key", ""))
        yield entry, key


def is_signed(entry: Entry, key: str) -> bool:
    """Whether the signature is the key's; an empty key signs nothing."""
    if not key:
        return entry.signature == ""
    try:
        signature = base64.b64decode(entry.signature, validate=True)
    except ValueError:
        return False
    return verifies(key, signature, signed_bytes(entry.hash))
