"""Flower's private modules, as our two adapters use them: written for flwr 1.42.0.

When another version is installed, this says in one place what to look at in `clients/line/` (`flower.py`
and `packing.py`) and `server/line/` (`flower.py`, `superlink.py`, `in_place.py`, `lasting_state.py` and
`replies.py`), before anything else fails in some stranger way.
"""

from __future__ import annotations

import importlib
import inspect
from importlib.metadata import version
from typing import Any

import pytest
from starlette.middleware.base import BaseHTTPMiddleware

WRITTEN_FOR = "1.42.0"
TAKEN = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.KEYWORD_ONLY,
)

# Module and attribute, and the names of the parameters (of a class: of its construction) that we count on.
CALLED: dict[str, tuple[str, ...]] = {
    "flwr.app.message.remove_content_from_message": ("message",),
    "flwr.cli.build.build_fab_from_files": ("files",),
    "flwr.server.superlink.linkstate.LinkStateFactory": (
        "database", "federation_manager", "objectstore_factory",
    ),
    "flwr.server.superlink.linkstate.in_memory_linkstate.InMemoryLinkState": (
        "federation_manager", "object_store",
    ),
    "flwr.server.superlink.linkstate.sql_linkstate.SqlLinkState": (
        "database_path", "federation_manager", "object_store",
    ),
    "flwr.superlink.main.get_objectstore_linkstate_factories": ("database", "federation_manager"),
    "flwr.common.config.get_fused_config_from_fab": ("fab_file", "run"),
    "flwr.common.serde.fab_to_proto": ("fab",),
    "flwr.common.serde.message_from_proto": ("message_proto",),
    "flwr.common.serde.message_to_proto": ("message",),
    "flwr.common.serde.user_config_to_proto": ("user_config",),
    "flwr.supercore.control.ControlHttpClient.from_server_address": (
        "server_address", "insecure", "root_certificates", "interceptors",
    ),
    "flwr.supercore.fab.Fab": ("hash_str", "content", "verifications"),
    "flwr.supercore.inflatable.inflatable_object._get_computed_object_ids": (),
    "flwr.supercore.inflatable.inflatable_object.get_object_id": ("object_content",),
    "flwr.supercore.inflatable.inflatable_object.get_object_tree": ("obj",),
    "flwr.supercore.inflatable.inflatable_object.iterate_object_tree": ("tree",),
    "flwr.supercore.inflatable.inflatable_object.no_object_id_recompute": (),
    "flwr.supercore.inflatable.inflatable_utils.ObjectUnavailableError": ("object_id",),
    "flwr.supercore.inflatable.inflatable_utils.inflate_object_from_contents": (
        "object_id", "object_contents",
    ),
    "flwr.supercore.inflatable.inflatable_utils.validate_object_content": ("content",),
    "flwr.supercore.interceptors.http.runtime_version.RuntimeVersionHttpInterceptor": ("component_name",),
    "flwr.supercore.primitives.asymmetric.public_key_to_bytes": ("public_key",),
    "flwr.supercore.protobuf.client.ProtobufClient._unary_unary": (
        "self", "path", "rpc_method", "request", "response_type",
    ),
    "flwr.superlink.cli.flower_superlink.flower_superlink": (),
    "flwr.superlink.grid.http_grid.pull_objects": (
        "object_ids", "pull_object_fn", "initial_backoff", "backoff_cap",
    ),
    "flwr.supercore.dependencies.runtime.get_runtime_handlers": ("request",),
    "flwr.supercore.dependencies.runtime.get_runtime_state": ("request",),
    "flwr.supercore.dependencies.runtime.get_task": ("request", "token", "state"),
    "flwr.supercore.protobuf.translation.get_protobuf_request": ("request",),
    "flwr.superlink.dependencies.linkstate.get_linkstate": ("request",),
    "flwr.superlink.main._get_middleware": (),
    "flwr.superlink.routers.fleet.node_auth.authenticate_node": ("request",),
    "flwr.superlink.routers.fleet.router.get_enable_supernode_auth": ("request",),
    "flwr.supernode.fleet_http_connection.http_request_response": (
        "server_address", "insecure", "root_certificates", "authentication_keys", "max_retries",
        "max_wait_time",
    ),
}  # fmt: skip
CALLBACKS = (
    "node_id", "receive", "send", "get_run", "get_fab", "pull_object", "push_object",
    "confirm_message_received",
)  # fmt: skip
STATES = (
    "flwr.server.superlink.linkstate.in_memory_linkstate.InMemoryLinkState",
    "flwr.server.superlink.linkstate.sql_linkstate.SqlLinkState",
)
FIELDS = {
    "flwr.proto.fleet_pb2.PushMessagesRequest": {"node", "messages_list", "message_object_trees"},
    "flwr.proto.fleet_pb2.PushMessagesResponse": {"objects_to_push", "session_id"},
    "flwr.proto.message_pb2.PushObjectRequest": {"node", "session_id", "object_content"},
    "flwr.proto.message_pb2.ObjectTree": {"object_id", "children"},
    "flwr.proto.message_pb2.Message": {"metadata", "content", "error"},
    "flwr.proto.control_pb2.StartRunRequest": {"fab", "override_config"},
    "flwr.proto.control_pb2.StartRunResponse": {"run_id"},
    "flwr.proto.control_pb2.ListNodesRequest": set(),
    "flwr.proto.control_pb2.ListRunsRequest": {"run_id"},
    "flwr.proto.control_pb2.RegisterNodeRequest": {"public_key", "name"},
    "flwr.proto.control_pb2.RegisterNodeResponse": {"node_id"},
    "flwr.proto.control_pb2.StopRunRequest": {"run_id"},
}


def found(name: str) -> Any:
    """The thing of this dotted name; fails with what to do where there is none."""
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            thing: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            if not hasattr(thing, part):
                break
            thing = getattr(thing, part)
        else:
            return thing
    pytest.fail(f"{name} is gone from flwr {version('flwr')}; the adapters were written for {WRITTEN_FOR}")


def test_flower_is_the_version_that_the_adapters_were_written_for() -> None:
    assert version("flwr") == WRITTEN_FOR


@pytest.mark.parametrize("name", CALLED)
def test_what_is_called_takes_what_it_is_given(name: str) -> None:
    parameters = inspect.signature(found(name)).parameters
    missing = set(CALLED[name]) - {item.name for item in parameters.values() if item.kind in TAKEN}
    assert not missing, f"{name} of flwr {version('flwr')} does not take {sorted(missing)}"
    needed = {item.name for item in parameters.values() if item.kind in TAKEN and item.default is item.empty}
    assert needed <= set(CALLED[name]), f"{name} of flwr {version('flwr')} needs {sorted(needed)}"


@pytest.mark.parametrize("name", FIELDS)
def test_the_requests_have_their_fields(name: str) -> None:
    assert FIELDS[name] <= set(found(name).DESCRIPTOR.fields_by_name)


def test_the_fleet_connection_gives_its_callbacks_in_the_order_that_we_unpack() -> None:
    source = inspect.getsource(
        found("flwr.supernode.fleet_http_connection.http_request_response").__wrapped__
    )
    given = source.split("yield (")[1].split(")")[0]
    assert tuple(item.strip().removeprefix("node.") for item in given.split(",") if item.strip()) == CALLBACKS


@pytest.mark.parametrize("name", STATES)
def test_a_reply_is_taken_out_of_the_state_as_flower_does_where_its_sending_expires(name: str) -> None:
    state = found(name)
    for method, needed in {
        "get_node_id_by_public_key": ("public_key",),
        "_cleanup_push_session": ("session_id", "cleanup_messages"),
        "_on_push_session_expired": ("message_object_ids",),
    }.items():
        parameters = inspect.signature(getattr(state, method)).parameters
        assert tuple(parameters)[1:] == needed


def test_the_grid_asks_the_client_that_we_put_in_its_place() -> None:
    """`app_messages` has it send its messages to one that keeps them, and ask one that knows the answer."""
    grid = found("flwr.superlink.grid.http_grid.HttpGrid")
    assert "self._client" in inspect.getsource(grid._runtime_client.fget)
    sent, pulled = (inspect.getsource(method) for method in (grid._try_push_messages, grid.pull_messages))
    assert all(f"_runtime_client.{name}" in sent for name in ("PushMessages", "PushObject"))
    asked = ("PullMessages", "PullObject", "ConfirmMessageReceived")
    assert all(f"_runtime_client.{name}" in pulled for name in asked)


def test_messages_are_looked_for_in_the_store_that_we_put_in_its_place() -> None:
    """`lasting_state` shows Flower those of one node alone, under the lock that everybody else takes."""
    state = found(STATES[0])
    source = inspect.getsource(state.get_message_ins)
    assert source.count("self.message_ins_store") == 2
    assert "with self.lock" in source


@pytest.mark.parametrize("name", STATES)
def test_a_node_lives_in_memory_as_it_does_in_the_database(name: str) -> None:
    """`lasting_state` changes it in the one and copies it to the other; these are all that change a node."""
    state = found(name)
    for method, needed in {
        "create_node": ("owner_aid", "owner_name", "public_key", "heartbeat_interval", "location", "name"),
        "activate_node": ("node_id", "heartbeat_interval"),
        "acknowledge_node_heartbeat": ("node_id", "heartbeat_interval"),
        "deactivate_node": ("node_id",),
        "delete_node": ("owner_aid", "node_id"),
        "get_node_info": ("node_ids", "owner_aids", "statuses"),
    }.items():
        assert tuple(inspect.signature(getattr(state, method)).parameters)[1:] == needed
    assert {method for method in dir(state) if method.endswith("_node")} == {
        "activate_node",
        "create_node",
        "deactivate_node",
        "delete_node",
    }


def test_the_database_is_opened_with_the_settings_that_we_add_to() -> None:
    assert ("busy_timeout", "5000") in found("flwr.supercore.sql_mixin.SQLITE_PRAGMAS")


@pytest.mark.parametrize("name", ["fastapi.dependencies.utils", "flwr.superlink.routers.fleet.node_auth"])
def test_what_is_handed_to_a_thread_is_handed_by_a_name_that_we_replace(name: str) -> None:
    module = importlib.import_module(name)
    assert "await run_in_threadpool(" in inspect.getsource(module)


def test_telemetry_is_a_word_that_is_read_when_an_event_is_sent() -> None:
    module = found("flwr.supercore.telemetry")
    assert isinstance(module.FLWR_TELEMETRY_ENABLED, str)
    assert "FLWR_TELEMETRY_ENABLED" in module.create_event.__code__.co_names


def test_a_task_has_the_identity_that_the_inline_runtime_sets() -> None:
    identity = found("flwr.supercore.task_identity.TaskIdentity")
    assert {"task_id", "run_id", "node_id"} <= set(dir(type(identity)))


def test_every_middleware_of_the_superlink_has_a_dispatch_function() -> None:
    kinds = [middleware.cls for middleware in found("flwr.superlink.main._get_middleware")()]
    assert len(kinds) == 8
    assert all(issubclass(kind, BaseHTTPMiddleware) for kind in kinds)
