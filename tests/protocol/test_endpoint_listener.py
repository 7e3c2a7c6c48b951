"""The listener as strangers, slow peers and development clients meet it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fakes.wire_agent import WireAgent, trusting
from teeth.endpoint import ca
from teeth.endpoint.admission import AdmissionLimits
from teeth.endpoint.events import Event, NodeDisconnected, Subscription, TaskChanged
from teeth.endpoint.taskstate import TaskState
from teeth.endpoint.tls import ServerTls
from teeth.errors import UsageError
from teeth.service import Endpoint, EndpointConfig
from teeth_stream import RemoteError

MAC = "52:54:00:00:00:01"
ERASE = "decom.disk_erase"


@pytest.fixture
async def endpoint(tmp_path: Path) -> AsyncIterator[Endpoint]:
    async with Endpoint(EndpointConfig(data=tmp_path / "data")) as running:
        yield running


@contextlib.asynccontextmanager
async def limited(tmp_path: Path, **limits: Any) -> AsyncIterator[Endpoint]:
    config = EndpointConfig(data=tmp_path / "data", admission=AdmissionLimits(**limits))
    async with Endpoint(config) as running:
        yield running


async def next_of(watcher: Subscription, kind: type[Any]) -> Any:
    async with asyncio.timeout(10):
        while True:
            event: Event | None = await watcher.get()
            assert event is not None
            if isinstance(event, kind):
                return event


def silent(port: int) -> socket.socket:
    """A connection that says nothing, not even TLS."""
    return socket.create_connection(("127.0.0.1", port), timeout=10)


async def closed(sock: socket.socket) -> bool:
    """Whether the other side has ended it."""
    sock.setblocking(False)
    with contextlib.suppress(ConnectionError):
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 1), 10) == b""
    return True


# --- who is let in


async def test_those_in_a_tls_handshake_are_counted_and_the_next_is_turned_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with limited(tmp_path, strangers=2) as endpoint:
        agent = WireAgent(token=(await endpoint.grant(MAC)).token)
        with contextlib.ExitStack() as stack:
            held = [stack.enter_context(silent(endpoint.agent_port)) for _ in range(2)]
            with caplog.at_level(logging.WARNING, "teeth"):
                assert await closed(stack.enter_context(silent(endpoint.agent_port)))
                assert await closed(stack.enter_context(silent(endpoint.agent_port)))
            noted = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
            assert len(noted) == 1  # a flood does not fill the log
            assert "too many connections without a handshake" in noted[0]
            for sock in held:
                sock.close()
        async with asyncio.timeout(10):
            while True:  # the endpoint notices the ends in its own time
                with contextlib.suppress(OSError):
                    await agent.enrol(endpoint.agent_port, endpoint.ca_file)
                    break
        async with agent.session(endpoint.agent_port, endpoint.ca_file):
            assert endpoint.connected() == ["node-1"]


async def test_sessions_do_not_take_the_strangers_places(tmp_path: Path) -> None:
    async with (
        limited(tmp_path, strangers=1, strangers_of_one=1) as endpoint,
        contextlib.AsyncExitStack() as stack,
    ):
        for number in range(4):
            mac = f"52:54:00:00:00:{number:02x}"
            agent = WireAgent(token=(await endpoint.grant(mac)).token, node_id=f"n{number}", macs=(mac,))
            async with asyncio.timeout(10):
                while agent.certificate is None:
                    with contextlib.suppress(OSError):
                        await agent.enrol(endpoint.agent_port, endpoint.ca_file)
                while True:
                    with contextlib.suppress(OSError):
                        await stack.enter_async_context(agent.session(endpoint.agent_port, endpoint.ca_file))
                        break
        assert len(endpoint.connected()) == 4


async def test_who_guesses_tokens_is_slowed_down(tmp_path: Path) -> None:
    async with limited(tmp_path, rate=0.001, burst=10.0, failure=6.0) as endpoint:
        agent = WireAgent(token="x" * 32)
        async with agent.dial(endpoint.agent_port, endpoint.ca_file) as dialled:
            codes = []
            for _ in range(3):
                with pytest.raises(RemoteError) as caught:
                    await dialled.peer.call("enroll", agent.claim())
                codes.append(caught.value.problem.code)
            assert codes == ["token_unknown", "token_unknown", "busy"]
        with silent(endpoint.agent_port) as sock:
            assert await closed(sock)


async def test_an_endpoint_ends_with_somebody_in_every_stage(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with Endpoint(EndpointConfig(data=tmp_path / "data")) as endpoint:
            agent = WireAgent(token=(await endpoint.grant(MAC)).token)
            stack.enter_context(silent(endpoint.agent_port))
            stranger = await stack.enter_async_context(
                WireAgent(token="").dial(endpoint.agent_port, endpoint.ca_file)
            )
            dialled = await stack.enter_async_context(agent.session(endpoint.agent_port, endpoint.ca_file))
        await asyncio.gather(stranger.end(), dialled.end())


# --- who does not read


class Scales:
    """A writer that notes the most that ever waited in it."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self.most = 0

    def write(self, data: bytes) -> None:
        self._writer.write(data)
        self.most = max(self.most, self._writer.transport.get_write_buffer_size())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)


async def test_a_peer_that_does_not_read_holds_a_bounded_amount_and_loses_nothing(tmp_path: Path) -> None:
    big = {"image_id": "i", "padding": "x" * 400_000}
    async with Endpoint(EndpointConfig(data=tmp_path / "data")) as endpoint:
        agent = WireAgent(token=(await endpoint.grant(MAC)).token)
        agent.answers["standbye.prepare_image"] = lambda _: {"state": "running"}
        with endpoint.subscribe() as watcher:
            async with agent.session(endpoint.agent_port, endpoint.ca_file) as dialled:
                seat = endpoint.session("node-1")
                assert seat is not None
                scales = Scales(seat.peer._writer)
                seat.peer._writer = scales
                transport: Any = dialled.writer.transport
                transport.pause_reading()
                ids = [await endpoint.run_task("node-1", "standbye.prepare_image", big) for _ in range(24)]
                gone = await next_of(watcher, NodeDisconnected)
                assert gone.reason == "the peer does not read what it is sent"
                # One message above the limit at the most: nothing is piled up behind it.
                assert 1 << 20 < scales.most < (1 << 20) + 500_000
                dialled.vanish()
            async with agent.session(endpoint.agent_port, endpoint.ca_file):
                for task_id in ids:
                    await _accepted(endpoint, task_id)


async def _accepted(endpoint: Endpoint, task_id: str) -> None:
    async with asyncio.timeout(30):
        with endpoint.subscribe() as watcher:
            while (await endpoint.task(task_id)).state is not TaskState.ACCEPTED:
                await next_of(watcher, TaskChanged)


# --- plain text, for development


class SeedClient:
    """Knows only what the first clients knew: a line is a message, and ``handshake {id, version}``."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._number = 0

    def write(self, **message: Any) -> None:
        self._writer.write(json.dumps(message).encode() + b"\n")

    async def read(self) -> dict[str, Any]:
        """The next message that is no question we do not know."""
        async with asyncio.timeout(10):
            while True:
                message: dict[str, Any] = json.loads(await self._reader.readline())
                if message.get("method") in ("inventory", "ping"):
                    self.write(id=message["id"], error={"msg": f"no {message['method']}"})
                    continue
                return message

    async def call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        self.write(version="v1", id=str(self._number), method=method, params=params)
        answer = await self.read()
        assert answer["id"] == str(self._number)
        result: dict[str, Any] = answer["result"]
        return result


@contextlib.asynccontextmanager
async def seed_client(port: int | None) -> AsyncIterator[SeedClient]:
    assert port is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield SeedClient(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@pytest.fixture
async def development(tmp_path: Path) -> AsyncIterator[Endpoint]:
    config = EndpointConfig(data=tmp_path / "data", plaintext=("127.0.0.1", 0))
    async with Endpoint(config) as running:
        yield running


async def test_a_client_that_knows_only_the_seed_is_served(development: Endpoint) -> None:
    async with seed_client(development.plaintext_port) as client:
        welcome = await client.call("handshake", {"id": "old-one", "version": "1.0"})
        assert welcome["id"] == "old-one"
        seat = development.session("old-one")
        assert seat is not None
        assert (seat.identity, seat.boot_id) == (None, "plain")
        asked = asyncio.create_task(development.call("old-one", "status"))
        question = await client.read()
        assert question["method"] == "status"
        client.write(id=question["id"], result={"uptime": 1})
        assert await asyncio.wait_for(asked, 10) == {"uptime": 1}
        assert await client.call("log", {"anything": ["at", "all"], "level": 7}) == {}
        task_id = await development.run_task("old-one", ERASE, {})
        order = await client.read()
        assert (order["method"], order["params"]) == (ERASE, {"task_id": task_id})
        client.write(id=order["id"], result={})
        running = {"task_id": task_id, "state": "running", "eta": 60, "percent": 10}
        assert await client.call("task_status", running) == {"verdict": "applied"}
        assert (await development.task(task_id)).percent == 10
        done = {"task_id": task_id, "state": "complete", "result": {"ok": True}}
        assert await client.call("task_status", done) == {"verdict": "applied"}
    task = await development.task(task_id)
    assert (task.state, task.result) == (TaskState.COMPLETE, {"ok": True})
    assert (await development.logs("old-one")) == [{"anything": ["at", "all"], "level": 7}]


async def test_a_task_that_a_seed_client_lost_is_sent_again(development: Endpoint) -> None:
    with development.subscribe() as watcher:
        async with seed_client(development.plaintext_port) as client:
            await client.call("handshake", {"id": "old-one", "version": "1.0"})
            task_id = await development.run_task("old-one", ERASE, {})
            assert (await client.read())["params"] == {"task_id": task_id}
        await next_of(watcher, NodeDisconnected)
    async with seed_client(development.plaintext_port) as client:
        await client.call("handshake", {"id": "old-one", "version": "1.0"})
        assert (await client.read())["params"] == {"task_id": task_id}


async def test_plain_text_does_not_reach_a_machine_that_has_enrolled(development: Endpoint) -> None:
    agent = WireAgent(token=(await development.grant(MAC)).token)
    async with agent.session(development.agent_port, development.ca_file) as dialled:
        async with seed_client(development.plaintext_port) as client:
            client.write(id="1", method="handshake", params={"id": "node-1", "version": "1"})
            assert (await client.read())["fatal_error"].startswith("node_claimed: ")
        assert await dialled.peer.call("log", {"event": "still here"}) == {}


async def test_there_is_no_enrolment_in_plain_text(development: Endpoint) -> None:
    agent = WireAgent(token=(await development.grant(MAC)).token)
    async with seed_client(development.plaintext_port) as client:
        client.write(id="1", method="enroll", params=agent.claim())
        assert (await client.read())["error"]["code"] == "not_enrolled"
    await agent.enrol(development.agent_port, development.ca_file)


async def test_the_tls_listener_speaks_no_plain_text(development: Endpoint) -> None:
    with silent(development.agent_port) as sock:
        sock.sendall(b'{"id": "1", "method": "handshake", "params": {"id": "x", "version": "1"}}\n')
        assert b"{" not in await asyncio.to_thread(sock.recv, 4096)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", "", "127.0.0.1.example.org"])
async def test_plain_text_is_for_loopback_alone(tmp_path: Path, host: str) -> None:
    with pytest.raises(UsageError, match="loopback addresses only"):
        async with Endpoint(EndpointConfig(data=tmp_path / "data", plaintext=(host, 0))):
            pass


async def test_without_being_asked_there_is_no_plain_text(endpoint: Endpoint) -> None:
    assert endpoint.plaintext_port is None


# --- the server's certificate


async def shown(port: int, ca_file: Path) -> int:
    """The serial number of the certificate that a client is shown."""
    _, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=trusting(ca_file), server_hostname="127.0.0.1"
    )
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return ca.x509.load_der_x509_certificate(der).serial_number


async def test_the_certificate_is_renewed_while_the_endpoint_serves(tmp_path: Path) -> None:
    now = [dt.datetime.now(dt.UTC).timestamp()]
    authority = ca.load_or_create(tmp_path)
    tls = ServerTls(authority, tmp_path, ["127.0.0.1"], clock=lambda: now[0])
    context = tls.context()
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    first = await shown(port, tmp_path / "ca.crt")
    now[0] += 366 * 86400.0
    assert not tls.renew()  # 31 days are left of 397
    assert await shown(port, tmp_path / "ca.crt") == first
    now[0] += 2 * 86400.0
    assert tls.renew()
    assert not tls.renew()
    server.close()
    await server.wait_closed()
    leaf = ca.x509.load_pem_x509_certificates((tmp_path / "server.pem").read_bytes())[0]
    assert leaf.not_valid_after_utc.timestamp() > now[0] + 390 * 86400.0
    assert leaf.serial_number != first


async def test_an_endpoint_looks_after_its_certificate_on_every_door(endpoint: Endpoint) -> None:
    ports = (endpoint.agent_port, endpoint.landing_port)
    before = [await shown(port, endpoint.ca_file) for port in ports]
    await endpoint.look_after()
    assert [await shown(port, endpoint.ca_file) for port in ports] == before
    (endpoint.config.data / "server.pem").unlink()
    await endpoint.look_after()
    after = [await shown(port, endpoint.ca_file) for port in ports]
    assert after[0] == after[1] != before[0] == before[1]


async def test_new_connections_see_the_new_certificate_and_old_ones_go_on(tmp_path: Path) -> None:
    authority = ca.load_or_create(tmp_path)
    tls = ServerTls(authority, tmp_path, ["127.0.0.1"])
    context = tls.context()
    server = await asyncio.start_server(_echo, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=trusting(tmp_path / "ca.crt"), server_hostname="127.0.0.1"
    )
    first = await shown(port, tmp_path / "ca.crt")
    (tmp_path / "server.pem").unlink()  # another way to be in need of a new one
    assert tls.renew()
    assert await shown(port, tmp_path / "ca.crt") != first
    writer.write(b"hello\n")
    assert await asyncio.wait_for(reader.readline(), 10) == b"hello\n"
    writer.close()
    server.close()
    await server.wait_closed()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, ssl.SSLError):
        writer.write(await reader.readline())
        await writer.drain()
    writer.close()
