"""What an entry of the ledger may hold, and in which order entries may come.

Evidence takes a ledger's entries out of the site. They hold no row and nothing
computed from rows; this list of fields says what they hold instead, and an entry
with another one is refused. A chain of hashes shows only that entries were not
changed; that they are such as a ledger writes is checked here too: nothing is
committed without a charge, and no plan is made cheaper after it was used.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import fields
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from clients.ledger.entries import OF_ALL, Entry
from clients.ledger.plan import Plan, Purpose
from contract.errors import InputError, LedgerError, RefusalCode
from contract.names import Digest, ExperimentName, WindowName

__all__ = ["require_sound"]

Word = Annotated[str, Field(max_length=500)]


class _Body(BaseModel):
    """Of `close` and `expire`: what every body has, alone."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    at: Word
    salt: Annotated[str, Field(pattern="^[0-9a-f]{32}$")] = ""


class _Reserve(_Body):
    """The number of the approval that it rests on, and the mandate's digest; where there was one."""

    approval: Annotated[int, Field(ge=1)] | None = None
    mandate: Digest | None = None


class _Commit(_Body):
    """What left, by name, with its size and SHA-256; never what it held."""

    releases: tuple[Word, ...] = ()
    experiment: Word = ""
    mandate: Digest | None = None
    private: bool = True
    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Refuse(_Body):
    """That a request was refused, with the one word that the server was told."""

    word: Annotated[str, Field(pattern=f"^({'|'.join(sorted(RefusalCode.ALL))})$")]


class _Place(BaseModel):
    """How long a ledger was, and the hash of its last entry."""

    model_config = ConfigDict(extra="forbid", strict=True)

    entries: Annotated[int, Field(ge=0)]
    head: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Restore(_Body):
    """What the backup held, how far the lost ledger had come if that is known, which windows had rows.

    And by which split the windows are meant; entries of earlier versions do not say so.
    """

    backup: _Place
    lost: _Place | None
    windows: tuple[Word, ...] | None
    split: Word | None = None
    key: Word


class _Approve(_Body):
    """What an approval covers: see `clients.ledger.approvals.Terms`."""

    experiment: Digest
    name: ExperimentName
    code: Digest
    epsilon: Annotated[float, Field(gt=0)] | None
    delta: Annotated[float, Field(gt=0, lt=1)]
    windows: Annotated[tuple[WindowName | Literal["*"], ...], Field(min_length=1)] | None
    purposes: Annotated[tuple[Purpose, ...], Field(min_length=1)]
    until: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,15}\+00:00$")] | None
    runs: Annotated[int, Field(ge=1)] | None


class _Forbid(_Body):
    """Of `decline`, `revoke` and `reopen`: the digest, and the administrator's own words."""

    experiment: Digest
    reason: Word


_BODIES: dict[str, type[_Body]] = {
    "reserve": _Reserve,
    "commit": _Commit,
    "refuse": _Refuse,
    "restore": _Restore,
    "approve": _Approve,
    "decline": _Forbid,
    "revoke": _Forbid,
    "reopen": _Forbid,
}
_CONSENT = frozenset({"approve", "decline", "revoke", "reopen"})
_PLAN = TypeAdapter(Plan)
_PLAN_FIELDS = {field.name for field in fields(Plan)}


def require_sound(entries: Iterable[Entry], *, where: str) -> None:
    """Refuse entries that hold more than a ledger writes, or come in another order.

    Raises:
        LedgerError: naming the first of them.
    """
    plans: dict[str, Plan] = {}
    reserved: set[tuple[str, str]] = set()
    approved: dict[int, str] = {}
    for entry in entries:
        fault = _fault(entry, plans, reserved) or _of_approval(entry, approved)
        if fault:
            raise LedgerError(f"entry {entry.sequence} is not one that a ledger writes: {fault}", where=where)


def _fault(entry: Entry, plans: dict[str, Plan], reserved: set[tuple[str, str]]) -> str:
    try:
        if entry.kind == "authorise":
            return _authorised(entry, plans)
        _BODIES.get(entry.kind, _Body).model_validate_json(json.dumps(dict(entry.body)))
    except ValidationError as exc:
        return f"{'.'.join(map(str, exc.errors()[0]['loc']))}: {exc.errors()[0]['msg'].lower()}"
    except InputError as exc:
        return f"plan '{entry.plan}' is not a mechanism: {exc.what}"
    if entry.kind in ("refuse", "restore") or entry.kind in _CONSENT:
        return _of_no_plan(entry)
    if entry.plan not in plans:
        return f"plan '{entry.plan}' was never authorised"
    return _of_plan(entry, reserved)


def _of_approval(entry: Entry, approved: dict[int, str]) -> str:
    """Nothing is charged to an approval that was never given, or that had ended."""
    if entry.kind == "approve":
        approved[entry.sequence] = entry.body["experiment"]
    elif entry.kind in ("decline", "revoke"):
        for ended in [key for key, digest in approved.items() if digest == entry.body["experiment"]]:
            del approved[ended]
    elif entry.kind == "restore":
        approved.clear()
    elif entry.kind == "reserve" and (number := entry.body.get("approval")) is not None:
        return "" if number in approved else f"it rests on approval {number}, which was not in force"
    return ""


def _of_plan(entry: Entry, reserved: set[tuple[str, str]]) -> str:
    if entry.kind == "reserve":
        reserved.add((entry.plan, entry.request))
    if entry.kind == "commit" and (entry.plan, entry.request) not in reserved:
        return f"request '{entry.request}' was committed and never charged"
    return ""


def _of_no_plan(entry: Entry) -> str:
    if entry.plan:
        return f"a {entry.kind} names plan '{entry.plan}'"
    if entry.kind == "restore" and entry.body["backup"]["entries"] != entry.sequence - 1:
        return "the ledger was restored from a backup of another length"
    return ""


def _authorised(entry: Entry, plans: dict[str, Plan]) -> str:
    values = dict(entry.body)
    _Body.model_validate({name: values.pop(name) for name in OF_ALL & values.keys()})
    unknown = sorted(values.keys() - _PLAN_FIELDS)  # a dataclass would let it pass in silence
    if unknown:
        return f"a plan has no '{unknown[0]}'"
    plan = _PLAN.validate_json(json.dumps(values), strict=True)
    known = plans.setdefault(entry.plan, plan)
    if plan.name != entry.plan or known != plan:
        return f"plan '{entry.plan}' was authorised with other parameters"
    return ""
