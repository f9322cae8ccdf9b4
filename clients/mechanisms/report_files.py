"""The folder of a site's drift reports: what each is of, and a page that lists them.

A report's name is made here, of the time and a digest of the request: nothing that came in a
message is part of a path. What it is of stands in a JSON file beside it and, escaped, in
`index.html`. Every file is for its owner alone (mode 0600), and is replaced whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from contract.outside import shown

__all__ = ["INDEX", "ReportRecord", "is_there", "list_reports", "new_name", "record", "request_digest"]

INDEX = "index.html"
_DIGEST = 12
_STALE = 3600.0
"""Seconds after which a half-written file belongs to nobody any more."""

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="UTF-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Drift reports</title>
<style>
body {{ font-family: sans-serif; margin: 2em }}
td, th {{ text-align: left; padding: .3em 1.2em .3em 0; vertical-align: top }}
</style></head><body><h1>Drift reports</h1>
<p>They hold raw values and stay at this site.</p>
<table><tr>{headings}</tr>
{rows}
</table></body></html>
"""


@dataclass(frozen=True, kw_only=True)
class ReportRecord:
    """What a report is of.

    Attributes:
        file: its name in the folder.
        made: when, in UTC, ISO 8601.
        experiment, run: names, from outside.
        windows, reference_windows: that were compared; all rows if there are none.
        drifted: columns in which the site's own test, without noise, finds drift.
    """

    file: str
    made: str
    experiment: str
    run: str
    windows: tuple[str, ...]
    reference_windows: tuple[str, ...]
    drifted: tuple[str, ...]


def request_digest(*parts: object) -> str:
    """A short name for a request, which is the same when it comes again."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:_DIGEST]


def new_name(digest: str, made: datetime) -> str:
    """The name of a report that is made now; two of the same second sort by their age too."""
    return f"{made.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}-{digest}.html"


def is_there(folder: Path, digest: str) -> bool:
    """Whether there is a report for this request."""
    return any(folder.glob(f"*-{digest}.json"))


def record(folder: Path, report: ReportRecord) -> None:
    """Enter a report that was written, and write the list anew.

    Raises:
        OSError: the folder cannot be written.
    """
    _write((folder / report.file).with_suffix(".json"), json.dumps(asdict(report), indent=1))
    _write(folder / INDEX, _page(list_reports(folder)))
    for half_written in folder.glob(".*"):
        if time.time() - half_written.stat().st_mtime > _STALE:
            half_written.unlink(missing_ok=True)


def list_reports(folder: Path) -> tuple[ReportRecord, ...]:
    """The reports of a folder, oldest first; a record that is damaged or names another file is left out."""
    found = (_read(path) for path in sorted(folder.glob("*.json")))
    return tuple(report for report in found if report is not None)


def _read(path: Path) -> ReportRecord | None:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        report = ReportRecord(
            file=str(facts["file"]),
            made=str(facts["made"]),
            experiment=str(facts["experiment"]),
            run=str(facts["run"]),
            windows=tuple(map(str, facts["windows"])),
            reference_windows=tuple(map(str, facts["reference_windows"])),
            drifted=tuple(map(str, facts["drifted"])),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return report if report.file == path.with_suffix(".html").name else None


def _page(reports: Sequence[ReportRecord]) -> str:
    headings = ("made (UTC)", "experiment", "window", "against", "drift in", "run")
    lines = [
        (
            f'<a href="{escape(report.file)}">{escape(shown(report.made))}</a>',
            *(
                escape(shown(words))
                for words in (
                    report.experiment,
                    ", ".join(report.windows) or "all rows",
                    ", ".join(report.reference_windows) or "all rows",
                    ", ".join(report.drifted) or "–",
                    report.run,
                )
            ),
        )
        for report in reversed(reports)
    ]
    return _PAGE.format(
        headings="".join(f"<th>{heading}</th>" for heading in headings),
        rows="\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in line)}</tr>" for line in lines),
    )


def _write(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
