"""Reads an experiment file that a person names."""

from __future__ import annotations

from pathlib import Path

from contract.errors import ExperimentError
from contract.experiment import Experiment
from contract.experiment_file import parse_experiment

__all__ = ["read_experiment", "read_text"]


def read_experiment(path: Path) -> Experiment:
    """Read an experiment file.

    Raises:
        ExperimentError: it is missing, unreadable or wrong.
    """
    return parse_experiment(read_text(path), where=str(path))


def read_text(path: Path) -> str:
    """The text of an experiment file.

    Raises:
        ExperimentError: it is missing or unreadable.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = getattr(exc, "strerror", None) or "not UTF-8 text"
        raise ExperimentError(
            f"the experiment file cannot be read: {reason}",
            where=str(path),
            remedy="Name an experiment file; some are in experiments/",
        ) from exc
