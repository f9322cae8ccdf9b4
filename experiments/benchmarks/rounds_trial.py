"""A federation whose messages do nothing: Tidegate's agents or stock SuperNodes on one SuperLink."""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from clients.keys import make_node_key, private_pem, read_private_key
from contract.errors import RoundError
from experiments.benchmarks.http_calls import Call
from server.enrolment import make_server
from server.federation import TIDEGATE_SUPERLINK, Federation, project_root
from server.line.certificates import ServerFiles, sign_site
from server.line.processes import Processes, free_port
from server.server_file import ServerFile
from server.settings import quiet_environment, read_settings

__all__ = ["SITES", "STOCK_SUPERLINK", "Outcome", "Place", "Trial", "supernode_command"]

SITES = 4
STOCK_SUPERLINK = (str(Path(sys.executable).parent / "flower-superlink"),)
_APP = Path(__file__).parent / "rounds_app"

Engine = Literal["ours", "stock"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the rounds of one run came to.

    Attributes:
        rounds: for each, when it began and ended (monotonic clock) and how many sites counted.
        sites: how many were asked.
        calls: requests to the SuperLink, by whom (`site` or `server`).
    """

    rounds: tuple[tuple[float, float, int], ...]
    sites: int
    calls: dict[str, list[Call]]

    @property
    def steady(self) -> tuple[tuple[float, float, int], ...]:
        """The rounds after the first, in which code is fetched and libraries load; or the only one."""
        return self.rounds[1:] or self.rounds

    @property
    def median(self) -> float:
        """Of the steady rounds, seconds."""
        return statistics.median(end - began for began, end, _ in self.steady)

    def quantile(self, share: float) -> float:
        """Seconds within which this share of the steady rounds was over."""
        taken = sorted(end - began for began, end, _ in self.steady)
        return taken[min(len(taken) - 1, math.ceil(share * len(taken)) - 1)]

    @property
    def expected(self) -> int:
        """How many answers there should be."""
        return self.sites * len(self.rounds)

    @property
    def missing(self) -> int:
        """How many of them there were not."""
        return self.expected - sum(counted for *_, counted in self.rounds)

    def and_then(self, later: Outcome) -> Outcome:
        """These rounds, and the steady ones of another run of the same kind."""
        # sites that were in both runs tell of both, each time
        calls = {who: list(dict.fromkeys([*made, *later.calls[who]])) for who, made in self.calls.items()}
        return Outcome(rounds=(*self.rounds, *later.steady), sites=self.sites, calls=calls)

    def by_kind(self) -> dict[str, tuple[float, float]]:
        """By kind of request: how many a steady round, and the mean seconds of one, waiting included."""
        seconds: dict[str, list[float]] = defaultdict(list)
        for who, calls in self.calls.items():
            for at, path, taken in calls:
                if any(began <= at < end for began, end, _ in self.steady):
                    seconds[f"{who} {path.rsplit('/', 1)[-1]}"].append(taken)
        return {
            kind: (len(taken) / len(self.steady), statistics.mean(taken))
            for kind, taken in sorted(seconds.items(), key=lambda item: -sum(item[1]))
        }

    def breakdown(self) -> str:
        """The same in words."""
        kinds = self.by_kind()
        total = sum(count for count, _ in kinds.values())
        parts = (f"{count:.0f} {kind} of {1000 * mean:.1f} ms" for kind, (count, mean) in kinds.items())
        return f"{total:.0f} requests a round: {', '.join(parts)}"


@dataclass(frozen=True, kw_only=True)
class Place:
    """A host of this machine on which sites are.

    Attributes:
        space: its network namespace.
        server: the server's address, as it is reached from there.
    """

    space: str
    server: str


class Trial:
    """One SuperLink and its sites: ours come in at its gateway, by mutual TLS.

    Args:
        home: its folder.
        superlink: the program that starts it.
        places: where the sites are, one a process of sites; on the server's host without.
    """

    def __init__(
        self,
        home: Path,
        *,
        superlink: tuple[str, ...] = TIDEGATE_SUPERLINK,
        places: Sequence[Place] = (),
    ) -> None:
        home.mkdir(parents=True)
        self._places = tuple(places)
        self._home = home
        settings = read_settings(
            {
                "TIDEGATE_HOME": str(home),
                "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db",
                "TIDEGATE_ARTIFACT_ROOT": str(home / "artifacts"),
            }
        )
        self._processes = Processes(logs=home / "logs")
        file = None
        if superlink is TIDEGATE_SUPERLINK:
            file = ServerFile(
                hosts=tuple(place.server for place in places) or ("127.0.0.1",),
                listen="0.0.0.0" if places else "127.0.0.1",  # noqa: S104 - a namespace without other lines
                gateway_port=free_port(),
                api_port=free_port(),
            )
            make_server(home, file)
        self._file = file
        self._federation = Federation(
            home=home,
            settings=settings,
            processes=self._processes,
            lasting=superlink is TIDEGATE_SUPERLINK,
            superlink=superlink,
            file=file,
        )
        self._call_files: list[Path] = []
        self._runs = 0

    def __enter__(self) -> Self:
        self._control = self._federation.start_server()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._control.close()
        self._processes.stop()

    def start_agents(self, count: int, *, threads: int = 1) -> None:
        """Start agents, `threads` of them in a process, and wait until they are connected."""
        keys = [self._key(number) for number in range(count)]
        for number, first in enumerate(range(0, count, threads)):
            calls = self._home / f"calls-{first}.json"
            command = [*self._entered(number), sys.executable, "-m", "experiments.benchmarks.rounds_site"]
            command += [self._address(number), str(self._federation.files.authority), str(calls)]
            command += [str(key) for key in keys[first : first + threads]]
            self._processes.start(f"sites-{first}", command, self._environment, project_root())
            self._call_files.append(calls)
        self._federation.wait_for_sites(self._control, count)

    def start_supernodes(self, count: int) -> None:
        """Start stock SuperNodes and wait until they are connected."""
        for number in range(count):
            command = supernode_command(self._federation, self._key(number), "")
            self._processes.start(f"supernode-{number}", command, self._federation.environment, self._home)
        self._federation.wait_for_sites(self._control, count)

    def rounds(
        self, kind: str, rounds: int, sites: int, *, megabytes: int = 0, engine: Engine = "ours"
    ) -> Outcome:
        """Run the app.

        Raises:
            RoundError: it did not end well.
        """
        self._runs += 1
        result = self._home / f"result-{self._runs}.json"
        config = {"kind": kind, "rounds": rounds, "sites": sites, "megabytes": megabytes, "engine": engine}
        run = self._control.submit(
            _APP, {**{key: str(value) for key, value in config.items()}, "result": str(result)}
        )
        ended = self._control.wait(run, watch=self._processes.require_running)
        if not ended.completed:
            raise RoundError(
                f"the benchmark's run ended as {ended.sub_status}: {ended.details}",
                where=str(self._home / "logs" / "superlink.log"),
            )
        written = json.loads(result.read_text(encoding="utf-8"))
        times = tuple((float(began), float(end), int(counted)) for began, end, counted in written["rounds"])
        return Outcome(
            rounds=times, sites=sites, calls={"server": _calls(written["calls"]), "site": self._site_calls()}
        )

    def _entered(self, process: int) -> list[str]:
        return ["ip", "netns", "exec", self._places[process].space] if self._places else []

    def _address(self, process: int) -> str:
        if self._file is None:
            return self._federation.address
        return (
            f"{self._places[process].server}:{self._file.gateway_port}"
            if self._places
            else self._file.gateway
        )

    def _site_calls(self) -> list[Call]:
        return [call for file in self._call_files for call in _calls(map(json.loads, _lines(file)))]

    def _key(self, number: int) -> Path:
        private, public = make_node_key(self._home / f"site-{number}")
        self._control.register(public, f"site-{number}")
        if self._file is not None:
            certify(private, f"site-{number}", self._federation.files)
        return private

    @property
    def _environment(self) -> dict[str, str]:
        return {**quiet_environment(), "OMP_NUM_THREADS": "1", "FLWR_HOME": str(self._home / "flower-sites")}


def certify(private: Path, name: str, files: ServerFiles) -> None:
    """Lay a certificate for a site's key beside it, with which it may come in at the gateway."""
    key = read_private_key(private)
    certificate = sign_site(files, name, key.public_key())
    private.with_name("site.pem").write_bytes(certificate + private_pem(key))


def supernode_command(federation: Federation, key: Path, node_config: str) -> list[str]:
    """What starts a stock SuperNode of this federation."""
    command = [str(Path(sys.executable).parent / "flower-supernode"), "--superlink", federation.address]
    command += ["--root-certificates", str(federation.files.authority)]
    command += ["--auth-supernode-private-key", str(key), "--port", str(free_port())]
    return [*command, *(["--node-config", node_config] if node_config else [])]


def _calls(written: Iterable[Sequence[Any]]) -> list[Call]:
    return [(at, path, taken) for at, path, taken in written]


def _lines(file: Path) -> Iterable[str]:
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else ()
