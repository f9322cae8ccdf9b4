"""Certificates, proxies and answers of the connections to a server, on both sides.

Who answers may be anybody before its certificate is compared: so an answer is read up to a length, at a
pace, and never unpacked. A few hundred bytes of gzip in gzip are gigabytes.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from contract.errors import AddressError, TidegateError
from contract.outside import shown

if TYPE_CHECKING:
    import httpx

__all__ = [
    "PLAIN",
    "AnswerError",
    "ask_directly_here",
    "body_of",
    "holds_certificate",
    "lines_of",
    "named_proxy",
    "proxy_for",
    "read_authority",
    "require_plain",
    "require_stated",
]

PLAIN = {"Accept-Encoding": "identity"}
"""A header that asks for an answer as it is."""
_PATIENCE, _SLOWEST = 60.0, 2**12
"""Seconds that an answer has to come, and one more for so many bytes: slow lines pass, a trickle does not."""

_HERE = ("localhost", "127.0.0.1", "::1")


class AnswerError(ValueError):
    """An answer that is not read to its end."""


def require_plain(answer: httpx.Response) -> None:
    """Refuse an answer that would have to be unpacked.

    Raises:
        AnswerError: it would.
    """
    if answer.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise AnswerError("the server's answer is packed, and nobody asked for that")


def require_stated(answer: httpx.Response, most: int) -> None:
    """Refuse an answer that would be read whole, and says no length or one of more than `most` bytes.

    Raises:
        AnswerError: it does.
    """
    stated = answer.headers.get("content-length", "")
    if not re.fullmatch(r"[0-9]{1,16}", stated) or int(stated) > most:
        raise AnswerError("the server's answer is too long, or does not say how long it is")


def body_of(answer: httpx.Response, most: int) -> bytes:
    """The body of an answer of which nothing has been read yet.

    Raises:
        AnswerError: it is packed, longer than `most` bytes, or comes too slowly.
    """
    require_plain(answer)
    began, content = time.monotonic(), bytearray()
    for part in answer.iter_raw():
        content += part
        if len(content) > most:
            raise AnswerError("the server's answer is too long")
        if time.monotonic() - began > _PATIENCE + len(content) / _SLOWEST:
            raise AnswerError("the server's answer comes too slowly")
    return bytes(content)


def lines_of(answer: httpx.Response, longest: int) -> Iterator[str]:
    """The lines of an answer that has no end; of UTF-8, and parted by line feeds alone.

    Raises:
        AnswerError: it is packed, or a line is longer than so many bytes.
    """
    require_plain(answer)
    left = b""
    for part in answer.iter_raw():
        *lines, left = (left + part).split(b"\n")
        if len(left) > longest or any(len(line) > longest for line in lines):
            raise AnswerError("a line of the server's answer is too long")
        yield from (line.removesuffix(b"\r").decode("utf-8", "replace") for line in lines)


def holds_certificate(content: bytes) -> bool:
    """Whether a file's content is one or more certificates in PEM form, which TLS takes as authorities.

    >>> holds_certificate(b"patient,age")
    False
    """
    import ssl

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


def ask_directly_here(environ: MutableMapping[str, str]) -> None:
    """Name this machine among those that no process asks through a proxy.

    Args:
        environ: of this process, and so of those that it starts.
    """
    # of the two spellings the small one counts where both are there
    named = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    hosts = dict.fromkeys([host.strip() for host in named.split(",") if host.strip()] + list(_HERE))
    environ["NO_PROXY"] = environ["no_proxy"] = ",".join(hosts)


def proxy_for(url: str) -> str:
    """The proxy by which the environment has that server asked; empty where it is asked without one.

    This machine itself is, whatever the environment says.

    Raises:
        AddressError: the environment names something else.
    """
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all") or ""
    if not proxy or _is_here(parts.hostname or "") or proxy_bypass(parts.netloc):
        return ""
    return _usable(proxy if "://" in proxy else f"http://{proxy}", parts.hostname or "")


def named_proxy(proxy: str) -> str:
    """A proxy as a message may name it: without the password that its address may hold.

    >>> named_proxy("http://ada:secret@proxy.example:3128")
    'http://proxy.example:3128'
    """
    scheme, _, rest = proxy.partition("://")
    return f"{scheme}://{shown(rest.rpartition('@')[2])}" if proxy else ""


def _usable(proxy: str, host: str) -> str:
    try:
        parts = urlsplit(proxy)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise AddressError(
            f"the environment names a proxy that cannot be used: {named_proxy(proxy)}",
            where="HTTPS_PROXY",
            remedy=f"Write it like http://proxy.example:3128, or name {host} in NO_PROXY",
        )
    return proxy


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
