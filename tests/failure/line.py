"""A line between a site and the server that can be cut: a TCP relay on the loopback address.

open     what comes on one side goes out on the other
reset    every connection ends with a RST, and so does every new one
silent   nothing passes and nothing is said; once mended, what was held back goes on, as TCP sends it again
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from typing import Any, Literal

Cut = Literal["reset", "silent"]

_AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER that makes `close` a RST."""


class Line:
    """Relays from its own `address` to `target`.

    Args:
        target: port on the loopback address.
        host: the address to listen on.
    """

    def __init__(self, target: int, host: str = "127.0.0.1") -> None:
        self._target, self._host = target, host
        self._cut: Cut | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._open = asyncio.Event()
        self._open.set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server: asyncio.Server = self._do(asyncio.start_server(self._relay, host, 0))
        self.address = f"{host}:{self._server.sockets[0].getsockname()[1]}"

    def cut(self, how: Cut) -> None:
        """Cut the line."""
        self._do(self._set(how))

    def mend(self) -> None:
        """Mend it."""
        self._do(self._set(None))

    def close(self) -> None:
        """Give everything back."""
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(300)

    async def _set(self, how: Cut | None) -> None:
        self._cut = how
        if how == "silent":
            self._open.clear()
        else:
            self._open.set()
        if how == "reset":
            self._reset_all()

    async def _close(self) -> None:
        self._server.close()
        self._open.set()
        self._reset_all()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _reset_all(self) -> None:
        for writer in list(self._writers):
            _reset(writer)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut == "reset":
            _reset(writer)
            return
        self._writers.add(writer)
        onward: asyncio.StreamWriter | None = None
        try:
            await self._open.wait()
            back, onward = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers.add(onward)
            await asyncio.gather(self._pass(reader, onward), self._pass(back, writer))
        except OSError:
            pass  # either end went away: so does the other
        finally:
            for end in filter(None, (writer, onward)):
                self._writers.discard(end)
                end.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._open.wait()
            writer.write(data)
            await writer.drain()
        writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    writer.transport.abort()
