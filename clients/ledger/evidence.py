"""Signed evidence of a site's ledger, which a third party checks without the site.

`export` makes it, `check` checks it; its form is in `clients.ledger.evidence_file`.

A check shows that the entries are those that the site signed, unbroken from the first to
the last, and that the ε that the site states follows from them. It cannot show that the
newest entries were dropped before the export: for that, evidence kept from an earlier
time is compared, which the new one must continue. Nor can it show that a site sent
something past its ledger.

Evidence holds no row and no statistic of rows: plan parameters, names of runs and
windows, sizes and SHA-256 of replies (`clients.ledger.entry_bodies` lists the fields). An entry
that holds more is not exported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clients.keys import PrivateKey, PublicKey, fingerprint, openssh
from clients.ledger.chain import Ledger
from clients.ledger.entries import FIRST_HASH, Entry, canonical, entry_hash, is_signed, keys_in_force
from clients.ledger.entry_bodies import require_sound
from clients.ledger.evidence_file import FORMAT, LEDGER_VERSION, PAYLOAD, Evidence, StatedTotal
from clients.ledger.plan import Cap
from clients.ledger.replay import BlockTotal, totals_of
from contract import envelope
from contract.errors import InputError, LedgerError

__all__ = ["Checked", "check", "export"]

_TOLERANCE = 1e-6
"""Of a recomputed ε: another machine's arithmetic differs in the last digits alone."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What evidence shows, once every check held.

    Attributes:
        site, made, program: as stated.
        entries, head: how many entries, and the hash of the last.
        cap, totals: ε by block, worked out from the entries.
        fingerprint: of the key that signed.
        added: entries that were added since the earlier evidence; None if none was compared.
        notes: what the checks do not settle, a sentence each.
    """

    site: str
    made: str
    program: str
    entries: int
    head: str
    cap: Cap
    totals: tuple[BlockTotal, ...]
    fingerprint: str
    added: int | None
    notes: tuple[str, ...]


def export(ledger: Ledger, *, site: str, key: PrivateKey, made: str, program: str) -> dict[str, Any]:
    """The evidence of a ledger, in a signed envelope, to be written as JSON.

    Args:
        ledger: of the site; its chain and its stored replies are walked first.
        site: the site's name.
        key: the site's node key.
        made: the time, ISO 8601.
        program: name and version of the program.

    Raises:
        LedgerError: the ledger does not verify, or an entry holds more than evidence may.
    """
    ledger.verify()
    entries = ledger.entries()  # read once: an agent may be adding to them
    require_sound(entries, where=str(ledger.path))
    statement = {
        "format": FORMAT,
        "site": site,
        "ledger_version": LEDGER_VERSION,
        "cap": {"epsilon": ledger.cap.epsilon, "delta": ledger.cap.delta},
        "entries": len(entries),
        "head": entries[-1].hash if entries else FIRST_HASH,
        "totals": [total.as_dict() for total in totals_of(entries, cap=ledger.cap)],
        "public_key": openssh(key.public_key()),
        "ledger_key": ledger.key,
        "made": made,
        "program": program,
    }
    listed = [{**vars(entry), "body": dict(entry.body)} for entry in entries]
    return envelope.sign(PAYLOAD, canonical({"statement": statement, "entries": listed}), key)


def check(
    evidence: Evidence, *, public_key: PublicKey | None = None, after: Evidence | None = None
) -> Checked:
    """Check the signature, the hash chain and the stated ε; and that nothing earlier was undone.

    Args:
        evidence: to check.
        public_key: the site's, from elsewhere; the file's own claim is taken without it.
        after: evidence of the same ledger that was kept from an earlier time.

    Raises:
        LedgerError: a check did not hold, in one sentence that says which.
    """
    signer, notes = fingerprint(evidence.key), []
    if public_key is None:
        notes.append(
            f"The key {signer} is the file's own claim. "
            "Compare it with the site's, or name the site's with --public-key."
        )
    elif fingerprint(public_key) != signer:
        raise _fails(evidence, f"it is signed with the key {signer}, not with {fingerprint(public_key)}")
    totals = _require_intact(evidence)
    notes += _beyond_the_cap(totals, evidence.cap)
    if after is not None:
        _require_intact(after)
        _require_continued(evidence, after)
        notes += _changed_since(after, evidence)
    return Checked(
        site=evidence.statement.site,
        made=evidence.statement.made,
        program=evidence.statement.program,
        entries=evidence.statement.entries,
        head=evidence.statement.head,
        cap=evidence.cap,
        totals=totals,
        fingerprint=signer,
        added=None if after is None else _added(evidence, after),
        notes=tuple(notes),
    )


def _require_intact(evidence: Evidence) -> tuple[BlockTotal, ...]:
    """Signature, chain, head and totals, in this order; the totals as the entries give them."""
    try:
        envelope.verify(evidence.envelope, evidence.key)
    except InputError as exc:
        raise _fails(evidence, "the signature does not fit: what it covers was changed, or the key") from exc
    _require_chain(evidence)
    require_sound(evidence.entries, where=evidence.where)
    _require_signed(evidence)
    totals = totals_of(evidence.entries, cap=evidence.cap)
    _require_totals(evidence, totals)
    return totals


def _require_chain(evidence: Evidence) -> None:
    previous = FIRST_HASH
    for position, entry in enumerate(evidence.entries, start=1):
        body = canonical(dict(entry.body)).decode()
        expected = entry_hash(previous, position, entry.kind, entry.plan, entry.request, body)
        if entry.sequence != position or entry.hash != expected:
            raise _fails(
                evidence,
                f"entry {position} does not fit the hash chain: it was changed, moved or put in, "
                "or the one before it was removed",
            )
        previous = entry.hash
    held, signed = len(evidence.entries), evidence.statement.entries
    if held != signed:
        what = "the newest were removed" if held < signed else "some were put in later"
        raise _fails(evidence, f"it holds {held} entries, and the site signed for {signed}: {what}")
    if previous != evidence.statement.head:
        raise _fails(evidence, "its entries are not those that the site signed: they end in another hash")


def _require_signed(evidence: Evidence) -> None:
    for entry, key in keys_in_force(evidence.entries, evidence.statement.ledger_key):
        if not is_signed(entry, key):
            raise _fails(evidence, f"entry {entry.sequence} is not signed with the ledger's key")


def _require_totals(evidence: Evidence, totals: Sequence[BlockTotal]) -> None:
    stated = {total.block: total for total in evidence.statement.totals}
    found = {total.block: StatedTotal.model_validate(total.as_dict()) for total in totals}
    if len(stated) != len(evidence.statement.totals):
        raise _fails(evidence, "it states two totals of one block")
    for block in sorted({*stated, *found}):
        if block not in stated or block not in found or not _same(stated[block], found[block]):
            raise _fails(
                evidence,
                f"the stated total of block '{block}' does not follow from the entries: stated "
                f"{_words(stated.get(block))}; recomputed {_words(found.get(block))}",
            )


def _same(stated: StatedTotal, found: StatedTotal) -> bool:
    """Equal, but for the last digits of ε."""
    figures = ((stated.spent, found.spent), (stated.promised, found.promised))
    rest = {"spent", "promised"}
    return stated.model_dump(exclude=rest) == found.model_dump(exclude=rest) and all(
        one.method == other.method
        and math.isclose(one.bound, other.bound, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
        for one, other in figures
    )


def _words(total: StatedTotal | None) -> str:
    if total is None:
        return "nothing"
    return (
        f"ε = {total.spent.bound:.4g} counted so far, {total.promised.bound:.4g} promised, "
        f"a {total.unit}, δ = {total.delta:g}, {total.spent.method}"
    )


def _require_continued(evidence: Evidence, after: Evidence) -> None:
    """The ledger only grew: what the earlier evidence holds is where the new one begins.

    Or it was restored from a backup, and says so itself where it leaves the earlier one.
    """
    if after.statement.site != evidence.statement.site:
        raise _fails(
            evidence, f"it is of site '{evidence.statement.site}', {after.where} of '{after.statement.site}'"
        )
    if _left(evidence, after) is not None:
        return
    for position, (now, then) in enumerate(zip(evidence.entries, after.entries, strict=False), start=1):
        if now.hash != then.hash:
            raise _fails(
                evidence,
                f"the ledger was rewritten: entry {position} is not the one that {after.where} holds",
            )
    if len(evidence.entries) < len(after.entries):
        raise _fails(
            evidence,
            f"the ledger was rewound: it has {len(evidence.entries)} entries, {after.where} "
            f"has {len(after.entries)}",
        )


def _added(evidence: Evidence, after: Evidence) -> int:
    restored = _left(evidence, after)
    return len(evidence.entries) - (len(after.entries) if restored is None else restored.sequence - 1)


def _left(evidence: Evidence, after: Evidence) -> Entry | None:
    """The restore with which a ledger left what the earlier evidence holds, if it did."""
    for position, now in enumerate(evidence.entries):
        if position >= len(after.entries) or now.hash != after.entries[position].hash:
            return now if now.kind == "restore" and position < len(after.entries) else None
    return None


def _changed_since(after: Evidence, evidence: Evidence) -> list[str]:
    """What may change in good order, and should be seen."""
    notes = []
    restored = _left(evidence, after)
    if restored is not None:
        notes.append(
            f"The ledger was restored at {restored.body['at']} from a backup of {restored.sequence - 1} "
            f"entries: {len(after.entries) - restored.sequence + 1} of the earlier evidence are lost, and "
            "every data block of that time counts as having spent the cap."
        )
    if fingerprint(after.key) != fingerprint(evidence.key):
        notes.append(f"The earlier evidence was signed with another key, {fingerprint(after.key)}.")
    if after.cap != evidence.cap:
        cap = after.cap
        notes.append(f"The cap was ε = {cap.epsilon:g} at δ = {cap.delta:g} in the earlier evidence.")
    return notes


def _beyond_the_cap(totals: Sequence[BlockTotal], cap: Cap) -> list[str]:
    """What a ledger may hold in good order (a cap can be lowered), and a reader should see."""
    plain = [total.block for total in totals if not total.private]
    above = [
        total.block
        for total in totals
        if total.private and total.promised.epsilon > cap.epsilon * (1 + _TOLERANCE)
    ]
    lowered = [total.block for total in totals if total.private and math.isinf(total.spent.guaranteed)]
    named = (
        ("have no privacy guarantee", plain),
        ("are promised more than the cap", above),
        (
            "have spent more than the cap, so that a larger one was in force then, which no entry keeps "
            "(ask the site)",
            lowered,
        ),
    )
    return [f"Data blocks that {what}: {', '.join(blocks)}." for what, blocks in named if blocks]


def _fails(evidence: Evidence, what: str) -> LedgerError:
    return LedgerError(what, where=evidence.where)
