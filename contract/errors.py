"""Every error that Tidegate raises on purpose.

    TidegateError                exit code 1: it failed, and says why
    ├── InputError               exit code 2: what was given is wrong, and where
    │   ├── ExperimentError      an experiment file or a key in it
    │   ├── SiteConfigError      a site.toml or a key in it
    │   ├── DataError            a data set, a column or a value in it
    │   ├── MessageError         a message that is not understood, or out of bounds
    │   ├── CardError            an experiment that the site's card does not offer
    │   ├── PolicyError          the site's policy does not allow it
    │   ├── ApprovalError        the site's administrator has not approved it yet
    │   ├── BudgetError          the privacy budget does not allow it
    │   ├── NotInstalledError    a model package that is not here, or another one
    │   ├── ModelError           a package's model that cannot be trained privately
    │   │   ├── MixesRowsError   a row's numbers depend on the rows beside it
    │   │   ├── KeepsStateError  or on what was asked before
    │   │   ├── NotFiniteError   or are none
    │   │   └── WrongShapesError or not those that the package says
    │   └── AddressError         a server that cannot be reached, a port in use
    ├── AuditError               an audit could not be carried out
    ├── LedgerError              the ledger cannot be read, written or trusted
    ├── ReleaseError             a reply that the gate may not make
    ├── SilentError              a message that gets no answer
    ├── RoundError               a round that did not reach its quorum
    │   └── UnansweredError      what was asked may have been done: no answer came
    ├── RegistryError            the model registry refused or is away
    └── StorageError             the state database refused or is away
        └── TakenOverError       another process has taken over the run

An error holds what is wrong, where, and what to do. `what`, `where` and
`remedy` are for the person at the machine on which it was raised, and may name
a file or a column. What crosses the site boundary is `code` alone: one word
from a closed list, so that no message to the other side can carry a value. Which
word it is follows from the message, the card, the policy, the ledger and whether
the source is there, all before a row is read; afterwards it is `failed`.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AddressError",
    "ApprovalError",
    "AuditError",
    "BudgetError",
    "CardError",
    "ChangedError",
    "DataError",
    "ExperimentError",
    "InputError",
    "KeepsStateError",
    "LedgerError",
    "MessageError",
    "MixesRowsError",
    "ModelError",
    "NotFiniteError",
    "NotInstalledError",
    "PolicyError",
    "RefusalCode",
    "RegistryError",
    "ReleaseError",
    "RoundError",
    "SilentError",
    "SiteConfigError",
    "StorageError",
    "TakenOverError",
    "TidegateError",
    "UnansweredError",
    "WrongShapesError",
]


class RefusalCode:
    """The closed list of words with which a site may refuse an instruction."""

    INPUT = "input"
    CARD = "card"
    POLICY = "policy"
    APPROVAL = "approval"
    BUDGET = "budget"
    LEDGER = "ledger"
    SOURCE = "source"
    FAILED = "failed"
    NOT_INSTALLED = "not-installed"
    MIXES_ROWS = "mixes-rows"
    KEEPS_STATE = "keeps-state"
    NOT_FINITE = "not-finite"
    WRONG_SHAPES = "wrong-shapes"

    ALL: ClassVar[frozenset[str]] = frozenset(
        {INPUT, CARD, POLICY, APPROVAL, BUDGET, LEDGER, SOURCE, FAILED, NOT_INSTALLED}
        | {MIXES_ROWS, KEEPS_STATE, NOT_FINITE, WRONG_SHAPES}
    )


class TidegateError(Exception):
    """The root: one clear sentence, the place, and the remedy.

    Args:
        what: what is wrong, in one sentence without its final stop.
        where: the file, key, column, site or address; empty if there is none.
        remedy: what to do about it; empty if nothing can be done.
    """

    exit_code: ClassVar[int] = 1
    code: ClassVar[str] = RefusalCode.FAILED

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        remedy = f" {self.remedy.rstrip('.')}." if self.remedy else ""
        return f"{place}{self.what.rstrip('.')}.{remedy}"


class InputError(TidegateError):
    """What the user gave is wrong."""

    exit_code = 2
    code = RefusalCode.INPUT


class ExperimentError(InputError):
    """An experiment file, or a key in it, is wrong."""


class SiteConfigError(InputError):
    """A site.toml, or a key in it, is wrong."""


class DataError(InputError):
    """A data set, a column or a value in it is wrong."""

    code = RefusalCode.SOURCE


class MessageError(InputError):
    """A message is not understood, or holds what is out of bounds."""


class CardError(InputError):
    """An experiment asks for what the site's card does not offer."""

    code = RefusalCode.CARD


class PolicyError(InputError):
    """The site's policy does not allow what was asked."""

    code = RefusalCode.POLICY


class ApprovalError(InputError):
    """The site's administrator has not approved what was asked, and is asked."""

    code = RefusalCode.APPROVAL


class BudgetError(InputError):
    """The privacy budget does not allow what was asked."""

    code = RefusalCode.BUDGET


class NotInstalledError(InputError):
    """A model package is not installed here, or another one than the experiment names."""

    code = RefusalCode.NOT_INSTALLED


class ModelError(InputError):
    """A module cannot be trained privately: found on public random numbers, before anything is charged."""


class MixesRowsError(ModelError):
    """What a module gives for a row depends on the rows beside it."""

    code = RefusalCode.MIXES_ROWS


class KeepsStateError(ModelError):
    """What a module gives depends on what it was called with before, or on random numbers."""

    code = RefusalCode.KEEPS_STATE


class NotFiniteError(ModelError):
    """A module gives NaN or an infinity for a public random row."""

    code = RefusalCode.NOT_FINITE


class WrongShapesError(ModelError):
    """A module has other parameters or outputs than its package says, or fails."""

    code = RefusalCode.WRONG_SHAPES


class AddressError(InputError):
    """A server cannot be reached, or a port is in use."""


class AuditError(TidegateError):
    """An audit could not be carried out; it says nothing about the guarantee."""


class LedgerError(TidegateError):
    """The ledger cannot be read, written or trusted; nothing was released."""

    code = RefusalCode.LEDGER


class ReleaseError(TidegateError):
    """A reply that may not be made, or that cannot be taken."""


class SilentError(TidegateError):
    """A message gets no answer: the site has refused too many."""


class RoundError(TidegateError):
    """A round did not reach its quorum."""


class UnansweredError(RoundError):
    """No answer came in time: what was asked may have been done all the same."""


class RegistryError(TidegateError):
    """The model registry refused or could not be reached."""


class ChangedError(RegistryError):
    """What the model registry shows is not what was registered: somebody has changed it."""


class StorageError(TidegateError):
    """The state database refused or could not be reached."""


class TakenOverError(StorageError):
    """Another process has taken over the run and goes on with it."""
