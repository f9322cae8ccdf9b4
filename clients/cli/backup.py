"""`tidegate site backup` and `tidegate site restore`: the ledger, kept elsewhere and put back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clients.cli.ledger import Json, SiteFile

if TYPE_CHECKING:
    from clients.site_config import SiteConfig

__all__ = ["backup", "restore"]


def backup(
    file: SiteFile,
    target: Annotated[Path, typer.Argument(help="The file to write; there must be none of that name.")],
    json: Json = False,
) -> None:
    """Copy the ledger, whole and checked, while the agent runs."""
    from clients.ledger.backup import back_up
    from clients.site_config import read_site_config
    from terminal.output import print_json, say

    storage = read_site_config(file).storage
    entries, head = back_up(storage.ledger, target)
    if json:
        print_json({"path": str(target), "entries": entries, "head": head})
        return
    say(f"wrote {target}: {entries} entries, checked")
    say(f"keep {storage.folder / 'site.key'} beside it: it signs the ledger, and does not change")


def restore(
    file: SiteFile,
    backup: Annotated[Path, typer.Argument(help="What `tidegate site backup` wrote.")],
    window: Annotated[
        list[str] | None,
        typer.Option(
            help="A window that has, or had, rows; repeat for each. Windows that are not named count as new."
        ),
    ] = None,
    later: Annotated[
        bool,
        typer.Option(
            "--later-windows",
            help="Read from the rows which windows there are now; those that come later count as new.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Put a backup of the ledger back. What it may lack counts as spent: the cap, on every block of now.

    Without --window and --later-windows that is every window, also those to come.
    """
    from datetime import UTC, datetime

    from clients.keys import site_signer
    from clients.ledger.backup import restore as restore_backup
    from clients.ledger.plan import Cap
    from clients.line.agent import one_agent
    from clients.site_config import read_site_config
    from terminal.output import print_json, say

    config = read_site_config(file)
    storage, policy = config.storage, config.policy
    storage.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    windows = {*(window or ()), *(_windows_of_rows(config) if later else ())}
    with one_agent(storage.agent_lock):
        done = restore_backup(
            storage.ledger,
            backup,
            site=config.name,
            cap=Cap(epsilon=policy.epsilon_cap, delta=policy.delta_cap),
            clock=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"),
            signer=site_signer(storage.folder),
            windows=sorted(windows) if later or window else None,
        )
    if json:
        print_json(
            {name: str(value) if isinstance(value, Path) else value for name, value in vars(done).items()}
        )
        return
    lines = [f"put back {done.entries} entries"]
    if done.lost == 0:
        lines.append("nothing was lost: they reach to the ledger's anchor")
    else:
        missing = "nobody knows how many" if done.lost is None else f"{done.lost}"
        named = f"the windows {', '.join(sorted(windows)) or '(none)'}"
        spent = named if later or window else "every window, also those to come,"
        lines += [
            f"entries that are missing: {missing}",
            f"{spent} and the whole data set now count as having spent the cap",
        ]
    if done.kept is not None:
        lines.append(f"the file that was there is {done.kept}")
    for line in lines:
        say(line)


def _windows_of_rows(config: SiteConfig) -> set[str]:
    """Of the administrator's own rows, for the administrator: what a row says its window is."""
    from clients.rows.rows import read_rows
    from clients.site_config import holdout_key
    from contract.errors import InputError

    held = read_rows(config, config.offered, key=holdout_key(config.storage)).window
    if held is None:
        raise InputError(
            "the card has no time, so there are no windows",
            where="--later-windows",
            remedy="Leave it out: every row counts as having spent the cap",
        )
    return {window for window in held if window is not None}
