"""A server as processes of one machine: Flower's SuperLink with TLS and node authentication, and MLflow."""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from contract.errors import AddressError, InputError, RoundError
from contract.words import counted
from server.line.certificates import ServerFiles, make_server_files, require_pair
from server.line.flower import ControlClient
from server.line.processes import Processes, free_port, require_free, wait_for, wait_for_port
from server.line.secret import FILE_VARIABLE, make_secret, read_secret
from server.line.site_keys import read_site_key
from server.registry.registry import Registry
from server.registry.registry_ui import make_socket_folder, serve_command, serve_environment, ui_socket
from server.server_file import ServerFile
from server.settings import ServerSettings, quiet_environment, read_settings
from server.state.enrolments import Enrolments
from server.state.sqlite_files import require_usable
from server.state.storage import open_known_state, open_state

__all__ = [
    "TIDEGATE_SUPERLINK",
    "Federation",
    "admit",
    "dismiss",
    "project_root",
    "readmit",
    "running_control",
    "running_federation",
    "superlink_database",
]

TIDEGATE_SUPERLINK = (sys.executable, "-m", "server.line.superlink")
_WITH_GATEWAY = (sys.executable, "-m", "server.gateway.superlink")
_START_SECONDS = 300.0
"""On a busy machine; a process that has ended is told at once."""


def project_root() -> Path:
    """The folder of pyproject.toml, from which the app bundle is built."""
    root = Path(__file__).resolve().parents[1]
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
        lasting: whether the sites' registrations outlive the SuperLink. Its runs never do: they go on from
            our own checkpoints, under their names.
        announced: whether other commands of this home find it; not so where it ends with one run, beside a
            server that stands.
        file: how others reach it: then it has a gateway; None for this machine alone.
        name: under which sites are admitted; one of its own where the admissions end with the SuperLink.
    """

    home: Path
    settings: ServerSettings
    processes: Processes
    port: int = 0
    lasting: bool = False
    announced: bool = True
    superlink: tuple[str, ...] = TIDEGATE_SUPERLINK
    file: ServerFile | None = None
    name: str = field(init=False)

    def __post_init__(self) -> None:
        name = self.settings.federation
        self.name = name if self.lasting else f"{name}-{secrets.token_hex(4)}"

    def start_server(self) -> ControlClient:
        """Start the SuperLink and wait until it answers.

        Raises:
            AddressError: a port is in use.
            RoundError: it does not start.
        """
        if self.file is not None:
            require_free(self.file.gateway_port, "the gateway", self.file.listen)
        if self.port:
            require_free(self.port, "the SuperLink")
        else:
            self.port = free_port()
        if self.lasting:
            require_usable(self._database, "the SuperLink's database")
        files = self.files
        require_pair(files)
        command = [
            *(self.superlink if self.file is None else _WITH_GATEWAY),
            *("--ssl-certfile", str(files.certificate), "--ssl-keyfile", str(files.key)),
            *("--ssl-ca-certfile", str(files.authority), "--enable-supernode-auth"),
            *("--disable-runtime-dependency-installation", "--host", "127.0.0.1", "--port", str(self.port)),
            *(("--database", str(self._database)) if self.lasting else ()),
        ]
        secret = self._secret()
        environment = {**self.environment, FILE_VARIABLE: str(secret)}
        self.processes.start("superlink", command, environment, self.home)
        wait_for_port(self.port, _START_SECONDS, self.processes)
        if self.file is not None:
            wait_for_port(self.file.gateway_port, _START_SECONDS, self.processes, self.file.listen)
        if self.announced:
            _address_file(self.settings).write_text(self.address, encoding="utf-8")
            _name_file(self.settings).write_text(self.name, encoding="utf-8")
        return self.control

    def start_ui(self, port: int | None, *, wait: bool = False) -> str:
        """Start MLflow's user interface; return its address. It answers some seconds later.

        It opens MLflow's database first, and makes or migrates it. A server that stands waits for that, and
        need not keep MLflow (110 MB) in its own memory because it looked once whether it can be used.

        Args:
            port: of this machine; None for a socket to which the API alone leads, and no port does.
            wait: until it answers.

        Raises:
            TidegateError: MLflow's database cannot be used; only with `wait`.
        """
        if port is None:
            make_socket_folder(self.home)
        environment = {**self.environment, **serve_environment(self.settings)}
        self.processes.start("mlflow", serve_command(port), environment, self.home)
        if wait:
            self._wait_for_ui(port)
        if port is not None:
            return f"http://127.0.0.1:{port}"
        return "/mlflow/" if self.file is None else f"{self.file.api}/mlflow/"

    def _wait_for_ui(self, port: int | None) -> None:
        try:
            if port is not None:
                wait_for_port(port, _START_SECONDS, self.processes)
            else:
                wait_for(ui_socket(self.home).exists, _START_SECONDS, self.processes, "MLflow's socket")
        except RoundError:  # what went wrong there goes wrong here again, and is said
            Registry(self.settings.tracking_uri, self.settings.artifact_root).connect()
            raise

    @property
    def control(self) -> ControlClient:
        """The client of the SuperLink's Control API."""
        return ControlClient(self.address, self.files.authority, read_secret(self._secret()))

    def _secret(self) -> Path:
        """The file with the SuperLink's secret; made on first use."""
        secret = _secret_file(self.home)
        try:
            make_secret(secret)
        except ValueError as exc:
            raise AddressError(
                "this file holds no secret",
                where=str(secret),
                remedy="Remove it: `tidegate server up` then makes another",
            ) from exc
        return secret

    @property
    def address(self) -> str:
        """host:port of the SuperLink."""
        return f"127.0.0.1:{self.port}"

    @property
    def hosts(self) -> tuple[str, ...]:
        """What the server's certificate is for."""
        return ("127.0.0.1", "localhost") if self.file is None else self.file.names

    @property
    def files(self) -> ServerFiles:
        """The server's certificates; made on first use."""
        return make_server_files(self.home / "certificates", self.hosts)

    @property
    def _database(self) -> Path:
        return superlink_database(self.home)

    @property
    def environment(self) -> dict[str, str]:
        """What every process of the server needs."""
        return {
            **quiet_environment(),
            "FLWR_HOME": str(self.home / "flower"),
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05",
            "TIDEGATE_HOME": str(self.settings.home),
            "TIDEGATE_STATE_URL": self.settings.state_url,
            "TIDEGATE_FEDERATION": self.name,
            "TIDEGATE_LARGEST_REPLY": str(self.settings.largest_reply >> 20),
            "MLFLOW_TRACKING_URI": self.settings.tracking_uri,
            "TIDEGATE_ARTIFACT_ROOT": str(self.settings.artifact_root),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "OMP_NUM_THREADS": "1",
        }

    def wait_for_sites(self, control: ControlClient, count: int) -> None:
        """Wait until as many sites are connected.

        Raises:
            RoundError: a process ended, or some site does not come.
        """
        end = time.monotonic() + _START_SECONDS
        while (connected := len(control.connected())) < count:
            self.processes.require_running()
            if time.monotonic() > end:
                raise RoundError(
                    f"{connected} of {counted(count, 'site')} connected within {_START_SECONDS:.0f} s",
                    where=str(self.processes.logs),
                    remedy="Read the sites' logs there",
                )
            time.sleep(0.1)


def admit(
    name: str,
    public_key: Path,
    control: ControlClient,
    settings: ServerSettings,
    federation: str | None = None,
    stated_rows: int | None = None,
) -> int:
    """Let the site with this key connect, and remember whose it is; return its node id.

    Args:
        name: the site's: it must answer under it, and nobody else may.
        public_key: the file.
        control: of the SuperLink.
        settings: name the state database.
        federation: the SuperLink's name; None for the one that `running_control` reaches.
        stated_rows: the rows that it must state; None for those of its first answer.

    Raises:
        InputError: a site of that name is admitted with another key, or the key as another site; or the
            file is no site's public key.
    """
    federation = federation or running_federation(settings)
    read_site_key(public_key)
    key = hashlib.sha256(public_key.read_bytes()).hexdigest()
    with open_state(settings.state_url) as state:
        known = {site.name: site.key for site in state.admitted_sites(federation)}
        if known.get(name, key) != key:
            raise InputError(
                f"site '{name}' is admitted with another key, whose file has the SHA-256 {known[name][:16]}…",
                where=str(public_key),
                remedy=f"If this key is to take its place: tidegate server revoke {name}, and admit it then",
            )
        # a key that the SuperLink knows and the state does not was left by an admission that was cut off
        node = control.register(public_key, name, again=name not in known)
        state.admit_site(name, federation=federation, node_id=node, key=key, stated_rows=stated_rows)
    return node


def readmit(name: str, settings: ServerSettings, stated_rows: int | None = None) -> None:
    """Hold an admitted site to nothing that it said of its rows and its ledger before.

    Args:
        name: the site's.
        settings: name the state database.
        stated_rows: the rows that it must state from now on; None for those of its next answer.

    Raises:
        InputError: no site of that name is admitted.
    """
    federation = running_federation(settings)
    with open_known_state(settings.state_url) as state:
        if not state.readmit_site(name, federation=federation, stated_rows=stated_rows):
            raise _not_admitted(name, [site.name for site in state.admitted_sites(federation)])


def dismiss(name: str, control: ControlClient, settings: ServerSettings) -> None:
    """Let a site connect no more, expect it no longer in a round, and renew its certificate no more.

    Raises:
        InputError: no site of that name is admitted.
    """
    federation = running_federation(settings)
    with open_known_state(settings.state_url) as state:
        Enrolments(state.database, federation).revoke(name, now=datetime.now(UTC))
        nodes = {site.name: site.node_id for site in state.admitted_sites(federation)}
        if name not in nodes:
            raise _not_admitted(name, list(nodes))
        control.unregister(nodes[name])
        state.dismiss_site(name, federation=federation)


def _not_admitted(name: str, admitted: Sequence[str]) -> InputError:
    return InputError(
        f"no site '{name}' is admitted",
        where="NAME",
        remedy=f"Admitted are: {', '.join(admitted)}" if admitted else "`tidegate server sites` lists them",
    )


def running_federation(settings: ServerSettings) -> str:
    """The name of the federation whose SuperLink `running_control` reaches."""
    path = _name_file(settings)
    return path.read_text(encoding="utf-8").strip() if path.exists() else settings.federation


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
    authority, address = settings.home / "certificates" / "ca.pem", path.read_text(encoding="utf-8").strip()
    secret = _secret_file(settings.home)
    try:
        return ControlClient(address, authority, read_secret(secret))
    except (OSError, ValueError) as exc:
        words = exc.strerror if isinstance(exc, OSError) else "there is none in it"
        raise AddressError(
            f"the server's secret cannot be read: {words}",
            where=str(secret),
            remedy="Be the user who started the server; and start it again if the file was lost",
        ) from exc


def superlink_database(home: Path) -> Path:
    """The SuperLink's SQLite file in a server's folder, where it keeps its state in one."""
    return home / "superlink.db"


def _secret_file(home: Path) -> Path:
    return home / "superlink.secret"


def _address_file(settings: ServerSettings) -> Path:
    return settings.home / "superlink.address"


def _name_file(settings: ServerSettings) -> Path:
    return settings.home / "superlink.federation"
