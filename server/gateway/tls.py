"""How the ports that others reach are served: by uvicorn, over TLS, with the server's certificate."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from functools import partial
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from server.gateway.handshake import Handshake
from server.gateway.visitors import Visitors
from server.line.certificates import ServerFiles
from server.server_file import ServerFile

__all__ = ["Port", "Shown"]


class Port:
    """One that listens for others, over TLS.

    Args:
        app: answers.
        port: the number.
        file: where it listens, and how many strangers of one network it has at a time.
        files: the server's certificate.
        asks_for_certificate: whether a client may show one that the federation's authority signed.
        more: of uvicorn's options, what is this port's own.

    Attributes:
        config: how uvicorn serves it; loaded.
        tls: the server's side of TLS.
        visitors: who is connected.
    """

    def __init__(
        self,
        app: ASGIApp,
        port: int,
        file: ServerFile,
        files: ServerFiles,
        *,
        asks_for_certificate: bool = False,
        **more: Any,
    ) -> None:
        self.tls, self.visitors = _tls(files, asks_for_certificate), Visitors(file.strangers_per_address)
        self.config = uvicorn.Config(
            app,
            host=file.listen,
            port=port,
            http=cast(Any, partial(Handshake, self.tls, self.visitors)),
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,  # anybody could name another's address
            **more,
        )
        self.config.load()


class Shown:
    """The certificate that a server shows, which may be renewed while it runs.

    Args:
        tls: of the server.
        files: that hold the certificate.
    """

    def __init__(self, tls: ssl.SSLContext, files: ServerFiles) -> None:
        self._tls, self._files = tls, files
        self._changed = self._files.certificate.stat().st_mtime_ns

    def look(self) -> None:
        """Show another from the next connection on, if another is there."""
        changed = self._files.certificate.stat().st_mtime_ns
        if changed != self._changed:
            with contextlib.suppress(ssl.SSLError):  # it is being written: the next look has the whole of it
                self._tls.load_cert_chain(self._files.certificate, self._files.key)
                self._changed = changed

    async def look_on(self) -> None:
        """Look every second, without end."""
        while True:
            await asyncio.sleep(1)
            self.look()


def _tls(files: ServerFiles, asks_for_certificate: bool) -> ssl.SSLContext:
    """TLS in which every connection shows its certificate anew.

    A ticket would let a site in by the certificate of an earlier connection, when its time is over by now.
    """
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    tls.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    tls.num_tickets = 0
    tls.load_cert_chain(files.certificate, files.key)
    if asks_for_certificate:
        tls.minimum_version = ssl.TLSVersion.TLSv1_3  # before, sessions could be resumed without a ticket
        tls.verify_mode = ssl.CERT_OPTIONAL
        tls.load_verify_locations(files.authority)
    return tls
