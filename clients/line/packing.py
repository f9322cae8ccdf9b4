"""How messages look as they travel: Flower's objects, as bytes that may lie on a disk.

The other half of a site's adapter to Flower, beside `clients.line.flower`: there the
connection, here what goes over it.
"""

from __future__ import annotations

import functools
import hashlib
import io
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict

__all__ = ["Bundle", "PackedReply", "RunConfig", "Work", "error_reply", "pack", "read_bundle"]

_ERROR_CODE = 0  # Flower's code for an error without a meaning of its own

_MOST_FILES, _MOST_IN_FILE, _MOST_BYTES = 1000, 2**21, 2**24
"""Of an app bundle: files, bytes of one, and bytes of all; this version has 170 files of 1 MB in all."""
_ENTRY = b"PK\x01\x02"
"""With which each entry of an archive's list of files begins."""
_NAME, _LONGEST_NAME = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*"), 200

RunConfig = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """The app bundle of a run: what the server says that the sites should run.

    Attributes:
        files: content by path; none if there is a fault.
        sha256: of the whole.
        fault: why it was not unpacked, for the site's own log; empty if it was.
    """

    files: Mapping[str, bytes]
    sha256: str
    fault: str = ""


@dataclass(frozen=True, kw_only=True)
class Work:
    """One message to answer, with the context that Flower gives with it.

    Attributes:
        run: the run's number.
        message_id: Flower's id of the message.
        contents: the message's objects by their id, as they came.
        node_id: the site's node.
        node_config, run_config: what the ClientApp finds in its context.
        made_at: seconds since 1970 on the server's clock when the message was made.
        request: what the server calls what it asks: run, kind and round.
    """

    run: int
    message_id: str
    contents: Mapping[str, bytes]
    node_id: int
    node_config: RunConfig
    run_config: RunConfig
    made_at: float
    request: str

    @functools.cached_property
    def message(self) -> Message:
        """The message, whole."""
        from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

        message: Any = inflate_object_from_contents(self.message_id, dict(self.contents))
        message.metadata.__dict__["_message_id"] = self.message_id
        return cast(Message, message)

    @property
    def context(self) -> Context:
        """What goes with the message."""
        return Context(
            run_id=self.run,
            node_id=self.node_id,
            node_config=self.node_config,
            state=RecordDict(),
            run_config=self.run_config,
        )


@dataclass(frozen=True, kw_only=True)
class PackedReply:
    """A reply as it travels: what Flower asks for one after the other.

    Attributes:
        run: the run's number.
        envelope: Flower's message without its content, serialised.
        tree: which object holds which, serialised.
        objects: the reply's objects by their id.
    """

    run: int
    envelope: bytes
    tree: bytes
    objects: Mapping[str, bytes]


def pack(reply: Message, *, to: Message) -> PackedReply:
    """Take a reply apart for `FleetConnection.send`.

    Flower dates a reply by the moment when it was made, and counts its time to live from there: that would
    tell how long the site computed. It gets both from the message that it answers, and ends with it.

    Args:
        reply: whole.
        to: the message that it answers.
    """
    from flwr.app.message import remove_content_from_message
    from flwr.common.serde import message_to_proto
    from flwr.supercore.inflatable.inflatable_object import get_object_tree, no_object_id_recompute

    reply.metadata.created_at, reply.metadata.ttl = to.metadata.created_at, to.metadata.ttl
    with no_object_id_recompute():  # of a reply that changes no more: its id is of what is sent with it
        objects = dict(_written(reply))
        reply.metadata.__dict__["_message_id"] = reply.object_id
        envelope = remove_content_from_message(reply) if reply.has_content() else reply
        return PackedReply(
            run=reply.metadata.run_id,
            envelope=message_to_proto(envelope).SerializeToString(),
            tree=get_object_tree(reply).SerializeToString(),
            objects=objects,
        )


def _written(item: Any) -> Iterator[tuple[str, bytes]]:
    """Every object in `item`, then itself, with its id; each is written once, where Flower does it twice."""
    from flwr.supercore.inflatable.inflatable_object import _get_computed_object_ids, get_object_id

    if isinstance(item, Message):
        children: list[Any] = [item.content] if item.has_content() else []
    elif isinstance(item, RecordDict):
        children = list(item.values())
    else:
        children = list((item.children or {}).values())
    for child in children:
        yield from _written(child)
    content = _content(item)
    object_id = get_object_id(content)
    item.__dict__["_object_id"] = object_id
    _get_computed_object_ids().add(object_id)
    yield object_id, content


def _content(item: Any) -> bytes:
    """An object as it travels, byte for byte as Flower's `deflate` has it; a long one is copied less."""
    if not isinstance(item, ConfigRecord) or not all(type(value) in (bytes, str) for value in item.values()):
        return cast(bytes, item.deflate())
    from flwr.proto.recorddict_pb2 import ConfigRecord as ConfigRecordProto
    from flwr.supercore.constant import HEAD_BODY_DIVIDER, HEAD_VALUE_DIVIDER

    record = ConfigRecordProto()
    for key, value in item.items():
        setattr(record.items.add(key=key).value, "bytes" if type(value) is bytes else "string", value)
    body = record.SerializeToString()
    head = HEAD_VALUE_DIVIDER.join((type(item).__qualname__, "", str(len(body))))
    return b"".join((head.encode(), HEAD_BODY_DIVIDER, body))


def error_reply(message: Message, code: str) -> Message:
    """A refusal that carries one word of the contract's list, and nothing else."""
    return Message(Error(code=_ERROR_CODE, reason=code), reply_to=message)


def read_bundle(content: bytes) -> Bundle:
    """The files of a bundle as Flower packs it: an archive of few and small files, without folders.

    It raises nothing and holds at most `_MOST_BYTES` of files, whatever the server packed: what is no such
    archive is a bundle with a fault, and so without the code that is installed here.
    """
    sha256 = hashlib.sha256(content).hexdigest()
    try:
        return Bundle(files=_unpacked(content), sha256=sha256)
    except Exception as exc:  # whatever zipfile raises over bytes that it does not expect
        return Bundle(files={}, sha256=sha256, fault=str(exc)[:200] or type(exc).__name__)


def _unpacked(content: bytes) -> dict[str, bytes]:
    """The files by their path.

    Raises:
        ValueError: it is larger than a bundle may be, or has a name that none has.
    """
    # `zipfile` makes an object of every entry as it opens an archive; each has this mark.
    if len(content) > _MOST_BYTES or content.count(_ENTRY) > _MOST_FILES:
        raise ValueError("the archive is too large, or has too many entries")
    files: dict[str, bytes] = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        _check_entries(entries)
        for entry in entries:
            with archive.open(entry) as file:
                files[entry.filename] = file.read(_MOST_IN_FILE + 1)  # what is declared may be a lie
            if len(files[entry.filename]) > _MOST_IN_FILE or sum(map(len, files.values())) > _MOST_BYTES:
                raise ValueError("the archive holds more than it declares")
    return files


def _check_entries(entries: Sequence[zipfile.ZipInfo]) -> None:
    """What the archive declares, before any of it is unpacked.

    Raises:
        ValueError: with what is wrong.
    """
    if len({entry.filename for entry in entries}) != len(entries):
        raise ValueError("the archive holds a file twice")
    if not all(_is_plain(entry.filename) for entry in entries):
        raise ValueError("the archive holds a folder, or a file of an odd name")
    # zipfile unpacks other methods in one go, however little of it is asked for.
    if not all(entry.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for entry in entries):
        raise ValueError("the archive is compressed by a method that Flower does not use")
    sizes = [entry.file_size for entry in entries]
    if max(sizes, default=0) > _MOST_IN_FILE or sum(sizes) > _MOST_BYTES:
        raise ValueError("the archive declares too much")


def _is_plain(name: str) -> bool:
    """Whether it is a relative path of plain letters, such as a bundle's files have."""
    return len(name) <= _LONGEST_NAME and _NAME.fullmatch(name) is not None and ".." not in name
