"""Answers requests with the version in service: in batches, each written into the log before it is told.

Requests that are read in the same turn of the event loop are computed together, so that many clients cost one
computation and one write, and one client waits for nobody. A long request is computed in a thread, so
that short ones pass it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from contract.allocator import give_back
from contract.errors import InputError
from inference.log import Entry, PredictionLog, new_id
from inference.requests import Complaint, RefusedError, Rows
from inference.served import Served, Told

__all__ = ["Answer", "Beside", "Desk"]

_log = logging.getLogger("tidegate.inference")
_LONG = 1000
"""Rows from which on a request is computed in a thread."""
_MOST_WAITING = 16
"""Long requests that wait; each may have megabytes."""
_MOST_AT_ONCE = 4096
"""Rows that are computed together."""


_Found = TypeVar("_Found")


@dataclass(frozen=True, kw_only=True)
class Beside:
    """A second version, which is tried.

    Attributes:
        served: it.
        mode: `shadow` computes each request too, for the log alone; `canary` answers a share of them.
        share: of requests, from 0 to 1, which a canary answers.
    """

    served: Served
    mode: Literal["shadow", "canary"]
    share: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What is told of a request.

    Attributes:
        id: by which a label is told later.
        served: the version that computed it.
        told: the predictions.
    """

    id: str
    served: Served
    told: Told


class Desk:
    """Holds the version in service.

    Args:
        log: what was asked and told; None keeps nothing.

    Attributes:
        served: the version in service; None until the first one comes.
        beside: a version that is tried.
    """

    def __init__(self, log: PredictionLog | None) -> None:
        self.served: Served | None = None
        self.beside: Beside | None = None
        self.log = log
        self._waiting: list[tuple[Served, Rows, asyncio.Future[Answer]]] = []
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="long requests")
        self._left_memory, self._long_ones = False, 0

    def serve(self, served: Served) -> None:
        """Answer with this version from now on. What was asked before is answered by the one before.

        Raises:
            InputError: it is another model's.
        """
        if self.served is not None and served.name != self.served.name:
            raise InputError(
                f"'{served.name}' is another model than '{self.served.name}'", where="the inference service"
            )
        if self.log is not None:
            self.log.prepare(served.experiment)
        beside = self.beside
        if beside is not None and (
            beside.served.version == served.version or beside.served.experiment.task != served.experiment.task
        ):
            self.beside = None
            _log.warning("version %d is tried no more: another one answers", beside.served.version)
        self.served = served

    async def predict(self, served: Served, rows: Rows) -> Answer:
        """Predictions for a request.

        Raises:
            StorageError: the log cannot be written; nothing is told then.
        """
        loop = asyncio.get_running_loop()
        if rows.count >= _LONG:
            return await self.in_thread(self.predict_alone, served, rows)
        answer: asyncio.Future[Answer] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._answer_all)
        self._waiting.append((served, rows, answer))
        return await answer

    async def in_thread(self, compute: Callable[..., _Found], *given: Any) -> _Found:
        """What a function gives that takes long: one at a time, while short requests go on.

        Raises:
            RefusedError: too many wait for it.
        """
        if self._long_ones >= _MOST_WAITING:
            raise RefusedError(503, Complaint("the service", "too many long requests wait: try again later"))
        self._long_ones += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, compute, *given)
        finally:
            self._long_ones -= 1
            self._left_memory = True

    def chosen(self) -> Served | None:
        """The version that answers the next request."""
        beside = self.beside
        if beside is None or beside.mode != "canary":
            return self.served
        return beside.served if random.random() < beside.share else self.served  # noqa: S311 - no secret

    def rest(self) -> None:
        """Give the system the memory that a long request has left, where there was one."""
        if self._left_memory:
            self._left_memory = False
            give_back()

    def close(self) -> None:
        """End the threads and close the log."""
        self._threads.shutdown()
        if self.log is not None:
            self.log.close()

    def predict_alone(self, served: Served, rows: Rows) -> Answer:
        """Predictions for a request, computed by this thread. Errors as with `predict`."""
        (answer,), entries = self._computed(served, [rows])
        if self.log is not None:
            self.log.add(entries)
        return answer

    def _answer_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        while waiting:
            batch, count = [], 0
            served = waiting[0][0]
            while waiting and waiting[0][0] is served and count < _MOST_AT_ONCE:
                batch.append(waiting.pop(0))
                count += batch[-1][1].count
            self._answer(served, batch)

    def _answer(self, served: Served, batch: Sequence[tuple[Served, Rows, asyncio.Future[Answer]]]) -> None:
        try:
            answers, entries = self._computed(served, [rows for _, rows, _ in batch])
            if self.log is not None:
                self.log.add(entries)
        except Exception as exc:  # told to each who waits
            for _, _, future in batch:
                if not future.done():
                    future.set_exception(exc)
            return
        for (_, _, future), answer in zip(batch, answers, strict=True):
            if not future.done():  # who asked may have gone
                future.set_result(answer)

    def _computed(self, served: Served, rows: Sequence[Rows]) -> tuple[list[Answer], list[Entry]]:
        answers = [Answer(id=new_id(), served=served, told=told) for told in served.predict(rows)]
        if self.log is None:
            return answers, []
        beside = self.beside
        role = "canary" if beside is not None and served is beside.served else "served"
        entries = [_entry(one, role, given, one.id) for one, given in zip(answers, rows, strict=True)]
        if beside is not None and beside.mode == "shadow":
            try:
                for given, told in zip(rows, beside.served.predict(rows), strict=True):
                    shadow = Answer(id=new_id(), served=beside.served, told=told)
                    entries.append(_entry(shadow, "shadow", given, shadow.id))
            except Exception as exc:  # what is tried fails nobody's answer
                self.beside = None
                _log.error("the shadow failed, and is tried no more (%s)", type(exc).__name__)
        return answers, entries


def _entry(answer: Answer, role: str, rows: Rows, name: str) -> Entry:
    told = answer.told
    said: list[list[Any]] = [[value] for value in told.prediction]
    if told.probabilities is not None:
        for row, chances in zip(said, told.probabilities.tolist(), strict=True):
            row.extend(chances if row[0] is not None else [None] * len(chances))
    return Entry(
        id=name,
        version=answer.served.version,
        role=role,
        given=dict(rows.given),
        count=rows.count,
        told=said,
    )
