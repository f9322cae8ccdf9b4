"""A run that goes on by itself: follow it, read its result, take its model."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from contract.errors import TidegateError
from contract.federation_api import RunDetail, has_ended, waiting_words
from experiments.installation import telling_what_is_missing
from experiments.python.model import Model
from experiments.python.places import Place
from experiments.python.plots import has_curve, plot_learning, plot_sites
from scientist.connected import understood
from scientist.federation import require_result
from scientist.progress import Step
from terminal.display import Live, Picture, Shown, html_of, text_of
from terminal.output import hidden_metrics
from terminal.parts import Sentence, Table
from terminal.run_results import diagnosis_parts, metrics_parts

__all__ = ["Result", "Run"]


class Run:
    """A run of a federation; `Experiment.run` begins one, and `Federation.run` finds one.

    Args:
        place: where it goes on.
        name: of the run.

    Attributes:
        name: of the run.
    """

    def __init__(self, place: Place, name: str) -> None:
        self._place, self.name = place, name

    @property
    def status(self) -> str:
        """How it stands now: queued, starting, running, succeeded, partial, failed, stopped or refused."""
        return self._place.detail(self.name).run.status

    @telling_what_is_missing
    def follow(self, told: Callable[[Step], None] | None = None) -> Run:
        """Wait until the run has ended; a notebook shows meanwhile how far it is.

        Ctrl-C, or a notebook's stop button, ends the waiting and not the run.

        Args:
            told: is told each round that has ended, and what else happens.

        Raises:
            AddressError: the server was away for ten minutes. The run goes on.
            TidegateError: a run on this machine ended without a model.
            KeyboardInterrupt: with how to come back.
        """
        live = Live(self.name, self._place.detail(self.name).run.of)
        try:
            with closing(self.steps()) as steps:
                for step in steps:
                    live.show(step.round, step.words)
                    if told is not None:
                        told(step)
        except KeyboardInterrupt as exc:
            words = f"the run goes on. Come back with: {self._place.come_back(self.name)}"
            live.show(None, words)
            raise KeyboardInterrupt(words) from exc
        return self

    def steps(self) -> Generator[Step]:
        """What happens until the run ends, for a loop of one's own. Errors as with `follow`."""
        yield from self._place.steps(self.name)

    @telling_what_is_missing
    def result(self) -> Result:
        """What came of it, once it has ended.

        Raises:
            TidegateError: it ended without a model, and why.
        """
        if not has_ended(self._place.detail(self.name).run.status):
            self.follow()
        detail = self._place.detail(self.name)
        require_result(detail)
        with understood(self.name):
            return Result.of(detail)

    @telling_what_is_missing
    def model(self) -> Model:
        """The model that it trained, with its preprocessing; waits until it has ended.

        Raises:
            TidegateError: it ended without one, or what was sent is not what was registered.
        """
        result = self.result()
        files = self._place.files(result.model, result.version)
        return Model.of(files, name=result.model, version=result.version)

    @telling_what_is_missing
    def stop(self) -> None:
        """Stop it, or take it out of the queue; what it has spent stays spent."""
        self._place.stop(self.name)

    @telling_what_is_missing
    def resume(self) -> Run:
        """Go on with it, if it failed or was stopped: from its last finished round, within its budget."""
        self._place.resume(self.name)
        return self

    def detail(self) -> RunDetail:
        """All that is known of it: its rounds, who took part, what went wrong."""
        return self._place.detail(self.name)

    def _parts(self) -> list[Shown]:
        try:
            detail = self._place.detail(self.name)
            with understood(self.name):
                return _run_parts(detail)
        except TidegateError as exc:
            return [Sentence(f"run {self.name}"), Sentence(str(exc), "yellow")]

    def __repr__(self) -> str:
        return text_of(self._parts())

    def _repr_html_(self) -> str:
        return html_of(self._parts())


@dataclass(frozen=True, kw_only=True, repr=False)
class Result:
    """What came of a run.

    Attributes:
        model, version: the model version that was registered.
        metrics: of all sites together, by name, with their errors as `NAME_error`; one that noise hides is
            missing.
        by_site: the same of each site.
        epsilon: that each site has spent in the run, at its δ; None where nobody could tell.
        private: whether the run gives a guarantee.
        detail: all that is known of the run.
    """

    model: str
    version: int
    metrics: Mapping[str, float]
    by_site: Mapping[str, Mapping[str, float]]
    epsilon: Mapping[str, float | None]
    private: bool
    detail: RunDetail

    @classmethod
    def of(cls, detail: RunDetail) -> Result:
        """The result in what is known of a run that has one."""
        result = detail.result or {}
        return cls(
            model=detail.run.experiment,
            version=int(detail.run.model_version or result["version"]),
            metrics=dict(result["metrics"]["overall"]),
            by_site={site: dict(one) for site, one in result["metrics"]["sites"].items()},
            epsilon={site: one["epsilon_in_run"] for site, one in result["privacy"].items()},
            private=bool(result["private"]),
            detail=detail,
        )

    def _parts(self) -> list[Shown]:
        with understood(self.detail.run.name):
            return _run_parts(self.detail)

    def __repr__(self) -> str:
        return text_of(self._parts())

    def _repr_html_(self) -> str:
        return html_of(self._parts())


def _run_parts(detail: RunDetail) -> list[Shown]:
    run, result = detail.run, detail.result
    version = f", version {run.model_version} of '{run.experiment}'" if run.model_version else ""
    rounds = f", {run.rounds} of {run.of} rounds" if run.of else ""
    place = f", place {run.place}" if run.place else ""
    parts: list[Shown] = [Sentence(f"Run {run.name}: {run.status}{place}{rounds}{version}.")]
    if told := run.error or waiting_words(run.unapproved):
        parts.append(Sentence(told, "yellow"))
    if result is not None and run.job == "train":
        parts += _result_parts(result, title=f"{run.experiment} on the held-out rows of its sites")
        parts.append(Picture(draw=lambda: plot_sites(detail), alt="figures by site, with their errors"))
    elif not has_ended(run.status) and detail.participation:
        rows = tuple((one.site, one.state, one.reason, one.what_to_do) for one in detail.participation)
        parts.append(Table(headings=("site", "state", "reason", "what to do"), rows=rows))
    if has_curve(detail):
        parts.append(Picture(draw=lambda: plot_learning(detail), alt="the learning curve, a line a site"))
    return parts


def _result_parts(result: Mapping[str, Any], *, title: str) -> list[Shown]:
    parts: list[Shown] = [*metrics_parts(result, title=title)]
    if not result["private"]:
        parts.append(Sentence("NOT PRIVATE: this run gives no guarantee.", "bold red"))
    elif hidden_metrics(result):
        words = "No metric can be told: the noise hides it. More held-out rows, or a larger"
        parts.append(Sentence(f"{words} privacy.evaluation_epsilon, would show it.", "yellow"))
    return [*parts, *diagnosis_parts(result)]
