"""The real agent at the real endpoint: who gets in, who does not, and what a person reads then."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fakes.living_agent import Agent
from fakes.living_agent import agent as living_agent
from teeth.endpoint import ca
from teeth.endpoint.clientcert import ClientSigner
from teeth.endpoint.events import NodeConnected
from teeth.service import Endpoint, EndpointConfig
from teeth_agent.session.enrol import FileKeys

MAC, OTHER_MAC = "52:54:00:00:00:01", "52:54:00:00:00:02"


@pytest.fixture
async def endpoint(tmp_path: Path) -> AsyncIterator[Endpoint]:
    async with Endpoint(EndpointConfig(data=tmp_path / "data")) as running:
        yield running


@contextlib.asynccontextmanager
async def agent(endpoint: Endpoint, token: str, **change: Any) -> AsyncIterator[Agent]:
    facts: dict[str, Any] = {"digest": endpoint.ca_digest, "token": token, "macs": (MAC,)}
    async with living_agent(endpoint.agent_port, **{**facts, **change}) as living:
        yield living


async def home(endpoint: Endpoint, living: Agent) -> None:
    await living.screen.says("connected to ")
    assert len(endpoint.connected()) == 1


def problems(living: Agent) -> list[str]:
    return [line for line in living.screen.getvalue().splitlines() if line.startswith("teeth: problem")]


async def test_a_restarted_process_comes_home_without_its_token(endpoint: Endpoint, tmp_path: Path) -> None:
    token = (await endpoint.grant(MAC)).token
    async with agent(endpoint, token, folder=tmp_path / "run") as living:
        await home(endpoint, living)
    async with agent(endpoint, "", folder=tmp_path / "run") as living:
        await living.screen.says("connected to ")
        assert "enrolled" not in living.screen.getvalue()


async def test_a_stolen_token_opens_nothing_a_second_time(endpoint: Endpoint) -> None:
    """On another machine, or on the same one after a restart."""
    token = (await endpoint.grant(MAC)).token
    async with agent(endpoint, token) as living:
        await home(endpoint, living)
        for thief in ({"node": "node-2"}, {"boot": "boot-2"}, {}):
            async with agent(endpoint, token, **thief) as other:
                await other.screen.says("problem ")
                (line,) = problems(other)
                assert "problem token_burnt: " in line
                assert "give this machine a new boot grant" in line
        assert endpoint.connected() == ["node-1"]
        assert problems(living) == []


async def test_a_token_of_another_mac_opens_nothing(endpoint: Endpoint) -> None:
    token = (await endpoint.grant(OTHER_MAC)).token
    async with agent(endpoint, token) as living:
        await living.screen.says("problem token_other_node: ")
    assert await endpoint.nodes() == []


async def test_two_machines_that_claim_one_node_are_told_apart(endpoint: Endpoint) -> None:
    first, second = (await endpoint.grant(MAC)).token, (await endpoint.grant(OTHER_MAC)).token
    async with agent(endpoint, first) as living:
        await home(endpoint, living)
        async with agent(endpoint, second, macs=(OTHER_MAC,), boot="boot-2") as other:
            await other.screen.says("problem node_claimed: ")
            (line,) = problems(other)
            assert "`teeth node forget` makes the id free" in line
        assert problems(living) == []
        assert endpoint.connected() == ["node-1"]


async def test_the_newest_boot_wins_and_the_older_one_says_so(endpoint: Endpoint) -> None:
    async with agent(endpoint, (await endpoint.grant(MAC)).token) as older:
        await home(endpoint, older)
        async with agent(endpoint, (await endpoint.grant(MAC)).token, boot="boot-2") as newer:
            await newer.screen.says("connected to ")
            await older.screen.says("problem stale_boot: ")
            assert problems(newer) == []


async def test_an_expired_certificate_is_refused_and_another_one_asked_for(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    """It is of the right authority and names the right boot; that it is over is for the endpoint to say."""
    authority = ca.load_or_create(tmp_path / "data")
    signer = ClientSigner(authority, lifetime=3600, clock=lambda: time.time() - 7200)
    keys = FileKeys(tmp_path / "run", boot_id="boot-1")
    await keys.keep(signer.sign(await keys.csr(), "node-1", "boot-1")[0], 86400)
    token = (await endpoint.grant(MAC)).token
    with endpoint.subscribe() as events:
        async with agent(endpoint, token, folder=tmp_path / "run") as living:
            await living.screen.says("enrolled with ")
            await living.screen.says("connected to ")
            async for event in events:
                if isinstance(event, NodeConnected):
                    break
    assert endpoint.connected() == []


async def test_a_forgotten_node_is_told_to_boot_anew(endpoint: Endpoint) -> None:
    """Its certificate names a node that is none any more, and its token is spent."""
    async with agent(endpoint, (await endpoint.grant(MAC)).token) as living:
        await home(endpoint, living)
        await endpoint.forget_node("node-1")
        await living.screen.says("problem not_enrolled: ")
        await living.screen.says("problem token_burnt: ")
    assert endpoint.connected() == []
