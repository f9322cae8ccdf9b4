"""The server's settings: the one module of this side that reads the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from contract.errors import InputError

__all__ = [
    "LARGEST_REPLY",
    "ServerSettings",
    "apply_quiet_environment",
    "approval_seconds",
    "quiet_environment",
    "read_settings",
]

LARGEST_REPLY = 256 * 2**20
"""Bytes of one reply of a site, unless `TIDEGATE_LARGEST_REPLY` says otherwise."""

_APPROVAL_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Where the server keeps what it remembers.

    Attributes:
        home: folder of keys, certificates and the embedded state database.
        state_url: SQLAlchemy URL of the state database.
        tracking_uri: MLflow's tracking and registry URI.
        artifact_root: where artifacts go when `tracking_uri` is a local SQLite file;
            a tracking server has its own.
        federation: which SuperLink this server belongs to. Sites are admitted to one, whose
            node ids mean nothing to another.
        largest_reply: bytes that one reply of a site may have at the SuperLink.
    """

    home: Path
    state_url: str
    tracking_uri: str
    artifact_root: Path
    federation: str = "standing"
    largest_reply: int = LARGEST_REPLY


def read_settings(environ: Mapping[str, str] = os.environ) -> ServerSettings:
    """Read `TIDEGATE_HOME`, `TIDEGATE_STATE_URL`, `MLFLOW_TRACKING_URI`,
    `TIDEGATE_ARTIFACT_ROOT` and `TIDEGATE_FEDERATION`; one that is unset or empty has its default below the
    current folder: `.tidegate/`, `.tidegate/state.db`, `mlruns/mlflow.db`, `mlruns/artifacts/`,
    and `standing`. `TIDEGATE_LARGEST_REPLY` is a number of MB (2^20 bytes), by default 256.

    Raises:
        InputError: that number is none.
    """
    home = Path(environ.get("TIDEGATE_HOME") or ".tidegate").absolute()
    mlruns = Path("mlruns").absolute()
    return ServerSettings(
        home=home,
        state_url=environ.get("TIDEGATE_STATE_URL") or f"sqlite:///{home / 'state.db'}",
        tracking_uri=environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{mlruns / 'mlflow.db'}",
        artifact_root=Path(environ.get("TIDEGATE_ARTIFACT_ROOT") or mlruns / "artifacts").absolute(),
        federation=environ.get("TIDEGATE_FEDERATION") or "standing",
        largest_reply=_megabytes(environ.get("TIDEGATE_LARGEST_REPLY")),
    )


def approval_seconds(environ: Mapping[str, str] = os.environ) -> float:
    """How long a run waits for a quorum that lacks nothing but sites' approvals: `TIDEGATE_APPROVAL_SECONDS`,
    by default 600. Zero ends the run at once; it can be resumed.

    Raises:
        InputError: that is no number of seconds.
    """
    text = environ.get("TIDEGATE_APPROVAL_SECONDS")
    if not text:
        return _APPROVAL_SECONDS
    if not re.fullmatch(r"[0-9]{1,7}", text):
        raise InputError(
            f"'{text[:50]}' is no number of seconds",
            where="TIDEGATE_APPROVAL_SECONDS",
            remedy="Give a whole number, such as 86400 for a day, or leave it out",
        )
    return float(text)


def _megabytes(text: str | None) -> int:
    """That many times 2^20 bytes; the default for none."""
    if not text:
        return LARGEST_REPLY
    if not re.fullmatch(r"[1-9][0-9]{0,5}", text):
        raise InputError(
            f"'{text[:50]}' is no number of MB",
            where="TIDEGATE_LARGEST_REPLY",
            remedy="Give a whole number, such as 256, or leave it out",
        )
    return int(text) * 2**20


def quiet_environment() -> dict[str, str]:
    """What keeps Flower, MLflow and Evidently from opening a connection of their own.

    MLflow reads `DO_NOT_TRACK` too, but takes only the word `true`; its own variable
    is what counts. Apply before the library is imported, and to every process started.
    """
    return {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }


def apply_quiet_environment() -> None:
    """Set `quiet_environment` in this process."""
    os.environ.update(quiet_environment())
