"""`tidegate site backup` and `tidegate site restore`: the ledger, kept elsewhere and put back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clients.cli.ledger import Json, SiteFile
from contract.windows import expanded

if TYPE_CHECKING:
    from clients.ledger.backup import Prospect
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
            callback=lambda names: list(expanded(names or ())),
            help="A window that has, or had, rows; A..B means every one from A to B. Repeat it. Windows "
            "that are not named count as new.",
        ),
    ] = None,
    later: Annotated[
        bool,
        typer.Option(
            "--later-windows",
            help="Read from the rows which windows there are now; those that come later count as new.",
        ),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask before what is lost counts as spent, for ever.")
    ] = False,
    json: Json = False,
) -> None:
    """Put a backup of the ledger back. What it may lack counts as spent: the cap, on every block of now.

    Without --window and --later-windows that is every window, also those to come. It cannot be undone.
    """
    from datetime import UTC, datetime

    from clients.keys import site_signer
    from clients.ledger.backup import look
    from clients.ledger.backup import restore as restore_backup
    from clients.ledger.plan import Cap
    from clients.line.agent import one_agent
    from clients.site_config import read_site_config
    from terminal.output import print_json, say

    config = read_site_config(file)
    storage, policy = config.storage, config.policy
    storage.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    named = {*(window or ()), *(_windows_of_rows(config) if later else ())}
    windows = sorted(named) if later or window else None
    cap = Cap(epsilon=policy.epsilon_cap, delta=policy.delta_cap)
    signer = site_signer(storage.folder)

    def clock() -> str:
        return datetime.now(UTC).isoformat(timespec="milliseconds")

    with one_agent(storage.agent_lock):
        prospect = look(storage.ledger, backup, site=config.name, cap=cap, clock=clock, signer=signer)
        persons = prospect.persons or (config.card is not None and config.card.person is not None)
        spent = _what_is_spent(windows, persons=persons)
        if not prospect.whole:
            _confirm(backup, prospect, spent, yes=yes, silent=json)
        done = restore_backup(
            storage.ledger,
            backup,
            site=config.name,
            cap=cap,
            clock=clock,
            signer=signer,
            windows=windows,
            split=None if windows is None else _split(config),
        )
    if json:
        print_json(
            {name: str(value) if isinstance(value, Path) else value for name, value in vars(done).items()}
        )
        return
    say(f"put back {done.entries} entries")
    if prospect.whole:
        say("nothing was lost: they reach to the ledger's anchor")
    else:
        say(f"it is done: {spent}")
    if done.kept is not None:
        say(f"the file that was there is {done.kept}")


def _what_is_spent(windows: list[str] | None, *, persons: bool) -> str:
    """What counts as spent from then on, in plain words where that is everything."""
    if persons:
        return "nothing may be released from this site again: a person's rows are in every window"
    if windows is None:
        return (
            "nothing may be released from this site again: every window, also those to come, and the whole "
            "data set count as having spent the cap"
        )
    return (
        f"the windows {', '.join(windows) or '(none)'} and the whole data set count as having spent the cap, "
        "for ever, and every window once the card deals rows otherwise"
    )


def _confirm(backup: Path, prospect: Prospect, spent: str, *, yes: bool, silent: bool) -> None:
    """Say what is lost, and ask; where nobody can be asked, only `--yes` goes on.

    Raises:
        InputError: there is no terminal, and no `--yes`.
        Exit: the answer was no.
    """
    import sys

    from contract.errors import InputError
    from terminal.output import say

    missing = "nobody knows how many" if prospect.lost is None else f"{prospect.lost}"
    loss = f"the backup has {prospect.entries} entries; entries that are missing: {missing}"
    advice = "Look for the newest backup first: this cannot be undone, nor may a newer one be put back later"
    if not yes and (silent or not sys.stdin.isatty()):
        raise InputError(
            f"{loss}. If it is put back, {spent}",
            where=str(backup),
            remedy=f"{advice}. If there is none, say --yes",
        )
    if not silent:
        say(loss, "yellow")
        say(f"if it is put back, {spent}", "bold red")
        say(f"{advice}.")
    if not yes and not typer.confirm("Put it back?"):
        say("nothing was changed")
        raise typer.Exit(1)


def _split(config: SiteConfig) -> str | None:
    from clients.site import split_of
    from clients.site_config import holdout_key

    card = config.card
    return None if card is None else split_of(config, card, lambda: holdout_key(config.storage)).name


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
