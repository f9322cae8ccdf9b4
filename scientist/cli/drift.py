"""`tidegate drift …` of the federation of the profile."""

from __future__ import annotations

from pathlib import Path

__all__ = ["check", "list_verdicts", "show"]


def check(*, file: Path, window: str, json: bool) -> None:
    """Have one window checked now, and say what the server says of it.

    Raises:
        InputError: the server refuses.
        RoundError: the check failed.
    """
    from contract.federation_api import NewCheck, WindowCheck
    from scientist.cli.sites import with_all_settings
    from scientist.connected import connect, request_of
    from scientist.watching import follow_check
    from terminal.drift_tables import check_line, end_check
    from terminal.experiment_files import read_experiment

    experiment = with_all_settings(read_experiment(file))
    given = {"experiment": experiment.model_dump_json(), "window": window}
    asked = request_of(NewCheck, given, where="WINDOW", remedy="Name one as `tidegate schedule list` does")
    title = f"{experiment.name}, window {window}"

    def tell(words: str) -> None:
        check_line(f"{title}: {words}", json=json)

    with connect() as connection:
        stands = begun = connection.post("/v1/drift-checks", WindowCheck, asked)
        try:
            for stands in follow_check(connection, begun, say=tell):  # noqa: B007 - the last one is of use
                pass
        except KeyboardInterrupt:
            run = f", as run {stands.run}" if stands.run else ""
            tell(f"its check goes on at the server{run}")
            raise
    tell(f"done: {stands.detail}" if stands.state == "done" else stands.detail)
    end_check(stands, json=json)


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
