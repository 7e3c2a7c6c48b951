"""Showing a task while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

from teeth.demo.steps import Step, View
from teeth.endpoint.taskstate import Task, TaskState
from teeth.errors import TeethError
from teeth.service import Endpoint

_OVER = frozenset({TaskState.COMPLETE})


async def follow(
    view: View,
    step: Step,
    endpoint: Endpoint,
    task_id: str,
    *,
    deadline: float,
    until: Collection[TaskState] = _OVER,
    silent: bool = False,
) -> Task:
    """Show the task (unless ``silent``) until its state is one of ``until``.

    Raises TeethError when it ends otherwise, or is not there after ``deadline`` seconds.
    """
    try:
        async with asyncio.timeout(deadline):
            async for event in endpoint.task_events(task_id):
                if not silent:
                    _show(view, step, event.percent, event.step, event.eta, event.fields)
                if event.state in until:
                    return event.task
    except TimeoutError:
        task = await endpoint.task(task_id)
        raise TeethError(
            f"{step.name}: not done after {deadline:g} s, last seen: {task.state} {task.step}",
            hint="read console.log",
        ) from None
    task = await endpoint.task(task_id)
    raise TeethError(f"{step.name}: {task.code}: {task.msg}")


def _show(
    view: View, step: Step, percent: float, doing: str, eta: float | None, fields: Mapping[str, Any]
) -> None:
    step.percent = max(step.percent, percent)
    step.detail = describe(doing, eta, fields)
    view.moved(step)
    unit, part = fields.get("unit"), fields.get("unit_percent")
    if isinstance(unit, str) and isinstance(part, int | float):
        view.part(step, unit, float(part), describe(doing, None, fields))


def describe(doing: str, eta: float | None, fields: Mapping[str, Any]) -> str:
    """What is being done, how fast (bytes a second), how long it will still take (seconds)."""
    words = [doing.replace("_", " ")] if doing else []
    rate = fields.get("bytes_per_second")
    if isinstance(rate, int | float) and rate > 0:
        words.append(f"{rate / 1e6:.0f} MB/s")
    if eta is not None and eta > 0:
        words.append(f"{eta:.0f} s left")
    return ", ".join(words)
