"""A SuperLink that was killed knows its sites again and nobody else; what it holds meanwhile has bounds."""

from __future__ import annotations

import contextlib
import datetime
import gc
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Array, RecordDict
from flwr.common.constant import (
    HEARTBEAT_DEFAULT_INTERVAL,
    HEARTBEAT_MAX_INTERVAL,
    HEARTBEAT_PATIENCE,
    NOOP_ACCOUNT_NAME,
    NOOP_FLWR_AID,
    SUPERLINK_NODE_ID,
)
from flwr.common.serde import message_from_proto
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree, PullObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto
from flwr.proto.run_pb2 import GetRunRequest
from flwr.server.superlink.linkstate import in_memory_linkstate
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.constant import NOOP_FEDERATION_ID, NodeStatus, TaskType
from flwr.supercore.date import now
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.superlink import main
from flwr.superlink.federation import NoOpFederationManager
from starlette.middleware import Middleware

from server.line import lasting_state
from server.line.lasting_state import PartStore, lasting_factories
from server.line.superlink import ShortWay
from tests.server.line.test_superlink import SECRET, TYPE, Caller, signed

INTERVAL = 30.0
NORTH, SOUTH = b"key of north", b"key of south"
Start = Callable[[], Any]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Gives the state of a SuperLink of one folder; that of before is as if it had been killed."""

    def state() -> Any:
        return lasting_factories(str(tmp_path / "superlink.db"), NoOpFederationManager())[1].state()

    return state


def register(state: Any, key: bytes, name: str) -> int:
    return int(state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, INTERVAL, name=name))


def known(state: Any) -> dict[int, tuple[str, bytes, str, str]]:
    return {
        node.node_id: (node.name, node.public_key, node.owner_aid, node.status)
        for node in state.get_node_info()
    }


# -- registrations ----------------------------------------------------------------------------------------


def test_sites_are_as_they_were_when_the_superlink_was_killed(start: Start) -> None:
    state = start()
    north, south, west = (
        register(state, key, name) for key, name in ((NORTH, "north"), (SOUTH, "south"), (b"w", "west"))
    )
    assert state.activate_node(north, INTERVAL)
    assert state.activate_node(south, INTERVAL)
    assert state.deactivate_node(south)
    before = known(state)
    assert [before[node][3] for node in (north, south, west)] == [
        NodeStatus.ONLINE,
        NodeStatus.OFFLINE,
        NodeStatus.REGISTERED,
    ]
    again = start()
    assert known(again) == before
    assert again.get_node_id_by_public_key(NORTH) == north
    assert again.acknowledge_node_heartbeat(north, INTERVAL), "a site that stays connected need not come anew"
    assert again.activate_node(south, INTERVAL)


def test_a_site_that_was_silent_is_away_after_a_restart_as_before(start: Start) -> None:
    state = start()
    node = register(state, NORTH, "north")
    state.activate_node(node, 1e-6)
    assert known(state)[node][3] == NodeStatus.OFFLINE
    assert known(start())[node][3] == NodeStatus.OFFLINE


def test_no_site_says_for_how_long_it_may_be_silent(start: Start) -> None:
    """Flower takes up to half an hour, twice: so long would rounds wait for a site that has gone."""
    state, began = start(), time.time()
    node = register(state, NORTH, "north")
    assert state.activate_node(node, HEARTBEAT_MAX_INTERVAL)
    longest = HEARTBEAT_PATIENCE * HEARTBEAT_DEFAULT_INTERVAL
    assert began < state.nodes[node].online_until <= time.time() + longest
    assert start().nodes[node].online_until <= time.time() + longest
    assert state.acknowledge_node_heartbeat(node, HEARTBEAT_MAX_INTERVAL)
    assert began < state.nodes[node].online_until <= time.time() + longest


def test_a_revoked_key_is_refused_for_ever(start: Start) -> None:
    state = start()
    node = register(state, NORTH, "north")
    state.activate_node(node, INTERVAL)
    state.delete_node(NOOP_FLWR_AID, node)
    for one in (state, start(), start()):
        assert one.get_node_id_by_public_key(NORTH) is None
        assert not one.activate_node(node, INTERVAL)
        assert not one.acknowledge_node_heartbeat(node, INTERVAL)
        assert not one.deactivate_node(node)
        with pytest.raises(ValueError, match="already in use"):
            register(one, NORTH, "north again")
        with pytest.raises(ValueError, match="already deleted"):
            one.delete_node(NOOP_FLWR_AID, node)
        assert known(one) == {node: ("north", NORTH, NOOP_FLWR_AID, NodeStatus.UNREGISTERED)}


def test_no_key_takes_the_node_of_another(start: Start) -> None:
    state = start()
    north = register(state, NORTH, "north")
    state.activate_node(north, INTERVAL)
    before = known(state)
    with pytest.raises(ValueError, match="already in use"):
        register(state, NORTH, "south")
    with pytest.raises(ValueError, match="unauthorized"):
        state.delete_node("another owner", north)
    south = register(state, SOUTH, "north")  # a name is no key
    for one in (state, start()):
        assert {node: one for node, one in known(one).items() if node != south} == before
        assert one.get_node_id_by_public_key(NORTH) == north
        assert one.get_node_id_by_public_key(SOUTH) == south != north


def test_what_is_not_on_the_disk_is_not_said(start: Start, tmp_path: Path) -> None:
    """The operator is told that it failed, and may do it again: no site is in or out by half."""
    state = start()
    node = register(state, NORTH, "north")
    state.activate_node(node, INTERVAL)
    before = known(state)
    with contextlib.closing(sqlite3.connect(tmp_path / "superlink.db")) as other:
        for what in ("UPDATE", "INSERT"):
            other.execute(
                f"CREATE TRIGGER no_{what} BEFORE {what} ON node BEGIN SELECT RAISE(ABORT, 'full'); END"
            )
        for change in (
            lambda: state.delete_node(NOOP_FLWR_AID, node),
            lambda: register(state, SOUTH, "south"),
            lambda: state.deactivate_node(node),
        ):
            with pytest.raises((sa.exc.DBAPIError, AssertionError)):
                assert change()
            assert known(state) == before == known(start())
        for what in ("UPDATE", "INSERT"):
            other.execute(f"DROP TRIGGER no_{what}")
    state.delete_node(NOOP_FLWR_AID, node)
    assert register(state, SOUTH, "south")


def test_a_late_heartbeat_brings_no_revoked_site_back(start: Start) -> None:
    state = start()
    for number in range(5):
        key = b"%d" % number
        node = register(state, key, "north")
        state.activate_node(node, INTERVAL)
        told, first = threading.Event(), threading.Event()

        def beat(node: int = node, told: threading.Event = told, first: threading.Event = first) -> None:
            while state.acknowledge_node_heartbeat(node, INTERVAL):
                first.set()
            told.set()

        threads = [threading.Thread(target=beat) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert first.wait(60)
        state.delete_node(NOOP_FLWR_AID, node)
        for thread in threads:
            thread.join(60)
        assert told.is_set()
        assert state.get_node_id_by_public_key(key) is None
        assert known(state)[node][3] == NodeStatus.UNREGISTERED


def test_the_file_of_a_superlink_that_kept_everything_in_it_does(start: Start, tmp_path: Path) -> None:
    earlier = SqlLinkState(str(tmp_path / "superlink.db"), NoOpFederationManager(), InMemoryObjectStore())
    earlier.initialize()
    north, south = register(earlier, NORTH, "north"), register(earlier, SOUTH, "south")
    earlier.activate_node(north, INTERVAL)
    earlier.delete_node(NOOP_FLWR_AID, south)
    run = begin(earlier)
    before = known(earlier)
    state = start()
    assert known(state) == before
    assert state.get_node_id_by_public_key(SOUTH) is None
    assert not state.get_run_info(run_ids=[run])


# -- runs -------------------------------------------------------------------------------------------------


def begin(state: Any) -> int:
    task = TaskType.SERVER_APP
    return int(state.create_run("id", "1", "hash", {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, task))


def end(state: Any, run: int, log: str = "") -> None:
    (task,) = state.get_tasks(run_ids=[run])
    assert state.claim_task(task.task_id)
    assert state.activate_task(task.task_id)
    if log:
        state.add_task_log(task.task_id, log)
    assert state.finish_task(task.task_id, "completed", "")


def part(values: int, seed: int) -> Any:
    return Array(np.random.default_rng(seed).random(values))


def tree(one: Any) -> ObjectTree:
    return ObjectTree(
        object_id=one.object_id, children=[tree(child) for child in (one.children or {}).values()]
    )


def put(store: Any, one: Any, run: int) -> dict[str, bytes]:
    """Everything that this is made of, announced and kept."""
    waiting, found = [one], {}
    while waiting:
        item = waiting.pop()
        found[item.object_id] = item.deflate()
        waiting.extend((item.children or {}).values())
    store.preregister(run, tree(one))
    for name, content in found.items():
        store.put(name, content)
    return found


def test_of_runs_that_have_ended_only_the_last_are_known(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lasting_state, "_MOST_FINISHED", 3)
    state = start()
    long = begin(state)
    runs = []
    for number in range(20):
        runs.append(begin(state))
        put(state.object_store, part(4, number), runs[-1])
        end(state, runs[-1], log="a line")
    end(state, long)  # it began before all of them, and ends now
    waits = begin(state)
    assert set(state.run_ids) == {*runs[-2:], long, waits}
    assert {task.run_id for task in state.get_tasks()} == set(state.run_ids)
    assert set(state.task_logs) <= set(state.task_store)
    for store in (state.run_series_store, state.run_series_context_store):
        assert len(store) == len(state.run_ids)
    assert state.flwr_aid_to_run_ids[NOOP_FLWR_AID] == set(state.run_ids)
    assert set(state.object_store.run_objects_mapping) <= set(state.run_ids)
    assert state.get_run_info(run_ids=[long])[0].status.sub_status == "completed"


@pytest.mark.parametrize("killed", [False, True])
def test_what_a_site_never_fetches_is_gone_with_the_run(start: Start, tmp_path: Path, killed: bool) -> None:
    """A site that takes no message would have the server keep the models of all rounds, of a hundred runs."""
    state, kept = start(), tmp_path / "superlink.db-parts"
    node = register(state, NORTH, "north")
    state.activate_node(node, INTERVAL)
    for number in range(3):
        run = begin(state)
        put(state.object_store, part(lasting_state.LONG, number), run)
        ask(state, run, node, "abc"[number])
        assert list(kept.iterdir())
        if killed:
            (task,) = state.get_tasks(run_ids=[run])
            state.task_store[task.task_id].status.status = "finished"  # as Flower does where it hears nothing
        else:
            end(state, run)
            assert (list(kept.iterdir()), len(state.object_store), state.num_message_ins()) == ([], 0, 0)
    begin(state)
    assert (list(kept.iterdir()), len(state.object_store), state.num_message_ins()) == ([], 0, 0)


def test_thousands_of_runs_leave_nothing_that_grows(start: Start) -> None:
    """Whatever Flower keeps for a run, under whatever name: the second thousand adds nothing to the first."""
    state = start()

    def sizes() -> dict[str, int]:
        found = {
            **vars(state),
            **{f"object_store.{name}": value for name, value in vars(state.object_store).items()},
        }
        flat = {name: len(value) for name, value in found.items() if hasattr(value, "__len__")}
        within = {
            f"{name}.*": sum(len(one) for one in value.values() if hasattr(one, "__len__"))
            for name, value in found.items()
            if isinstance(value, dict)
        }
        return {**flat, **within}

    seen = []
    for _ in range(2):
        for number in range(500):
            run = begin(state)
            put(state.object_store, part(4, number), run)
            end(state, run, log="a line")
        gc.collect()
        seen.append(sizes())
    assert seen[0] == seen[1]
    assert len(state.run_ids) == lasting_state._MOST_FINISHED + 1


def ask(state: Any, run: int, node: int, name: str, ttl: float = 60.0) -> None:
    """Store a message for a node."""
    said = Metadata(
        run_id=run, message_id=name * 64, src_node_id=SUPERLINK_NODE_ID, dst_node_id=node, ttl=ttl,
        message_type="query", created_at=now().timestamp(),
    )  # fmt: skip
    message = message_from_proto(Message(metadata=said, content=RecordDictProto()))
    assert state.store_message_ins(message) == name * 64


def given(state: Any, node: int, limit: int | None = 1) -> list[str]:
    return [message.metadata.message_id[0] for message in state.get_message_ins(node, limit)]


def test_a_node_is_given_its_own_messages_once_in_their_order(start: Start) -> None:
    state = start()
    north, south = (register(state, key, name) for key, name in ((NORTH, "north"), (SOUTH, "south")))
    for node in (north, south):
        state.activate_node(node, INTERVAL)
    run = begin(state)
    for node, name in ((north, "a"), (south, "b"), (north, "c"), (north, "a"), (north, "d")):
        ask(state, run, node, name)
    assert [given(state, north), given(state, north)] == [["a"], ["c"]]
    ask(state, run, north, "a")  # its sender heard no answer
    assert given(state, north) == ["d"]
    assert given(state, north) == []
    assert given(state, south, None) == ["b"]
    assert set(state.message_ins_store) == {name * 64 for name in "abcd"}  # until they are answered


def test_a_message_that_has_expired_or_was_taken_out_is_given_to_nobody(start: Start) -> None:
    state = start()
    north = register(state, NORTH, "north")
    state.activate_node(north, INTERVAL)
    run = begin(state)
    for name in "abc":
        ask(state, run, north, name)
    state.message_ins_store["a" * 64].metadata.ttl = 0.0
    state.delete_messages({"b" * 64})
    assert given(state, north) == ["c"]
    assert set(state.message_ins_store) == {"c" * 64}


def test_a_look_for_messages_that_fails_loses_none(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    state = start()
    north = register(state, NORTH, "north")
    state.activate_node(north, INTERVAL)
    ask(state, begin(state), north, "a")
    with pytest.raises(AssertionError):
        given(state, north, 0)
    assert given(state, north) == ["a"]


def test_a_message_that_is_stored_while_another_expires_stops_nobody(start: Start) -> None:
    """A site may leave its sending unfinished, and finish it when others announce theirs."""
    state = start()
    node = register(state, NORTH, "north")
    state.activate_node(node, INTERVAL)
    run, inside = begin(state), threading.Event()

    def store_message(_message: Any) -> str:
        inside.set()
        return "stored"

    state.store_message_ins = store_message
    message: Any = SimpleNamespace(metadata=SimpleNamespace(reply_to_message_id=""))
    sent = ObjectTree(object_id="a" * 64), state.start_session(run)
    thread = threading.Thread(target=state.store_message_and_object_tree, args=(message, *sent))
    with state._lock_object_push_sessions:  # as `get_object` has it, which then takes the message out
        thread.start()
        inside.wait(1.0)
        assert state.lock.acquire(timeout=30), "each holds what the other waits for"
        state.lock.release()
    thread.join(60)
    assert inside.is_set()


def test_a_site_that_asks_for_a_run_of_before_is_told_no(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No 5xx, at which it would ask again and again: it drops its reply, and the run asks it anew."""
    key = ec.generate_private_key(ec.SECP384R1())
    public = public_key_to_bytes(key.public_key())
    state = start()
    node = register(state, public, "north")
    run = begin(state)
    again = start()
    usual = main._get_middleware
    monkeypatch.setattr(
        main, "_get_middleware", lambda: [Middleware(ShortWay, middlewares=usual(), secret=SECRET)]
    )
    app = main.create_app()
    app.state.linkstate_factory.state_instance = again
    caller = Caller(app)
    said = Metadata(
        run_id=run, message_id="a" * 64, src_node_id=node, dst_node_id=1, reply_to_message_id="b" * 64
    )
    site = Node(node_id=node)
    asked: dict[str, Any] = {
        "push-messages": PushMessagesRequest(
            node=site,
            messages_list=[Message(metadata=said)],
            message_object_trees=[ObjectTree(object_id="a" * 64)],
        ),
        "get-run": GetRunRequest(node=site, run_id=run),
        "pull-object": PullObjectRequest(node=site, run_id=run, object_id="a" * 64),
    }
    for what, request in asked.items():
        answer = caller.post(
            f"/v1/fleet/{what}", request.SerializeToString(), {**TYPE, **signed(key, public)}
        )
        assert 400 <= answer.status_code < 500, (what, answer.status_code, answer.text)
    pull = PullMessagesRequest(node=site).SerializeToString()
    monkeypatch.setattr("server.line.long_poll.HOLD", 0.0)
    assert caller.post("/v1/fleet/pull-messages", pull, {**TYPE, **signed(key, public)}).status_code == 200
    again.delete_node(NOOP_FLWR_AID, node)
    assert caller.post("/v1/fleet/pull-messages", pull, {**TYPE, **signed(key, public)}).status_code == 401


# -- the parts of messages --------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PartStore:
    monkeypatch.setattr(lasting_state, "LONG", 1000)
    return PartStore(tmp_path / "parts")


def files(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "parts").iterdir())


def test_a_long_part_is_a_file_for_as_long_as_it_is_kept(store: PartStore, tmp_path: Path) -> None:
    short, long = part(4, 1), part(1000, 2)
    for one in (short, long):
        for name, content in put(store, one, 1).items():
            assert store.get(name) == content
    assert files(tmp_path), "the long one"
    assert sum(len(entry.content) for entry in store.store.values()) < 2000
    put(store, long, 2)  # another run has it too
    assert store.preregister(3, tree(long)) == [], "it need not be sent again"
    store.delete_objects_in_run(1)
    store.delete(long.object_id)
    store.delete(short.object_id)
    assert (len(store), files(tmp_path), store.get(long.object_id)) == (0, [], None)


def test_a_long_part_that_is_not_what_it_says_leaves_nothing(store: PartStore, tmp_path: Path) -> None:
    long, other = part(1000, 1), part(1000, 2)
    store.preregister(1, tree(long))
    name, wrong = next(iter(put(InMemoryObjectStore(), long, 1))), max(contents(other).values(), key=len)
    with pytest.raises(ValueError, match="does not match"):
        store.put(name, wrong)
    unknown, content = max(contents(other).items(), key=lambda item: len(item[1]))
    with pytest.raises(Exception, match="not pre-registered"):
        store.put(unknown, content)
    assert (files(tmp_path), store.get(name)) == ([], b"")


def contents(one: Any) -> dict[str, bytes]:
    return put(InMemoryObjectStore(), one, 1)


def test_a_full_disk_keeps_no_half_of_a_part(
    store: PartStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = part(1000, 1)
    store.preregister(1, tree(long))
    name, content = max(contents(long).items(), key=lambda item: len(item[1]))

    def full(*_: Any, **__: Any) -> Any:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tempfile.NamedTemporaryFile", full)
        with pytest.raises(OSError, match="No space"):
            store.put(name, content)
    assert (files(tmp_path), store.get(name)) == ([], b"")
    store.put(name, content)
    assert store.get(name) == content


def test_a_part_that_is_sent_twice_at_once_is_kept_once(store: PartStore, tmp_path: Path) -> None:
    long = part(1000, 1)
    store.preregister(1, tree(long))
    name, content = max(contents(long).items(), key=lambda item: len(item[1]))
    threads = [threading.Thread(target=store.put, args=(name, content)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert store.get(name) == content
    assert len(files(tmp_path)) == 1


def sending(state: Any, long: Any) -> tuple[int, str, str, bytes]:
    """A run, a sending of it in which this is announced, and the name and bytes of what is long of it."""
    run = begin(state)
    session = state.start_session(run)
    state.preregister_object_tree(tree(long), session)
    name, content = max(contents(long).items(), key=lambda item: len(item[1]))
    return run, session, name, content


def test_a_long_part_holds_up_nobody_while_it_is_written_or_read(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flower has one lock for all that is sent, and would hash and write megabytes under it."""
    monkeypatch.setattr(lasting_state, "LONG", 1000)
    state, free = start(), []
    run, session, name, content = sending(state, part(1000, 1))

    def look(usual: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            def other() -> None:
                free.append(state._lock_object_push_sessions.acquire(timeout=30))
                if free[-1]:
                    state._lock_object_push_sessions.release()

            thread = threading.Thread(target=other)
            thread.start()
            thread.join(60)
            return usual(*arguments, **named)

        return called

    monkeypatch.setattr(lasting_state, "get_object_id", look(lasting_state.get_object_id))
    assert state.store_object(run, session, name, content)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", look(Path.open))
        assert state.get_object(run, name) == content
    assert free == [True, True]


def test_a_long_part_is_kept_only_where_it_was_announced_and_is_what_it_says(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lasting_state, "LONG", 1000)
    state, kept = start(), tmp_path / "superlink.db-parts"
    run, session, name, content = sending(state, part(1000, 1))
    written: list[object] = []
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.NamedTemporaryFile", lambda *_, **__: written.append(1))
        assert not state.store_object(run, "another sending", name, content)
        assert not state.store_object(run, session, "f" * 64, content)
    assert written == []  # what nobody waits for is not even written
    assert not state.store_object(run + 1, session, name, content)
    assert not state.store_object(run, session, name, content + b"x")
    assert (list(kept.iterdir()), state.get_object(run, name)) == ([], b"")
    assert state.store_object(run, session, name, content)
    assert not state.store_object(run, session, name, content)
    assert (len(list(kept.iterdir())), state.get_object(run, name)) == (1, content)


def test_a_full_disk_is_a_part_that_is_not_stored(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lasting_state, "LONG", 1000)
    state = start()
    run, session, name, content = sending(state, part(1000, 1))

    def full(*_: Any, **__: Any) -> Any:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tempfile.NamedTemporaryFile", full)
        assert not state.store_object(run, session, name, content)
    assert state.store_object(run, session, name, content)
    assert len(list((tmp_path / "superlink.db-parts").iterdir())) == 1


def test_what_a_killed_superlink_left_is_removed_and_nobody_else_may_read(
    store: PartStore, tmp_path: Path
) -> None:
    put(store, RecordDict({}), 1)
    put(store, part(1000, 1), 1)
    assert files(tmp_path)
    assert all(path.stat().st_mode & 0o077 == 0 for path in [tmp_path / "parts", *files(tmp_path)])
    PartStore(tmp_path / "parts")
    assert files(tmp_path) == []


def test_a_heartbeat_asks_no_disk_and_still_keeps_a_second_agent_out(start: Start) -> None:
    """The database may take a site for gone that was heard a moment ago: memory knows better."""
    state = start()
    node = register(state, b"key", "north")
    assert state.activate_node(node, INTERVAL)
    kept = state._kept
    assert kept.deactivate_node(node)  # as where its time is over, which no heartbeat has moved on the disk
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept, "session", None)
        assert state.acknowledge_node_heartbeat(node, INTERVAL)
        assert not state.activate_node(node, INTERVAL)
    assert state.deactivate_node(node)
    assert not state.deactivate_node(node)
    assert state.activate_node(node, INTERVAL)


def test_a_clock_that_is_set_back_keeps_no_site_there_that_is_gone(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor out, where its agent was started again: a site is let in once it is no more there."""
    state = start()
    node = register(state, NORTH, "north")
    assert state.activate_node(node, INTERVAL)
    back = datetime.timedelta(hours=-1)

    def set_clock(later: float) -> None:
        for module in (in_memory_linkstate, lasting_state):
            monkeypatch.setattr(module, "now", lambda: now() + back + datetime.timedelta(seconds=later))

    set_clock(0)
    assert known(state)[node][3] == NodeStatus.ONLINE
    set_clock(3 * INTERVAL)
    assert known(state)[node][3] == NodeStatus.OFFLINE
    assert state.activate_node(node, INTERVAL)
