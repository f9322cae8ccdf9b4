"""A real gateway with Flower's SuperLink behind it, and two sites that were admitted."""

from __future__ import annotations

import socket
import ssl
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

from clients.keys import PrivateKey, make_node_key, read_private_key
from experiments.benchmarks.rounds_trial import certify
from server.federation import Federation, admit
from server.line.processes import Processes, free_port
from server.server_file import read_server_file, server_file
from server.settings import ServerSettings

__all__ = ["Site", "Standing", "stand"]


@dataclass
class Site:
    name: str
    key: PrivateKey
    key_file: Path
    node: int
    certificate: Path

    @property
    def public(self) -> bytes:
        return public_key_to_bytes(self.key.public_key())

    def signature(self) -> dict[str, str]:
        timestamp = now().isoformat()
        return {
            "content-type": "application/protobuf",
            FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(self.public).decode(),
            FLEET_HTTP_SIGNATURE_HEADER: b64encode(sign_message(self.key, timestamp.encode())).decode(),
            TIMESTAMP_HEADER: timestamp,
        }


@dataclass
class Standing:
    federation: Federation
    north: Site
    south: Site

    @property
    def url(self) -> str:
        assert self.federation.file is not None
        return f"https://{self.federation.file.gateway}"

    @property
    def superlink(self) -> psutil.Process:
        return psutil.Process(self.federation.processes.process_ids()["superlink"])

    @property
    def log(self) -> str:
        return (self.federation.home / "logs" / "superlink.log").read_text(errors="replace")

    def tls(self, shows: Site | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.federation.files.authority))
        if shows is not None:
            context.load_cert_chain(shows.certificate)
        return context

    def connect(self, shows: Site | None) -> ssl.SSLSocket:
        assert self.federation.file is not None
        host, _, port = self.federation.file.gateway.partition(":")
        raw = socket.create_connection((host, int(port)), timeout=300)
        return self.tls(shows).wrap_socket(raw, server_hostname=host)

    def ask(self, shows: Site | None, path: str, request: Any, signs: Site | None) -> httpx.Response:
        """One request over TLS made with the certificate of one, signed by another."""
        with httpx.Client(verify=self.tls(shows), trust_env=False, timeout=300) as client:
            headers = {} if signs is None else signs.signature()
            return client.post(self.url + path, content=request.SerializeToString(), headers=headers)


@contextmanager
def stand(folder: Callable[[str], Path]) -> Iterator[Standing]:
    """Start them; `folder` makes an empty folder of that name."""
    home = folder("server")
    settings = ServerSettings(
        home=home,
        state_url=f"sqlite:///{home / 'state.db'}",
        tracking_uri=f"sqlite:///{home / 'mlflow.db'}",
        artifact_root=home / "artifacts",
    )
    with Processes(logs=home / "logs") as processes:
        server_file(home).write_text(
            f'hosts = ["127.0.0.1"]\nlisten = "127.0.0.1"\ngateway_port = {free_port()}\n'
        )
        file = read_server_file(home)
        federation = Federation(home=home, settings=settings, processes=processes, lasting=True, file=file)
        control = federation.start_server()

        def site(name: str) -> Site:
            private, public = make_node_key(folder(name) / "keys")
            node, key = admit(name, public, control, settings), read_private_key(private)
            certify(private, name, federation.files)
            return Site(name, key, private, node, private.with_name("site.pem"))

        yield Standing(federation, site("north"), site("south"))
        control.close()
