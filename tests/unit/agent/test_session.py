"""The agent's session over real TLS: whom it trusts, what it says, what survives a connection."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fakes.tls_endpoint import Authority, Screen, TlsEndpoint, Visit, listening, make_authority, tls_endpoint
from teeth_agent.config import Config
from teeth_agent.reporter import Reporter
from teeth_agent.session.console import Console
from teeth_agent.session.home import Home, Identity
from teeth_agent.session.spool import LogSpool
from teeth_agent.session.taskrunner import TaskRunner
from teeth_agent.tasks import TaskFunction
from teeth_agent.tasks.context import TaskContext
from teeth_protocol.connection import Closed
from teeth_protocol.errors import ProblemError
from teeth_protocol.limits import Limits
from teeth_stream import Peer, RemoteError

TOKEN = "join-token-that-nobody-may-print"


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("ca") / "one")


@pytest.fixture(scope="session")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("ca") / "two")


@pytest.fixture
async def endpoint(authority: Authority) -> AsyncIterator[TlsEndpoint]:
    async with tls_endpoint(authority) as running:
        yield running


@dataclass
class Agent:
    """One running agent: its console, its log spool, its tasks."""

    screen: Screen
    spool: LogSpool
    runner: TaskRunner
    release: threading.Event = field(default_factory=threading.Event)


@contextlib.asynccontextmanager
async def agent(
    *ports: int,
    digest: str | None = None,
    ca_file: Path | None = None,
    tasks: Mapping[str, TaskFunction] | None = None,
    runner: type[TaskRunner] = TaskRunner,
    facts: Any = None,
    macs: tuple[str, ...] = ("52:54:00:00:00:01",),
    limits: Limits | None = None,
) -> AsyncIterator[Agent]:
    screen, spool = Screen(), LogSpool()
    console = Console(screen)
    work = runner(
        TaskContext(boot_id="boot-1"),
        spool,
        (tasks or {}).get,
        console.say,
        progress_interval=0.01,
        retry_interval=0.01,
    )
    config = Config(
        endpoints=tuple(("127.0.0.1", port) for port in ports),
        ca_digest=digest,
        ca_file=ca_file,
        token=TOKEN,
        boot_mac="",
        ramdisk="ramdisk-1",
        built=0,
        version="1.2",
    )
    identity = Identity(node_id="node-1", boot_id="boot-1", macs=macs, timings={"python": 1.23456})
    home = Home(
        config,
        identity,
        work,
        spool,
        console,
        inventory=lambda: {"disks": facts},
        status=lambda: {"uptime": 7.0},
        limits=limits,
        backoff=0.01,
    )
    job = asyncio.create_task(home.run())
    living = Agent(screen, spool, work)
    try:
        yield living
    finally:
        living.release.set()
        job.cancel()
        await asyncio.gather(job, return_exceptions=True)
        assert TOKEN not in screen.getvalue()


@pytest.fixture
def spooled(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    caplog.set_level(logging.INFO)
    yield caplog
    assert TOKEN not in caplog.text


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
            "token": TOKEN,
            "macs": ["52:54:00:00:00:01"],
            "tasks": [],
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


# --- tasks


def waiting(living: list[Agent], entered: threading.Event | None = None) -> TaskFunction:
    """A task that blocks its thread until the test's agent is released."""

    def run(params: Mapping[str, Any], context: TaskContext, reporter: Reporter) -> dict[str, Any]:
        if entered is not None:
            entered.set()
        assert living[0].release.wait(60)
        return {"n": params.get("n", 0)}

    return run


async def test_a_task_is_accepted_once(endpoint: TlsEndpoint, authority: Authority) -> None:
    agents: list[Agent] = []
    started: list[int] = []

    def run(params: Mapping[str, Any], context: TaskContext, reporter: Reporter) -> dict[str, Any]:
        started.append(params["n"])
        assert agents[0].release.wait(60)
        return {"n": params["n"]}

    tasks = {"decom.disk_erase": run, "decom.qc": run}
    async with agent(endpoint.port, digest=authority.digest, tasks=tasks) as living:
        agents.append(living)
        visit = await endpoint.visit()

        async def refused(method: str, params: dict[str, Any]) -> str:
            with pytest.raises(RemoteError) as error:
                await visit.peer.call(method, params)
            return error.value.problem.code

        asked = {"task_id": "t1", "n": 1, "o": {"a": [1], "b": 2}}
        accepted = {"task_id": "t1", "state": "running", "percent": 0.0}
        assert await visit.peer.call("decom.disk_erase", asked) == accepted
        again = {"o": {"b": 2, "a": [1]}, "n": 1, "task_id": "t1"}
        assert await visit.peer.call("decom.disk_erase", again) == accepted
        assert await refused("decom.disk_erase", {**asked, "n": 2}) == "task_conflict"
        assert await refused("decom.qc", asked) == "task_conflict"
        assert await refused("decom.disk_erase", {"task_id": "t2", "n": 1}) == "busy"
        assert await refused("decom.firmware_secure", {"task_id": "t3"}) == "busy"
        for bad in ({}, {"task_id": ""}, {"task_id": 7}, {"task_id": "a b"}, {"task_id": "x" * 129}):
            assert await refused("decom.disk_erase", bad) == "bad_params"
        status = await visit.peer.call("status", {})
        assert [task["task_id"] for task in status["tasks"]] == ["t1"]

        living.release.set()
        assert (await visit.state("complete"))["result"] == {"n": 1}
        done = {"task_id": "t1", "state": "complete", "percent": 0.0}
        assert await visit.peer.call("decom.disk_erase", asked) == done
        assert await refused("decom.firmware_secure", {"task_id": "t3"}) == "unknown_method"
        assert await visit.peer.call("decom.disk_erase", {"task_id": "t2", "n": 2})
        await visit.until(lambda heard: [p for _, p in heard if p.get("task_id") == "t2"])
    assert started == [1, 2]


async def test_a_blocking_task_delays_no_ping(endpoint: TlsEndpoint, authority: Authority) -> None:
    agents: list[Agent] = []
    entered = threading.Event()
    tasks = {"decom.disk_erase": waiting(agents, entered)}
    async with agent(endpoint.port, digest=authority.digest, tasks=tasks) as living:
        agents.append(living)
        visit = await endpoint.visit()
        await visit.peer.call("decom.disk_erase", {"task_id": "t1"})
        assert await asyncio.to_thread(entered.wait, 60)
        for number in range(20):
            assert await visit.peer.call("ping", {"n": number}) == {"n": number}
        assert (await visit.peer.call("status", {}))["tasks"][0]["state"] == "running"
        assert visit.said("task_status") == []


async def test_an_end_that_was_not_acknowledged_is_repeated_word_for_word(
    endpoint: TlsEndpoint, authority: Authority
) -> None:
    taken = asyncio.Event()

    async def never(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        if method == "task_status" and params["state"] == "complete":
            taken.set()
            await asyncio.Event().wait()
        return {}

    mutable = {"serial": "S1"}

    def run(params: Mapping[str, Any], context: TaskContext, reporter: Reporter) -> dict[str, Any]:
        return {"erased": [mutable], "grade": "purge"}

    endpoint.reply = never
    tasks = {"decom.disk_erase": run}
    async with agent(endpoint.port, digest=authority.digest, tasks=tasks):
        repeated = []
        visit = await endpoint.visit()
        await visit.peer.call("decom.disk_erase", {"task_id": "t1"})
        for number in range(3):
            await asyncio.wait_for(taken.wait(), 30)
            repeated.append(json.dumps(await visit.state("complete")))
            mutable["serial"] = f"changed {number}"
            taken.clear()
            await visit.cut()
            visit = await endpoint.visit()
            assert visit.said("handshake")[0]["tasks"] == [
                {"task_id": "t1", "method": "decom.disk_erase", "state": "complete", "percent": 0.0}
            ]
        assert len(set(repeated)) == 1
        assert json.loads(repeated[0])["result"] == {"erased": [{"serial": "S1"}], "grade": "purge"}

        async def yes(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
            return {}

        endpoint.reply = yes
        await visit.cut()
        visit = await endpoint.visit()
        await visit.state("complete")
        await visit.peer.call("ping", {})
        await visit.cut()
        visit = await endpoint.visit()
        assert visit.said("handshake")[0]["tasks"] == []
        assert visit.said("task_status") == []


async def test_a_task_that_ends_while_nobody_listens(authority: Authority) -> None:
    agents: list[Agent] = []
    tasks = {"decom.disk_erase": waiting(agents)}
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(tls_endpoint(authority))
        gate = asyncio.Event()

        async def shut(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
            if method == "handshake":
                await gate.wait()
            return {}

        living = await stack.enter_async_context(agent(first.port, digest=authority.digest, tasks=tasks))
        agents.append(living)
        visit = await first.visit()
        await visit.peer.call("decom.disk_erase", {"task_id": "t1", "n": 5})
        first.reply = shut
        await visit.cut()
        living.release.set()
        await living.screen.says("teeth: decom.disk_erase complete")
        gate.set()
        visit = await first.visit()
        assert (await visit.state("complete"))["result"] == {"n": 5}


async def test_a_checkpoint_waits_for_its_acknowledgement_over_connections(
    endpoint: TlsEndpoint, authority: Authority
) -> None:
    passed = threading.Event()
    answers: list[Mapping[str, Any]] = []

    def run(params: Mapping[str, Any], context: TaskContext, reporter: Reporter) -> dict[str, Any]:
        reporter.progress(40, step="write")
        answers.append(reporter.checkpoint("prepared", boot="kexec"))
        passed.set()
        return {}

    async def never(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        if "phase" in params:
            await asyncio.Event().wait()
        return {}

    async def go(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        return {"go": True} if params.get("phase") == "prepared" else {}

    endpoint.reply = never
    async with agent(endpoint.port, digest=authority.digest, tasks={"standbye.run_image": run}):
        visit = await endpoint.visit()
        await visit.peer.call("standbye.run_image", {"task_id": "t1"})
        first = await visit.state("prepared")
        assert first["fields"] == {"boot": "kexec"}
        assert first["percent"] == 40
        await visit.cut()
        visit = await endpoint.visit()
        assert await visit.state("prepared") == first
        assert not passed.is_set()
        endpoint.reply = go
        await visit.cut()
        visit = await endpoint.visit()
        assert await visit.state("prepared") == first
        assert await asyncio.to_thread(passed.wait, 60)
        await visit.state("complete")
        numbers = [status["seq"] for status in visit.said("task_status")]
        assert numbers == sorted(set(numbers))
    assert answers == [{"go": True}]


async def test_an_endpoint_that_fails_to_keep_a_status_is_asked_again(
    endpoint: TlsEndpoint, authority: Authority
) -> None:
    async def full_disk(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        if method == "task_status" and len(visit.said("task_status")) < 3:
            raise ProblemError("internal", "task_status failed inside this side")
        return {}

    def run(params: Mapping[str, Any], context: TaskContext, reporter: Reporter) -> dict[str, Any]:
        return {"proof": "x"}

    endpoint.reply = full_disk
    async with agent(endpoint.port, digest=authority.digest, tasks={"decom.disk_erase": run}):
        visit = await endpoint.visit()
        await visit.peer.call("decom.disk_erase", {"task_id": "t1"})
        await visit.until(lambda heard: len(visit.said("task_status")) == 3)
        one, two, three = visit.said("task_status")
        assert one == two == three
        assert one["result"] == {"proof": "x"}


async def test_a_stale_session_ends_and_the_status_goes_to_the_next(
    endpoint: TlsEndpoint, authority: Authority
) -> None:
    async def stale(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        if method == "task_status":
            raise ProblemError("stale_epoch", "a newer session of this node exists")
        return {}

    async def yes(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def run(params: Mapping[str, Any], context: TaskContext, reporter: Reporter) -> dict[str, Any]:
        return {"proof": "x"}

    endpoint.reply = stale
    async with agent(endpoint.port, digest=authority.digest, tasks={"decom.disk_erase": run}):
        visit = await endpoint.visit()
        await visit.peer.call("decom.disk_erase", {"task_id": "t1"})
        first = await visit.state("complete")
        endpoint.reply = yes
        await asyncio.wait_for(visit.over, 30)
        assert await (await endpoint.visit()).state("complete") == first


async def test_a_refused_checkpoint_says_so_to_the_task(endpoint: TlsEndpoint, authority: Authority) -> None:
    async def refuse(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        if params.get("phase"):
            raise ProblemError("unknown_task", "this endpoint knows no task t1")
        return {}

    def run(params: Mapping[str, Any], context: TaskContext, reporter: Reporter) -> dict[str, Any]:
        return dict(reporter.checkpoint("prepared"))

    endpoint.reply = refuse
    async with agent(endpoint.port, digest=authority.digest, tasks={"standbye.run_image": run}):
        visit = await endpoint.visit()
        await visit.peer.call("standbye.run_image", {"task_id": "t1"})
        assert (await visit.state("complete"))["result"] == {"refused": "unknown_task"}


async def test_cancel(endpoint: TlsEndpoint, authority: Authority) -> None:
    entered, cancelled = threading.Event(), threading.Event()

    def run(params: Mapping[str, Any], context: TaskContext, reporter: Reporter) -> dict[str, Any]:
        reporter.check_cancelled()
        entered.set()
        assert cancelled.wait(60)
        reporter.check_cancelled()
        return {}

    async with agent(endpoint.port, digest=authority.digest, tasks={"decom.disk_erase": run}):
        visit = await endpoint.visit()
        with pytest.raises(RemoteError) as error:
            await visit.peer.call("cancel_task", {"task_id": "t1"})
        assert error.value.problem.code == "unknown_task"
        await visit.peer.call("decom.disk_erase", {"task_id": "t1"})
        assert await asyncio.to_thread(entered.wait, 60)
        assert await visit.peer.call("cancel_task", {"task_id": "t1"}) == {
            "task_id": "t1",
            "state": "running",
        }
        cancelled.set()
        ended = await visit.state("error")
        assert (ended["code"], ended["msg"]) == ("cancelled", "the task was cancelled")


async def test_wrong_params_of_cancel_are_named(endpoint: TlsEndpoint, authority: Authority) -> None:
    async with agent(endpoint.port, digest=authority.digest):
        visit = await endpoint.visit()
        with pytest.raises(RemoteError, match=r"params\.task_id: missing") as error:
            await visit.peer.call("cancel_task", {})
        assert error.value.problem.code == "bad_params"


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
