"""A federation of real processes that is hurt on purpose, and what is left of it.

SuperLink with TLS, an agent a site as `tidegate site up` starts it, its worker, and Flower's ServerApp; every
site reaches the SuperLink over a `Line` of its own. A test hurts some of them while a run goes on, and
`account` then reads the server's state database and every site's ledger: which rounds counted whom, which
answers were charged and committed, what was lost, what was charged twice.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from clients.keys import make_node_key
from clients.site import Site
from clients.site_config import read_site_config
from contract.errors import AddressError, RoundError
from contract.experiment import Experiment
from server.federation import Federation, admit, project_root
from server.jobs.job import Job
from server.line.flower import ControlClient
from server.line.processes import Processes
from server.registry.registry import Registry
from server.settings import ServerSettings, quiet_environment
from server.state.records import RoundRecord, RunRecord
from server.state.storage import open_state
from tests.failure.disk import Disk
from tests.failure.line import Cut, Line

Arrays = dict[str, np.ndarray]

LONG = os.environ.get("TIDEGATE_FAILURE") == "long"
"""Whether the long form runs: more repetitions, longer cuts."""

_PATIENCE = 600.0
_SLICE = 0.02
_LOOKED_EVERY = 0.05
"""Seconds between two looks at the state database: half of a round."""
_ASKED_EVERY = 1.0
"""Seconds between two questions to the SuperLink: each is a handshake."""


@dataclass
class Account:
    """What one run left behind.

    Attributes:
        faults: what was done to it, in words.
        lost: work that was done and does not count, in words.
        doubled: what was charged twice, in words.
        again: how often a site was charged for an answer that a crash kept it from giving.
    """

    faults: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    again: int = 0

    def __str__(self) -> str:
        counts = (len(self.faults), len(self.lost), len(self.doubled), self.again)
        return "faults injected {}, work lost {}, charges doubled {} (crashes charged as spent: {})".format(
            *counts
        )


class HurtFederation:
    """Started by its parts, so that each can be killed and started again.

    Args:
        settings: where the server keeps its state.
        sites: the site.toml of each site.
        logs: the folder of what each process says; on a disk that nobody fills.
    """

    def __init__(self, settings: ServerSettings, sites: Sequence[Path], logs: Path) -> None:
        self.settings, self._logs = settings, logs
        self.sites = {read_site_config(path).name: path for path in sites}
        self.faults: list[str] = []
        self.disks: dict[str, Disk] = {}
        self.lines: dict[str, Line] = {}
        self._server = Processes(logs=logs)
        self._agents: dict[str, Processes] = {}
        self._federation = Federation(
            home=settings.home, settings=settings, processes=self._server, lasting=True
        )
        self._flower_run = 0

    # -- starting and ending its parts ---------------------------------------

    def start_server(self) -> None:
        """Start the SuperLink, again on the same port and with the same database."""
        self._server.stop()
        self._server = self._federation.processes = Processes(logs=self._logs)
        self._federation.start_server().close()

    def start_site(self, name: str, *, cwd: Path | None = None, within: Sequence[str] = ()) -> int:
        """Start a site's agent; the first time its key is registered. Returns the process id."""
        path = self.sites[name]
        private, public = make_node_key(path.parent / "keys")
        if name not in self.lines:
            self.lines[name] = Line(self._federation.port)
            with self.control() as control:
                admit(name, public, control, self.settings, self._federation.name)
        self._agents.setdefault(name, Processes(logs=self._logs))
        command = [
            *(*within, sys.executable, "-m", "experiments.cli.main", "site", "up", str(path)),
            *("--superlink", self.lines[name].address, "--key", str(private), "--warm"),
            *("--root-certificates", str(self._federation.files.authority)),
        ]
        environment = {
            **quiet_environment(),
            "OMP_NUM_THREADS": "1",
            "FLWR_HOME": str(path.parent / "flower"),
        }
        return self._agents[name].start(f"site-{name}", command, environment, cwd or path.parent)

    def start_rogue(self, name: str, script: Mapping[int, str]) -> None:
        """Start a program in the place of a site's agent that answers wrongly in some rounds."""
        folder = self.sites[name].parent
        command = [
            *(
                sys.executable,
                "-m",
                "tests.failure.rogue_site",
                str(self.sites[name]),
                self.lines[name].address,
            ),
            *(str(self._federation.files.authority), str(folder / "keys" / "node.key")),
            *(f"{wrong}={number}" for number, wrong in script.items()),
        ]
        environment = {**quiet_environment(), "OMP_NUM_THREADS": "1", "FLWR_HOME": str(folder / "flower")}
        self._agents[name].start(f"site-{name}", command, environment, project_root())

    def start(self, *names: str) -> None:
        """Start the server and these sites, or all, and wait until they are connected."""
        self.start_server()
        for name in names or self.sites:
            self.start_site(name)
        self.wait_for_sites(len(names or self.sites))

    def repair(self) -> None:
        """Start what does not run."""
        if self.superlink() is None:
            self.start_server()
        for site in self.sites:
            if self.agent(site) is None:
                self.start_site(site)
        self.wait_for_sites(len(self.sites))

    def mend(self) -> None:
        """Mend the lines."""
        for line in self.lines.values():
            line.mend()

    def stop_site(self, name: str) -> None:
        """End an agent as its administrator does."""
        self._agents[name].stop()

    def close(self) -> None:
        """End everything."""
        for agent in self._agents.values():
            for process in agent.process_ids().values():
                _kill(_with_children(process))
            agent.stop()
        self._server.stop()
        for line in self.lines.values():
            line.close()

    @contextmanager
    def control(self) -> Iterator[ControlClient]:
        """A client of the Control API, closed afterwards."""
        control = self._federation.control
        try:
            yield control
        finally:
            control.close()

    def wait_for_sites(self, count: int) -> None:
        with self.control() as control:
            self._federation.processes = Processes(
                logs=self.settings.home / "logs"
            )  # dead agents are our doing
            self._federation.wait_for_sites(control, count)

    def wait_for_absence(self, site: str) -> None:
        """Wait until the SuperLink knows that a site which was stopped is away."""
        self.wait(lambda: not self._is_connected(site), f"absence of {site}", pause=_ASKED_EVERY)

    def wait_for_presence(self, site: str) -> None:
        """Wait until the SuperLink knows that a site which was started is there."""
        self.wait(lambda: self._is_connected(site), f"presence of {site}", pause=_ASKED_EVERY)

    def _is_connected(self, site: str) -> bool:
        with open_state(self.settings.state_url) as state:
            admitted = {one.name: one.node_id for one in state.admitted_sites(self._federation.name)}
        with self.control() as control:
            return admitted[site] in control.connected()

    # -- its processes --------------------------------------------------------

    def agent(self, site: str) -> psutil.Process | None:
        """The site's agent, if it runs."""
        ids = [number for agent in [self._agents[site]] for number in agent.process_ids().values()]
        return _running(ids[-1:])

    def worker(self, site: str) -> psutil.Process | None:
        """The site's worker, if one runs; also one whose agent was killed."""
        return _running(
            process.pid
            for process in psutil.process_iter()
            if (line := _command(process)) and "work" in line and str(self.sites[site]) in line
        )

    def superlink(self) -> psutil.Process | None:
        return _running(self._server.process_ids().values())

    def server_app(self) -> psutil.Process | None:
        """Flower's process of the ServerApp."""
        return next((one for one in self.server_side() if one.name() == "serverapp"), None)

    def server_side(self) -> list[psutil.Process]:
        superlink = self.superlink()
        return [superlink, *superlink.children(recursive=True)] if superlink else []

    def site_side(self, site: str) -> list[psutil.Process]:
        return [process for process in (self.agent(site), self.worker(site)) if process is not None]

    # -- hurting it -----------------------------------------------------------

    def hurt(self, words: str) -> None:
        """Enter a fault, and say it."""
        self.faults.append(words)
        print(f"  {time.strftime('%H:%M:%S')} {words}", flush=True)

    def kill_agent(self, site: str, *, again: bool = True) -> None:
        """Kill an agent and, usually, start it again."""
        self.hurt(f"kill -9 agent of {site}" + ("" if again else ", which stays away"))
        _kill([self.agent(site)])
        if again:
            self.start_site(site)

    def kill_worker(self, site: str) -> None:
        self.hurt(f"kill -9 worker of {site}")
        _kill([self.worker(site)])

    def kill_superlink(self, job: Job) -> None:
        self.hurt("kill -9 SuperLink")
        _kill([self.superlink()])
        self.start_server()
        self.submit(job)

    def kill_server_app(self, job: Job, *, project: Path | None = None) -> None:
        self.hurt("kill -9 ServerApp" + (", started again with other code" if project else ""))
        _kill([self.server_app()])
        self.submit(job, project)

    def kill_everything(self, job: Job) -> None:
        self.hurt("kill -9 everything at once")
        _kill([*self.server_side(), *(one for site in self.sites for one in self.site_side(site))])
        self.start_server()
        for site in self.sites:
            self.start_site(site)
        self.submit(job)

    @contextmanager
    def cut(self, how: Cut, seconds: float, *sites: str) -> Iterator[None]:
        """Cut the sites' lines, all by default, for so long."""
        lines = [self.lines[site] for site in sites or self.sites]
        self.hurt(f"{how} of the line of {', '.join(sites) or 'every site'} for {seconds:g} s")
        for line in lines:
            line.cut(how)
        try:
            time.sleep(seconds)
            yield
        finally:
            for line in lines:
                line.mend()

    @contextmanager
    def held(self, site: str) -> Iterator[None]:
        """Stop the site's processes while the block runs: a round that needs the site waits."""
        processes = self.site_side(site)
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                process.send_signal(signal.SIGCONT)

    @contextmanager
    def slowed(self, site: str, times: int) -> Iterator[None]:
        """Let the site's processes run one of so many slices of time, while the block runs."""
        self.hurt(f"{site} runs {times} times slower")
        done = threading.Event()

        def brake() -> None:
            while not done.is_set():
                processes = self.site_side(site)
                for number, seconds in ((signal.SIGSTOP, (times - 1) * _SLICE), (signal.SIGCONT, _SLICE)):
                    for process in processes:
                        with suppress(psutil.NoSuchProcess):
                            process.send_signal(number)
                    done.wait(seconds)

        thread = threading.Thread(target=brake)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            for process in self.site_side(site):
                process.send_signal(signal.SIGCONT)

    @contextmanager
    def memory_of_server_app(self) -> Iterator[Callable[[], int]]:
        """The most memory, in bytes, that any ServerApp had or reserved while the block ran."""
        peaks: list[int] = [0]
        done = threading.Event()

        def look() -> None:
            while not done.wait(0.25):
                app = self.server_app()
                with suppress(OSError, psutil.NoSuchProcess):
                    status = Path(f"/proc/{app.pid}/status").read_text() if app else ""
                    peaks.extend(
                        int(line.split()[1]) << 10 for line in status.splitlines() if "VmHWM" in line
                    )

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield lambda: max(peaks)
        finally:
            done.set()
            thread.join()

    def flood(self, size: int) -> tuple[int, int]:
        """Send the SuperLink a request of `size` bytes; its answer's status, and what was sent until then."""
        self.hurt(f"a request of {size:,} bytes")
        context = ssl.create_default_context(cafile=self._federation.files.authority)
        plain = socket.create_connection(("127.0.0.1", self._federation.port), timeout=10)
        with plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as line:
            head = f"POST /v1/fleet/push-object HTTP/1.1\r\nHost: superlink\r\nContent-Length: {size}\r\n\r\n"
            line.sendall(head.encode())
            sent, answer = 0, b""
            line.settimeout(0.01)
            while sent < size and not answer:
                with suppress(TimeoutError):
                    sent += line.send(bytes(1 << 16))
                with suppress(TimeoutError):
                    answer = line.recv(1000)
        return int(answer.split()[1]), sent

    # -- a run ----------------------------------------------------------------

    def submit(self, job: Job, project: Path | None = None) -> None:
        """Submit a job, or submit it again: it goes on from its checkpoint."""
        with self.control() as control:
            self._flower_run = control.submit(project or project_root(), job.to_run_config())

    def stop_run(self) -> None:
        """Stop the run that was submitted last, as an operator does."""
        with self.control() as control:
            control.stop(self._flower_run)

    def status(self, run: str) -> str:
        record = self.record(run)
        return "" if record is None else record.status

    def rounds(self, run: str) -> tuple[RoundRecord, ...]:
        with open_state(self.settings.state_url) as state:
            return state.rounds(run)

    def record(self, run: str) -> RunRecord | None:
        with open_state(self.settings.state_url) as state:
            return state.run(run)

    def wait_for_round(self, run: str, number: int, seconds: float = _PATIENCE) -> None:
        with open_state(self.settings.state_url) as state:
            self.wait(lambda: len(state.rounds(run)) >= number, f"round {number} of {run}", seconds)

    def finish(self, job: Job, seconds: float = _PATIENCE, *, resumes: int = 0) -> RunRecord:
        """Wait for the run's end; a run that failed is submitted again so many times."""
        for left in range(resumes, -1, -1):
            self.wait(self.flower_has_finished, f"the end of {job.run}", seconds, pause=_ASKED_EVERY)
            if (
                "taken over" in self.flower_state()
            ):  # the process of an earlier submission came back, and goes on
                self.wait(lambda: self._ended(job.run), f"the end of {job.run}", seconds)
            record = self.record(job.run)
            if record is not None and record.status in ("succeeded", "partial"):
                return record
            if left:
                print(f"  {time.strftime('%H:%M:%S')} again: {record and record.error}", flush=True)
                self.submit(job)
        raise AssertionError(f"{job.run} ended as {self.flower_state()}: {self.record(job.run)}")

    def _ended(self, run: str) -> bool:
        record = self.record(run)
        return record is not None and record.status != "running"

    def flower_has_finished(self) -> bool:
        """Whether the run that was submitted last has ended, as Flower says."""
        return self.flower_state().startswith("finished")

    def flower_state(self) -> str:
        """How Flower says that the run stands which was submitted last."""
        try:
            with self.control() as control:
                state = control.state(self._flower_run)
        except (AddressError, RoundError) as exc:
            return str(exc)
        return f"{state.status} {state.sub_status} {state.details}"

    def wait(
        self, true: Callable[[], bool], what: str, seconds: float = _PATIENCE, *, pause: float = _LOOKED_EVERY
    ) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, (
                f"no {what} after {seconds:.0f} s; Flower says: {self.flower_state()}"
            )
            time.sleep(pause)

    def weights(self, experiment: Experiment, record: RunRecord) -> Arrays:
        registry = Registry(self.settings.tracking_uri, self.settings.artifact_root)
        assert record.model_version is not None
        return registry.load_arrays(experiment.name, record.model_version)

    def log_of(self, site: str) -> str:
        return (self._logs / f"site-{site}.log").read_text(errors="replace")

    # -- the count ------------------------------------------------------------

    def account(self, run: str) -> Account:
        """Compare the server's rounds with what every site's ledger says of the run."""
        account = Account(faults=self.faults)
        self.faults = []
        counted = {record.round: set(record.counted) for record in self.rounds(run)}
        for site, path in self.sites.items():
            _audit(site, path, run, counted, account)
        return account


def _audit(site: str, path: Path, run: str, counted: dict[int, set[str]], account: Account) -> None:
    ledger = Site(read_site_config(path)).ledger
    try:
        entries = ledger.entries()
        assert ledger.verify() == len(entries)
    finally:
        ledger.close()
    own = [entry for entry in entries if entry.request.startswith(f"{run}/")]
    commits = Counter(entry.request for entry in own if entry.kind == "commit")
    account.doubled += [f"{site}: {request} committed {n} times" for request, n in commits.items() if n > 1]
    reserves: Counter[tuple[str, str]] = Counter()
    done: set[str] = set()
    for entry in own:
        if entry.kind == "reserve":
            reserves[entry.request, entry.plan] += 1
            if entry.request in done:
                account.doubled.append(f"{site}: {entry.request} charged after it was committed")
        elif entry.kind == "commit":
            done.add(entry.request)
    account.again += sum(number - 1 for number in reserves.values())
    for request in commits:
        _, kind, step = request.rsplit("/", 2)
        if kind == "train" and site not in counted.get(int(step), set()):
            account.lost.append(f"{site}: {request} was answered and does not count")


def _running(ids: object) -> psutil.Process | None:
    for number in ids:  # type: ignore[attr-defined]
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(number)
            if process.status() != psutil.STATUS_ZOMBIE:
                return process
    return None


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return []


def _with_children(number: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(number)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _kill(processes: Sequence[psutil.Process | None]) -> None:
    for process in processes:
        if process is not None:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
