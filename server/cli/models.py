"""`tidegate models …`: versions, passports, promotion by a person."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from contract.outside import shown

if TYPE_CHECKING:
    from server.registry.registry import Registry

__all__ = ["app"]

_LONGEST = 5000
"""Characters of a passport's line that are shown."""

app = typer.Typer(no_args_is_help=True, help="Model versions and their passports.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Model = Annotated[str, typer.Argument(help="The model's name: that of its experiment.")]
Version = Annotated[int, typer.Argument(help="The version's number.")]
By = Annotated[str, typer.Option(help="Your name, for the record.")]
Reason = Annotated[str, typer.Option(help="Why, for the record.")]


@app.command("list")
def list_versions(model: Model, json: Json = False) -> None:
    """All versions of a model."""
    from terminal.output import print_json, print_table, say

    versions = _registry().versions(model)
    if json:
        print_json([{**vars(version), "description": None} for version in versions])
        return
    if not versions:
        say(f"There is no version of '{model}' yet.")
        return
    print_table(
        ("version", "aliases", "run", "windows", "private"),
        (
            (
                item.version,
                ", ".join(item.aliases),
                item.tags.get("tidegate.run", "–"),
                _windows(item.tags.get("tidegate.windows", "–")),
                item.tags.get("tidegate.private", "–"),
            )
            for item in versions
        ),
    )


def _windows(tag: str) -> str:
    """The windows of a version's tag, which is JSON where it is ours."""
    from json import loads

    from contract.windows import condensed

    try:
        return ", ".join(condensed([str(window) for window in loads(tag)])) or "all rows"
    except (ValueError, TypeError):
        return tag


@app.command()
def show(model: Model, version: Version) -> None:
    """The passport of a version."""
    from rich.markdown import Markdown

    from contract.errors import InputError
    from terminal.output import console

    found = [item for item in _registry().versions(model) if item.version == version]
    if not found:
        raise InputError(
            f"there is no version {version} of '{model}'", remedy=f"See `tidegate models list {model}`"
        )
    lines = [shown(line, limit=_LONGEST) for line in found[0].description.splitlines()]
    console.print(Markdown("\n".join(lines), hyperlinks=False))


@app.command()
def promote(model: Model, version: Version, by: By, reason: Reason) -> None:
    """Make a version the champion; the decision is recorded with your name."""
    _move(model, version, "promote", by, reason)


@app.command()
def rollback(model: Model, version: Version, by: By, reason: Reason) -> None:
    """Go back to an earlier version; the decision is recorded with your name."""
    _move(model, version, "rollback", by, reason)


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
    code = subprocess.run(serve_command(settings, port), env=environment, check=False).returncode
    if code:
        raise RegistryError(
            f"the MLflow UI ended with status {code}", remedy="What it said stands above this line"
        )


def _move(model: str, version: int, kind: str, by: str, reason: str) -> None:
    from contract.errors import InputError
    from server.registry.registry import CHAMPION
    from server.settings import read_settings
    from server.state.storage import open_known_state
    from terminal.output import say

    _require_fits("--by", by)
    _require_fits("--reason", reason, most=10_000)
    registry = _registry()
    if version not in {item.version for item in registry.versions(model)}:
        raise InputError(
            f"there is no version {version} of '{model}'", remedy=f"See `tidegate models list {model}`"
        )
    with open_known_state(read_settings().state_url) as state:
        state.record_decision(
            model,
            window="",
            kind="promote" if kind == "promote" else "rollback",
            subject=f"version {version}",
            by=by,
            reason=reason,
        )
    registry.set_alias(model, CHAMPION, version)
    say(f"version {version} of '{model}' is the champion ({kind} by {by})")


def _require_fits(option: str, text: str, most: int = 200) -> None:
    """Refuse what no database takes: the decision is recorded for ever.

    Raises:
        InputError: it is empty, too long, or holds characters that cannot be shown.
    """
    from contract.errors import InputError

    if not text.strip() or len(text) > most or not text.replace("\n", " ").isprintable():
        raise InputError(
            f"this cannot be recorded: 1 to {most} characters, each of which can be printed",
            where=option,
            remedy="Write it in plain text",
        )


def _registry() -> Registry:
    from server.registry.registry import Registry
    from server.settings import read_settings
    from server.state.database import require_known

    settings = read_settings()
    if settings.tracking_uri.startswith("sqlite"):  # others are no addresses of a database
        remedy = "Run this in the operator's folder, or name MLflow's address with MLFLOW_TRACKING_URI"
        require_known(settings.tracking_uri, "there are no models here", remedy=remedy)
    return Registry(settings.tracking_uri, settings.artifact_root)
