"""The inference service: a small ASGI application over a `Desk`.

    POST /predict                      rows by the names of the features: predictions
    POST /labels                       what came of rows
    GET  /v2/…, POST …/infer           the Open Inference Protocol (`inference.open_inference`)
    GET  /healthz, /metrics            whether it answers; figures for Prometheus
    GET  /openapi.json, /              what may be asked, for programs and for people

A framework that validates and documents by itself costs more than all that is done here for a request of one
row (`tidegate bench inference`). No value of a row is written anywhere but into the prediction log and the
answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hmac import compare_digest
from typing import Any

import msgspec

from contract.errors import StorageError, TidegateError
from inference.describe import openapi, page
from inference.desk import Answer, Desk
from inference.log import UnknownAnswerError
from inference.metrics import Metrics
from inference.open_inference import (
    BINARY_HEADER,
    Inference,
    error_of,
    metadata,
    parsed,
    require_outputs,
    written,
)
from inference.requests import ASKED, LABELS, Asked, Complaint, RefusedError, Rows, decoded
from inference.served import Served

__all__ = ["MOST_BYTES", "Service"]

MOST_BYTES = 2**24
"""Bytes of a request's body."""
_MOST_LABELS = 10_000
_ID = re.compile("[0-9a-f]{32}", re.ASCII)
_LONG_BODY = 2**16
"""Bytes of a body from which on a thread reads it: short requests are not to wait for it."""
_MODELS = "/v2/models/"
_JSON = (b"content-type", b"application/json")
_OPEN = ("/healthz", "/v2/health/live", "/v2/health/ready")
"""What is told without a key: whether the service answers, and nothing of a model."""
_log = logging.getLogger("tidegate.inference")
_encode = msgspec.json.Encoder().encode

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]
Reply = tuple[int, bytes, Headers]
_HEADERS: Mapping[int, Headers] = {
    401: [(b"www-authenticate", b"Bearer")],
    413: [(b"connection", b"close")],  # what follows of it is not read
}


class Service:
    """The application.

    Args:
        desk: answers.
        keys: SHA-256 of each API key, in hexadecimal, by the name of who has it; none asks for no key.
        metrics: counts.
    """

    def __init__(
        self, desk: Desk, keys: Mapping[str, str] | None = None, metrics: Metrics | None = None
    ) -> None:
        self.desk, self.metrics = desk, metrics or Metrics()
        self._keys = [bytes.fromhex(one) for one in (keys or {}).values()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        if scope["type"] != "http":
            return
        began = time.perf_counter()
        route = _route(scope)
        status, body, headers = await self._answered(route, scope, receive)
        self.metrics.count(route, status, time.perf_counter() - began)
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [*headers, (b"content-length", b"%d" % len(body))],
            }
        )
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _answered(self, route: str, scope: Scope, receive: Receive) -> Reply:
        """The answer, whatever happens."""
        try:
            self._require_key(scope)
            return await self._answer(route, scope, receive)
        except RefusedError as exc:
            more = _HEADERS.get(exc.status, ())
            return exc.status, _encode(error_of(exc.complaints)), [_JSON, *more]
        except StorageError as exc:
            _log.error("%s", exc)
            words = Complaint("the prediction log", "it cannot be written now")
            return 503, _encode(error_of([words])), [_JSON]
        except Exception as exc:
            # without its words: they may hold a value of a row
            failed = TidegateError(type(exc).__name__)
            _log.error("a request failed", exc_info=(TidegateError, failed, exc.__traceback__))
            return (
                500,
                _encode(error_of([Complaint("the service", "it failed; its log says where")])),
                [_JSON],
            )

    async def _answer(self, route: str, scope: Scope, receive: Receive) -> Reply:
        path = scope["path"]
        if route == "read":
            return self._read(path)
        if route == "other":
            allowed = scope["method"] in ("GET", "HEAD", "POST")
            raise _nothing(path) if allowed else _no_method(scope["method"])
        content = await _body(scope, receive)
        if route == "infer":
            return await self._infer(path, content, scope)
        return 200, await (self._predict if route == "predict" else self._add_labels)(content), [_JSON]

    async def _predict(self, content: bytes) -> bytes:
        if len(content) >= _LONG_BODY:
            return await self.desk.in_thread(self._predict_alone, content)
        served, asked, rows, explained = self._asked(content)
        answer = await self.desk.predict(served, rows)
        return self._written(answer, asked, explained)

    def _predict_alone(self, content: bytes) -> bytes:
        """The same by this thread, from its body to its answer."""
        served, asked, rows, explained = self._asked(content)
        return self._written(self.desk.predict_alone(served, rows), asked, explained)

    def _written(self, answer: Answer, asked: Asked, explained: list[dict[str, float]] | None) -> bytes:
        self.metrics.rows(answer.served.version, len(answer.told.prediction))
        return _encode(_told(answer, explained, as_columns=asked.columns is not None))

    def _asked(self, content: bytes) -> tuple[Served, Asked, Rows, list[dict[str, float]] | None]:
        asked = decoded(content, ASKED)
        served = self._served()
        rows = served.schema.read(asked)
        explained = served.explained(rows) if asked.explain else None
        if asked.explain and explained is None:
            raise RefusedError(
                422, Complaint("explain", "only a linear model of a number or of two classes explains itself")
            )
        return served, asked, rows, explained

    async def _infer(self, path: str, content: bytes, scope: Scope) -> Reply:
        served = self._named(path.removesuffix("/infer"))
        length = _header(scope, BINARY_HEADER)
        if length is not None and not length.isdigit():
            raise RefusedError(400, Complaint(BINARY_HEADER.decode(), "it is no whole number"))
        size = None if length is None else int(length[:12])
        read = self.desk.in_thread if len(content) >= _LONG_BODY else _at_once
        asked, rows = await read(_tensors, served, content, size)
        answer = await self.desk.predict(served, rows)
        self.metrics.rows(served.version, rows.count)
        body, json_length = written(asked, answer)
        if json_length is None:
            return 200, body, [_JSON]
        return (
            200,
            body,
            [
                (b"content-type", b"application/octet-stream"),
                (BINARY_HEADER, b"%d" % json_length),
            ],
        )

    async def _add_labels(self, content: bytes) -> bytes:
        asked = decoded(content, LABELS)
        served, log = self._served(), self.desk.log
        if log is None:
            raise RefusedError(409, Complaint("the prediction log", "this service keeps none"))
        if not 0 < len(asked.labels) <= _MOST_LABELS:
            raise RefusedError(422, Complaint("labels", f"1 to {_MOST_LABELS:,} are taken"))
        for place, one in enumerate(asked.labels):
            if _ID.fullmatch(one.id) is None:
                raise RefusedError(404, Complaint("id", "no such answer is here", place))
        labels = [(one.id, one.row, served.schema.require_label(one.label)) for one in asked.labels]
        try:
            count = await asyncio.get_running_loop().run_in_executor(None, log.add_labels, labels)
            return _encode({"labels": count})
        except UnknownAnswerError as exc:
            raise RefusedError(404, Complaint("id", "no such answer or row is here", exc.place)) from exc

    def _read(self, path: str) -> Reply:
        if path == "/v2/health/ready":
            ready = self.desk.served is not None
            return 200 if ready else 503, _encode({"ready": ready}), [_JSON]
        if path == "/metrics":
            kind, text = self.metrics.written()
            return 200, text, [(b"content-type", kind.encode())]
        if path == "/":
            return 200, page(self._served()).encode(), [(b"content-type", b"text/html; charset=utf-8")]
        return 200, _encode(self._document(path)), [_JSON]

    def _document(self, path: str) -> Mapping[str, Any]:
        if path in ("/healthz", "/v2/health/live"):
            return {"live": True}
        if path == "/v2":
            return {"name": "tidegate", "version": "2", "extensions": ["binary_tensor_data"]}
        if path == "/openapi.json":
            return openapi(self._served())
        if not path.startswith(_MODELS):
            raise _nothing(path)
        served = self._named(path.removesuffix("/ready"))
        return {"ready": True} if path.endswith("/ready") else metadata(served.experiment, served.version)

    def _served(self) -> Served:
        served = self.desk.chosen()
        if served is None:
            raise RefusedError(503, Complaint("the model", "no version is in service yet"))
        return served

    def _named(self, path: str) -> Served:
        """The version of `/v2/models/MODEL` or `/v2/models/MODEL/versions/VERSION`."""
        name, *rest = path.removeprefix(_MODELS).split("/")
        if rest and not (len(rest) == 2 and rest[0] == "versions"):
            raise _nothing(path)
        served = self._served() if not rest else self.desk.served
        if served is None or name != served.name or (rest and rest[1] != str(served.version)):
            raise RefusedError(404, Complaint("the model", "no such model or version is in service here"))
        return served

    def _require_key(self, scope: Scope) -> None:
        if not self._keys or scope["path"] in _OPEN:
            return
        kind, _, given = (_header(scope, b"authorization") or b"").partition(b" ")
        digest = hashlib.sha256(given).digest()
        if kind.lower() != b"bearer" or not sum(compare_digest(digest, one) for one in self._keys):
            raise RefusedError(401, Complaint("authorization", "give a key: Authorization: Bearer KEY"))


def _route(scope: Scope) -> str:
    """What is asked, in one of five words."""
    path, method = scope["path"], scope["method"]
    if method in ("GET", "HEAD"):
        return "read"
    if method != "POST":
        return "other"
    if path in ("/predict", "/labels"):
        return str(path[1:])
    return "infer" if path.startswith(_MODELS) and path.endswith("/infer") else "other"


async def _at_once(compute: Callable[..., Any], *given: Any) -> Any:
    return compute(*given)


def _tensors(served: Served, content: bytes, json_length: int | None) -> tuple[Inference, Rows]:
    asked, columns, count = parsed(content, json_length)
    require_outputs(asked, served.classes)
    partial = asked.parameters.get("partial") is True
    return asked, served.schema.read_columns(columns, count, partial=partial)


def _told(answer: Answer, explained: list[dict[str, float]] | None, *, as_columns: bool) -> dict[str, Any]:
    """An answer to `POST /predict`, in the form of the question."""
    told, served = answer.told, answer.served
    said: dict[str, Any] = {"id": answer.id, "model": served.name, "version": served.version}
    chances = None if told.probabilities is None else told.probabilities.tolist()
    reasons = told.reasons or [""] * len(told.prediction)
    if as_columns:
        columns: dict[str, Any] = {"prediction": told.prediction}
        if chances is not None:
            columns["probabilities"] = {
                name: [None if reason else row[place] for row, reason in zip(chances, reasons, strict=True)]
                for place, name in enumerate(served.classes)
            }
        if told.reasons is not None:
            columns["reason"] = told.reasons
        if explained is not None:
            columns["explanation"] = explained
        return said | {"columns": columns}
    rows = list[dict[str, Any]]()
    for place, prediction in enumerate(told.prediction):
        row: dict[str, Any] = {"prediction": prediction}
        if reasons[place]:
            row["reason"] = reasons[place]
        elif chances is not None:
            row["probabilities"] = dict(zip(served.classes, chances[place], strict=True))
        if explained is not None:
            row["explanation"] = explained[place]
        rows.append(row)
    return said | {"predictions": rows}


async def _body(scope: Scope, receive: Receive) -> bytes:
    stated = _header(scope, b"content-length")
    if stated is not None and stated.isdigit() and int(stated[:20]) > MOST_BYTES:
        raise _too_long()
    parts, size = list[bytes](), 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise RefusedError(400, Complaint("the body", "it did not come whole"))
        part = message.get("body", b"")
        size += len(part)
        if size > MOST_BYTES:
            raise _too_long()
        if not message.get("more_body"):
            return part if not parts else b"".join([*parts, part])
        parts.append(part)


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _header(scope: Scope, name: bytes) -> bytes | None:
    found: bytes | None = next((value for key, value in scope["headers"] if key == name), None)
    return found


def _too_long() -> RefusedError:
    return RefusedError(
        413, Complaint("the body", f"it has {MOST_BYTES:,} bytes at most: send rows in parts")
    )


def _nothing(path: str) -> RefusedError:
    return RefusedError(
        404, Complaint("the path", f"there is nothing at {path[:100]}: GET / says what there is")
    )


def _no_method(method: str) -> RefusedError:
    return RefusedError(405, Complaint("the method", f"{method[:10]} is none of this service"))
