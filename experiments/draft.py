"""Drafts an experiment file from what sites offer in public, or from another experiment file.

A data scientist has no row to look at: what there is to choose from stands on the sites' cards. The draft
takes what all of them offer alike, and says in a comment what it left out and why.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Table

from contract.card import Card, CategoricalColumn, NumericColumn
from contract.errors import ExperimentError, InputError
from contract.experiment import CategoricalFeature, Feature, Model, NumericFeature, Privacy
from contract.experiment_file import parse_unranged
from contract.federation_api import SiteCard
from contract.installed_models import installed, load
from contract.outside import shown
from contract.windows import example_of
from contract.words import counted

__all__ = ["Offer", "draft", "labels", "name_like", "offers_of", "variant"]

_TRY = """\
Settings of training need no table: `tidegate run` chooses them for these features, rows and ε.
Keys that are most often changed, with their defaults; docs/experiment.md has all of them:
[model]
kind = "linear"        # or "mlp", with hidden = [32]; or a package of your own: `tidegate new --model NAME`
[drift]
epsilon = 0.5          # of one check, on the rows of its window"""


_NO_RANGE = "states no range (low and high) on any card"


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What a site says in public.

    Attributes:
        card: its card.
        stated_rows: its rough number of training rows.
    """

    card: Card
    stated_rows: int


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A column as all sites offer it: a feature with its ranges or categories, or why it is none."""

    name: str
    feature: Feature | None
    meanings: tuple[str, ...]
    unranged: bool = False
    why_not: str = ""


def offers_of(cards: Sequence[SiteCard], names: Collection[str], *, where: str) -> dict[str, Offer]:
    """What these sites offer, by their names; of all of them where none is named.

    Args:
        cards: of a federation's sites.
        names: of those to take.
        where: the federation, for the error.

    Raises:
        InputError: a site is not among them, or has no card.
    """
    offers = {
        one.site: Offer(card=one.card, stated_rows=one.stated_rows or 1)
        for one in cards
        if one.card is not None and (not names or one.site in names)
    }
    missing = [name for name in names if name not in offers]
    if missing or not offers:
        what = f"no card of {', '.join(missing)} is known" if missing else "no site's card is known"
        raise InputError(what, where=where, remedy="`tidegate sites cards` lists those that are")
    return offers


def labels(offers: Mapping[str, Offer], *, numbers: bool = True) -> tuple[str, ...]:
    """The columns that can be predicted at every site: of two classes or more, or numbers with a range.

    Args:
        offers: by the site's name.
        numbers: whether numbers are among them.
    """
    return tuple(
        found.name
        for found in _columns(offers)
        if isinstance(found.feature, CategoricalFeature)
        or (numbers and found.feature is not None and not found.unranged)
    )


def name_like(text: str) -> str:
    """The text in the letters that an experiment's name may have.

    >>> name_like("Ill again?"), name_like("?")
    ('ill-again', 'experiment')
    """
    letters = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in text.lower())
    return letters.strip("-")[:63] or "experiment"


def draft(
    offers: Mapping[str, Offer],
    *,
    name: str,
    label: str,
    features: Collection[str] = (),
    model: str = "linear",
) -> str:
    """The text of an experiment file that every one of these sites' cards allows.

    A number whose range no card states is left out, unless it is named: sites would have to be asked, and
    charged, for its range before anything else could be done with the file.

    Args:
        offers: by the site's name; at least one.
        name: of the experiment.
        label: the column to predict.
        features: what to predict it from; left out, every column that all sites offer alike.
        model: `linear`, `mlp`, or the name of a model of a package that is installed here.

    Raises:
        NotInstalledError: no installed package offers such a model.
        InputError: the label or a feature is not offered by all of them alike, or the sites disagree on
            which column is a person or tells the time.
    """
    columns = {found.name: found for found in _columns(offers)}
    predicted = _predicted(columns, label, offers)
    wanted = list(dict.fromkeys(features)) or [one for one in columns if one != label]
    taken = (
        [_taken(columns, one, label, offers) for one in wanted]
        if features
        else [_with_range(columns[one]) for one in wanted]
    )
    chosen = [one for one in taken if one.feature is not None]
    if not chosen:
        reasons = (
            "; ".join(f"'{one.name}' {one.why_not}" for one in taken) or "the cards have no other column"
        )
        raise InputError(
            f"no column is left to predict '{label}' from: {reasons}",
            where="the cards",
            remedy="Ask the sites' administrators to offer columns alike, or name a number without a range "
            "as a feature: `tidegate ranges` asks for one",
        )
    document = tomlkit.document()
    _comment(document, f"Made by `tidegate new` from the cards of {_listed(list(offers))}. No row was read.")
    for one in taken:
        if one.feature is None:
            _comment(document, f"Left out: '{one.name}' {one.why_not}.")
    document["name"] = name
    document["task"] = _task(offers, predicted, chosen, [one for one in taken if one.unranged])
    if model != "linear":
        document["model"] = _model(model)
    document["privacy"] = _privacy(offers)
    if len(offers) == 1:
        document["strategy"] = {"quorum": 1}
    document.add(tomlkit.nl())
    for line in _TRY.splitlines():
        document.add(tomlkit.comment(line))
    text = tomlkit.dumps(document)
    experiment = parse_unranged(text, where="the draft")
    for offer in offers.values():
        offer.card.require(experiment.experiment, unranged=experiment.features)
    return text


def variant(text: str, changes: Mapping[str, str], *, where: str) -> str:
    """The text of an experiment file with some values changed, and its comments kept.

    Args:
        text: of an experiment file.
        changes: values by their key, such as `strategy.rounds`, as TOML writes them; a text may lack its
            quotation marks.
        where: the file's name, for the error.

    Raises:
        ExperimentError: the text is no experiment file, or no longer one with these changes.
    """
    try:
        document = tomlkit.parse(text)
    except (TOMLKitError, ValueError) as exc:
        raise ExperimentError(
            f"not valid TOML: {exc}", where=where, remedy="Name an experiment file"
        ) from exc
    for key, value in changes.items():
        table: Any = document
        *tables, last = key.split(".")
        for part in tables:
            table = table.setdefault(part, tomlkit.table()) if isinstance(table, dict) else None
        if not isinstance(table, dict):
            raise ExperimentError(
                f"'{key}' is no key of it",
                where=where,
                remedy="Write TABLE.KEY=VALUE, such as strategy.rounds=40",
            )
        table[last] = _value(value)
    changed = tomlkit.dumps(document)
    parse_unranged(changed, where=f"{where} with {', '.join(changes)} changed" if changes else where)
    return changed


def _value(text: str) -> Any:
    try:
        return tomlkit.value(text)
    except (TOMLKitError, ValueError):
        return text


def _columns(offers: Mapping[str, Offer]) -> list[_Found]:
    """Every column that any site offers, in the order of the cards."""
    names = dict.fromkeys(column.name for offer in offers.values() for column in offer.card.columns)
    return [_found(name, offers) for name in names]


def _found(name: str, offers: Mapping[str, Offer]) -> _Found:
    offered = {site: offer.card.column(name) for site, offer in offers.items()}
    columns = [column for column in offered.values() if column is not None]
    meanings = tuple(dict.fromkeys(column.meaning for column in columns if column.meaning))
    without = [site for site, column in offered.items() if column is None]
    if without:
        return _Found(
            name=name, feature=None, meanings=meanings, why_not=f"is not offered by {_listed(without)}"
        )
    numeric = [column for column in columns if isinstance(column, NumericColumn)]
    categorical = [column for column in columns if isinstance(column, CategoricalColumn)]
    if numeric and categorical:
        why = f"is numeric at {_listed([site for site, one in offered.items() if one in numeric])} alone"
        return _Found(name=name, feature=None, meanings=meanings, why_not=why)
    if categorical:
        return _categorical(name, categorical, meanings)
    return _numeric(name, numeric, meanings)


def _categorical(name: str, columns: Sequence[CategoricalColumn], meanings: tuple[str, ...]) -> _Found:
    categories = tuple(dict.fromkeys(value for column in columns for value in column.categories))
    if len(categories) < 2:
        return _Found(
            name=name, feature=None, meanings=meanings, why_not="has one category, so it tells nothing"
        )
    if not all(set(column.categories) & set(columns[0].categories) for column in columns):
        return _Found(
            name=name, feature=None, meanings=meanings, why_not="has no category that the sites share"
        )
    feature = CategoricalFeature(name=name, kind="categorical", categories=categories)
    return _Found(name=name, feature=feature, meanings=meanings)


def _numeric(name: str, columns: Sequence[NumericColumn], meanings: tuple[str, ...]) -> _Found:
    """The range that every site's range has room for: a card lets an experiment ask for no wider one."""
    ranges = [(one.low, one.high) for one in columns if one.low is not None and one.high is not None]
    if not ranges:
        feature = NumericFeature(name=name, kind="numeric", low=0.0, high=1.0)
        return _Found(name=name, feature=feature, meanings=meanings, unranged=True)
    low, high = max(low for low, _ in ranges), min(high for _, high in ranges)
    if not low < high:
        return _Found(name=name, feature=None, meanings=meanings, why_not="has ranges that share nothing")
    feature = NumericFeature(name=name, kind="numeric", low=low, high=high)
    return _Found(name=name, feature=feature, meanings=meanings)


def _predicted(columns: Mapping[str, _Found], label: str, offers: Mapping[str, Offer]) -> Feature:
    found = columns.get(label)
    if found is not None and found.feature is not None and not found.unranged:
        return found.feature
    can = ", ".join(f"'{one}'" for one in labels(offers)) or "none"
    if found is None:
        what = "no site offers it"
    else:
        what = f"it {found.why_not or 'is numeric, and no card states its range (low and high)'}"
    raise InputError(
        f"'{label}' cannot be predicted: {what}",
        where="the cards",
        remedy=f"Choose among what can be: {can}",
    )


def _taken(columns: Mapping[str, _Found], name: str, label: str, offers: Mapping[str, Offer]) -> _Found:
    """A feature that was asked for by name: it is there, or the whole draft is refused."""
    found = columns.get(name)
    if name == label:
        why = "is the label"
    elif found is None:
        why = "is on no card"
    elif found.feature is None:
        why = found.why_not
    else:
        return found
    can = [one for one in columns if one != label and columns[one].feature is not None]
    raise InputError(
        f"feature '{name}' {why}", where="the cards", remedy=f"Choose among what all offer: {_listed(can)}"
    )


def _with_range(found: _Found) -> _Found:
    """The column, left out if no card states its range."""
    return replace(found, feature=None, why_not=_NO_RANGE) if found.unranged else found


def _task(
    offers: Mapping[str, Offer], label: Feature, chosen: Sequence[_Found], unranged: Sequence[_Found]
) -> Table:
    task = tomlkit.table()
    time = _agreed(
        {site: offer.card.time.column if offer.card.time else None for site, offer in offers.items()}, "time"
    )
    person = _agreed({site: offer.card.person for site, offer in offers.items()}, "person")
    if time is not None:
        task["time"] = time
        every = {offer.card.time.every for offer in offers.values() if offer.card.time}
        named = [example_of(one) for one in every if one is not None]
        task["time"].comment(
            f"cuts rows into windows such as {' or '.join(named)}"
            if named
            else "each of its values names a window"
        )
    if person is not None:
        task["person"] = person
        task["person"].comment("whose a row is: all rows of one are protected together")
    if isinstance(label, CategoricalFeature):
        task["label"] = {"column": label.name, "classes": list(label.categories)}
        task["label"]["classes"].comment("the last of two is the positive one")
    else:
        task["label"] = {"column": label.name, "kind": "numeric", "low": label.low, "high": label.high}
        task["label"]["high"].comment("a value outside the range is clamped to it")
    features = tomlkit.aot()
    for one in chosen:
        features.append(_feature(one))
    for one in unranged:
        if one.feature is None:
            _offer_unranged(features[-1], one)
    task["features"] = features
    return task


def _feature(found: _Found) -> Table:
    table = tomlkit.table()
    for meaning in found.meanings:
        _comment(table, meaning)
    assert found.feature is not None  # noqa: S101 - the caller leaves the others out
    table["name"] = found.name
    table["kind"] = found.feature.kind
    if isinstance(found.feature, CategoricalFeature):
        table["categories"] = list(found.feature.categories)
    elif found.unranged:
        _comment(
            table, "no card states low and high: write them from public knowledge, or `tidegate ranges` asks"
        )
    else:
        table["low"], table["high"] = found.feature.low, found.feature.high
    return table


def _offer_unranged(table: Table, found: _Found) -> None:
    """A column that was left out, ready to be taken: below the last feature's table."""
    table.add(tomlkit.nl())
    for line in (
        f"Remove the # of the next {3 + len(found.meanings)} lines to take '{found.name}'. Write low and "
        "high below them from public knowledge,",
        "or leave both out: `tidegate ranges` asks the sites, which are charged for the answer.",
    ):
        _comment(table, line)
    _comment(table, "[[task.features]]")
    for meaning in found.meanings:
        _comment(table, f"# {meaning}")
    for key, value in (("name", found.name), ("kind", "numeric")):
        _comment(table, f"{key} = {tomlkit.item(value).as_string()}")


def _model(name: str) -> Table:
    """One of our own kinds, or a package's, whose settings stand beside it in a comment."""
    table = tomlkit.table()
    if name == "mlp":
        table["kind"] = name
        table["hidden"] = list(Model().hidden)
        return table
    model = Model(kind="package", name=name, package=installed(name))
    table["kind"], table["name"] = "package", name
    table["name"].comment(f"of {model.package}, which every site must have installed")
    settings = vars(load(model))
    if settings:
        told = ", ".join(f"{key} = {tomlkit.item(value).as_string()}" for key, value in settings.items())
        _comment(table, f"its settings, as the package has them: parameters = {{ {told} }}")
    return table


def _privacy(offers: Mapping[str, Offer]) -> Table:
    most = max(offer.stated_rows for offer in offers.values())
    privacy = tomlkit.table()
    if any(offer.card.person is not None for offer in offers.values()):
        privacy["unit"] = "person"
        privacy["rows_per_person"] = 1
        privacy["rows_per_person"].comment("at most; the noise grows by that factor")
    privacy["epsilon"] = 1.0
    unit = privacy.get("unit", Privacy().unit)
    privacy["epsilon"].comment(f"of one training run, for each {unit} at each site")
    privacy["delta"] = min(Privacy().delta, 10.0 ** -math.ceil(math.log10(most) + 1))
    privacy["delta"].comment(f"below one in {most:,}, the most training rows that a site states")
    privacy["evaluation_epsilon"] = 1.0
    privacy["evaluation_epsilon"].comment("of all its evaluations, on the held-out rows")
    return privacy


def _agreed(by_site: Mapping[str, str | None], role: str) -> str | None:
    if len(set(by_site.values())) == 1:
        return next(iter(by_site.values()))
    told = ", ".join(
        f"{site}: {'none' if column is None else repr(column)}" for site, column in by_site.items()
    )
    raise InputError(
        f"the cards disagree on the {role} ({told})",
        where="the cards",
        remedy="Name sites whose cards agree, or ask their administrators to",
    )


def _listed(names: Sequence[str]) -> str:
    """Some of them, so that a card with thousands of columns stays one sentence."""
    first = ", ".join(names[:10])
    return first if len(names) <= 10 else f"{first} and {counted(len(names) - 10, 'other')}"


def _comment(table: Any, text: str) -> None:
    """One line of visible characters: what stands on a card comes from outside."""
    table.add(tomlkit.comment(shown(text)))
