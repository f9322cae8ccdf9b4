"""The one module at a site that touches Flower's private parts: its Fleet API.

Written against flwr 1.42.0, whose own SuperNode sleeps three seconds when idle,
waits a second for an object that is not there yet and starts a new process for
every message. A lasting agent that speaks the same API needs none of that.

Facts: `http_request_response` swallows what is raised inside its block after
the connection stands, and ends the process when it cannot be made, or by SIGINT
when it is answered 401; so nothing is raised through it here, and the address is
tried beforehand. A message comes
without its content: its objects are pulled by id, and confirmed. A reply's
objects must all be pushed, or the reply counts as lost.
"""

from __future__ import annotations

import functools
import logging
import os
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast
from urllib.parse import urlsplit
from weakref import WeakSet

from flwr.app import Message

from clients.keys import PrivateKey, read_private_key
from clients.line.clock import ServerClock
from clients.line.packing import Bundle, PackedReply, RunConfig, Work, read_bundle
from clients.line.reach import authority_at
from clients.line.whole import WholeMessages
from contract.errors import AddressError
from contract.releases import MOST_VALUES
from contract.transport import PLAIN, AnswerError, proxy_for, require_plain, require_stated
from contract.whole import object_names

__all__ = [
    "FleetConnection",
    "LineBrokenError",
    "RunOverError",
    "ServerRefusedError",
    "connect",
    "show_renewed",
    "wait_for_server",
]

_PULL_BACKOFF, _PULL_BACKOFF_CAP = 0.02, 0.25
_LONGEST_PULL = 8.0
"""Seconds that a part of a message may be on its way."""

_LONGEST_PAUSE = 10.0
"""Seconds before another try, whatever a server says."""
_KEPT_OPEN, _PATIENCE = 60.0, 30.0
"""Seconds that a connection is kept without a request, and that an answer may take, as Flower has it."""

_MOST_UNSTORED = 5
"""How often a part of a reply is sent which the server does not store: nothing else is done meanwhile."""

_AS_ADMITTED = (
    "Give the site's keys/node.pub to the operator, for `tidegate server admit`; check that "
    "--root-certificates is this server's authority"
)
_AS_JOINED = "Ask the operator whether the site was revoked: it then needs a new key and a new token"

_log = logging.getLogger("tidegate.agent")
_clock = ServerClock()
_opening = threading.Lock()


class ServerRefusedError(Exception):
    """The server does not take what it was sent, and never will."""


class RunOverError(ServerRefusedError):
    """Nobody waits for it any more: no fault of anybody's."""


class FleetConnection:
    """What a site asks of the server, on a connection that stands.

    Args:
        callbacks: those of Flower's Fleet connection, in its order.
        node_config: what the site's ClientApp finds in `context.node_config`.
        whole: asks for messages with what they hold; without, each object is asked for alone.
    """

    def __init__(
        self, callbacks: tuple[Any, ...], node_config: RunConfig, whole: WholeMessages | None = None
    ) -> None:
        (self.node_id, self._receive, self._send, self._get_run, self._get_fab) = callbacks[:5]
        (self._pull_object, self._push_object, self._confirm) = callbacks[5:]
        self._node_config, self._whole = node_config, whole
        self._runs: dict[int, tuple[RunConfig, Bundle]] = {}
        self._unstored: Counter[str] = Counter()
        self._unconfirmed: dict[str, int] = {}
        """Messages that are kept here, of whose arrival the server hears with the reply; and their runs."""

    def receive(self, keep: Callable[[Work], None] = lambda _: None) -> Work | None:
        """The next message for this site, whole; None when there is none.

        Args:
            keep: is given the work before the server is told that it arrived, and forgets it.

        Raises:
            ServerRefusedError: the server does not know this site any more; connect anew.
        """
        self._confirm_the_rest()
        with _refusals():
            received = self._received()
        if received is None:
            return None
        try:
            with _refusals():
                return self._work(*received, keep)
        except (ServerRefusedError, _IncompleteError) as exc:
            _log.warning("left %s: %s", _request(received[0]), exc)
            return None

    def release(self) -> None:
        """Have the server answer what another thread asks in `receive`, which it may hold for long."""
        if self._whole is None:
            return  # nothing is held
        try:
            self._whole.release()
        except Exception as exc:
            # Whatever a broken line raises: then the question has ended too, or its time will.
            _log.info("the server did not hear that this site asks no more (%s)", exc)

    def _received(self) -> tuple[Message, Any, dict[str, bytes]] | None:
        import httpx

        if self._whole is not None:
            try:
                return self._whole.receive()
            except httpx.HTTPStatusError as exc:
                if exc.response.status_code != httpx.codes.NOT_FOUND:
                    raise
                self._whole = None
        received = self._receive()
        return None if received is None else (*received, {})

    def _work(
        self, envelope: Message, tree: Any, contents: dict[str, bytes], keep: Callable[[Work], None]
    ) -> Work:
        run, message_id = envelope.metadata.run_id, envelope.metadata.message_id
        for name in object_names(tree):
            if name not in contents:
                contents[name] = self._pulled(run, name)
        work = Work(
            run=run,
            message_id=message_id,
            contents=contents,
            node_id=self.node_id,
            node_config=self._node_config,
            made_at=envelope.metadata.created_at,
            request=_request(envelope),
            run_config=self._run(run)[0],  # first: what is confirmed and fails here would never be answered
        )
        keep(work)
        self._unconfirmed[message_id] = run
        if self._whole is None:
            self._confirm_the_rest()
        return work

    def _confirm_the_rest(self) -> None:
        """Tell the server what has arrived and was not answered."""
        for message_id, run in list(self._unconfirmed.items()):
            with suppress(ServerRefusedError), _refusals():
                self._confirm(run, message_id)
            del self._unconfirmed[message_id]

    def bundle(self, run: int) -> Bundle:
        """The app bundle of a run that a message came from.

        Raises:
            ServerRefusedError: the server knows no such run.
        """
        with _refusals():
            return self._run(run)[1]

    def send(self, reply: PackedReply) -> None:
        """Send a reply with all its objects; the seconds that computing took, which Flower asks for, are 0.

        Raises:
            RunOverError: the run is over, or was forgotten because the server was started again.
            ServerRefusedError: the server does not store a part of the reply however often that is sent.
        """
        from flwr.common.serde import message_from_proto
        from flwr.proto.message_pb2 import Message as EnvelopeProto
        from flwr.proto.message_pb2 import ObjectTree

        envelope, tree = EnvelopeProto.FromString(reply.envelope), ObjectTree.FromString(reply.tree)
        with _refusals():
            if self._whole is not None and self._whole.send(envelope, tree, reply.run, reply.objects):
                self._unconfirmed.pop(envelope.metadata.reply_to_message_id, None)
                return
            wanted, session = self._send(message_from_proto(envelope), tree, 0.0)
            for object_id, content in reply.objects.items():
                if object_id in wanted:
                    self._push(reply.run, session, object_id, content)

    def _push(self, run: int, session: str, object_id: str, content: bytes) -> None:
        from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

        try:
            self._push_object(run, session, object_id, content)
        except ObjectPushError as exc:  # once or twice, because the server was started again meanwhile
            self._unstored[object_id] += 1
            if self._unstored[object_id] < _MOST_UNSTORED:
                raise
            raise ServerRefusedError("it does not store a part of it") from exc

    def _pulled(self, run: int, object_id: str) -> bytes:
        """One object; waits while it is on its way, the longer the busier the server is.

        Raises:
            _IncompleteError: it does not come: whoever pushed it may have died over it.
        """
        from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError

        pause, end = _PULL_BACKOFF, time.monotonic() + _LONGEST_PULL
        while True:
            began = time.monotonic()
            try:
                return cast(bytes, self._pull_object(run, object_id))
            except ObjectUnavailableError as exc:
                if began > end:
                    raise _IncompleteError(
                        "a part of it does not come; the server sends it again if it still matters"
                    ) from exc
                time.sleep(max(pause, 4 * (time.monotonic() - began)))
                pause = min(2 * pause, _PULL_BACKOFF_CAP)

    def _run(self, run_id: int) -> tuple[RunConfig, Bundle]:
        if run_id not in self._runs:
            run = self._get_run(run_id)
            fab = self._get_fab(run.fab_hash, run_id)
            # The bundle's own defaults say nothing to a site, and Flower unpacks it without a limit for them.
            self._runs = {run_id: (dict(run.override_config), read_bundle(fab.content))}
        return self._runs[run_id]


def _request(envelope: Message) -> str:
    """For a person's eye, and from outside: one line, and not a long one."""
    said = "".join(letter for letter in envelope.metadata.group_id[:200] if letter.isprintable())
    return said or f"a message of run {envelope.metadata.run_id}"


class _IncompleteError(Exception):
    """A message of which a part does not come."""


@contextmanager
def _refusals() -> Iterator[None]:
    import httpx
    from flwr.supercore.run import RunNotRunningException

    try:
        yield
    except RunNotRunningException as exc:  # Flower's, and no Exception
        raise RunOverError("the run is over, or the server was started again since it asked") from exc
    except httpx.HTTPStatusError as exc:
        if exc.response.is_client_error:
            raise ServerRefusedError(f"{exc.response.status_code}: {exc.response.text[:300]}") from exc
        raise


@contextmanager
def connect(
    superlink: str,
    *,
    root_certificates: Path,
    private_key: Path,
    node_config: RunConfig,
    remembered: Path | None = None,
    certificate: Path | None = None,
) -> Iterator[FleetConnection]:
    """Connect to the server's Fleet API over TLS with the site's key.

    Args:
        superlink: host:port.
        root_certificates: the authority that signed the server's certificate (PEM).
        private_key: the site's.
        node_config: what its ClientApp finds in `context.node_config`.
        remembered: the file in which the node's number is kept. A server counts an agent that was killed
            as connected for a minute, and lets no other in until then, unless it is told that number.
        certificate: the site's, with its key (PEM), which a gateway asks for.

    Raises:
        SiteConfigError: the certificate or the key cannot be read.
        AddressError: the server does not let this site in.
        LineBrokenError: it cannot be asked just now.
    """
    from flwr.supercore.retry import http_retry
    from flwr.supernode import fleet_http_connection, node_auth_http_interceptor

    module: Any = fleet_http_connection
    for asks in (module, cast(Any, http_retry)):
        asks.os = SimpleNamespace(getpid=os.getpid, kill=_not_known)
    signing: Any = node_auth_http_interceptor
    signing.now = _clock.now
    clients: list[Any] = []
    module.flwr_exit = _refused_at_the_door
    module.HeartbeatSender = _lasting_heartbeats
    key = read_private_key(private_key)
    certificates = authority_at(root_certificates)
    open_connection = functools.partial(
        fleet_http_connection.http_request_response,
        *(superlink, False, certificates, (key, key.public_key())),
        max_retries=3,
        max_wait_time=30,
    )
    number = _remembered_number(remembered)
    with ExitStack() as stack:
        try:
            with _opening:  # what is set in Flower's modules is for this connection alone
                module.FleetHttpClient = _client_that_shows(certificate, clients)
                try:
                    callbacks = stack.enter_context(open_connection())
                except _RefusedAtTheDoorError:
                    if number is None:
                        raise
                    _forget_node(superlink, certificates, key, number, certificate)
                    callbacks = stack.enter_context(open_connection())
        except _RefusedAtTheDoorError as exc:
            if _is_passing(exc.__context__):
                raise LineBrokenError(str(exc)) from exc
            raise AddressError(
                f"the server does not let this site in ({exc})",
                where=superlink,
                remedy=f"{_AS_ADMITTED if certificate is None else _AS_JOINED}; and if the site's folder was "
                "moved, wait a minute: the server may count the agent of before as connected",
            ) from exc
        connection = FleetConnection(callbacks, node_config, WholeMessages(clients[-1], callbacks[0]))
        if remembered is not None:
            remembered.write_text(str(connection.node_id), encoding="utf-8")
        yield connection


def _client_that_shows(certificate: Path | None, made: list[Any]) -> Any:
    """Flower's client of the Fleet API, that shows a certificate to who asks for one.

    Args:
        certificate: with its key.
        made: each is entered here. Flower makes one for a connection, and keeps it to itself.
    """
    import httpx
    from flwr.supernode.fleet_http_client import FleetHttpClient

    class Client(FleetHttpClient):
        def __init__(
            self, base_url: str, *, interceptors: Any = (), verify: Any = True, **options: Any
        ) -> None:
            if certificate is not None:
                verify.load_cert_chain(certificate)
                _showing.add(verify)
            super().__init__(base_url, interceptors=(_clock, *interceptors), verify=verify, **options)
            self._client.close()  # it would end a connection after five seconds; a task takes longer
            kept = httpx.Limits(keepalive_expiry=_KEPT_OPEN)
            hooks = {"response": [_require_bounded, _wait_as_told]}
            self._client = httpx.Client(
                verify=verify, timeout=_PATIENCE, limits=kept, event_hooks=hooks, headers=PLAIN
            )
            made.append(self)

    return Client


def _require_bounded(response: Any) -> None:
    """Leave an answer unread that may fill the memory: one to be unpacked, too long, or without an end."""
    import httpx

    try:
        require_plain(response)
        require_stated(response, _LONGEST_ANSWER)
    except AnswerError as exc:
        raise httpx.DecodingError(str(exc), request=response.request) from exc


def _wait_as_told(response: Any) -> None:
    """Wait before another try as long as a server without room says: Flower does not read it."""
    told = response.headers.get("retry-after", "")
    if response.status_code == 503 and told.isascii() and told.isdigit():
        time.sleep(min(float(told[:9]), _LONGEST_PAUSE))


_LONGEST_ANSWER = 4 * MOST_VALUES + 2**27
"""Bytes: of the longest message that a server takes from its ServerApp, and around it."""

_showing: WeakSet[ssl.SSLContext] = WeakSet()
"""What the connections that stand show their certificate by."""


def show_renewed(certificate: Path) -> None:
    """Show another certificate, for the same key, whenever a connection that stands is made anew."""
    for context in list(_showing):
        context.load_cert_chain(certificate)


def _remembered_number(file: Path | None) -> int | None:
    if file is None or not file.exists():
        return None
    text = file.read_text(encoding="utf-8").strip()
    return int(text) if text.isdigit() else None


def _forget_node(
    superlink: str, certificates: bytes, key: PrivateKey, number: int, certificate: Path | None
) -> None:
    """Tell the server that the agent which it counts as connected is no more."""
    import httpx
    from flwr.proto.fleet_pb2 import DeactivateNodeRequest
    from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

    interceptors: list[Any] = [
        RuntimeVersionHttpInterceptor(component_name="SuperNode"),
        NodeAuthHttpInterceptor(key, key.public_key()),
    ]
    with (
        suppress(httpx.HTTPError),  # not connected after all, or another server: the next try says so
        _client_that_shows(certificate, []).from_server_address(
            superlink, False, certificates, interceptors=interceptors
        ) as client,
    ):
        client.DeactivateNode(DeactivateNodeRequest(node_id=number))


def _lasting_heartbeats(beat: Callable[[], bool]) -> Any:
    """Flower's heartbeats, which would end for good when the server answers with an error of its own."""
    from flwr.supercore.heartbeat import HeartbeatSender

    def patient() -> bool:
        try:
            return beat()
        except Exception as exc:
            _log.warning("the server did not take a heartbeat (%s); trying again", exc)
            return False

    return HeartbeatSender(patient)


def _not_known(_process: int, _signal: int) -> NoReturn:
    """In the place of the signal with which Flower ends its process when it is answered 401."""
    import httpx

    answered = sys.exc_info()[1]
    words = answered.response.text[:300] if isinstance(answered, httpx.HTTPStatusError) else "401"
    raise ServerRefusedError(words)


class LineBrokenError(Exception):
    """The server went away in the middle of letting this site in, or something before it is not ready."""


class _RefusedAtTheDoorError(Exception):
    """Flower would have ended the process."""


def _is_passing(reason: BaseException | None) -> bool:
    """Whether another try may well succeed: not so for a certificate of another authority, or without TLS."""
    import httpx

    if isinstance(reason, httpx.HTTPStatusError):
        return reason.response.status_code in (502, 503, 504)
    lasting = ("CERTIFICATE_VERIFY_FAILED", "WRONG_VERSION_NUMBER")
    return isinstance(reason, httpx.TransportError) and not any(word in str(reason) for word in lasting)


def _refused_at_the_door(_code: int, message: str = "", **_: object) -> NoReturn:
    words = [line for line in message.splitlines() if line and not line.startswith("Failed to initialize")]
    raise _RefusedAtTheDoorError("; ".join(words) or "it says no more")


def wait_for_server(superlink: str, seconds: float, say: Callable[[str], None] = lambda _: None) -> None:
    """Wait until something listens at the address, or at the proxy that the environment names for it.

    Raises:
        AddressError: it is not an address, or nothing does within `seconds`.
    """
    host, _, port = superlink.rpartition(":")
    if not (host and port.isdigit()):
        raise AddressError("not an address", where=superlink, remedy="Write it as host:port")
    proxy = urlsplit(proxy_for(f"https://{superlink}"))
    listens = (proxy.hostname, proxy.port or 80) if proxy.hostname else (host.strip("[]"), int(port))
    end, told = time.monotonic() + seconds, False
    while True:
        try:
            socket.create_connection(listens, timeout=5).close()
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
