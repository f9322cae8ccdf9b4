"""What a notebook shows of a text from outside: the text, and nothing that it would have the page do."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest

from contract.errors import InputError
from contract.federation_api import RunDetail
from experiments.python import comparison
from experiments.python import run as run_module
from experiments.python.comparison import Comparison
from experiments.python.run import Result, Run
from terminal.display import Live, Picture, Shown, html_of, text_of
from terminal.markup import image
from terminal.parts import Sentence, Table
from tests.hostile import HOSTILE, require_harmless

ATTACKS = (
    HOSTILE,
    "<img src=x onerror=alert(1)>",
    "</td></table></div><script>alert(1)</script>",
    '" onmouseover="alert(1)',
    "' autofocus onfocus='alert(1)",
    "<svg/onload=alert(1)>",
    "javascript:alert(1)",
    "<style>*{display:none}</style>",
    "<iframe src=http://127.0.0.1/>",
    "<!--",
    "]]><x>",
    "&lt;b&gt;",
    "\x00<b>",
)
ALLOWED = {
    "div",
    "p",
    "strong",
    "table",
    "caption",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "span",
    "progress",
    "img",
}
ATTRIBUTES = {"class", "role", "scope", "data-label", "value", "max", "src", "alt"}


class Page(HTMLParser):
    """Takes a fragment apart as a browser does."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.sources: list[str] = []
        self.text = ""
        self.comments = 0
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.sources += [value or "" for name, value in attrs if name == "src"]

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.comments += len(data) or 1


def require_tame(html: str) -> Page:
    page = Page(html)
    assert page.tags <= ALLOWED, page.tags - ALLOWED
    assert page.attributes <= ATTRIBUTES, page.attributes - ATTRIBUTES
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not page.comments
    require_harmless(page.text)
    return page


def run_detail(text: str) -> RunDetail:
    """A run of which a hostile server, or a site, chose every text."""
    figures = {"log_loss": 0.5, "brier": 0.2, "auc": 0.7, "accuracy": 0.8, "rows": 9.0, "auc_error": 0.1}
    result: dict[str, Any] = {
        "figures": ["auc"],
        "metrics": {"overall": figures, "sites": {text: figures, "south": figures}},
        "privacy": {text: {"epsilon_in_run": 1.0, "epsilon_in_total": 1.0, "delta": 1e-5}},
        "private": True,
        "rounds": 2,
        "rounds_counted": {text: 2},
    }
    run = {
        "name": text, "experiment": text, "job": "train", "owner": text, "status": "succeeded", "place": 0,
        "since": "2026-03-01T00:00:00Z", "ended": None, "rounds": 2, "of": 2, "model_version": 1,
        "error": text,
    }  # fmt: skip
    rounds = [
        {
            "number": number, "counted": [text], "failures": {text: text}, "seconds": 1.0,
            "metrics": {"overall": figures, "sites": {text: figures, "south": figures}},
        }
        for number in (1, 2)
    ]  # fmt: skip
    return RunDetail.model_validate(
        {
            "run": run,
            "trigger": text,
            "windows": [text],
            "rounds": rounds,
            "participation": [],
            "result": result,
        }
    )


class Liar:
    """In the place of a federation."""

    def __init__(self, detail: RunDetail) -> None:
        self._detail = detail

    def detail(self, _run: str) -> RunDetail:
        return self._detail


@pytest.mark.parametrize("text", ATTACKS, ids=range(len(ATTACKS)))
def test_a_hostile_name_is_shown_and_does_nothing(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if text != HOSTILE:  # that one is drawn too
        for module, names in ((run_module, ("plot_learning", "plot_sites")), (comparison, ("plot_results",))):
            for name in names:
                monkeypatch.setattr(module, name, lambda *_: b"png")
    detail = run_detail(text)
    place: Any = Liar(detail)
    for shown in (Run(place, text), Result.of(detail), Comparison(runs=(detail, detail))):
        page = require_tame(shown._repr_html_())
        assert "img" in page.tags
        require_harmless(repr(shown))
    parts: list[Shown] = [
        Sentence(text),
        Sentence(text, "yellow"),
        Table(headings=(text, text), rows=((text, 1), (None, text)), title=text),
        Picture(draw=lambda: b"x", alt=text),
    ]
    page = require_tame(html_of(parts))
    require_harmless(text_of(parts))
    if text.isprintable():
        assert page.text.count(text) == 7  # as a reader would see it, letter by letter


def test_a_result_that_is_none_is_said_in_place_of_a_table() -> None:
    detail = run_detail("north")
    for result in ({}, {"metrics": 3}, {"metrics": {}, "privacy": [], "private": 1}):
        place: Any = Liar(detail.model_copy(update={"result": result}))
        assert "not understood" in repr(Run(place, "north"))
        require_tame(Run(place, "north")._repr_html_())


def test_a_picture_is_in_the_page_or_a_sentence_says_why_not() -> None:
    def lacking() -> bytes:
        raise InputError("a plot needs matplotlib")

    assert "data:image/png;base64," in html_of([Picture(draw=lambda: b"png", alt="it")])
    told = html_of([Picture(draw=lacking, alt="it")])
    assert "<img" not in told
    assert "tidegate[notebook]" in told
    assert text_of([Picture(draw=lacking, alt="it")]) == "[plot: it]"
    with pytest.raises(ValueError, match="base64"):
        image('x" onerror="alert(1)', alt="")


def test_nothing_is_shown_live_where_there_is_no_notebook(capsys: pytest.CaptureFixture[str]) -> None:
    live = Live(HOSTILE, of=3)
    live.show(1, HOSTILE)
    live.show(None, HOSTILE)
    assert capsys.readouterr() == ("", "")
    require_tame(live._bar._repr_html_())
    require_harmless(repr(live._bar))
    assert "1 of 3 rounds" in repr(live._bar)
