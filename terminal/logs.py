"""Logs and tracebacks that nobody outside can write into: a record is one line, whatever its words hold.

Light to import: every command begins with `prepare_output`.
"""

from __future__ import annotations

import io
import logging
import sys
import traceback
from pathlib import Path
from types import TracebackType

from contract.outside import shown

__all__ = ["PlainRecords", "log_to", "plain_traceback", "prepare_output"]

_LONGEST = 2000


class PlainRecords(logging.Filter):
    """Makes each record one line of visible characters, before any handler writes it.

    Messages name runs, sites, columns and values that come from outside, and quote errors of
    libraries that do. The lines of a traceback begin with a bar, so that none passes for a record.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Lets every record pass, changed."""
        if not getattr(record, "plain", False):  # a second handler's filter meets the same record
            record.plain = True
            record.msg, record.args = shown(_words(record), limit=_LONGEST), None
            if record.exc_info and record.exc_info[1] is not None:
                record.exc_text = plain_traceback(record.exc_info[1])
        return True


def plain_traceback(error: BaseException) -> str:
    """A traceback of visible characters, each line behind a bar."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    return "\n".join(f"| {shown(line, limit=_LONGEST)}" for line in lines)


def prepare_output() -> None:
    """Make whatever this process writes safe to show and possible to write; call it first.

    A character that the output's encoding lacks becomes `?`. Log records that no handler was
    made for, and tracebacks, are written in visible characters.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    if logging.lastResort is not None:
        logging.lastResort.addFilter(PlainRecords())
    sys.excepthook = _show_traceback


def log_to(path: Path) -> None:
    """Write this process's log to standard error and to the end of a file, in plain records.

    The file, and its folder, are this user's alone where they are new: an error's words may hold a value.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch(mode=0o600)
    file = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handlers: list[logging.Handler] = [logging.StreamHandler(), file]
    for handler in handlers:
        handler.addFilter(PlainRecords())
    logging.basicConfig(
        level=logging.INFO, handlers=handlers, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("tidegate").setLevel(logging.INFO)
    for chatty in ("httpx", "flwr"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _words(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):  # of a library that counted its arguments wrong
        return f"{record.msg} {record.args}"


def _show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    del kind, trace  # the error has both
    print(plain_traceback(error), file=sys.stderr)
