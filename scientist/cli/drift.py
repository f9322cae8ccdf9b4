"""`tidegate drift …` of the federation of the profile."""

from __future__ import annotations

__all__ = ["list_verdicts", "show"]


def list_verdicts(*, experiment: str, json: bool) -> None:
    """Each window's verdict and decision."""
    from contract.federation_api import Decisions, Verdicts
    from scientist.connected import connect, require_experiment
    from terminal.drift_tables import show_verdicts

    name = require_experiment(experiment)
    with connect() as connection:
        verdicts = [
            one
            for page in connection.pages("/v1/verdicts", Verdicts, experiment=name)
            for one in page.verdicts
        ]
        decisions = [
            one
            for page in connection.pages("/v1/decisions", Decisions, experiment=name)
            for one in page.decisions
        ]
    show_verdicts(experiment, verdicts[::-1], decisions[::-1], json=json)


def show(*, experiment: str, window: str, json: bool) -> None:
    """One window's verdict."""
    from contract.federation_api import Verdicts
    from scientist.connected import connect, require_experiment, require_window
    from terminal.drift_tables import show_verdict

    name, wanted = require_experiment(experiment), require_window(window)
    with connect() as connection:
        found = connection.get("/v1/verdicts", Verdicts, experiment=name, window=wanted).verdicts
    of_window = [one for one in found if one.window == window]
    show_verdict(experiment, window, of_window[0] if of_window else None, json=json)
