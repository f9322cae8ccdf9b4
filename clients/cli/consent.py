"""`tidegate site requests`, `approve`, `refuse` and `revoke`: the administrator says what may run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clients.cli.ledger import Json, SiteFile

if TYPE_CHECKING:
    from clients.ledger.approvals import Approval, Terms
    from clients.ledger.cost import BlockCost
    from clients.ledger.plan import Plan
    from clients.requests import Request, Signature
    from clients.site import Site
    from contract.experiment import Experiment

__all__ = ["approve", "differences", "refuse", "requests", "revoke"]

DigestOf = Annotated[str, typer.Argument(help="The whole digest, as `tidegate site requests` prints it.")]
Reason = Annotated[str, typer.Option(help="Your words, which stand in the ledger and in evidence.")]

Difference = tuple[str, str, str]
"""A key, what it was, and what it is; empty where it is missing."""
_MOST_DIFFERENCES = 40
_APPROVED_STEP = Decimal("0.001")
"""To which ε is rounded up where it is approved, and so where what was paid of it stands beside it."""


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    """One request and what it would cost."""

    request: Request
    costs: Sequence[BlockCost]
    epsilon: float
    installed: bool
    before: Experiment | None
    changed: Sequence[Difference]
    fault: str

    @property
    def fits(self) -> bool:
        return not self.fault and all(cost.fits for cost in self.costs)


def requests(file: SiteFile, json: Json = False) -> None:
    """What waits for your approval, what is approved, and what is declined or revoked."""
    from clients.code import installed_code_hash
    from clients.requests import MOST_REQUESTS
    from clients.site import open_site
    from terminal.output import print_json, say

    site = open_site(file)
    site.ledger.verify()
    listed = site.requests.all()
    waiting = [_waiting(site, request) for request in listed]
    approved, declined = site.ledger.approvals()
    if json:
        print_json(
            {
                "site": site.config.name,
                "approval": site.config.policy.approval,
                "installed_code": installed_code_hash(),
                "cap": vars(site.ledger.cap),
                "requests": [_as_dict(item, site.ledger.cap.epsilon) for item in waiting],
                "approved": [_terms_dict(item) for item in approved],
                "declined": [{"digest": digest, "reason": why} for digest, why in declined.items()],
            }
        )
        site.requests.note_shown(listed, to="program")
        return
    for item in waiting:
        _show(item, site)
    if len(waiting) >= MOST_REQUESTS:
        say(
            f"The record is full with {MOST_REQUESTS} requests: refuse those that you do not know.",
            "yellow",
        )
    if not waiting:
        say("Nothing waits for your approval.")
    _show_decided(approved, declined)
    site.requests.note_shown(listed, to="person")  # last: what could not be written was not shown


def approve(
    file: SiteFile,
    digest: DigestOf,
    epsilon: Annotated[
        float | None, typer.Option(help="The most that a data block may pay for it, at the cap's δ.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Its last day (UTC), such as 2027-03-31.")] = None,
    runs: Annotated[int | None, typer.Option(min=1, max=10_000, help="How many runs; ε is for all.")] = None,
    any_window: Annotated[
        bool, typer.Option("--any-window", help="Also other windows than it asked for, up to that ε on each.")
    ] = False,
    json: Json = False,
) -> None:
    """Let an experiment run that has asked: this plan, the installed code, its windows, so much ε.

    What it has asked since you looked (`tidegate site requests`) is not approved with it. If you have looked
    at none of it, it is shown now and you are asked; without a terminal nothing is approved.
    """
    from clients.code import installed_code_hash
    from clients.ledger.chain import Terms
    from clients.ledger.plans import asked_windows
    from clients.site import open_site
    from contract.errors import InputError
    from contract.words import counted
    from terminal.output import print_json, say

    site, code = open_site(file), installed_code_hash()
    _require_digest(digest)
    shown = site.requests.to_decide(digest, by="program" if json else "person")
    shown = shown or _show_now(site, digest, code, silent=json)
    asked = [request for request in shown if request.code == code]
    if not asked:
        raise InputError(
            f"experiment {digest} was asked of other code than is installed now"
            if shown
            else f"no request of experiment {digest} waits",
            where=str(file),
            remedy="Wait until the server asks again, and look at `tidegate site requests`",
        )
    plan = asked[0].plan
    windows = {window for request in asked for window in asked_windows(request.kind, request.asked)}
    terms = Terms(
        experiment=digest,
        name=plan.name,
        code=code,
        epsilon=_epsilon(site, asked, epsilon, runs or 1) if plan.privacy.private else None,
        delta=site.ledger.cap.delta,
        windows=None if any_window else tuple(sorted(windows)),
        purposes=tuple(sorted({plan.purpose for request in asked for plan in _plans(site, request)})),
        until=None if until is None else _end_of(until),
        runs=runs,
    )
    site.requests.keep_approved(plan)
    number = site.ledger.approve(terms)
    site.requests.remove(shown)
    later = len(site.requests.of(digest))
    if json:
        print_json({"site": site.config.name, "entry": number, **_terms(terms), "wait": later})
        return
    say(f"approved {plan.name} (entry {number} of the ledger): {_in_words(terms)}", "green")
    if not plan.privacy.private:
        say("NOT PRIVATE: this experiment leaves no guarantee.", "bold red")
    say("It holds for this and nothing else. End it with `tidegate site revoke`.")
    if later:
        say(f"{counted(later, 'request')} of it came since you looked: `tidegate site requests`", "yellow")


def _show_now(site: Site, digest: str, code: str, *, silent: bool) -> tuple[Request, ...]:
    """What waits of an experiment that was never shown: shown now, to whoever sits at a terminal.

    Raises:
        InputError: there is no terminal.
        Exit: the answer was no.
    """
    import sys

    from contract.errors import InputError
    from terminal.output import say

    waiting = site.requests.of(digest)
    if not any(request.code == code for request in waiting):
        return waiting
    if silent or not sys.stdin.isatty():
        raise InputError(
            f"nothing of experiment {digest} was shown to you yet",
            where="DIGEST",
            remedy="Look at it and at what it costs: tidegate site requests. Then approve it",
        )
    for request in waiting:
        _show(_waiting(site, request), site)
    if not typer.confirm("You have not looked at this before. Approve it?"):
        say("nothing was approved")
        raise typer.Exit(1)
    return waiting


def refuse(
    file: SiteFile,
    digest: DigestOf,
    reason: Reason = "",
    undo: Annotated[
        bool, typer.Option("--undo", help="Let it ask again, also one that was revoked.")
    ] = False,
    json: Json = False,
) -> None:
    """Keep an experiment from running here, whatever the policy says, until you undo that."""
    from clients.site import open_site

    _require_digest(digest)
    site = open_site(file)
    if undo:
        site.ledger.reopen(digest)
        _say_ended(site, digest, "reopened", json=json)
        return
    site.ledger.decline(digest, reason=reason)
    site.requests.remove(site.requests.of(digest))
    _say_ended(site, digest, "refused", json=json)


def revoke(file: SiteFile, digest: DigestOf, reason: Reason = "", json: Json = False) -> None:
    """End the approvals of an experiment: of a run in progress the next message is refused."""
    from clients.site import open_site

    _require_digest(digest)
    site = open_site(file)
    site.ledger.revoke(digest, reason=reason)
    site.requests.remove(site.requests.of(digest))
    _say_ended(site, digest, "revoked", json=json)


def differences(before: Experiment, after: Experiment) -> list[Difference]:
    """The keys in which two experiments differ, with the value in each.

    Features are told by their names, so that one more does not change all that follow.
    """
    old, new = (dict(_flat(plan.model_dump(mode="json"))) for plan in (before, after))
    keys = [*new, *(key for key in old if key not in new)]
    found = [(key, old.get(key, ""), new.get(key, "")) for key in keys if old.get(key) != new.get(key)]
    orders = [", ".join(feature.name for feature in plan.task.features) for plan in (before, after)]
    if orders[0] != orders[1]:
        found.append(("the order of features", orders[0], orders[1]))
    return found


def _flat(value: Any, key: str = "") -> Iterable[tuple[str, str]]:
    from json import dumps

    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _flat(item, f"{key}.{name}" if key else name)
    elif (
        isinstance(value, list) and value and all(isinstance(item, dict) and "name" in item for item in value)
    ):
        for item in value:
            yield from _flat(
                {name: of for name, of in item.items() if name != "name"}, f"{key}[{item['name']}]"
            )
    else:
        yield key, dumps(value, ensure_ascii=False)


def _waiting(site: Site, request: Request) -> _Waiting:
    from clients.code import installed_code_hash
    from clients.ledger.cost import alone, block_costs
    from contract.errors import TidegateError

    costs: Sequence[BlockCost] = ()
    epsilon, fault = math.inf, ""
    try:
        plans = _plans(site, request)
        costs = block_costs(site.ledger, plans)
        epsilon = alone(plans, site.ledger.cap) if request.plan.privacy.private else math.inf
    except TidegateError as exc:  # one that cannot be run hides no other
        fault = exc.what
    known = site.ledger.last_approved(request.plan.name)
    before = None if known is None else site.requests.approved(known.experiment)
    return _Waiting(
        request=request,
        costs=costs,
        epsilon=epsilon,
        installed=request.code == installed_code_hash(),
        before=before,
        changed=() if before is None else differences(before, request.plan),
        fault=fault,
    )


def _plans(site: Site, request: Request, run: str = "") -> list[Plan]:
    """What the request would enter into the ledger: as itself, or under the name of another run."""
    from dataclasses import replace

    from clients.ledger.plans import asked_plans

    asked = replace(request.asked, run=run) if run else request.asked
    return asked_plans(request.kind, request.plan, asked, site.split)


def _epsilon(site: Site, asked: Sequence[Request], given: float | None, runs: int) -> float:
    """What is approved: as given, or what the requests cost together, rounded up in the third decimal."""
    from clients.ledger.cost import alone
    from contract.errors import InputError

    if given is not None:
        if not 1e-3 <= given <= 1e4:
            raise InputError(
                f"ε = {given:g} cannot be approved", where="--epsilon", remedy="Give 0.001 to 10000"
            )
        return given
    plans = [
        plan
        for place, request in enumerate(asked)
        for run in range(runs)
        for plan in _plans(site, request, f"{place}-{run}")
    ]
    once = {plan.name: plan for plan in plans}
    return math.ceil(1e3 * alone(list(once.values()), site.ledger.cap)) / 1e3


def _end_of(day: str) -> str:
    """The first moment after that day."""
    from datetime import UTC, date, datetime, time, timedelta

    from contract.errors import InputError

    try:
        end = datetime.combine(date.fromisoformat(day), time(), UTC) + timedelta(days=1)
    except (ValueError, OverflowError) as exc:
        raise InputError(
            f"'{day[:40]}' is no day", where="--until", remedy="Write it like 2027-03-31"
        ) from exc
    if end <= datetime.now(UTC):
        raise InputError(f"{day} is over", where="--until", remedy="Name a day that is to come")
    return end.isoformat(timespec="seconds")


def _require_digest(digest: str) -> None:
    from pydantic import TypeAdapter, ValidationError

    from contract.errors import InputError
    from contract.names import Digest

    try:
        TypeAdapter(Digest).validate_python(digest)
    except ValidationError as exc:
        raise InputError(
            f"'{digest[:80]}' is no digest",
            where="DIGEST",
            remedy="Give all 64 digits that `tidegate site requests` prints: a part may be of another one",
        ) from exc


def _as_dict(item: _Waiting, cap: float) -> dict[str, Any]:
    from contract.json_values import finite

    request = item.request
    return {
        "digest": request.plan.digest,
        "experiment": request.plan.name,
        "private": request.plan.privacy.private,
        "code": request.code,
        "package": None if (package := request.plan.model.package) is None else package.model_dump(),
        "package_installed": _is_installed(request.plan),
        "installed": item.installed,
        "kind": request.kind,
        "windows": list(request.asked.windows),
        "reference_windows": list(request.asked.reference_windows),
        "features": list(request.asked.features),
        "run": request.asked.run,
        "trigger": request.trigger,
        "signature": None if request.signature is None else request.signature.model_dump(mode="json"),
        "first": request.first.isoformat(timespec="seconds"),
        "last": request.last.isoformat(timespec="seconds"),
        "times": request.times,
        "epsilon": finite(item.epsilon),
        "blocks": [finite({**vars(cost), "left": max(0.0, cap - cost.now)}) for cost in item.costs],
        "fits": item.fits,
        "fault": item.fault,
        "compared_with": None if item.before is None else item.before.digest,
        "differences": [{"key": key, "before": old, "now": new} for key, old, new in item.changed],
    }


def _is_installed(plan: Experiment) -> bool | None:
    """Whether the model's package is here; None where it is of none."""
    from contract.errors import InputError
    from contract.installed_models import require_installed

    if plan.model.kind != "package":
        return None
    try:
        require_installed(plan.model)
    except InputError:
        return False
    return True


def _terms(terms: Terms) -> dict[str, Any]:
    return terms.as_body()


def _terms_dict(approval: Approval) -> dict[str, Any]:
    used = None if approval.terms.epsilon is None else approval.spent
    return {
        "entry": approval.sequence,
        "at": approval.at,
        **_terms(approval.terms),
        "used": used,
        "runs_made": sorted(approval.runs),
    }


def _show(item: _Waiting, site: Site) -> None:
    from contract.epsilon import epsilon_words, left_words
    from contract.words import counted
    from terminal.output import cell, print_table, say

    request, cap = item.request, site.ledger.cap
    say(f"{request.plan.name}: {_what(request)}", "bold")
    say(f"digest {request.plan.digest}")
    say(
        f"code {request.code}, which {'is' if item.installed else 'IS NOT'} the installed code",
        "" if item.installed else "yellow",
    )
    _show_package(request.plan)
    first, last = (f"{moment:%Y-%m-%d %H:%M}" for moment in (request.first, request.last))
    say(f"asked {counted(request.times, 'time')}, from {first} to {last} UTC")
    say(f"the server says: run {request.asked.run}, started by {request.trigger or 'nobody named'}")
    _show_signature(request.signature)
    print_table(
        ("data block", "promised now", "with this", "left of the cap now", "the cap"),
        (
            (
                cost.block,
                epsilon_words(cost.now),
                epsilon_words(cost.then),
                left_words(cap.epsilon, cost.now),
                cell("allows it" if cost.fits else "REFUSES it", "" if cost.fits else "red"),
            )
            for cost in item.costs
        ),
    )
    if item.fault:
        say(f"What it would cost cannot be told: {item.fault}", "red")
    if not request.plan.privacy.private:
        say("NOT PRIVATE: this experiment would leave no guarantee.", "bold red")
    _show_differences(item)


def _show_package(plan: Experiment) -> None:
    """The package that the model comes from, and whether this very one is installed. None of it is run."""
    from contract.errors import InputError
    from contract.installed_models import require_installed
    from terminal.output import say

    package = plan.model.package
    if plan.model.kind != "package":
        return
    if package is not None:
        say(f"model package {package}, SHA-256 {package.sha256}: code that would run on your rows")
    try:
        require_installed(plan.model)
    except InputError as exc:
        say(f"NOT INSTALLED HERE: {exc}", "yellow")
    else:
        say("It is installed here, with these very files.")


def _show_signature(signature: Signature | None) -> None:
    from contract.enrolment import key_fingerprint
    from terminal.output import say

    if signature is None or not signature.key:
        say(signature.fault if signature is not None and signature.fault else "not signed", "yellow")
        return
    until = "" if signature.expires is None else f", until {signature.expires:%Y-%m-%d %H:%M} UTC"
    until += f", for {signature.covers}" if signature.covers else ""
    if signature.name:
        say(f"signed by '{signature.name}' of your policy{until}")
    else:
        say(f"signed by {key_fingerprint(signature.key)}, whom your policy does not name{until}", "yellow")
        say(f"its key: {signature.key}")
    if signature.fault:
        say(f"THE SIGNATURE DOES NOT COVER IT: {signature.fault}", "red")


def _show_differences(item: _Waiting) -> None:
    from terminal.output import print_table, say

    if item.before is None:
        say("No experiment of this name was approved before: read its file, and `tidegate site cost`.")
    elif item.before.digest == item.request.plan.digest:
        say("It is the experiment that was approved last: the code, the windows, ε or the time is another.")
    elif not item.changed:
        say("It differs from the experiment that was approved last in what this page cannot show.", "red")
    else:
        say("Beside the experiment of this name that was approved last:")
        print_table(("key", "approved", "asked for"), item.changed[:_MOST_DIFFERENCES])
        if len(item.changed) > _MOST_DIFFERENCES:
            say(f"… and {len(item.changed) - _MOST_DIFFERENCES} keys more: see --json", "yellow")


def _show_decided(approved: Sequence[Approval], declined: dict[str, str]) -> None:
    from contract.epsilon import epsilon_words
    from terminal.output import print_table

    if approved:
        print_table(
            ("approved", "digest", "what of it", "paid or promised"),
            (
                (
                    one.terms.name,
                    one.terms.experiment,
                    _in_words(one.terms),
                    "" if one.terms.epsilon is None else f"ε = {epsilon_words(one.spent, _APPROVED_STEP)}",
                )
                for one in approved
            ),
        )
    if declined:
        print_table(("declined or revoked", "reason"), declined.items())


def _what(request: Request) -> str:
    """What is asked for, in words."""
    from contract.messages import DRIFT_QUERY, RANGES_QUERY

    asked = request.asked
    windows = ", ".join(asked.windows) or "all rows"
    if request.kind == DRIFT_QUERY:
        return f"a drift check of {windows} against {', '.join(asked.reference_windows) or 'all rows'}"
    if request.kind == RANGES_QUERY:
        return f"the ranges of {', '.join(asked.features)} on {windows}"
    counts = request.plan.clipped_counts
    counted = f"{counts} counts of clipped gradients, " if counts > 1 else "a count of clipped gradients, "
    return (
        f"a training run on {windows}, its evaluations, {counted if counts else ''}"
        "and a comparison with the champion"
    )


def _in_words(terms: Terms) -> str:
    from contract.epsilon import delta_words

    most = (
        "" if terms.epsilon is None else f"at most ε = {terms.epsilon:g} at δ = {delta_words(terms.delta)}, "
    )
    if terms.windows is None:
        windows = "any window"
    else:
        windows = f"windows {', '.join('all rows' if name == '*' else name for name in terms.windows)}"
    runs = "" if terms.runs is None else f", {terms.runs} runs"
    until = (
        "until it is revoked" if terms.until is None else f"until {terms.until[:16].replace('T', ' ')} UTC"
    )
    return f"{' and '.join(terms.purposes)}: {most}{windows}, code {terms.code[:12]}…{runs}, {until}"


def _say_ended(site: Site, digest: str, what: str, *, json: bool) -> None:
    from terminal.output import print_json, say

    if json:
        print_json({"site": site.config.name, "digest": digest, what: True})
        return
    follows = "it may ask again" if what == "reopened" else "its next message is refused"
    say(f"{what} experiment {digest}: {follows}", "green")
