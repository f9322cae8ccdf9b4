"""The one module of the server that touches Flower's private parts.

Written against flwr 1.42.0. Two waits of its grid are shortened: pulling an
object that is not there yet backs off a whole second. Runs are submitted, and
site keys registered, through the Control API that `flwr run` and
`flwr supernode register` use, in this process and within milliseconds.

Facts: a `Message` can be made only in a process that has a task's identity,
which Flower sets in its own processes alone; the inline runtime sets it here.
`StartRun` takes run-config values for keys that the bundle declares, no others.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from contract.errors import AddressError, InputError, RoundError, UnansweredError
from contract.transport import read_authority
from server.line.secret import Sends
from server.line.site_keys import read_site_key

__all__ = [
    "MOST_OBJECTS",
    "NO_ANSWER",
    "REFUSED",
    "TOO_LONG",
    "TOO_MANY_PARTS",
    "UNREADABLE",
    "ControlClient",
    "RunState",
    "assume_identity",
    "before_exit",
    "bundle_files",
    "is_simulated",
    "objects_in",
    "quicken_grid",
    "run_superlink",
    "silence_telemetry",
]

NO_ANSWER = frozenset(
    {ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE, ErrorCode.NODE_UNAVAILABLE}
)
"""Flower's own errors in place of a reply: of a site that is away or a line that was cut."""

UNREADABLE = -1
"""Code of the error in the place of a reply that is no message; Flower's begin at 0."""

REFUSED = -2
"""Code of the error that our SuperLink gives in the place of a reply that it did not take."""
TOO_LONG = "reply too large: it has more bytes than the server takes"
TOO_MANY_PARTS = "reply too large: it has more parts than any reply has"

MOST_OBJECTS = 16
"""Of a reply. An honest one has three: message, records and one config record (`contract.messages`)."""

_PULL_BACKOFF, _PULL_BACKOFF_CAP = 0.02, 0.25
_NO_AUTHORITY = (
    "`tidegate server up` makes it where there is none; or set TIDEGATE_HOME to the server's folder"
)
_LOOK_THERE = "Read logs/superlink.log in the server's folder: its database may be locked, or its disk full"
_LONGEST_PULL = 8.0
"""Seconds that a part of a reply may be on its way."""
_DATABASE_PATIENCE = 60_000
"""Milliseconds that the SuperLink waits for its database while another part is written: Flower's five seconds
are too few for a long one, and what it then answers with ends the run."""
_FINISHED, _LOST, _DISMISSED = "finished", "lost", "unregistered"
"""Of a run, of one that no SuperLink knows, and of a key."""


@dataclass(frozen=True, kw_only=True)
class RunState:
    """How a submitted run stands."""

    status: str
    sub_status: str
    details: str

    @property
    def finished(self) -> bool:
        """Whether it has ended, well or not."""
        return self.status == _FINISHED

    @property
    def completed(self) -> bool:
        """Whether it has ended well."""
        return self.finished and self.sub_status == "completed"

    @property
    def lost(self) -> bool:
        """Whether the SuperLink knows it no more, nor how it ended: nothing of it goes on there."""
        return self.finished and self.sub_status == _LOST


def quicken_grid() -> None:
    """Let the grid of this process try again after 20 ms instead of a second, and not for minutes.

    While it waits for the rest of one reply, whose site may have died, nobody else's is looked at.
    """
    from flwr.superlink.grid import http_grid

    module: Any = http_grid
    if not isinstance(module.pull_objects, functools.partial):
        module.pull_objects = functools.partial(
            module.pull_objects,
            initial_backoff=_PULL_BACKOFF,
            backoff_cap=_PULL_BACKOFF_CAP,
            max_time=_LONGEST_PULL,
        )


def objects_in(tree: Any) -> int:
    """How many objects a reply's tree has; no more than one above `MOST_OBJECTS` are counted."""
    waiting, count = [tree], 0
    while waiting and count <= MOST_OBJECTS:
        count += 1
        waiting.extend(waiting.pop().children)
    return count


def is_simulated(grid: Grid) -> bool:
    """Whether the grid's nodes are virtual ones of Flower's simulation engine.

    They share its workers: how long one takes says nothing of its site, and no message gets lost.
    """
    module: Any = sys.modules.get("flwr.superlink.grid.inmemory_grid")  # imported by whoever made such a grid
    return module is not None and isinstance(grid, module.InMemoryGrid)


def run_superlink(
    arrange: Callable[[list[Any]], list[Any]],
    *,
    superexec: Sequence[str],
    serve: Callable[..., None],
) -> None:
    """Run Flower's SuperLink in this process, with the options on its command line.

    Args:
        arrange: is given Flower's middlewares, outermost first, and returns those to use.
        superexec: the command that takes the place of `flower-superexec`.
        serve: in the place of `uvicorn.run`.
    """
    from flwr.supercore import sql_mixin
    from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME
    from flwr.superlink import main
    from flwr.superlink.cli import flower_superlink

    from server.line.lasting_state import lasting_factories

    command: Any = sys.modules[flower_superlink.__module__]
    usual_superexec = command._get_superexec_command
    command._get_superexec_command = lambda **options: [*superexec, *usual_superexec(**options)[1:]]
    command.uvicorn = SimpleNamespace(run=serve)

    database: Any = sql_mixin
    database.SQLITE_PRAGMAS = (*database.SQLITE_PRAGMAS, ("busy_timeout", str(_DATABASE_PATIENCE)))
    module: Any = main
    usual = module._get_middleware
    module._get_middleware = lambda: arrange(usual())
    usual_factories = module.get_objectstore_linkstate_factories

    def factories(database: str, federation_manager: Any) -> Any:
        lasts = database != FLWR_IN_MEMORY_DB_NAME
        return (lasting_factories if lasts else usual_factories)(database, federation_manager)

    module.get_objectstore_linkstate_factories = factories
    flower_superlink()


def silence_telemetry() -> None:
    """Flower reads its variable once, when it is imported, which may be before we are."""
    from flwr.supercore import telemetry

    module: Any = telemetry
    module.FLWR_TELEMETRY_ENABLED = "0"


_before_exit: list[Callable[[], None]] = []


@contextmanager
def before_exit(act: Callable[[], None]) -> Iterator[None]:
    """Call `act` when Flower ends this process while the block runs.

    Flower ends a ServerApp whose run was stopped by a signal to itself, in whose handler it waits for its own
    threads, and after five seconds leaves without unwinding: no `finally` and no `except` is sure to run.
    `act` may raise `SystemExit` to have what was interrupted unwind at once; Flower's own handlers, which
    send the last logs, then do not run.
    """
    from flwr.supercore.exit import add_exit_handler

    _before_exit.append(act)
    add_exit_handler(_act_before_exit)
    try:
        yield
    finally:
        _before_exit.remove(act)


def _act_before_exit() -> None:
    for act in reversed(_before_exit):
        act()


def assume_identity(run: int, node: int = 1) -> None:
    """Give this process the identity without which no message can be made."""
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, run, node


def bundle_files(root: Path) -> list[str]:
    """The paths in the app bundle of the project at `root`, in order."""
    import io
    import zipfile

    with zipfile.ZipFile(io.BytesIO(build_bundle(root))) as archive:
        return sorted(archive.namelist())


@functools.lru_cache(maxsize=4)
def build_bundle(root: Path) -> bytes:
    """The app bundle of the project at `root`, built once in a process.

    Flower's `build_fab_from_disk` gives the same bytes, and looks at every file of the tree before it
    leaves one out: seven seconds where a virtual environment of 98,000 files lies in it.

    Raises:
        RoundError: Flower refuses the project.
    """
    from flwr.cli.build import build_fab_from_files

    app = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["flwr"]["app"]
    folders = sorted({pattern.split("/")[0] for pattern in app["fab-include"]})
    found = [root / name for name in ("pyproject.toml", ".gitignore") if (root / name).is_file()]
    for folder in folders:
        found += [path for path in (root / folder).rglob("*.py") if not path.is_symlink()]
    files: dict[str, Any] = {path.relative_to(root).as_posix(): path for path in found}
    try:
        return build_fab_from_files(files)[0]
    except ValueError as exc:
        raise RoundError(
            f"Flower cannot bundle the project: {exc}",
            where=str(root),
            remedy="Install Tidegate again, at the server and at the sites",
        ) from exc


def _known_key(node: Any, public_key: Path, name: str) -> InputError:
    """Why a key that the SuperLink knows is not admitted again."""
    if node.status == _DISMISSED:
        return InputError(
            f"this key was admitted as '{node.name}' and dismissed: a key is admitted once",
            where=str(public_key),
            remedy="Ask the site for a new key: `tidegate site init` in another folder makes one",
        )
    if node.name == name:
        return InputError(
            f"this key is admitted as '{name}' already",
            where=str(public_key),
            remedy="Nothing is to be done. To take other rows or an older ledger from the site: "
            f"tidegate server readmit {name}",
        )
    return InputError(
        f"this key is admitted as '{node.name}'",
        where=str(public_key),
        remedy=f"Name the node.pub of '{name}': each site has a key of its own",
    )


class ControlClient:
    """Submits runs to a SuperLink, looks after them and registers the sites' keys.

    Args:
        address: host:port of the SuperLink.
        root_certificates: the certificate authority's PEM file.
        secret: of the SuperLink, as `server.line.secret` has it.
    """

    def __init__(self, address: str, root_certificates: Path, secret: str) -> None:
        self._address, self._secret = address, secret
        self._certificates = read_authority(root_certificates, error=AddressError, remedy=_NO_AUTHORITY)
        self._connection: Any = None

    def register(self, public_key: Path, name: str, *, again: bool = False) -> int:
        """Let the site with this key connect; return its node id.

        Args:
            public_key: the file.
            name: the site's.
            again: whether a key that may connect under this very name is no mistake.

        Raises:
            InputError: the file is no site's public key, or the key was admitted before.
        """
        from flwr.proto.control_pb2 import RegisterNodeRequest
        from flwr.supercore.primitives.asymmetric import public_key_to_bytes

        key = public_key_to_bytes(read_site_key(public_key))
        try:
            with self._client() as client:
                response = client.RegisterNode(RegisterNodeRequest(public_key=key, name=name))
        except RoundError as exc:
            known = self._node_with(key)
            if known is None:
                raise
            if again and known.name == name and known.status != _DISMISSED:
                return int(known.node_id)
            raise _known_key(known, public_key, name) from exc
        return int(response.node_id)

    def _node_with(self, public_key: bytes) -> Any | None:
        """What the SuperLink knows of the node with this key, if it ever had one."""
        from flwr.proto.control_pb2 import ListNodesRequest

        with self._client() as client:
            nodes = client.ListNodes(ListNodesRequest()).nodes_info
        return next((node for node in nodes if node.public_key == public_key), None)

    def unregister(self, node_id: int) -> None:
        """Let the site with this node id connect no more."""
        from flwr.proto.control_pb2 import UnregisterNodeRequest

        with self._client() as client:
            client.UnregisterNode(UnregisterNodeRequest(node_id=node_id))

    def connected(self) -> frozenset[int]:
        """The node ids of the registered sites that are connected now."""
        from flwr.proto.control_pb2 import ListNodesRequest

        with self._client() as client:
            nodes = client.ListNodes(ListNodesRequest()).nodes_info
        return frozenset(node.node_id for node in nodes if node.status == "online")

    def submit(self, project: Path, run_config: Mapping[str, str]) -> int:
        """Start a run of the project's app with these run-config values; return its id."""
        from flwr.common.serde import fab_to_proto, user_config_to_proto
        from flwr.proto.control_pb2 import StartRunRequest
        from flwr.supercore.fab import Fab

        content = build_bundle(project)
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        request = StartRunRequest(
            fab=fab_to_proto(fab), override_config=user_config_to_proto(dict(run_config))
        )
        with self._client() as client:
            response = client.StartRun(request)
        if not response.HasField("run_id"):
            raise RoundError(
                "the SuperLink did not start the run",
                where=self._address,
                remedy="Its log says why: logs/superlink.log in the server's folder",
            )
        return int(response.run_id)

    def state(self, run: int) -> RunState:
        """How the run stands; one that a SuperLink before this one had begun is lost."""
        import httpx
        from flwr.proto.control_pb2 import ListRunsRequest

        with self._client() as client:
            try:
                status = client.ListRuns(ListRunsRequest(run_id=run)).run_dict[run].status
            except httpx.HTTPStatusError as exc:
                if exc.response.status_code != httpx.codes.NOT_FOUND:
                    raise
                words = "the SuperLink was started again meanwhile"
                return RunState(status=_FINISHED, sub_status=_LOST, details=words)
        return RunState(status=status.status, sub_status=status.sub_status, details=status.details)

    def wait(self, run: int, *, pause: float = 0.2, watch: Callable[[], None] = lambda: None) -> RunState:
        """Wait until the run has ended, calling `watch` between looks."""
        while not (state := self.state(run)).finished:
            watch()
            time.sleep(pause)
        watch()
        return state

    def stop(self, run: int) -> None:
        """Stop a run."""
        from flwr.proto.control_pb2 import StopRunRequest

        with self._client() as client:
            client.StopRun(StopRunRequest(run_id=run))

    def close(self) -> None:
        """Close the connection; the next call opens one again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def _client(self) -> Iterator[Any]:
        """The one connection, kept open: a handshake costs more than a look at a run."""
        import httpx
        from flwr.supercore.control import ControlHttpClient
        from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor

        if self._connection is None:
            self._connection = ControlHttpClient.from_server_address(
                server_address=self._address,
                insecure=False,
                root_certificates=self._certificates,
                interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr"), Sends(self._secret)],
            )
        try:
            yield self._connection
        except httpx.HTTPStatusError as exc:
            raise RoundError(
                f"the SuperLink refused ({exc.response.status_code}: {exc.response.text[:300]})",
                where=self._address,
                remedy=_LOOK_THERE if exc.response.is_server_error else "",
            ) from exc
        except httpx.TimeoutException as exc:
            self.close()
            raise UnansweredError(
                "the SuperLink did not answer in time", where=self._address, remedy=_LOOK_THERE
            ) from exc
        except httpx.TransportError as exc:
            self.close()
            raise AddressError(
                f"the SuperLink cannot be reached ({exc})",
                where=self._address,
                remedy="Start it with `tidegate server up`, or correct the address",
            ) from exc
