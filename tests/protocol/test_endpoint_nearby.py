"""Peers and caches in the commands of a real endpoint, over the real wire."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fakes.wire_agent import Dialled, WireAgent
from teeth.endpoint.nearby import Nearby, parse_cache, parse_network
from teeth.service import Endpoint, EndpointConfig
from teeth_protocol.methods import CACHE_IMAGES, PREPARE_IMAGE

HEX = "a" * 64
SHARED = "http://127.0.0.1:9000"


def image(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "id": "i",
        "urls": [f"{endpoint.boot_url}/images/sha256-{HEX}"],
        "size": 5,
        "digest": f"sha256:{HEX}",
        "format": "raw",
        "chunks": {"size": 4096, "digests": ["0" * 64]},
    }


def running(tmp_path: Path, **nearby: Any) -> Endpoint:
    return Endpoint(EndpointConfig(data=tmp_path / "data", nearby=Nearby(**nearby)))


LOOPBACK = {"peers": (parse_network("127.0.0.0/8"),)}


def agent(token: str, number: int) -> WireAgent:
    made = WireAgent(token=token, node_id=f"node-{number}", macs=(f"52:54:00:00:00:0{number}",))
    made.answers |= {name: lambda _: {"state": "running"} for name in (CACHE_IMAGES, PREPARE_IMAGE)}
    return made


@contextlib.asynccontextmanager
async def connected(endpoint: Endpoint, one: WireAgent) -> AsyncIterator[Dialled]:
    async with one.session(endpoint.agent_port, endpoint.ca_file) as dialled:
        yield dialled


async def new_agent(endpoint: Endpoint, number: int) -> WireAgent:
    return agent((await endpoint.grant(f"52:54:00:00:00:0{number}")).token, number)


async def shares(endpoint: Endpoint, one: WireAgent, dialled: Dialled) -> None:
    """This node has cached the image and serves it."""
    params = {"images": [image(endpoint)], "share": True}
    task_id = await endpoint.run_task(one.node_id, CACHE_IMAGES, params)
    assert (await one.command(CACHE_IMAGES))["images"][0].get("peers") is None
    result = {"images": [{"id": "i", "cached": True}], "place": "memory", "budget": 9, "shared_at": SHARED}
    await dialled.status(task_id, "complete", seq=1, percent=100, result=result)
    async with asyncio.timeout(10):
        await endpoint.wait_task(task_id)


async def prepared(endpoint: Endpoint, one: WireAgent) -> dict[str, Any]:
    """The image as a prepare_image command brings it."""
    params = {"image": image(endpoint), "root_disk": {"name": "/dev/sda"}}
    await endpoint.run_task(one.node_id, PREPARE_IMAGE, params)
    found: dict[str, Any] = (await one.command(PREPARE_IMAGE))["image"]
    return found


async def until_peers(endpoint: Endpoint, one: WireAgent, wanted: list[str] | None) -> None:
    """What happens reaches the one who keeps the list a moment after it reached the store."""
    async with asyncio.timeout(10):
        while (await prepared(endpoint, one)).get("peers") != wanted:
            pass


async def test_what_one_machine_shares_is_told_to_the_next_as_long_as_it_is_connected(tmp_path: Path) -> None:
    async with running(tmp_path, **LOOPBACK) as endpoint:
        first, second = await new_agent(endpoint, 1), await new_agent(endpoint, 2)
        async with connected(endpoint, second):
            async with connected(endpoint, first) as dialled:
                await shares(endpoint, first, dialled)
                await until_peers(endpoint, second, [f"{SHARED}/images/sha256-{HEX}"])
            await until_peers(endpoint, second, None)
            async with connected(endpoint, first):  # the same boot is back, and still shares
                await until_peers(endpoint, second, [f"{SHARED}/images/sha256-{HEX}"])
            first.boot_id = "boot-2"
            first.token, first.certificate = (await endpoint.grant(first.macs[0])).token, None
            async with connected(endpoint, first):  # a new boot has nothing
                await until_peers(endpoint, second, None)


async def test_a_repeated_command_is_the_same_whatever_has_changed_meanwhile(tmp_path: Path) -> None:
    """An agent refuses a task that it knows with other params."""
    async with running(tmp_path, **LOOPBACK) as endpoint:
        first, second = await new_agent(endpoint, 1), await new_agent(endpoint, 2)
        third = await new_agent(endpoint, 3)
        async with connected(endpoint, first) as dialled:
            await shares(endpoint, first, dialled)
            # Another one: what became of its commands is nobody's concern, and would hold the second.
            async with connected(endpoint, third):
                await until_peers(endpoint, third, [f"{SHARED}/images/sha256-{HEX}"])
            async with connected(endpoint, second) as other:

                def vanish(_: Mapping[str, Any]) -> dict[str, Any]:
                    other.vanish()
                    return {}

                second.answers[PREPARE_IMAGE] = vanish
                sent = await prepared(endpoint, second)
                await other.end()
        second.answers[PREPARE_IMAGE] = lambda _: {"state": "running"}
        async with connected(endpoint, second):  # and the first, which shared, is gone
            again = (await second.command(PREPARE_IMAGE))["image"]
            assert sent["peers"] == [f"{SHARED}/images/sha256-{HEX}"]
            assert again == sent
            assert (
                "peers" not in (await endpoint.tasks(second.node_id))[-1].params["image"]
            )  # as it was asked


@pytest.mark.parametrize("network", ["10.0.0.0/8", None])
async def test_machines_outside_every_network_that_was_named_hear_of_nobody(
    tmp_path: Path, network: str | None
) -> None:
    peers = () if network is None else (parse_network(network),)
    async with running(tmp_path, peers=peers) as endpoint:
        first, second = await new_agent(endpoint, 1), await new_agent(endpoint, 2)
        async with connected(endpoint, first) as dialled, connected(endpoint, second):
            await shares(endpoint, first, dialled)
            for _ in range(3):
                assert "peers" not in await prepared(endpoint, second)


async def test_a_machine_asks_the_cache_of_its_network_first(tmp_path: Path) -> None:
    async with running(tmp_path, caches=(parse_cache("127.0.0.0/8=http://127.0.0.1:8000"),)) as endpoint:
        one = await new_agent(endpoint, 1)
        async with connected(endpoint, one):
            path = f"/images/sha256-{HEX}"
            found = await prepared(endpoint, one)
            assert found["urls"] == [f"http://127.0.0.1:8000{path}", f"{endpoint.boot_url}{path}"]
