"""What each site alone would reach: the same experiment, with a cohort of one site.

A site alone is asked by the messages of any other run, through the same gate, and is charged for it: its
training and its evaluation are releases of their own. Where the recipe is for such an experiment it chooses
the settings of a site alone, for that site's rows: those of many rows would carry too much noise. Otherwise
they are the run's. Both models are evaluated on the site's own held-out rows.

A site alone has the run's experiment under a name of its own, made of experiment, windows and site: so what
was once paid for is found again, and no model of the run's name is touched.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contract.experiment import Experiment, Strategy
from contract.figures import Figure
from contract.recipe import recommended
from terminal.output import figures_of_run
from terminal.run_tables import difference

__all__ = ["ComparedSite", "alone", "compared_sites", "shown_figures", "worth"]

_LONGEST_NAME = 63
_SPOILT = ("not-converged", "steps-too-large", "worse-than-constant", "not-shown", "little-learnt")
_SHOWN = ("log_loss", "auc", "mae", "r2")


@dataclass(frozen=True, kw_only=True)
class ComparedSite:
    """A site in the run, and alone.

    Attributes:
        site: its name.
        together, alone: figures on its own held-out rows, errors as `<name>_error`.
        run: of the site alone; empty where there is none.
        reason: why there is none; empty where there is.
        verdict: of the diagnosis of the run alone; empty where there is none.
    """

    site: str
    together: Mapping[str, float]
    alone: Mapping[str, float]
    run: str = ""
    reason: str = ""
    verdict: str = ""

    @property
    def was_spoilt(self) -> bool:
        """Whether the run alone went wrong, so that it says less than the site could reach."""
        return self.verdict in _SPOILT

    def better(self, figure: Figure) -> tuple[float, float] | None:
        """How much better the run's figure is, and its error; None where it is not measurable."""
        return difference(self.alone, self.together, figure)


def alone(experiment: Experiment, site: str, stated_rows: int, windows: Sequence[str] = ()) -> Experiment:
    """The experiment for one site.

    Args:
        experiment: of the run, with all its settings.
        site: its public name.
        stated_rows: its public number of rows.
        windows: that the run was trained on.
    """
    strategy = experiment.strategy.model_dump(exclude={"quorum", "sites", "aggregation", "reason"})
    own = Strategy(**strategy, quorum=1, sites=(site,))
    plan = experiment.model_copy(update={"strategy": own, "name": _name(experiment, site, windows)})
    plan = recommended(plan, [stated_rows]) or plan
    return Experiment.model_validate_json(plan.model_dump_json())


def compared_sites(
    result: Mapping[str, Any], runs: Mapping[str, tuple[str, Mapping[str, Any]]], reasons: Mapping[str, str]
) -> list[ComparedSite]:
    """Each site of a run's result beside its run alone.

    Args:
        result: of the run.
        runs: name and result of each site's run alone.
        reasons: why a site has none.
    """
    found = []
    for site in sorted(result["privacy"]):
        run, own = runs.get(site, ("", {}))
        found.append(
            ComparedSite(
                site=site,
                together=result["metrics"]["sites"].get(site, {}),
                alone=own.get("metrics", {}).get("sites", {}).get(site, {}),
                run=run,
                reason=reasons.get(site, ""),
                verdict=own.get("diagnosis", {}).get("verdict", ""),
            )
        )
    return found


def shown_figures(result: Mapping[str, Any]) -> list[Figure]:
    """Those that a comparison shows."""
    return [figure for figure in figures_of_run(result) if figure.name in _SHOWN]


def worth(sites: Sequence[ComparedSite], figure: Figure) -> str:
    """What federation is worth in one figure, in a sentence: differences within two errors count as none."""
    found = [one.better(figure) for one in sites]
    told = [one for one in found if one is not None]
    better = sum(gain > 2 * error for gain, error in told)
    worse = sum(gain < -2 * error for gain, error in told)
    same = len(told) - better - worse
    hidden = len(found) - len(told)
    words = f"{figure.word}: together is better at {better}, worse at {worse}, not told apart at {same} of "
    words += f"{len(found)} sites"
    return f"{words}; not measurable at {hidden}." if hidden else f"{words}."


def _name(experiment: Experiment, site: str, windows: Sequence[str]) -> str:
    """The same for the same experiment, windows and site, and for no other."""
    key = hashlib.sha256(json.dumps([experiment.digest, site, sorted(windows)]).encode()).hexdigest()[:10]
    letters = re.sub(r"[^a-z0-9]+", "-", f"{experiment.name}-alone-{site}".lower()).strip("-")
    return f"{letters[: _LONGEST_NAME - len(key) - 1]}-{key}"
