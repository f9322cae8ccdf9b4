"""An experiment, as one has it in Python: the text of an experiment file, checked whole when it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import tomlkit

from contract.epsilon import delta_words
from contract.errors import ExperimentError
from contract.experiment import Experiment as Settings
from contract.experiment_file import parse_experiment, parse_unranged
from contract.windows import expanded
from experiments.draft import draft, name_like, offers_of, variant
from experiments.installation import telling_what_is_missing
from experiments.planning.warnings import not_begun
from experiments.python.connecting import federation_of
from experiments.python.run import Run
from terminal.display import html_of, text_of
from terminal.experiment_files import read_text
from terminal.new_files import write_new
from terminal.parts import Part, Sentence, Table

if TYPE_CHECKING:
    from experiments.planning.plan import Plan
    from experiments.python.federation import Federation

__all__ = ["Experiment"]


@dataclass(frozen=True, init=False, repr=False)
class Experiment:
    """One experiment: what is predicted from what, with which model, and what it may cost.

    Made from keywords, which are the keys of an experiment file (docs/experiment.md), by `from_file`,
    `from_text` or `from_cards`. Frozen: `changed` makes another.

    Attributes:
        text: that of its experiment file.
        where: where that came from, for errors.

    Raises:
        ExperimentError: a key is unknown, or a value is missing or out of bounds; all of them at once.

    >>> Experiment(name="ill", task={"label": {"column": "ill"}, "features": []})
    Traceback (most recent call last):
    contract.errors.ExperimentError: ...
    """

    text: str
    where: str

    def __init__(self, **keys: Any) -> None:
        self._set(_as_toml(keys), "Experiment()")

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """The experiment in a file.

        Raises:
            ExperimentError: it is missing, unreadable or wrong.
        """
        return cls.from_text(read_text(Path(path)), where=str(path))

    @classmethod
    def from_text(cls, text: str, *, where: str = "the text") -> Self:
        """The experiment that a text in TOML states.

        Raises:
            ExperimentError: it is wrong.
        """
        made = cls.__new__(cls)
        made._set(text, where)
        return made

    @classmethod
    @telling_what_is_missing
    def from_cards(
        cls,
        federation: Federation,
        *,
        label: str,
        features: Sequence[str] = (),
        name: str = "",
        sites: Sequence[str] = (),
    ) -> Self:
        """A draft of what a federation's sites offer alike; settings of training are left to the recipe.

        Args:
            federation: of the sites.
            label: the column to predict.
            features: what to predict it from; without, every column that all sites offer alike.
            name: of the experiment; otherwise that of the label.
            sites: whose cards to take; without, all.

        Raises:
            InputError: the label or a feature is not offered by all of them alike, or a site has no card.
        """
        offers = offers_of(federation.place.cards(), sites, where=federation.place.words)
        called = name or name_like(label)
        return cls.from_text(draft(offers, name=called, label=label, features=features), where=called)

    @property
    def name(self) -> str:
        """Of the experiment, its models and its runs."""
        return parse_unranged(self.text, where=self.where).experiment.name

    @property
    def settings(self) -> Settings:
        """Every key with its value or its default.

        Raises:
            ExperimentError: a numeric feature has no range yet.
        """
        return parse_experiment(self.text, where=self.where)

    def changed(self, changes: Mapping[str, Any]) -> Self:
        """A variant with other values, such as `changed({"privacy.epsilon": 2, "name": "bolder"})`.

        Raises:
            ExperimentError: that is none.
        """
        values = {key: tomlkit.item(value).as_string() for key, value in changes.items()}
        return type(self).from_text(variant(self.text, values, where=self.where), where=self.where)

    def save(self, path: str | Path) -> Path:
        """Write it into a new file, for `tidegate run` and your colleagues.

        Raises:
            InputError: there is a file of that name, or it cannot be written.
        """
        write_new(Path(path), self.text)
        return Path(path)

    @telling_what_is_missing
    def plan(
        self,
        federation: Federation | None = None,
        *,
        windows: str | Sequence[str] = (),
        curve: bool = False,
        told: Callable[[int], None] = lambda _done: None,
    ) -> Plan:
        """What a run would cost each site, and how well its result could be told. Nothing is spent.

        Args:
            federation: where; without, that of your profile, or the sites of the experiment's data set.
            windows: whose rows are used, such as `"2026-W01..2026-W10"` or a list; all without.
            curve: whether to look at a quarter to four times the ε too, which takes five times as long.
            told: is told how many trainings on imagined rows are done.

        Raises:
            InputError: no site has stated its rows, a library is not installed, or a window cannot be one.
            ExperimentError: a feature has no range yet.
        """
        from experiments.planning.plan import PlanSettings, make_plan
        from experiments.planning.sites import asked_of
        from terminal.output import quiet_flower

        place = (federation or federation_of(self.settings.data)).place
        quiet_flower()
        settings = PlanSettings(windows=_windows(windows), curve=curve, told=told)
        return make_plan(self.settings, asked_of(self.settings, place.planned()), settings)

    @telling_what_is_missing
    def run(
        self,
        federation: Federation | None = None,
        *,
        windows: str | Sequence[str] = (),
        yes: bool = False,
        sign_days: int = 14,
    ) -> Run:
        """Begin a run, which trains one model version and is paid for by the sites; it goes on by itself.

        Args:
            federation: where; without, that of your profile, or the sites of the experiment's data set.
            windows: whose rows are used, as of `plan`.
            yes: whether to run what a plan warns of; its reasons are raised otherwise.
            sign_days: for how many days sites take your signature of the run.

        Raises:
            InputError: a plan would warn of the run, and of what; or the server refuses it.
            ExperimentError: a feature has no range yet.
        """
        place, names = (federation or federation_of(self.settings.data)).place, _windows(windows)
        chosen = place.chosen(self.settings)
        doubts = () if yes else place.doubts(chosen, names)
        if doubts:
            raise not_begun(chosen, doubts, "`plan()` says more; run(yes=True) runs it all the same")
        return Run(place, place.begin(chosen, names, sign_days=sign_days))

    def _set(self, text: str, where: str) -> None:
        parse_unranged(text, where=where)
        object.__setattr__(self, "text", text)
        object.__setattr__(self, "where", where)

    def _parts(self) -> list[Part]:
        unranged = parse_unranged(self.text, where=self.where)
        settings = unranged.experiment
        label, privacy, task = settings.task.label, settings.privacy, settings.task
        rows = []
        for one in task.features:
            values = f"{one.low:g} to {one.high:g}" if one.kind == "numeric" else ", ".join(one.categories)
            rows.append((one.name, one.kind, "no range yet" if one.name in unranged.features else values))
        wanted = " or ".join(label.classes) or f"{label.low:g} to {label.high:g}"
        paid = (
            f"ε = {privacy.epsilon:g} for each {privacy.unit} at δ = {delta_words(privacy.delta)}; "
            f"{privacy.evaluation_epsilon:g} for evaluations."
        )
        return [
            Sentence(f"Predicts '{label.column}' ({wanted}) by a {settings.model.kind} model. {paid}"),
            *([] if privacy.private else [Sentence("NOT PRIVATE: a run gives no guarantee.", "bold red")]),
            Table(headings=("feature", "kind", "values"), rows=tuple(rows), title=settings.name),
        ]

    def __repr__(self) -> str:
        return text_of(self._parts())

    def _repr_html_(self) -> str:
        return html_of(self._parts())


def _as_toml(keys: Mapping[str, Any]) -> str:
    try:
        return tomlkit.dumps(keys)
    except (TypeError, ValueError) as exc:
        raise ExperimentError(
            f"a value cannot be written into an experiment file: {exc}",
            where="Experiment()",
            remedy="Give texts, numbers, lists and dicts; leave a key out where it has no value",
        ) from exc


def _windows(named: str | Sequence[str]) -> tuple[str, ...]:
    return tuple(expanded([named] if isinstance(named, str) else named))
