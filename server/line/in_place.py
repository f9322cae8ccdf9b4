"""Flower's handlers, called in the loop where they are asked for, and not by FastAPI.

FastAPI finds the route of each request anew, asks a pool of threads for each thing that a handler takes (the
parsed request, the state, the run's task, the versions), and one for the handler. For one request of Flower's
these are six, which look something up in memory, and to ask a thread costs more than what it does. A message
with all that it holds is nine requests, each of which carries the same signature of the site. So here

    a handler's arguments    are what FastAPI would give it, by the route's own list, made in the loop
    a handler                runs in the loop where it moves few bytes, all in memory; in a thread otherwise
    a site's signature       is checked once for the same key and time; the time and the node each time
    the peer's version       is compared once for the same words

A route that takes anything which is not known here goes FastAPI's way.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from fastapi.routing import iter_route_contexts
from fastapi.security import APIKeyHeader
from flwr.supercore.dependencies.version import VersionDependency
from flwr.supercore.runtime_version_compatibility import _RUNTIME_METADATA_KEYS
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

__all__ = ["Handlers", "look_up_in_place"]

_ROUTES = ("/v1/fleet/", "/v1/runtime/")
_MOST_KNOWN, _LONGEST_KNOWN = 1024, 2**10
"""Signatures, keys and versions that are remembered, and the bytes of one; an honest signature has, with its
key and time, 350."""
_SAYS_VERSION = frozenset(key.lower().encode() for key in _RUNTIME_METADATA_KEYS)
"""The headers in which somebody says which Flower they have."""


class Handlers:
    """Flower's, of one app.

    Args:
        is_short: whether a request, by its path, its protobuf message and its bytes, moves so little that its
            handler may run in the loop.
    """

    def __init__(self, is_short: Callable[[str, Any, int], bool]) -> None:
        self._is_short = is_short
        self._by_path: Mapping[str, Any] | None = None

    async def answer(self, request: Request) -> bool:
        """Have a request handled, and its result kept in the request's state as Flower's route does.

        Returns:
            Whether it was; FastAPI is to be asked otherwise.
        """
        if self._by_path is None:
            self._by_path = _plain_routes(request.scope["app"])
        path = request.scope["path"]
        needs = self._by_path.get(path)
        if needs is None or request.method != "POST":
            return False
        arguments = _arguments(needs, request)
        if self._is_short(path, request.state.protobuf_request, len(await request.body())):
            result = needs.call.__wrapped__(**arguments)
        else:
            arguments["request"] = _Once(arguments["request"])
            result = await run_in_threadpool(needs.call.__wrapped__, **arguments)
        request.state.protobuf_response = result
        return True


class _Once:
    """A protobuf message each of whose fields is taken out once: each time is a copy, of perhaps 100 MB."""

    def __init__(self, message: Any) -> None:
        self._message = message

    def __getattr__(self, name: str) -> Any:
        value = self.__dict__[name] = getattr(self._message, name)
        return value


def look_up_in_place() -> None:
    """Have Flower check a site's signature in the loop of this process, and the same one once."""
    from flwr.superlink.routers.fleet import node_auth

    async def call(function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    module: Any = node_auth
    module.run_in_threadpool = call
    module.verify_signature = _checked_once(module.bytes_to_public_key, module.verify_signature)
    module.bytes_to_public_key = bytes


def _checked_once(
    read: Callable[[bytes], Any], verify: Callable[[Any, bytes, bytes], bool]
) -> Callable[[bytes, bytes, bytes], bool]:
    """The check of a signature by a key's bytes, which remembers what it found.

    A key that signs nothing, or of a curve that nobody knows, is none: Flower's own check fails over it.
    """

    known_key = functools.lru_cache(_MOST_KNOWN)(read)

    @functools.lru_cache(_MOST_KNOWN)
    def known(public_key: bytes, signed: bytes, signature: bytes) -> bool:
        return verify(known_key(public_key), signed, signature)

    def check(public_key: bytes, signed: bytes, signature: bytes) -> bool:
        try:
            if len(public_key) + len(signed) + len(signature) > _LONGEST_KNOWN:
                return verify(read(public_key), signed, signature)
            return known(public_key, signed, signature)
        except (AttributeError, UnsupportedAlgorithm) as exc:
            raise ValueError("no key of a site") from exc

    return check


def _plain_routes(app: Any) -> Mapping[str, Any]:
    """What each handler takes, by its path, of those that take nothing but what `_value` gives."""
    from flwr.supercore.protobuf.routing import ProtobufRoute

    known, found = _lookups(), {}
    for route in iter_route_contexts(app.routes):
        if not isinstance(route.route, ProtobufRoute):
            continue
        path, needs = route.path or "", route.dependant
        if needs is None or not path.startswith(_ROUTES):
            continue
        if all(_is_plain(one, known) for one in needs.dependencies):
            found[path] = needs
    return found


def _lookups() -> frozenset[Any]:
    from flwr.supercore.dependencies.runtime import get_runtime_handlers, get_runtime_state, get_task
    from flwr.supercore.protobuf.translation import get_protobuf_request
    from flwr.superlink.dependencies.linkstate import get_linkstate
    from flwr.superlink.routers.fleet.router import get_enable_supernode_auth

    of_app = (get_linkstate, get_runtime_state, get_runtime_handlers, get_enable_supernode_auth)
    return frozenset((get_protobuf_request, get_task, *of_app))


def _is_plain(needs: Any, known: frozenset[Any]) -> bool:
    if needs.path_params or needs.query_params or needs.header_params or needs.cookie_params:
        return False
    if needs.body_params or needs.request_param_name is None:
        return False
    if isinstance(needs.call, APIKeyHeader):
        return not needs.call.auto_error
    is_known = isinstance(needs.call, VersionDependency) or needs.call in known
    return is_known and all(_is_plain(one, known) for one in needs.dependencies)


def _arguments(needs: Any, request: Request) -> dict[str, Any]:
    """What a handler or a lookup is to be called with; what has no name is called because it may refuse."""
    values = [(one.name, _value(one, request)) for one in needs.dependencies]
    return {name: value for name, value in values if name is not None}


def _value(needs: Any, request: Request) -> Any:
    if isinstance(needs.call, APIKeyHeader):
        return request.headers.get(needs.call.model.name)
    if isinstance(needs.call, VersionDependency):
        return _checked_version(needs.call, request)
    return needs.call(**{needs.request_param_name: request}, **_arguments(needs, request))


def _checked_version(check: VersionDependency, request: Request) -> None:
    """Refuse a Flower of another version than this one; the same words of who asks are read once."""
    told = tuple((name, value) for name, value in request.headers.raw if name in _SAYS_VERSION)
    if sum(len(value) for _, value in told) > _LONGEST_KNOWN:
        check(request)
    else:
        _known_version(check, told)


@functools.lru_cache(_MOST_KNOWN)
def _known_version(check: VersionDependency, told: tuple[tuple[bytes, bytes], ...]) -> None:
    check(Request({"type": "http", "headers": list(told)}))
