"""A Peer over real loopback sockets; the other side is another Peer or bare bytes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from teeth_protocol.capabilities import offer
from teeth_protocol.connection import Closed, Role, State
from teeth_protocol.errors import ProblemError
from teeth_protocol.limits import Limits
from teeth_stream import Handler, Peer, RemoteError

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def serve_nothing(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    raise ProblemError("unknown_method", f"no {method} here", detail={"method": method})


async def welcome(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    if method == "handshake":
        return {"id": "n", "capabilities": params.get("capabilities", [])}
    return await serve_nothing(method, params)


@contextlib.asynccontextmanager
async def streams() -> AsyncIterator[tuple[Streams, Streams]]:
    """The two ends of one connection over 127.0.0.1."""
    accepted: asyncio.Future[Streams] = asyncio.get_running_loop().create_future()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set_result((reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        near = await asyncio.open_connection(*server.sockets[0].getsockname())
        far = await accepted
        try:
            yield near, far
        finally:
            for _, writer in (near, far):
                writer.transport.abort()
    finally:
        server.close()
        await server.wait_closed()


@contextlib.asynccontextmanager
async def peers(
    agent: Handler = serve_nothing, endpoint: Handler = welcome, **options: Any
) -> AsyncIterator[tuple[Peer, Peer, asyncio.Task[Closed], asyncio.Task[Closed]]]:
    """An agent's and an endpoint's Peer after their handshake, running."""
    async with asyncio.timeout(20), streams() as (near, far):
        ours = Peer(Role.AGENT, *near, agent, **options)
        theirs = Peer(Role.ENDPOINT, *far, endpoint, **options)
        jobs = (asyncio.create_task(ours.run()), asyncio.create_task(theirs.run()))
        try:
            assert (await ours.call("handshake", {"id": "n", **offer()}))["id"] == "n"
            yield ours, theirs, *jobs
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)


async def read_message(reader: asyncio.StreamReader) -> dict[str, Any]:
    return json.loads(await reader.readline())  # type: ignore[no-any-return]


def line(**members: Any) -> bytes:
    return json.dumps({"version": "v1", **members}).encode() + b"\n"


async def test_calls_in_both_directions_and_the_end() -> None:
    async def status(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        return {"method": method, "params": dict(params)}

    async with peers(agent=status) as (ours, theirs, our_job, their_job):
        assert await theirs.call("status", {"a": "ä\n"}) == {"method": "status", "params": {"a": "ä\n"}}
        assert await theirs.call("ping", {"x": [1]}) == {"x": [1]}
        with pytest.raises(RemoteError, match="no log here") as refused:
            await ours.call("log", {})
        assert refused.value.problem.code == "unknown_method"
        assert refused.value.problem.detail == {"method": "log"}
        ours.hang_up()
        assert await our_job == Closed(reason="this side hung up", fatal=False)
        assert await their_job == Closed(reason="the peer closed the connection", fatal=False)
        with pytest.raises(RemoteError) as gone:
            await theirs.call("status", {})
        assert gone.value.problem.code == "connection_lost"


async def test_a_fatal_error_reaches_the_peer() -> None:
    async with peers() as (_ours, theirs, our_job, their_job):
        theirs.fatal("a newer boot of this machine is here")
        closed = Closed(reason="a newer boot of this machine is here", fatal=True)
        assert (await their_job, await our_job) == (closed, closed)


async def test_a_slow_handler_delays_no_ping_and_keeps_the_order() -> None:
    entered, go = asyncio.Event(), asyncio.Event()
    served: list[str] = []

    async def slow(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        entered.set()
        await go.wait()
        served.append(method)
        return {}

    async with asyncio.timeout(20), streams() as (near, (reader, writer)):
        ours = Peer(Role.AGENT, *near, slow)
        job = asyncio.create_task(ours.run())
        hello = asyncio.create_task(ours.call("handshake", {}))
        writer.write(line(id=(await read_message(reader))["id"], result={}))
        await hello
        writer.write(line(id="1", method="first") + line(id="2", method="second"))
        await entered.wait()
        for number in range(5):
            writer.write(line(id=f"p{number}", method="ping", params={"n": number}))
            assert (await read_message(reader))["result"] == {"n": number}
        assert served == []
        go.set()
        assert [(await read_message(reader))["id"] for _ in range(2)] == ["1", "2"]
        assert served == ["first", "second"]
        writer.close()
        await job


async def test_the_peer_goes_in_the_middle_of_a_call_and_of_a_command() -> None:
    entered = asyncio.Event()
    cancelled: list[str] = []

    async def never(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(method)
            raise
        return {}

    async with peers(agent=never) as (ours, theirs, our_job, their_job):
        theirs_call = asyncio.create_task(theirs.call("status", {}))
        await entered.wait()
        theirs._writer.transport.abort()
        assert (await our_job).fatal is False
        await their_job
        assert cancelled == ["status"]
        with pytest.raises(RemoteError) as error:
            await theirs_call
        assert error.value.problem.code == "connection_lost"
        with pytest.raises(RemoteError):
            await ours.call("log", {})


async def test_a_handler_that_fails_answers_and_lives_on(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        if method == "status":
            raise ZeroDivisionError("a secret")
        return {"method": method}

    async with peers(agent=broken) as (_, theirs, *_):
        with pytest.raises(RemoteError) as error:
            await theirs.call("status", {})
        assert error.value.problem.code == "internal"
        assert "secret" not in error.value.problem.msg
        assert await theirs.call("inventory", {}) == {"method": "inventory"}
    assert "handler of status failed" in caplog.text


@pytest.mark.parametrize("value", ["x" * (256 << 10), 2**60, float("nan"), "\udcff", b"bytes"])
async def test_an_answer_that_cannot_be_sent_is_a_refusal(
    value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        if method == "detail":
            raise ProblemError("full", "no room", detail={"x": value})
        return {"x": value if method == "status" else 1}

    async with peers(agent=answer) as (_, theirs, *_):
        with pytest.raises(RemoteError) as error:
            await theirs.call("status", {})
        assert error.value.problem.code == "unsendable"
        with pytest.raises(RemoteError):
            await theirs.call("detail", {})
        assert await theirs.call("inventory", {}) == {"x": 1}
    assert "cannot be sent" in caplog.text


async def test_a_command_that_cannot_be_sent_fails_alone() -> None:
    async def take(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    async with peers(agent=take) as (_, theirs, *_):
        with pytest.raises(RemoteError) as error:
            await theirs.call("status", {"x": 2**60})
        assert error.value.problem.code == "unsendable"
        assert await theirs.call("status", {}) == {}


async def test_a_call_is_given_up_at_its_own_deadline() -> None:
    async def never(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    # The next thing that would wake the connection is a ping, an hour away.
    async with peers(agent=never, limits=Limits(ping_interval=3600.0)) as (_, theirs, *_):
        with pytest.raises(RemoteError) as error:
            await theirs.call("status", {}, timeout=0.01)
        assert error.value.problem.code == "timeout"


async def test_a_caller_that_gives_up_leaves_nothing_behind() -> None:
    go = asyncio.Event()

    async def wait(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        await go.wait()
        return {}

    async with peers(agent=wait) as (_, theirs, *_):
        call = asyncio.create_task(theirs.call("status", {}))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert theirs._waiting == {}
        go.set()
        assert await theirs.call("status", {}) == {}


async def test_a_silent_peer_is_left() -> None:
    limits = Limits(ping_interval=0.01, ping_jitter=0.0, silent_pings=2)
    async with asyncio.timeout(20), streams() as (near, (reader, writer)):
        ours = Peer(Role.AGENT, *near, serve_nothing, limits=limits)
        job = asyncio.create_task(ours.run())
        hello = asyncio.create_task(ours.call("handshake", {}))
        writer.write(line(id=(await read_message(reader))["id"], result={}))
        await hello
        assert (await job).reason == "the peer has been silent for too long"
        said = [json.loads(text) for text in (await reader.read()).splitlines()]
        assert {message["method"] for message in said} <= {"ping"}


async def test_no_handshake_ends_with_a_reason() -> None:
    async with asyncio.timeout(20), streams() as ((reader, _writer), far):
        closed = await Peer(Role.ENDPOINT, *far, welcome, limits=Limits(handshake_timeout=0.01)).run()
        assert closed == Closed(reason="no handshake in time", fatal=True)
        assert (await read_message(reader))["fatal_error"] == "no handshake in time"
        assert await reader.read() == b""


async def test_a_peer_that_does_not_read_is_dropped() -> None:
    limits = Limits(write_backlog=64 << 10)
    async with asyncio.timeout(20), streams() as (near, far):
        theirs = Peer(Role.ENDPOINT, *far, welcome, limits=limits)
        job = asyncio.create_task(theirs.run())
        near[1].write(line(id="h", method="handshake", params={}))
        assert (await read_message(near[0]))["id"] == "h"
        # From here on it talks and never reads: every echo stays with the endpoint.
        echo = line(id="p", method="ping", params={"x": "x" * 200_000})
        with contextlib.suppress(OSError):
            while not job.done():
                near[1].write(echo)
                await near[1].drain()
        assert (await job).reason == "the peer does not read what it is sent"
        assert theirs.connection.state is State.CLOSED


async def test_the_end_does_not_wait_for_a_peer_that_does_not_read() -> None:
    async with asyncio.timeout(20), streams() as (near, far):
        theirs = Peer(Role.ENDPOINT, *far, welcome, limits=Limits(write_backlog=64 << 20), close_timeout=0.01)
        job = asyncio.create_task(theirs.run())
        near[1].write(line(id="h", method="handshake", params={}))
        await read_message(near[0])
        calls = []
        while not theirs._writer.transport.get_write_buffer_size():
            calls.append(asyncio.create_task(theirs.call("status", {"x": "x" * 500_000})))
            await asyncio.sleep(0)
        theirs.hang_up()
        assert (await job).reason == "this side hung up"
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(answer, RemoteError) for answer in answers)


@pytest.mark.parametrize(
    "bad", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\n", b"x" * 5000, b"\xff\n"]
)
async def test_a_stranger_is_told_and_hung_up_on(bad: bytes) -> None:
    async with asyncio.timeout(20), streams() as ((reader, writer), far):
        job = asyncio.create_task(Peer(Role.ENDPOINT, *far, welcome).run())
        writer.write(bad)
        assert (await job).fatal
        assert list(await read_message(reader)) == ["version", "fatal_error"]


async def test_a_run_that_is_cancelled_ends_everything() -> None:
    entered = asyncio.Event()

    async def stubborn(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """As code on Python 3.11 does whose wait_for ends in the moment of its cancellation."""
        entered.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return {}

    async with peers(agent=stubborn) as (ours, theirs, our_job, their_job):
        call = asyncio.create_task(theirs.call("status", {}))
        await entered.wait()
        waiting = asyncio.create_task(ours.call("log", {}))
        await asyncio.sleep(0)
        our_job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await our_job
        assert ours.closed is not None
        for lost in (waiting, call):
            with pytest.raises(RemoteError):
                await lost
        assert (await their_job).fatal is False


async def test_nothing_is_logged_about_an_ordinary_life(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "teeth_stream")
    async with peers() as (ours, _, our_job, their_job):
        ours.hang_up()
        await asyncio.gather(our_job, their_job)
    assert [record for record in caplog.records if record.name.startswith("teeth")] == []
