"""The one module at a site that touches Flower's private parts: its Fleet API.

Written against flwr 1.41.0, whose own SuperNode sleeps three seconds when idle,
waits a second for an object that is not there yet and starts a new process for
every message. A lasting agent that speaks the same API needs none of that.

Facts: `http_request_response` swallows what is raised inside its block after
the connection stands, and ends the process when it cannot be made; so nothing
is raised through it here, and the address is tried beforehand. A message comes
without its content: its objects are pulled by id, and confirmed. A reply's
objects must all be pushed, or the reply counts as lost.
"""

from __future__ import annotations

import hashlib
import io
import socket
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Context, Error, Message, RecordDict

from contract.errors import AddressError, SiteConfigError

__all__ = ["Bundle", "FleetConnection", "Work", "connect", "error_reply", "wait_for_server"]

_PULL_BACKOFF, _PULL_BACKOFF_CAP = 0.02, 0.25
_ERROR_CODE = 0  # Flower's code for an error without a meaning of its own

RunConfig = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """The app bundle of a run: what the server says that the sites should run."""

    files: Mapping[str, bytes]
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Work:
    """One message to answer, with the context that Flower gives with it."""

    message: Message
    context: Context


class FleetConnection:
    """What a site asks of the server, on a connection that stands.

    Args:
        callbacks: those of Flower's Fleet connection, in its order.
        node_config: what the site's ClientApp finds in `context.node_config`.
    """

    def __init__(self, callbacks: tuple[Any, ...], node_config: RunConfig) -> None:
        (self.node_id, self._receive, self._send, self._get_run, self._get_fab) = callbacks[:5]
        (self._pull_object, self._push_object, self._confirm) = callbacks[5:]
        self._node_config = node_config
        self._contexts: dict[int, tuple[Context, Bundle]] = {}

    def receive(self) -> Work | None:
        """The next message for this site, whole; None when there is none."""
        from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
        from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents, pull_objects

        received = self._receive()
        if received is None:
            return None
        envelope, tree = received
        run, message_id = envelope.metadata.run_id, envelope.metadata.message_id
        contents = pull_objects(
            [item.object_id for item in iterate_object_tree(tree)],
            pull_object_fn=lambda object_id: self._pull_object(run, object_id),
            initial_backoff=_PULL_BACKOFF,
            backoff_cap=_PULL_BACKOFF_CAP,
        )
        message: Any = inflate_object_from_contents(message_id, contents)
        message.metadata.__dict__["_message_id"] = message_id
        context = self._context(run)[0]  # first: what is confirmed and fails here would never be answered
        self._confirm(run, message_id)
        return Work(message=message, context=context)

    def bundle(self, run: int) -> Bundle:
        """The app bundle of a run that a message came from."""
        return self._context(run)[1]

    def send(self, reply: Message, seconds: float) -> None:
        """Send a reply with all its objects."""
        from flwr.supercore.inflatable.inflatable_object import (
            get_all_nested_objects,
            get_object_tree,
            no_object_id_recompute,
        )

        with no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            objects = get_all_nested_objects(reply)
            wanted, session = self._send(reply, get_object_tree(reply), seconds)
            for object_id, item in objects.items():
                if object_id in wanted:
                    self._push_object(reply.metadata.run_id, session, object_id, item.deflate())

    def _context(self, run_id: int) -> tuple[Context, Bundle]:
        from flwr.common.config import get_fused_config_from_fab

        if run_id not in self._contexts:
            run = self._get_run(run_id)
            fab = self._get_fab(run.fab_hash, run_id)
            context = Context(
                run_id=run_id,
                node_id=self.node_id,
                node_config=self._node_config,
                state=RecordDict(),
                run_config=get_fused_config_from_fab(fab.content, run),
            )
            self._contexts = {run_id: (context, _unpacked(fab.content))}
        return self._contexts[run_id]


@contextmanager
def connect(
    superlink: str, *, root_certificates: Path, private_key: Path, node_config: RunConfig
) -> Iterator[FleetConnection]:
    """Connect to the server's Fleet API over TLS with the site's key.

    Raises:
        SiteConfigError: the certificate or the key cannot be read.
    """
    from flwr.supernode.fleet_http_connection import http_request_response

    keys = _keys(private_key)
    try:
        certificates = root_certificates.read_bytes()
    except OSError as exc:
        raise SiteConfigError(
            f"the server's certificate cannot be read: {exc.strerror}",
            where=str(root_certificates),
            remedy="Ask the federation's operator for it and name it with --root-certificates",
        ) from exc
    with http_request_response(
        superlink, False, certificates, keys, max_retries=3, max_wait_time=30
    ) as callbacks:
        yield FleetConnection(callbacks, node_config)


def wait_for_server(superlink: str, seconds: float, say: Callable[[str], None] = lambda _: None) -> None:
    """Wait until something listens at the address.

    Raises:
        AddressError: it is not an address, or nothing does within `seconds`.
    """
    host, _, port = superlink.rpartition(":")
    if not (host and port.isdigit()):
        raise AddressError("not an address", where=superlink, remedy="Write it as host:port")
    end, told = time.monotonic() + seconds, False
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except OSError as exc:
            if time.monotonic() >= end:
                raise AddressError(
                    f"the server cannot be reached ({exc.strerror or exc})",
                    where=superlink,
                    remedy="Check the address, and that the server is up and its port open from here",
                ) from exc
            if not told:
                say(f"waiting for the server at {superlink}")
                told = True
            time.sleep(0.2)
        else:
            return


def error_reply(message: Message, code: str) -> Message:
    """A refusal that carries one word of the contract's list, and nothing else."""
    return Message(Error(code=_ERROR_CODE, reason=code), reply_to=message)


def _keys(path: Path) -> tuple[ec.EllipticCurvePrivateKey, ec.EllipticCurvePublicKey]:
    try:
        key = load_ssh_private_key(path.read_bytes(), None)
    except (OSError, ValueError) as exc:
        raise SiteConfigError(
            "the site's private key cannot be read",
            where=str(path),
            remedy="Make one with `tidegate site init`, and give its public half to the operator",
        ) from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise SiteConfigError("the site's private key is not an elliptic-curve key", where=str(path))
    return key, key.public_key()


def _unpacked(content: bytes) -> Bundle:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    return Bundle(files=files, sha256=hashlib.sha256(content).hexdigest())
