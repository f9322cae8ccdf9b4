"""What was registered of each model version: its passport, and the hashes of its files.

MLflow shows them to people, but whoever reaches its database or its folder can change what it shows. What is
kept here is what holds: lines are only added, triggers in the database refuse anything else, and each reading
by our programs is held against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from sqlalchemy import select

from contract.model_version import PASSPORT_DATA, PASSPORT_FILE, sha256
from server.state import tables
from server.state.database import Database

__all__ = ["RegisteredVersions"]


class RegisteredVersions:
    """The record in a state database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_files(self, model: str, version: int, hashes: Mapping[str, str]) -> None:
        """Add the SHA-256 of a version's files by name; of a file that is known, the first one holds."""
        known = self.hashes(model, version)
        self._add(
            model, version, {name: (value, None) for name, value in hashes.items() if name not in known}
        )

    def add_passport(self, model: str, version: int, text: str, data: str = "") -> None:
        """Add a passport; the last one of a version holds. One that is there already is not added again.

        Args:
            model: the version's.
            version: it.
            text: as Markdown, for people.
            data: as JSON, for programs.
        """
        given = {name: said for name, said in ((PASSPORT_FILE, text), (PASSPORT_DATA, data)) if said}
        if self.passports(model, version) != given:
            self._add(model, version, {name: (sha256(said.encode()), said) for name, said in given.items()})

    def hashes(self, model: str, version: int) -> dict[str, str]:
        """The SHA-256 of a version's files by name; none of a version that an earlier Tidegate registered."""
        table = tables.version_files
        wanted = select(table.c.name, table.c.sha256).filter_by(model=model, version=version)
        with self._database.read() as connection:
            rows = connection.execute(wanted.where(table.c.text.is_(None)).order_by(table.c.id.desc())).all()
        return {row.name: row.sha256 for row in rows}

    def passport(self, model: str, version: int) -> str | None:
        """A version's passport as Markdown; None of a version that an earlier Tidegate registered."""
        return self.passports(model, version).get(PASSPORT_FILE)

    def passports(self, model: str, version: int) -> dict[str, str]:
        """A version's passport in each of its forms, by the file's name."""
        table = tables.version_files
        wanted = select(table.c.name, table.c.text).filter_by(model=model, version=version)
        with self._database.read() as connection:
            rows = connection.execute(wanted.where(table.c.text.is_not(None)).order_by(table.c.id)).all()
        return {row.name: row.text for row in rows}

    def _add(self, model: str, version: int, files: Mapping[str, tuple[str, str | None]]) -> None:
        if not files:
            return
        rows = [
            {"model": model, "version": version, "name": name, "sha256": digest, "text": text}
            for name, (digest, text) in files.items()
        ]
        with self._database.write() as connection:
            connection.execute(
                tables.version_files.insert(), [{**row, "saved": datetime.now(UTC)} for row in rows]
            )
