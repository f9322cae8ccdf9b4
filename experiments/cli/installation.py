"""Which installation a command needs, told once a library turns out to be missing.

pip install tidegate[scientist]    connect, run and runs at a server
pip install tidegate[predict]      models predict at a server, the model that MLflow loads
pip install tidegate[site]         tidegate site
pip install tidegate[server]       tidegate server, schedule, drift, models
pip install tidegate[all]          training on this machine, demo, data, audit, bench
"""

from __future__ import annotations

import sys
import traceback

from contract.errors import InputError

__all__ = ["missing_library"]

_ON_THE_WAY = ("__main__", "experiments.cli.main", "experiments.cli.by_profile")
"""What calls every command, whatever it needs."""
_EXTRA_OF = {"clients": "site", "server": "server", "experiments": "all", "serving": "predict"}
"""The extra that a package needs; `contract`, `terminal` and `monitoring` need what their caller does."""
_AT_A_SERVER = "A run at a server needs no more than `tidegate connect`"


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
        return InputError(
            f"this command needs {library}, which is not installed",
            remedy=f"Install it with: pip install 'tidegate[{extra}]'{also}",
        )
    return None
