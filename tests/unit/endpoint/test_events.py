from __future__ import annotations

import asyncio

from teeth.endpoint import events
from teeth.endpoint.events import BootServed, Event, Feed, TaskChanged
from teeth.endpoint.taskstate import Task, TaskState


def progress(percent: float, *, mere: bool = True) -> TaskChanged:
    task = Task(
        task_id="t1", node_id="n1", method="m", params={}, params_digest="d", awaits_landing=False,
        held=False, state=TaskState.RUNNING, created=1.0, updated=1.0, percent=percent,
    )  # fmt: skip
    return TaskChanged(task=task, fields={}, progress=mere)


def served(number: int) -> Event:
    return BootServed(file="f", bytes=number, at=0.0)


async def drain(watcher: events.Subscription) -> list[Event]:
    watcher.close()
    return [event async for event in watcher]


async def test_every_watcher_gets_everything_in_order() -> None:
    feed = Feed()
    one, two = feed.subscribe(), feed.subscribe()
    for number in range(5):
        feed.publish(served(number))
    expected = [served(number) for number in range(5)]
    assert await drain(one) == expected
    assert await drain(two) == expected


async def test_a_slow_watcher_loses_progress_and_nothing_else() -> None:
    feed = Feed()
    watcher = feed.subscribe()
    for number in range(events._LIMIT):
        feed.publish(progress(number))
        feed.publish(served(number))
    feed.publish(progress(100, mere=False))
    got = await drain(watcher)
    assert [event for event in got if isinstance(event, BootServed)] == [
        served(number) for number in range(events._LIMIT)
    ]
    assert got[-1] == progress(100, mere=False)
    assert watcher.dropped == events._LIMIT


async def test_a_watcher_that_never_looks_is_closed() -> None:
    feed = Feed()
    watcher = feed.subscribe()
    for number in range(events._HARD_LIMIT + 1):
        feed.publish(served(number))
    assert len([event async for event in watcher]) == events._HARD_LIMIT


async def test_closing_wakes_who_waits() -> None:
    feed = Feed()
    watcher = feed.subscribe()
    waiting = asyncio.create_task(watcher.get())
    await asyncio.sleep(0)
    feed.close()
    assert await waiting is None
    feed.publish(served(1))
    assert await watcher.get() is None
