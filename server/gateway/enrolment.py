"""What somebody may ask who wants to become a site, and what a site asks whose certificate grows old.

    POST /v1/enrolment/authority   anybody: the certificate of the federation's authority
    POST /v1/enrolment/join        whoever has a token: let this key in
    POST /v1/enrolment/collect     whoever has a token: is there an answer yet?
    POST /v1/enrolment/renew       a site, by its certificate: one with more time

Nothing is decided or signed here: requests are written into the state database, and the operator's own
processes answer them there (`server.enrolment`). A request is parsed whole before anything else is looked at.
A token that is wrong, over, or another key's has one answer, and no try takes longer for being nearer. Wrong
tries are counted over all strangers: past twenty a minute they are turned away before the database is asked.
Who has a token is not: an invitation that was read a moment ago is known here.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from hmac import compare_digest
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from contract.enrolment import (
    REVOKED,
    Authority,
    CollectRequest,
    Enrolled,
    JoinRequest,
    is_half_over,
    key_fingerprint,
)
from contract.errors import StorageError
from server.gateway.connections import PEER, Peer
from server.state.enrolments import Enrolments
from server.state.records import Enrolment

__all__ = ["TRIES", "enrolment_app", "openssh_of"]

TRIES = 20
"""Wrong ones in a minute, of all strangers together, for which the database is asked."""
_MINUTE = 60.0
_THREADS = 2
"""For all who ask here: they wait for the database in line, and not in the threads of those that train."""
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_WRONG = "no such invitation is open: ask the operator for a token (`tidegate server invite`)"
_NOT_RENEWED = "no certificate is renewed for this site and key: ask the operator"
_TOO_MANY = "too many wrong tries: wait a minute"
_log = logging.getLogger("tidegate.gateway")
_Asked = TypeVar("_Asked", bound=BaseModel)


class _RefusedError(Exception):
    """The request is answered so."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status, self.words = status, words


def enrolment_app(enrolments: Enrolments, authority: Path) -> ASGIApp:
    """Answers `/v1/enrolment/…`.

    Args:
        enrolments: where requests are written, and answers found.
        authority: the file with the federation's authority.
    """
    desk = _Desk(enrolments, authority)
    answers: dict[str, Callable[[bytes, Peer | None], Response]] = {
        "authority": desk.authority,
        "join": desk.join,
        "collect": desk.collect,
        "renew": desk.renew,
    }
    threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="enrolment")

    def route(name: str) -> Route:
        async def answer(request: Request) -> Response:
            content, peer = await request.body(), request.scope.get(PEER)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(threads, _answered, answers[name], content, peer)

        return Route(f"/v1/enrolment/{name}", answer, methods=["POST"])

    app = Starlette(
        routes=[route(name) for name in answers], exception_handlers={ClientDisconnect: _not_in_time}
    )
    app.router.redirect_slashes = False  # to wherever the request's Host says
    return app


def _answered(
    answer: Callable[[bytes, Peer | None], Response], content: bytes, peer: Peer | None
) -> Response:
    try:
        return answer(content, peer)
    except _RefusedError as exc:
        return PlainTextResponse(exc.words, exc.status)
    except StorageError as exc:
        _log.error("a request to become a site could not be entered: %s", exc)
        return PlainTextResponse("the server cannot enter it just now: try again", 503)


def _not_in_time(_request: Request, _error: Exception) -> Response:
    return PlainTextResponse("the request did not come in time", 408, {"connection": "close"})


class _Desk:
    """Answers one request after another.

    Args:
        enrolments: where requests are written, and answers found.
        authority: the file with the federation's authority.
    """

    def __init__(self, enrolments: Enrolments, authority: Path) -> None:
        self._enrolments, self._authority = enrolments, authority
        self._tries = _Tries()
        self._known: frozenset[str] = frozenset()

    def authority(self, content: bytes, peer: Peer | None) -> Response:
        """The certificate of the federation's authority."""
        del peer
        _parsed(content, _Nothing)
        certificate = x509.load_pem_x509_certificate(self._authority.read_bytes())
        said = Authority(authority=certificate.public_bytes(serialization.Encoding.PEM).decode())
        return JSONResponse(said.model_dump())

    def join(self, content: bytes, peer: Peer | None) -> Response:
        """Enter a request."""
        del peer
        asked = _parsed(content, JoinRequest)
        request = _signing_request(asked.signing_request)
        key, now = openssh_of(request), datetime.now(UTC)
        fingerprint = key_fingerprint(key)
        self._require_known(asked.digest)
        invitation = self._enrolments.invited(asked.digest)
        if invitation is None:
            raise self._wrong("a token that is none")
        if _name_in(request) != invitation.name:
            _log.warning("who was invited as '%s' asks for another name", invitation.name)
            raise _RefusedError(
                409,
                f"the invitation is for a site named '{invitation.name}': name it so in site.toml, or have "
                "the operator invite it under its own name",
            )
        wanted = Enrolment(
            federation=invitation.federation,
            name=invitation.name,
            fingerprint=fingerprint,
            public_key=key,
            signing_request=request.public_bytes(serialization.Encoding.PEM).decode(),
            card=None if asked.card is None else asked.card.model_dump(mode="json"),
            stated_rows=asked.stated_rows,
            asked=now,
        )
        entered = self._enrolments.join(wanted, secret=asked.digest, now=now)
        if entered is None:
            raise self._wrong(f"the token of '{invitation.name}', over or another key's, with {fingerprint}")
        _log.info("'%s' asks to be let in with %s, stating %d rows", *_facts(entered))
        return _enrolled(entered)

    def collect(self, content: bytes, peer: Peer | None) -> Response:
        """The answer to a request."""
        del peer
        asked = _parsed(content, CollectRequest)
        self._require_known(asked.digest)
        invitation = self._enrolments.invited(asked.digest)
        entered = None if invitation is None else self._enrolments.get(invitation.name)
        if entered is None:
            raise self._wrong("a token with which nobody asked for anything")
        return _enrolled(entered)

    def renew(self, content: bytes, peer: Peer | None) -> Response:
        """The newest certificate of the site that asks; where that grows old, a newer one is asked for.

        TLS has shown that it holds the key of the certificate: it is given one for that key and its own name.
        So a site that was revoked may be told so. Nobody else learns of it.
        """
        _parsed(content, _Nothing)
        if peer is None:
            raise _RefusedError(403, "a site shows its certificate")
        entered = self._enrolments.get(peer.site)
        if entered is not None and entered.state == "revoked" and _has_key(entered, peer):
            raise _RefusedError(403, REVOKED)
        if entered is None or entered.certificate is None or not _is_of(entered, peer):
            raise _RefusedError(403, _NOT_RENEWED)
        if entered.renewal_asked is None:
            newest = x509.load_pem_x509_certificate(entered.certificate.encode("ascii"))
            if not is_half_over(newest.not_valid_before_utc, newest.not_valid_after_utc):
                return _enrolled(entered)
            if not self._enrolments.ask_renewal(entered, now=datetime.now(UTC)):
                raise _RefusedError(403, _NOT_RENEWED)
        return JSONResponse(Enrolled(state="waiting").model_dump())

    def _require_known(self, digest: str) -> None:
        """Turn a stranger away for whom the database need not be asked.

        Who guesses costs no more than this; who was invited is never kept out by those that guess.
        """
        if self._knows(digest):
            return
        if self._tries.are_left() or self._tries.may_look():
            self._known = frozenset(one.secret for one in self._enrolments.invitations())
        if not self._knows(digest) and not self._tries.are_left():
            raise _RefusedError(429, _TOO_MANY)

    def _knows(self, digest: str) -> bool:
        """All are compared: how long that takes says nothing of any."""
        return sum(compare_digest(known, digest) for known in self._known) > 0

    def _wrong(self, what: str) -> _RefusedError:
        if not self._tries.count():
            return _RefusedError(429, _TOO_MANY)
        _log.warning("a stranger was refused, who came with %s", what)
        return _RefusedError(403, _WRONG)


class _Nothing(BaseModel):
    model_config = {"extra": "forbid", "frozen": True}


class _Tries:
    """The wrong ones of the last minute. Safe over threads."""

    def __init__(self) -> None:
        self._at: deque[float] = deque()
        self._looked = 0.0
        self._lock = threading.Lock()

    def are_left(self) -> bool:
        """Whether another may be made."""
        with self._lock:
            self._forget()
            return len(self._at) < TRIES

    def count(self) -> bool:
        """Count one; false if there were too many before."""
        with self._lock:
            self._forget()
            if len(self._at) >= TRIES:
                return False
            self._at.append(time.monotonic())
            return True

    def may_look(self) -> bool:
        """Whether invitations may be read in spite of all those tries: once a second."""
        with self._lock:
            if time.monotonic() - self._looked < 1.0:
                return False
            self._looked = time.monotonic()
            return True

    def _forget(self) -> None:
        while self._at and time.monotonic() - self._at[0] > _MINUTE:
            self._at.popleft()


def _parsed(content: bytes, kind: type[_Asked]) -> _Asked:
    try:
        return kind.model_validate_json(content or b"{}")
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:100]
        raise _RefusedError(400, f"not understood: {where or 'the request'}: {first['type']}") from exc


def _signing_request(text: str) -> x509.CertificateSigningRequest:
    """A request whose signature shows that who made it holds the key.

    Raises:
        _RefusedError: it is none, for another kind of key, or not signed with it.
    """
    try:
        request = x509.load_pem_x509_csr(text.encode("ascii"))
        key = request.public_key()
        _ = list(request.subject)
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as exc:
        raise _RefusedError(400, "not understood: signing_request: no such request") from exc
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, _CURVES):
        # before its signature is checked: of other kinds anybody makes one that takes a second
        raise _RefusedError(400, "not understood: signing_request: a key of another kind than a site has")
    try:
        holds = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise _RefusedError(400, "not understood: signing_request: no such request") from exc
    if not holds:
        raise _RefusedError(400, "not understood: signing_request: it is not signed with its own key")
    return request


def _name_in(request: x509.CertificateSigningRequest) -> str | None:
    """The one name that it is for; None if there are others, or something else is asked for with it."""
    names = list(request.subject)
    if len(names) != 1 or names[0].oid != x509.NameOID.COMMON_NAME or not isinstance(names[0].value, str):
        return None
    return names[0].value


def openssh_of(signed: x509.CertificateSigningRequest | x509.Certificate) -> str:
    """The public key of it, as one line in OpenSSH form."""
    return (
        signed.public_key()
        .public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        .decode()
    )


def _is_of(entered: Enrolment, peer: Peer) -> bool:
    """Whether a site may come in still, and shows the very key that was confirmed."""
    return entered.state == "confirmed" and _has_key(entered, peer)


def _has_key(entered: Enrolment, peer: Peer) -> bool:
    """Whether a site shows the very key that it asked with."""
    key = serialization.load_ssh_public_key(entered.public_key.encode())
    return isinstance(key, ec.EllipticCurvePublicKey) and public_key_to_bytes(key) == peer.key


def _facts(entered: Enrolment) -> tuple[str, str, int]:
    return entered.name, entered.fingerprint, entered.stated_rows


def _enrolled(entered: Enrolment) -> Response:
    if entered.state == "confirmed":
        answer = Enrolled(state="confirmed", certificate=entered.certificate)
    else:
        answer = Enrolled(state="waiting" if entered.state == "requested" else "refused")
    return JSONResponse(answer.model_dump())
