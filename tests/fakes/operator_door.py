"""A real endpoint with its operator's door, and a client that holds every answer against the document."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import jsonschema

from fakes.wire_agent import Dialled, WireAgent
from teeth.api.client import Event
from teeth.api.credentials import TOKEN_FILE
from teeth.api.door import operator_door
from teeth.boot.images import ImageFile
from teeth.endpoint.events import TaskChanged
from teeth.endpoint.taskstate import TaskState
from teeth.service import Endpoint, EndpointConfig

ANY = ("127.0.0.1", 0)
MAC = "52:54:00:00:00:01"
ERASE = "decom.disk_erase"
PREPARE = "standbye.prepare_image"
RUN = "standbye.run_image"
IMAGE = {"id": "i-1", "size": 3, "digest": "sha256:" + "0" * 64, "format": "raw", "compression": "none"}


@dataclass
class Machine(WireAgent):
    """A machine whose agent says which methods it serves, unless they are None."""

    methods: Sequence[str] | None = None

    def hello(self) -> dict[str, Any]:
        said = {name: value for name, value in super().hello().items() if name != "methods"}
        return said if self.methods is None else {**said, "methods": list(self.methods)}


@dataclass
class Door:
    """``client`` knows the token; ``document`` is the one that the door serves."""

    endpoint: Endpoint
    url: str
    token: str
    client: httpx.AsyncClient
    document: dict[str, Any] = field(default_factory=dict)
    _machines: dict[str, WireAgent] = field(default_factory=dict)

    @contextlib.asynccontextmanager
    async def agent(
        self, node_id: str = "node-1", *, methods: Sequence[str] | None = None
    ) -> AsyncIterator[Dialled]:
        """A machine that is connected and takes every task; the n-th has the MAC that ends in n."""
        number = len(await self.endpoint.nodes()) + 1
        macs = (f"52:54:00:00:00:{number:02x}",)
        token = (await self.endpoint.grant(macs[0])).token
        agent = Machine(token=token, node_id=node_id, boot_id=f"boot-{node_id}", macs=macs, methods=methods)
        self._machines[node_id] = agent
        agent.answers |= {name: lambda _: {"state": "running"} for name in (ERASE, PREPARE, RUN)}
        async with agent.session(self.endpoint.agent_port, self.endpoint.ca_file) as dialled:
            yield dialled

    @contextlib.asynccontextmanager
    async def again(self, node_id: str, boot_id: str) -> AsyncIterator[Dialled]:
        """The same machine after a reboot."""
        before = self._machines[node_id]
        token = (await self.endpoint.grant(before.macs[0])).token
        agent = Machine(
            token=token, node_id=node_id, boot_id=boot_id, macs=before.macs, answers=before.answers
        )
        async with agent.session(self.endpoint.agent_port, self.endpoint.ca_file) as dialled:
            yield dialled

    def order(self, **members: Any) -> dict[str, Any]:
        """The body of a request for a task."""
        return {"node": "node-1", "method": ERASE, **members}

    async def reached(self, task_id: str, *states: TaskState) -> None:
        async with asyncio.timeout(10):
            with self.endpoint.subscribe() as watcher:
                while (await self.endpoint.task(task_id)).state not in states:
                    while not isinstance(await watcher.get(), TaskChanged):
                        pass

    async def away(self, node_id: str) -> None:
        """Wait until the endpoint has noticed that a machine left."""
        async with asyncio.timeout(10):
            with self.endpoint.subscribe() as watcher:
                while node_id in self.endpoint.connected():
                    await watcher.get()

    async def inventoried(self, node_id: str) -> None:
        async with asyncio.timeout(10):
            with self.endpoint.subscribe() as watcher:
                while (node := await self.endpoint.node(node_id)) is None or node.inventory is None:
                    await watcher.get()

    async def logged(self, dialled: Dialled, event: str, **members: Any) -> None:
        """The machine says something; it is kept when this returns."""
        record = {"level": "info", "time": 1.0, "logger": "t", "event": event, **members}
        await dialled.peer.call("log", record)

    @contextlib.asynccontextmanager
    async def events(
        self, path: str, headers: dict[str, str] | None = None
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """A stream's events."""
        async with self.client.stream("GET", path, headers=headers) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            yield _events(response.aiter_lines())

    @contextlib.asynccontextmanager
    async def sleeper(self, path: str, *, order: str) -> AsyncIterator[asyncio.StreamReader]:
        """A watcher of a new task that has asked and reads nothing by itself."""
        await self.client.post("/v1/tasks", json=self.order(task_id=order))
        await self.reached(order, TaskState.ACCEPTED)
        port = int(self.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
        head = f"GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {self.token}\r\n"
        writer.write(f"{head}connection: close\r\n\r\n".encode())
        await reader.readuntil(b"event: task")
        try:
            yield reader
        finally:
            writer.close()

    async def unwatched(self, path: str) -> None:
        """Wait until the door has room for a watcher again."""
        async with asyncio.timeout(10):
            while True:
                async with self.client.stream("GET", path) as response:
                    if response.status_code != 503:
                        return

    async def hold_against_document(self, response: httpx.Response) -> None:
        """Every answer has the shape that the document promises for it."""
        request = response.request
        if not self.document or response.headers.get("content-type") != "application/json":
            return
        path = request.url.path
        for template, operations in self.document["paths"].items():
            operation = operations.get(request.method.lower())
            if operation and matches(template, path):
                promised = operation["responses"].get(str(response.status_code))
                assert promised, f"{request.method} {template}: {response.status_code} is not in the document"
                schema = promised["content"]["application/json"]["schema"]
                await response.aread()
                jsonschema.validate(response.json(), {**schema, "components": self.document["components"]})


async def _events(lines: AsyncIterator[str]) -> AsyncIterator[Event]:
    fields: dict[str, str] = {}
    async for line in lines:
        name, _, value = line.partition(": ")
        if line:
            fields[name] = value
        elif "data" in fields:
            yield Event(name=fields["event"], data=json.loads(fields["data"]), id=fields.get("id", ""))
            fields = {}


def matches(template: str, path: str) -> bool:
    wanted, given = template.split("/"), path.split("/")
    pairs = zip(wanted, given, strict=False)
    return len(wanted) == len(given) and all(w == g or w.startswith("{") for w, g in pairs)


@contextlib.asynccontextmanager
async def open_door(folder: Path) -> AsyncIterator[Door]:
    """An endpoint with one image (``i-1``), whose data, log and transcript lie in ``folder``."""
    image = folder / "disk.raw"
    image.write_bytes(b"abc")
    config = EndpointConfig(
        data=folder / "data",
        images=(ImageFile(path=image, manifest=IMAGE),),
        log=folder / "endpoint.log",
        transcript=folder / "wire.jsonl",
    )
    async with Endpoint(config) as endpoint, operator_door(endpoint, ANY) as url:
        token = (config.data / TOKEN_FILE).read_text().strip()
        headers = {"authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=20) as client:
            opened = Door(endpoint=endpoint, url=url, token=token, client=client)
            opened.document = (await client.get("/openapi.json")).json()
            client.event_hooks["response"].append(opened.hold_against_document)
            yield opened
