"""The deployment runtime on one machine: SuperLink, MLflow and site agents as processes.

What runs here is what runs on many machines: Flower's SuperLink with TLS and
node authentication, one agent a site with its own key, folder and ledger, runs
submitted as Flower app bundles. Only the addresses are all on loopback.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from contract.errors import AddressError, RoundError
from experiments.runtimes.certificates import ServerFiles, make_node_key, make_server_files
from experiments.runtimes.processes import Processes, free_port, require_free, wait_for_port
from server.flower import ControlClient
from server.registry_ui import serve_command, serve_environment
from server.settings import ServerSettings, quiet_environment, read_settings

__all__ = ["SITE", "Federation", "project_root", "running_control"]

SITE = "site-"
"""How the names of the sites' processes begin."""

_START_SECONDS = 60.0


def project_root() -> Path:
    """The folder of pyproject.toml, from which the app bundle is built."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "pyproject.toml").exists():
        raise RoundError(
            "the project's source is not beside the installed program, so no app bundle can be built",
            where=str(root),
            remedy="Install from a checkout: pip install -e .",
        )
    return root


@dataclass(kw_only=True)
class Federation:
    """A federation on this machine.

    Attributes:
        home: its folder: keys, logs, Flower's own files.
        settings: where the server keeps its state.
        processes: its children.
        port: of the SuperLink; 0 takes a free one.
        lasting: whether the SuperLink keeps its state in a file. Without, it keeps it in
            memory and a round takes half the time; runs resume from our own checkpoints anyway.
    """

    home: Path
    settings: ServerSettings
    processes: Processes
    port: int = 0
    lasting: bool = False

    def start_server(self) -> ControlClient:
        """Start the SuperLink and wait until it answers.

        Raises:
            AddressError: the port is in use.
            RoundError: it does not start.
        """
        if self.port:
            require_free(self.port, "the SuperLink")
        else:
            self.port = free_port()
        files = self.files
        command = [
            _program("flower-superlink"),
            *("--ssl-certfile", str(files.certificate), "--ssl-keyfile", str(files.key)),
            *("--ssl-ca-certfile", str(files.authority), "--enable-supernode-auth"),
            *("--disable-runtime-dependency-installation", "--host", "127.0.0.1", "--port", str(self.port)),
            *(("--database", str(self.home / "superlink.db")) if self.lasting else ()),
        ]
        self.processes.start("superlink", command, self.environment, self.home)
        wait_for_port(self.port, _START_SECONDS, self.processes)
        _address_file(self.settings).write_text(self.address, encoding="utf-8")
        return self.control

    def start_ui(self, port: int) -> str:
        """Start MLflow's user interface; return its address. It answers some seconds later."""
        environment = {**self.environment, **serve_environment()}
        self.processes.start("mlflow", serve_command(self.settings, port), environment, self.home)
        return f"http://127.0.0.1:{port}"

    @property
    def control(self) -> ControlClient:
        """The client of the SuperLink's Control API."""
        return ControlClient(self.address, self.files.authority)

    @property
    def address(self) -> str:
        """host:port of the SuperLink."""
        return f"127.0.0.1:{self.port}"

    @property
    def files(self) -> ServerFiles:
        """The server's certificates; made on first use."""
        return make_server_files(self.home / "certificates", ("127.0.0.1", "localhost"))

    @property
    def environment(self) -> dict[str, str]:
        """What every process of the server needs."""
        return {
            **quiet_environment(),
            "FLWR_HOME": str(self.home / "flower"),
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05",
            "TIDEGATE_HOME": str(self.settings.home),
            "TIDEGATE_STATE_URL": self.settings.state_url,
            "MLFLOW_TRACKING_URI": self.settings.tracking_uri,
            "TIDEGATE_ARTIFACT_ROOT": str(self.settings.artifact_root),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "OMP_NUM_THREADS": "1",
        }

    def add_site(self, name: str, site_file: Path, control: ControlClient) -> int:
        """Register a site's key and start its agent; return the process id."""
        private, public = make_node_key(site_file.parent / "keys")
        control.register(public, name)
        command = [
            *(sys.executable, "-m", "experiments.cli.main", "site", "up", str(site_file)),
            *("--superlink", self.address, "--root-certificates", str(self.files.authority)),
            *("--key", str(private), "--warm"),
        ]
        environment = {
            **quiet_environment(),
            "OMP_NUM_THREADS": "1",
            "FLWR_HOME": str(site_file.parent / "flower"),
        }
        return self.processes.start(f"{SITE}{name}", command, environment, site_file.parent)

    def wait_for_sites(self, control: ControlClient, count: int) -> None:
        """Wait until as many sites are connected.

        Raises:
            RoundError: a process ended, or some site does not come.
        """
        end = time.monotonic() + _START_SECONDS
        while (connected := control.connected()) < count:
            self.processes.require_running()
            if time.monotonic() > end:
                raise RoundError(
                    f"{connected} of {count} sites are connected after {_START_SECONDS:.0f} s",
                    where=str(self.processes.logs),
                    remedy="Read the sites' logs there",
                )
            time.sleep(0.1)


def running_control(settings: ServerSettings | None = None) -> ControlClient:
    """The client of the SuperLink that `tidegate server up` or the demo runs.

    Raises:
        AddressError: none was started from this home.
    """
    settings = settings or read_settings()
    path = _address_file(settings)
    if not path.exists():
        raise AddressError(
            "no server was started from here",
            where=str(settings.home),
            remedy="Start one with `tidegate server up`, or set TIDEGATE_HOME to its folder",
        )
    authority = settings.home / "certificates" / "ca.pem"
    return ControlClient(path.read_text(encoding="utf-8").strip(), authority)


def _address_file(settings: ServerSettings) -> Path:
    return settings.home / "superlink.address"


def _program(name: str) -> str:
    """A program of the environment that this Python belongs to."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise RoundError(
            f"the program {name} is not installed", remedy="Install Tidegate with its server extra"
        )
    return found
