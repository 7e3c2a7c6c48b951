"""The agent's session over real TLS: whom it trusts, what it says, what survives a fault."""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fakes.living_agent import Agent, agent, waiting
from fakes.tls_endpoint import Authority, TlsEndpoint, Visit, listening, make_authority, tls_endpoint
from teeth_agent.reporter import Reporter
from teeth_agent.session.taskrunner import TaskRunner
from teeth_agent.tasks.context import TaskContext
from teeth_protocol.connection import Closed
from teeth_protocol.errors import ProblemError
from teeth_stream import Peer, RemoteError

# --- trust


async def test_comes_home_by_digest(endpoint: TlsEndpoint, authority: Authority) -> None:
    async with agent(endpoint.port, digest=authority.digest) as living:
        visit = await endpoint.visit()
        (hello,) = visit.said("handshake")
        timings = hello.pop("timings")
        assert hello == {
            "id": "node-1",
            "version": "1.2",
            "boot_id": "boot-1",
            "ramdisk": "ramdisk-1",
            "macs": ["52:54:00:00:00:01"],
            "tasks": [],
            "protocols": ["v1"],
            "capabilities": ["retry_after", "error_detail", "renew", "plan"],
            "methods": [],
        }
        assert timings["python"] == 1.235
        assert "tls" in timings
        await living.screen.says(f"teeth: connected to 127.0.0.1:{endpoint.port} as node-1\n")
        assert (await visit.peer.call("status", {}))["uptime"] == 7.0
        with pytest.raises(RemoteError, match="this agent has no rescue") as error:
            await visit.peer.call("rescue", {})
        assert error.value.problem.code == "unknown_method"


async def test_comes_home_by_the_pinned_file(endpoint: TlsEndpoint, authority: Authority) -> None:
    async with agent(endpoint.port, ca_file=authority.ca_file):
        await endpoint.visit()


class Listener:
    """A server that only listens, for what a client says inside TLS."""

    def __init__(self) -> None:
        self.connections: asyncio.Queue[None] = asyncio.Queue()
        self.heard: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.put_nowait(None)
        while data := await reader.read(1 << 16):
            self.heard.append(data)


async def test_another_authority_gets_not_one_byte(authority: Authority, other_authority: Authority) -> None:
    listener = Listener()
    async with listening(listener.serve, authority.context()) as port:
        async with agent(port, digest=other_authority.digest) as living:
            await living.screen.says(
                f"problem wrong_ca: 127.0.0.1:{port} shows another certificate authority than this boot was "
                f"told to trust: {other_authority.digest[:23]}..."
            )
            async with asyncio.timeout(30):  # two probes: the first has long been served
                await listener.connections.get()
                await listener.connections.get()
        async with agent(port, ca_file=other_authority.ca_file) as living:
            await living.screen.says(f"problem wrong_ca: 127.0.0.1:{port}: ")
    assert listener.heard == []


async def test_a_certificate_for_another_address_is_refused(tmp_path: Path) -> None:
    elsewhere = make_authority(tmp_path / "ca", address="127.0.0.2")
    listener = Listener()
    async with (
        listening(listener.serve, elsewhere.context()) as port,
        agent(port, digest=elsewhere.digest) as living,
    ):
        await living.screen.says("problem wrong_ca")
    assert listener.heard == []


async def test_tls_1_2_is_not_spoken(authority: Authority) -> None:
    context = authority.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with listening(Listener().serve, context) as port, agent(port, digest=authority.digest) as living:
        await living.screen.says(f"problem endpoint_unreachable: 127.0.0.1:{port}: ")


async def test_something_that_is_not_tls(authority: Authority) -> None:
    async def banner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        await reader.read()

    for trust in ({"digest": authority.digest}, {"ca_file": authority.ca_file}):
        async with listening(banner, None) as port, agent(port, **trust) as living:  # type: ignore[arg-type]
            await living.screen.says(f"problem endpoint_unreachable: 127.0.0.1:{port}: ")


# --- more than one endpoint


async def free_port() -> int:
    async with listening(Listener().serve, None) as port:
        return port


async def test_the_next_endpoint_is_tried_when_one_is_not_there(
    endpoint: TlsEndpoint, authority: Authority
) -> None:
    nobody = await free_port()
    async with agent(nobody, endpoint.port, digest=authority.digest) as living:
        await endpoint.visit()
        assert f"problem endpoint_unreachable: 127.0.0.1:{nobody}: " in living.screen.getvalue()


async def test_the_next_endpoint_is_tried_when_one_hangs_up(
    endpoint: TlsEndpoint, authority: Authority
) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()

    async with (
        listening(hang_up, authority.context()) as port,
        agent(port, endpoint.port, digest=authority.digest) as living,
    ):
        await endpoint.visit()
        assert f"connection to 127.0.0.1:{port} ended: " in living.screen.getvalue()


async def test_the_next_endpoint_is_tried_when_one_refuses(
    endpoint: TlsEndpoint, authority: Authority, spooled: pytest.LogCaptureFixture
) -> None:
    async def refuse(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        raise ProblemError("bad_token", "the token was never\x1b[2J\n  given out")

    async with tls_endpoint(authority) as strict:
        strict.reply = refuse
        async with agent(strict.port, endpoint.port, digest=authority.digest) as living:
            await endpoint.visit()
            said = living.screen.getvalue()
    # One line, and none of the peer's words moves the cursor.
    assert f"teeth: problem refused: 127.0.0.1:{strict.port}: the token was never?[2J given out\n" in said
    assert all(line.startswith("teeth: ") for line in said.splitlines())


# --- faults of our own


class FaultyRunner(TaskRunner):
    faults = 1

    async def pump(self, peer: Peer) -> None:
        if self.faults:
            self.faults -= 1
            raise ZeroDivisionError("pump")
        await super().pump(peer)


async def test_a_fault_in_the_pump_ends_the_session_and_is_logged(
    endpoint: TlsEndpoint, authority: Authority, spooled: pytest.LogCaptureFixture
) -> None:
    agents: list[Agent] = []
    tasks = {"decom.disk_erase": waiting(agents)}
    async with agent(endpoint.port, digest=authority.digest, tasks=tasks, runner=FaultyRunner) as living:
        agents.append(living)
        first = await endpoint.visit()
        assert await asyncio.wait_for(first.over, 30) == Closed(
            reason="the peer closed the connection", fatal=False
        )
        visit = await endpoint.visit()
        await visit.peer.call("decom.disk_erase", {"task_id": "t1"})
        living.release.set()
        await visit.state("complete")
    assert "ZeroDivisionError: pump" in spooled.text


async def test_an_inventory_too_long_for_a_line_is_refused_and_nothing_ends(
    endpoint: TlsEndpoint, authority: Authority
) -> None:
    async with agent(endpoint.port, digest=authority.digest, facts="x" * (300 << 10)):
        visit = await endpoint.visit()
        with pytest.raises(RemoteError) as error:
            await visit.peer.call("inventory", {})
        assert error.value.problem.code == "unsendable"
        assert (await visit.peer.call("status", {}))["uptime"] == 7.0
        # The echo of what only an endpoint may send.
        with pytest.raises(RemoteError) as error:
            await visit.peer.call("ping", {"x": "x" * (300 << 10)})
        assert error.value.problem.code == "too_large"
        assert await visit.peer.call("ping", {}) == {}


async def test_the_handshake_fits_whatever_tasks_there_are(
    endpoint: TlsEndpoint, authority: Authority
) -> None:
    """Ends that an endpoint cannot take now pile up; the next handshake must still be short enough."""

    async def full_disk(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        if method == "task_status":
            raise ProblemError("internal", "no")
        return {}

    def run(params: Mapping[str, Any], context: TaskContext, reporter: Reporter) -> dict[str, Any]:
        ended.release()
        return {}

    ended = threading.Semaphore(0)
    endpoint.reply = full_disk
    macs = tuple(f"52:54:00:00:00:{number:02x}" for number in range(64))
    async with agent(
        endpoint.port, digest=authority.digest, tasks={"decom.disk_erase": run}, macs=macs
    ) as living:
        visit = await endpoint.visit()
        for number in range(40):
            task_id = f"{number:03}" + "x" * 125
            await accepted(visit, {"task_id": task_id})
            assert await asyncio.to_thread(ended.acquire, timeout=60)
        await visit.cut()
        visit = await endpoint.visit()
        (hello,) = visit.said("handshake")
        assert 5 < len(hello["tasks"]) < 40
        assert len(living.runner.summary()) == 40
        assert len(hello["macs"]) == 16


async def accepted(visit: Visit, params: dict[str, Any]) -> None:
    """Until it is: the task before it may be about to end."""
    while True:
        try:
            await visit.peer.call("decom.disk_erase", params)
        except RemoteError as error:
            if error.problem.code != "busy":
                raise
        else:
            return


# --- logs


async def test_logs_from_before_the_first_connection_get_home_in_order(
    endpoint: TlsEndpoint, authority: Authority
) -> None:
    async with agent(endpoint.port, digest=authority.digest) as living:
        for number in range(1003):
            living.spool.add("info", "boot", f"event {number}")
        visit = await endpoint.visit()
        await visit.until(lambda heard: len(visit.said("log")) >= 1000)
        logs = visit.said("log")
        assert [record["event"] for record in logs[:1000]] == [f"event {n}" for n in range(3, 1003)]
        assert logs[0]["dropped"] == 3
        assert "dropped" not in logs[1]


async def test_a_log_record_that_was_not_acknowledged_is_sent_again(
    endpoint: TlsEndpoint, authority: Authority
) -> None:
    async def never(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        if method == "log":
            await asyncio.Event().wait()
        return {}

    async def picky(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        if method == "log" and params["event"] == "two":
            raise ProblemError("bad_params", "two is not wanted")
        return {}

    endpoint.reply = never
    async with agent(endpoint.port, digest=authority.digest) as living:
        visit = await endpoint.visit()
        for event in ("one", "two", "three"):
            living.spool.add("info", "test", event)
        await visit.until(lambda heard: visit.said("log"))
        endpoint.reply = picky
        await visit.cut()
        visit = await endpoint.visit()
        await visit.until(lambda heard: len(visit.said("log")) >= 3)
        records = [r for r in visit.said("log") if r["logger"] == "test"]
        assert [record["event"] for record in records] == ["one", "two", "three"]
        assert records[2]["dropped"] == 1  # the one that was refused


async def test_logs_stay_bounded_and_in_order_over_many_connections(
    endpoint: TlsEndpoint, authority: Authority
) -> None:
    """Each connection is cut in the middle; more comes meanwhile than there is room for."""
    wanted = 0
    gate = asyncio.Event()

    async def some(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        if method == "log" and len(visit.said("log")) > wanted:
            gate.set()
            await asyncio.Event().wait()
        return {}

    endpoint.reply = some
    logger = logging.Logger("teeth.test")
    acknowledged: list[dict[str, Any]] = []
    number = 0
    async with agent(endpoint.port, digest=authority.digest) as living:
        logger.addHandler(living.spool)
        for wanted, burst in ((3, 50), (0, 700), (400, 1100), (5000, 1)):
            visit = await endpoint.visit()
            for _ in range(burst):
                logger.info("%d", number)
                number += 1
            if wanted < 5000:
                await gate.wait()
                gate.clear()
                acknowledged += visit.said("log")[:wanted]
                await visit.cut()
        await visit.until(lambda heard: any(p["event"] == str(number - 1) for m, p in heard if m == "log"))
        acknowledged += visit.said("log")
    events = [int(record["event"]) for record in acknowledged if record["logger"] == "teeth.test"]
    assert events == sorted(set(events))
    assert len(events) + sum(record.get("dropped", 0) for record in acknowledged) == number
    assert len(events) < number  # some had no room


class LeavingRunner(TaskRunner):
    """Its first pump ends when it is told to, as one does whose status is not answered in time."""

    first = True

    async def pump(self, peer: Peer) -> None:
        if self.first:
            self.first = False
            self.leave = asyncio.Event()
            await self.leave.wait()
            return
        await super().pump(peer)


async def test_a_log_record_in_flight_when_the_session_is_given_up_is_kept(
    endpoint: TlsEndpoint, authority: Authority
) -> None:
    async def never(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        if method == "log":
            await asyncio.Event().wait()
        return {}

    async def yes(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    endpoint.reply = never
    async with agent(endpoint.port, digest=authority.digest, runner=LeavingRunner) as living:
        living.spool.add("info", "test", "in flight")
        visit = await endpoint.visit()
        await visit.until(lambda heard: visit.said("log"))
        endpoint.reply = yes
        assert isinstance(living.runner, LeavingRunner)
        living.runner.leave.set()
        visit = await endpoint.visit()
        await visit.until(lambda heard: visit.said("log"))
        assert visit.said("log")[0]["event"] == "in flight"
