"""QEMU's control connection: commands, and a log of every event as the host's own witness."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TextIO

from qemu.qmp import EventListener, QMPClient, Runstate
from qemu.qmp.error import QMPError
from qemu.qmp.qmp_client import ExecuteError

from teeth.errors import TeethError

_GREETING_SECONDS = 30.0  # QEMU allocates memory and opens its disks first


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One QMP event; ``at`` is in seconds since the machine was started. qemu-qmp-ref names the kinds."""

    at: float
    name: str
    data: Mapping[str, object]


class Qmp:
    """A connection that is up. ``events`` holds every event since before the first instruction ran."""

    def __init__(self, client: QMPClient, *, log: TextIO, clock: Callable[[], float]) -> None:
        self._client = client
        self._log = log
        self._clock = clock
        self._changed = asyncio.Condition()
        self._closed = False
        self.events: list[Event] = []

    async def execute(self, command: str, **arguments: object) -> object:
        """Run one command; a ``_`` in an argument's name stands for QMP's ``-``.

        Raises TeethError when QEMU refuses it or is gone.
        """
        return await self.command(command, {k.replace("_", "-"): v for k, v in arguments.items()})

    async def command(self, command: str, arguments: Mapping[str, object]) -> object:
        """Run one command with the arguments as they stand. Raises as execute does."""
        try:
            return await self._client.execute(command, dict(arguments))
        except ExecuteError as error:
            raise TeethError(f"QEMU refuses {command}: {error}") from error
        except QMPError as error:
            raise TeethError(f"QEMU is gone, {command} cannot be run") from error

    def count(self, name: str) -> int:
        """How often the event ``name`` came so far."""
        return sum(event.name == name for event in self.events)

    def resets(self) -> int:
        """How often the machine was reset, that is, its firmware run again, since it was started."""
        return self.count("RESET")

    async def wait_event(self, name: str, *, within: float, since: int = 0) -> Event:
        """The first event ``name`` from index ``since`` of ``events`` on, within that many seconds.

        Raises TeethError when it does not come.
        """
        try:
            async with asyncio.timeout(within), self._changed:
                while True:
                    for event in self.events[since:]:
                        if event.name == name:
                            return event
                    if self._closed:
                        raise TeethError(f"QEMU ended before its event {name} came")
                    await self._changed.wait()
        except TimeoutError:
            raise TeethError(f"QEMU's event {name} did not come within {within:g} s") from None

    async def follow(self, listener: EventListener) -> None:
        """Keep and log events until cancelled."""
        async for message in listener:
            data = message.get("data", {})
            event = Event(
                at=self._clock(), name=str(message["event"]), data=data if isinstance(data, dict) else {}
            )
            self.events.append(event)
            self._log.write(
                json.dumps({"at": round(event.at, 3), "event": event.name, "data": event.data}) + "\n"
            )
            self._log.flush()
            async with self._changed:
                self._changed.notify_all()

    async def mark_closed(self) -> None:
        """The connection has ended: whoever waits for an event waits no longer."""
        self._closed = True
        async with self._changed:
            self._changed.notify_all()


@asynccontextmanager
async def open_qmp(channel: socket.socket, *, log: TextIO, clock: Callable[[], float]) -> AsyncIterator[Qmp]:
    """Speak QMP over a connected socket, which is then ours to close.

    Raises TeethError when QEMU does not greet: it ended while reading its arguments.
    """
    client = QMPClient("lab")
    client.logger.setLevel(logging.CRITICAL)  # what it logs it also raises, and we tell it in one line
    listener = EventListener()
    client.register_listener(listener)
    try:
        async with asyncio.timeout(_GREETING_SECONDS):
            await client.connect(channel)
    except (QMPError, OSError, TimeoutError) as error:
        channel.close()
        raise TeethError("QEMU did not open its control connection") from error
    qmp = Qmp(client, log=log, clock=clock)
    follower = asyncio.create_task(qmp.follow(listener))
    watcher = asyncio.create_task(_watch(client, listener, qmp))
    try:
        yield qmp
    finally:
        for task in (watcher, follower):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        with contextlib.suppress(QMPError, OSError, EOFError):  # QEMU ends first, mostly
            await client.disconnect()


async def _watch(client: QMPClient, listener: EventListener, qmp: Qmp) -> None:
    """The listener does not end with the connection: tell those who wait for an event."""
    while client.runstate is Runstate.RUNNING:
        await client.runstate_changed()
    while not listener.empty():  # noqa: ASYNC110 - the follower takes all of it without waiting; what came with the last bytes is logged first
        await asyncio.sleep(0)
    await qmp.mark_closed()
