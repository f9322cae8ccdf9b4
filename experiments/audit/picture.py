"""The audit as a picture: what is stated, and how much of it the attack proves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from contract.errors import InputError
from experiments.audit.probes import Finding

__all__ = ["draw"]

_HOLDS, _DISPROVED, _STATED = "#0072B2", "#D55E00", "#666666"


def draw(findings: Sequence[Finding], path: Path) -> None:
    """A bar a probe: the proven part of the ε that is stated.

    Raises:
        InputError: the picture cannot be written there.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1 + 0.55 * len(findings)), layout="constrained")
    axes = figure.subplots()
    for place, finding in enumerate(reversed(findings)):
        share = min(finding.lower_bound / finding.stated, 1.5) if finding.stated else math.nan
        axes.barh(place, 1, color="none", edgecolor=_STATED)
        axes.barh(place, share, color=_DISPROVED if finding.alarm else _HOLDS, height=0.5)
        axes.text(1.01, place, f"ε = {finding.stated:.3g} stated", va="center", color=_STATED)
        axes.text(0.01, place, f"{share:.0%}", va="center", color="white" if share > 0.1 else "black")
    axes.set_yticks(range(len(findings)), [finding.probe for finding in reversed(findings)])
    axes.set_xlim(0, max(1.3, *(1.3 if finding.alarm else 0 for finding in findings)))
    axes.set_xlabel("share of the stated ε that the attack proves with 95 % confidence")
    axes.axvline(1, color=_STATED, linewidth=1)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as exc:
        raise InputError(
            f"the picture cannot be written: {exc}",
            where=str(path),
            remedy="Name a file that ends in .png, .svg or .pdf, in a folder that is there",
        ) from exc
