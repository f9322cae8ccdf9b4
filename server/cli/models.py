"""`tidegate models …`: versions, passports, what people decide on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from contract.federation_api import Version as ApiVersion
    from server.registry.registry import Registry
    from server.state.records import VersionRecord
    from server.state.storage import State

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Model versions and their passports.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Model = Annotated[str, typer.Argument(help="The model's name: that of its experiment.")]
Version = Annotated[int, typer.Argument(help="The version's number.")]
By = Annotated[str, typer.Option(help="Your name, for the record; with a profile, that of your token.")]
Reason = Annotated[str, typer.Option(help="Why, for the record.")]


@app.command("list")
def list_versions(model: Model, json: Json = False) -> None:
    """All versions of a model."""
    from terminal.model_tables import show_versions

    show_versions(model, [_told(one, None) for one in _registry().versions(model)], json=json)


@app.command()
def show(model: Model, version: Version, json: Json = False) -> None:
    """The passport of a version, as it was registered, with what was decided since."""
    from server.api.reading import shown_version
    from terminal.model_tables import no_version, show_passport

    found = [one for one in _registry().versions(model) if one.version == version]
    if not found:
        raise no_version(model, version)
    with _known_state() as state:
        if state is None:
            nobody = (
                "there is no state database here that could say whether this is the passport of the version"
            )
            told = _told(found[0], found[0].description).model_copy(update={"warning": nobody})
        else:
            told = shown_version(model, found[0], state)
    show_passport(told, json=json)


@app.command()
def fetch(
    model: Model,
    version: Version,
    folder: Annotated[Path | None, typer.Argument(help="A new folder; else NAME-VERSION.")] = None,
) -> None:
    """Write a version's files into a new folder, with its passport and what the server signs of them."""
    from terminal.predictions import write_version

    write_version(model, version, _files(model, version), folder)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="A folder that `models fetch` wrote.")],
    authority: Annotated[
        Path | None,
        typer.Option(
            help="The federation's authority (PEM); else the profile's, or that of the server here."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Whether a folder's files are those that the federation says are the version's. Needs no connection."""
    from server.line.certificates import server_files
    from server.settings import read_settings
    from terminal.model_tables import read_authority, verify_folder

    path = authority or server_files(read_settings().home / "certificates").authority
    verify_folder(folder, read_authority(path), json=json)


@app.command()
def predict(
    model: Model,
    version: Version,
    file: Annotated[Path, typer.Argument(help="A CSV file with a column for each feature.")],
    out: Annotated[Path | None, typer.Option(help="A new CSV file for the predictions.")] = None,
    separator: Annotated[str, typer.Option(help="Between the file's columns.")] = ",",
    decimal: Annotated[str, typer.Option(help="The file's decimal sign.")] = ".",
    missing: Annotated[
        list[str] | None, typer.Option(help="What else stands for a missing value; repeat for several.")
    ] = None,
    json: Json = False,
) -> None:
    """Predict for each row of a file. Nothing leaves this machine."""
    from terminal.predictions import RowFile, predict_rows

    rows = RowFile(path=file, separator=separator, decimal=decimal, missing=tuple(missing or ()))
    predict_rows(model, version, _files(model, version), rows, out=out, json=json)


@app.command()
def approve(model: Model, version: Version, reason: Reason, by: By = "", json: Json = False) -> None:
    """Approve a version; once all who must have, it is the champion."""
    _decide(model, version, "approve", by, reason, json=json)


@app.command()
def refuse(model: Model, version: Version, reason: Reason, by: By = "", json: Json = False) -> None:
    """Refuse a version: what approved it until then counts no more."""
    _decide(model, version, "refuse", by, reason, json=json)


@app.command()
def rollback(model: Model, version: Version, reason: Reason, by: By = "", json: Json = False) -> None:
    """Go back to a version that was in service; one person's word is enough."""
    _decide(model, version, "rollback", by, reason, json=json)


@app.command()
def history(model: Model, json: Json = False) -> None:
    """What was decided on a model's versions: when, what, who, why, and on which passport."""
    from contract.federation_api import Decision
    from server.jobs.review import history as decided
    from server.settings import read_settings
    from server.state.storage import open_known_state
    from terminal.model_tables import show_history

    with open_known_state(read_settings().state_url) as state:
        found = [Decision.model_validate(one, from_attributes=True) for one in decided(model, state)]
    show_history(model, found, json=json)


@app.command()
def ui(port: Annotated[int, typer.Option(help="Port on this machine.")] = 5000) -> None:
    """Open the MLflow UI on this machine until Ctrl-C: for a server without server.toml."""
    import os
    import subprocess

    from contract.errors import InputError, RegistryError
    from server.line.processes import require_free
    from server.registry.registry_ui import serve_command, serve_environment
    from server.server_file import read_server_file, server_file
    from server.settings import read_settings
    from terminal.output import say

    settings = read_settings()
    file = read_server_file(settings.home)
    if file is not None:
        raise InputError(
            "at a port of its own MLflow asks nobody who they are: anybody on this machine could use it",
            where=str(server_file(settings.home)),
            remedy=f"Sign in at {file.api}/mlflow/, where `tidegate server up` serves it",
        )
    require_free(port, "the MLflow UI")
    _registry().connect()
    say(f"MLflow UI: http://127.0.0.1:{port} (in some seconds; Ctrl-C stops it)")
    environment = {**os.environ, **serve_environment(settings)}
    code = subprocess.run(serve_command(port), env=environment, check=False).returncode
    if code:
        raise RegistryError(
            f"the MLflow UI ended with status {code}", remedy="What it said stands above this line"
        )


def _decide(
    model: str,
    version: int,
    kind: Literal["approve", "refuse", "rollback"],
    by: str,
    reason: str,
    *,
    json: bool,
) -> None:
    from contract.errors import InputError
    from server.cli.acts import note_act
    from server.jobs import review
    from server.server_file import least_approvals
    from server.settings import read_settings
    from server.state.storage import open_known_state
    from terminal.model_tables import say_review

    review.require_recordable("--by", by)
    review.require_recordable("--reason", reason, most=10_000)
    registry, settings = _registry(), read_settings()
    least, act = least_approvals(settings.home), review.ACTS[kind]
    with open_known_state(settings.state_url) as state:
        needed = review.review_of(model, version, state, least=least).needed
        if kind == "approve" and needed > 1:
            raise InputError(
                f"{needed} different people must approve it, and here anybody could write any name",
                where="--by",
                remedy="Each of them asks the server with a token of their own: tidegate connect",
            )
        found = act(model, version, state, registry, by=by.strip(), reason=reason, least=least)
    note_act(settings.home, f"enters for '{by}': {kind} of {model}, version {version}")
    say_review(found.told(model, version), kind=kind, by=by, json=json)


def _files(model: str, version: int) -> dict[str, bytes]:
    from json import dumps

    from contract.model_statement import STATEMENT_FILE
    from server.jobs.registered import registered_hashes
    from server.jobs.statements import signed_statement
    from server.line.certificates import models_signer, server_files
    from server.settings import read_settings
    from server.state.versions import RegisteredVersions
    from terminal.model_tables import no_version

    registry = _registry()
    if all(one.version != version for one in registry.versions(model)):
        raise no_version(model, version)
    with _known_state() as state:
        if state is None:
            return registry.files(model, version)
        registered = RegisteredVersions(state.database)
        files = registry.files(model, version, registered_hashes(model, version, state, registry))
        certificates = server_files(read_settings().home / "certificates")
        statement = signed_statement(model, version, state, lambda: models_signer(certificates))
        if statement is not None:
            files |= {name: text.encode() for name, text in registered.passports(model, version).items()}
            files[STATEMENT_FILE] = dumps(statement, indent=1).encode()
    return files


@contextmanager
def _known_state() -> Iterator[State | None]:
    """The state database; None where there is only MLflow's, as for who looks at a copy of it."""
    from contract.errors import InputError
    from server.settings import read_settings
    from server.state.storage import open_known_state

    try:
        state = open_known_state(read_settings().state_url)
    except InputError:
        yield None
        return
    with state:
        yield state


def _told(record: VersionRecord, description: str | None) -> ApiVersion:
    from server.api.reading import version_of

    return version_of(record, description)


def _registry() -> Registry:
    from server.registry.registry import Registry
    from server.settings import read_settings
    from server.state.database import require_known

    settings = read_settings()
    if settings.tracking_uri.startswith("sqlite"):  # others are no addresses of a database
        remedy = "Run this in the operator's folder, or name MLflow's address with MLFLOW_TRACKING_URI"
        require_known(settings.tracking_uri, "there are no models here", remedy=remedy)
    return Registry(settings.tracking_uri, settings.artifact_root)
