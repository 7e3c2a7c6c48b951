"""A bridge that is up: what commands ask of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from teeth.errors import TeethError
from teeth.lab.bridge import LEASES, run_bridge
from teeth.lab.description import BridgeDescription
from teeth.lab.keep.dial import read_leases
from teeth.lab.netns import remove
from teeth.lab.running import wait_process
from teeth.proc import Process


class KeptNetwork:
    """One network in the namespace ``namespace``; its files lie in ``folder``."""

    kind = "network"

    def __init__(self, network: BridgeDescription, namespace: str, folder: Path) -> None:
        self.name = network.name
        self._network = network
        self._namespace = namespace
        self._folder = folder
        self._server: Process | None = None

    def facts(self) -> Mapping[str, Any]:
        return {
            "namespace": self._namespace,
            "address": str(self._network.address),
            "dhcp": [str(address) for address in self._network.dhcp or ()],
            "vlan": self._network.vlan,
            "leases": str(self._folder / LEASES),
        }

    @asynccontextmanager
    async def up(self) -> AsyncIterator[None]:
        # A keeper that was killed leaves its namespace. The name is this folder's alone, and no other keeper
        # of it lives: whoever starts one has looked.
        remove(self._namespace)
        async with run_bridge(self._network, self._namespace, self._folder) as server:
            self._server = server
            yield

    async def run(self) -> None:
        if self._server is None:
            await asyncio.Event().wait()
        else:
            await wait_process(self._server)
            raise TeethError(f"network {self.name}: dnsmasq has ended")

    async def answer(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        match request.get("do"):
            case "status":
                leases = await asyncio.to_thread(read_leases, self._folder / LEASES)
                return {"power": "up", "leases_by_mac": leases}
            case other:
                raise TeethError(f"a network has no request {other!r}")
