"""The card of a site that offers just what an experiment asks for."""

from __future__ import annotations

import json

from contract.experiment import Experiment, NumericFeature


def card_for(
    experiment: Experiment, *, holdout: str | None = None, share: float = 0.3, person: str | None = None
) -> str:
    """As the `[card]` of a site.toml, with the experiment's own time and person."""
    task = experiment.task
    person = person or task.person
    side = {"column": holdout} if holdout and not person else {"share": share}
    lines = ["", "[card]", f"holdout = {_inline(side)}"]
    if task.time:
        lines.append(f"time = {_inline({'column': task.time})}")
    if person:
        lines.append(f"person = {json.dumps(person)}")
    for feature in task.features:
        if isinstance(feature, NumericFeature):
            lines += _column(feature.name, "numeric", low=feature.low, high=feature.high)
        else:
            lines += _column(feature.name, "categorical", categories=list(feature.categories))
    if task.label.range is not None:
        lines += _column(task.label.column, "numeric", low=task.label.low, high=task.label.high)
    else:
        lines += _column(task.label.column, "categorical", categories=list(task.label.classes))
    return "\n".join(lines) + "\n"


def _column(name: str, kind: str, **values: object) -> list[str]:
    items = {"name": name, "kind": kind, **values}
    return ["[[card.columns]]", *(f"{key} = {json.dumps(value)}" for key, value in items.items())]


def _inline(values: dict[str, object]) -> str:
    return "{ " + ", ".join(f"{key} = {json.dumps(value)}" for key, value in values.items()) + " }"
