"""Makes Evidently's page safe to open: what it embeds stays data, and nothing else runs.

Evidently 0.7 writes its figures as JSON into a script of the page and escapes nothing, so a
value of a row that holds `</script>` ends that script and may begin another. Here the JSON
is found by reading it as JSON, not by looking for its end, and what means anything to HTML
is escaped in it. The page's own scripts are named by their hashes in a content policy (W3C,
Content Security Policy Level 3), which lets no other script run and opens no connection:
that holds even if some value reached the page by another way.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html import escape

from contract.errors import TidegateError
from contract.outside import shown

__all__ = ["safe_page"]

_FIGURES = re.compile(r"<script>\s*var \w+ = ")
_GRAPHS = re.compile(r";\s*var additional_graphs_\w+ = ")
_END = re.compile(r";\s*</script>\s*</head>")
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_SCRIPTS = 4  # the figures, a global name, Evidently's program, the call that draws
_HEAD, _BODY = '<meta charset="UTF-8">', "<body>"
_ESCAPES = str.maketrans({letter: f"\\u{ord(letter):04x}" for letter in "<>&\u2028\u2029"})
_POLICY = (
    "default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; font-src data:; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'"
)


def safe_page(html: str, notes: tuple[str, ...]) -> str:
    """Evidently's page with its data escaped and a content policy.

    Args:
        html: what Evidently wrote.
        notes: paragraphs above its drawings; may hold text from outside.

    Raises:
        TidegateError: the page is not built as is known here, so nothing is known of its safety.
    """
    page = _escaped(html)
    scripts = _SCRIPT.findall(page)
    if (
        len(scripts) != _SCRIPTS
        or any(mark in "".join(scripts) for mark in "\0\r")  # a browser reads these as other characters
        or page.find(_HEAD) < 0
        or page.find(_BODY) < 0
    ):
        raise _unknown()
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts)
    policy = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY.format(scripts=hashes)}">'
    words = "".join(f"<p>{escape(shown(note, limit=2000))}</p>" for note in notes)
    told = f'<div style="font-family: sans-serif; margin: 1em">{words}</div>'
    return page.replace(_HEAD, _HEAD + policy, 1).replace(_BODY, _BODY + told, 1)


def _escaped(html: str) -> str:
    """The page, with what means anything to HTML escaped in its two values of JSON."""
    first = _FIGURES.search(html)
    if first is None or "<script" in html[: first.start()]:
        raise _unknown()
    end = _json_end(html, first.end())
    second = _GRAPHS.match(html, end)
    if second is None:
        raise _unknown()
    last = _json_end(html, second.end())
    if _END.match(html, last) is None:
        raise _unknown()
    figures, graphs = html[first.end() : end], html[second.end() : last]
    before, between = html[: first.end()], second.group()
    return "".join((before, figures.translate(_ESCAPES), between, graphs.translate(_ESCAPES), html[last:]))


def _json_end(text: str, start: int) -> int:
    try:
        return json.JSONDecoder().raw_decode(text, start)[1]
    except ValueError as exc:
        raise _unknown() from exc


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _unknown() -> TidegateError:
    return TidegateError(
        "Evidently's page is not built as it is known to be, so it could not be made safe",
        where="drift report",
        remedy="Install the version of Evidently that constraints.txt names",
    )
