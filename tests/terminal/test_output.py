"""What comes from outside is neither markup nor a terminal's command, however it reaches the screen."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from terminal import output
from terminal.output import Screen, Steps, cell, hidden_metrics, metrics_headings, print_table, say, times
from tests.hostile import HOSTILE, require_harmless

Seen = Callable[[], str]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """What the screen shows so far."""
    text = io.StringIO()
    monkeypatch.setattr(output, "console", Screen(width=4000, file=text))
    return text.getvalue


def test_a_sentence_is_shown_as_it_is(seen: Seen) -> None:
    say(f"run {HOSTILE} is there", "red")
    require_harmless(seen())
    assert r"run [/x][bold red]:bomb:\x1b[2J" in seen()
    assert seen().count("\n") == 1


def test_a_table_is_a_row_a_line(seen: Seen) -> None:
    print_table(("a", "b"), [(HOSTILE, 1), (cell(HOSTILE, "red"), None)], title=HOSTILE)
    require_harmless(seen())
    assert seen().count(r"[/x][bold red]:bomb:\x1b[2J") == 3
    assert sum("│" in line for line in seen().splitlines()) == 2


@pytest.mark.parametrize("raw", [Text(HOSTILE), HOSTILE, Markdown(HOSTILE), Table(HOSTILE, title=HOSTILE)])
def test_what_was_not_made_visible_before_is_replaced_by_the_screen(seen: Seen, raw: object) -> None:
    output.console.print(raw)
    require_harmless(seen())
    seen().encode()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.text(st.characters(), max_size=60))
def test_no_text_at_all_breaks_a_table(text: str) -> None:
    file = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output, "console", Screen(width=2000, file=file))
        print_table(("x",), [(text,), (Text(text),)], title=text)
        say(text)
        output.console.print(text)
    require_harmless(file.getvalue())


def test_progress_is_told_in_visible_lines(capsys: pytest.CaptureFixture[str]) -> None:
    steps = Steps(HOSTILE, 2)
    steps.show(1, HOSTILE)
    steps.close()
    told = capsys.readouterr().err
    require_harmless(told)
    assert told.count("\n") == 1


def test_progress_on_a_terminal_is_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    monkeypatch.setattr(
        output, "errors", Screen(width=4000, file=text, force_terminal=True, color_system=None)
    )
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    steps = Steps(HOSTILE, 2)
    steps.show(1, HOSTILE)
    steps.close()
    assert r"[/x][bold red]:bomb:\x1b[2J" in text.getvalue()
    assert "\x1b[2J" not in text.getvalue()
    assert "\u202e" not in text.getvalue()


RUN = "visits-readmission-20261129-072011/train/1"
MOMENTS = ["2026-11-29T07:20:11.123+00:00", "2026-11-29T07:20:12.456+00:00"]


def shown_at(monkeypatch: pytest.MonkeyPatch, width: int, *, terminal: bool) -> str:
    text = io.StringIO()
    screen = Screen(width=width, file=text, force_terminal=terminal, color_system=None)
    monkeypatch.setattr(output, "console", screen)
    when, made = times(MOMENTS)
    rows = [(at, RUN, 123456, "5782b18687e6") for at in made]
    print_table((when, "request", "bytes", "SHA-256…"), rows, unbroken=(when, "bytes", "SHA-256…"))
    return text.getvalue()


@pytest.mark.parametrize("width", [80, 60, 40, 20])
def test_on_a_terminal_a_table_is_folded_and_nothing_is_cut(
    monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    told = shown_at(monkeypatch, width, terminal=True)
    assert max(map(len, told.splitlines())) <= width
    assert "…" not in told.replace("SHA-256…", "")
    letters = "".join(told.split()).replace("│", "")
    for word in ("5782b18687e6", "123456"):
        assert letters.count(word) == 2
    if width >= 60:
        assert "11-29 07:20:11" in told
        assert "2026, UTC" in told
        column = "".join(line.split("│")[2].strip() for line in told.splitlines() if "│" in line)
        assert column == 2 * RUN


def test_off_a_terminal_a_table_is_as_wide_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    told = shown_at(monkeypatch, 40, terminal=False)
    assert (
        sum(f"2026-11-29 07:20:11 │ {RUN} │ 123456 │ 5782b18687e6" in line for line in told.splitlines()) == 1
    )
    assert len(told.splitlines()) == 6


def test_times_of_several_years_keep_their_year(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "console", Screen(width=80, file=io.StringIO(), force_terminal=True))
    assert times(["2025-12-31T23:59:59+00:00", MOMENTS[0]]) == (
        "when (UTC)",
        ["2025-12-31 23:59:59", "2026-11-29 07:20:11"],
    )
    assert times([]) == ("when (UTC)", [])


def test_metrics_are_hidden_where_none_is_a_number() -> None:
    for overall, hidden in (({}, True), ({"auc": None, "brier": float("nan")}, True), ({"auc": 0.7}, False)):
        assert hidden_metrics({"metrics": {"overall": overall}}) == hidden


def test_the_delta_stands_beside_the_epsilon_of_a_run() -> None:
    summary = {"private": True, "privacy": {"north": {"delta": 1e-5}, "south": {"delta": 1e-5}}}
    assert metrics_headings(summary)[-2:] == ("ε in run (δ 1e-5)", "ε in total (δ 1e-5)")
    assert metrics_headings({**summary, "private": False})[-2:] == ("ε in run", "ε in total")
