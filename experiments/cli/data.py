"""`tidegate data NAME FOLDER`: lay a public data set out as sites."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["lay_out"]


def lay_out(
    name: Annotated[str, typer.Argument(help="rand-health, heart-disease or bank-marketing.")],
    folder: Annotated[Path, typer.Argument(help="The folder to make.")],
) -> None:
    """Lay a public data set out as one folder a site, each with its site.toml."""
    from experiments.data.datasets import prepare_sites
    from terminal.output import print_table

    paths = prepare_sites(name, folder)
    print_table(("site", "site.toml"), ((path.parent.name, path) for path in paths))
