"""A network of byte pipes under the world's clock, with everything that goes wrong on real ones."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from random import Random

from sim.loop import Process, SimLoop

# As both ends set it on real sockets (TCP_USER_TIMEOUT).
USER_TIMEOUT = 30.0
DIAL_TIMEOUT = 10.0


class Pipe:
    """One direction of a connection: bytes leave in order and arrive in order, some time later."""

    def __init__(self, net: Network, target: Stream) -> None:
        self._net = net
        self._target = target
        self._waiting: deque[bytes | None] = deque()  # None is the end of the stream
        self._busy = False
        self.unsent = 0
        self.latency = 0.0  # beside the network's own: an old connection whose bytes come late
        self.held = False  # nothing arrives while it is: a peer that does not read, a network that is down
        self.gone = False  # nothing will ever arrive

    def push(self, data: bytes | None) -> None:
        self._waiting.append(data)
        self.unsent += len(data or b"")
        self.go_on()

    def go_on(self) -> None:
        if self._busy or self.held or self.gone or not self._waiting:
            return
        self._busy = True
        delay = self._net.delay() + self.latency
        self._net.loop.call_later(delay, self._deliver, context=self._net.loop.world)

    def drop(self) -> None:
        self.gone = True
        self._waiting.clear()
        self.unsent = 0

    def _deliver(self) -> None:
        self._busy = False
        if self.held or self.gone or not self._waiting:
            return
        data = self._waiting.popleft()
        if data is not None and len(data) > 1 and self._net.rng.random() < 0.15:
            cut = self._net.rng.randrange(1, len(data))
            data, rest = data[:cut], data[cut:]
            self._waiting.appendleft(rest)
        self.unsent -= len(data or b"")
        self._target.arrived(data)
        self.go_on()


class Stream:
    """One end of a connection, as a Reader, a Writer and its Transport. Its process's death ends it."""

    def __init__(self, net: Network, process: Process) -> None:
        self._net = net
        self.process = process
        self._buffer = bytearray()
        self._ended = False
        self._error: OSError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._closing = False
        self._black_since: float | None = None
        self.out: Pipe
        self.other: Stream

    # --- Reader

    async def read(self, n: int = -1) -> bytes:
        while not self._buffer:
            if self._error is not None:
                raise self._error
            if self._ended or self._closing:
                return b""
            self._waiter = self._net.loop.create_future()
            await self._waiter
        data = bytes(self._buffer[:n])
        del self._buffer[:n]
        return data

    # --- Writer and Transport

    @property
    def transport(self) -> Stream:
        return self

    def write(self, data: bytes) -> None:
        if self.process.dead or self._closing or self._error is not None:
            return
        self.out.push(bytes(data))
        if self.out.gone or self.out.held:
            self._lies_unacknowledged()

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if self.process.dead or self._closing:
            return
        self._closing = True
        self.out.push(None)
        self._wake()

    async def wait_closed(self) -> None:
        while self.out.unsent and self._error is None and not self.out.gone:  # noqa: ASYNC110 - its time is free
            await asyncio.sleep(0.05)

    def get_write_buffer_size(self) -> int:
        """What the kernel has not taken: all of it while nothing leaves."""
        return self.out.unsent if self.out.held or self.out.gone else 0

    def abort(self) -> None:
        if not self.process.dead and self.other._error is None and not self.other._ended:
            self._net.aborted(self.out.unsent)
            self._reset()

    # --- the network

    def arrived(self, data: bytes | None) -> None:
        if self.process.dead:
            return
        if data is None:
            self._ended = True
        else:
            self._buffer += data
        self._wake()

    def fail(self, error: OSError) -> None:
        """The connection is over on this side."""
        if self._error is None:
            self._error = error
            self.out.drop()
            self._buffer.clear()
            self._wake()

    def owner_died(self) -> None:
        """The kernel closes what a dead process had open."""
        if self._net.rng.random() < 0.5:
            self.out.push(None)
        else:
            self._reset()

    def linger(self) -> None:
        """Close, and let what was written arrive however late."""
        if not self._closing and not self.process.dead:
            self._closing = self._ended = True
            self.out.push(None)
            self._wake()

    def _reset(self) -> None:
        """What has not arrived never will, and the other side is told."""
        self._closing = True
        other, gone = self.other, self.out.gone
        self.out.drop()
        if not gone:
            reset = ConnectionResetError("connection reset")
            self._net.loop.call_later(self._net.delay(), other.fail, reset, context=self._net.loop.world)
        self._wake()

    def _lies_unacknowledged(self) -> None:
        if self._black_since is None:
            self._black_since = self._net.loop.time()
            self._net.loop.call_later(USER_TIMEOUT, self._give_up, context=self._net.loop.world)

    def _give_up(self) -> None:
        still = self.out.gone or (self.out.held and self.out.unsent)
        self._black_since = None
        if still and not self.process.dead:
            self.fail(TimeoutError("no acknowledgement within 30 s"))

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Connection:
    """``near`` dialled ``far``."""

    def __init__(self, net: Network, near: Process, far: Process, number: int) -> None:
        self.number = number
        self.near, self.far = Stream(net, near), Stream(net, far)
        self.near.other, self.far.other = self.far, self.near
        self.near.out, self.far.out = Pipe(net, self.far), Pipe(net, self.near)

    @property
    def pipes(self) -> tuple[Pipe, Pipe]:
        return self.near.out, self.far.out

    @property
    def over(self) -> bool:
        return any(
            stream.process.dead or stream._error is not None or stream._closing
            for stream in (self.near, self.far)
        )

    def hold(self, held: bool) -> None:
        for stream in (self.near, self.far):
            stream.out.held = held
            if not held:
                stream.out.go_on()
            elif stream.out.unsent:
                stream._lies_unacknowledged()

    def cut(self) -> None:
        """Both sides hear of it."""
        for stream in (self.near, self.far):
            stream.fail(ConnectionResetError("connection reset"))

    def go_dark(self) -> None:
        """Neither side hears of it: what they send is lost from now on."""
        for stream in (self.near, self.far):
            stream.out.drop()


class Network:
    """Every connection of the world. ``accept`` is asked for the process that listens, None: nobody does."""

    def __init__(self, loop: SimLoop, rng: Random, latency: float, aborted: Callable[[int], None]) -> None:
        """``aborted`` is told how much was still unsent when one side dropped a connection."""
        self.loop = loop
        self.aborted = aborted
        self.rng = rng
        self._latency = latency
        self.connections: list[Connection] = []
        self.partitioned = False
        self._numbers = 0

    def delay(self) -> float:
        return self._latency * (0.2 + 1.6 * self.rng.random())

    async def dial(self, process: Process, listening: Callable[[], Process | None]) -> Connection:
        """Raises OSError."""
        await asyncio.sleep(self.delay())
        if self.partitioned:
            await asyncio.sleep(DIAL_TIMEOUT)
        target = listening()
        if self.partitioned or target is None:
            raise ConnectionRefusedError("no answer" if self.partitioned else "connection refused")
        await asyncio.sleep(self.delay())
        if target.dead:
            raise ConnectionResetError("connection reset")
        self._numbers += 1
        connection = Connection(self, process, target, self._numbers)
        self.connections = [one for one in self.connections if not one.over]
        self.connections.append(connection)
        return connection

    def process_died(self, process: Process) -> None:
        """Call when it is dead: the kernel, which lives on, closes its connections."""
        for connection in self.connections:
            for stream in (connection.near, connection.far):
                if stream.process is process:
                    stream.owner_died()

    def machine_died(self, process: Process) -> None:
        """Call when it is dead and its kernel too: nobody is told."""
        for connection in self.connections:
            if process in (connection.near.process, connection.far.process):
                connection.go_dark()

    def partition(self, on: bool) -> None:
        self.partitioned = on
        for connection in self.connections:
            connection.hold(on)
