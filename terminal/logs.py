"""Logs and tracebacks that nobody outside can write into: a record is one line, whatever its words hold.

A log is bounded in size: a full file gets a number, `agent.log.1`, and the oldest of five is dropped.
A warning that comes again and again is written once, and how often it came when something else is said.

Light to import: every command begins with `prepare_output`.
"""

from __future__ import annotations

import copy
import fcntl
import io
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from types import TracebackType

from contract.outside import shown

__all__ = [
    "FewWarnings",
    "PlainRecords",
    "RotatingFile",
    "log_files",
    "log_to",
    "plain_traceback",
    "prepare_output",
    "rotate_output",
]

_LONGEST = 2000
_LARGEST, _KEPT = 10 * 2**20, 5
"""Bytes of a log's file, and how many full ones are kept beside it."""
_MOST_WARNINGS, _WARNING_SECONDS = 60, 60.0
"""Warnings that pass `FewWarnings`, in so many seconds."""
_TELL_SECONDS = 3600.0
"""After so long the count of a line that still comes is written."""


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


class FewWarnings(logging.Filter):
    """Lets some warnings a minute pass, and then says how many did not.

    For a logger whose warnings say what strangers tried: anybody could write a log full. Errors always pass,
    and so does what those did who may.
    """

    def __init__(self) -> None:
        super().__init__()
        self._since, self._passed, self._left_out = 0.0, 0, 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record passes."""
        if record.levelno != logging.WARNING:
            return True
        if record.created - self._since >= _WARNING_SECONDS:
            self._since, self._passed = record.created, 0
        if self._passed >= _MOST_WARNINGS:
            self._left_out += 1
            return False
        self._passed += 1
        if self._left_out:
            record.msg, record.args = f"{_words(record)} [{self._left_out} others were left out]", None
            self._left_out = 0
        return True


def plain_traceback(error: BaseException) -> str:
    """A traceback of visible characters, each line behind a bar."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    return "\n".join(f"| {shown(line, limit=_LONGEST)}" for line in lines)


def prepare_output() -> None:
    """Make whatever this process writes safe to show and possible to write; call it first.

    A character that the output's encoding lacks becomes `?`. Each line goes out at once, so that who reads a
    run through a pipe follows it. Log records that no handler was made for, and tracebacks, are written in
    visible characters.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace", line_buffering=True)
    if logging.lastResort is not None:
        logging.lastResort.addFilter(PlainRecords())
    sys.excepthook = _show_traceback


def log_to(path: Path) -> None:
    """Write this process's log to standard error and to the end of a file, in plain records.

    The file, and its folder, are this user's alone where they are new: an error's words may hold a value.
    Several processes may write to it.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    written: list[logging.Handler] = [logging.StreamHandler(), RotatingFile(path)]
    for handler in written:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    once = _Once(written)
    once.addFilter(PlainRecords())
    logging.basicConfig(level=logging.INFO, handlers=[once])
    logging.getLogger("tidegate").setLevel(logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # While a server is away Flower warns of each try, in other words each time; the agent says it once.
    logging.getLogger("flwr").setLevel(logging.ERROR)


def log_files(path: Path) -> list[Path]:
    """The files of a log that are there, the newest first."""
    return [file for file in _names(path) if file.exists()]


def rotate_output(path: Path) -> None:
    """Keep a log bounded to whose end another process writes, for which it must be opened to append.

    Its content is copied to a file with a number, and it begins anew; a line that is written in that moment
    is lost. Where there is no room for the copy, the log stays as it is.

    Args:
        path: the log; there may be none.
    """
    with suppress(OSError):
        size = path.stat().st_size
        if size < _LARGEST:
            return
        with _alone(path.parent):
            _keep_end_of(path, size)
            os.truncate(path, 0)


class RotatingFile(logging.FileHandler):
    """A log's file that several processes write to, each of which may find it full."""

    def __init__(self, path: Path) -> None:
        self._path = path
        super().__init__(path, encoding="utf-8", errors="backslashreplace")

    def _open(self) -> io.TextIOWrapper:
        return io.TextIOWrapper(_opened(self._path, "ab"), encoding="utf-8", errors="backslashreplace")

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record to the file that has the log's name now."""
        with suppress(OSError):  # then to the one that is open
            if self._is_full():
                with _alone(self._path.parent):
                    if self._is_full():  # not yet rotated by another
                        _shift(self._path)
                        self._path.rename(_names(self._path)[1])
            if not self._is_open():
                opened = self._open()
                if self.stream is not None:
                    self.stream.close()
                self.stream = opened
        super().emit(record)

    def _is_full(self) -> bool:
        return self._path.exists() and self._path.stat().st_size >= _LARGEST

    def _is_open(self) -> bool:
        if self.stream is None or not self._path.exists():
            return False
        return os.path.samestat(os.fstat(self.stream.fileno()), self._path.stat())


class _Once(logging.Handler):
    """Passes records on; of a warning that comes again and again the first alone, and later its count.

    Args:
        handlers: to which records are passed on.
    """

    def __init__(self, handlers: Sequence[logging.Handler]) -> None:
        super().__init__()
        self._handlers = handlers
        self._last: logging.LogRecord | None = None
        self._first, self._again = 0.0, 0

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a record on, or count it."""
        if self._last is not None and _is_same(record, self._last):
            self._last, self._again = record, self._again + 1
            if record.created - self._first >= _TELL_SECONDS:
                self._tell()
            return
        self._tell()
        self._last, self._first = record, record.created
        self._pass_on(record)

    def close(self) -> None:
        """Say what was counted."""
        self._tell()
        super().close()

    def _tell(self) -> None:
        if self._last is None or not self._again:
            return
        told, until = copy.copy(self._last), datetime.fromtimestamp(self._last.created, UTC)
        told.msg = f"{told.msg} [{self._again} times more, the last at {until:%Y-%m-%d %H:%M:%S} UTC]"
        self._first, self._again = self._last.created, 0
        self._pass_on(told)

    def _pass_on(self, record: logging.LogRecord) -> None:
        for handler in self._handlers:
            handler.handle(record)


def _is_same(record: logging.LogRecord, other: logging.LogRecord) -> bool:
    """Whether a warning says the same again; a traceback is always written."""
    if record.levelno < logging.WARNING or record.exc_info:
        return False
    same = (record.name, record.levelno, record.msg) == (other.name, other.levelno, other.msg)
    return same and not other.exc_info


def _names(path: Path) -> list[Path]:
    """The log's file, and what the full ones are called, the newest first."""
    return [path, *(path.with_name(f"{path.name}.{number}") for number in range(1, _KEPT + 1))]


def _shift(path: Path) -> None:
    """Make the first number free; what had the last is dropped."""
    names = _names(path)[1:]
    for newer, older in reversed(list(pairwise(names))):
        if newer.exists():
            newer.replace(older)


def _keep_end_of(path: Path, size: int) -> None:
    copied = path.with_name(f"{path.name}.new")
    try:
        with path.open("rb") as full, _opened(copied, "wb") as kept:
            full.seek(max(0, size - 2 * _LARGEST))  # of a burst between two looks the end
            kept.write(full.read(2 * _LARGEST))
    except OSError:
        copied.unlink(missing_ok=True)
        raise
    _shift(path)
    copied.rename(_names(path)[1])


def _opened(path: Path, mode: str) -> io.BufferedWriter:
    """A file to write to, this user's alone where it is new."""
    flags = os.O_APPEND if mode == "ab" else os.O_TRUNC
    return io.BufferedWriter(io.FileIO(os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o600), mode))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While the block runs, no other process rotates a log in this folder."""
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def _words(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):  # of a library that counted its arguments wrong
        return f"{record.msg} {record.args}"


def _show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    del kind, trace  # the error has both
    print(plain_traceback(error), file=sys.stderr)
