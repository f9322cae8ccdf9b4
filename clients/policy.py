"""What a site's policy says: what may be spent, and what may run with or without asking its administrator."""

from __future__ import annotations

import functools
import re
from datetime import datetime
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from contract.epsilon import epsilon_words
from contract.errors import InputError
from contract.experiment import Epsilon, Experiment
from contract.mandate import normal_key
from contract.names import ColumnName, Digest, PersonName

__all__ = ["NO_MODEL", "Allow", "Policy"]

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_HOURS = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-4]):([0-5][0-9])", re.ASCII)


_PackageName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}(==[0-9A-Za-z.!+_-]{1,99})?$")]

NO_MODEL = "its model is of the package {}, which the policy does not name"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Allow(_Frozen):
    """What runs without asking: where every key that is given holds.

    Attributes:
        experiments: whole digests.
        code: hashes of the code that may run, as `tidegate site requests` shows them.
        label: the column that is predicted.
        features: the columns that it may be predicted from; an experiment may use fewer.
        epsilon: the most that one run may cost a data block, at the cap's δ; a run that is not private
            costs more than any.
        models: the model packages that may be used, as `NAME` or `NAME==VERSION` of what pip installs.
            Without it none may, but in an experiment that `experiments` names.
        weekdays: `mon` to `sun`.
        hours: from the first minute until the second, such as `20:00-06:00`.
        zone: the time zone of weekdays and hours.
    """

    experiments: Annotated[tuple[Digest, ...], Field(min_length=1)] | None = None
    code: Annotated[tuple[Digest, ...], Field(min_length=1)] | None = None
    label: ColumnName | None = None
    features: Annotated[tuple[ColumnName, ...], Field(min_length=1)] | None = None
    epsilon: Epsilon | None = None
    models: Annotated[tuple[_PackageName, ...], Field(min_length=1)] | None = None
    weekdays: Annotated[tuple[_Day, ...], Field(min_length=1)] | None = None
    hours: str | None = None
    zone: str = "UTC"

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_dump(exclude_none=True, exclude={"zone"}):
            raise ValueError(
                "allow says nothing: name experiments, code, label, features, epsilon, models, weekdays or "
                "hours"
            )
        if self.hours is not None:
            found = _HOURS.fullmatch(self.hours)
            if (
                found is None
                or (found[3] == "24" and found[4] != "00")
                or found.group(1, 2) == found.group(3, 4)
            ):
                raise ValueError(f"hours = '{self.hours[:40]}': write it like 20:00-06:00")
        if _zone(self.zone) is None:
            raise ValueError(f"zone = '{self.zone[:80]}' is no time zone: write it like Europe/Zurich")
        return self

    def unmet(self, experiment: Experiment, *, code: str, epsilon: float, at: datetime) -> str:
        """Why it does not hold, in words; empty where it holds.

        Args:
            experiment: what is asked for.
            code: the hash of the code that is installed.
            epsilon: what its run costs a data block.
            at: the time, with a zone.
        """
        task = experiment.task
        if self.experiments is not None and experiment.digest not in self.experiments:
            return f"experiment {experiment.digest} is not among those approved here"
        if self.code is not None and code not in self.code:
            return f"the installed code {code} is not among those that the policy allows"
        if self.label is not None and task.label.column != self.label:
            return f"it predicts '{task.label.column}', and the policy allows '{self.label}'"
        if self.features is not None:
            others = [feature.name for feature in task.features if feature.name not in self.features]
            if others:
                return f"it uses '{others[0]}', which is not among the features that the policy allows"
        if self.epsilon is not None and not epsilon <= self.epsilon * (1 + 1e-9):
            return f"one run costs ε = {epsilon_words(epsilon)}, and the policy allows {self.epsilon:g}"
        return self._unnamed(experiment) or (
            "" if self._is_open(at) else "the policy allows nothing at this hour"
        )

    def _unnamed(self, experiment: Experiment) -> str:
        """That its model is of a package that nothing here names; empty where it is not, or is named."""
        package = experiment.model.package
        if experiment.model.kind != "package" or self.experiments is not None:
            return ""
        if package is not None and {package.distribution, str(package)} & set(self.models or ()):
            return ""
        return NO_MODEL.format(package or experiment.model.name)

    def _is_open(self, at: datetime) -> bool:
        """What goes on past midnight belongs to the day on which it began."""
        here = at.astimezone(_zone(self.zone))
        day, minute = here.weekday(), 60 * here.hour + here.minute
        if self.hours is not None:
            found = _HOURS.fullmatch(self.hours)
            assert found is not None  # it was looked at when it was made  # noqa: S101
            first, end = 60 * int(found[1]) + int(found[2]), 60 * int(found[3]) + int(found[4])
            if end < first and minute < end:
                day = (day - 1) % 7
            elif not (first <= minute < end if first < end else minute >= first):
                return False
        return self.weekdays is None or _DAYS[day] in self.weekdays


class Policy(_Frozen):
    """What may run here, and what it may spend.

    Attributes:
        epsilon_cap: the most that any data block may ever pay, over all runs.
        delta_cap: the δ of the cap, and the largest at which a run may state its ε; below
            1 / `stated_rows`, for with more a mechanism may give a whole record away.
        require_private: whether a run without noise is refused.
        approval: `ask` lets nothing run that the administrator has not approved (`tidegate site approve`),
            but what `allow` says; `automatic` lets everything run that `allow` says, or anything without it.
        allow: what runs without asking.
        approved_experiments: the same as `allow.experiments` alone.
        scientists: the public keys of scientists, by the name that they have here. Where there are any,
            nothing is answered but what one of these keys has signed (`clients.mandates`).
    """

    epsilon_cap: Annotated[float, Field(ge=1e-3, le=1e4)] = 8.0
    delta_cap: Annotated[float, Field(ge=1e-15, le=0.1)] = 1e-4
    require_private: bool = True
    approval: Literal["ask", "automatic"] = "automatic"
    allow: Allow | None = None
    approved_experiments: Annotated[tuple[Digest, ...], Field(min_length=1)] | None = None
    scientists: Annotated[dict[PersonName, str], Field(min_length=1, max_length=1000)] | None = None

    @field_validator("scientists")
    @classmethod
    def _are_keys(cls, named: dict[str, str] | None) -> dict[str, str] | None:
        if named is None:
            return None
        try:
            keys = {name: normal_key(line) for name, line in named.items()}
        except InputError as exc:
            raise ValueError(str(exc)) from exc
        if len(set(keys.values())) < len(keys):
            raise ValueError("one key has two names")
        return keys

    @model_validator(mode="after")
    def _one_list(self) -> Self:
        if self.allow is not None and self.approved_experiments is not None:
            raise ValueError(
                "there are approved_experiments and an allow table: move the digests to allow.experiments"
            )
        return self

    def name_of(self, key: str) -> str:
        """The name of the scientist whose key this is; empty where nobody said so here."""
        return next((name for name, known in (self.scientists or {}).items() if known == key), "")

    @property
    def rule(self) -> Allow | None:
        """What runs without asking; None where no rule says so."""
        if self.approved_experiments is not None:
            return Allow(experiments=self.approved_experiments)
        return self.allow


@functools.cache
def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):  # of a folder, a way out of the folder, or no name at all
        return None
