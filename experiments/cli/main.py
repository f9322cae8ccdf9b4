"""The command line: one file a group of commands, heavy libraries imported where they are used.

Exit code 0: done. 1: it failed, and says why. 2: the input is wrong, and it says
where. 130: interrupted. No traceback for something that a user can cause.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated, NoReturn

import typer

from clients.cli import site
from contract.collector import collect_rarely
from contract.errors import InputError, TidegateError
from contract.outside import shown
from contract.transport import ask_directly_here
from experiments.cli import audit, bench, compare, data, demo, new, plan, ranges, run
from experiments.cli.by_profile import THERE, by_profile
from experiments.installation import missing_library
from scientist.cli import connect, runs
from server.cli import drift, models, schedule, server, sites
from terminal.interrupts import end_on_signals
from terminal.logs import prepare_output

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train across sites whose data never leaves them; watch it for drift; retrain; let people review.",
)


def _say_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        print(f"tidegate {metadata.version('tidegate')}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    _version: Annotated[
        bool,
        typer.Option("--version", help="Say which version this is.", callback=_say_version, is_eager=True),
    ] = False,
) -> None:
    # What any command writes is its user's alone: states and keys, and logs and reports that may hold values.
    before = os.umask(0o077)
    context.call_on_close(lambda: os.umask(before))


app.command()(run.run)
app.command()(new.new)
app.command()(plan.plan)
app.command()(ranges.ranges)
app.command()(connect.connect)
app.command()(connect.disconnect)
app.command()(connect.whoami)
app.add_typer(runs.app, name="runs")
app.command()(compare.compare)
app.command()(demo.demo)
app.command("data")(data.lay_out)
app.command()(audit.audit)
app.command()(bench.bench)
app.add_typer(server.app, name="server")
app.add_typer(site.app, name="site")
for _name, _group in (("sites", sites), ("schedule", schedule), ("drift", drift), ("models", models)):
    app.add_typer(by_profile(_group.app, THERE[_name]), name=_name)


_INTERRUPTED = 130
_LONGEST = 5000
"""Characters of an error that are shown."""
_NOT_THERE = "Name a file or folder that can be there"
_NO_ROOM = "Free room on that disk"
_OF_THE_MACHINE = {
    errno.EACCES: "Let this user read and write there, or run this as the user who may",
    errno.EPERM: "Let this user read and write there, or run this as the user who may",
    errno.EROFS: "Name a place on a disk that can be written to",
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
    errno.ENOTDIR: _NOT_THERE,
    errno.EISDIR: _NOT_THERE,
    errno.ELOOP: _NOT_THERE,
    errno.ENAMETOOLONG: _NOT_THERE,
}
"""Faults of a file that no command has words of its own for, and what to do: none is the program's fault."""


def main() -> None:
    """The program's entry."""
    collect_rarely()
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    ask_directly_here(os.environ)
    prepare_output()
    end_on_signals()
    try:
        app()
    except TidegateError as exc:
        _end_with(exc)
    except ModuleNotFoundError as exc:
        missing = missing_library(exc)
        if missing is None:
            raise
        _end_with(missing)
    except BrokenPipeError:
        # The reader of our output has gone, as `head` does: that is not an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as exc:
        remedy = _OF_THE_MACHINE.get(exc.errno or 0)
        if remedy is None or not (exc.filename or remedy == _NO_ROOM):
            raise
        words = f"{exc.filename or 'a file'}: {exc.strerror}. {remedy}."
        print(f"error: {shown(words, limit=_LONGEST)}", file=sys.stderr)
        sys.exit(InputError.exit_code)
    except KeyboardInterrupt:
        _say_interrupted()
        sys.exit(_INTERRUPTED)
    except Exception as exc:
        if "KeyboardInterrupt" not in str(exc):  # pydantic hides one in an error of its own
            raise
        _say_interrupted()
        sys.exit(_INTERRUPTED)
    except SystemExit as exc:
        if exc.code == _INTERRUPTED:  # typer's own answer to Ctrl-C, without a word
            _say_interrupted()
        raise


def _end_with(error: TidegateError) -> NoReturn:
    print(f"error: {shown(error, limit=_LONGEST)}", file=sys.stderr)
    sys.exit(error.exit_code)


def _say_interrupted() -> None:
    print("interrupted", file=sys.stderr)


if __name__ == "__main__":
    main()
