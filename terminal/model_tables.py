"""What `tidegate models` shows, of a server that runs here or of another."""

from __future__ import annotations

from collections.abc import Sequence
from json import loads
from pathlib import Path

from contract.errors import InputError
from contract.federation_api import Decision, Review, Version
from contract.outside import shown
from contract.windows import condensed
from contract.words import DECIDED
from terminal.output import print_json, print_table, say

__all__ = [
    "no_version",
    "read_authority",
    "say_review",
    "show_history",
    "show_passport",
    "show_versions",
    "verify_folder",
]

_LONGEST = 5000
"""Characters of a passport's line that are shown."""


def show_versions(model: str, versions: Sequence[Version], *, json: bool) -> None:
    """All versions of a model."""
    if json:
        print_json([one.model_dump() for one in versions])
        return
    if not versions:
        say(f"There is no version of '{model}' yet.")
        return
    print_table(
        ("version", "aliases", "run", "windows", "private"),
        (
            (
                one.version,
                ", ".join(one.aliases),
                one.tags.get("tidegate.run", "–"),
                _windows(one.tags.get("tidegate.windows", "–")),
                one.tags.get("tidegate.private", "–"),
            )
            for one in versions
        ),
    )


def show_passport(version: Version, *, json: bool) -> None:
    """The passport of a version."""
    from rich.markdown import Markdown

    from terminal.output import console

    if json:
        print_json(version.model_dump())
        return
    if version.warning:
        say(f"WARNING: {version.warning}.", "bold yellow")
    lines = [shown(line, limit=_LONGEST) for line in (version.description or "").splitlines()]
    console.print(Markdown("\n".join(lines), hyperlinks=False))


def say_review(review: Review, *, kind: str, by: str, json: bool) -> None:
    """What came of a person's word on a version."""
    named = f"version {review.version} of '{review.model}'"
    if json:
        print_json(review.model_dump())
    elif review.in_service:
        how = "gone back to" if kind == "rollback" else "approved"
        say(f"{named} is the champion ({how} by {by})")
    elif kind == "refuse":
        say(f"{named} is refused by {by}: it is not put into service")
    else:
        left = review.needed - len(review.approved_by)
        more = "another person" if left == 1 else f"{left} other people"
        say(f"{named} is approved by {' and '.join(review.approved_by)}; {more} must approve it too")


def show_history(model: str, decisions: Sequence[Decision], *, json: bool) -> None:
    """What was decided on a model's versions, oldest first."""
    if json:
        print_json([one.model_dump() for one in decisions])
        return
    if not decisions:
        say(f"Nothing was decided on a version of '{model}' yet.")
        return
    print_table(
        ("when (UTC)", "version", "what", "by", "why", "passport"),
        (
            (
                f"{one.time:%Y-%m-%d %H:%M}",
                one.subject.removeprefix("version "),
                DECIDED.get(one.kind, one.kind),
                one.by,
                one.reason,
                (one.evidence or "–")[:12],
            )
            for one in decisions
        ),
    )


def verify_folder(folder: Path, authority: bytes, *, json: bool) -> None:
    """Say whether the files of a folder are those that a federation's server has signed as a version's.

    Args:
        folder: that `models fetch` wrote.
        authority: the federation's certificate, in PEM form.
        json: print JSON.

    Raises:
        InputError: they are not, or the folder cannot be read.
    """
    from contract.model_statement import STATEMENT_FILE, require_stated, verify_statement
    from contract.model_version import SUMS_FILE, sha256

    where = str(folder)
    try:
        envelope = loads((folder / STATEMENT_FILE).read_bytes())
        statement = verify_statement(envelope, authority, where=where)
        there = {path.name: sha256(path.read_bytes()) for path in folder.iterdir()}
    except OSError as exc:
        raise InputError(
            f"cannot be read: {exc.strerror}",
            where=str(exc.filename or folder),
            remedy="Name a folder that `tidegate models fetch` wrote, of a version that the server signs",
        ) from exc
    except (ValueError, RecursionError) as exc:
        raise InputError(
            "not a statement", where=str(folder / STATEMENT_FILE), remedy="Fetch the version again"
        ) from exc
    model, version = statement.model, statement.version
    missing = dict.fromkeys(statement.files, "")
    del there[STATEMENT_FILE]
    sums = there.pop(SUMS_FILE, None)
    require_stated({**missing, **there}, statement, model=model, version=version, where=where)
    listed = {**statement.files, STATEMENT_FILE: sha256((folder / STATEMENT_FILE).read_bytes())}
    if sums is not None and _sums_in(folder / SUMS_FILE) != listed:
        raise InputError(
            f"{SUMS_FILE} has other hashes than the statement",
            where=str(folder / SUMS_FILE),
            remedy="Remove it, or fetch the version again",
        )
    if json:
        print_json(statement.model_dump(mode="json"))
        return
    files = f"all {len(statement.files)} files are as the federation registered them"
    say(f"version {version} of '{model}': {files}")
    served, service = "not in service", statement.service
    if service is not None:
        served = f"in service by decision {service.number} of {service.decided:%Y-%m-%d %H:%M} UTC"
    say(f"on {statement.signed:%Y-%m-%d %H:%M} UTC it was {served}")


def read_authority(path: Path) -> bytes:
    """A federation's certificate.

    Raises:
        InputError: there is none.
    """
    try:
        return path.read_bytes()
    except OSError as exc:
        raise InputError(
            f"no authority is there by which the statement could be judged: {exc.strerror}",
            where=str(path),
            remedy="Name the federation's authority.pem with --authority, or connect: tidegate connect URL",
        ) from exc


def _sums_in(path: Path) -> dict[str, str]:
    lines = (line.partition("  ") for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
    return {name: value for value, _, name in lines}


def no_version(model: str, version: int) -> InputError:
    """That there is no such version."""
    return InputError(
        f"there is no version {version} of '{model}'", remedy=f"See `tidegate models list {model}`"
    )


def _windows(tag: str) -> str:
    """The windows of a version's tag, which is JSON where it is ours."""
    try:
        return ", ".join(condensed([str(window) for window in loads(tag)])) or "all rows"
    except (ValueError, TypeError):
        return tag
