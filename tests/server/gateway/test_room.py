"""How sites share what the gateway takes in."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from server.gateway import room
from server.gateway.room import Room

MB = 2**20


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_WAIT_SECONDS", 0.05)


async def _fill(shared: Room, sites: int, length: int, held: AsyncExitStack) -> None:
    """Each of these sites takes all that it can get."""
    left = [b"site %d" % number for number in range(sites)]
    while left:
        left = [site for site in left if await held.enter_async_context(shared.taken(site, length))]


@pytest.mark.parametrize("sites", [1, 4, 16])
def test_however_many_take_all_they_get_a_newcomer_finds_room(
    sites: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def attack() -> None:
        monkeypatch.setattr(room, "_MOST_AT_ONCE", 10_000)
        shared = Room(1024 * MB)
        async with AsyncExitStack() as held:
            await _fill(shared, sites, 2 * MB, held)
            free = 1024 * MB - shared.taken_by.total()
            assert free >= 1024 * MB // (sites + 1) - 2 * MB * sites
            assert max(shared.taken_by.values()) <= free
            async with shared.taken(b"honest", free // 2) as fits:
                assert fits
        assert not shared.taken_by

    asyncio.run(attack())


def test_a_site_has_some_requests_at_a_time_and_others_have_theirs() -> None:
    async def attack() -> None:
        shared = Room(1024 * MB)
        async with AsyncExitStack() as held:
            for _ in range(room._MOST_AT_ONCE):
                assert await held.enter_async_context(shared.taken(b"north", 0))
            assert not await held.enter_async_context(shared.taken(b"north", 0))
            assert await held.enter_async_context(shared.taken(b"south", 0))
        async with shared.taken(b"north", 0) as fits:
            assert fits

    asyncio.run(attack())


def test_who_waits_is_let_in_when_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_WAIT_SECONDS", 300)

    async def wait() -> None:
        shared, came = Room(8 * MB), asyncio.Event()

        async def second() -> None:
            async with shared.taken(b"south", 4 * MB) as fits:
                assert fits
                came.set()

        async with shared.taken(b"north", 6 * MB):
            waiting = asyncio.create_task(second())
            await asyncio.sleep(0.05)
            assert not came.is_set()
        await waiting

    asyncio.run(wait())


def test_who_gives_up_waiting_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_WAIT_SECONDS", 300)

    async def give_up() -> None:
        shared = Room(8 * MB)

        async def second() -> None:
            async with shared.taken(b"south", 4 * MB):
                raise AssertionError("there was no room")

        async with shared.taken(b"north", 6 * MB):
            waiting = asyncio.create_task(second())
            await asyncio.sleep(0.05)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert not shared.taken_by

    asyncio.run(give_up())
