"""The MLflow run in which a training run is shown, opened beside the first round."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait

from server.registry.registry import Registry

__all__ = ["MlflowRun"]

_PATIENCE = 4.0
"""Seconds that a run which has failed waits for its MLflow run: less than Flower gives a process to end."""


class MlflowRun:
    """To import MLflow and to open a run in it takes a second or two, for which no site need wait.

    Figures wait here until it is open. The registry is used by one thread at a time: by that which opens the
    run, and then by the caller's.

    Args:
        registry: MLflow.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._opened: Future[str] | None = None
        self._waiting: list[tuple[Mapping[str, float], int]] = []

    def open(self, opening: Callable[[], str]) -> None:
        """Have a thread open it.

        Whether MLflow can be used at all is asked first, so that no site spends anything on a run that could
        not be registered.

        Args:
            opening: opens it and gives its id.

        Raises:
            TidegateError: MLflow's server is away, or its database is locked.
        """
        self._registry.require_usable()
        thread = ThreadPoolExecutor(1, thread_name_prefix="MLflow")
        self._opened = thread.submit(opening)
        thread.shutdown(wait=False)

    @property
    def id(self) -> str:
        """Its id, once it is open; what went wrong there is raised here."""
        if self._opened is None:
            raise RuntimeError("it was not opened")
        run_id = self._opened.result()
        while self._waiting:
            named, step = self._waiting[0]
            self._registry.log_metrics(run_id, named, step=step)
            del self._waiting[0]
        return run_id

    def log_metrics(self, named: Mapping[str, float], step: int) -> None:
        """Log figures of a round: at once, or when it is open."""
        self._waiting.append((named, step))
        if self._opened is not None and self._opened.done():
            _ = self.id

    def settle(self) -> None:
        """Wait a little for a run that is being opened: it is to be ended, and should not stay open."""
        if self._opened is not None:
            wait([self._opened], timeout=_PATIENCE)
