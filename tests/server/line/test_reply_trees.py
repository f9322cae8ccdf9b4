"""A site says what its reply is made of: nobody else is touched, and it stands for no more than it says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import NOOP_FLWR_AID, SUPERLINK_NODE_ID
from flwr.common.serde import message_from_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.superlink import main
from flwr.superlink.federation import NoOpFederationManager
from starlette.middleware import Middleware

from contract.messages import Instruction
from server.line.flower import MOST_OBJECTS
from server.line.lasting_state import lasting_factories
from server.line.superlink import ShortWay
from tests.server.line.test_superlink import SECRET, TYPE, Caller, signed

KEY = ec.generate_private_key(ec.SECP384R1())
PUBLIC = public_key_to_bytes(KEY.public_key())
WIDE = MOST_OBJECTS - 3


def name(word: str) -> str:
    return hashlib.sha256(word.encode()).hexdigest()


def tree(word: str, *children: ObjectTree) -> ObjectTree:
    return ObjectTree(object_id=name(word), children=children)


class SuperLink:
    """Its state, a run of it that goes on, and two sites."""

    def __init__(self, folder: Path) -> None:
        self.state: Any = lasting_factories(str(folder / "superlink.db"), NoOpFederationManager())[1].state()
        self.hostile, self.other = (self._site(key) for key in (PUBLIC, b"another's key"))
        self.run = self.state.create_run(
            "id", "1", "hash", {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        (task,) = self.state.get_tasks(run_ids=[self.run])
        assert self.state.claim_task(task.task_id)
        assert self.state.activate_task(task.task_id)

    def _site(self, key: bytes) -> int:
        node = int(self.state.create_node(NOOP_FLWR_AID, "", key, 30.0, name="a site"))
        assert self.state.activate_node(node, 30.0)
        return node

    def said(self, word: str, node: int, answers: str = "") -> Metadata:
        sides = {"src_node_id": SUPERLINK_NODE_ID, "dst_node_id": node}
        if answers:
            sides = {"src_node_id": node, "dst_node_id": SUPERLINK_NODE_ID}
        return Metadata(
            run_id=self.run,
            message_id=name(word),
            reply_to_message_id=name(answers) if answers else "",
            ttl=60.0 if answers else 600.0,
            message_type="query",
            created_at=now().timestamp(),
            **sides,
        )

    def announce(self, said: Metadata, made_of: ObjectTree) -> tuple[str, list[str]]:
        """As Flower's handlers do; the sending, and the parts that are wanted."""
        message = message_from_proto(Message(metadata=said, content=RecordDictProto()))
        session = self.state.start_session(self.run)
        _, wanted = self.state.store_message_and_object_tree(message, made_of, session)
        return session, wanted

    def ask(self, word: str, node: int, *parts: ObjectTree) -> tuple[str, list[str]]:
        return self.announce(self.said(word, node), tree(word, *parts))

    def reply(self, word: str, answers: str, *parts: ObjectTree) -> tuple[str, list[str]]:
        return self.announce(self.said(word, self.hostile, answers), tree(word, *parts))

    def whole(self, word: str) -> ObjectTree:
        found: ObjectTree = self.state.object_store.get_object_tree(name(word))
        return found


@pytest.fixture
def superlink(tmp_path: Path) -> SuperLink:
    return SuperLink(tmp_path)


def count(one: ObjectTree) -> int:
    return 1 + sum(map(count, one.children))


def test_a_few_parts_stand_for_themselves_and_not_for_millions(superlink: SuperLink) -> None:
    """Each announcement has the parts that it may, and makes the last one's part of thirteen of the next."""
    for question in ("first", "second"):
        superlink.ask(question, superlink.hostile)
    refused, level = 0, 0
    for level in range(1, 5):
        step = tree(f"step {level}", *[tree(f"step {level - 1}")] * WIDE)
        assert count(tree("reply", step)) <= MOST_OBJECTS
        try:
            superlink.reply("reply", "first", step)
        except ValueError:
            refused += 1
    assert refused == 3
    superlink.reply("another", "second", tree(f"step {level}"))
    assert count(superlink.whole("another")) <= MOST_OBJECTS
    with pytest.raises(ValueError, match="made of others"):  # nor in one announcement
        superlink.reply("another", "second", tree("x", tree("y")), tree("x"))


def test_a_reply_that_is_announced_with_other_parts_again_is_refused(
    superlink: SuperLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each request leaves fifteen parts more in the server's memory."""
    usual = main._get_middleware
    monkeypatch.setattr(
        main, "_get_middleware", lambda: [Middleware(ShortWay, middlewares=usual(), secret=SECRET)]
    )
    app = main.create_app()
    app.state.linkstate_factory.state_instance = superlink.state
    superlink.ask("question", superlink.hostile)

    def announced(*parts: ObjectTree) -> int:
        said = superlink.said("reply", superlink.hostile, "question")
        request = PushMessagesRequest(
            node=Node(node_id=superlink.hostile),
            messages_list=[Message(metadata=said, content=RecordDictProto())],
            message_object_trees=[tree("reply", *parts)],
        )
        headers = {**TYPE, **signed(KEY, PUBLIC)}
        return Caller(app).post("/v1/fleet/push-messages", request.SerializeToString(), headers).status_code

    assert announced(tree("part")) == 200
    assert announced(tree("part")) == 200, "as after a line that was cut"
    before = len(superlink.state.object_store)
    for number in range(5):
        assert announced(*(tree(f"part {number} {place}") for place in range(WIDE))) == 400
    assert len(superlink.state.object_store) == before
    assert len(superlink.state._object_push_sessions) <= 2, "the ServerApp's, and one of the site"


def test_a_reply_that_nobody_wants_leaves_nothing(superlink: SuperLink) -> None:
    """Flower begins a sending for each, and ends one of which nothing is wanted with the run."""
    before = len(superlink.state._object_push_sessions)
    for number in range(20):
        assert superlink.reply(f"reply {number}", "a message that nobody sent", tree("part"))[1] == []
    assert len(superlink.state._object_push_sessions) == before


def foreseen() -> dict[str, bytes]:
    """The parts of what the ServerApp asks next, which a site works out from what it was asked before."""
    records = Instruction(run="heart-2026-W06", windows=("2026-W06",)).to_records()
    return {part: one.deflate() for part, one in get_all_nested_objects(records).items()}


def leaf(part: str) -> ObjectTree:
    return ObjectTree(object_id=part)


LIES: dict[str, Callable[[str, str], tuple[ObjectTree, ...]]] = {
    "nothing is in it": lambda inner, outer: (leaf(outer),),
    "nothing is in it, and it is beside": lambda inner, outer: (leaf(outer), leaf(inner)),
    "something is in it that never comes": lambda inner, outer: (
        ObjectTree(object_id=outer, children=[ObjectTree(object_id=inner, children=[tree("never")])]),
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_site_that_foresees_a_message_takes_nothing_out_of_it(superlink: SuperLink, lie: str) -> None:
    """The parts of a round's messages are shared by all sites: a lie about one would be told to all."""
    parts = foreseen()
    inner, outer = parts
    superlink.ask("before", superlink.hostile)
    session, _ = superlink.reply("reply", "before", *LIES[lie](inner, outer))

    honest = ObjectTree(object_id=outer, children=[leaf(inner)])
    sending, wanted = superlink.ask("next", superlink.other, honest)
    assert set(wanted) == {inner, outer, name("next")}
    for part, content in parts.items():
        assert superlink.state.store_object(superlink.run, sending, part, content)
    assert superlink.whole("next") == tree("next", honest)

    superlink.state._cleanup_push_session(session, cleanup_messages=True)  # as where the site is refused
    superlink.state.object_store.delete(name("reply"))
    assert superlink.whole("next") == tree("next", honest)
    store = superlink.state.object_store
    assert {part: store.get(part) for part in parts} == parts
    store.delete(name("next"))
    assert not parts.keys() & store.store.keys(), "and nobody keeps them afterwards"


def test_a_part_is_not_kept_under_what_a_site_says_it_is_made_of(superlink: SuperLink) -> None:
    parts = foreseen()
    inner, outer = parts
    superlink.ask("before", superlink.hostile)
    session, _ = superlink.reply("reply", "before", leaf(outer), leaf(inner))
    assert not superlink.state.store_object(superlink.run, session, outer, parts[outer])
    assert superlink.state.store_object(superlink.run, session, inner, parts[inner])
