"""Four real hospitals: FLamby's published table, reproduced, and our private results beside it.

    python -m experiments.studies.flamby_heart [--json] [--out FOLDER] [--quick]

The table of the FLamby benchmark for Fed-Heart-Disease (Ogier du Terrail et al., 2022) is trained anew from
its recipe, without privacy (`flamby_baselines`), over its seeds 42 to 46. Beside it stand our
differentially private results at δ = 10⁻⁴ a hospital, with ε as the sites' ledgers state it:

* on FLamby's split, five runs each, by the product's whole path (`heart_accuracy`: sites,
  ledgers, rounds, MLflow's registry, and the model taken back out of it);
* over 30 splits, one run each, by the same path without the registry (`heart_resplits`), with
  95 % confidence intervals, beside logistic regression without privacy on the same training patients.

Settings at each ε were chosen beforehand on training rows (`heart_accuracy.settings_at`); the
shipped experiment file is run as it is, too. The training patients of FLamby's split, on which they were
chosen, are held out in other splits; what is chosen there is no more than two settings of three numbers, and
that the resting ECG is left out.

A plot, `flamby-heart.png`, is written into FOLDER, by default `flamby-heart/` where the command is run.
"""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contract.errors import InputError, TidegateError
from experiments.studies.flamby_study import FULL, QUICK, Figures, Study, run_study

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw", "main", "tell"]


def draw(study: Study) -> bytes:
    """The study as a PNG: accuracy on FLamby's split, and AUC over the other splits."""
    import io

    from terminal.figures import make_figure

    title = f"Four hospitals, heart disease: private (δ = {study.delta:g} a hospital) and not"
    figure, (left, right) = make_figure(title, width=13, height=5.6, panels=2)
    _draw_accuracy(left, study)
    _draw_auc(right, study)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw_accuracy(axes: Axes, study: Study) -> None:
    from terminal.figures import COLOURS, GREY

    rows = [*study.benchmark, *study.private][::-1]
    for place, row in enumerate(rows):
        published = row.published[0]
        if published is not None:
            axes.plot(published, place, marker="D", markersize=6, color=GREY, linestyle="none")
        colour = COLOURS[1] if row.epsilon is None else COLOURS[0]
        axes.plot(row.mean_accuracy, place, marker="o", markersize=8, color=colour, alpha=0.9)
        axes.annotate(f"{row.mean_accuracy:.3f}", (row.mean_accuracy, place), (9, -3),
                      textcoords="offset points", fontsize=9)  # fmt: skip
    axes.set_yticks(range(len(rows)), [f"{row.name}{'' if row.epsilon else ', not private'}" for row in rows])
    axes.margins(x=0.15)
    axes.set_xlabel("Accuracy, mean of the hospitals, FLamby's split (diamond: as FLamby published it)")


def _draw_auc(axes: Axes, study: Study) -> None:
    from terminal.figures import COLOURS

    private = [row for row in study.resplits if row.epsilon is not None and row.intervals]
    for place, row in enumerate(private):
        assert row.intervals is not None  # chosen so  # noqa: S101
        span = row.intervals["auc"]
        axes.plot([place, place], [span.low, span.high], color=COLOURS[0], linewidth=2.5)
        axes.plot(place, row.auc, marker="o", markersize=8, color=COLOURS[0])
    best = study.best_without_privacy
    axes.axhline(best, color=COLOURS[1], linewidth=1.6)
    axes.annotate(f"{best:.3f} pooled, not private", (0, best), (0, 5),
                  textcoords="offset points", color=COLOURS[1], fontweight="bold")  # fmt: skip
    names = [row.name.replace(", shipped", "\nshipped") for row in private]
    axes.set_xticks(range(len(private)), names)
    axes.margins(x=0.1, y=0.15)
    axes.set_ylabel("AUC, all held-out patients of a split, mean of splits and 95 % interval")


def tell(study: Study) -> None:
    """Print the tables."""
    from terminal.output import figure, print_table, say

    columns = ("mean", "pooled", "AUC", "mean AUC")
    print_table(
        ("method", *columns, "published"),
        [(row.name, *_cells(row), _published(row)) for row in study.benchmark],
        title="FLamby's methods without privacy, reproduced on its split",
    )
    print_table(
        ("ours", "spent", *columns, "published"),
        [(row.name, figure(row.epsilon, 2), *_cells(row), _published(row)) for row in study.private],
        title=f"Private on the same split, δ = {study.delta:g} a hospital",
    )
    best = study.best_without_privacy
    print_table(
        ("ours and pooled", *columns, "ratio"),
        [(row.name, *_cells(row), figure(row.auc / best)) for row in study.resplits],
        title="Over other splits, with half the 95 % confidence interval",
    )
    say(
        "mean: accuracy, mean of the four hospitals; pooled: accuracy of all held-out patients together; "
        "AUC: of all together; mean AUC: of the hospitals that hold out both classes; published: FLamby's "
        "mean (pooled), for the private ones at an ε that it claims and does not hold; ratio: AUC over the "
        "best without privacy."
    )


def _cells(row: Figures) -> list[str]:
    """The four figures; with an interval as `.872±.009`, which leaves a narrow terminal room."""
    kinds = ("mean_accuracy", "pooled_accuracy", "auc", "mean_auc")
    if row.intervals is None:
        return [f"{getattr(row, kind):.3f}" for kind in kinds]
    spans = [row.intervals[kind] for kind in kinds]
    return [f"{one.mean:.3f}±{(one.high - one.low) / 2:.3f}".replace("0.", ".") for one in spans]


def _published(row: Figures) -> str:
    mean, together = row.published
    return ("" if mean is None else f"{mean:.3f}") + ("" if together is None else f" ({together:.3f})")


def main(
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    out: Annotated[Path, typer.Option(help="The folder for the plot.")] = Path("flamby-heart"),
    quick: Annotated[bool, typer.Option("--quick", help="Two seeds, three splits, one ε.")] = False,
) -> None:
    """Reproduce FLamby's table for Fed-Heart-Disease and set our private results beside it."""
    from server.settings import apply_quiet_environment
    from terminal.output import Steps, print_json, quiet_flower, say

    apply_quiet_environment()
    quiet_flower()
    logging.getLogger("tidegate.site").setLevel(logging.ERROR)  # what a site's own log says of its rows
    began = time.perf_counter()
    _make(out)
    bar: Steps | None = None

    def told(done: int, total: int, note: str) -> None:
        nonlocal bar
        bar = bar or Steps("flamby-heart", total, silent=json)
        bar.show(done, note)

    try:
        study = run_study(QUICK if quick else FULL, told)
    finally:
        if bar is not None:
            bar.close()
    plot = out / "flamby-heart.png"
    plot.write_bytes(draw(study))
    seconds = time.perf_counter() - began
    if json:
        print_json({**asdict(study), "plot": plot, "seconds": seconds})
        return
    tell(study)
    say(f"plot: {plot.resolve()}; {seconds:.0f} s")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise InputError(
            f"the folder cannot be made: {exc.strerror}", where=str(folder), remedy="Name another with --out"
        ) from exc


if __name__ == "__main__":
    try:
        typer.run(main)
    except TidegateError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(problem.exit_code)
