"""What people sign for the sites, looked at before it is kept.

Sites look at a mandate themselves, and trust no server in it (`clients.mandates`). What they would refuse is
refused here first, and said in words.
"""

from __future__ import annotations

from contextlib import suppress

from contract.errors import InputError, RegistryError
from contract.experiment import Experiment
from contract.mandate import Mandate, Ranges, SignedMandate, mandate_for, read_mandate
from contract.names import is_run_of
from contract.standing import Standing
from contract.windows import condensed
from server.jobs.champion import champion_of
from server.state.people import Person
from server.state.records import ScheduleRecord
from server.state.storage import State

__all__ = ["require_signed_schedule", "signed_run"]


def signed_run(
    text: str,
    experiment: Experiment,
    person: Person,
    *,
    windows: tuple[str, ...],
    ranges: Ranges | None = None,
) -> str:
    """The name of the run in the mandate that came with it; empty where none came.

    Raises:
        InputError: it is for something else, or somebody else's.
    """
    if not text:
        return ""
    signed = read_mandate(text)
    title = experiment.name if ranges is None else f"{experiment.name}-ranges"
    _require(signed, experiment, person, title=title, windows=windows, covers=ranges)
    return signed.mandate.run


def require_signed_schedule(text: str, schedule: ScheduleRecord, person: Person, state: State) -> Mandate:
    """The standing mandate that came with a schedule.

    Raises:
        InputError: it is for something else, or somebody else's, or does not cover the model in service.
    """
    signed, experiment = read_mandate(text), schedule.plan
    standing = signed.mandate.standing
    if standing is None or standing.every != schedule.every:
        raise _something_else()
    _require(signed, experiment, person, title=experiment.name, covers=standing)
    _require_champion_covered(standing, experiment, state)
    return signed.mandate


def _require(
    signed: SignedMandate,
    experiment: Experiment,
    person: Person,
    *,
    title: str,
    covers: Standing | Ranges | None,
    windows: tuple[str, ...] = (),
) -> None:
    mandate = signed.mandate
    meant = mandate_for(
        experiment,
        run=mandate.run,
        windows=windows,
        code=mandate.code,
        authority=mandate.authority,
        scientist=person.name,
        expires=mandate.expires,
        covers=covers,
    )
    if mandate != meant or not is_run_of(title, mandate.run):
        raise _something_else()
    if signed.key != person.signing_key:
        raise InputError(
            f"the mandate is signed with {signed.fingerprint}, which is not the key that you registered",
            where="mandate",
            remedy="Connect again: tidegate connect URL",
        )


def _require_champion_covered(standing: Standing, experiment: Experiment, state: State) -> None:
    """Refuse a mandate under which sites would refuse every check of the model in service."""
    with suppress(RegistryError):  # there is none yet
        trained = champion_of(experiment.name, state).windows
        if trained == standing.reference or standing.may_compare(standing.last, trained, experiment):
            return
        said = ", ".join(condensed(trained)) or "all rows"
        raise InputError(
            f"the model in service was trained on {said}, and the mandate says another reference",
            where="mandate",
            remedy=f"Sign with --trained-on {' --trained-on '.join(condensed(trained))}"
            if trained
            else "Sign without --trained-on",
        )


def _something_else() -> InputError:
    return InputError("the mandate is for something else than what is submitted", where="mandate")
