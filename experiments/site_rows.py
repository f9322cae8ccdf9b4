"""What `tidegate run` on this machine says of the rows of the sites that it is given.

The person who names the sites' folders may see their rows; a federation's data scientist does not.
"""

from __future__ import annotations

from clients.site import Site
from contract.errors import DataError
from contract.experiment import Experiment
from contract.words import counted

__all__ = ["require_rows"]


def require_rows(site: Site, experiment: Experiment, windows: tuple[str, ...]) -> None:
    """Refuse to begin where a site has nothing to train on: most often a mistake in a name.

    Raises:
        DataError: with what was read, and what became of it.
    """
    fit = site.table(experiment, windows, holdout=False).fit
    if fit.kept:
        return
    named = f" in window {', '.join(windows)}" if windows else ""
    reasons = [
        f"{count} for {reason} in '{column}'"
        for column, found in fit.left_out.items()
        for reason, count in found.items()
    ]
    raise DataError(
        f"none of {counted(fit.rows, 'training row')}{named} fits the experiment"
        + (f" (left out: {', '.join(reasons)})" if reasons else ""),
        where=f"site '{site.config.name}'",
        remedy="See that the rows are delivered, and that the window is named as the rows name it",
    )
