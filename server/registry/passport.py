"""The model passport: what a reviewer must know of a model version, as Markdown.

It is the version's description in MLflow, whose page renders GitHub's flavour, breaks
a line at each newline, and lets no style and no colour through: a warning is an emoji
and bold words, and every paragraph and table row is one line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import ROUND_CEILING, Decimal
from itertools import pairwise

from contract.clipped import clipped_epsilon
from contract.experiment import Experiment, Label, Model, NumericFeature, Strategy, Task
from contract.figures import METRICS, PAIRED, Estimate, Figure, figures_for
from contract.outside import shown
from contract.quantization import is_quantized
from contract.regression import Measured
from contract.releases import CalibrationBin, Spent
from contract.words import DECIDED
from server.state.participation import runs_of
from server.state.records import DecisionRecord

__all__ = ["ModelComparison", "Passport", "SitePassport", "fitted", "render", "size_band", "with_decisions"]

_LONGEST = 2000
"""Characters of a text from outside."""
_BLOCK = re.compile(r"^[-+=]")
"""What begins a list, or makes a heading of the line before."""
_LONGEST_DESCRIPTION = 5000
_MOST_CATEGORIES = 12
"""Of a feature that are listed."""
_HIDDEN = 0.15
"""The standard error from which a share says nothing any more."""
BANDS = (100, 1_000, 10_000, 100_000, 1_000_000)


@dataclass(frozen=True, kw_only=True)
class SitePassport:
    """One site's part in the run.

    Attributes:
        stated_rows: the band of what its administrator stated (`size_band`).
        asked, counted: rounds in which it was asked, and in which its update was aggregated.
        counted_in: which rounds the latter are.
        failures: how often it did not count, by reason (`server.state.participation`).
        missing_at_end: why it is not in the final evaluation; empty if it is.
        spent_in_run, spent_in_total: None if it never answered.
        mechanism: what made its releases, in words.
        metrics: of the final model on its held-out rows; None if they are missing.
    """

    stated_rows: str
    asked: int
    counted: int
    counted_in: tuple[int, ...] = ()
    failures: Mapping[str, int] = field(default_factory=dict)
    missing_at_end: str = ""
    private: bool = True
    spent_in_run: Spent | None = None
    spent_in_total: Spent | None = None
    mechanism: str = ""
    metrics: Measured | None = None


@dataclass(frozen=True, kw_only=True)
class ModelComparison:
    """Champion and challenger on the same recent rows at every site.

    Attributes:
        champion_version: the version compared with.
        by_site: (champion, challenger) by site; `overall` is over all sites' counts.
        gains: the paired gain a row by site, with its error; `overall_gain` over all.
        decision: `promote` or `refuse`, with who decided and why.
        findable: the gain that would have been accepted in four of five cases.
    """

    champion_version: int
    by_site: Mapping[str, tuple[Measured, Measured]]
    overall: tuple[Measured, Measured] | None
    decision: str
    by: str
    reason: str
    gains: Mapping[str, Estimate] = field(default_factory=dict)
    overall_gain: Estimate | None = None
    findable: float = math.nan


@dataclass(frozen=True, kw_only=True)
class Passport:
    """All that `render` needs; the plan itself comes from the experiment.

    Attributes:
        windows: the data windows trained on; empty for whole data sets.
        diagnosis: whether the model learnt, and what to change, in sentences.
        not_measurable: why a figure is missing, by site (`all sites` for all) and by its name.
        comparison: None for a first version.
        parent: the version whose model training began with; None where it began with none.
        calibration: of the final model over all sites; empty of a numeric label.
    """

    experiment: Experiment
    run: str
    status: str
    trigger: str
    trained: datetime
    code_hash: str
    rounds: int
    sites: Mapping[str, SitePassport]
    overall: Measured | None
    windows: tuple[str, ...] = ()
    diagnosis: tuple[str, ...] = ()
    not_measurable: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    comparison: ModelComparison | None = None
    parent: int | None = None
    calibration: tuple[CalibrationBin, ...] = ()

    @property
    def private(self) -> bool:
        """Whether the plan and every site that spent anything gave a finite guarantee."""
        spent = [site.spent_in_run for site in self.sites.values() if site.spent_in_run is not None]
        return (
            self.experiment.privacy.private
            and all(site.private for site in self.sites.values())
            and all(math.isfinite(item.epsilon) for item in spent)
        )


def size_band(rows: int | None) -> str:
    """The band of a stated number of rows.

    >>> size_band(99), size_band(100), size_band(6822), size_band(None)
    ('< 100', '100–1,000', '1,000–10,000', 'not stated')
    """
    if rows is None:
        return "not stated"
    if rows < BANDS[0]:
        return f"< {BANDS[0]}"
    for low, high in pairwise(BANDS):
        if rows < high:
            return f"{low:,}–{high:,}"
    return f"≥ {BANDS[-1]:,}"


def render(passport: Passport) -> str:
    """The passport as Markdown."""
    parts = [
        f"# Model passport: {_text(passport.experiment.name)}",
        _banner(passport),
        _summary(passport),
        _plan(passport.experiment, passport.rounds),
        _columns(passport.experiment.task),
        _sites(passport),
        _privacy(passport),
        _metrics(passport),
        _calibration(passport),
        _diagnosis(passport),
        _comparison(passport.comparison, passport.experiment),
        _provenance(passport),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def with_decisions(passport: str, decisions: Iterable[DecisionRecord]) -> str:
    """A passport with what was decided on its version since: not part of it, and so not of its hash."""
    rows = [
        (f"{one.time:%Y-%m-%d %H:%M} UTC", _text(DECIDED[one.kind]), _text(one.by), _text(one.reason))
        for one in decisions
    ]
    if not rows:
        return passport
    return f"{passport.rstrip()}\n\n## Decisions\n\n{_table(('when', 'what', 'by', 'why'), rows)}\n"


def fitted(passport: str) -> str:
    """What fits into MLflow's column of 5,000 characters, in whole sections; the rest is named.

    SQLite keeps to no length; PostgreSQL refuses what is longer.
    """
    if len(passport) <= _LONGEST_DESCRIPTION:
        return passport
    rest = (
        "\n\n## The whole passport\n\nIt is longer than this database's column: `passport.md` among the "
        "run's artifacts has all of it, and so has `tidegate models show`.\n"
    )
    head = passport[: _LONGEST_DESCRIPTION - len(rest)]
    return (head.rpartition("\n\n## ")[0] or head) + rest


def _banner(passport: Passport) -> str:
    warnings = []
    if not passport.private:
        warnings.append(
            "> 🔴 **NOT PRIVATE.** This model carries no privacy guarantee. It is for trials on public data."
        )
    incomplete = [
        f"{_text(name)} ({site.counted} of {passport.rounds})"
        for name, site in sorted(passport.sites.items())
        if site.counted < passport.rounds
    ]
    at_end = [
        f"{_text(name)} ({_text(site.missing_at_end)})"
        for name, site in sorted(passport.sites.items())
        if site.missing_at_end
    ]
    said = [f"Not every round counted every site: {', '.join(incomplete)}."] if incomplete else []
    said += [f"Not in the final evaluation: {', '.join(at_end)}."] if at_end else []
    if said:
        warnings.append(f"> 🟠 **INCOMPLETE.** {' '.join(said)}")
    return "\n\n".join(warnings)


def _summary(passport: Passport) -> str:
    task = passport.experiment.task
    lines = [
        _text(task.description) or "No description was given.",
        _table(
            ("what", "value"),
            [
                ("run", _code(passport.run)),
                ("status", _text(passport.status)),
                ("trigger", _text(passport.trigger)),
                ("trained", f"{passport.trained:%Y-%m-%d %H:%M} UTC"),
                *([("began with", f"version {passport.parent}")] if passport.parent is not None else []),
                ("data windows", _text(", ".join(passport.windows)) or "whole data sets"),
                ("predicts", f"{_code(task.label.column)}, {_values(task.label)}"),
            ],
        ),
    ]
    return "\n\n".join(lines)


def _values(label: Label) -> str:
    if label.range is not None:
        return f"a number from {label.range.low:g} to {label.range.high:g}"
    return f"one of {_text(', '.join(label.classes))}"


def _plan(experiment: Experiment, rounds: int) -> str:
    model, strategy, task = experiment.model, experiment.strategy, experiment.task
    numeric = sum(isinstance(feature, NumericFeature) for feature in task.features)
    kinds = f"{numeric} numeric, {len(task.features) - numeric} categorical"
    layers = f", hidden layers {', '.join(map(str, model.hidden))}" if model.kind == "mlp" else ""
    steps = f"{strategy.local_steps} local step{'s' * (strategy.local_steps != 1)}"
    place = experiment.placement
    combined = "" if strategy.aggregation == "mean" else f", {_aggregation(strategy)}"
    rows = [
        ("model", f"{model.kind}{layers}"),
        *_package(model),
        ("features", f"{len(task.features)} ({kinds}), {task.width} inputs, scaled by public ranges"),
        (
            "strategy",
            f"{strategy.name}{combined}, {rounds} rounds of {steps}, "
            f"learning rate {strategy.learning_rate:g}"
            + (", updates of 8 bits a parameter" if is_quantized(experiment) else ""),
        ),
        *(
            [
                (
                    "counts of clipped gradients",
                    f"{experiment.clipped_counts}, for ε = {clipped_epsilon(experiment.privacy):g} within "
                    "that of training",
                )
            ]
            if experiment.clipped_counts
            else []
        ),
        *([("why these settings", _text(strategy.reason))] if strategy.reason else []),
        ("placement", f"{place.tier} (data {place.data_sensitivity}, answer within {place.latency_ms:g} ms)"),
    ]
    return "## Plan\n\n" + _table(("what", "value"), rows)


def _package(model: Model) -> list[tuple[str, str]]:
    """Which code the model was made by, where it is a package's."""
    if model.package is None:
        return []
    settings = ", ".join(f"{name} = {value}" for name, value in model.parameters) or "those of the package"
    return [
        ("model package", f"{_code(str(model.name))} of {_code(str(model.package))}"),
        ("package's SHA-256", _code(model.package.sha256)),
        ("package's settings", _text(settings)),
    ]


def _columns(task: Task) -> str:
    """What a row must have: the public schema, which the sites' cards agree with."""
    rows = []
    for feature in task.features:
        if isinstance(feature, NumericFeature):
            values = f"{feature.low:g} to {feature.high:g}" + (
                ", log(1 + x)" * (feature.transform == "log1p")
            )
        else:
            listed = ", ".join(feature.categories[:_MOST_CATEGORIES])
            more = len(feature.categories) - _MOST_CATEGORIES
            values = _text(listed + (f" and {more} more" if more > 0 else ""))
        missing = "row left out" if feature.missing is None else f"taken for {_text(str(feature.missing))}"
        rows.append((_code(feature.name), feature.kind, values, missing))
    return "## Columns\n\n" + _table(("column", "kind", "range or categories", "where missing"), rows)


def _aggregation(strategy: Strategy) -> str:
    match strategy.aggregation:
        case "trimmed-mean":
            return f"trimmed mean ({strategy.trimmed_share:g} at either end; a site, a vote)"
        case "krum":
            return f"Krum (up to {strategy.malicious_sites} bad sites; a site, a vote)"
        case _:
            return f"{strategy.aggregation} (a site, a vote)"


def _counted(site: SitePassport, rounds: int) -> str:
    """How many rounds, and which if not all: who came late, was lost on the way or came back."""
    which = f" ({runs_of(site.counted_in)})" if site.counted_in and site.counted < rounds else ""
    return f"{site.counted} of {rounds}{which}"


def _sites(passport: Passport) -> str:
    rows = [
        (
            _text(name),
            site.stated_rows,
            f"{site.asked} of {passport.rounds}",
            _counted(site, passport.rounds),
            _text(", ".join(f"{code} × {times}" for code, times in sorted(site.failures.items()))) or "–",
        )
        for name, site in sorted(passport.sites.items())
    ]
    return "## Data by site\n\n" + _table(
        ("site", "stated rows", "rounds asked", "rounds counted", "not counted because"), rows
    )


def _privacy(passport: Passport) -> str:
    rows = [_spent_row(name, site) for name, site in sorted(passport.sites.items())]
    headings = ("site", "ε in this run", "ε in total", "guaranteed", "δ", "unit", "composition")
    parts = ["## Privacy by site", _table(headings, rows)]
    parts.append(
        "Neighbouring data sets differ by adding or removing one unit. "
        "ε is the bound for the data block that paid most; each site keeps its own ledger. "
        "In total is what it has counted so far; guaranteed is its cap, which no block will pass, "
        "whatever is asked of the site."
    )
    mechanisms: dict[str, list[str]] = {}
    for name, site in sorted(passport.sites.items()):
        mechanisms.setdefault(site.mechanism, []).append(name)
    parts += [
        f"Mechanism at {_text(', '.join(names))}: {_text(words)}."
        for words, names in mechanisms.items()
        if words
    ]
    return "\n\n".join(parts)


def _spent_row(name: str, site: SitePassport) -> tuple[str, ...]:
    run, total = site.spent_in_run, site.spent_in_total
    if run is None or total is None:
        words = "answered before the server was restarted" if site.counted else "never answered"
        return (_text(name), "–", "–", "–", "–", "–", words)
    unit = _text(run.unit) if site.private else "–"
    spent = (_epsilon(run), _epsilon(total), _cap(total), f"{run.delta:g}")
    return (_text(name), *spent, unit, _text(run.method))


def _cap(spent: Spent) -> str:
    """What a site guarantees, at its own δ where that is another."""
    if not math.isfinite(spent.guaranteed):
        return "nothing"
    cap = f"≤ {spent.guaranteed:g}"
    return cap if spent.guaranteed_delta == spent.delta else f"{cap} (δ {spent.guaranteed_delta:g})"


def _epsilon(spent: Spent) -> str:
    """Rounded up: a bound must not read smaller than it is."""
    if not math.isfinite(spent.epsilon):
        return "**∞**"
    return str(Decimal(str(spent.epsilon)).quantize(Decimal("0.001"), ROUND_CEILING))


def _metrics(passport: Passport) -> str:
    figures = figures_for(passport.experiment.task.label)
    rows = [(_text(name), *_figures(site.metrics, figures)) for name, site in sorted(passport.sites.items())]
    rows.append(("**all sites**", *_figures(passport.overall, figures)))
    made = "sums of errors" if passport.experiment.task.label.range else "counts of scores"
    note = (
        f"Computed on held-out rows from noisy {made}. ± is one standard error: of that noise, "
        "which weighs most at small sites, and of the finite number of rows."
        if passport.private
        else f"Computed on held-out rows from {made}. ± is one standard error, of the finite number of rows."
    )
    words = {figure.name: figure.word for figure in figures}
    why = [
        f"Not measurable: {', '.join(words.get(name, name) for name in reasons if reasons[name] == reason)} "
        f"of {_text(site)}, because {_text(reason)}."
        for site, reasons in passport.not_measurable.items()
        for reason in dict.fromkeys(reasons.values())
    ]
    table = _table(("site", *(figure.word for figure in figures)), rows)
    return "\n\n".join(["## Metrics", table, note, *why])


def _calibration(passport: Passport) -> str:
    """Whether what is predicted comes true as often as it says."""
    if passport.experiment.task.label.range is not None:
        return ""
    rows = [
        (
            f"{one.predicted:.2f}",
            f"too noisy (± {one.error:.2g})" if one.error > _HIDDEN else f"{one.share:.3f} ± {one.error:.3f}",
            f"{one.rows:,.0f}",
        )
        for one in passport.calibration
    ]
    if not rows:
        return "## Calibration\n\nNot measurable: noise hides how many rows were scored alike."
    binary = len(passport.experiment.task.label.classes) == 2
    headings = ("predicted", "came true", "rows") if binary else ("confidence", "was right", "rows")
    note = (
        "Of rows that were scored alike, over all sites: what was predicted, and of what share it came true. "
        "A calibrated model has the two alike, within some errors. Bins whose rows noise hides are left out."
    )
    return "\n\n".join(["## Calibration", _table(headings, rows), note])


def _diagnosis(passport: Passport) -> str:
    said = [_text(sentence) for sentence in passport.diagnosis]
    return "\n\n".join(["## Diagnosis", *said]) if said else ""


def _figures(metrics: Measured | None, figures: Iterable[Figure]) -> tuple[str, ...]:
    return tuple(_figure(metrics, figure.name) for figure in figures)


def _figure(metrics: Measured | None, name: str) -> str:
    if metrics is None:
        return "not evaluated"
    value = float(getattr(metrics, name))
    if not math.isfinite(value):
        return "too noisy"
    error = math.nan if metrics.errors is None else float(getattr(metrics.errors, name))
    return METRICS[name].told(value, error)


def _comparison(comparison: ModelComparison | None, experiment: Experiment) -> str:
    if comparison is None:
        return "## Against the champion\n\nThere was no champion to compare with."
    figures = figures_for(experiment.task.label)
    rows = [
        (_text(name), *_pair(pair, figures), _gain(comparison.gains.get(name)))
        for name, pair in sorted(comparison.by_site.items())
    ]
    if comparison.overall is not None:
        rows.append(("**all sites**", *_pair(comparison.overall, figures), _gain(comparison.overall_gain)))
    word = DECIDED.get(comparison.decision, comparison.decision)
    decision = f"**{_text(word)}**, by {_text(comparison.by)}: {_text(comparison.reason)}"
    heading = f"## Against the champion (version {comparison.champion_version})"
    note = f"Champion → challenger, both on the same recent rows. {_said_of_gain(experiment.gate.metric)}"
    if math.isfinite(comparison.findable):
        note += f" A gain of {comparison.findable:.4f} over all sites is found in four of five cases."
    judged_by = METRICS[experiment.gate.metric].word
    headings = ("site", *(figure.word for figure in figures), f"gain in {judged_by}")
    return "\n\n".join([heading, decision, _table(headings, rows), note])


def _said_of_gain(metric: str) -> str:
    decides = (
        "It decides, with two of its errors: positive favours the challenger. It says which of the two is "
        "better; whether the result is better than a constant, the diagnosis says."
    )
    if metric not in PAIRED:
        return f"The gain is by how much the challenger's {metric} is better, ± its standard error. {decides}"
    loss = {"log_loss": "log loss", "brier": "Brier score", "mae": "absolute error"}[metric]
    return (
        f"The gain is the mean over rows of the champion's {loss} less the challenger's, row by row, ± its "
        f"standard error, of noise and rows together. {decides} The two models' figures carry noise of their "
        "own, so their difference may be another than the gain."
    )


def _pair(pair: tuple[Measured, Measured], figures: Iterable[Figure]) -> tuple[str, ...]:
    champion, challenger = pair
    return tuple(
        f"{_figure(champion, figure.name)} → {_figure(challenger, figure.name)}" for figure in figures
    )


def _gain(gain: Estimate | None) -> str:
    if gain is None:
        return "not evaluated"
    if not math.isfinite(gain.value):
        return "too noisy"
    return f"{gain.value:+.4f} ± {gain.error:.4f}"


def _provenance(passport: Passport) -> str:
    rows = [
        ("code (SHA-256)", _code(passport.code_hash)),
        ("experiment (SHA-256)", _code(passport.experiment.digest)),
    ]
    # paragraphs and no table: a narrow terminal would cut what is to be copied
    return "## Provenance\n\n" + "\n\n".join(f"{what}: {value}" for what, value in rows)


def _table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(headings)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _code(text: str) -> str:
    return f"`{_line(text).replace('`', '').replace('|', '')}`"


def _text(text: str) -> str:
    """One line that is neither markup nor HTML."""
    line = _line(text)
    for character in "\\`*_[]|#~":
        line = line.replace(character, "\\" + character)
    line = _BLOCK.sub(r"\\\g<0>", line)
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _line(text: str) -> str:
    return shown(" ".join(text.split()), limit=_LONGEST)
