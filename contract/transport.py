"""Certificates and proxies of the connections that Flower makes, on both sides."""

from __future__ import annotations

import ipaddress
from collections.abc import MutableMapping
from pathlib import Path
from urllib.parse import urlsplit

from contract.errors import TidegateError

__all__ = ["ask_directly_here", "holds_certificate", "proxy_for", "read_authority"]

_HERE = ("localhost", "127.0.0.1", "::1")


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
    """
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all") or ""
    return "" if _is_here(parts.hostname or "") or proxy_bypass(parts.netloc) else proxy


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
