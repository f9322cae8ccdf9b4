"""A gateway that listens: real TLS on loopback, and behind it an app that answers anything."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from clients.keys import private_pem
from server.gateway.connections import PEER
from server.gateway.door import Door
from server.gateway.superlink import gateway_port
from server.gateway.tls import Port
from server.line.certificates import ServerFiles, make_server_files, sign_site
from server.line.processes import free_port
from server.server_file import ServerFile

FLEET = "/v1/fleet/pull-messages"


@dataclass
class Site:
    """A key with a certificate, as files."""

    folder: Path
    name: str
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def pem(self, certificate: bytes) -> Path:
        file = self.folder / f"{self.name}.pem"
        file.write_bytes(certificate + private_pem(self.key))
        return file

    @property
    def header(self) -> dict[str, str]:
        return {FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(public_key_to_bytes(self.key.public_key())).decode()}


@dataclass
class Gateway:
    """One that listens, and what it let through."""

    address: tuple[str, int]
    files: ServerFiles
    door: Door
    port: Port
    seen: list[str]

    @property
    def url(self) -> str:
        return f"https://{self.address[0]}:{self.address[1]}"

    def tls(self, certificate: Path | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.files.authority))
        if certificate is not None:
            context.load_cert_chain(certificate)
        return context

    def client(self, certificate: Path | None = None) -> httpx.Client:
        tls = self.tls(certificate)
        return httpx.Client(verify=tls, base_url=self.url, trust_env=False, timeout=60)

    def connect(self, certificate: Path | None = None) -> ssl.SSLSocket:
        raw = socket.create_connection(self.address, timeout=60)
        return self.tls(certificate).wrap_socket(raw, server_hostname=self.address[0])


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    seen: list[str] = []

    async def answer(request: Request) -> Response:
        peer = request.scope[PEER]
        content = await request.body()
        seen.append(request.url.path)
        if long := request.headers.get("x-long"):
            return Response(b"x" * int(long))
        return JSONResponse({"site": peer and peer.site, "bytes": len(content)})

    async def gone(_request: Request, _error: Exception) -> Response:
        return Response(status_code=408, headers={"connection": "close"})  # as those behind the gateway do

    app = Starlette(
        routes=[Route("/{path:path}", answer, methods=["GET", "POST"])],
        exception_handlers={ClientDisconnect: gone},
    )
    file = ServerFile(hosts=("127.0.0.1",), listen="127.0.0.1", gateway_port=free_port())
    files = make_server_files(tmp_path / "certificates", file.names)
    rules = Door(app, app, in_flight=4 * 2**20)
    port = gateway_port(rules, file, files)
    server = uvicorn.Server(port.config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 300
    while not server.started:
        assert time.monotonic() < end, "the gateway did not start within 300 s"
        time.sleep(0.01)
    yield Gateway(("127.0.0.1", file.gateway_port), files, rules, port, seen)
    server.should_exit = True
    thread.join(timeout=300)
    assert not thread.is_alive(), "the gateway did not stop within 300 s"


@pytest.fixture
def north(gateway: Gateway, tmp_path: Path) -> tuple[Site, Path]:
    site = Site(tmp_path, "north")
    return site, site.pem(sign_site(gateway.files, "north", site.key.public_key()))
