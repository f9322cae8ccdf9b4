"""`tidegate compare` of runs of the server that is here."""

from __future__ import annotations

from pathlib import Path

__all__ = ["compare"]


def compare(*, runs: list[str], plot: Path | None, json: bool) -> None:
    """Show the results of runs side by side: metrics over all sites, and ε."""
    from contract.errors import InputError
    from server.cli.here import reading_here
    from terminal.run_tables import show_results

    with reading_here() as reading:
        found = {name: reading.run_detail(name) for name in runs}
    unknown = [name for name, one in found.items() if one is None]
    if unknown:
        raise InputError(
            f"there is no run '{unknown[0]}'", where="RUN", remedy="`tidegate server status` lists them"
        )
    show_results([one for one in found.values() if one is not None], json=json, plot=plot)
