"""`tidegate ranges FILE`, asked of the federation of the profile."""

from __future__ import annotations

from pathlib import Path

import typer

__all__ = ["ask_there"]

_SIGN_DAYS = 14
"""So long sites take the signature of a question, which may wait for an approval."""


def ask_there(
    file: Path, *, epsilon: float, share: float, windows: list[str], write: Path | None, json: bool
) -> None:
    """Ask for the ranges of the features that state none, and show the answer.

    Args:
        file: the experiment file.
        epsilon: what the answer may cost each site.
        share: of the rows, how many may lie below a range, and above it.
        windows: whose rows are used; empty for all.
        write: where a copy of the file with the ranges goes; None for nowhere.
        json: end with one JSON object, and say nothing before.

    Raises:
        InputError: the file is wrong, or the server refuses the question.
        TidegateError: it was not answered.
    """
    from contract.federation_api import RangeSubmission, Submitted
    from scientist.cli.runs import ended_run
    from scientist.connected import connect, request_of, understood
    from scientist.signing import UNSIGNED, active_signer
    from terminal.new_files import require_new
    from terminal.output import say
    from terminal.range_files import give_ranges, read_unranged

    if write is not None:
        require_new(write)
    unranged = read_unranged(file)
    given = {
        "experiment": unranged.experiment.model_dump_json(),
        "windows": windows,
        "features": list(unranged.features),
        "epsilon": epsilon,
        "share": share,
    }
    remedy = "Nothing was asked and nothing charged"
    asked = request_of(RangeSubmission, given, where="ranges", remedy=remedy)
    with connect() as connection:
        signer = active_signer(_SIGN_DAYS)
        if signer is not None:
            mandate = signer.ranges(unranged.experiment, windows, asked.features, epsilon)
            asked = asked.model_copy(update={"mandate": mandate})
        submitted = connection.post("/v1/ranges", Submitted, asked)
        if not json:
            say(f"question '{submitted.run}' is submitted")
            if signer is None:
                say(UNSIGNED, "yellow")
        result = ended_run(connection, submitted.run, json=json).result or {}
    with understood(submitted.run):
        is_whole = give_ranges(result, unranged, file=file, write=write, json=json)
    if not is_whole:
        raise typer.Exit(1)
