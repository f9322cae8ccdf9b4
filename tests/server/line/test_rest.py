"""What the SuperLink does not use goes back to the system."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import time
import weakref

import psutil
import pytest

from server.line import rest
from server.line.rest import Rest


def test_it_gives_back_once_after_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(rest, "give_back", lambda: given.append(1))

    async def noting() -> None:
        found = Rest(seconds=0.01)
        found.note(2**20)
        await asyncio.sleep(0.1)
        assert not given
        for _ in range(5):
            found.note(2**20)
        await asyncio.wait_for(once(), 60)
        found.note(2**20)
        await asyncio.sleep(0.1)

    async def once() -> None:
        while not given:
            await asyncio.sleep(0.01)

    asyncio.run(noting())
    assert given == [1]


class Error(Exception):
    """One that holds itself, as one does that is kept where it was met."""

    def __init__(self) -> None:
        super().__init__()
        self.context = self


def test_an_error_that_was_answered_goes_too() -> None:
    async def noting() -> None:
        gone = weakref.ref(Error())
        Rest(seconds=0.01).note(2**21)
        assert gone() is not None
        while gone() is not None:
            await asyncio.sleep(0.01)

    was_on = gc.isenabled()
    gc.disable()
    try:
        asyncio.run(asyncio.wait_for(noting(), 60))
    finally:
        if was_on:
            gc.enable()


PROGRAM = """
import asyncio, random
from contract.allocator import reuse_large_blocks
reuse_large_blocks(2**31 - 1)
from server.line.rest import Rest

async def main():
    many = [bytes(1000) for _ in range(200_000)]
    del many[1:]  # the first is before the freed ones, and the next behind them
    behind = bytes(1000)
    Rest(seconds=0.01).note(2**21)
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, input)

asyncio.run(main())
"""


def test_freed_memory_between_what_is_used_goes_back() -> None:
    """In a process of its own, because the setting is for the whole of it."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        end = time.monotonic() + 120
        while (held := psutil.Process(process.pid).memory_info().rss) > 150 * 2**20:
            assert time.monotonic() < end, f"{held:,} bytes are still held"
            time.sleep(0.05)
        process.stdin.write("\n")
