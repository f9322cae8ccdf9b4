"""Results of runs side by side."""

from __future__ import annotations

from dataclasses import dataclass

from contract.errors import InputError
from contract.federation_api import RunDetail
from experiments.installation import telling_what_is_missing
from experiments.python.plots import plot_results
from experiments.python.run import Run
from scientist.connected import understood
from terminal.display import Picture, Shown, html_of, text_of
from terminal.run_tables import results_table

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True, kw_only=True, repr=False)
class Comparison:
    """Results of runs side by side, as each was measured on the held-out rows of all its sites.

    Attributes:
        runs: what is known of each.
    """

    runs: tuple[RunDetail, ...]

    def _parts(self) -> list[Shown]:
        with understood(", ".join(one.run.name for one in self.runs)):
            parts: list[Shown] = list(results_table(self.runs))
            if sum(one.result is not None and "metrics" in one.result for one in self.runs) > 1:
                ended = [one for one in self.runs if one.result is not None and "metrics" in one.result]
                parts.append(Picture(draw=lambda: plot_results(ended), alt="the figures of each run"))
        return parts

    def __repr__(self) -> str:
        return text_of(self._parts())

    def _repr_html_(self) -> str:
        return html_of(self._parts())


@telling_what_is_missing
def compare(*runs: Run) -> Comparison:
    """The results of these runs side by side.

    Raises:
        InputError: there is none.
    """
    if not runs:
        raise InputError("no run is named", where="compare()", remedy="Give two or more")
    return Comparison(runs=tuple(one.detail() for one in runs))
