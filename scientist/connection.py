"""A connection to a federation's server: TLS by the federation's own authority, a token, bounded answers.

No other authority is trusted than that of the profile, and no redirect is followed, so the token reaches
nobody else.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ValidationError

from contract.errors import AddressError, InputError, TidegateError
from contract.federation_api import (
    MOST_ITEMS,
    NO_SUCH_PATH,
    Cards,
    Decisions,
    Problem,
    Schedules,
    Sites,
    Verdicts,
    Versions,
    WindowChecks,
)
from contract.outside import shown
from contract.transport import (
    PLAIN,
    AnswerError,
    body_of,
    holds_certificate,
    lines_of,
    named_proxy,
    proxy_for,
)

__all__ = ["Connection", "ask_authority", "only_certificate", "require_url"]

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


class _NoCertificateError(ValueError):
    pass


Answer = TypeVar("Answer", bound=BaseModel)

Page = TypeVar("Page", Cards, Decisions, Schedules, Sites, Verdicts, Versions, WindowChecks)

_MOST_ANSWER, _MOST_ANSWERS = 64 * 2**20, 256 * 2**20
"""Bytes of one answer, and of all that a command reads: a list has many pages."""
_MOST_PAGES = 100
_MOST_AUTHORITY = 2**16
_LONGEST_LINE = 16 * 2**20
"""Bytes of a line of a stream of events."""
_SECONDS = httpx.Timeout(60.0, connect=20.0)
_QUIET_SECONDS = 60.0
"""That a stream of events may say nothing: the server says every ten seconds that it lives."""


class Connection:
    """Asks a server, as the person whose token it is.

    Args:
        url: `https://host:port`.
        token: that person's.
        authority: signed the server's certificate, in PEM form.
    """

    def __init__(self, url: str, token: str, authority: str) -> None:
        self._url, self.authority = url, authority
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.minimum_version = ssl.TLSVersion.TLSv1_2
        tls.load_verify_locations(cadata=authority)
        headers = {"Authorization": f"Bearer {token}", "User-Agent": "tidegate", **PLAIN}
        self._client, self._left = _client(url, tls, headers), _MOST_ANSWERS

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def get(self, path: str, kind: type[Answer], **query: str | int | bool) -> Answer:
        """Ask for something.

        Raises:
            AddressError: the server cannot be reached, or is another.
            InputError: it refuses.
            TidegateError: it fails, or answers what is not understood.
        """
        return self._ask("GET", path, kind, params={k: v for k, v in query.items() if v != ""})

    def pages(self, path: str, kind: type[Page], *, limit: int = MOST_ITEMS, **query: str) -> Iterator[Page]:
        """The pages of a list, one after the other. Errors as with `get`."""
        for number in range(_MOST_PAGES):
            page = self.get(path, kind, limit=limit, skip=number * limit, **query)
            yield page
            if not page.more:
                return
        raise TidegateError(
            "the server's list has no end",
            where=self._url,
            remedy="Ask the operator whether a Tidegate server answers there",
        )

    def post(self, path: str, kind: type[Answer], content: BaseModel | None = None) -> Answer:
        """Have something done. Errors as with `get`."""
        if content is None:
            return self._ask("POST", path, kind)
        body = content.model_dump_json().encode()
        return self._ask("POST", path, kind, content=body, headers={"Content-Type": "application/json"})

    @contextmanager
    def stream(self, path: str, *, after: str) -> Iterator[Iterator[str]]:
        """The lines of a stream of events, from after that event on. Errors as with `get`.

        Raises:
            httpx.TransportError: while it is read: the line was cut.
        """
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": after} if after else {})}
        timeout = httpx.Timeout(_QUIET_SECONDS, connect=20.0)
        request = self._client.build_request("GET", path, headers=headers, timeout=timeout)
        with _explained(self._url):
            response = self._client.send(request, stream=True)
        try:
            if response.status_code != 200:
                with _explained(self._url):
                    content = body_of(response, _MOST_ANSWER)
                raise _refused(response.status_code, content, self._url)
            with _bounded(self._url):
                yield lines_of(response, _LONGEST_LINE)
        finally:
            response.close()

    def _ask(self, method: str, path: str, kind: type[Answer], **request: Any) -> Answer:
        with _explained(self._url), self._client.stream(method, path, **request) as response:
            content = body_of(response, min(_MOST_ANSWER, self._left))
        self._left -= len(content)
        if response.status_code not in (200, 202):
            raise _refused(response.status_code, content, self._url)
        try:
            return kind.model_validate_json(content)
        except ValidationError as exc:
            raise _not_understood(self._url) from exc


def require_url(text: str) -> str:
    """The address of a server, as `https://host:port`.

    Raises:
        InputError: it is none.
    """
    try:
        parts = urlsplit(text.strip())
        has_port = parts.port is not None
    except ValueError:
        parts, has_port = urlsplit(""), False
    is_bare = not (parts.username or parts.password or parts.query or parts.fragment)
    host = parts.hostname or ""
    printable = all(letter.isprintable() and not letter.isspace() for letter in host)
    if parts.scheme != "https" or not host or not is_bare or parts.path not in ("", "/") or not printable:
        raise InputError(
            f"'{shown(text, limit=100)}' is no address of a server",
            where="URL",
            remedy="Give it as the operator does: https://host:8443",
        )
    name = f"[{host}]" if ":" in host else host
    return f"https://{name}:{parts.port}" if has_port else f"https://{name}"


def ask_authority(url: str) -> str:
    """The authority that a server says is its own, in PEM form: who trusts it compares its fingerprint first.

    Raises:
        AddressError: the server cannot be reached, or says of no authority.
    """
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # who trusts what is said compares it
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    unverified = _client(url, anybody, PLAIN)
    with _explained(url), unverified as client, client.stream("GET", "/authority.pem") as response:
        content = body_of(response, _MOST_AUTHORITY)
    if response.status_code != 200 or not holds_certificate(content):
        raise AddressError(
            "no Tidegate server answers there", where=url, remedy="Check host and port with the operator"
        )
    return content.decode("ascii")


def _client(url: str, tls: ssl.SSLContext, headers: Mapping[str, str]) -> httpx.Client:
    proxy = proxy_for(url) or None
    return httpx.Client(
        base_url=url, verify=tls, headers=headers, timeout=_SECONDS, proxy=proxy, trust_env=False
    )


def only_certificate(authority: str) -> tuple[str, str]:
    """The first certificate of a text in PEM form, written anew and alone; and its SHA-256 in hexadecimal.

    A text may hold more than a person compares, under headings that TLS reads too: so what is compared is
    what is trusted, and nothing beside it.

    Raises:
        InputError: there is none.
    """
    _, begin, rest = authority.partition(_BEGIN)
    body, end, _ = rest.partition(_END)
    try:
        if not begin or not end:
            raise _NoCertificateError
        content = ssl.PEM_cert_to_DER_cert(f"{_BEGIN}{body}{_END}")
        if not _is_one_sequence(content):  # what follows would be in the hash, and not in what is trusted
            raise _NoCertificateError
        alone = ssl.DER_cert_to_PEM_cert(content)
        if not holds_certificate(alone.encode("ascii")):
            raise _NoCertificateError
    except ValueError as exc:
        raise InputError(
            "the authority holds no certificate",
            where="the server's authority",
            remedy="Ask the operator for the file, and give it with --authority",
        ) from exc
    return alone, hashlib.sha256(content).hexdigest()


def _is_one_sequence(content: bytes) -> bool:
    """Whether DER holds one sequence of 256 bytes or more, as a certificate is, and nothing after it."""
    return content[:2] == b"\x30\x82" and 4 + int.from_bytes(content[2:4], "big") == len(content)


@contextmanager
def _bounded(url: str) -> Iterator[None]:
    try:
        yield
    except AnswerError as exc:
        raise TidegateError(
            str(exc), where=url, remedy="Ask the operator whether a Tidegate server answers there"
        ) from exc


@contextmanager
def _explained(url: str) -> Iterator[None]:
    try:
        with _bounded(url):
            yield
    except httpx.ConnectError as exc:
        words = str(exc)
        if "certificate verify failed" in words.lower():
            raise AddressError(
                f"the server's certificate is not what it must be ({shown(words, limit=200)})",
                where=url,
                remedy="Somebody may stand between you and the server. Ask the operator whether the "
                "authority or the server's name has changed; then connect again",
            ) from exc
        raise _away(url, words) from exc
    except httpx.TransportError as exc:
        raise _away(url, str(exc) or type(exc).__name__) from exc
    except httpx.HTTPError as exc:
        raise _not_understood(url) from exc


def _away(url: str, words: str) -> AddressError:
    proxy = named_proxy(proxy_for(url))
    through = f" through the proxy {proxy}" if proxy else ""
    return AddressError(
        f"the server cannot be reached{through} ({shown(words, limit=200)})",
        where=url,
        remedy="Check HTTPS_PROXY, or name the host in NO_PROXY"
        if proxy
        else "See that the address is right and the server runs",
    )


def _refused(status: int, content: bytes, url: str) -> TidegateError:
    if status == 401:
        return InputError(
            "the server does not take your token: it is wrong, has ended or was revoked",
            where=url,
            remedy="Ask the operator for another, and connect again: tidegate connect URL",
        )
    try:
        problem = Problem.model_validate_json(content)
    except ValidationError:
        return _not_understood(url)
    if status == 404 and problem.what == NO_SUCH_PATH:
        return InputError(
            "the server does not know this question",
            where=url,
            remedy="It runs an older version of Tidegate: ask the operator to install yours",
        )
    kind: Mapping[bool, type[TidegateError]] = {True: InputError, False: TidegateError}
    return kind[status < 500](problem.what, where=problem.where or url, remedy=problem.remedy)


def _not_understood(url: str) -> TidegateError:
    return TidegateError(
        "the server's answer is not understood",
        where=url,
        remedy="Install the server's version of Tidegate; or something else listens there",
    )
