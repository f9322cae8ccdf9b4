"""Drift as a picture: a column for each window, a row for each site, and the word in each field.

The word, a thick frame and a stripe at the edge of a field say what its colour says, for whoever sees none.
"""

from __future__ import annotations

from contract.outside import shown
from contract.verdicts import POOLED, SiteVerdict, Verdict
from server.api.overview import Drift
from terminal.markup import Html, tag

__all__ = ["draw", "word"]

_WIDE, _HIGH, _LEFT, _TOP, _GAP = 88, 38, 150, 34, 4
_LETTERS_SITE, _LETTERS_WINDOW = 18, 11


def word(verdict: Verdict | str, site: str) -> str:
    """How a window stands at a site: `drift`, `quiet`, `no answer`, or how its check stands."""
    if isinstance(verdict, str):
        return verdict
    found = _of(verdict, site)
    if found is None:
        return "no answer"
    return "drift" if found.alarm else "quiet"


def draw(drift: Drift) -> Html:
    """The picture, as SVG; a table says the same to whoever cannot see it."""
    sites, windows = drift.sites, list(drift.windows)
    wide, high = _LEFT + len(windows) * _WIDE, _TOP + len(sites) * _HIGH
    alarms = sum(isinstance(one, Verdict) and one.alarm for one in drift.windows.values())
    told = f"Drift of {drift.experiment}: {alarms} of the last {len(windows)} windows with an alarm"
    heads = [
        tag("text", _short(name, _LETTERS_WINDOW), x=_LEFT + n * _WIDE + _WIDE // 2, y=20, class_="window")
        for n, name in enumerate(windows)
    ]
    rows = [
        tag("text", _short(site, _LETTERS_SITE), x=4, y=_TOP + n * _HIGH + 24, class_="site")
        for n, site in enumerate(sites)
    ]
    fields = [
        _field(drift.windows[window], window, site, _LEFT + column * _WIDE, _TOP + row * _HIGH)
        for row, site in enumerate(sites)
        for column, window in enumerate(windows)
    ]
    return tag(
        "svg", tag("title", told), *heads, *rows, *fields,
        class_="drift", role="img", aria_label=told, width=wide, height=high, viewBox=f"0 0 {wide} {high}",
    )  # fmt: skip


def _field(verdict: Verdict | str, window: str, site: str, x: int, y: int) -> Html:
    said = word(verdict, site)
    found = None if isinstance(verdict, str) else _of(verdict, site)
    about = f"{site}, {window}: {said}"
    if found is not None and found.drifted:
        about += f" in {', '.join(found.drifted)}"
    kind = said if said in ("drift", "quiet") else "none"
    wide, high = _WIDE - _GAP, _HIGH - _GAP
    stripe = tag("rect", x=x, y=y, width=6, height=high, class_="stripe") if said == "drift" else None
    return tag(
        "g",
        tag("title", about),
        tag("rect", x=x, y=y, width=wide, height=high, rx=3, class_="field"),
        stripe,
        tag("text", said, x=x + wide // 2, y=y + 22),
        class_=kind,
    )


def _of(verdict: Verdict, site: str) -> SiteVerdict | None:
    if site == POOLED:
        return verdict.pooled
    return next((one for one in verdict.sites if one.site == site), None)


def _short(name: str, letters: int) -> str:
    text = shown(name)
    return text if len(text) <= letters else f"{text[: letters - 1]}…"
