"""The outcome of a drift check: what the server keeps of it, and people read. Light to import."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from contract.errors import ReleaseError

__all__ = ["POOLED", "FeatureVerdict", "SiteVerdict", "Verdict"]

POOLED = "all sites"
"""Stands in place of a site's name in the pooled verdict."""


@dataclass(frozen=True, kw_only=True)
class FeatureVerdict:
    """What the counts say of one feature, or of the label.

    Attributes:
        p_value: chance of counts at least as far apart if nothing had changed.
        distance: estimated share of rows that changed cell, in [0, 1].
        drifted: drift is shown after Holm's correction over the features.
    """

    feature: str
    p_value: float
    distance: float
    drifted: bool


@dataclass(frozen=True, kw_only=True)
class SiteVerdict:
    """What the counts say of one site, or of all sites together."""

    site: str
    features: tuple[FeatureVerdict, ...]

    @property
    def alarm(self) -> bool:
        """Whether drift is shown in any feature."""
        return any(feature.drifted for feature in self.features)

    @property
    def smallest_p_value(self) -> float:
        """Of all features, before correction."""
        return min((feature.p_value for feature in self.features), default=1.0)

    @property
    def drifted(self) -> tuple[str, ...]:
        """The features with drift."""
        return tuple(feature.feature for feature in self.features if feature.drifted)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The outcome of one drift check over all sites that answered.

    Attributes:
        window, reference_window: what was compared with what.
        reference: which training windows the reference is, in words, where the experiment compares seasons;
            empty where it is all of them.
        false_alarm_rate: the promised one, of a site's check and of the pooled one.
        sites: each by itself.
        pooled: all together.
        rests_on: the one of several sites without which there would be no alarm; empty if there is none.
    """

    window: str
    reference_window: str
    false_alarm_rate: float
    sites: tuple[SiteVerdict, ...]
    pooled: SiteVerdict
    rests_on: str = ""
    reference: str = ""

    @property
    def alarm(self) -> bool:
        """Whether any site, or all together, show drift."""
        return self.pooled.alarm or bool(self.sites_in_alarm)

    @property
    def sites_in_alarm(self) -> tuple[str, ...]:
        """Sites that show drift by themselves; may be empty when only all together do."""
        return tuple(site.site for site in self.sites if site.alarm)

    def to_json(self) -> str:
        """As JSON; holds noisy evidence only, no count and no value."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Verdict:
        """Read what `to_json` wrote.

        Raises:
            ReleaseError: it is not a verdict of this program's version.
        """
        try:
            values = json.loads(text)
            return cls(
                window=str(values["window"]),
                reference_window=str(values["reference_window"]),
                false_alarm_rate=float(values["false_alarm_rate"]),
                sites=tuple(_site(site) for site in values["sites"]),
                pooled=_site(values["pooled"]),
                rests_on=str(values.get("rests_on", "")),  # of an older program without
                reference=str(values.get("reference", "")),
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise ReleaseError(
                "a stored verdict cannot be read", remedy="Run the Tidegate version that wrote it"
            ) from exc


def _site(values: Mapping[str, Any]) -> SiteVerdict:
    features = tuple(
        FeatureVerdict(
            feature=str(item["feature"]),
            p_value=float(item["p_value"]),
            distance=float(item["distance"]),
            drifted=bool(item["drifted"]),
        )
        for item in values["features"]
    )
    return SiteVerdict(site=str(values["site"]), features=features)
