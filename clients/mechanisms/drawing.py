"""Draws drift reports after the answer, in a process of its own: no report touches an answer.

    answer goes out → the request waits → a thread counts all rows, takes some to draw
                    → the drawing process writes the page → the thread enters it in the list

Importing Evidently takes seconds and drawing takes more, so one process lasts from report to
report, at the lowest priority. If it dies, another takes its place and the report is tried once
more. It ends when this process does, however this one ends: the kernel kills it (Linux), and a
thread of its own sees the end of this process. Whatever goes wrong is said in the site's log.

The thread lasts as long as this process: the kernel takes the end of the thread that started a
process for the end of its parent.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clients.mechanisms.report_files import ReportRecord, is_there, new_name, record
from contract.collector import collect_rarely
from contract.errors import TidegateError
from contract.experiment import Experiment

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Drawing", "ReportQueue", "end_with_parent", "report_queue"]

_log = logging.getLogger("tidegate.site")

_LONGEST_QUEUE = 20
"""Requests that wait: each keeps its rows in memory."""
_PATIENCE = 900.0
"""Seconds for one report, at the lowest priority."""
_TRIES = 2
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A report to be drawn.

    Attributes:
        digest: of the request: one that comes again is drawn once.
        reference, current: rows as they were read.
        run, windows, reference_windows: as the message named them.
        folder: the site's own, of its reports.
    """

    digest: str
    reference: pd.DataFrame
    current: pd.DataFrame
    experiment: Experiment
    run: str
    windows: tuple[str, ...]
    reference_windows: tuple[str, ...]
    folder: Path


class ReportQueue:
    """Draws one report after the other; when this process ends well, it first draws those that wait.

    Args:
        serve: what the drawing process runs on its end of the pipe.
    """

    def __init__(self, serve: Callable[[Connection], None] | None = None) -> None:
        self._serve = serve or _serve
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="drift-reports")
        self._lock = threading.Lock()
        self._waiting: set[str] = set()
        self._process: Any = None
        self._line: Connection | None = None

    @property
    def process_id(self) -> int | None:
        """Of the drawing process; None before the first report."""
        return None if self._process is None else self._process.pid

    def add(self, drawing: Drawing) -> None:
        """Have it drawn later."""
        with self._lock:
            if drawing.digest in self._waiting or is_there(drawing.folder, drawing.digest):
                return
            if len(self._waiting) >= _LONGEST_QUEUE:
                _log.error("a drift report is left out: %d wait to be drawn", len(self._waiting))
                return
            self._thread.submit(self._draw, drawing)
            self._waiting.add(drawing.digest)

    def settle(self) -> None:
        """Wait until nothing waits."""
        self._thread.submit(lambda: None).result()

    def close(self) -> None:
        """Draw what waits, and end the process."""
        self._thread.shutdown(wait=True)
        self._end()

    def _draw(self, drawing: Drawing) -> None:
        try:
            path, drifted = self._written(drawing)
            _enter(drawing, path, drifted)
            _log.info("drift report written: %s", path)
        except TidegateError as exc:
            _log.error("the drift report was not written: %s", exc)
        except BaseException:  # also what no Exception is: the thread goes on with the next
            _log.exception("the drift report was not written")
        finally:
            with self._lock:
                self._waiting.discard(drawing.digest)

    def _written(self, drawing: Drawing) -> tuple[Path, tuple[str, ...]]:
        import numpy as np

        from monitoring.report import take_window

        task, drift = drawing.experiment.task, drawing.experiment.drift
        rng = np.random.default_rng(int(drawing.digest, 16))
        path = drawing.folder / new_name(drawing.digest, datetime.now(UTC))
        order = {
            "reference": take_window(drawing.reference, "reference", task=task, drift=drift, rng=rng),
            "current": take_window(drawing.current, "current", task=task, drift=drift, rng=rng),
            "task": task,
            "drift": drift,
            "path": path,
            "rng": rng,
            "title": _title(drawing),
        }
        for _ in range(_TRIES):
            try:
                error, drifted = self._ask(order)
            except (EOFError, OSError):  # it died: killed, or out of memory
                self._end()
                continue
            except BaseException:  # what comes next on the line would be of another report
                self._end()
                raise
            if error is not None:
                raise error
            return path, drifted
        raise TidegateError(
            f"the drawing process died over it, {_TRIES} times",
            where="drift report",
            remedy="See the system's log for its memory",
        )

    def _ask(self, order: dict[str, Any]) -> tuple[TidegateError | None, tuple[str, ...]]:
        if self._line is None:
            self._start()
        assert self._line is not None  # just started  # noqa: S101
        self._line.send(order)
        if not self._line.poll(_PATIENCE):
            self._end()
            raise TidegateError(f"drawing took more than {_PATIENCE:g} s", where="drift report")
        answer: tuple[TidegateError | None, tuple[str, ...]] = self._line.recv()
        return answer

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._line, theirs = context.Pipe()
        with theirs:
            self._process = context.Process(
                target=self._serve, args=(theirs,), name="drift-reports", daemon=True
            )
            self._process.start()

    def _end(self) -> None:
        if self._line is not None:
            self._line.close()
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._process = self._line = None


@functools.cache
def report_queue() -> ReportQueue:
    """This process's."""
    return ReportQueue()


def _title(drawing: Drawing) -> str:
    current = ", ".join(drawing.windows) or "all rows"
    reference = ", ".join(drawing.reference_windows) or "all rows"
    return f"{drawing.experiment.name}: {current}, against {reference} (run {drawing.run})"


def _enter(drawing: Drawing, path: Path, drifted: tuple[str, ...]) -> None:
    report = ReportRecord(
        file=path.name,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        experiment=drawing.experiment.name,
        run=drawing.run,
        windows=drawing.windows,
        reference_windows=drawing.reference_windows,
        drifted=drifted,
    )
    try:
        record(drawing.folder, report)
    except OSError as exc:
        raise TidegateError(
            f"the report is there, but the list of reports cannot be written: {exc.strerror}",
            where=str(path),
            remedy="Free some space, or let the agent write to that folder",
        ) from exc


def _serve(line: Connection) -> None:
    """The drawing process: answer orders until the other side is gone."""
    collect_rarely()
    end_with_parent()
    _step_back()
    while True:
        try:
            order = line.recv()
        except EOFError:
            return
        line.send(_drawn(order))


def _drawn(order: dict[str, Any]) -> tuple[TidegateError | None, tuple[str, ...]]:
    from monitoring.report import draw_report

    try:
        return None, draw_report(**order).drifted
    except TidegateError as exc:
        return TidegateError(exc.what, where=exc.where, remedy=exc.remedy), ()
    except Exception as exc:  # Evidently's own; its text may hold a value, and stays in the site's log
        return TidegateError(f"{type(exc).__name__}: {exc}", where="drift report"), ()


def end_with_parent() -> None:
    """End this process, a child by `multiprocessing`, when the one that started it ends in any way."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        wait([parent.sentinel])  # also of a parent that died before the kernel was told
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _step_back() -> None:
    """Draw when the processor has nothing else to do, where the system can say so (Linux)."""
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.nice(10)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
