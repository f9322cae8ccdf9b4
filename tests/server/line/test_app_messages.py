"""What the ServerApp sends and gets together: the same as one after another, and for nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse, PushMessagesRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PushObjectRequest
from flwr.proto.message_pb2 import Message as EnvelopeProto
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse
from flwr.supercore.constant import TASK_TOKEN_HEADER
from flwr.supercore.inflatable.inflatable_object import get_object_id
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.interceptors.http import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.run import Run
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink import main
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid import http_grid
from flwr.superlink.grid.http_grid import HttpGrid
from starlette.middleware import Middleware

from clients.line.packing import PackedReply, pack
from contract.whole import MOST_TOGETHER, PULL, PUSH, join, object_names, split
from server.line.app_messages import APP_PULL, APP_PUSH, FILE, MOST_MESSAGES, pull_messages, push_messages
from server.line.flower import MOST_OBJECTS, NO_ANSWER, UNREADABLE, assume_identity
from server.line.lasting_state import lasting_factories
from server.line.secret import HEADER, Sends
from server.line.superlink import ShortWay
from tests.server.line.test_lasting_state import INTERVAL, begin, register
from tests.server.line.test_superlink import SECRET, TYPE, Caller, signed

SITES = ("north", "south", "west")


class Wire(httpx.BaseTransport):
    """Asks an app of this process, and remembers which paths."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.paths: list[str] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.paths.append(request.url.path)

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url="https://superlink") as client:
                return await client.send(request_of(client, request))

        answer = asyncio.run(ask())
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


def request_of(client: httpx.AsyncClient, request: httpx.Request) -> httpx.Request:
    return client.build_request(request.method, request.url, headers=request.headers, content=request.content)


class Link:
    """A SuperLink in this process, with three sites and a run."""

    def __init__(self, folder: Path, middlewares: list[Middleware] | None = None) -> None:
        usual = main._get_middleware
        patch = pytest.MonkeyPatch()
        chosen = middlewares or [Middleware(ShortWay, middlewares=usual(), secret=SECRET)]
        patch.setattr(main, "_get_middleware", lambda: chosen)
        app = main.create_app()
        patch.undo()
        factory = lasting_factories(str(folder / "superlink.db"), NoOpFederationManager())[1]
        self.state: Any = factory.state()
        app.state.linkstate_factory.state_instance = self.state
        self.caller, self.wire = Caller(app), Wire(app)
        self.keys = {name: ec.generate_private_key(ec.SECP384R1()) for name in SITES}
        self.nodes = {
            name: register(self.state, public_key_to_bytes(key.public_key()), name)
            for name, key in self.keys.items()
        }
        for node in self.nodes.values():
            assert self.state.activate_node(node, INTERVAL)

    def run(self) -> tuple[int, str]:
        """A run that goes on, and its token."""
        run = begin(self.state)
        (task,) = self.state.get_tasks(run_ids=[run])
        token = self.state.claim_task(task.task_id)
        assert self.state.activate_task(task.task_id)
        return run, token

    def grid(self, run: int, token: str, secret: str = SECRET) -> HttpGrid:
        grid = HttpGrid(token=token)
        grid.set_run(Run.create_empty(run))
        client = RuntimeHttpClient(
            "https://superlink",
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="flwr-serverapp"),
                RuntimeTokenHttpInterceptor(token=token),
                Sends(secret),
            ],
        )
        client._client = httpx.Client(transport=self.wire)
        grid._client = client
        return grid

    def ask(self, site: str, path: str, *parts: Any) -> list[bytes]:
        key = self.keys[site]
        content = join([part.SerializeToString() for part in parts])
        answer = self.caller.post(
            path, content, {**TYPE, **signed(key, public_key_to_bytes(key.public_key()))}
        )
        assert answer.status_code == 200, answer.text
        return split(answer.content, most=64)

    def message(self, site: str) -> Message:
        """The message that is for this site."""
        found, *objects = self.ask(site, PULL, PullMessagesRequest(node=Node(node_id=self.nodes[site])))
        told = PullMessagesResponse.FromString(found)
        names = list(object_names(told.message_object_trees[0]))
        assert len(names) == len(objects)
        name = told.messages_list[0].metadata.message_id
        message: Any = inflate_object_from_contents(name, dict(zip(names, objects, strict=True)))
        message.metadata.__dict__["_message_id"] = name
        assume_identity(message.metadata.run_id, self.nodes[site])
        return message  # type: ignore[no-any-return]

    def reply(self, site: str, message: Message, value: bytes) -> PackedReply:
        return pack(
            Message(RecordDict({"reply": ConfigRecord({"value": value})}), reply_to=message), to=message
        )

    def push(self, site: str, reply: PackedReply, contents: Mapping[str, bytes] | None = None) -> None:
        node = Node(node_id=self.nodes[site])
        envelope = EnvelopeProto.FromString(reply.envelope)
        objects = reply.objects if contents is None else contents
        self.ask(
            site,
            PUSH,
            PushMessagesRequest(
                node=node,
                messages_list=[envelope],
                message_object_trees=[ObjectTree.FromString(reply.tree)],
                clientapp_runtime_list=[0.0],
            ),
            *(
                PushObjectRequest(node=node, run_id=reply.run, object_id=name, object_content=content)
                for name, content in objects.items()
            ),
            ConfirmMessageReceivedRequest(
                node=node, run_id=reply.run, message_object_id=envelope.metadata.reply_to_message_id
            ),
        )


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.line.long_poll._APP_HOLD", 0.0)
    monkeypatch.setattr("server.line.long_poll._PART_HOLD", 0.0)
    monkeypatch.setattr("server.line.long_poll.HOLD", 0.0)
    monkeypatch.setattr("server.line.arrivals._LOOKS", 0.0)
    usual = http_grid.pull_objects

    def briefly(*arguments: Any, **named: Any) -> Any:
        return usual(*arguments, **{**named, "max_time": 0.1, "initial_backoff": 0.02})

    monkeypatch.setattr(http_grid, "pull_objects", briefly)


@pytest.fixture
def link(tmp_path: Path) -> Link:
    return Link(tmp_path)


def questions(link: Link, run: int, value: bytes = b"model") -> list[Message]:
    assume_identity(run)
    content = RecordDict({"question": ConfigRecord({"value": value, "empty": ""})})
    return [Message(content, dst_node_id=node, message_type="query") for node in link.nodes.values()]


def values(messages: list[Message]) -> set[bytes]:
    return {bytes(message.content.config_records["reply"]["value"]) for message in messages}  # type: ignore[arg-type]


def asked(link: Link) -> tuple[HttpGrid, list[str], dict[str, Message]]:
    """A run that has asked all sites, and what each was asked."""
    run, token = link.run()
    grid = link.grid(run, token)
    names = push_messages(grid, questions(link, run))
    messages = {site: link.message(site) for site in SITES}
    assert [message.metadata.message_id for message in messages.values()] == names
    link.wire.paths.clear()
    return grid, names, messages


def test_a_round_is_two_requests_of_the_server_app(link: Link) -> None:
    run, token = link.run()
    grid = link.grid(run, token)
    names = push_messages(grid, questions(link, run))
    for site in SITES:
        message = link.message(site)
        assert message.content.config_records["question"]["value"] == b"model"
        link.push(site, link.reply(site, message, site.encode()))
    found = list(pull_messages(grid, names))
    assert values(found) == {site.encode() for site in SITES}
    assert {one.metadata.reply_to_message_id for one in found} == set(names)
    assert {one.metadata.src_node_id for one in found} == set(link.nodes.values())
    assert link.wire.paths == [APP_PUSH, APP_PULL]
    assert len(link.state.object_store) == 0  # each reply, and each question, has been confirmed


def test_a_reply_comes_once(link: Link) -> None:
    grid, names, messages = asked(link)
    link.push("north", link.reply("north", messages["north"], b"n"))
    assert values(list(pull_messages(grid, names))) == {b"n"}
    assert list(pull_messages(grid, names[1:])) == []
    link.push("south", link.reply("south", messages["south"], b"s"))
    assert values(list(pull_messages(grid, names[1:]))) == {b"s"}


def test_a_long_question_goes_as_flower_has_it(link: Link) -> None:
    run, token = link.run()
    push_messages(link.grid(run, token), questions(link, run, bytes(MOST_TOGETHER + 1)))
    assert APP_PUSH not in link.wire.paths
    assert link.wire.paths.count("/v1/runtime/push-object") == len(SITES) + 2


def test_a_long_reply_goes_alone_and_no_short_one_waits_for_it(link: Link) -> None:
    grid, names, messages = asked(link)
    long = bytes(MOST_TOGETHER)
    for site, value in (("north", long), ("south", b"s"), ("west", b"w")):
        link.push(site, link.reply(site, messages[site], value))
    found = list(pull_messages(grid, names))
    assert values(found[:2]) == {b"s", b"w"}
    assert values(found[2:]) == {long}
    assert link.wire.paths.count("/v1/runtime/pull-object") == 2  # the long object is read from its file
    assert link.wire.paths.count("/v1/runtime/confirm-message-received") == 1
    assert len(link.state.object_store) == 0


def gone(path: Path) -> None:
    path.unlink()


def of_another(path: Path) -> None:
    path.write_bytes(b"another's")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("change", [gone, of_another, a_folder])
def test_a_file_that_is_not_what_it_was_is_not_read(
    link: Link, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in another container than the SuperLink's: there the ServerApp asks for what was in it."""
    grid, names, messages = asked(link)
    long = bytes(MOST_TOGETHER)
    link.push("north", link.reply("north", messages["north"], long))
    given = link.state.object_store.file_of

    def elsewhere(name: str) -> Path | None:
        path = given(name)
        if path is None:
            return None
        copy = path.with_name("elsewhere")
        copy.write_bytes(path.read_bytes())
        change(copy)
        return Path(copy)

    monkeypatch.setattr(link.state.object_store, "file_of", elsewhere)
    assert values(list(pull_messages(grid, names))) == {long}
    assert link.wire.paths.count("/v1/runtime/pull-object") == 3


def test_no_other_run_is_told_of_a_file(link: Link) -> None:
    grid, names, messages = asked(link)
    link.push("north", link.reply("north", messages["north"], bytes(MOST_TOGETHER)))
    _, other = link.run()
    question = join([PullAppMessagesRequest(message_ids=names).SerializeToString()])
    answer = link.caller.post(APP_PULL, question, {**TYPE, TASK_TOKEN_HEADER: other})
    assert answer.status_code >= 400
    assert FILE.encode() not in answer.content
    key = link.keys["north"]
    answer = link.caller.post(
        APP_PULL, question, {**TYPE, **signed(key, public_key_to_bytes(key.public_key()))}
    )
    assert answer.status_code >= 400
    assert FILE.encode() not in answer.content
    assert len(values(list(pull_messages(grid, names)))) == 1


def test_all_replies_together_have_one_bound(link: Link) -> None:
    grid, names, messages = asked(link)
    for site in SITES:
        link.push(site, link.reply(site, messages[site], site.encode() * (MOST_TOGETHER // 12)))
    assert len(values(list(pull_messages(grid, names)))) == 3
    assert link.wire.paths.count("/v1/runtime/pull-object") > 0


def test_many_messages_are_sent_in_several_requests(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.line.app_messages.MOST_MESSAGES", 2)
    _, names, _ = asked(link)
    assert len(set(names)) == len(SITES)


def test_a_stock_superlink_is_asked_for_one_after_another(tmp_path: Path) -> None:
    link = Link(tmp_path, main._get_middleware())
    run, token = link.run()
    grid = link.grid(run, token)
    names = push_messages(grid, questions(link, run))
    assert len(set(names)) == len(SITES)
    list(pull_messages(grid, names))
    assert link.wire.paths.count(APP_PUSH) == 1
    assert APP_PULL not in link.wire.paths  # it was not asked twice what it does not know


# -- who may ------------------------------------------------------------------------------------------------


def refused(link: Link, path: str, grid: HttpGrid, content: bytes) -> int:
    client: Any = grid._client
    answer = client._client.post(
        f"https://superlink{path}",
        content=content,
        headers={**TYPE, TASK_TOKEN_HEADER: grid._token, HEADER: client._interceptors[-1]._secret},
    )
    assert answer.status_code >= 400, answer.content
    return int(answer.status_code)


@pytest.mark.parametrize("path", [APP_PULL, APP_PUSH])
def test_who_has_not_the_secret_or_no_token_gets_nothing(link: Link, path: str) -> None:
    grid, names, messages = asked(link)
    link.push("north", link.reply("north", messages["north"], b"n"))
    run, token = grid.run.run_id, grid._token
    question = PullAppMessagesRequest(message_ids=names).SerializeToString()
    content = join([question if path == APP_PULL else b""])
    for secret, of_run in (("", token), ("0" * 64, token), (SECRET, "a token of nobody's")):
        stranger = link.grid(run, of_run, secret)
        with pytest.raises(httpx.HTTPStatusError, match=r"40[13]"):
            list(pull_messages(stranger, names))
        with pytest.raises(httpx.HTTPStatusError, match=r"40[13]"):
            push_messages(stranger, questions(link, run, b"mine"))
        assert refused(link, path, stranger, content) in (401, 403)
    assert values(list(pull_messages(grid, names))) == {b"n"}
    key = link.keys["north"]
    headers = {**TYPE, **signed(key, public_key_to_bytes(key.public_key()))}
    answer = link.caller.post(path, content, headers)
    assert answer.status_code == 401  # a site's signature is no token


def test_another_runs_server_app_gets_no_reply_and_takes_none_away(link: Link) -> None:
    grid, names, messages = asked(link)
    link.push("north", link.reply("north", messages["north"], b"n"))
    other_run, other_token = link.run()
    other = link.grid(other_run, other_token)
    with pytest.raises(httpx.HTTPStatusError):
        list(pull_messages(other, names))
    with pytest.raises(httpx.HTTPStatusError):
        push_messages(other, questions(link, grid.run.run_id, b"in its name"))
    assert values(list(pull_messages(grid, names))) == {b"n"}


NESTED = ObjectTree(children=[ObjectTree()] * 2**20).SerializeToString()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00",
        b"\xff\xff\xff\xff",
        join([b"\xff\xff"]),
        join([NESTED]),
        join([b""] * (MOST_OBJECTS + MOST_MESSAGES + 1)),
    ],
)
@pytest.mark.parametrize("path", [APP_PULL, APP_PUSH])
def test_what_is_no_such_request_is_refused(link: Link, path: str, content: bytes) -> None:
    """The nested one takes forty times its bytes once it is read: it is not."""
    run, token = link.run()
    assert refused(link, path, link.grid(run, token), content) == 400


# -- what a site may do with its reply ----------------------------------------------------------------------


def failed(found: list[Message]) -> dict[str, int]:
    return {one.metadata.reply_to_message_id: one.error.code for one in found if one.has_error()}


def good(found: list[Message]) -> set[bytes]:
    return values([one for one in found if one.has_content()])


def the_others(link: Link, messages: dict[str, Message]) -> None:
    for site in ("south", "west"):
        link.push(site, link.reply(site, messages[site], site.encode()))


def test_a_reply_of_which_a_part_is_missing_costs_no_other(link: Link) -> None:
    grid, names, messages = asked(link)
    reply = link.reply("north", messages["north"], b"n")
    link.push("north", reply, dict(list(reply.objects.items())[-1:]))  # its own object alone
    the_others(link, messages)
    found = list(pull_messages(grid, names))
    assert good(found[:2]) == {b"south", b"west"}
    assert set(failed(found)) == {names[0]}
    assert set(failed(found).values()) <= NO_ANSWER


def test_a_reply_on_its_way_is_not_given_before_it_is_whole(link: Link) -> None:
    grid, names, messages = asked(link)
    reply = link.reply("north", messages["north"], b"n")
    link.push("north", reply, {})
    the_others(link, messages)
    assert good(list(pull_messages(grid, names))) == {b"south", b"west"}
    link.push("north", reply)
    assert good(list(pull_messages(grid, names[:1]))) == {b"n"}


def test_an_object_that_is_not_what_its_name_says_is_not_given(link: Link) -> None:
    grid, names, messages = asked(link)
    reply = link.reply("north", messages["north"], b"n")
    link.push("north", reply, dict.fromkeys(reply.objects, b"another"))
    the_others(link, messages)
    found = list(pull_messages(grid, names))
    assert good(found) == {b"south", b"west"}
    assert failed(found) == {}


def test_bytes_that_are_no_message_are_one_error_for_that_site(link: Link) -> None:
    grid, names, messages = asked(link)
    honest = link.reply("north", messages["north"], b"n")
    # Flower looks at an object's head alone: the body may be anything
    objects, tree = {}, ObjectTree.FromString(honest.tree)

    def change(part: ObjectTree) -> None:
        head, divider, body = honest.objects[part.object_id].partition(b"\x00")
        for child in part.children:
            before = child.object_id
            change(child)
            head = head.replace(before.encode(), child.object_id.encode())
        changed = head + divider + b"\xff" * len(body)
        part.object_id = get_object_id(changed)
        objects[part.object_id] = changed

    change(tree)
    envelope = EnvelopeProto.FromString(honest.envelope)
    envelope.metadata.message_id = tree.object_id
    hostile = PackedReply(
        run=honest.run, envelope=envelope.SerializeToString(), tree=tree.SerializeToString(), objects=objects
    )
    link.push("north", hostile)
    the_others(link, messages)
    found = list(pull_messages(grid, names))
    assert good(found) == {b"south", b"west"}
    assert failed(found) == {names[0]: UNREADABLE}


def test_a_reply_that_names_anothers_message_answers_its_own_alone(link: Link) -> None:
    grid, names, messages = asked(link)
    the_others(link, messages)
    theirs = link.reply("north", messages["south"], b"forged")
    envelope = EnvelopeProto.FromString(theirs.envelope)
    envelope.metadata.src_node_id = link.nodes["north"]
    link.push("north", PackedReply(**{**vars(theirs), "envelope": envelope.SerializeToString()}), {})
    found = list(pull_messages(grid, names))
    assert good(found) == {b"south", b"west"}


def test_what_is_found_is_flowers_own_answer(link: Link) -> None:
    """The first part is what the question alone would be answered with."""
    grid, names, messages = asked(link)
    the_others(link, messages)
    client: Any = grid._client
    answer = client._client.post(
        f"https://superlink{APP_PULL}",
        content=join([PullAppMessagesRequest(message_ids=names).SerializeToString()]),
        headers={**TYPE, TASK_TOKEN_HEADER: grid._token, HEADER: SECRET},
    )
    first, *objects = split(answer.content, most=100)
    told = PullAppMessagesResponse.FromString(first)
    assert [len(list(object_names(tree))) for tree in told.message_object_trees] == [3, 3]
    assert all(
        get_object_id(content) == name.decode()
        for name, content in zip(objects[::2], objects[1::2], strict=True)
    )
