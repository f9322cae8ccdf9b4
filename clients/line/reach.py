"""Whether the server can be reached from here, and what is between: asked without the site's key.

One request to its health page says most of what stops a site: the name, the port, a proxy, another
authority, a certificate out of time, a clock that is wrong (HTTP's `Date`). What stands in the environment
(`HTTPS_PROXY`, `NO_PROXY`) is what the agent goes by too; a server on this machine is never asked through a
proxy.
"""

from __future__ import annotations

import datetime
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients.line.clock import time_said
from contract.enrolment import ADDRESS
from contract.errors import AddressError, SiteConfigError
from contract.transport import named_proxy, proxy_for, read_authority

__all__ = ["Reached", "authority_at", "in_the_way", "reach"]

_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Reached:
    """What the server said.

    Attributes:
        proxy: through which it was asked; empty if none is between.
        ahead: seconds that the clock here is ahead of the server's, to a second; None if it said no time.
        valid_until: when its certificate ends.
    """

    proxy: str
    ahead: float | None
    valid_until: datetime.datetime


def authority_at(root_certificates: Path) -> bytes:
    """The authority that signed the server's certificate, in PEM form.

    Raises:
        SiteConfigError: the file cannot be read, or is something else.
    """
    remedy = "Ask the federation's operator for its ca.pem, and name it with --root-certificates"
    return read_authority(root_certificates, error=SiteConfigError, remedy=remedy)


def reach(superlink: str, authority: bytes) -> Reached:
    """Ask the server how it is.

    Args:
        superlink: host:port.
        authority: that signed the server's certificate, in PEM form.

    Raises:
        AddressError: it cannot be reached, and says what is in the way.
    """
    import httpx

    if ADDRESS.fullmatch(superlink) is None:
        raise AddressError("not an address", where=superlink, remedy="Write it as host:port")
    url = f"https://{superlink}"
    context = ssl.create_default_context(cadata=authority.decode("ascii"))
    proxy = proxy_for(url)
    try:
        with httpx.Client(verify=context, timeout=_SECONDS, proxy=proxy or None, trust_env=False) as client:
            began = time.time()
            with client.stream("GET", f"{url}/health") as answer:
                now = (began + time.time()) / 2
                certificate = answer.extensions["network_stream"].get_extra_info("ssl_object").getpeercert()
                said = answer.headers.get("date")
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise in_the_way(exc, superlink, proxy) from exc
    return Reached(proxy=named_proxy(proxy), ahead=_ahead(now, said), valid_until=_end_of(certificate))


def _ahead(now: float, said: str | None) -> float | None:
    there = time_said(said)
    if there is None:
        return None
    # servers say the time of a moment ago, in whole seconds
    return 0.0 if there <= now <= there + 2 else round(now - there)


def _end_of(certificate: dict[str, Any]) -> datetime.datetime:
    seconds = ssl.cert_time_to_seconds(certificate["notAfter"])
    return datetime.datetime.fromtimestamp(seconds, tz=datetime.UTC)


def in_the_way(error: Exception, superlink: str, proxy: str) -> AddressError:
    """What a connection's error says of what is between, and what to do about it.

    Args:
        error: of httpx.
        superlink: host:port that was asked.
        proxy: through which; empty if none is between.
    """
    text, proxy = str(error), named_proxy(proxy)
    through = f" through the proxy {proxy}" if proxy else ""
    for sign, what, remedy in (
        (
            "certificate has expired",
            "the server's certificate has ended, by the clock here",
            "Check this machine's clock; if it is right, the operator must renew the certificate",
        ),
        (
            "certificate is not yet valid",
            "the server's certificate has not begun, by the clock here",
            "Check this machine's clock: it is probably late",
        ),
        (
            "Hostname mismatch",
            "the server's certificate is for another name",
            "Use the name that the operator gave; the certificate must hold it",
        ),
        (
            "IP address mismatch",
            "the server's certificate is for another address",
            "Use the name that the operator gave; the certificate must hold it",
        ),
        (
            "CERTIFICATE_VERIFY_FAILED",
            "another authority signed the server's certificate",
            "Ask the operator for this server's ca.pem",
        ),
        (
            "WRONG_VERSION_NUMBER",
            "what answers there does not speak TLS",
            "Check the port; a proxy or another service may answer in the server's place",
        ),
        (
            "Name or service not known",
            "no such host is known here",
            "Check the name, and this machine's name server (DNS)",
        ),
        (
            "Connection refused",
            f"the proxy {proxy} does not answer" if proxy else "nothing listens there",
            "Check HTTPS_PROXY, or name the host in NO_PROXY" if proxy else "Check the port and the server",
        ),
    ):
        if sign in text:
            return AddressError(what, where=superlink, remedy=remedy)
    remedy = (
        "Ask whoever runs the proxy to let this host through, or name the host in NO_PROXY"
        if proxy
        else "Check the address, the firewall between, and whether a proxy must be named in HTTPS_PROXY"
    )
    words = text or type(error).__name__
    return AddressError(f"the server cannot be reached{through} ({words})", where=superlink, remedy=remedy)
