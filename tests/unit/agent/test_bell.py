"""Waking the loop from threads: never lost, and never more often than it can turn."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from teeth_agent.session.bell import Bell


async def test_however_often_it_is_rung_the_loop_is_called_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, calls = asyncio.get_running_loop(), 0
    real: Callable[..., Any] = loop.call_soon_threadsafe

    def count(*words: Any) -> Any:
        nonlocal calls
        calls += 1
        return real(*words)

    monkeypatch.setattr(loop, "call_soon_threadsafe", count)
    bell = Bell()
    for turn in range(1, 4):
        thread = threading.Thread(target=lambda: [bell.ring() for _ in range(1000)])
        thread.start()
        thread.join()  # the loop does not turn meanwhile
        assert calls == turn
        await bell.wait()
        bell.clear()


async def test_no_ring_is_lost() -> None:
    """As the session uses it: what was put before a ring is found after it."""
    bell, items, wanted = Bell(), [], 20_000
    found = 0

    def put() -> None:
        for number in range(wanted):
            items.append(number)
            bell.ring()

    thread = threading.Thread(target=put)
    thread.start()
    async with asyncio.timeout(60):
        while found < wanted:
            await bell.wait()
            bell.clear()
            while items:
                items.pop()
                found += 1
    thread.join()


async def test_a_loop_turns_though_a_thread_rings_all_the_time() -> None:
    bell, over = Bell(), threading.Event()

    def work() -> None:
        while not over.is_set():
            sum(range(20_000))
            bell.ring()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        async with asyncio.timeout(60):
            for _ in range(300):
                await asyncio.sleep(0)
    finally:
        over.set()
        thread.join()


def test_a_ring_after_the_loops_end_is_nothing() -> None:
    async def make() -> Bell:
        return Bell()

    asyncio.run(make()).ring()
