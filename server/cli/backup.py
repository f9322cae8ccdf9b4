"""`tidegate server backup`: what the server remembers, kept elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["backup"]


def backup(
    folder: Annotated[Path, typer.Argument(help="The folder to make; there must be nothing of that name.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Copy the server's databases and models, whole and checked, while it runs; its keys stay out."""
    from server.federation import superlink_database
    from server.settings import read_settings
    from server.state.backup import back_up
    from terminal.output import print_json, say

    settings = read_settings()
    made = back_up(
        folder,
        state_url=settings.state_url,
        tracking_uri=settings.tracking_uri,
        superlink=superlink_database(settings.home),
        artifact_root=settings.artifact_root,
    )
    keys = [str(settings.home / name) for name in ("certificates", "server.toml")]
    if json:
        print_json({"folder": str(folder), **vars(made), "not_in_it": keys})
        return
    for name, size in made.files.items():
        say(f"wrote {folder / name}: {size:,} bytes, checked")
    if made.artifacts is not None:
        say(f"wrote {folder / 'mlruns' / 'artifacts'}: {made.artifacts} files of models and plots")
    for what, command in made.commands.items():
        if command:
            say(f"{what} lies in PostgreSQL; its password is not shown (PGPASSWORD, ~/.pgpass):", "yellow")
            say(f"  {command}")
        else:
            say(f"{what} lies at a tracking server: back it up there, with its artifacts", "yellow")
    say(f"not in it, and to be kept apart, once, for they do not change: {' and '.join(keys)}")
