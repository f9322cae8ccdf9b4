"""Invitations, and the requests of those who were invited.

A token is its first key's: whoever comes with another key is refused, and remembered for the operator. The
same key may ask again, as a site does that was stopped while it waited. Each method is one transaction, so
that of two keys at the same moment one is first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from datetime import datetime
from hmac import compare_digest
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Table, select, update

from server.state import tables
from server.state.database import Database
from server.state.records import Enrolment, EnrolmentState, Invitation

__all__ = ["Enrolments"]

_Record = TypeVar("_Record", Invitation, Enrolment)
_ANEW = ("card", "stated_rows", "signing_request")
"""What a site that waits may say otherwise when it asks again."""


class Enrolments:
    """The part of the state database that says who may become a site. Safe over threads and processes.

    Every method raises `StorageError` when the database is away, full or locked.

    Args:
        database: of the server.
        federation: to which sites are invited.
    """

    def __init__(self, database: Database, federation: str) -> None:
        self._database, self._federation = database, federation

    def invite(self, name: str, *, secret: str, now: datetime, expires: datetime) -> None:
        """Invite a site, in the place of what was known of one of that name: an open invitation, a request.

        Args:
            name: the site's.
            secret: SHA-256 of the token's.
            now: the moment.
            expires: until when a first key may use it.
        """
        values = {"secret": secret, "made": now, "expires": expires, "used": None}
        with self._database.write() as connection:
            connection.execute(tables.enrolments.delete().where(self._of(tables.enrolments, name)))
            same = self._of(tables.invitations, name)
            if not connection.execute(update(tables.invitations).where(same).values(values)).rowcount:
                named = {"federation": self._federation, "name": name}
                connection.execute(tables.invitations.insert().values({**named, **values}))

    def invitations(self) -> tuple[Invitation, ...]:
        """All of them, used ones too."""
        with self._database.read() as connection:
            return self._all(connection, tables.invitations, Invitation)

    def all(self, *states: EnrolmentState) -> tuple[Enrolment, ...]:
        """The requests in one of these states, or all, the oldest first."""
        with self._database.read() as connection:
            found = self._all(connection, tables.enrolments, Enrolment)
        return tuple(one for one in found if not states or one.state in states)

    def get(self, name: str) -> Enrolment | None:
        """What the site of this name asked for, if any did."""
        return next((one for one in self.all() if one.name == name), None)

    def join(self, asked: Enrolment, *, secret: str, now: datetime) -> Enrolment | None:
        """Enter a request, or find the one of before; None where the secret lets this key ask for nothing.

        Args:
            asked: of the name that the invitation has: the caller has seen to it (`invited`).
            secret: SHA-256 of the token's.
            now: the moment.
        """
        table = tables.enrolments
        with self._database.write() as connection:
            invitation = _invited(self._all(connection, tables.invitations, Invitation, lock=True), secret)
            if invitation is None or invitation.name != asked.name:
                return None
            known = self._all(connection, table, Enrolment, self._of(table, asked.name))
            if not known:
                if invitation.expires <= now or invitation.used is not None:
                    return None
                connection.execute(table.insert().values(vars(asked)))
                used = update(tables.invitations).where(self._of(tables.invitations, asked.name))
                connection.execute(used.values(used=now))
            elif known[0].fingerprint != asked.fingerprint:
                rival = update(table).where(self._of(table, asked.name)).values(rival=asked.fingerprint)
                connection.execute(rival)
                return None
            elif known[0].state == "requested":
                anew = {name: getattr(asked, name) for name in _ANEW}
                connection.execute(update(table).where(self._of(table, asked.name)).values(anew))
            return self._all(connection, table, Enrolment, self._of(table, asked.name))[0]

    def invited(self, secret: str) -> Invitation | None:
        """The invitation with this secret, used or not, over or not.

        Args:
            secret: SHA-256 of the token's.
        """
        return _invited(self.invitations(), secret)

    def confirm(self, asked: Enrolment, certificate: str, *, now: datetime) -> bool:
        """Answer a request with a certificate; false if it is no longer that key's, or was answered.

        What is kept is what was asked when the operator answered, whatever the site has said meanwhile.
        """
        values = {"state": "confirmed", "certificate": certificate, "answered": now}
        values |= {name: getattr(asked, name) for name in _ANEW}
        return self._change(asked, "requested", values)

    def refuse(self, asked: Enrolment, *, now: datetime) -> bool:
        """Answer a request with a no; false if it was answered."""
        return self._change(asked, "requested", {"state": "refused", "answered": now})

    def revoke(self, name: str, *, now: datetime) -> bool:
        """Renew no certificate of this site any more; false if it has none."""
        table = tables.enrolments
        with self._database.write() as connection:
            mine = self._of(table, name) & (table.c.state == "confirmed")
            values = {"state": "revoked", "answered": now, "renewal_asked": None}
            return bool(connection.execute(update(table).where(mine).values(values)).rowcount)

    def ask_renewal(self, asked: Enrolment, *, now: datetime) -> bool:
        """Have the certificate of a confirmed site renewed; false if it may not come in any more."""
        return self._change(asked, "confirmed", {"renewal_asked": now})

    def renew(self, asked: Enrolment, certificate: str) -> bool:
        """Keep the newer certificate of a site; false if it may not come in any more."""
        return self._change(asked, "confirmed", {"certificate": certificate, "renewal_asked": None})

    def _change(self, asked: Enrolment, state: EnrolmentState, values: dict[str, Any]) -> bool:
        table = tables.enrolments
        mine = self._of(table, asked.name) & (table.c.state == state)
        mine &= table.c.fingerprint == asked.fingerprint
        with self._database.write() as connection:
            return bool(connection.execute(update(table).where(mine).values(values)).rowcount)

    def _of(self, table: Table, name: str) -> ColumnElement[bool]:
        return (table.c.federation == self._federation) & (table.c.name == name)

    def _all(
        self,
        connection: Connection,
        table: Table,
        kind: type[_Record],
        which: ColumnElement[bool] | None = None,
        *,
        lock: bool = False,
    ) -> tuple[_Record, ...]:
        wanted = select(*(table.c[field.name] for field in fields(kind))).order_by(table.c.id)
        wanted = wanted.where(table.c.federation == self._federation if which is None else which)
        rows = connection.execute(wanted.with_for_update() if lock else wanted)
        return tuple(kind(**row._mapping) for row in rows)


def _invited(invitations: Iterable[Invitation], secret: str) -> Invitation | None:
    """All are compared, each in constant time: how long that takes says nothing of any."""
    same = [one for one in invitations if compare_digest(one.secret, secret)]
    return same[0] if same else None
