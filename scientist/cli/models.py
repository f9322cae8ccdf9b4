"""`tidegate models …` of the federation of the profile."""

from __future__ import annotations

from pathlib import Path

__all__ = ["approve", "fetch", "history", "list_versions", "predict", "refuse", "rollback", "show", "verify"]


def list_versions(*, model: str, json: bool) -> None:
    """All versions of a model."""
    from scientist.connected import connect
    from scientist.federation import versions_of
    from terminal.model_tables import show_versions

    with connect() as connection:
        found = versions_of(connection, model)
    show_versions(model, found, json=json)


def show(*, model: str, version: int, json: bool) -> None:
    """The passport of a version."""
    from contract.federation_api import Version
    from scientist.connected import connect, path_of
    from terminal.model_tables import show_passport

    with connect() as connection:
        found = connection.get(f"{path_of('models', model)}/versions/{version}", Version)
    show_passport(found, json=json)


def fetch(*, model: str, version: int, folder: Path | None) -> None:
    """Write a version's files into a new folder."""
    from terminal.predictions import write_version

    write_version(model, version, _files(model, version), folder)


def verify(*, folder: Path, authority: Path | None, json: bool) -> None:
    """Whether a folder's files are those that the federation says are the version's."""
    from scientist.profiles import Profiles
    from scientist.settings import read_settings
    from terminal.model_tables import read_authority, verify_folder

    known = (
        Profiles(read_settings()).read().authority.encode()
        if authority is None
        else read_authority(authority)
    )
    verify_folder(folder, known, json=json)


def predict(
    *,
    model: str,
    version: int,
    file: Path,
    out: Path | None,
    separator: str,
    decimal: str,
    missing: list[str] | None,
    json: bool,
) -> None:
    """Predict for each row of a file, on this machine."""
    from terminal.predictions import RowFile, predict_rows

    rows = RowFile(path=file, separator=separator, decimal=decimal, missing=tuple(missing or ()))
    predict_rows(model, version, _files(model, version), rows, out=out, json=json)


def approve(*, model: str, version: int, by: str, reason: str, json: bool) -> None:
    """Approve a version."""
    _decide(model, version, "approve", by, reason, json=json)


def refuse(*, model: str, version: int, by: str, reason: str, json: bool) -> None:
    """Refuse a version."""
    _decide(model, version, "refuse", by, reason, json=json)


def rollback(*, model: str, version: int, by: str, reason: str, json: bool) -> None:
    """Go back to a version that was in service."""
    _decide(model, version, "rollback", by, reason, json=json)


def history(*, model: str, json: bool) -> None:
    """What was decided on a model's versions."""
    from contract.federation_api import Decisions
    from scientist.connected import connect, path_of
    from terminal.model_tables import show_history

    with connect() as connection:
        pages = connection.pages(f"{path_of('models', model)}/history", Decisions)
        found = [one for page in pages for one in page.decisions]
    show_history(model, found, json=json)


def _files(model: str, version: int) -> dict[str, bytes]:
    """A version's files, compared with the hashes of its record."""
    from scientist.connected import connect
    from scientist.federation import model_files

    with connect() as connection:
        return model_files(connection, model, version)


def _decide(model: str, version: int, kind: str, by: str, reason: str, *, json: bool) -> None:
    from pydantic import ValidationError

    from contract.errors import InputError
    from contract.federation_api import Review, ReviewReason, Whoami
    from scientist.connected import connect, path_of
    from terminal.model_tables import say_review

    try:
        asked = ReviewReason(reason=reason)
    except ValidationError as exc:
        raise InputError(
            "a reason has 1 to 10,000 characters", where="--reason", remedy="Write it in plain text"
        ) from exc
    with connect() as connection:
        who = connection.get("/v1/whoami", Whoami)
        if by not in ("", who.name):
            raise InputError(
                "the decision is recorded with the name that your token is of",
                where="--by",
                remedy=f"Leave it out: you are '{who.name}' there",
            )
        found = connection.post(f"{path_of('models', model)}/versions/{version}/{kind}", Review, asked)
    say_review(found, kind=kind, by=who.name, json=json)
