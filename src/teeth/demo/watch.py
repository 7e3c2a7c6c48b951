"""Waiting for what should happen, with the machine's own reason when it does not."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable
from typing import TypeVar

from teeth.errors import TeethError
from teeth.lab.console import Console, Line

T = TypeVar("T")
_PROBLEM = re.compile(r"teeth: problem ([a-z0-9_]+): (.*)")
_NEVER = r"(?!)"
# A first dial may come before the route is there; what lasts longer than this is not transient.
GRACE = 12.0


class MachineProblem(TeethError):
    """The machine itself says on its console what is wrong."""


class ProblemWatch:
    """Remembers the last problem that a machine's console told of."""

    def __init__(self) -> None:
        self.code = ""
        self.message = ""
        self._raised = asyncio.Event()

    def on_line(self, line: Line) -> None:
        """Give it every console line."""
        if match := _PROBLEM.search(line.text):
            self.code, self.message = match.group(1), match.group(2)
            self._raised.set()

    async def guard(
        self, work: Awaitable[T], console: Console, *, what: str, deadline: float, grace: float = GRACE
    ) -> T:
        """``work``'s result.

        Raises MachineProblem when the machine complains and ``work`` is not done ``grace`` seconds later;
        TeethError when the machine ends or panics, or when nothing came within ``deadline`` seconds.
        """
        job = asyncio.ensure_future(work)
        others = [
            asyncio.ensure_future(self._complain(what, grace)),
            # Raises as soon as the machine has ended or said that it is hopeless.
            asyncio.ensure_future(console.wait_for(_NEVER, within=2 * deadline, since=console.position)),
        ]
        try:
            await asyncio.wait((job, *others), timeout=deadline, return_when=asyncio.FIRST_COMPLETED)
            for done in (job, *others):
                if done.done():
                    done.result()
            if job.done():
                return job.result()
            raise TeethError(f"{what}: nothing happened for {deadline:g} s", hint="read console.log")
        finally:
            for task in (job, *others):
                task.cancel()
            await asyncio.gather(job, *others, return_exceptions=True)

    async def _complain(self, what: str, grace: float) -> None:
        await self._raised.wait()
        await asyncio.sleep(grace)
        raise MachineProblem(f"{what}: the machine says {self.code}: {self.message}")
