"""How requests travel, on both sides: httpx, which Flower speaks, over urllib3's connections.

httpx's own connections parse HTTP in Python, 16 KB of a TLS line at a time; urllib3's have the
interpreter's buffered reader for that. Redirects, time limits and errors stay httpx's.
"""

from __future__ import annotations

import functools
import ipaddress
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx
import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)

from contract.errors import TidegateError

__all__ = ["PooledTransport", "holds_certificate", "pooled", "proxy_for", "read_authority", "with_pool"]

_CONNECTIONS = 16
"""Kept open at most: Flower sends the parts of a message by ten threads."""


def holds_certificate(content: bytes) -> bool:
    """Whether a file's content is one or more certificates in PEM form, which TLS takes as authorities.

    >>> holds_certificate(b"patient,age")
    False
    """
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=content.decode("ascii"))
    except (ssl.SSLError, ValueError):  # ValueError: it is empty, or no ASCII
        return False
    return True


def read_authority(path: Path, *, error: type[TidegateError], remedy: str) -> bytes:
    """The authority that signed a server's certificate, in PEM form.

    Args:
        path: of the file.
        error: is raised, with the remedy, where it cannot be read or is something else.
        remedy: what to do then.
    """
    try:
        content = path.read_bytes()
    except OSError as exc:
        words = f"the server's certificate cannot be read: {exc.strerror}"
        raise error(words, where=str(path), remedy=remedy) from exc
    if not holds_certificate(content):
        raise error("not a certificate in PEM form", where=str(path), remedy=remedy)
    return content


@functools.cache
def with_pool(kind: type[Any]) -> type[Any]:
    """A kind of Flower's client whose connections are `pooled`.

    Args:
        kind: it holds its httpx client in `_client`.
    """

    class Pooled(kind):  # type: ignore[misc]
        _client: httpx.Client

        def __init__(self, base_url: str, **options: Any) -> None:
            super().__init__(base_url, **options)
            self._client = pooled(self._client, base_url, options["verify"])

    return Pooled


def pooled(client: httpx.Client, url: str, verify: ssl.SSLContext | bool | str) -> httpx.Client:
    """A client like this one over a `PooledTransport`; the same where a proxy or no context is given.

    Args:
        client: without cookies, headers or hooks of its own.
        url: of the server.
        verify: what the server's certificate must satisfy.
    """
    if proxy_for(url) or not isinstance(verify, ssl.SSLContext):
        return client
    client.close()
    return httpx.Client(
        transport=PooledTransport(verify), timeout=client.timeout, follow_redirects=client.follow_redirects
    )


def proxy_for(url: str) -> str:
    """The proxy by which the environment has that server asked; empty where it is asked without one.

    This machine itself is, whatever the environment says.
    """
    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all") or ""
    return "" if _is_here(parts.hostname or "") or proxy_bypass(parts.netloc) else proxy


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class PooledTransport(httpx.BaseTransport):
    """Carries requests over connections that are kept open, and shared by threads.

    Args:
        verify: what the server's certificate must satisfy.
    """

    def __init__(self, verify: ssl.SSLContext) -> None:
        self._pool = urllib3.PoolManager(ssl_context=verify, maxsize=_CONNECTIONS, retries=False)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """The whole answer.

        Raises:
            httpx.TransportError: there is none.
        """
        limits = request.extensions["timeout"]
        try:
            answer = self._pool.urlopen(
                request.method,
                str(request.url),
                body=request.read(),
                headers=urllib3.HTTPHeaderDict(request.headers.multi_items()),
                timeout=urllib3.Timeout(connect=limits["connect"], read=limits["read"]),
                redirect=False,
                decode_content=False,
            )
        except HTTPError as exc:
            raise _in_httpx(exc)(str(exc), request=request) from exc
        return httpx.Response(answer.status, headers=list(answer.headers.items()), content=answer.data)

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._pool.clear()


def _in_httpx(error: HTTPError) -> type[httpx.TransportError]:
    if isinstance(error, NewConnectionError | SSLError):
        return httpx.ConnectError
    if isinstance(error, ConnectTimeoutError):
        return httpx.ConnectTimeout
    return httpx.ReadTimeout if isinstance(error, ReadTimeoutError) else httpx.ReadError
