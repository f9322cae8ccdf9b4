"""What this server says of its model versions, from its own record and not from MLflow's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from contract.envelope import PrivateKey
from contract.errors import AddressError
from contract.model_statement import ModelStatement, Service, now, sign_statement
from contract.model_version import sha256
from server.jobs.champion import INTO_SERVICE
from server.state.storage import State
from server.state.versions import RegisteredVersions

__all__ = ["Signer", "no_signer", "signed_statement", "statement_of"]

Signer = Callable[[], tuple[PrivateKey, bytes]]
"""Gives the key that signs, and its certificate; raises an AddressError where there is none."""


def no_signer() -> tuple[PrivateKey, bytes]:
    """Of a server without certificates: it signs nothing."""
    raise AddressError("this server has no key that signs models", remedy="`tidegate server init` makes one")


def statement_of(model: str, version: int, state: State) -> ModelStatement | None:
    """What can be said of a version; None of one that an earlier Tidegate registered."""
    registered = RegisteredVersions(state.database)
    files, passports = registered.hashes(model, version), registered.passports(model, version)
    if not files or not passports:
        return None
    served = state.decisions(model, kinds=INTO_SERVICE)
    service = None
    if served and served[-1].subject == f"version {version}":
        service = Service(number=served[-1].id, decided=served[-1].time)
    return ModelStatement(
        model=model,
        version=version,
        files={**files, **{name: sha256(text.encode()) for name, text in passports.items()}},
        signed=now(),
        service=service,
    )


def signed_statement(model: str, version: int, state: State, signer: Signer) -> dict[str, Any] | None:
    """The same, signed; None where nothing can be said, or this server has no key for it."""
    said = statement_of(model, version, state)
    if said is None:
        return None
    try:
        key, certificate = signer()
    except AddressError:
        return None
    return sign_statement(said, key, certificate)
