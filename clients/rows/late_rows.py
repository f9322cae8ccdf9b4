"""Rows that came after their calendar window was complete: counted for the administrator alone.

When the rows are read first after a window's end and its lag, it is noted how many it has. If there are more
later, they came late: what was released of the window until then had not seen them. They belong to its data
block like the others, and pay from then on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from clients.rows.rows import Rows
from contract.errors import DataError
from contract.outside import shown
from contract.words import counted, verb

if TYPE_CHECKING:
    from contract.card import Card

__all__ = ["late_rows", "late_words"]


def late_rows(file: Path, rows: Rows, card: Card, *, note: bool) -> dict[str, int]:
    """How many rows more, or with a minus fewer, each complete window has than when it was noted first.

    Args:
        file: where it is noted; made if it is missing.
        rows: all of the site.
        card: the site's; without calendar windows there is nothing to note.
        note: whether windows that are not noted yet are.

    Raises:
        DataError: the file is not as it was written.
    """
    if card.time is None or card.time.every is None or rows.window is None:
        return {}
    today, cut = card.time.today, card.time.model_dump_json(exclude={"lag"})
    there = Counter(name for name in rows.window if name is not None)
    noted = _read(file, cut)
    new = {
        name: count
        for name, count in there.items()
        if name not in noted and not card.time.complaint(name, today)
    }
    if note and new:
        _write(file, cut, {**noted, **new})
    changed = {name: there.get(name, 0) - count for name, count in sorted(noted.items())}
    return {name: difference for name, difference in changed.items() if difference}


def late_words(late: dict[str, int]) -> Iterable[str]:
    """A sentence for each window."""
    for name, difference in late.items():
        rows = counted(abs(difference), "row")
        if difference > 0:
            yield f"{rows} of window {name} came after it was complete: raise card.time.lag if that is usual."
        else:
            yield f"{rows} of window {name} {verb(-difference, 'is', 'are')} gone since it was complete."


def _read(file: Path, cut: str) -> dict[str, int]:
    """What is noted, of windows that are cut in the same way."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    try:
        value = json.loads(text)
        noted = {str(name): int(count) for name, count in value["rows"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise DataError(
            f"the note of complete windows is not as it was written ({shown(exc, limit=100)})",
            where=str(file),
            remedy="Remove it: from then on late rows are counted anew",
        ) from exc
    return noted if value.get("cut") == cut else {}


def _write(file: Path, cut: str, noted: dict[str, int]) -> None:
    beside = file.with_suffix(".new")
    beside.write_text(json.dumps({"cut": cut, "rows": dict(sorted(noted.items()))}), encoding="utf-8")
    beside.replace(file)
