"""A SuperLink's state of which only the sites' registrations outlive it.

Flower keeps all its state in memory or all of it in a database, where a round of four sites is some five
hundred statements. Of ours only who is registered must last: what a SuperLink had begun is submitted again
(`server.run_queue`, `server.schedule`), goes on at its checkpoint, and sites repeat what they have answered.

So runs, messages and their parts are in memory; long parts, of which every site may have one under way, are
files. Nodes are in memory and in Flower's database, which is changed first. That a site is still there is in
memory alone: 256 sites say so nine times a second, and each would wait for the disk.

Flower believes whoever names a part first what that part is made of, for all others too. Here a site is
believed only what agrees with what is known, and a part's own content and the ServerApp more than any site:
else a site could have a few parts stand for millions, or take parts out of messages that it foresees.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, HEARTBEAT_PATIENCE
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import NodeInfo
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NodeStatus
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_object import (
    get_object_children_ids_from_object_content,
    get_object_id,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import validate_object_content
from flwr.supercore.object_store import NoObjectInStoreError, ObjectStoreFactory
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore

__all__ = ["LONG", "LastingState", "PartStore", "lasting_factories"]

LONG = 2**16
"""Bytes of a part from which it is a file, and takes more than a moment. What a site never fetches is kept
until the run ends: perhaps the models of all its rounds."""
_MOST_FINISHED = 100
"""Runs that have ended and are still known, the latest. Whoever follows a run asks every second."""

_log = logging.getLogger("flwr")
_Result = TypeVar("_Result")


class PartStore(InMemoryObjectStore):
    """The parts of messages, in memory; the long ones in files.

    Args:
        folder: of the files; what is in it is of an earlier SuperLink, and is removed.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)
        self._folder = folder
        self._files: dict[str, Path] = {}
        self._ready = threading.local()

    def put(self, object_id: str, object_content: bytes) -> None:
        """Keep a part that was announced.

        Raises:
            ValueError: it is not what its id says, or not made of what was announced.
            OSError: the disk is full, say; nothing of the part is kept.
        """
        if len(object_content) < LONG:
            self._require_parts(object_id, object_content)
            super().put(object_id, object_content)
            return
        name, path = getattr(self._ready, "part", ("", Path()))
        if name != object_id:
            with self.ready(object_id, object_content):
                self.put(object_id, object_content)
            return
        with self.lock_store:
            entry = self.store.get(object_id)
            if entry is None:
                raise NoObjectInStoreError(f"Object with ID '{object_id}' was not pre-registered.")
            if not entry.is_available:
                entry.is_available, self._files[object_id] = True, path

    @contextlib.contextmanager
    def ready(self, object_id: str, object_content: bytes) -> Iterator[None]:
        """Have a long part looked at and written before the block, in which this thread puts it.

        Raises:
            ValueError: it is not what its id says.
            OSError: it cannot be written.
        """
        if get_object_id(object_content) != object_id:
            raise ValueError(f"Object ID {object_id} does not match content hash")
        validate_object_content(content=object_content)
        self._require_parts(object_id, object_content)
        with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:
            path = Path(file.name)
            try:
                file.write(object_content)
                file.flush()
                self._ready.part = (object_id, path)
                yield
            finally:
                self._ready.part = ("", Path())
                with self.lock_store:
                    if self._files.get(object_id) != path:  # it failed, was not wanted, or is there already
                        path.unlink(missing_ok=True)

    def get(self, object_id: str) -> bytes | None:
        """A part; no bytes while it is on its way, and None where it is not known."""
        with self.lock_store:
            path = self._files.get(object_id)
            if path is None:
                return super().get(object_id)
            content = path.open("rb")  # it can be read on where another removes it meanwhile
        with content:
            return content.read()

    def require_agreed(self, tree: ObjectTree) -> None:
        """See that what a site says its reply is made of is what is known already.

        Raises:
            ValueError: it says something else of a part.
        """
        said: dict[str, list[str]] = {}
        with self.lock_store:
            for part in iterate_object_tree(tree):
                parts = [child.object_id for child in part.children]
                known = self.store.get(part.object_id)
                if (
                    said.setdefault(part.object_id, parts if known is None else known.child_object_ids)
                    != parts
                ):
                    raise ValueError("a part was announced as made of others")

    def correct(self, tree: ObjectTree) -> None:
        """Believe what the ServerApp says of a message that was announced, whatever a site said before."""
        with self.lock_store:
            for part in iterate_object_tree(tree):
                entry, parts = self.store[part.object_id], [child.object_id for child in part.children]
                if entry.child_object_ids == parts:
                    continue
                for name in parts:
                    self.store[name].ref_count += 1
                for name in entry.child_object_ids:
                    if (other := self.store.get(name)) is not None:
                        other.ref_count -= 1
                entry.child_object_ids = parts

    def _require_parts(self, object_id: str, object_content: bytes) -> None:
        with self.lock_store:
            entry = self.store.get(object_id)
            announced = None if entry is None else entry.child_object_ids
        if announced is not None and announced != get_object_children_ids_from_object_content(object_content):
            raise ValueError(f"Object {object_id} is not made of what was announced")

    def file_of(self, object_id: str) -> Path | None:
        """Where a long part lies until it is deleted; None of any other."""
        with self.lock_store:
            return self._files.get(object_id)

    def delete(self, object_id: str) -> None:
        """Remove a part that no other is made of, and those that were its own."""
        with self.lock_store:
            super().delete(object_id)
            if object_id not in self.store and (path := self._files.pop(object_id, None)) is not None:
                path.unlink(missing_ok=True)


class LastingState(InMemoryLinkState):
    """Flower's state in memory, whose nodes, with their keys and names, are also in a database.

    Args:
        federation_manager: Flower's.
        object_store: of the parts of messages.
        kept: where the nodes are kept; it has been initialized. A node is there as it is here: what changes
            is changed there first, and is known here once it is on the disk.
    """

    def __init__(self, federation_manager: Any, object_store: PartStore, kept: SqlLinkState) -> None:
        super().__init__(federation_manager, object_store)
        self._kept, self._parts = kept, object_store
        self._to_node: dict[int, list[str]] = {}
        """Names of the messages that a node was not given yet, and of some that are gone."""
        self._changing = threading.Lock()
        """Held by whoever changes a node: else a late heartbeat might bring an unregistered one back."""
        self._remember(kept.get_node_info())

    # -- nodes, in the order of a site's life -------------------------------------------------------------

    def create_node(
        self,
        owner_aid: str,
        owner_name: str,
        public_key: bytes,
        heartbeat_interval: float,
        *,
        location: str | None = None,
        name: str | None = None,
    ) -> int:
        """Register a node; return its id.

        Raises:
            ValueError: the key is or was another's.
        """

        def create() -> int:
            return int(
                self._kept.create_node(
                    owner_aid, owner_name, public_key, heartbeat_interval, location=location, name=name
                )
            )

        return self._changed(create, lambda node_id: node_id)

    def activate_node(self, node_id: int, heartbeat_interval: float) -> bool:
        """Note that a node has connected; whether it may: not while it is there.

        How long a site may be silent is the server's to say: Flower believes half an hour, for which each
        round would wait for a site that has gone.
        """
        heartbeat_interval = min(heartbeat_interval, HEARTBEAT_DEFAULT_INTERVAL)
        with self.lock:
            self._check_and_tag_offline_nodes(node_ids=[node_id])
            node = self.nodes.get(node_id)
            if node is not None and node.status == NodeStatus.ONLINE:  # the database may not know of it
                return False

        def connect() -> bool:
            self._kept.deactivate_node(node_id)  # by the clock of then it may be there still
            return bool(self._kept.activate_node(node_id, heartbeat_interval))

        return self._changed(connect, lambda _: node_id)

    def acknowledge_node_heartbeat(self, node_id: int, heartbeat_interval: float) -> bool:
        """Note that a node is there still; whether it may be."""
        return bool(
            super().acknowledge_node_heartbeat(node_id, min(heartbeat_interval, HEARTBEAT_DEFAULT_INTERVAL))
        )

    def deactivate_node(self, node_id: int) -> bool:
        """Note that a node has left; whether it was there."""
        with self._changing:
            self._kept.deactivate_node(node_id)  # it may have taken it for gone already
            return bool(super().deactivate_node(node_id))

    def delete_node(self, owner_aid: str, node_id: int) -> None:
        """Unregister a node: its key connects no more, and is never registered again.

        Raises:
            ValueError: there is no such node, or it is not this owner's.
        """
        self._changed(lambda: self._kept.delete_node(owner_aid, node_id), lambda _: node_id)

    def _check_and_tag_offline_nodes(self, node_ids: list[int] | None = None) -> None:
        """Flower's; where the clock was set back, a site that has gone is not there until it is as late."""
        with self.lock:
            current = now().timestamp()
            for node in self.nodes.values():
                if node.status == NodeStatus.ONLINE:
                    longest = current + HEARTBEAT_PATIENCE * node.heartbeat_interval
                    node.online_until = min(node.online_until, longest)
            super()._check_and_tag_offline_nodes(node_ids)

    def _changed(self, change: Callable[[], _Result], node_of: Callable[[_Result], int]) -> _Result:
        with self._changing:
            with (
                self._kept.session()
            ):  # read in the same transaction: nothing can fail between disk and memory
                result = change()
                nodes = self._kept.get_node_info(node_ids=[node_of(result)])
            self._remember(nodes)
        return result

    def _remember(self, nodes: Iterable[NodeInfo]) -> None:
        with self.lock:
            for node in nodes:
                self.nodes[node.node_id] = node
                self.node_public_key_to_node_id[node.public_key] = node.node_id
                self.owner_to_node_ids.setdefault(node.owner_aid, set()).add(node.node_id)

    # -- runs and messages --------------------------------------------------------------------------------

    def store_message_and_object_tree(
        self, message: Any, object_tree: ObjectTree, session_id: str
    ) -> tuple[bool, list[str]]:
        """Store a message, and what it is made of as announced.

        Flower takes the two locks in the other order here than where a sending has expired. And it keeps the
        sending of a reply of which it wants nothing until the run ends.

        Raises:
            ValueError: a site says of a part that it is made of others than is known.
        """
        is_reply, missing = bool(message.metadata.reply_to_message_id), list[str]()
        with self._lock_object_push_sessions:
            try:
                if is_reply:
                    self._parts.require_agreed(object_tree)
                stored, missing = super().store_message_and_object_tree(message, object_tree, session_id)
            finally:
                if is_reply and not missing:
                    self._cleanup_push_session(session_id, cleanup_messages=False)
            if stored and not is_reply:
                self._parts.correct(object_tree)
        return stored, missing

    def store_object(self, run_id: int, session_id: str, object_id: str, object_content: bytes) -> bool:
        """Store a part of a message that is being sent; whether it was.

        Flower hashes and writes a part under the lock that every sending and every part that is asked for
        needs: what is long is made ready before.
        """
        with self._lock_object_push_sessions:
            session = self._object_push_sessions.get(session_id)
            awaits = session is not None and object_id in session.pending_object_ids
        if not awaits or len(object_content) < LONG:
            return bool(super().store_object(run_id, session_id, object_id, object_content))
        try:
            with self._parts.ready(object_id, object_content):
                return bool(super().store_object(run_id, session_id, object_id, object_content))
        except (OSError, ValueError) as exc:
            _log.error("a part of a message is not kept: %s", exc)
            return False

    def get_object(self, run_id: int, object_id: str) -> bytes | None:
        """A part; no bytes while it is on its way, and None where it is not known."""
        content = self._parts.get(object_id)  # without the lock under which Flower reads it
        return content or super().get_object(run_id, object_id)

    def store_message_ins(self, message: Any) -> str | None:
        """Store a message to a node; return its id, or None where it is refused."""
        with self.lock:
            name = super().store_message_ins(message)
            if name is not None:
                self._to_node.setdefault(message.metadata.dst_node_id, []).append(name)
        return name

    def get_message_ins(self, node_id: int, limit: int | None, *, run_id: int | None = None) -> list[Any]:
        """Messages for a node that it was not given yet; they are now.

        Flower looks for them among those of all nodes, each time that one asks: at some hundred sites, most
        of what a round costs.
        """
        with self.lock:
            all_there = self.message_ins_store
            own = {name: all_there[name] for name in self._to_node.pop(node_id, ()) if name in all_there}
            self.message_ins_store = dict(own)
            try:
                return super().get_message_ins(node_id, limit, run_id=run_id)
            finally:
                left, self.message_ins_store = self.message_ins_store, all_there
                for name in own.keys() - left.keys():
                    del all_there[name]
                waiting = [name for name, message in left.items() if not message.metadata.delivered_at]
                if waiting:
                    self._to_node[node_id] = waiting

    def create_run(self, *options: Any, **named: Any) -> int:
        """Begin a run, and forget those that have ended long ago; return its number."""
        number = int(super().create_run(*options, **named))
        with self.lock_task_store, self.lock:
            ended = {
                run: self._get_run(run).finished_at for run in self.run_ids if self._is_finished_run(run)
            }
            there = {node: [*self.message_ins_store.keys() & names] for node, names in self._to_node.items()}
            self._to_node = {node: names for node, names in there.items() if names}
        for run in self._parts.run_objects_mapping.keys() & ended:
            self.cleanup_run(run)  # its ServerApp was killed, and nobody has finished it
        for run in sorted(ended, key=lambda run: ended[run])[:-_MOST_FINISHED]:
            self._forget(run)
        return number

    def finish_task(self, task_id: int, sub_status: str, details: str) -> bool:
        """End a task; whether it went on.

        With a run's own end what it sent and nobody fetched: Flower keeps that until a site asks of this run.
        """
        ends = bool(super().finish_task(task_id, sub_status, details))
        task = self.task_store.get(task_id)
        if ends and task is not None and self._is_primary_task(task_id):
            self.cleanup_run(task.run_id)
        return ends

    def _forget(self, number: int) -> None:
        self.cleanup_run(number)
        with self.lock_task_store, self.lock, self.lock_task_event_store, self.lock_run_series_store:
            run = self.run_ids.pop(number).run
            tasks = {name for name, task in self.task_store.items() if task.run_id == number}
            for store in (self.task_store, self.task_logs):
                for task in tasks & store.keys():
                    del store[task]
            self.flwr_aid_to_run_ids[run.flwr_aid].discard(number)
            self.task_event_store.pop(number, None)
            self.run_connector_store.pop(number, None)
            self.run_series_store.pop(run.series_id, None)
            self.run_series_context_store.pop(run.series_id, None)


def lasting_factories(database: str, federation_manager: Any) -> tuple[ObjectStoreFactory, LinkStateFactory]:
    """What Flower's `get_objectstore_linkstate_factories` gives, for a state whose registrations last.

    Args:
        database: the SQLite file; that of a SuperLink which kept all in it does.
        federation_manager: Flower's.
    """
    objects = ObjectStoreFactory()
    objects.store_instance = parts = PartStore(Path(f"{database}-parts"))
    kept = SqlLinkState(database, federation_manager, InMemoryObjectStore())
    kept.initialize()
    states = LinkStateFactory(FLWR_IN_MEMORY_DB_NAME, federation_manager, objects)
    states.state_instance = LastingState(federation_manager, parts, kept)
    return objects, states
