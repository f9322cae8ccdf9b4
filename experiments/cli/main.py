"""The command line: one file a group of commands, heavy libraries imported where they are used.

Exit code 0: done. 1: it failed, and says why. 2: the input is wrong, and it says
where. 130: interrupted. No traceback for something that a user can cause.
"""

from __future__ import annotations

import os
import sys

import typer

from contract.errors import TidegateError
from experiments.cli import data, demo, drift, models, run, server, site

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train across sites whose data never leaves them; watch it for drift; retrain; let people review.",
)
app.command()(run.run)
app.command()(demo.demo)
app.command("data")(data.lay_out)
app.add_typer(server.app, name="server")
app.add_typer(site.app, name="site")
app.add_typer(drift.app, name="drift")
app.add_typer(models.app, name="models")


def main() -> None:
    """The program's entry."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    try:
        app()
    except TidegateError as exc:
        print(f"error: {exc}", file=sys.stderr)
        sys.exit(exc.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output has gone, as `head` does: that is not an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
