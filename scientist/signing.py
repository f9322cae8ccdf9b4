"""Signs, on the scientist's own machine, what a run may do at the sites: see `contract.mandate`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from contract.code import code_hash, read_code
from contract.experiment import Experiment
from contract.mandate import authority_digest, mandate_for, public_key_of, read_signing_key, sign_mandate
from contract.names import name_run
from scientist.profiles import Profile

__all__ = ["public_key", "sign_run"]


def sign_run(experiment: Experiment, windows: list[str], *, profile: Profile, key: bytes, days: int) -> str:
    """The signed mandate of one new run, which has a name from here on.

    Args:
        experiment: what is run.
        windows: whose rows it may use; empty for all.
        profile: names the server and the person.
        key: that person's.
        days: after which the mandate ends.

    Raises:
        InputError: the key or the profile's authority is none.
    """
    mandate = mandate_for(
        experiment,
        run=name_run(experiment.name),
        windows=tuple(windows),
        code=code_hash(read_code(Path(__file__).resolve().parent.parent)),
        authority=authority_digest(profile.authority),
        scientist=profile.person,
        expires=datetime.now(UTC).replace(microsecond=0) + timedelta(days=days),
    )
    return sign_mandate(mandate, read_signing_key(key))


def public_key(key: bytes) -> str:
    """The public key of a key, as one line.

    Raises:
        InputError: it is none.
    """
    return public_key_of(read_signing_key(key))
