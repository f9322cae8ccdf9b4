import io
import json
import math
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import pytest
from markdown_it import MarkdownIt
from rich.console import Console
from rich.markdown import Markdown

from contract.experiment import Experiment, Privacy, Strategy
from contract.figures import Estimate
from contract.releases import PLAIN_METHOD, CalibrationBin, MetricErrors, Metrics, Spent
from server.registry.passport import ModelComparison, Passport, SitePassport, fitted, render, size_band
from server.registry.passport_json import SCHEMA, passport_json
from tests.hostile import HOSTILE, require_harmless

ROOT = Path(__file__).parents[3]
GOLDEN = Path(__file__).with_name("passport.golden.md")


def _metrics(shift: float = 0.0) -> Metrics:
    errors = MetricErrors(log_loss=0.0124, brier=0.0051, auc=0.0171, accuracy=0.0103)
    return Metrics(
        log_loss=0.474 + shift, brier=0.151 + shift, auc=0.661, accuracy=0.8, rows=1500, errors=errors
    )


def _spent(epsilon: float, method: str = "privacy loss distribution") -> Spent:
    cap = {} if math.isinf(epsilon) else {"guaranteed": 10.0, "guaranteed_delta": 1e-5}
    return Spent(epsilon=epsilon, delta=1e-5, unit="record", method=method, block="w1", **cap)


@pytest.fixture
def passport(experiment: Experiment) -> Passport:
    mechanism = "Gaussian, clipping norm 1, noise multiplier 4.2"
    whole = SitePassport(
        stated_rows=size_band(6822),
        asked=10,
        counted=10,
        spent_in_run=_spent(0.98),
        spent_in_total=_spent(1.61),
        mechanism=mechanism,
        metrics=_metrics(),
    )
    part = replace(
        whole,
        stated_rows=size_band(80),
        counted=7,
        counted_in=(1, 2, 3, 4, 7, 8, 10),
        failures={"no answer": 2, "budget": 1},
        missing_at_end="no answer",
        metrics=None,
    )
    never = SitePassport(
        stated_rows=size_band(None),
        asked=0,
        counted=0,
        failures={"not connected": 10},
        missing_at_end="not connected",
    )
    comparison = ModelComparison(
        champion_version=1,
        by_site={"plan-free": (_metrics(0.08), _metrics())},
        overall=(_metrics(0.07), _metrics()),
        decision="promote",
        by="policy",
        reason="Brier score better by 0.0800 ± 0.0074 a row",
        gains={"plan-free": Estimate(value=0.08, error=0.0074)},
        findable=0.0211,
    )
    return Passport(
        experiment=experiment,
        run="rand-health-20261124-101500-ab12",
        status="partial",
        trigger="drift in 2 of 3 windows",
        trained=datetime(2026, 11, 24, 10, 15, tzinfo=UTC),
        code_hash="c0de" * 16,
        rounds=10,
        sites={"plan-free": whole, "plan-25": part, "plan-95": never},
        overall=_metrics(),
        windows=("w1", "w2"),
        comparison=comparison,
        parent=1,
        calibration=(
            CalibrationBin(predicted=0.15, share=0.131, error=0.011, rows=812),
            CalibrationBin(predicted=0.95, share=0.7, error=0.21, rows=5),
        ),
    )


def test_the_golden_passport(passport: Passport) -> None:
    digest = passport.experiment.digest
    assert render(passport).replace(digest, "EXPERIMENT-DIGEST") == GOLDEN.read_text(encoding="utf-8")


def test_programs_read_the_same_by_the_published_schema(passport: Passport) -> None:
    endless = _spent(math.inf, PLAIN_METHOD)
    hidden = replace(_metrics(), auc=math.nan)
    site = replace(passport.sites["plan-free"], spent_in_run=endless, metrics=hidden)
    schema = json.loads((ROOT / "docs" / "passport.schema.json").read_text(encoding="utf-8"))
    for one in (passport, replace(passport, sites={"plan-free": site}, comparison=None, overall=None)):
        read = json.loads(passport_json(one))
        jsonschema.validate(read, schema)
        assert (read["schema"], read["private"]) == (SCHEMA, one.private)
        assert passport_json(one) == passport_json(one)
    assert read["sites"]["plan-free"]["metrics"]["auc"] is None
    assert read["sites"]["plan-free"]["spent_in_run"]["epsilon"] is None
    assert read["experiment"]["name"] == "rand-health"
    assert "6822" not in passport_json(passport)  # rows that a site states are a band


def test_a_passport_is_cut_at_a_section_where_a_database_takes_no_more(passport: Passport) -> None:
    """MLflow's column has 5,000 characters, which PostgreSQL holds one to."""
    text = render(replace(passport, diagnosis=("A sentence of the diagnosis.",) * 200))
    cut = fitted(text)
    assert len(cut) <= 5000 < len(text)
    head, _, rest = cut.partition("\n\n## The whole passport")
    assert text.startswith(f"{head}\n\n## ")
    assert "tidegate models show" in rest
    assert fitted(cut) == cut
    assert len(fitted("x" * 9000)) <= 5000


def test_a_calibration_that_noise_hides_is_said_and_a_number_has_none(passport: Passport) -> None:
    assert "| 0.95 | too noisy (± 0.21) | 5 |" in render(passport)
    assert "## Calibration\n\nNot measurable" in render(replace(passport, calibration=()))


def test_digests_are_whole_on_a_terminal_of_80_columns(passport: Passport) -> None:
    """They are there to be copied."""
    written = io.StringIO()
    Console(width=80, file=written).print(Markdown(render(passport)))
    told = written.getvalue()
    assert passport.experiment.digest in told
    assert passport.code_hash in told


def test_a_bound_is_rounded_up(passport: Passport) -> None:
    site = replace(passport.sites["plan-free"], spent_in_run=_spent(1.00001), spent_in_total=_spent(2.0))
    assert "| 1.001 | 2.000 | ≤ 10 |" in render(replace(passport, sites={"plan-free": site}))


def test_a_figure_without_an_error_or_a_value(passport: Passport) -> None:
    errors = MetricErrors(log_loss=0.0124, brier=0.0051, auc=math.nan, accuracy=0.0103)
    plain = replace(_metrics(), errors=None)
    noisy = replace(_metrics(), auc=math.nan, errors=errors)
    text = render(replace(passport, sites={}, overall=plain, comparison=None))
    assert "| 0.474 | 0.151 | 0.661 | 0.800 |" in text
    text = render(replace(passport, sites={}, overall=noisy, comparison=None))
    assert "| 0.474 ± 0.012 | 0.151 ± 0.005 | too noisy | 0.800 ± 0.010 |" in text


def test_what_is_not_private_says_so(passport: Passport, experiment: Experiment) -> None:
    assert "NOT PRIVATE" not in render(passport)
    plain = experiment.model_copy(update={"privacy": Privacy(private=False)})
    assert "> 🔴 **NOT PRIVATE.**" in render(replace(passport, experiment=plain))
    endless = _spent(math.inf, PLAIN_METHOD)
    site = replace(passport.sites["plan-free"], spent_in_run=endless, spent_in_total=endless)
    text = render(replace(passport, sites={"plan-free": site}))
    assert "> 🔴 **NOT PRIVATE.**" in text
    assert "**∞**" in text
    noiseless = replace(passport.sites["plan-free"], private=False)
    assert "NOT PRIVATE" in render(replace(passport, sites={"plan-free": noiseless}))


def test_a_whole_run_has_no_warning(passport: Passport) -> None:
    text = render(replace(passport, sites={"plan-free": passport.sites["plan-free"]}, comparison=None))
    assert "INCOMPLETE" not in text
    assert "There was no champion to compare with." in text


def test_a_site_that_is_missing_in_the_final_evaluation_alone_is_named(passport: Passport) -> None:
    site = replace(passport.sites["plan-free"], missing_at_end="scores refused: 10 bins", metrics=None)
    text = render(replace(passport, sites={"plan-free": site}))
    assert "> 🟠 **INCOMPLETE.** Not in the final evaluation: plan-free (scores refused: 10 bins).\n" in text


def test_a_site_that_came_late_is_told_with_its_rounds(passport: Passport) -> None:
    late = replace(passport.sites["plan-free"], asked=6, counted=6, counted_in=tuple(range(5, 11)))
    text = render(replace(passport, sites={"late": late}))
    assert "**INCOMPLETE.** Not every round counted every site: late (6 of 10)." in text
    assert "| late | 1,000–10,000 | 6 of 10 | 6 of 10 (5–10) | – |" in text


def test_what_was_answered_before_a_restart_is_not_called_never(passport: Passport) -> None:
    lost = replace(passport.sites["plan-25"], spent_in_run=None, spent_in_total=None)
    text = render(replace(passport, sites={"lost": lost}))
    assert "answered before the server was restarted" in text
    assert "never answered" not in text


@pytest.mark.parametrize(
    ("aggregation", "words"),
    [
        ("median", "fedavg, median (a site, a vote), 10 rounds"),
        ("krum", "fedavg, Krum (up to 1 bad sites; a site, a vote), 10 rounds"),
        ("trimmed-mean", "fedavg, trimmed mean (0.2 at either end; a site, a vote), 10 rounds"),
    ],
)
def test_a_robust_aggregation_is_named_in_the_plan(passport: Passport, aggregation: str, words: str) -> None:
    strategy = Strategy(rounds=10, quorum=5, aggregation=aggregation)  # type: ignore[arg-type]
    experiment = passport.experiment.model_copy(update={"strategy": strategy})
    assert words in render(replace(passport, experiment=experiment))


def test_text_stays_text(passport: Passport) -> None:
    sly = "<script>alert(1)</script> | **bold** [x](http://y)\n# heading `code`"
    text = render(replace(passport, trigger=sly, run="a|b`c"))
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    assert "<script>" not in html
    assert "<a " not in html
    assert "<strong>bold</strong>" not in html
    assert html.count("<h1>") == 1
    assert "<code>abc</code>" in html


def test_hostile_text_is_visible_and_markup_of_no_kind(passport: Passport) -> None:
    site = replace(
        passport.sites["plan-free"], failures={HOSTILE: 1}, missing_at_end=HOSTILE, mechanism=HOSTILE
    )
    sly = replace(
        passport, trigger=HOSTILE, run=HOSTILE, status=HOSTILE, windows=(HOSTILE,), sites={HOSTILE: site}
    )
    for description in (HOSTILE.replace("\ud800", ""), "- a list", "= a heading", "~~~", "w" * 5000):
        task = passport.experiment.task.model_copy(update={"description": description})
        text = render(replace(sly, experiment=passport.experiment.model_copy(update={"task": task})))
        require_harmless(text)
        assert len(text) < 50_000
        html = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text)
        for tag in ("<script", "<a ", "<s>", "<li>", "<pre>"):
            assert tag not in html
        assert html.count("<h1>") == 1


def test_every_table_row_has_its_columns(passport: Passport) -> None:
    blocks = [block.splitlines() for block in render(passport).split("\n\n") if block.startswith("|")]
    assert len(blocks) == 8
    for block in blocks:
        assert len({line.count("|") for line in block}) == 1


@pytest.mark.parametrize(
    ("rows", "band"),
    [(0, "< 100"), (99, "< 100"), (100, "100–1,000"), (9_999, "1,000–10,000"), (1_000_000, "≥ 1,000,000")],
)
def test_size_bands(rows: int, band: str) -> None:
    assert size_band(rows) == band


def test_the_exact_number_of_rows_is_not_shown(passport: Passport) -> None:
    assert "6822" not in render(passport)
    assert "6,822" not in render(passport)
