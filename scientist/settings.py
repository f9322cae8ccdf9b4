"""A scientist's settings: the one module of this package that reads the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ScientistSettings", "read_settings"]


@dataclass(frozen=True, kw_only=True)
class ScientistSettings:
    """Where profiles are, and what the environment says of a connection.

    Attributes:
        folder: of the profiles.
        token: to connect with; empty for none.
        profile: the name of the one to use; empty for the active one, `-` for none.
        server_home: where a server that runs on this machine would have its folder.
    """

    folder: Path
    token: str
    profile: str
    server_home: Path


def read_settings(environ: Mapping[str, str] = os.environ) -> ScientistSettings:
    """Read `XDG_CONFIG_HOME` (by default `~/.config`) and TIDEGATE's `TOKEN`, `PROFILE` and `HOME`."""
    named = environ.get("XDG_CONFIG_HOME") or ""
    config = Path(named) if Path(named).is_absolute() else Path.home() / ".config"
    return ScientistSettings(
        folder=config / "tidegate",
        token=environ.get("TIDEGATE_TOKEN") or "",
        profile=environ.get("TIDEGATE_PROFILE") or "",
        server_home=Path(environ.get("TIDEGATE_HOME") or ".tidegate"),
    )
