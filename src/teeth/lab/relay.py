"""A cable as a process: frames between two ends, late, lost, tagged or held back as LinkQuality says.

Started with one argument, a JSON object: ``quality``, ``machine`` and ``bridge`` (each {"kind": "stream" or
"tap", "fd": N}) and ``control``, a descriptor on which JSON lines come: {"quality": {...}}, {"cut": true} or
{"carrier": true}. It ends with the control connection, or with the machine's end.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol

from teeth.lab.link import Cable, LinkQuality

_FRAME_MAX = 65536 + 64  # a frame that QEMU has not cut into packets yet, and its headers
_UNDER_WAY = 4096  # frames each way; a slow link loses the rest, as a switch with full buffers does
_BUFFER = 1 << 20  # bytes not taken by QEMU yet, after which more is lost
Take = Callable[[bytes], None]


class End(Protocol):
    """One end of a cable."""

    def give(self, frame: bytes) -> None:
        """Send a frame on; one that cannot be taken now is lost."""

    async def run(self, take: Take) -> None:
        """Hand over what comes, until the end is gone."""


class StreamEnd:
    """QEMU's ``-netdev socket``: each frame behind its length, 4 bytes, big-endian (QEMU's net/socket.c)."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._writer: asyncio.StreamWriter | None = None

    def give(self, frame: bytes) -> None:
        if self._writer is not None and self._writer.transport.get_write_buffer_size() < _BUFFER:
            self._writer.write(len(frame).to_bytes(4, "big") + frame)

    async def run(self, take: Take) -> None:
        reader, self._writer = await asyncio.open_unix_connection(sock=self._socket)
        try:
            while True:
                length = int.from_bytes(await reader.readexactly(4), "big")
                if length > _FRAME_MAX:
                    return  # out of step: there is no way back into it
                take(await reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self._writer.close()


class TapEnd:
    """A tap: a frame a read, a frame a write."""

    def __init__(self, descriptor: int) -> None:
        self._fd = descriptor
        os.set_blocking(descriptor, False)

    def give(self, frame: bytes) -> None:
        try:
            os.write(self._fd, frame)
        except OSError:
            return  # its queue is full, or the interface is down

    async def run(self, take: Take) -> None:
        gone = asyncio.get_running_loop().create_future()

        def ready() -> None:
            try:
                for _ in range(64):  # then others have their turn
                    take(os.read(self._fd, _FRAME_MAX))
            except BlockingIOError:
                return
            except OSError as error:
                if not gone.done():
                    gone.set_result(error)

        asyncio.get_running_loop().add_reader(self._fd, ready)
        try:
            await gone
        finally:
            asyncio.get_running_loop().remove_reader(self._fd)


class Lane:
    """One direction: frames that are under way, in order."""

    def __init__(self, cable: Cable, to: End, *, outward: bool) -> None:
        self._cable, self._to, self._outward = cable, to, outward
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def take(self, frame: bytes) -> None:
        """A frame has come in."""
        now = asyncio.get_running_loop().time()
        arrival = self._cable.take(frame, now, outward=self._outward)
        if arrival is None or len(self._waiting) >= _UNDER_WAY:
            return
        if arrival[0] <= now and not self._waiting:
            self._to.give(arrival[1])
            return
        self._waiting.append(arrival)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(self._waiting[0][0], self._deliver)

    def _deliver(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        while self._waiting and self._waiting[0][0] <= loop.time():
            self._to.give(self._waiting.popleft()[1])
        if self._waiting:
            self._timer = loop.call_at(self._waiting[0][0], self._deliver)


def obey(cable: Cable, order: dict[str, Any]) -> None:
    """Carry out one line of the control connection."""
    if "quality" in order:
        cable.quality = LinkQuality(**order["quality"])
    if "cut" in order:
        cable.cut = bool(order["cut"])
    if "carrier" in order:
        cable.carrier()


async def relay(cable: Cable, machine: End, bridge: End, control: socket.socket) -> None:
    """Carry frames until an end or the control connection is gone."""
    outward, inward = Lane(cable, bridge, outward=True), Lane(cable, machine, outward=False)
    reader, writer = await asyncio.open_unix_connection(sock=control)

    async def orders() -> None:
        while line := await reader.readline():
            obey(cable, json.loads(line))
            writer.write(b"\n")  # whoever ordered may go on

    tasks = [
        asyncio.create_task(work) for work in (machine.run(outward.take), bridge.run(inward.take), orders())
    ]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    writer.close()
    for task in done:
        task.result()


def order(**changes: object) -> bytes:
    """A line for the control connection; ``quality`` is a LinkQuality."""
    words = {
        name: asdict(value) if isinstance(value, LinkQuality) else value for name, value in changes.items()
    }
    return json.dumps(words).encode() + b"\n"


def _end(spec: dict[str, Any]) -> End:
    return StreamEnd(spec["fd"]) if spec["kind"] == "stream" else TapEnd(spec["fd"])


def main() -> None:
    spec = json.loads(sys.argv[1])
    cable = Cable(LinkQuality(**spec["quality"]))
    control = socket.socket(fileno=spec["control"])
    asyncio.run(relay(cable, _end(spec["machine"]), _end(spec["bridge"]), control))


if __name__ == "__main__":
    main()
