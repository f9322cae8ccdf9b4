"""Signs, on the scientist's own machine, what may be done at the sites: see `contract.mandate`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from contract.code import code_hash, read_code
from contract.errors import InputError
from contract.experiment import Experiment
from contract.mandate import (
    Ranges,
    authority_digest,
    mandate_for,
    public_key_of,
    ranges_question,
    read_signing_key,
    sign_mandate,
)
from contract.names import name_run
from contract.standing import Standing
from contract.windows import Every, first_day, window_of
from scientist.profiles import Profile, Profiles
from scientist.settings import read_settings

__all__ = ["TRIES", "UNSIGNED", "Signer", "active_signer", "public_key"]

TRIES = 2
"""How often a schedule may check a window: once more, for a model that came into service meanwhile."""

UNSIGNED = "It is not signed: connect again, which makes you a key. Some sites may refuse it."


@dataclass(frozen=True, kw_only=True)
class Signer:
    """Whoever signs.

    Attributes:
        profile: names the server and the person.
        key: that person's.
        days: after which what is signed ends.
    """

    profile: Profile
    key: bytes
    days: int

    def run(self, experiment: Experiment, windows: list[str]) -> str:
        """The signed mandate of one new run, which has a name from here on.

        Args:
            experiment: what is run.
            windows: whose rows it may use; empty for all.

        Raises:
            InputError: the key or the profile's authority is none.
        """
        return self._sign(experiment, name_run(experiment.name), windows=windows)

    def ranges(self, experiment: Experiment, windows: list[str], features: list[str], epsilon: float) -> str:
        """That of a question for the ranges of these features. Errors as with `run`."""
        asked = ranges_question(features, epsilon)
        return self._sign(experiment, name_run(f"{experiment.name}-ranges"), windows=windows, covers=asked)

    def schedule(
        self, experiment: Experiment, *, every: Every, first: str, trained_on: tuple[str, ...]
    ) -> str:
        """The standing mandate of a schedule: from its first window to the one in which the mandate ends.

        Args:
            experiment: what is watched.
            every: how long a window is.
            first: the first window.
            trained_on: the windows of the first model; empty for all rows.

        Raises:
            InputError: there is no such window, or none until the mandate ends; or as with `run`.
        """
        first_day(first, every)
        last = window_of(self._expires.date(), every)
        if first > last:
            raise InputError(
                f"what is signed would end in {last}, before {first} has begun",
                where="--sign-days",
                remedy="Give more --sign-days",
            )
        try:
            standing = Standing(
                every=every,
                first=first,
                last=last,
                tries=TRIES,
                drift_epsilon=experiment.drift.epsilon,
                reference=trained_on,
            )
        except ValidationError as exc:
            raise InputError(
                "these are no windows, or one of them is named twice",
                where="--trained-on",
                remedy="Name those that `tidegate run` was given with --window",
            ) from exc
        experiment.drift.reference_of((first,), trained_on)  # refuses what has no season
        return self._sign(experiment, name_run(experiment.name), covers=standing)

    def _sign(
        self,
        experiment: Experiment,
        run: str,
        *,
        windows: list[str] | None = None,
        covers: Standing | Ranges | None = None,
    ) -> str:
        mandate = mandate_for(
            experiment,
            run=run,
            windows=tuple(windows or ()),
            code=code_hash(read_code(Path(__file__).resolve().parent.parent)),
            authority=authority_digest(self.profile.authority),
            scientist=self.profile.person,
            expires=self._expires,
            covers=covers,
        )
        return sign_mandate(mandate, read_signing_key(self.key))

    @property
    def _expires(self) -> datetime:
        return datetime.now(UTC).replace(microsecond=0) + timedelta(days=self.days)


def active_signer(days: int) -> Signer | None:
    """The owner of the active profile; None where it is of a time before there were keys."""
    profiles = Profiles(read_settings())
    key = profiles.signing_key()
    return None if key is None else Signer(profile=profiles.read(), key=key, days=days)


def public_key(key: bytes) -> str:
    """The public key of a key, as one line.

    Raises:
        InputError: it is none.
    """
    return public_key_of(read_signing_key(key))
