"""Work that goes on in a thread beside the main flow of `tidegate server up`, and ends with it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["working_beside"]


@contextmanager
def working_beside(
    name: str, work: Callable[[threading.Event], None], *, wake: threading.Event | None = None
) -> Iterator[Callable[[], None]]:
    """Do some work in a thread while the block lasts.

    Yields a function that raises what ended the thread, where something did.

    Args:
        name: of the thread.
        work: returns soon after the event that it is given was set.
        wake: what it waits for meanwhile; it is set too when it is to end.
    """
    stop, defects = threading.Event(), list[Exception]()

    def watched() -> None:
        try:
            work(stop)
        except Exception as exc:
            defects.append(exc)

    def require_running() -> None:
        if defects:
            raise defects[0]

    thread = threading.Thread(target=watched, name=name)
    thread.start()
    try:
        yield require_running
    finally:
        stop.set()
        if wake is not None:
            wake.set()
        thread.join()
