"""How the ports that others reach are served: by uvicorn, over TLS, with the server's certificate."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from server.gateway.connections import Connection
from server.line.certificates import ServerFiles

__all__ = ["Shown", "tls_config"]


def tls_config(app: ASGIApp, listen: str, port: int, files: ServerFiles, **more: Any) -> uvicorn.Config:
    """How uvicorn serves an app there; loaded.

    Args:
        app: answers.
        listen, port: where.
        files: the server's certificate.
        more: of uvicorn's options, what is this port's own.
    """
    config = uvicorn.Config(
        app,
        host=listen,
        port=port,
        http=Connection,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # anybody could name another's address
        ssl_certfile=files.certificate,
        ssl_keyfile=files.key,
        **more,
    )
    config.load()
    _tls(config).minimum_version = ssl.TLSVersion.TLSv1_2
    return config


class Shown:
    """The certificate that a server shows, which may be renewed while it runs.

    Args:
        config: of the server, loaded.
        files: that hold the certificate.
    """

    def __init__(self, config: uvicorn.Config, files: ServerFiles) -> None:
        self._tls, self._files = _tls(config), files
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


def _tls(config: uvicorn.Config) -> ssl.SSLContext:
    if config.ssl is None:
        raise RuntimeError("the server has no TLS")
    return config.ssl
