"""`tidegate site personal` and `predict`: a part of the model that is the site's own, and what it says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from clients.cli.ledger import Json, SiteFile
from terminal.window_option import WindowNames

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from contract.experiment import Experiment

__all__ = ["personal", "predict"]

_PRIVATE = "Exact figures of private rows, for you alone: do not send them on."
_STAYS = "It was fitted to raw rows, and is not private: it stays here, as the rows do."

Folder = Annotated[Path, typer.Argument(help="The folder that `tidegate models fetch` wrote.")]


def personal(
    file: SiteFile,
    folder: Folder,
    part: Annotated[
        Literal["bias", "head"],
        typer.Option(help="What is fitted: the last layer's bias, or all of that layer."),
    ] = "bias",
    window: WindowNames = None,
    json: Json = False,
) -> None:
    """Fit a part of a fetched model to the rows here, for predictions here. It is never sent."""
    from clients.personal import Personal, figures, fit, keep, require_part
    from clients.rows.rows import read_rows
    from clients.rows.table import prepare
    from clients.site import open_site
    from clients.site_config import holdout_key
    from contract.errors import DataError
    from terminal.output import figure, print_json, print_table, say

    site = open_site(file)
    experiment, arrays, digest = _model(folder)
    require_part(experiment)
    windows = tuple(window or ())
    site.require_offered(experiment, windows)
    rows = read_rows(site.config, site.card, key=holdout_key(site.config.storage))
    train, held_out = (
        prepare(rows.of(windows, holdout=side), experiment, site.card) for side in (False, True)
    )
    if not len(train.labels) or not len(held_out.labels):
        raise DataError(
            f"{len(train.labels)} training rows and {len(held_out.labels)} held-out rows fit: it needs both",
            where=f"site '{site.config.name}'",
            remedy="`tidegate site check` with the model's experiment says why rows do not fit",
        )
    found = fit(experiment, arrays, train, part)
    kept = Personal(
        part=part, model=digest, values={name: value.reshape(-1).tolist() for name, value in found.items()}
    )
    path = keep(site.config.storage.folder, experiment, kept)
    shared, ours = figures(experiment, arrays, held_out), figures(experiment, {**arrays, **found}, held_out)
    counts = {"training_rows": len(train.labels), "held_out_rows": len(held_out.labels)}
    if json:
        told = {"private": _PRIVATE, "part": part, "file": str(path), **counts}
        print_json({**told, "shared": shared, "personal": ours})
        return
    say(_PRIVATE, "bold yellow")
    print_table(
        ("on held-out rows here", "shared model", "with this site's part"),
        [(name, figure(shared[name]), figure(ours[name])) for name in shared],
    )
    say(
        f"The {part} was fitted to {counts['training_rows']:,} training rows, and judged on "
        f"{counts['held_out_rows']:,} others. {_STAYS} It is in {path}."
    )
    say("Predict with it: `tidegate site predict` with the same folder and a CSV file.")


def predict(  # noqa: PLR0913, PLR0917 - a command's options
    file: SiteFile,
    folder: Folder,
    rows: Annotated[Path, typer.Argument(help="A CSV file with a column for each feature.")],
    shared: Annotated[bool, typer.Option(help="By the shared model, as everybody has it.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write all predictions to this new CSV file.")] = None,
    separator: Annotated[str, typer.Option(help="The sign between columns.")] = ",",
    decimal: Annotated[str, typer.Option(help="The decimal sign: '.' or ','.")] = ".",
    missing: Annotated[
        list[str] | None, typer.Option(help="A text that stands for a missing value. Repeat for more.")
    ] = None,
    json: Json = False,
) -> None:
    """Predict for each row of a file, by the model and the part of it that was fitted here."""
    from clients.personal import kept
    from clients.site_config import read_site_config
    from contract.errors import InputError
    from serving.prediction import Predictor
    from terminal.output import say
    from terminal.predictions import RowFile, predict_by

    config = read_site_config(file)
    experiment, arrays, digest = _model(folder)
    part = None if shared else kept(config.storage.folder, experiment, digest)
    if part is None and not shared:
        raise InputError(
            "no part of this model was fitted here",
            where=f"site '{config.name}'",
            remedy="Fit one with `tidegate site personal`, or predict by the shared model with --shared",
        )
    predictor = Predictor(
        experiment=experiment, arrays=arrays if part is None else part.put_into(experiment, arrays)
    )
    file_of_rows = RowFile(path=rows, separator=separator, decimal=decimal, missing=tuple(missing or ()))
    told = {"model": experiment.name, "part": None if part is None else part.part}
    by = f"{experiment.name} with this site's {part.part}" if part else f"{experiment.name} as it is shared"
    predict_by(predictor, file_of_rows, told, by=by, out=out, json=json)
    if part is not None and not json:
        say("These predictions tell of the rows that the part was fitted to: they are not private.", "yellow")


def _model(folder: Path) -> tuple[Experiment, dict[str, npt.NDArray[np.float32]], str]:
    """The shared model of a folder, and SHA-256 of its arrays."""
    from contract.model_version import ARRAYS_FILE, sha256
    from serving.model_folder import read_folder

    experiment, arrays = read_folder(folder)
    return experiment, arrays, sha256((folder / ARRAYS_FILE).read_bytes())
