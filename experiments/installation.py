"""Which installation a command or a call needs, told once a library turns out to be missing.

pip install tidegate[scientist]    connect, run and runs at a server
pip install tidegate[predict]      models predict at a server, the model that MLflow loads
pip install tidegate[inference]    tidegate site serve
pip install tidegate[notebook]     predictions and plots in a notebook
pip install tidegate[site]         tidegate site
pip install tidegate[server]       tidegate server, schedule, drift, models
pip install tidegate[all]          training on this machine, demo, data, audit, bench
"""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from contract.errors import InputError

__all__ = ["missing_library", "telling_what_is_missing"]

Taken = ParamSpec("Taken")
Given = TypeVar("Given")

_ON_THE_WAY = (
    "__main__",
    "experiments",
    "experiments.cli.by_profile",
    "experiments.cli.main",
    "experiments.installation",
    *(
        f"experiments.python.{name}"
        for name in ("comparison", "connecting", "experiment", "federation", "model", "plots", "run")
    ),
)
"""What calls every command, or is called first in Python, whatever it needs."""
_EXTRA_OF = {
    "clients": "site",
    "server": "server",
    "experiments": "all",
    "serving": "predict",
    "inference": "inference",
}
"""The extra that a package needs; `contract`, `terminal` and `monitoring` need what their caller does."""
_AT_A_SERVER = "A run at a server needs no more than `tidegate connect`"
_CONNECTED = "Or `tidegate connect` first: a server is asked then, and this machine needs none of it"
_BY_PROFILE = "experiments.cli.by_profile"


def missing_library(error: ModuleNotFoundError) -> InputError | None:
    """What to install, from the first package that the command went through on its way to the import.

    None if the module is one of our own, or the import was nobody's of those: then the program is at fault.
    """
    library = (error.name or "").partition(".")[0]
    ours = {*_EXTRA_OF, "contract", "terminal", "monitoring", "scientist"}
    if not library or library in ours or library in sys.stdlib_module_names:
        return None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = frame.f_globals.get("__name__", "")
        extra = _EXTRA_OF.get(module.partition(".")[0])
        if extra is None or module in _ON_THE_WAY:
            continue
        also = f". {_AT_A_SERVER}" if extra == "all" else ""
        also = f". {_CONNECTED}" if extra == "server" and _asks_a_profile(error) else also
        return InputError(
            f"this needs {library}, which is not installed",
            remedy=f"Install it with: pip install 'tidegate[{extra}]'{also}",
        )
    return None


def _asks_a_profile(error: ModuleNotFoundError) -> bool:
    """Whether the command is one that asks the server of a profile, where there is one."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(frame.f_globals.get("__name__") == _BY_PROFILE for frame in frames)


def telling_what_is_missing(call: Callable[Taken, Given]) -> Callable[Taken, Given]:
    """A call that raises what to install where a library is missing.

    Raises:
        InputError: names the installation.
    """

    @functools.wraps(call)
    def told(*given: Taken.args, **named: Taken.kwargs) -> Given:
        try:
            return call(*given, **named)
        except ModuleNotFoundError as exc:
            missing = missing_library(exc)
            if missing is None:
                raise
            raise missing from exc

    return told
