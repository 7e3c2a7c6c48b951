"""What two sides agree on, what is ignored and counted, and what a connection forgets."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fakes.wire_agent import Dialled, WireAgent
from teeth.service import Endpoint, EndpointConfig
from teeth_protocol import methods
from teeth_protocol.capabilities import CAPABILITIES, PROTOCOLS, agreed, common_version, offer
from teeth_protocol.connection import Answered, Closed, CommandReceived, Connection, Ready, Role, State
from teeth_protocol.errors import Problem
from teeth_protocol.limits import Limits

RUN = methods.RUN_IMAGE
IMAGE = {"image_id": "i", "config_drive": {"meta_data": {"uuid": "u"}}}


def line(**members: Any) -> bytes:
    return json.dumps({"version": "v1", **members}).encode() + b"\n"


def sent(connection: Connection) -> list[dict[str, Any]]:
    return [json.loads(text) for text in connection.data_to_send().splitlines()]


def endpoint_side(capabilities: list[str] | None = None) -> Connection:
    connection = Connection(Role.ENDPOINT, 0.0)
    connection.receive_data(line(id="h", method="handshake", params=offer()), 0.0)
    welcome: dict[str, Any] = {} if capabilities is None else {"capabilities": capabilities}
    assert connection.send_result("h", welcome) == [Ready()]
    connection.data_to_send()
    return connection


def agent_side(welcome: dict[str, Any]) -> tuple[Connection, list[Any]]:
    connection = Connection(Role.AGENT, 0.0)
    identity = connection.send_command("handshake", offer(), 0.0)
    connection.data_to_send()
    return connection, connection.receive_data(line(id=identity, result=welcome), 0.0)


# --- versions


def test_a_version_is_chosen() -> None:
    assert common_version(None) == common_version(["v9", "v1"]) == "v1"
    assert common_version(["v9"]) is common_version([]) is None


@pytest.mark.parametrize("protocols", [[], ["v9"], ["V1"], [1], [None, {}]])
def test_a_peer_of_another_time_is_told_what_is_spoken_here(protocols: list[Any]) -> None:
    connection = Connection(Role.ENDPOINT, 0.0)
    (closed,) = connection.receive_data(
        line(id="h", method="handshake", params={"protocols": protocols}), 0.0
    )
    assert closed == Closed(reason="no_common_version: this side speaks v1", fatal=True)
    assert sent(connection)[-1]["fatal_error"] == closed.reason


@pytest.mark.parametrize("params", [{}, {"protocols": None}, {"protocols": ["v1"]}, {"protocols": "v1"}])
def test_what_is_not_a_list_is_the_readers_to_judge(params: dict[str, Any]) -> None:
    connection = Connection(Role.ENDPOINT, 0.0)
    (event,) = connection.receive_data(line(id="h", method="handshake", params=params), 0.0)
    assert isinstance(event, CommandReceived)


def test_an_envelope_of_another_time() -> None:
    connection = Connection(Role.ENDPOINT, 0.0)
    connection.receive_data(b'{"version": "v2", "id": "1", "method": "ping"}\n', 0.0)
    assert sent(connection)[-1]["fatal_error"] == "no_common_version: this side speaks v1"


@pytest.mark.parametrize("protocol", ["v2", None, 1, ["v1"]])
def test_an_endpoint_that_chose_another_version_is_left(protocol: Any) -> None:
    connection, events = agent_side({"protocol": protocol})
    assert isinstance(events[-1], Closed)
    assert (connection.state, events[-1].reason.partition(":")[0]) == (State.CLOSED, "no_common_version")


# --- capabilities


def test_each_capability_is_one_word_with_a_meaning() -> None:
    for name, meaning in CAPABILITIES.items():
        assert re.fullmatch(r"[a-z][a-z_]{1,31}", name)
        assert len(meaning) > 10
    assert offer(["decom.qc"]) == {
        "protocols": list(PROTOCOLS), "capabilities": list(CAPABILITIES), "methods": ["decom.qc"],
    }  # fmt: skip


def test_what_one_side_has_is_not_agreed() -> None:
    assert agreed(["time_travel", "renew"]) == ["renew"]
    assert agreed([]) == []


@pytest.mark.parametrize("told", [None, [], "renew", {"renew": 1}, [["renew"]], [7]])
def test_nothing_is_agreed_with_who_does_not_say_it(told: Any) -> None:
    connection, events = agent_side({"capabilities": told})
    assert isinstance(events[0], Ready)
    assert connection.capabilities == frozenset()


def test_both_sides_know_what_is_agreed() -> None:
    both = ["error_detail", "of_another_time"]
    assert agent_side({"capabilities": both})[0].capabilities == {"error_detail"}
    assert endpoint_side(both).capabilities == {"error_detail"}


@pytest.mark.parametrize(("capabilities", "there"), [(None, False), ([], False), (["error_detail"], True)])
def test_detail_goes_only_to_who_knows_of_it(capabilities: list[str] | None, there: bool) -> None:
    connection = endpoint_side(capabilities)
    connection.receive_data(line(id="1", method="log", params={}), 0.0)
    connection.send_problem("1", Problem(code="busy", msg="no", detail={"by": "t1"}))
    assert ("detail" in sent(connection)[0]["error"]) is there


@pytest.fixture
async def endpoint(tmp_path: Path) -> AsyncIterator[Endpoint]:
    async with Endpoint(EndpointConfig(data=tmp_path / "data")) as running:
        yield running


@contextlib.asynccontextmanager
async def prepared(
    endpoint: Endpoint, offers: dict[str, Any]
) -> AsyncIterator[tuple[Dialled, dict[str, Any]]]:
    """An agent whose image is prepared and held, and what it is told."""
    token = (await endpoint.grant("52:54:00:00:00:01")).token
    agent = WireAgent(token=token, offers=offers, answers={RUN: lambda _: {}})
    async with agent.session(endpoint.agent_port, endpoint.ca_file) as dialled:
        task_id = await endpoint.run_image("node-1", IMAGE, hold=True)
        await agent.command(RUN)
        yield dialled, await dialled.status(task_id, "running", seq=1, phase="prepared")


async def test_a_hold_is_explained_to_who_understands_it(endpoint: Endpoint) -> None:
    async with prepared(endpoint, offer()) as (dialled, told):
        assert told == {"go": False, "retry_after": 5.0}
        assert dialled.welcome["protocol"] == "v1"
        assert dialled.welcome["capabilities"] == list(CAPABILITIES)


async def test_a_hold_is_a_no_to_who_knows_the_seed_alone(endpoint: Endpoint) -> None:
    async with prepared(endpoint, {}) as (dialled, told):
        assert told == {"go": False}
        assert dialled.welcome["capabilities"] == []


# --- ignored, and counted


def test_what_nobody_knows_is_ignored_and_counted() -> None:
    connection = endpoint_side()
    (event,) = connection.receive_data(line(id="1", method="log", params={"x": 1}, a=1, b={"c": 2}), 0.0)
    assert event == CommandReceived(id="1", method="log", params={"x": 1})
    assert connection.unknown_members == 2
    connection.receive_data(line(id="e9", result={}, c=1), 0.0)
    connection.receive_data(line(id="e9", error={"msg": "no", "hint": "x"}), 0.0)
    assert (connection.unknown_members, connection.ignored) == (4, 2)


def test_an_answer_that_comes_too_late_is_counted() -> None:
    connection = endpoint_side()
    identity = connection.send_command("status", {}, 0.0, timeout=5.0)
    (late,) = connection.tick(5.0)
    assert isinstance(late, Answered)
    assert connection.receive_data(line(id=identity, result={}), 6.0) == []
    assert connection.ignored == 1


# --- ids


def test_an_id_may_come_again_when_it_was_answered() -> None:
    connection = endpoint_side()
    for _ in range(3):
        (event,) = connection.receive_data(line(id="same", method="log", params={}), 0.0)
        assert isinstance(event, CommandReceived)
        connection.send_result("same", {})
    assert [answer["id"] for answer in sent(connection)] == ["same"] * 3


def test_our_own_ids_never_come_again() -> None:
    connection = endpoint_side()
    seen = set()
    for _ in range(1000):
        identity = connection.send_command("status", {}, 0.0)
        connection.receive_data(line(id=identity, result={}), 0.0)
        seen.add(identity)
    assert len(seen) == 1000


def test_nothing_is_remembered_of_what_is_answered() -> None:
    connection = endpoint_side()
    for number in range(1000):
        connection.receive_data(line(id=f"p{number}", method="ping", params={}), 0.0)
        connection.receive_data(line(id=f"c{number}", method="log", params={}), 0.0)
        connection.send_result(f"c{number}", {})
        connection.data_to_send()
    assert connection.owes == 0


def test_ids_of_both_sides_do_not_meet() -> None:
    connection = endpoint_side()
    identity = connection.send_command("status", {}, 0.0)
    connection.data_to_send()
    (event,) = connection.receive_data(line(id=identity, method="log", params={}), 0.0)
    assert isinstance(event, CommandReceived)
    (answer,) = connection.receive_data(line(id=identity, result={"uptime": 1}), 0.0)
    assert isinstance(answer, Answered)
    connection.send_result(identity, {})
    assert sent(connection) == [{"version": "v1", "id": identity, "result": {}}]


# --- pipelining, params, and what comes after the end


def test_many_commands_in_one_piece_of_data() -> None:
    connection = endpoint_side()
    data = b"".join(line(id=str(number), method="log", params={"n": number}) for number in range(200))
    events = connection.receive_data(data + b'{"id": "last", "meth', 0.0)
    assert [event.params["n"] for event in events if isinstance(event, CommandReceived)] == list(range(200))
    (last,) = connection.receive_data(b'od": "log"}\n', 1.0)
    assert last == CommandReceived(id="last", method="log", params={})
    assert connection.owes == 201


@pytest.mark.parametrize("members", [{}, {"params": None}, {"params": {}}])
def test_params_may_be_left_out(members: dict[str, Any]) -> None:
    connection = endpoint_side()
    (event,) = connection.receive_data(line(id="1", method="log", **members), 0.0)
    assert event == CommandReceived(id="1", method="log", params={})
    connection.receive_data(line(id="2", method="ping", **members), 0.0)
    assert sent(connection) == [{"version": "v1", "id": "2", "result": {}}]


@pytest.mark.parametrize("end", ["fatal", "close", "eof", "peer"])
def test_nothing_is_read_after_the_end(end: str) -> None:
    connection = endpoint_side()
    if end == "fatal":
        connection.send_fatal("no")
    elif end == "close":
        connection.close("enough")
    elif end == "eof":
        connection.receive_data(b"", 0.0)
    else:
        connection.receive_data(line(fatal_error="no") + line(id="1", method="ping"), 0.0)
    connection.data_to_send()
    assert connection.receive_data(line(id="2", method="ping") + b"{" * 5_000_000, 1.0) == []
    assert connection.receive_data(b"", 2.0) == []
    assert (connection.data_to_send(), connection.tick(1e9), connection.next_deadline()) == (b"", [], None)
    assert connection.unknown_members == connection.ignored == 0


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize(("jitter", "first"), [(0.0, 12.0), (0.5, 15.0), (0.9999999, 18.0)])
def test_both_sides_ping_within_a_fifth_of_fifteen_seconds(role: Role, jitter: float, first: float) -> None:
    limits = Limits()
    connection = Connection(role, 0.0, jitter=lambda: jitter)
    if role is Role.AGENT:
        identity = connection.send_command("handshake", {}, 0.0)
        connection.receive_data(line(id=identity, result={}), 0.0)
    else:
        connection.receive_data(line(id="h", method="handshake"), 0.0)
        connection.send_result("h", {})
    connection.data_to_send()
    due = connection.next_deadline()
    assert due == pytest.approx(first)
    assert connection.tick(due - 0.001) == []
    assert connection.data_to_send() == b""
    connection.tick(due)
    assert [message["method"] for message in sent(connection)] == ["ping"]
    # Three of the longest intervals without a byte: dead, and not a moment before.
    dead = limits.ping_interval * 1.2 * 3
    assert connection.tick(dead - 0.001) == []
    (closed,) = connection.tick(dead)
    assert closed == Closed(reason="the peer has been silent for too long", fatal=False)
