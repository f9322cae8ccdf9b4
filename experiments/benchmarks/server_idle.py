"""What a server costs while nothing is asked of it: `tidegate server up` with ten sites connected."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil

from clients.keys import make_node_key
from contract.errors import AddressError, RoundError
from experiments.benchmarks.measurement import Measurement
from experiments.benchmarks.rounds_trial import certify
from server.enrolment import make_server
from server.federation import admit, running_control
from server.line.certificates import server_files
from server.line.processes import Processes, free_port
from server.server_file import ServerFile
from server.settings import ServerSettings, quiet_environment, read_settings

__all__ = ["make_standing", "measure", "standing_server"]

_SITES = 10
_SETTLE_SECONDS, _SECONDS = 10.0, 60.0
_START_SECONDS = 300.0


def measure(home: Path) -> list[Measurement]:
    """Share of a core, and memory, of all the server's processes but MLflow's."""
    file, settings = make_standing(home)
    with standing_server(settings) as server, Processes(logs=home / "logs-of-sites") as sites:
        _start_sites(home, settings, file, sites)
        time.sleep(_SETTLE_SECONDS)
        family = [server, *(item for item in server.children(recursive=True) if not _is_mlflow(item))]
        before = _processor_seconds(family)
        time.sleep(_SECONDS)
        core = (_processor_seconds(family) - before) / _SECONDS
        megabytes = sum(_memory(item) for item in family) / 1e6
    note = f"{len(family)} processes without MLflow's, over {_SECONDS:.0f} s"
    return [
        Measurement(
            name=f"idle server, {_SITES} sites connected, share of a core",
            ours=100 * core,
            theirs=None,
            unit="%",
            goal=2.0,
            note=note,
        ),
        Measurement(
            name=f"idle server, {_SITES} sites connected, resident",
            ours=megabytes,
            theirs=None,
            unit="MB",
            goal=400.0,
            note=note,
        ),
    ]


def _memory(process: psutil.Process) -> int:
    """Bytes; of a page that several processes share each has its part, where the system tells."""
    known = process.memory_full_info()
    return int(getattr(known, "pss", known.rss))


def make_standing(home: Path) -> tuple[ServerFile, ServerSettings]:
    """The folder of a server that others reach on free ports of this machine."""
    file = ServerFile(
        hosts=("127.0.0.1",), listen="127.0.0.1", gateway_port=free_port(), api_port=free_port()
    )
    make_server(home, file)
    settings = read_settings(
        {
            "TIDEGATE_HOME": str(home),
            "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db",
            "TIDEGATE_ARTIFACT_ROOT": str(home / "artifacts"),
        }
    )
    return file, settings


@contextmanager
def standing_server(settings: ServerSettings) -> Iterator[psutil.Process]:
    """`tidegate server up` in that folder, while the block lasts."""
    environment = {
        **os.environ,
        **quiet_environment(),
        "TIDEGATE_HOME": str(settings.home),
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
        "TIDEGATE_ARTIFACT_ROOT": str(settings.artifact_root),
    }
    command = [sys.executable, "-m", "experiments.cli.main", "server", "up", "--port", "0", "--ui-port", "0"]
    with (settings.home / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=settings.home)
    try:
        end = time.monotonic() + _START_SECONDS
        while b"Ctrl-C stops all" not in (settings.home / "server.log").read_bytes():
            if process.poll() is not None or time.monotonic() > end:
                raise RoundError("the server does not start", where=str(settings.home / "server.log"))
            time.sleep(0.2)
        yield psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _start_sites(home: Path, settings: ServerSettings, file: ServerFile, sites: Processes) -> None:
    files = server_files(home / "certificates")
    command = [sys.executable, "-m", "experiments.benchmarks.rounds_site", file.gateway]
    command += [str(files.authority), str(home / "calls.json")]
    with closing(running_control(settings)) as control:
        for number in range(_SITES):
            private, public = make_node_key(home / f"site-{number}")
            admit(f"site-{number}", public, control, settings)
            certify(private, f"site-{number}", files)
            command.append(str(private))
        sites.start("sites", command, {**quiet_environment(), "OMP_NUM_THREADS": "1"}, home)
        end = time.monotonic() + _START_SECONDS
        while len(control.connected()) < _SITES:
            sites.require_running()
            if time.monotonic() > end:
                raise AddressError("the sites do not connect", where=str(home / "logs-of-sites"))
            time.sleep(0.2)


def _is_mlflow(process: psutil.Process) -> bool:
    return "mlflow" in " ".join(process.cmdline())


def _processor_seconds(family: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in family)
