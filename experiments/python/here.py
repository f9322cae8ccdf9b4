"""Sites whose folders lie on this machine: a run goes on in a thread of this process, by the inline runtime.

So Ctrl-C in a notebook interrupts whoever waits, and not the run. Flower keeps one identity for a process:
a second run waits until the first has ended.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from clients.site_config import read_site_config
from contract.errors import InputError, TidegateError
from contract.experiment import Experiment
from contract.federation_api import Run, RunDetail, Site, SiteCard, Version, has_ended
from contract.names import name_run
from contract.transport import ask_directly_here
from contract.words import counted
from experiments.federated_run import Request, run_experiment, with_all_settings
from experiments.planning.sites import PlannedSite, of_files
from experiments.planning.warnings import doubts, refusals
from scientist.progress import Step
from server.api.reading import Page, Reading, version_of
from server.cli.here import reading_here
from server.jobs.registered import registered_hashes
from server.registry.registry import Registry
from server.settings import ServerSettings, apply_quiet_environment
from server.state.storage import open_state
from terminal.model_tables import no_version
from terminal.output import quiet_flower

__all__ = ["Here", "private_files"]

_ONE_AT_A_TIME = threading.Lock()


class _PrivateFiles:
    """The mask for new files, which all threads share: set by the first who needs it private."""

    def __init__(self) -> None:
        self._lock, self._users, self._before = threading.Lock(), 0, 0

    def begin(self) -> None:
        """Somebody needs it private."""
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._before = os.umask(0o077)

    def end(self) -> None:
        """Somebody needs it no more."""
        with self._lock:
            self._users -= 1
            if self._users == 0:
                os.umask(self._before)


_PRIVATE = _PrivateFiles()


@contextmanager
def private_files() -> Iterator[None]:
    """What is written meanwhile is its user's alone, as by a command: keys, states with values."""
    _PRIVATE.begin()
    try:
        yield
    finally:
        _PRIVATE.end()


class Here:
    """Sites on this machine.

    Args:
        sites: the site.toml of each.
        settings: where runs and models are remembered.

    Raises:
        SiteConfigError: a site.toml is missing or wrong.
    """

    def __init__(self, sites: Sequence[Path], settings: ServerSettings) -> None:
        self._sites, self._settings = tuple(path.absolute() for path in sites), settings
        self._going: dict[str, _GoingOn] = {}
        self._configs = [read_site_config(path) for path in self._sites]
        ask_directly_here(os.environ)
        apply_quiet_environment()
        # MLflow's progress bars ask a notebook for widgets that nothing here shows
        warnings.filterwarnings("ignore", message="IProgress not found")

    @property
    def words(self) -> str:
        """Where this is, in a few words."""
        return f"{counted(len(self._sites), 'site')} on this machine"

    def sites(self) -> list[Site]:
        """The sites, all of them connected."""
        return [
            Site(name=one.name, admitted=True, connected=True, stated_rows=one.stated_rows, last_answer=None)
            for one in self._configs
        ]

    def cards(self) -> list[SiteCard]:
        """What each site offers in public."""
        return [
            SiteCard(site=one.name, stated_rows=one.stated_rows, asked=None, card=one.offered)
            for one in self._configs
        ]

    def planned(self) -> list[PlannedSite]:
        """The sites as a plan sees them."""
        return of_files(self._sites)

    def chosen(self, experiment: Experiment) -> Experiment:
        """The experiment, with what it leaves to the recipe chosen for these sites."""
        return with_all_settings(experiment, self._sites)

    def doubts(self, experiment: Experiment, windows: Sequence[str]) -> tuple[str, ...]:
        """Why a run would be refused, learn little or tell nothing, a sentence each; from public facts."""
        sites = of_files(self._sites, drafts=True)
        return (*refusals(experiment, sites, windows), *doubts(experiment, sites))

    def begin(self, experiment: Experiment, windows: Sequence[str], *, sign_days: int) -> str:
        """Begin a run in a thread; its name. Nobody but this machine is asked, so nothing is signed."""
        del sign_days
        name = name_run(experiment.name)
        self._start(Request(experiment=experiment, run=name, sites=self._sites, settings=self._settings,
                            windows=tuple(windows)))  # fmt: skip
        return name

    def resume(self, run: str) -> None:
        """Go on with a run of this session that failed or was stopped, from its last finished round.

        Raises:
            InputError: it is of another session, or goes on.
        """
        begun = self._going.get(run)
        if begun is None:
            raise InputError(
                "this run was not begun in this session",
                where=f"run '{run}'",
                remedy=f"In a terminal: tidegate run FILE --resume {run}",
            )
        if begun.goes_on:
            raise InputError("the run goes on", where=f"run '{run}'", remedy="Follow it")
        self._start(begun.request)

    def stop(self, run: str) -> None:
        """End a run of this session after the round that it is in."""
        begun = self._going.get(run)
        if begun is None or not begun.goes_on:
            raise InputError("it does not go on in this session", where=f"run '{run}'")
        begun.stop()

    def runs(self, most: int) -> list[Run]:
        """The newest runs."""
        with self._reading() as reading:
            return list(reading.runs(Page(limit=most)).runs)

    def detail(self, run: str) -> RunDetail:
        """What is known of a run.

        Raises:
            InputError: there is none of that name.
        """
        with self._reading() as reading:
            found = reading.run_detail(run)
        begun = self._going.get(run)
        if found is not None:
            return found if begun is None else begun.as_it_stands(found)
        if begun is None:
            raise InputError(f"there is no run '{run}'", where="RUN", remedy="`runs()` lists them")
        return begun.unrecorded()

    def steps(self, run: str) -> Iterator[Step]:
        """What happens to a run until it ends.

        Raises:
            InputError: it has not ended, and does not go on here: another session began it.
        """
        begun = self._going.get(run)
        if begun is None:
            if not has_ended(self.detail(run).run.status):
                raise InputError(
                    "the run was begun in another session, and does not go on in this one",
                    where=f"run '{run}'",
                    remedy=f"If that session is gone: tidegate run FILE --resume {run}",
                )
            return
        yield from begun.steps()
        if isinstance(begun.error, Exception):
            raise begun.error

    def come_back(self, run: str) -> str:
        """How to come back to a run that one no longer follows."""
        return f"run.follow(), or federation.run({run!r}).follow(). It goes on for as long as this session"

    def versions(self, model: str) -> list[Version]:
        """The versions of a model, oldest first."""
        return [version_of(one, None) for one in self._registry().versions(model)]

    def files(self, model: str, version: int) -> dict[str, bytes]:
        """What a prediction by a version depends on."""
        registry = self._registry()
        if all(one.version != version for one in registry.versions(model)):
            raise no_version(model, version)
        with open_state(self._settings.state_url) as state:
            known = registered_hashes(model, version, state, registry)
        return registry.files(model, version, known)

    def _start(self, request: Request) -> None:
        quiet_flower()
        self._going[request.run] = going = _GoingOn(request)
        going.start()

    def _registry(self) -> Registry:
        return Registry(self._settings.tracking_uri, self._settings.artifact_root)

    @contextmanager
    def _reading(self) -> Iterator[Reading]:
        with private_files(), open_state(self._settings.state_url):
            pass  # it may not be there yet
        with reading_here(self._settings) as reading:
            yield reading


class _GoingOn(threading.Thread):
    """A run in a thread of this process, and what it has said so far."""

    def __init__(self, request: Request) -> None:
        super().__init__(name=f"tidegate {request.run}")
        self.request = request
        self.error: BaseException | None = None
        self._began, self._said, self._ended = datetime.now(UTC), list[Step](), False
        self._news, self._stopped = threading.Condition(), threading.Event()

    def run(self) -> None:
        """Run it, when none other goes on in this process."""
        try:
            if _ONE_AT_A_TIME.locked():
                self._tell(Step(words="waits until the run before it has ended"))
            with _ONE_AT_A_TIME, private_files():
                self._require_going()
                run_experiment(replace(self.request, progress=self._round))
        except BaseException as exc:  # told to whoever follows, in their thread
            self.error = exc
        with self._news:
            self._ended = True
            self._news.notify_all()

    def stop(self) -> None:
        """End it with its next word: a round that has ended."""
        self._stopped.set()

    def steps(self) -> Iterator[Step]:
        """What it has said, and says until it ends."""
        seen = 0
        while True:
            with self._news:
                while not self._ended and len(self._said) == seen:
                    self._news.wait()
                fresh, ended = self._said[seen:], self._ended
            yield from fresh
            seen += len(fresh)
            if ended and len(self._said) == seen:
                return

    @property
    def goes_on(self) -> bool:
        """Whether it has not ended yet."""
        return not self._ended

    def as_it_stands(self, found: RunDetail) -> RunDetail:
        """What the state database has of it; one that is resumed has not entered yet that it goes on."""
        if self._ended or not has_ended(found.run.status):
            return found
        run = found.run.model_copy(update={"status": "running", "error": ""})
        return found.model_copy(update={"run": run, "result": None})

    def unrecorded(self) -> RunDetail:
        """What is known of it until it is entered into the state database, or where it never was."""
        failed = self.error is not None
        words = str(self.error) if isinstance(self.error, TidegateError) else repr(self.error)
        run = Run(
            name=self.request.run,
            experiment=self.request.experiment.name,
            job="train",
            owner="",
            status="stopped" if failed and self._stopped.is_set() else "failed" if failed else "starting",
            place=0,
            since=self._began,
            ended=None,
            rounds=0,
            of=self.request.experiment.strategy.rounds,
            model_version=None,
            error=words if failed else "",
        )
        return RunDetail(
            run=run, trigger="", windows=self.request.windows, rounds=(), participation=(), result=None
        )

    def _round(self, number: int, note: str) -> None:
        self._tell(Step(round=number, words=note))
        self._require_going()

    def _require_going(self) -> None:
        if self._stopped.is_set():
            raise KeyboardInterrupt

    def _tell(self, step: Step) -> None:
        with self._news:
            self._said.append(step)
            self._news.notify_all()
