"""Clients that are not the agent, on connections of their own: thieves, ghosts, fools."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sim.checks import FORGED
from sim.loop import Process
from sim.machine import MAC, NODE
from sim.net import Stream
from teeth_protocol import methods
from teeth_protocol.connection import Role
from teeth_stream import Peer, RemoteError

if TYPE_CHECKING:
    from sim.world import World


async def _mute(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Whatever it is asked, it never says what became of it."""
    await asyncio.Event().wait()
    return {}


class Stranger:
    """One such client, for as long as its connection lasts."""

    def __init__(self, world: World, kind: str, credential: Any) -> None:
        self._world = world
        self._kind = kind
        self._identity = credential
        self.process = Process(kind)
        world.processes.append(self.process)

    async def run(self) -> None:
        try:
            stream = await self._world.dial(self.process, self._identity, hostile=True)
        except OSError:
            return
        with contextlib.suppress(OSError):
            await {
                "stranger": self._fool,
                "stolen_token": self._thief,
                "stale_boot": self._ghost,
                "duplicate": self._double,
            }[self._kind](stream)

    def _peer(self, stream: Stream) -> tuple[Peer, asyncio.Task[Any]]:
        peer = Peer(
            Role.AGENT,
            stream,
            stream,
            _mute,
            limits=self._world.limits,
            jitter=self._world.hostile_rng.random,
        )
        return peer, asyncio.create_task(peer.run())

    async def _fool(self, stream: Stream) -> None:
        """Says what nobody may say who has not shaken hands, or what is no message at all."""
        said = (
            b'{"id":"x1","method":"task_status","params":{"task_id":"t0","seq":99,"state":"error",'
            b'"code":"forged","msg":"no"}}\n',
            b'{"id":"x1","method":"decom.disk_erase","params":{"task_id":"x-evil"}}\n',
            b'{"id":"x1","method":"handshake","params":{"id":"node-1","boot_id":"boot-1","tasks":[]}}\n',
            b'{"id":"x1","method":"cancel_task","params":{"task_id":"t0"}}\n',
            b"\xff\xfe{{{\n",
            b"x" * 5000,
        )
        stream.write(self._world.hostile_rng.choice(said))
        while await stream.read(4096):
            pass

    async def _thief(self, stream: Stream) -> None:
        """The join token, read off a console, for a key of its own."""
        memory = self._world.machine.memory
        spent = self._world.endpoint.disk.tokens[memory.token].boot_id is not None
        macs = [MAC] if spent else ["52:54:00:00:00:66"]
        peer, running = self._peer(stream)
        try:
            await peer.call(
                methods.ENROLL,
                {"id": NODE, "boot_id": "boot-evil", "macs": macs, "token": memory.token,
                 "csr": self._world.stolen_request},
            )  # fmt: skip
            self._world.checks.broken("authority", "a stolen token was turned into a certificate")
        except RemoteError:
            pass
        peer.hang_up()
        await running

    async def _ghost(self, stream: Stream) -> None:
        """An earlier boot of the machine, with its certificate: it tells of tasks that are not its own."""
        peer, running = self._peer(stream)
        with contextlib.suppress(RemoteError):
            await peer.call(methods.HANDSHAKE, self._hello(self._identity.boot_id))
            self._world.forgers.add(self._identity.boot_id)
            for number in range(6):
                await asyncio.sleep(2.0)
                await peer.call(
                    methods.TASK_STATUS,
                    {
                        "task_id": f"t{number % 3}",
                        "seq": 10**6,
                        "state": "error",
                        "code": FORGED,
                        "msg": "no",
                    },
                )
        await running

    async def _double(self, stream: Stream) -> None:
        """A second client with the credential of this very boot: it takes the session and does nothing."""
        peer, running = self._peer(stream)
        with contextlib.suppress(RemoteError):
            await peer.call(methods.HANDSHAKE, self._hello(self._identity.boot_id))
            await asyncio.sleep(self._world.hostile_rng.uniform(0.5, 10.0))
            await peer.call(methods.TASK_STATUS, {"task_id": "t-none", "state": "running", "percent": 1.0})
        peer.hang_up()
        await running

    def _hello(self, boot_id: str) -> dict[str, Any]:
        hello: dict[str, Any] = {"id": NODE, "version": "1", "boot_id": boot_id, "macs": [MAC]}
        if self._world.hostile_rng.random() < 0.5:
            hello["tasks"] = []
        return hello
