"""Handshakes against a real endpoint over real TLS on loopback."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fakes.wire_agent import WireAgent, trusting
from teeth.endpoint import ca
from teeth.endpoint.events import (
    Event,
    InventoryReceived,
    LogReceived,
    NodeConnected,
    NodeRefused,
    Subscription,
)
from teeth.endpoint.httpserver import listening_socket
from teeth.errors import TeethError
from teeth.service import Endpoint, EndpointConfig
from teeth_stream import RemoteError

MAC = "52:54:00:00:00:01"


@pytest.fixture
async def endpoint(tmp_path: Path) -> AsyncIterator[Endpoint]:
    async with Endpoint(
        EndpointConfig(data=tmp_path / "data", transcript=tmp_path / "wire.jsonl")
    ) as running:
        yield running


async def next_of(watcher: Subscription, kind: type[Any]) -> Any:
    async with asyncio.timeout(10):
        while True:
            event: Event | None = await watcher.get()
            assert event is not None
            if isinstance(event, kind):
                return event


async def refusal(endpoint: Endpoint, agent: WireAgent) -> str:
    """Why the endpoint did not enrol this agent, and that it stays a stranger."""
    with pytest.raises(RemoteError) as caught:
        await agent.enrol(endpoint.agent_port, endpoint.ca_file)
    assert agent.certificate is None
    return caught.value.problem.msg


async def test_a_granted_machine_is_welcomed_and_asked_for_its_inventory(endpoint: Endpoint) -> None:
    agent = WireAgent(token=(await endpoint.grant(MAC)).token)
    agent.answers["inventory"] = lambda _: {"disks": [{"serial": "S1"}]}
    with endpoint.subscribe() as watcher:
        async with agent.session(endpoint.agent_port, endpoint.ca_file) as dialled:
            assert dialled.welcome["id"] == "node-1"
            assert dialled.welcome["epoch"] == 1
            connected = await next_of(watcher, NodeConnected)
            assert (connected.node_id, connected.macs, connected.timings) == (
                "node-1",
                (MAC,),
                {"kernel": 1.5},
            )
            inventory = await next_of(watcher, InventoryReceived)
            assert inventory.inventory == {"disks": [{"serial": "S1"}]}
            assert endpoint.connected() == ["node-1"]
    node = await endpoint.node("node-1")
    assert node is not None
    assert node.inventory == {"disks": [{"serial": "S1"}]}


async def test_an_agent_that_has_no_inventory_can_be_worked_with(endpoint: Endpoint) -> None:
    agent = WireAgent(token=(await endpoint.grant(MAC)).token, answers={"status": lambda _: {"uptime": 1}})
    async with agent.session(endpoint.agent_port, endpoint.ca_file):
        await agent.command("inventory")
        assert await endpoint.call("node-1", "status") == {"uptime": 1}


async def test_logs_reach_the_store_and_the_watcher(endpoint: Endpoint) -> None:
    agent = WireAgent(token=(await endpoint.grant(MAC)).token)
    with endpoint.subscribe() as watcher:
        async with agent.session(endpoint.agent_port, endpoint.ca_file) as dialled:
            await dialled.peer.call("log", {"level": "info", "event": "hello", "fields": {"disk": "S1"}})
            heard = await next_of(watcher, LogReceived)
    assert heard.record["event"] == "hello"
    assert (await endpoint.logs("node-1"))[0]["fields"] == {"disk": "S1"}


async def test_a_token_is_for_one_boot(endpoint: Endpoint) -> None:
    token = (await endpoint.grant(MAC)).token
    agent = WireAgent(token=token, boot_id="b1")
    async with agent.session(endpoint.agent_port, endpoint.ca_file):
        pass
    async with agent.session(endpoint.agent_port, endpoint.ca_file) as again:
        assert again.welcome["epoch"] == 2
    with endpoint.subscribe() as watcher:
        why = await refusal(endpoint, WireAgent(token=token, boot_id="b2"))
        refused = await next_of(watcher, NodeRefused)
    assert why == "this join token was already used by another boot"
    assert (refused.code, refused.node_id) == ("token_burnt", "node-1")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"token": "x" * 32}, "never given out"),
        ({"macs": ("52:54:00:00:00:99",)}, "given to another machine"),
        ({"node_id": "a node"}, r"params\.id"),
        ({"boot_id": ""}, r"params\.boot_id"),
        ({"token": ""}, r"params\.token"),
    ],
)
async def test_who_is_not_granted_is_told_why(endpoint: Endpoint, change: dict[str, Any], why: str) -> None:
    agent = WireAgent(**{"token": (await endpoint.grant(MAC)).token, **change})
    assert re.search(why, await refusal(endpoint, agent))
    assert endpoint.connected() == []


async def test_an_expired_token_opens_nothing(endpoint: Endpoint) -> None:
    agent = WireAgent(token=(await endpoint.grant(MAC, ttl=-1)).token)
    assert await refusal(endpoint, agent) == "this join token has expired"


async def test_nothing_is_served_before_the_handshake(endpoint: Endpoint) -> None:
    agent = WireAgent(token="none")
    async with agent.dial(endpoint.agent_port, endpoint.ca_file) as dialled:
        dialled.writer.write(b'{"version":"v1","id":"1","method":"log","params":{}}\n')
        closed = await dialled.end()
    assert closed.fatal
    assert "before the handshake" in closed.reason


async def test_two_machines_with_one_id_are_told_apart(endpoint: Endpoint) -> None:
    first = WireAgent(token=(await endpoint.grant(MAC)).token, boot_id="b1")
    other = "52:54:00:00:00:02"
    second = WireAgent(token=(await endpoint.grant(other)).token, boot_id="b2", macs=(other,))
    async with first.session(endpoint.agent_port, endpoint.ca_file) as held:
        assert await refusal(endpoint, second) == "another machine has enrolled under this id"
        first.answers["decom.disk_erase"] = lambda params: {"task_id": params["task_id"], "state": "running"}
        task_id = await endpoint.run_task("node-1", "decom.disk_erase", {})
        await first.command("decom.disk_erase")
        assert await held.status(task_id, "running", seq=1, percent=1) == {"verdict": "applied"}
        assert second.commands.empty()


async def test_the_newest_boot_wins(endpoint: Endpoint) -> None:
    first = WireAgent(token=(await endpoint.grant(MAC)).token, boot_id="b1")
    async with first.session(endpoint.agent_port, endpoint.ca_file) as old:
        second = WireAgent(token=(await endpoint.grant(MAC)).token, boot_id="b2")
        async with second.session(endpoint.agent_port, endpoint.ca_file) as new:
            closed = await old.end()
            assert (closed.fatal, closed.reason) == (True, "a newer session of this node took over")
            assert new.welcome["epoch"] == 2
            await new.peer.call("log", {"event": "still here"})
            assert endpoint.connected() == ["node-1"]


async def test_a_client_that_pins_another_ca_refuses_us(endpoint: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    ca.load_or_create(tmp_path / "other")
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.open_connection(
            "127.0.0.1",
            endpoint.agent_port,
            ssl=trusting(tmp_path / "other" / "ca.crt"),
            server_hostname="127.0.0.1",
        )
    agent = WireAgent(token=(await endpoint.grant(MAC)).token)
    async with agent.session(endpoint.agent_port, endpoint.ca_file):
        pass  # and the endpoint is none the worse for it


async def test_the_chain_shows_the_ca_whose_digest_is_announced(endpoint: Endpoint) -> None:
    certificate = ssl.PEM_cert_to_DER_cert(endpoint.ca_file.read_text())
    assert endpoint.ca_digest == "sha256:" + hashlib.sha256(certificate).hexdigest()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", endpoint.agent_port, ssl=context)
    inner: Any = writer.get_extra_info("ssl_object")
    chain = getattr(inner, "get_unverified_chain", None) or inner._sslobj.get_unverified_chain
    shown = [c if isinstance(c, bytes) else ssl.PEM_cert_to_DER_cert(c.public_bytes()) for c in chain()]
    assert certificate in shown
    assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
    writer.close()
    await writer.wait_closed()


async def test_older_tls_is_refused(endpoint: Endpoint) -> None:
    context = trusting(endpoint.ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection(
            "127.0.0.1", endpoint.agent_port, ssl=context, server_hostname="127.0.0.1"
        )


async def test_an_unknown_command_ends_nothing(endpoint: Endpoint) -> None:
    agent = WireAgent(token=(await endpoint.grant(MAC)).token)
    async with agent.session(endpoint.agent_port, endpoint.ca_file) as dialled:
        with pytest.raises(RemoteError) as caught:
            await dialled.peer.call("make.coffee", {})
        assert caught.value.problem.code == "unknown_method"
        assert await dialled.peer.call("log", {"event": "still here"}) == {}


async def test_the_transcript_holds_both_directions(endpoint: Endpoint, tmp_path: Path) -> None:
    agent = WireAgent(token=(await endpoint.grant(MAC)).token)
    async with agent.session(endpoint.agent_port, endpoint.ca_file):
        await agent.command("inventory")
    lines = [json.loads(line) for line in (tmp_path / "wire.jsonl").read_text().splitlines()]
    assert lines[0]["direction"] == "in"
    assert lines[0]["message"]["method"] == "enroll"
    assert lines[0]["message"]["params"]["token"] == "[redacted]"
    assert any(line["direction"] == "out" and line["message"].get("method") == "inventory" for line in lines)
    assert lines[-1]["node"] == "node-1"


async def test_a_taken_port_is_one_clear_line_and_nothing_stays(tmp_path: Path) -> None:
    with listening_socket("127.0.0.1", 0, "test") as taken:
        port = taken.getsockname()[1]
        config = EndpointConfig(data=tmp_path / "data", boot=("127.0.0.1", port))
        with pytest.raises(TeethError, match=f"port {port} on 127.0.0.1"):
            async with Endpoint(config):
                pass
    async with Endpoint(config) as running:
        assert running.boot_port == port


async def test_a_missing_ramdisk_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(TeethError, match="lacks vmlinuz and initramfs"):
        async with Endpoint(EndpointConfig(data=tmp_path / "data", ramdisk=tmp_path)):
            pass


async def test_a_second_endpoint_on_the_same_folder_is_refused(endpoint: Endpoint, tmp_path: Path) -> None:
    with pytest.raises(TeethError, match="in use"):
        async with Endpoint(EndpointConfig(data=tmp_path / "data")):
            pass
