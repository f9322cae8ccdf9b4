"""What waits for the administrator's approval: the site's record of requests, and what was approved before.

A file a request, written aside and moved into place, in a folder of this user's own. What a server says of
itself stands in it, so it is bounded: `MOST_REQUESTS` files of `LARGEST_REQUEST` bytes. Where the record is
full, further requests are refused as before and not entered; one that nobody has asked for a month makes
room. Nothing here decides anything: that an experiment waits follows from the policy and the ledger.

The plans of approved experiments are kept too, so that a later one can be told from them. So is which
requests the administrator was shown: what a server adds after that is not approved with them. What a program
has read (`--json`), such as one that watches the site, the administrator has not seen.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clients.mandates import Found
from contract.errors import PolicyError, StorageError
from contract.experiment import Experiment
from contract.messages import Instruction
from contract.names import Digest
from contract.whole_file import replace_file

__all__ = ["LARGEST_REQUEST", "MOST_REQUESTS", "Looker", "Request", "Requests", "Signature"]

MOST_REQUESTS = 50
LARGEST_REQUEST = 2**20
_FORGOTTEN = timedelta(days=30)
_MOST_TRIGGER = 300

Looker = Literal["person", "program"]
"""Who looks, and decides by what they have seen."""
_log = logging.getLogger("tidegate.site")


class Signature(BaseModel):
    """Who has signed what was asked, as it came last: see `clients.mandates.Found`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: Annotated[str, Field(max_length=200)]
    name: Annotated[str, Field(max_length=100)]
    expires: datetime | None
    covers: Annotated[str, Field(max_length=300)] = ""
    fault: Annotated[str, Field(max_length=500)]

    @classmethod
    def of(cls, found: Found) -> Signature:
        """What is kept of it."""
        return cls(
            key=found.key,
            name=found.name,
            expires=found.expires,
            covers=found.covers,
            fault=found.fault[:500],
        )


class Request(BaseModel):
    """What was asked for and waits.

    Attributes:
        plan: the experiment.
        code: the hash of the code that was installed when it was asked.
        kind: the message type.
        asked: the instruction as it came last.
        trigger: who or what started it, in the server's own words.
        first, last: when it was asked.
        times: how often.
        signature: of a scientist; None in a record of an earlier version.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    plan: Experiment
    code: Digest
    kind: Annotated[str, Field(max_length=40)]
    asked: Instruction
    trigger: Annotated[str, Field(max_length=_MOST_TRIGGER)]
    first: datetime
    last: datetime
    times: Annotated[int, Field(ge=1)]
    signature: Signature | None = None

    @property
    def key(self) -> str:
        """Names what is to be approved: not the run, not the step, not how often."""
        kind = "run" if self.kind.startswith(("train", "evaluate")) else self.kind
        asked = self.asked
        windows = (sorted(asked.windows), sorted(asked.reference_windows), sorted(asked.features))
        named = repr((self.plan.digest, self.code, kind, windows, asked.epsilon))
        return hashlib.sha256(named.encode()).hexdigest()[:32]


class Requests:
    """The record of one site.

    Args:
        folder: made when something is entered.
    """

    def __init__(self, folder: Path) -> None:
        self._waiting, self._approved = folder / "waiting", folder / "approved"
        self._looks = {"person": folder / "shown", "program": folder / "read"}

    def enter(self, request: Request) -> bool:
        """Enter a request, or that it was asked once more; whether there was room for it.

        Raises:
            PolicyError: it is too large to be entered, whatever the record holds.
            StorageError: the record cannot be written.
        """
        if len(request.model_dump_json().encode()) > LARGEST_REQUEST - 100:
            raise PolicyError(
                f"the experiment is too large to be entered among the requests ({LARGEST_REQUEST:,} bytes)",
                where=str(self._waiting),
                remedy="Have it made smaller; or allow its digest in the policy",
            )
        path = self._waiting / f"{request.key}.json"
        known = self._read(path)
        if known is not None:
            request = request.model_copy(update={"first": known.first, "times": known.times + 1})
        elif not self._has_room(request.last):
            return False
        self._write(path, request.model_dump_json())
        return True

    def all(self) -> tuple[Request, ...]:
        """What waits, oldest first. A file that is no request is left out, and said in the log."""
        found = (self._read(path) for path in self._files())
        return tuple(sorted(filter(None, found), key=lambda request: (request.first, request.key)))

    def of(self, digest: str) -> tuple[Request, ...]:
        """What waits of one experiment."""
        return tuple(request for request in self.all() if request.plan.digest == digest)

    def note_shown(self, requests: Sequence[Request], *, to: Looker) -> None:
        """Note that these were shown, and no others.

        Raises:
            StorageError: the record cannot be written.
        """
        keys, marks = {request.key for request in requests}, self._looks[to]
        for mark in marks.glob("*"):
            if mark.name not in keys:
                self._unlink(mark)
        for key in keys:
            self._write(marks / key, "")

    def to_decide(self, digest: str, *, by: Looker) -> tuple[Request, ...]:
        """What waits of one experiment and was shown to whoever decides."""
        return tuple(one for one in self.of(digest) if (self._looks[by] / one.key).exists())

    def remove(self, decided: Sequence[Request]) -> None:
        """These were decided.

        Raises:
            StorageError: the record cannot be written.
        """
        for request in decided:
            self._unlink(self._waiting / f"{request.key}.json")
            for marks in self._looks.values():
                self._unlink(marks / request.key)

    def keep_approved(self, plan: Experiment) -> None:
        """Keep the plan of an experiment that was approved.

        Raises:
            StorageError: the record cannot be written.
        """
        self._write(self._approved / f"{plan.digest}.json", plan.model_dump_json())

    def approved(self, digest: str) -> Experiment | None:
        """The plan of an experiment that was approved; None where it is not there, or another."""
        try:
            plan = Experiment.model_validate_json((self._approved / f"{digest}.json").read_bytes())
        except (OSError, ValidationError):
            return None
        return plan if plan.digest == digest else None

    def _has_room(self, now: datetime) -> bool:
        files = self._files()
        if len(files) < MOST_REQUESTS:
            return True
        old = [path for path in files if (known := self._read(path)) is None or now - known.last > _FORGOTTEN]
        for path in old:
            self._unlink(path)
        return len(files) - len(old) < MOST_REQUESTS

    def _files(self) -> list[Path]:
        return sorted(self._waiting.glob("*.json"))

    def _read(self, path: Path) -> Request | None:
        try:
            with path.open("rb") as file:
                found = Request.model_validate_json(file.read(LARGEST_REQUEST + 1))
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as exc:
            _log.warning("%s is no request (%s)", path, type(exc).__name__)
            return None
        return found if found.key == path.stem else None

    def _unlink(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as exc:
            raise _unwritable(path, exc) from exc

    def _write(self, path: Path, text: str) -> None:
        """Whoever reads sees the one or the other."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            for left in path.parent.glob(".*.json.*"):  # of a process that was killed
                left.unlink(missing_ok=True)
            replace_file(path, text.encode())
        except OSError as exc:
            raise _unwritable(path, exc) from exc


def _unwritable(path: Path, exc: OSError) -> StorageError:
    return StorageError(
        f"the record of requests cannot be written: {exc.strerror}",
        where=str(path),
        remedy="Make the site's storage.folder writable for this user, on a disk with room",
    )
