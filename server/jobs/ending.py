"""However a run ends, the state database says so, with its reason.

An error of ours, an error that nobody thought of, Ctrl-C, a process that is told to stop: each leaves the
run as failed or stopped. Of a process that was killed outright `State.end_dead_runs` says so later.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from flwr.serverapp import Grid

from contract.errors import TakenOverError, TidegateError
from server.line.flower import before_exit
from server.state.participation import GO_ON, printable
from server.state.records import RunStatus
from server.state.storage import State

__all__ = ["recorded_end"]

_log = logging.getLogger("flwr")
_LONGEST = 500
_STOPPED = f"its process was stopped. What to do: {GO_ON}"


@contextmanager
def recorded_end(
    run: str, turn: int, state: State, grid: Grid, then: Callable[[RunStatus], None] = lambda _: None
) -> Iterator[None]:
    """Write down why a run ended before its work was done, then let the error through.

    Args:
        run: its name; it need not be there yet.
        turn: of this process. What another has taken over since is not this one's to end.
        state: the state database.
        grid: Flower's, which knows of a run that was stopped.
        then: what else is to be done with a run that ended so.

    Raises:
        TakenOverError: another process goes on with the run.
    """

    def enter(status: RunStatus, reason: str) -> None:
        try:
            state.require_turn(run, turn)
            found = state.run(run)
            if found is not None and found.status == "running":
                state.finish_run(run, status, error=reason)
                then(status)
        except TakenOverError:
            raise
        except TidegateError as away:  # what ended the run is to be told, and not what is away too
            _log.error("run '%s' was not marked as %s: %s", run, status, away)

    def stop() -> None:
        if state.database.is_writing:  # this very thread, which is interrupted: it would wait for itself
            raise SystemExit
        enter("stopped", _STOPPED)

    try:
        with before_exit(stop):
            try:
                yield
            except TidegateError:
                raise
            except Exception:
                _hear_of_a_stop(grid)
                raise
    except BaseException as exc:
        enter(*_ending(exc))
        raise


def _hear_of_a_stop(grid: Grid) -> None:
    """Ask Flower once more, after an error that nobody expected, while it can still end this process.

    Of a run that was stopped a moment ago it refuses first one thing or another, which looks like an error.
    """
    with suppress(Exception):
        grid.get_node_ids()


def _ending(error: BaseException) -> tuple[RunStatus, str]:
    if isinstance(error, TidegateError):
        return "failed", str(error)
    if not isinstance(error, Exception):
        return "stopped", _STOPPED
    said = printable(f"{type(error).__name__}: {error}", _LONGEST)
    return "failed", f"an error that should not be ({said}). The server's log has the whole of it"
