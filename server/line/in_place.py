"""What takes microseconds is done where it is asked for, not in another thread.

FastAPI calls each plain function on the way to a handler in a thread of a pool: the parsed request, the
state, the run's task, the versions. For one of Flower's requests these are six, each of which looks something
up in memory, and to ask a thread and hear from it costs more than all that they do: a third of what a round
of four sites cost the SuperLink. Here the loop calls them itself, and the check of a site's signature.

A handler still runs in a thread: it may hash, read or write megabytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool

__all__ = ["look_up_in_place"]


def look_up_in_place() -> None:
    """Have Flower's lookups and its check of signatures called in the loop of this process."""
    from fastapi.dependencies import utils
    from flwr.supercore.dependencies.version import VersionDependency
    from flwr.superlink.routers.fleet import node_auth

    quick = _lookups()

    async def call(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        if function in quick or isinstance(function, VersionDependency):
            return function(*arguments, **named)
        return await run_in_threadpool(function, *arguments, **named)

    for module in (utils, node_auth):
        places: Any = module
        places.run_in_threadpool = call


def _lookups() -> frozenset[Callable[..., Any]]:
    from flwr.supercore.dependencies.runtime import get_runtime_handlers, get_runtime_state, get_task
    from flwr.supercore.protobuf.translation import get_protobuf_request
    from flwr.superlink.dependencies.linkstate import get_linkstate
    from flwr.superlink.routers.fleet.node_auth import authenticate_node
    from flwr.superlink.routers.fleet.router import get_enable_supernode_auth

    of_app = (get_linkstate, get_runtime_state, get_runtime_handlers, get_enable_supernode_auth)
    return frozenset((get_protobuf_request, authenticate_node, get_task, *of_app))
