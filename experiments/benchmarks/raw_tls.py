"""How fast this machine moves bytes over one TLS connection on loopback: the measure for a large update."""

from __future__ import annotations

import multiprocessing
import socket
import ssl
import time
from multiprocessing.connection import Connection
from pathlib import Path

from server.line.certificates import ServerFiles, make_server_files

__all__ = ["seconds_over_tls"]

_CHUNK = 1 << 20


def seconds_over_tls(folder: Path, *, parts: int, part_bytes: int) -> float:
    """Seconds until `parts` times `part_bytes` bytes have come over one connection, from a process to this.

    Args:
        folder: where the certificates are made.
        parts: how often.
        part_bytes: of one part.
    """
    files = make_server_files(folder, ("127.0.0.1",))
    context = ssl.create_default_context(cafile=files.authority)
    ours, theirs = multiprocessing.Pipe()
    sender = multiprocessing.get_context("spawn").Process(
        target=_send, args=(theirs, files, parts, part_bytes), daemon=True
    )
    sender.start()
    theirs.close()  # so that it is the sender's alone, and its death is heard
    try:
        address = ("127.0.0.1", int(ours.recv()))
        with (
            socket.create_connection(address) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as line,
        ):
            began = time.perf_counter()
            line.sendall(b"!")
            for _ in range(parts):
                _receive(line, part_bytes)
            return time.perf_counter() - began
    finally:
        sender.join(10)
        if sender.is_alive():
            sender.kill()


def _receive(line: ssl.SSLSocket, size: int) -> None:
    view, filled = memoryview(bytearray(size)), 0
    while filled < size:
        got = line.recv_into(view[filled : filled + _CHUNK])
        if got == 0:
            raise ConnectionError("the sender ended early")
        filled += got


def _send(told: Connection, files: ServerFiles, parts: int, part_bytes: int) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    content = memoryview(bytes(part_bytes))
    with socket.create_server(("127.0.0.1", 0)) as server:
        told.send(server.getsockname()[1])
        plain, _ = server.accept()
        with plain, context.wrap_socket(plain, server_side=True) as line:
            line.recv(1)
            for _ in range(parts):
                line.sendall(content)
