"""What `tidegate drift` shows, of a server that runs here or of another."""

from __future__ import annotations

import json as json_text
import sys
from collections.abc import Sequence

from contract.errors import InputError, RoundError
from contract.federation_api import Decision, WindowCheck
from contract.federation_api import Verdict as KeptVerdict
from contract.outside import shown
from contract.verdicts import Verdict
from contract.windows import condensed
from terminal.output import cell, figure, print_json, print_table, say

__all__ = ["check_line", "end_check", "show_verdict", "show_verdicts"]


def check_line(words: str, *, json: bool) -> None:
    """Say something of a check that goes on; beside the JSON, where that is to come."""
    if json:
        print(shown(words), file=sys.stderr, flush=True)
    else:
        say(words)


def end_check(check: WindowCheck, *, json: bool) -> None:
    """What came of a check.

    Raises:
        RoundError: it failed.
    """
    if json:
        print_json(check.model_dump(mode="json"))
    if check.state != "done":
        raise RoundError(
            check.detail,
            where=f"window '{check.window}'",
            remedy="Once that is mended, the same command checks it again",
        )


def show_verdicts(
    experiment: str, verdicts: Sequence[KeptVerdict], decisions: Sequence[Decision], *, json: bool
) -> None:
    """Each window's verdict and decision, oldest first.

    Raises:
        ReleaseError: a verdict is of another version of the program.
    """
    if json:
        print_json(
            {
                "verdicts": [one.model_dump() for one in verdicts],
                "decisions": [one.model_dump() for one in decisions],
            }
        )
        return
    if not verdicts:
        say(f"No window of '{experiment}' was checked for drift yet.")
        return
    reasons = {one.window: f"{one.kind}: {one.reason}" for one in decisions if one.subject == "retraining"}
    print_table(
        ("window", "verdict", "sites", "features", "against", "decision"),
        [(*_row(one), reasons.get(one.window, "–")) for one in verdicts],
        unbroken=("verdict",),
    )


def show_verdict(experiment: str, window: str, found: KeptVerdict | None, *, json: bool) -> None:
    """One window's verdict by site and feature.

    Raises:
        InputError: there is none.
        ReleaseError: it is of another version of the program.
    """
    if found is None:
        raise InputError(
            f"there is no verdict on window '{window}'",
            where=experiment,
            remedy=f"See `tidegate drift list {experiment}`",
        )
    if json:
        print_json(found.model_dump())
        return
    verdict = _read(found)
    rows = [
        (
            site.site,
            feature.feature,
            f"{feature.p_value:.2g}",
            figure(feature.distance),
            cell("drift", "red") if feature.drifted else "",
        )
        for site in (*verdict.sites, verdict.pooled)
        for feature in site.features
    ]
    windows = ", ".join(condensed(verdict.reference_window.split("+")))
    title = f"{experiment}, window {window} against {windows or 'all rows'}"
    print_table(("site", "feature", "p-value", "distance", ""), rows, title=title)
    if verdict.reference:
        say(f"Compared with {verdict.reference}.")


def _row(found: KeptVerdict) -> tuple[object, ...]:
    verdict = _read(found)
    features = {name for site in verdict.sites for name in site.drifted} | set(verdict.pooled.drifted)
    return (
        found.window,
        cell("alarm", "red") if found.alarm else "quiet",
        ", ".join(verdict.sites_in_alarm) or "–",
        ", ".join(sorted(features)) or "–",
        verdict.reference or "all training windows",
    )


def _read(found: KeptVerdict) -> Verdict:
    return Verdict.from_json(json_text.dumps(found.verdict))
