"""The versions that a service has on its disk: verified before they are loaded, and the last two kept.

    FOLDER/VERSION/…       the files of a version, with the federation's signed statement of them
    FOLDER/current.json    which version is in service, and by which decision

A version is verified before it is written, and comes in whole: into a folder of another name, then renamed.
An older decision than that of the version in service is refused: who has kept an old statement cannot bring
an old version back.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from contract.errors import InputError, StorageError
from contract.model_statement import (
    STATEMENT_FILE,
    ModelStatement,
    Service,
    require_stated,
    verify_statement,
)
from contract.model_version import (
    ARRAYS_FILE,
    EXPERIMENT_FILE,
    GRAPH_FILE,
    PASSPORT_DATA,
    PASSPORT_FILE,
    VARIANTS_FILE,
    sha256,
)
from contract.whole_file import replace_file

__all__ = ["ModelStore", "folder_files", "read_version"]

_CURRENT = "current.json"
_KEPT = 2
_MOST_BYTES = 2**31
_NEEDED = (ARRAYS_FILE, EXPERIMENT_FILE)
_KNOWN = (*_NEEDED, GRAPH_FILE, VARIANTS_FILE, PASSPORT_FILE, PASSPORT_DATA)


class _Current(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    version: int
    decision: int


def read_version(
    folder: Path, authority: bytes, *, model: str | None = None
) -> tuple[dict[str, bytes], ModelStatement]:
    """The files of a folder that `models fetch` or a store wrote, each as the federation has signed it.

    Args:
        folder: of one version.
        authority: the federation's certificate, in PEM form.
        model: whose version it is to be; any without.

    Raises:
        InputError: there is no statement, it does not hold, or a file is another.
    """
    where = str(folder)
    files, envelope = folder_files(folder)
    statement = verify_statement(envelope, authority, where=str(folder / STATEMENT_FILE))
    files = {name: content for name, content in files.items() if name in statement.files}
    _require_signed(files, statement, statement.model if model is None else model, where)
    return files, statement


def _require_signed(files: Mapping[str, bytes], statement: ModelStatement, model: str, where: str) -> None:
    lacking = [name for name in _NEEDED if name not in files]
    if lacking:
        raise InputError(f"{lacking[0]} is not there", where=where, remedy="Fetch the version again")
    hashes = {name: sha256(content) for name, content in files.items()}
    require_stated(hashes, statement, model=model, version=statement.version, where=where)


def folder_files(folder: Path) -> tuple[dict[str, bytes], object]:
    """The files of a version that lie in a folder, and the envelope beside them; nothing is verified.

    Raises:
        InputError: there is no envelope, or a file cannot be read.
    """
    envelope = _envelope(folder / STATEMENT_FILE)
    return {name: _content(folder / name) for name in _KNOWN if (folder / name).is_file()}, envelope


class ModelStore:
    """The versions of one model.

    Args:
        folder: of them; made when the first comes.
        model: its name.
        authority: the federation's certificate, in PEM form.
    """

    def __init__(self, folder: Path, model: str, authority: bytes) -> None:
        self.folder, self.model = folder, model
        self._authority = authority

    @property
    def decision(self) -> int:
        """The number of the decision by which the version in service is so; 0 before the first."""
        current = self._current()
        return 0 if current is None else current.decision

    def current(self) -> tuple[dict[str, bytes], ModelStatement] | None:
        """The version in service, verified again; None before the first.

        Raises:
            InputError: its files were changed since they came.
        """
        current = self._current()
        if current is None:
            return None
        return read_version(self.folder / str(current.version), self._authority, model=self.model)

    def require_newer(self, envelope: object) -> tuple[ModelStatement, Service]:
        """What is said of a version that is offered.

        Raises:
            InputError: it is not signed, not in service, another model's, or older than what is served.
        """
        where = f"a version of '{self.model}' that was offered"
        statement = verify_statement(envelope, self._authority, where=where)
        if statement.model != self.model:
            raise InputError(f"it is of '{statement.model}'", where=where)
        if statement.service is None:
            raise InputError(f"version {statement.version} is not in service", where=where)
        if statement.service.number < self.decision:
            raise InputError(
                f"version {statement.version} was put into service by decision {statement.service.number}, "
                f"and what is served by decision {self.decision}: it is older",
                where=where,
                remedy="Nothing was changed; where it was to be rolled back, the server decides it anew",
            )
        return statement, statement.service

    def verified(self, files: Mapping[str, bytes], statement: ModelStatement) -> dict[str, bytes]:
        """Those of the files that are signed.

        Raises:
            InputError: one is another than was signed, or one that is needed is not there.
        """
        where = f"version {statement.version} of '{self.model}' that was offered"
        found = {name: content for name, content in files.items() if name in statement.files}
        _require_signed(found, statement, self.model, where)
        return found

    def keep(self, files: Mapping[str, bytes], envelope: object, statement: ModelStatement) -> None:
        """Keep a version, and that it is served from now on.

        Args:
            files: as `verified` gave them.
            envelope: with what was said of them.
            statement: what was said.

        Raises:
            StorageError: the disk does not take it; what was there is served on.
        """
        place = self.folder / str(statement.version)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.folder, prefix=".coming-") as coming:
                whole = Path(coming) / "version"
                whole.mkdir()
                for name, content in files.items():
                    (whole / name).write_bytes(content)
                (whole / STATEMENT_FILE).write_text(json.dumps(envelope), encoding="utf-8")
                if place.exists():
                    place.rename(Path(coming) / "before")
                whole.rename(place)
        except OSError as exc:
            raise StorageError(
                f"a version cannot be kept ({exc.strerror})",
                where=str(self.folder),
                remedy="See that its disk has room and that this user may write there",
            ) from exc
        self._note(statement)

    def _note(self, statement: ModelStatement) -> None:
        """Say which version is in service, and forget all but the last two.

        Raises:
            StorageError: it cannot be written.
        """
        if statement.service is None:
            raise ValueError("a version that is not in service")
        before = self._current()
        now = _Current(version=statement.version, decision=statement.service.number)
        try:
            replace_file(self.folder / _CURRENT, now.model_dump_json().encode())
        except OSError as exc:
            raise StorageError(
                f"which version is served cannot be written ({exc.strerror})", where=str(self.folder)
            ) from exc
        kept = {now.version, *([] if before is None else [before.version])}
        there = sorted((one for one in self.folder.iterdir() if re.fullmatch(r"\d+", one.name)), key=_age)
        for old in there[:-_KEPT]:
            if int(old.name) not in kept:
                shutil.rmtree(old, ignore_errors=True)

    def _current(self) -> _Current | None:
        path = self.folder / _CURRENT
        if not path.is_file():
            return None
        try:
            return _Current.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as exc:
            raise InputError(
                "it does not say which version is in service",
                where=str(path),
                remedy="Remove the file: the version in service is fetched from the server again",
            ) from exc


def _age(path: Path) -> float:
    return path.stat().st_mtime


def _envelope(path: Path) -> object:
    try:
        return json.loads(_content(path))
    except (ValueError, RecursionError) as exc:
        raise InputError("it is no statement", where=str(path), remedy="Fetch the version again") from exc


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError("longer than 2 GiB", where=str(path))
        return path.read_bytes()
    except OSError as exc:
        raise InputError(
            f"cannot be read: {exc.strerror}",
            where=str(path),
            remedy="Name a folder that `tidegate models fetch` wrote; what nobody signed is not served",
        ) from exc
