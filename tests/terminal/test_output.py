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
from terminal.output import Screen, Steps, cell, print_table, say
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
