"""HTML and SVG that is written by the program: whatever is a plain text in it is escaped.

>>> print(tag("td", "<script>\x1b[2J", tag("b", "1 & 2"), id="x"))
<td id="x">&lt;script&gt;\\x1b[2J<b>1 &amp; 2</b></td>
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape

from contract.outside import shown

__all__ = ["Content", "Html", "image", "moment", "table", "tag"]

_EMPTY = frozenset({"input", "link", "meta", "rect"})
"""Elements without content."""


@dataclass(frozen=True)
class Html:
    """What goes into a page as it is. `tag` and `image` make it, of words of the program."""

    text: str

    def __str__(self) -> str:
        return self.text


Content = Html | str | int | None
"""What an element may hold; None is nothing."""


def tag(name: str, /, *content: Content, **attributes: str | int | bool | None) -> Html:
    """An element.

    Args:
        name: of the element; a word of the program.
        content: what it holds. A text is escaped, and shown on one line without what steers a terminal.
        attributes: by name, with `_` for `-` and one at the end for Python's own words (`class_`). One that
            is None or False is left out; one that is True has no value.
    """
    named = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _EMPTY:
        return Html(f"<{name}{named}/>")
    return Html(f"<{name}{named}>{''.join(map(_escaped, content))}</{name}>")


def table(caption: str, headings: Sequence[str], rows: Sequence[Sequence[Content]], *, empty: str) -> Html:
    """A table whose first cell of each row is the row's heading; a sentence where there are no rows.

    The roles are said in so many words: a narrow screen shows a row as a block, and a browser would no longer
    tell a screen reader that it is one. Each cell has its heading with it for the same screen.
    """
    if not rows:
        return tag("p", empty, class_="empty")
    head = [tag("th", heading, scope="col", role="columnheader") for heading in headings]
    body = [
        tag(
            "tr",
            tag("th", row[0], scope="row", role="rowheader"),
            *(
                tag("td", tag("span", cell), role="cell", data_label=heading)
                for heading, cell in zip(headings[1:], row[1:], strict=True)
            ),
            role="row",
        )
        for row in rows
    ]
    return tag(
        "table",
        tag("caption", caption) if caption else None,
        tag("thead", tag("tr", *head, role="row"), role="rowgroup"),
        tag("tbody", *body, role="rowgroup"),
        role="table",
    )


def image(png: str, *, alt: str) -> Html:
    """A picture within the page.

    Args:
        png: its bytes in base64.
        alt: what it shows; a text like any other.

    Raises:
        ValueError: that is no base64.
    """
    base64.b64decode(png, validate=True)
    return Html(f'<img src="data:image/png;base64,{png}"{_attribute("alt", alt)}/>')


def moment(at: datetime | None) -> Html | str:
    """A moment in UTC, to the minute."""
    if at is None:
        return "–"
    utc = at.astimezone(UTC)
    return tag("time", f"{utc:%Y-%m-%d %H:%M}", datetime=f"{utc:%Y-%m-%dT%H:%M:%SZ}")


def _escaped(content: Content) -> str:
    if content is None:
        return ""
    return content.text if isinstance(content, Html) else escape(shown(content))


def _attribute(name: str, value: str | int | bool | None) -> str:
    if value is None or value is False:
        return ""
    named = name.rstrip("_").replace("_", "-")
    return f" {named}" if value is True else f' {named}="{escape(shown(value, limit=2000))}"'
