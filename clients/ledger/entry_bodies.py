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
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from clients.ledger.chain import Entry, Plan
from contract.errors import LedgerError

__all__ = ["require_sound"]

Word = Annotated[str, Field(max_length=500)]


class _Body(BaseModel):
    """Of `reserve` and `close`: the time alone."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    at: Word


class _Commit(_Body):
    """What left, by name, with its size and SHA-256; never what it held."""

    releases: tuple[Word, ...] = ()
    experiment: Word = ""
    private: bool = True
    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


_PLAN = TypeAdapter(Plan)
_PLAN_FIELDS = {field.name for field in fields(Plan)}


def require_sound(entries: Iterable[Entry], *, where: str) -> None:
    """Refuse entries that hold more than a ledger writes, or come in another order.

    Raises:
        LedgerError: naming the first of them.
    """
    plans: dict[str, Plan] = {}
    reserved: set[tuple[str, str]] = set()
    for entry in entries:
        fault = _fault(entry, plans, reserved)
        if fault:
            raise LedgerError(f"entry {entry.sequence} is not one that a ledger writes: {fault}", where=where)


def _fault(entry: Entry, plans: dict[str, Plan], reserved: set[tuple[str, str]]) -> str:
    try:
        if entry.kind == "authorise":
            return _authorised(entry, plans)
        (_Commit if entry.kind == "commit" else _Body).model_validate_json(json.dumps(dict(entry.body)))
    except ValidationError as exc:
        return f"{'.'.join(map(str, exc.errors()[0]['loc']))}: {exc.errors()[0]['msg'].lower()}"
    if entry.plan not in plans:
        return f"plan '{entry.plan}' was never authorised"
    if entry.kind == "reserve":
        reserved.add((entry.plan, entry.request))
    if entry.kind == "commit" and (entry.plan, entry.request) not in reserved:
        return f"request '{entry.request}' was committed and never charged"
    return ""


def _authorised(entry: Entry, plans: dict[str, Plan]) -> str:
    values = dict(entry.body)
    _Body.model_validate({"at": values.pop("at", None)})
    unknown = sorted(values.keys() - _PLAN_FIELDS)  # a dataclass would let it pass in silence
    if unknown:
        return f"a plan has no '{unknown[0]}'"
    plan = _PLAN.validate_json(json.dumps(values), strict=True)
    known = plans.setdefault(entry.plan, plan)
    if plan.name != entry.plan or known != plan:
        return f"plan '{entry.plan}' was authorised with other parameters"
    if not (plan.noise_multiplier >= 0 and 0 < plan.sampling_rate <= 1 and plan.uses >= 0 and plan.steps > 0):
        return f"plan '{entry.plan}' is not a mechanism"
    return ""
