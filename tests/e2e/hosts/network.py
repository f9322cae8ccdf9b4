"""Hosts on one machine: a network namespace and a folder each, lines between them, and a firewall.

    scientist ──▶ server ◀── north
                    ▲  ▲──── south
                    └─ proxy ◀── east

A host sees its own folder at `/self` and nobody else's: the folder that holds them all is covered in its
mount namespace. Lines reach from a host to the server alone. The server's firewall lets sites in at the
gateway's port and the scientist at the API's, and nobody anywhere else.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from experiments.benchmarks import lines

__all__ = ["API", "GATEWAY", "NAME", "Host", "Network", "lacking"]

GATEWAY, API, PROXY = 9443, 8443, 8888
NAME = "tidegate.example"
"""Of the server, as every host knows it."""
SELF = Path("/self")
_CLOCK = "clock.so"
_PROGRAMS = Path(sys.executable).parent
_CHECKOUT = Path(__file__).resolve().parents[3]
"""Whose code runs, whatever is installed."""


def lacking() -> str:
    """Why hosts cannot be made on this machine; empty if they can."""
    return lines.lacking("nft", "tinyproxy", "curl", "cc")


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


@dataclass
class Host:
    """One host.

    Attributes:
        name: of it.
        space: its network namespace.
        folder: its own, seen from outside; from inside it is `/self`.
        covered: the folder of all hosts' folders.
        environment: what its processes have.
        clock: seconds that its clock is ahead.
    """

    name: str
    space: str
    folder: Path
    covered: Path
    environment: dict[str, str] = field(default_factory=dict)
    clock: int = 0
    user: str = "root"
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def command(self, arguments: Sequence[str]) -> list[str]:
        """How a command is started on this host."""
        skewed = ["env", f"CLOCK_OFF={self.clock}", f"LD_PRELOAD={SELF / _CLOCK}"] if self.clock else []
        as_user = [] if self.user == "root" else ["setpriv", f"--reuid={self.user}", "--clear-groups"]
        inside = f'mkdir -p {SELF} && mount --bind "$0" {SELF} && mount -t tmpfs none "$1" && cd {SELF}'
        inside += ' && shift && exec "$@"'
        return [
            *("ip", "netns", "exec", self.space, "sh", "-c", inside, str(self.folder), str(self.covered)),
            *as_user,
            *skewed,
            *arguments,
        ]

    def variables(self, more: Mapping[str, str]) -> dict[str, str]:
        """The environment of a command on this host: nothing of the machine's own but the language."""
        return {
            "PATH": f"{_PROGRAMS}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(SELF),
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(_CHECKOUT),
            **self.environment,
            **more,
        }

    def set_clock(self, seconds: int) -> None:
        """Have all that starts here from now on see a clock that is so far ahead."""
        source, library = Path(__file__).with_name("clock.c"), self.folder / _CLOCK
        _do("cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl")
        self.clock = seconds

    def run(self, *arguments: str, timeout: float = 600, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.command(arguments),
            env=self.variables(more),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )

    def start(self, log: str, *arguments: str, **more: str) -> subprocess.Popen[bytes]:
        """Start a command that lasts; what it says is in the file of that name in the host's folder."""
        with (self.folder / log).open("ab") as output:
            process = subprocess.Popen(
                self.command(arguments),
                env=self.variables(more),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(process)
        return process


@dataclass
class Network:
    """All hosts, while the block runs.

    Args:
        folder: for their folders.
        delay: milliseconds each way on the sites' lines.
        loss: of their packets.
    """

    folder: Path
    delay: float = 40.0
    loss: float = 0.01
    hosts: dict[str, Host] = field(default_factory=dict)
    _lines: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _next: int = 1
    _tinyproxy: subprocess.Popen[bytes] = field(init=False)

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self._take_down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._take_down()

    def _build(self) -> None:
        for name in ("server", "proxy", "north", "south", "east", "scientist"):
            self._host(name)
        for site in ("north", "south"):
            self._line("server", site, self.delay, self.loss)
        self._line("server", "proxy", self.delay, self.loss)
        self._line("proxy", "east", 0.0, 0.0)
        self._line("server", "scientist", 5.0, 0.0)
        self._names()
        self._firewall()
        self._proxy()

    def _host(self, name: str) -> None:
        space = f"tg{os.getpid() % 100_000}-{name}"
        folder = self.folder / name
        folder.mkdir(parents=True, mode=0o700)
        _do("ip", "netns", "add", space)
        self.hosts[name] = Host(name, space, folder, self.folder)
        _do("ip", "-n", space, "link", "set", "lo", "up")

    def _line(self, one: str, other: str, delay: float, loss: float) -> None:
        """10.77.N.1 is the first host's end, 10.77.N.2 the other's."""
        number, self._next = self._next, self._next + 1
        devices = f"tg{os.getpid() % 10_000}a{number}", f"tg{os.getpid() % 10_000}b{number}"
        addresses = f"10.77.{number}.1", f"10.77.{number}.2"
        spaces = self.hosts[one].space, self.hosts[other].space
        self._lines.append(lines.lay_line(spaces, devices, addresses, delay, loss))
        self.hosts[other].environment["SERVER"] = addresses[0]
        self.hosts[one].environment[f"AT_{other.upper()}"] = addresses[0]

    def _names(self) -> None:
        """Each host's own list of names: `ip netns exec` lays it over /etc/hosts."""
        for name, host in self.hosts.items():
            at = "127.0.0.1" if name == "server" else host.environment["SERVER"]
            known = "" if name == "east" else f"{at} {NAME}\n"  # a site behind a proxy has no name server
            folder = Path("/etc/netns") / host.space
            folder.mkdir(parents=True)
            (folder / "hosts").write_text(f"127.0.0.1 localhost\n{known}")

    def _proxy(self) -> None:
        """For the one site whose only line ends there: it connects to the gateway's port, and to no other."""
        host = self.hosts["proxy"]
        at = host.environment["AT_EAST"]
        (host.folder / "tinyproxy.conf").write_text(
            f"Port {PROXY}\nListen {at}\nTimeout 600\nMaxClients 50\nConnectPort {GATEWAY}\n"
        )
        self._tinyproxy = host.start("tinyproxy.log", "tinyproxy", "-d", "-c", "tinyproxy.conf")
        self.hosts["east"].environment["HTTPS_PROXY"] = f"http://{at}:{PROXY}"

    def restart_proxy(self) -> None:
        """Every connection through it breaks."""
        self._tinyproxy.kill()
        self._tinyproxy.wait()
        self._tinyproxy = self.hosts["proxy"].start(
            "tinyproxy.log", "tinyproxy", "-d", "-c", "tinyproxy.conf"
        )

    def _firewall(self) -> None:
        """What a host lets in: the server by line and port, the proxy from its site alone, nobody else."""
        at = self.hosts["server"].environment
        sites = ", ".join(at[f"AT_{name}"] for name in ("NORTH", "SOUTH", "PROXY"))
        rules = {
            "server": f"ip daddr {{ {sites} }} tcp dport {GATEWAY} accept\n"
            f"ip daddr {at['AT_SCIENTIST']} tcp dport {API} accept",
            "proxy": f"ip daddr {self.hosts['proxy'].environment['AT_EAST']} tcp dport {PROXY} accept",
        }
        for name, host in self.hosts.items():
            table = (
                "table inet tidegate {\nchain input {\ntype filter hook input priority 0; policy drop;\n"
                f'iif "lo" accept\nct state established,related accept\n{rules.get(name, "")}\n}}\n}}'
            )
            file = host.folder / "firewall.nft"
            file.write_text(table)
            _do("ip", "netns", "exec", host.space, "nft", "-f", str(file))
            file.unlink()

    def _take_down(self) -> None:
        for host in self.hosts.values():
            found = subprocess.run(
                ["ip", "netns", "pids", host.space], capture_output=True, text=True, check=False
            )
            for process in found.stdout.split():
                subprocess.run(["kill", "-9", process], capture_output=True, check=False)
            for started in host.started:
                started.wait()
            subprocess.run(["ip", "netns", "del", host.space], capture_output=True, check=False)
            shutil.rmtree(Path("/etc/netns") / host.space, ignore_errors=True)
        for process in self._lines:
            process.kill()
            process.wait()
