"""The endpoint's process: the product's Hub and Sessions on a simulated disk and network."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import TYPE_CHECKING, Any

from sim.disk import Disk, DiskFaults, MemoryStores, registrar
from sim.loop import Process
from sim.net import Stream
from teeth.endpoint.clientcert import key_digest, read_csr
from teeth.endpoint.hub import Hub
from teeth.endpoint.identity import PeerIdentity
from teeth.endpoint.session import Session
from teeth.endpoint.transcript import Transcript

if TYPE_CHECKING:
    from sim.world import World

_CHORES = 60.0
LIFETIME = 86400.0


class EndpointDown(Exception):
    """Whoever asked does not know whether it was done."""


class Signer:
    """Certificates are texts here; whom they name is decided by the product."""

    def __init__(self, clock: Callable[[], float], lifetime: float) -> None:
        self._clock = clock
        self._lifetime = lifetime

    def sign(self, csr: str, node_id: str, boot_id: str) -> tuple[str, str, float]:
        spki, not_after = key_digest(read_csr(csr)), self._clock() + self._lifetime
        return json.dumps([node_id, boot_id, spki, not_after]), spki, not_after


class Tap(Transcript):
    """Every message of every session, to whoever checks them."""

    def __init__(self, seen: Callable[[int, str, bool, Mapping[str, Any]], None]) -> None:
        super().__init__(None)
        self._seen = seen

    def record(self, session: int, node: str, outgoing: bool, message: Mapping[str, Any]) -> None:
        self._seen(session, node, outgoing, message)


class EndpointHost:
    """The computer on which the endpoint runs, and its disk."""

    def __init__(self, world: World, rng: Random) -> None:
        self.world = world
        self.rng = rng
        self.disk = Disk()
        self.faults = DiskFaults()
        self.process: Process | None = None
        self.hub: Hub | None = None
        self.clock_offset = 0.0
        self.identities: dict[int, PeerIdentity | None] = {}
        self._asked: list[asyncio.Future[Any]] = []
        self._sessions = 0
        self._up = False

    @property
    def next_session(self) -> int:
        return self._sessions + 1

    def clock(self) -> float:
        return self.world.loop.time() + 1.7e9 + self.clock_offset

    @property
    def up(self) -> bool:
        return self._up and self.process is not None and not self.process.dead

    def listening(self) -> Process | None:
        return self.process if self.up else None

    def start(self) -> None:
        process = self.process = Process("endpoint")
        self.world.processes.append(process)
        self.faults.kill_at = None
        self._up = False
        self.world.loop.spawn(process, self._serve(process))

    def kill(self, why: str) -> None:
        process = self.process
        if process is None or process.dead:
            return
        self.world.trace("kill", f"endpoint ({why})")
        process.dead, self.hub, self._up = True, None, False
        self.world.network.process_died(process)
        self.world.plants.endpoint_died(self.world)
        self.world.checks.still_kept()
        for future in self._asked:
            if not future.done():
                future.set_exception(EndpointDown())
        self._asked.clear()
        self.world.later(self.rng.uniform(0.2, 8.0), self.start)

    def accept(self, stream: Stream, identity: PeerIdentity | None) -> None:
        """A connection whose TLS handshake is done. One whose certificate has expired does not get here."""
        assert self.process is not None
        assert self.hub is not None
        if identity is not None and identity.not_after <= self.clock():
            stream.abort()
            return
        self._sessions += 1
        self.identities[self._sessions] = identity
        self.world.loop.spawn(self.process, self._session(self.hub, self._sessions, stream, identity))

    async def ask(self, question: Callable[[Hub], Awaitable[Any]]) -> Any:
        """What an operator asks over the API. Raises EndpointDown, and what the answer raises."""
        if not self.up or self.process is None or self.hub is None:
            raise EndpointDown
        future = self.world.loop.create_future()
        self._asked = [one for one in self._asked if not one.done()]
        self._asked.append(future)
        self.world.loop.spawn(self.process, _answer(question(self.hub), future))
        return await future

    async def _serve(self, process: Process) -> None:
        rng = Random(self.rng.random())
        stores = MemoryStores(self.disk, self.world.loop, process, rng, self.faults, self.clock)
        self._registrar = registrar(self.disk, Signer(self.clock, self.world.lifetime), self.clock)
        hub = Hub(
            stores, self._registrar.admit, Tap(self.world.checks.said), limits=self.world.limits,
            clock=self.clock, jitter=rng.random,
        )  # fmt: skip
        while True:
            try:
                await hub.recover()
                break
            except OSError:
                await asyncio.sleep(1.0)  # its supervisor would start it again
        self.hub, self._up = hub, True
        self.world.trace("endpoint", "listens")
        for task_id in self.world.checks.watched:
            self.world.loop.spawn(process, self._watch(hub, task_id))
        await asyncio.sleep(rng.uniform(0, _CHORES))
        while True:
            try:
                await hub.notice_silence()
            except OSError:  # as the service does: the next time it may do better
                self.world.trace("chores", "failed: disk full")
            await asyncio.sleep(_CHORES)

    def watch(self, task_id: str) -> None:
        if self.process is not None and self.hub is not None:
            self.world.loop.spawn(self.process, self._watch(self.hub, task_id))

    async def _watch(self, hub: Hub, task_id: str) -> None:
        while True:
            try:
                async for event in hub.task_events(task_id):
                    self.world.checks.watched_event(event)
                return
            except OSError:  # who watches is told, and looks again
                await asyncio.sleep(1.0)

    async def _session(self, hub: Hub, number: int, stream: Stream, identity: PeerIdentity | None) -> None:
        session = Session(
            hub, number, f"10.0.0.1:{number}", stream, stream, identity=identity, plain=False,
            enrol=self._registrar,
        )  # fmt: skip
        try:
            await session.run()
        except OSError as error:
            self.world.trace("session", f"{number} failed: {error}")


async def _answer(work: Awaitable[Any], future: asyncio.Future[Any]) -> None:
    try:
        result = await work
    except Exception as error:
        if not future.done():
            future.set_exception(error)
    else:
        if not future.done():
            future.set_result(result)
