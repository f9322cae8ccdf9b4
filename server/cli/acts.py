"""Who decided what on the server's own machine: a line for each act, in logs/acts.log of its folder.

The state database says how things stand, and logs/api.log who did what over the API. Here the user is whom
the operating system says.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from server.settings import ServerSettings

__all__ = ["note_act", "note_revocation"]


def note_act(home: Path, act: str) -> None:
    """Write down an act that was done; where that cannot be, say so, for the act stands.

    Args:
        home: the server's folder.
        act: beginning with a verb, such as `revokes site 'north'`.
    """
    import sys
    from datetime import UTC, datetime

    from contract.outside import shown
    from terminal.logs import rotate_output

    path = home / "logs" / "acts.log"
    line = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC {_user()} {shown(act, limit=2000)}\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        rotate_output(path)
        log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(log, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(line)
    except OSError as exc:
        print(f"done, but not written down: {path}: {exc.strerror}", file=sys.stderr)


def note_revocation(settings: ServerSettings, act: str) -> None:
    """Write an act down as `note_act` does, and have a database be noticed that does not know of it.

    Args:
        settings: name the server's folder and its state.
        act: as for `note_act`.
    """
    import sys

    from contract.errors import StorageError
    from server.state.newest import note_newest
    from server.state.storage import open_known_state

    note_act(settings.home, act)
    try:
        with open_known_state(settings.state_url) as state:
            note_newest(settings.home, state.database)
    except StorageError as exc:
        print(f"done, but a restored database would not be noticed: {exc}", file=sys.stderr)


def _user() -> str:
    import pwd

    number = os.getuid()
    try:
        return f"{pwd.getpwuid(number).pw_name} ({number})"
    except KeyError:
        return f"user {number}"
