"""Who may speak to the server: people, their roles, and what their tokens hash to.

A token is 256 random bits, so its plain SHA-256 tells nobody what it is, and looking the hash up in an index
tells nobody how much of a guess was right. The token itself is kept nowhere.
"""

from __future__ import annotations

import hashlib
import secrets
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection, select, update

from contract.errors import InputError
from contract.names import PersonName
from contract.roles import Role
from server.state import tables
from server.state.database import Database

__all__ = ["RESERVED", "People", "Person", "likeness", "require_good"]

_BYTES = 32
_LONGEST_TOKEN = 200
RESERVED = ("policy", "review", "server")
"""Who decides in nobody's name (`server.cycle`, `server.jobs.review`): no person may be taken for one."""


@dataclass(frozen=True, kw_only=True)
class Person:
    """A person with a token.

    Attributes:
        name: unique; runs belong to it.
        role: what they may do.
        made: when the token was.
        expires: when it ends; None for never.
        revoked: when it was taken back; None if it was not.
        signing_key: the public key that they sign with, as they said with their token; None before they did.
            Sites do not go by it (`clients.mandates`).
    """

    name: str
    role: Role
    made: datetime
    expires: datetime | None
    revoked: datetime | None
    signing_key: str | None = None

    def may_enter(self, now: datetime) -> bool:
        """Whether the token is good at that moment."""
        return self.revoked is None and (self.expires is None or now < self.expires)


class People:
    """The part of the state database that says who may speak to the server.

    Every method raises `StorageError` when the database is away, full or locked.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, name: str, role: Role, *, expires: datetime | None = None) -> str:
        """Let a person in; give the token, which nobody can look up later.

        A name whose token was revoked or has expired gets a new one, and what belonged to it belongs to it
        again.

        Raises:
            InputError: the name cannot be one, or is taken for another's, or its token is still good.
        """
        try:
            TypeAdapter(PersonName).validate_python(name)
        except ValidationError as exc:
            raise InputError(
                "this cannot be a person's name",
                where="NAME",
                remedy="Give 1 to 100 characters that can be printed, no blank first or last",
            ) from exc
        token, now, table = secrets.token_urlsafe(_BYTES), datetime.now(UTC), tables.people
        values = {"role": role, "token_sha256": _hash(token), "made": now, "expires": expires}
        with self._database.write() as connection:
            wanted = select(*_COLUMNS).where(table.c.name == name).with_for_update()
            known = connection.execute(wanted).one_or_none()
            if known is None:
                _require_unlike(name, connection.execute(select(table.c.name)).scalars().all())
                connection.execute(table.insert().values(name=name, revoked=None, **values))
                return token
            if Person(**known._mapping).may_enter(now):
                raise InputError(
                    f"'{name}' has a token that is good",
                    where="NAME",
                    remedy=f"For a new one: tidegate server person revoke '{name}', and add them again",
                )
            connection.execute(
                update(table).where(table.c.name == name).values(revoked=None, signing_key=None, **values)
            )
        return token

    def all(self) -> tuple[Person, ...]:
        """Everybody who ever had a token, in the order of their adding."""
        with self._database.read() as connection:
            found = connection.execute(select(*_COLUMNS).order_by(tables.people.c.id))
            return tuple(Person(**row._mapping) for row in found)

    def revoke(self, name: str) -> None:
        """Take a person's token back, from the next request on.

        Raises:
            InputError: nobody of that name has one.
        """
        table, revoked = tables.people, {"revoked": datetime.now(UTC)}
        with self._database.write() as connection:
            here = (table.c.name == name) & table.c.revoked.is_(None)
            if connection.execute(update(table).where(here).values(revoked)).rowcount:
                return
        known = [person.name for person in self.all() if person.revoked is None]
        raise InputError(
            f"nobody named '{name}' has a token",
            where="NAME",
            remedy=f"There are: {', '.join(known[:20])}" if known else "Nobody has one",
        )

    def keep_signing_key(self, person: Person, key: str) -> None:
        """Keep the public key of what a person signs, in the place of an earlier one."""
        table = tables.people
        same = (table.c.name == person.name) & (table.c.made == person.made)  # not of a token made since
        with self._database.write() as connection:
            connection.execute(update(table).where(same).values(signing_key=key))

    def with_token(self, token: str) -> Person | None:
        """Who shows this token, if it is good now."""
        if len(token) > _LONGEST_TOKEN:
            return None
        wanted: Any = select(*_COLUMNS).where(tables.people.c.token_sha256 == _hash(token))
        with self._database.read() as connection:
            found = connection.execute(wanted).one_or_none()
        person = None if found is None else Person(**found._mapping)
        return person if person is not None and person.may_enter(datetime.now(UTC)) else None

    def is_good(self, person: Person) -> bool:
        """Whether the token of somebody who was let in before is still that person's, and good."""
        now = self.named(person.name)
        return now is not None and now.made == person.made and now.may_enter(datetime.now(UTC))

    def named(self, name: str) -> Person | None:
        """Whoever has this name, whether their token is good or not."""
        with self._database.read() as connection:
            return _person_named(connection, name)


def _person_named(connection: Connection, name: str) -> Person | None:
    found = connection.execute(select(*_COLUMNS).where(tables.people.c.name == name)).one_or_none()
    return None if found is None else Person(**found._mapping)


def require_good(connection: Connection, person: str, *, whose: str) -> None:
    """Refuse what would be done for somebody whose token was revoked or is over, perhaps just now.

    Args:
        connection: of the transaction in which it would be done.
        person: their name.
        whose: what they are to it, such as "whose run it is".

    Raises:
        InputError: they have no good token any more.
    """
    known = _person_named(connection, person)
    if known is None or known.may_enter(datetime.now(UTC)):
        return
    raise InputError(
        f"the token of '{person}', {whose}, {'is over' if known.revoked is None else 'was revoked'}",
        remedy="An operator lets them in again: tidegate server person add",
    )


def _require_unlike(name: str, names: Sequence[str]) -> None:
    """Refuse a name that a reader of runs and decisions takes for another.

    Raises:
        InputError: it differs in capitals, blanks or the way in which a letter is made alone.
    """
    alike = likeness(name)
    other = next((one for one in (*RESERVED, *names) if likeness(one) == alike), None)
    if other is not None:
        whose = "who decides by itself" if other in RESERVED else "a person's"
        raise InputError(
            f"'{name}' is taken for '{other}', which is {whose}",
            where="NAME",
            remedy="Give a name that nobody mistakes",
        )


def likeness(name: str) -> str:
    """What is equal of names that look alike (Unicode NFKC, without regard to case)."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


_COLUMNS = tuple(tables.people.c[name] for name in Person.__dataclass_fields__)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
