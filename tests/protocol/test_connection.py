"""The connection's states, deadlines and bounds: a clock that is a number, bytes that are bytes."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from teeth_protocol.connection import (
    TRANSITIONS,
    Answered,
    Closed,
    CommandReceived,
    Connection,
    Event,
    Ready,
    Role,
    State,
    Trigger,
)
from teeth_protocol.errors import LocalProtocolError, Problem, UnsendableError
from teeth_protocol.limits import Limits


def line(**members: Any) -> bytes:
    return json.dumps({"version": "v1", **members}).encode() + b"\n"


def command(identity: str, method: str, **params: Any) -> bytes:
    return line(id=identity, method=method, params=params)


def sent(connection: Connection) -> list[dict[str, Any]]:
    return [json.loads(text) for text in connection.data_to_send().splitlines()]


def names(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


def reason(events: list[Event]) -> str:
    closed = events[-1]
    assert isinstance(closed, Closed)
    return closed.reason


def agent(limits: Limits | None = None) -> Connection:
    """An agent's side, ready at time 0."""
    connection = Connection(Role.AGENT, 0.0, limits=limits)
    identity = connection.send_command("handshake", {}, 0.0)
    assert names(connection.receive_data(line(id=identity, result={}), 0.0)) == ["Ready", "Answered"]
    connection.data_to_send()
    return connection


def endpoint(limits: Limits | None = None) -> Connection:
    """An endpoint's side, ready at time 0."""
    connection = Connection(Role.ENDPOINT, 0.0, limits=limits)
    connection.receive_data(command("h", "handshake"), 0.0)
    assert names(connection.send_result("h", {})) == ["Ready"]
    connection.data_to_send()
    return connection


def in_state(state: State) -> Connection:
    if state is State.HANDSHAKE:
        return Connection(Role.ENDPOINT, 0.0)
    connection = endpoint()
    if state is State.DRAINING:
        connection.drain()
    elif state is State.CLOSED:
        connection.close("test")
    assert connection.state is state
    return connection


# --- states


def pull(connection: Connection, trigger: Trigger) -> None:
    """Let the trigger happen the way it happens."""
    if trigger is Trigger.HANDSHAKE_DONE:
        connection.receive_data(command("h2", "handshake"), 0.0)
        connection.send_result("h2", {})
    elif trigger is Trigger.DRAIN:
        connection.drain()
    else:
        connection.receive_data(b"", 0.0)


@pytest.mark.parametrize(("state", "trigger"), list(itertools.product(State, Trigger)))
def test_every_state_under_every_trigger(state: State, trigger: Trigger) -> None:
    connection = in_state(state)
    wanted = TRANSITIONS.get((state, trigger))
    if wanted is None:
        # A second handshake is the only thing that has no transition: refused, the state stays.
        assert trigger is Trigger.HANDSHAKE_DONE
        connection.receive_data(command("h2", "handshake"), 0.0)
        wanted = state
        answers = sent(connection)
        assert state is State.CLOSED or answers[-1]["error"]["code"] == "bad_state"
    else:
        pull(connection, trigger)
    assert connection.state is wanted


def test_the_table_leads_to_the_end_from_everywhere() -> None:
    for state in State:
        assert TRANSITIONS[(state, Trigger.END)] is State.CLOSED
    assert {target for (state, _), target in TRANSITIONS.items() if state is State.CLOSED} == {State.CLOSED}


def test_closed_is_closed() -> None:
    connection = endpoint()
    connection.receive_data(command("1", "log"), 0.0)
    assert names(connection.receive_data(b"", 1.0)) == ["Closed"]
    assert connection.next_deadline() is None
    assert connection.receive_data(command("2", "log"), 1.0) == []
    assert connection.receive_data(b"", 1.0) == []
    assert connection.tick(1e9) == []
    assert connection.send_fatal("x") == []
    assert connection.close("x") == []
    assert connection.drain() == []
    assert connection.send_result("1", {}) == []
    assert connection.send_problem("1", Problem(code="c", msg="m")) == []
    assert connection.data_to_send() == b""
    with pytest.raises(LocalProtocolError):
        connection.send_command("status", {}, 1.0)


# --- the handshake


@pytest.mark.parametrize("method", ["log", "task_status", "status", "no_such_method"])
def test_before_the_handshake_nothing_else_is_served(method: str) -> None:
    connection = Connection(Role.ENDPOINT, 0.0)
    events = connection.receive_data(command("1", method) + command("2", "ping"), 0.0)
    assert events == [Closed(reason=f"{method} before the handshake", fatal=True)]
    assert sent(connection) == [{"version": "v1", "fatal_error": f"{method} before the handshake"}]


def test_ping_and_enroll_are_served_before_the_handshake() -> None:
    connection = Connection(Role.ENDPOINT, 0.0)
    events = connection.receive_data(command("1", "ping", a=[1]) + command("2", "enroll", csr="x"), 0.0)
    assert events == [CommandReceived(id="2", method="enroll", params={"csr": "x"})]
    assert sent(connection) == [{"version": "v1", "id": "1", "result": {"a": [1]}}]
    assert connection.state is State.HANDSHAKE


def test_an_agent_may_not_speak_before_it_is_accepted() -> None:
    connection = Connection(Role.AGENT, 0.0)
    with pytest.raises(LocalProtocolError, match="state handshake"):
        connection.send_command("log", {}, 0.0)
    connection.send_command("handshake", {}, 0.0)
    with pytest.raises(LocalProtocolError):
        connection.send_command("log", {}, 0.0)
    assert names(connection.receive_data(line(id="a1", result={"id": "n"}), 0.0)) == ["Ready", "Answered"]
    connection.send_command("log", {}, 0.0)


def test_a_refused_handshake_is_the_end_on_both_sides() -> None:
    connection = Connection(Role.ENDPOINT, 0.0)
    connection.receive_data(command("h", "handshake"), 0.0)
    assert connection.send_problem("h", Problem(code="bad_token", msg="no such token")) == [
        Closed(reason="no such token", fatal=True)
    ]
    said = connection.data_to_send()
    other = Connection(Role.AGENT, 0.0)
    other.send_command("handshake", {}, 0.0)
    events = other.receive_data(said, 0.0)
    assert names(events) == ["Answered", "Closed"]
    assert events[-1] == Closed(reason="no such token", fatal=True)


def test_a_handshake_answered_by_an_error_is_the_end() -> None:
    connection = Connection(Role.AGENT, 0.0)
    connection.send_command("handshake", {}, 0.0)
    events = connection.receive_data(line(id="a1", error={"msg": "no", "code": "x"}), 0.0)
    assert events == [
        Answered(id="a1", method="handshake", problem=Problem(code="x", msg="no")),
        Closed(reason="no", fatal=True),
    ]


def test_a_second_handshake_is_refused_and_not_served() -> None:
    connection = Connection(Role.ENDPOINT, 0.0)
    events = connection.receive_data(command("1", "handshake") + command("2", "handshake"), 0.0)
    assert [event.id for event in events if isinstance(event, CommandReceived)] == ["1"]
    connection.send_result("1", {})
    assert connection.receive_data(command("3", "handshake"), 0.0) == []
    assert [answer["error"]["code"] for answer in sent(connection) if "error" in answer] == ["bad_state"] * 2


def test_no_handshake_in_time() -> None:
    connection = Connection(Role.ENDPOINT, 100.0)
    assert connection.next_deadline() == 105.0
    assert connection.tick(104.9) == []
    connection.receive_data(command("1", "ping"), 104.9)  # talking is not shaking hands
    assert names(connection.tick(105.0)) == ["Closed"]
    assert sent(connection)[-1]["fatal_error"] == "no handshake in time"


def test_draining_before_the_handshake_is_the_end_and_says_so() -> None:
    connection = Connection(Role.AGENT, 0.0)
    connection.send_command("handshake", {}, 0.0)
    assert names(connection.drain()) == ["Answered", "Closed"]


def test_draining() -> None:
    connection = endpoint()
    connection.receive_data(command("1", "log"), 0.0)
    identity = connection.send_command("status", {}, 0.0)
    connection.drain()
    assert connection.receive_data(command("2", "log"), 0.0) == []
    assert connection.owes == 1
    connection.send_result("1", {})
    assert connection.owes == 0
    assert names(connection.receive_data(line(id=identity, result={}), 0.0)) == ["Answered"]
    answers = {answer["id"]: answer for answer in sent(connection)}
    assert answers["2"]["error"]["code"] == "draining"
    assert answers["1"]["result"] == {}
    with pytest.raises(LocalProtocolError):
        connection.send_command("status", {}, 0.0)


# --- what comes in


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (b"nonsense\n", "invalid JSON"),
        (b"[]\n", "not a JSON object"),
        (b'{"version":"v2","id":"1","method":"ping"}\n', "version"),
        (b'{"id":"1","result":NaN}\n', "NaN"),
        (b'{"id":"1"}\n', "exactly one of"),
        (b'{"a":' * 17 + b"\n", "nested deeper"),
    ],
)
def test_a_broken_line_is_fatal_with_its_reason(bad: bytes, words: str) -> None:
    connection = endpoint()
    identity = connection.send_command("status", {}, 0.0)
    connection.data_to_send()
    events = connection.receive_data(command("1", "log") + bad + command("2", "log"), 0.0)
    assert names(events) == ["CommandReceived", "Answered", "Closed"]
    assert isinstance(events[1], Answered)
    assert (events[1].id, events[1].problem.code) == (identity, "connection_lost")  # type: ignore[union-attr]
    assert words in reason(events)
    assert [list(answer) for answer in sent(connection)] == [["version", "fatal_error"]]


def test_an_id_used_again_while_it_is_open_is_fatal() -> None:
    connection = endpoint()
    connection.receive_data(command("1", "log"), 0.0)
    connection.send_result("1", {})
    assert names(connection.receive_data(command("1", "log"), 0.0)) == ["CommandReceived"]  # it was settled
    for method in ("log", "ping"):
        again = endpoint()
        again.receive_data(command("1", "log"), 0.0)
        assert "used again" in reason(again.receive_data(command("1", method), 0.0))


def test_an_unknown_method_is_the_handlers_to_refuse() -> None:
    connection = endpoint()
    events = connection.receive_data(command("1", "Rescue.Mode"), 0.0)
    assert events == [CommandReceived(id="1", method="Rescue.Mode", params={})]
    connection.send_problem("1", Problem(code="unknown_method", msg="no such method"))
    assert sent(connection)[0]["error"] == {"code": "unknown_method", "msg": "no such method"}
    assert connection.state is State.READY


def test_a_fatal_error_ends_everything() -> None:
    connection = agent()
    identity = connection.send_command("log", {}, 0.0)
    events = connection.receive_data(line(fatal_error="newer session") + command("e1", "status"), 0.0)
    assert names(events) == ["Answered", "Closed"]
    assert isinstance(events[0], Answered)
    assert events[0].id == identity
    assert events[1] == Closed(reason="newer session", fatal=True)
    assert connection.state is State.CLOSED


def test_every_command_is_answered_once() -> None:
    connection = endpoint()
    connection.receive_data(command("1", "log"), 0.0)
    connection.send_result("1", {})
    with pytest.raises(LocalProtocolError, match="nothing is owed"):
        connection.send_result("1", {})
    with pytest.raises(LocalProtocolError, match="nothing is owed"):
        connection.send_problem("never", Problem(code="c", msg="m"))


def test_answers_to_nothing_are_counted() -> None:
    connection = agent()
    first = connection.send_command("log", {}, 0.0, timeout=1.0)
    second = connection.send_command("log", {}, 0.0)
    late = connection.tick(1.0)
    assert late == [
        Answered(id=first, method="log", problem=Problem(code="timeout", msg="log was not answered in time"))
    ]
    assert connection.receive_data(line(id=first, result={}), 1.1) == []  # late
    assert names(connection.receive_data(line(id=second, result={}), 1.1)) == ["Answered"]
    assert connection.receive_data(line(id=second, result={}), 1.1) == []  # twice
    assert connection.receive_data(line(id="e7", error={"msg": "?"}), 1.1) == []  # never asked
    assert connection.ignored == 3
    assert connection.state is State.READY


# --- bounds


def long_command(size: int) -> bytes:
    empty = command("1", "ping", x="")
    return command("1", "ping", x="x" * (size + 1 - len(empty)))


@pytest.mark.parametrize(
    ("make", "limit"),
    [
        (lambda: Connection(Role.ENDPOINT, 0.0), 4 << 10),
        (lambda: Connection(Role.AGENT, 0.0), 4 << 10),
        (endpoint, 256 << 10),
        (agent, 1 << 20),
    ],
    ids=["endpoint before", "agent before", "endpoint after", "agent after"],
)
def test_the_length_of_a_line(make: Any, limit: int) -> None:
    assert reason(make().receive_data(long_command(limit + 1), 0.0)) == f"a line is longer than {limit} bytes"
    assert reason(make().receive_data(b"x" * (limit + 1), 0.0)) == f"a line is longer than {limit} bytes"
    fits = make()
    assert fits.receive_data(long_command(limit), 0.0) == []
    assert fits.state is not State.CLOSED


def test_an_echo_that_may_not_be_sent_is_refused_and_harms_nobody() -> None:
    connection = agent()
    connection.receive_data(long_command(1 << 20), 0.0)
    assert [answer["error"]["code"] for answer in sent(connection)] == ["too_large"]
    assert connection.state is State.READY


def test_a_message_that_the_peer_would_refuse_is_not_sent() -> None:
    deep: dict[str, Any] = {}
    for _ in range(16):
        deep = {"d": deep}
    connection = agent()
    for params in (
        {"x": "x" * (256 << 10)},
        {"x": 2**60},
        {"x": float("nan")},
        {"x": "\ud800"},
        deep,
        {"x": b""},
    ):
        with pytest.raises(UnsendableError):
            connection.send_command("log", params, 0.0)
    assert connection.data_to_send() == b""
    identity = connection.send_command("log", {}, 0.0)
    assert sent(connection)[0]["id"] == identity


def test_the_handshake_itself_must_fit_into_a_strangers_line() -> None:
    connection = Connection(Role.AGENT, 0.0)
    with pytest.raises(UnsendableError, match="limit of 4096"):
        connection.send_command("handshake", {"x": "x" * 4096}, 0.0)
    other = Connection(Role.ENDPOINT, 0.0)
    other.receive_data(command("h", "handshake"), 0.0)
    with pytest.raises(UnsendableError):
        other.send_result("h", {"x": "x" * 4096})


def test_an_answer_that_cannot_be_sent_is_still_owed() -> None:
    connection = agent()
    connection.receive_data(command("e1", "inventory"), 0.0)
    with pytest.raises(UnsendableError):
        connection.send_result("e1", {"x": "x" * (1 << 20)})
    with pytest.raises(UnsendableError):
        connection.send_problem("e1", Problem(code="c", msg="x" * (1 << 20)))
    assert connection.owes == 1
    connection.send_problem("e1", Problem(code="unsendable", msg="too long"))
    assert (connection.owes, len(sent(connection))) == (0, 1)


@pytest.mark.parametrize("words", ["x" * 1_000_000, "\x01" * 1_000_000, "\ud800", "\U0001f600" * 5000])
def test_last_words_are_always_said(words: str) -> None:
    connection = Connection(Role.ENDPOINT, 0.0)
    assert names(connection.send_fatal(words)) == ["Closed"]
    other = Connection(Role.AGENT, 0.0)
    events = other.receive_data(connection.data_to_send(), 0.0)
    assert isinstance(events[0], Closed)
    assert events[0].fatal


def test_too_many_open_commands_of_the_peer_are_refused() -> None:
    connection = endpoint(Limits(pending=2))
    connection.receive_data(b"".join(command(f"{n}", "log") for n in range(3)), 0.0)
    assert connection.owes == 2
    assert [answer["error"]["code"] for answer in sent(connection)] == ["busy"]
    connection.receive_data(command("p", "ping"), 0.0)
    assert sent(connection)[0]["result"] == {}


def test_too_many_open_commands_of_ours_are_refused() -> None:
    connection = agent(Limits(pending=2))
    for _ in range(2):
        connection.send_command("log", {}, 0.0)
    with pytest.raises(LocalProtocolError, match="too many"):
        connection.send_command("log", {}, 0.0)


# --- time


def test_a_command_has_a_deadline() -> None:
    connection = agent(Limits(command_timeout=7.0))
    connection.send_command("log", {}, 0.0)
    connection.send_command("log", {}, 0.0, timeout=3.0)
    now = connection.send_command("log", {}, 0.0, timeout=0.0)
    assert connection.next_deadline() == 0.0
    assert [event.id for event in connection.tick(0.0) if isinstance(event, Answered)] == [now]
    assert connection.next_deadline() == 3.0
    assert connection.tick(2.999) == []
    assert len(connection.tick(3.0)) == 1
    assert len(connection.tick(7.0)) == 1
    assert connection.state is State.READY


def test_pings_are_sent_in_their_interval_and_their_answers_kept_to_ourselves() -> None:
    for jitter, due in ((0.0, 12.0), (0.5, 15.0), (0.999999, 18.0)):
        connection = Connection(Role.AGENT, 0.0, jitter=lambda jitter=jitter: jitter)  # type: ignore[misc]
        connection.send_command("handshake", {}, 0.0)
        connection.receive_data(line(id="a1", result={}), 0.0)
        connection.data_to_send()
        assert connection.next_deadline() == pytest.approx(due, abs=1e-4)
        assert connection.tick(due + 0.001) == []
        (ping,) = sent(connection)
        assert ping["method"] == "ping"
        assert connection.receive_data(line(id=ping["id"], result={}), due + 1) == []
        assert connection.ignored == 0


def test_a_silent_peer_is_given_up_after_three_pings() -> None:
    connection = agent()
    identity = connection.send_command("log", {}, 0.0, timeout=1000.0)
    events: list[Event] = []
    pings = 0
    while not events:
        now = connection.next_deadline()
        assert now is not None
        events = connection.tick(now)
        pings += sum(message.get("method") == "ping" for message in sent(connection))
    assert pings == 3
    assert now == 54.0
    assert isinstance(events[0], Answered)
    assert events[0].id == identity
    assert reason(events) == "the peer has been silent for too long"


def test_a_peer_that_only_answers_pings_is_alive() -> None:
    connection = agent()
    for _ in range(100):
        now = connection.next_deadline()
        assert now is not None
        assert connection.tick(now) == []
        for ping in sent(connection):
            connection.receive_data(line(id=ping["id"], result={}), now)
    assert connection.state is State.READY


def test_a_draining_connection_still_pings() -> None:
    connection = endpoint()
    connection.drain()
    connection.tick(15.0)
    assert [message["method"] for message in sent(connection)] == ["ping"]


def test_a_started_line_must_end_in_time() -> None:
    connection = endpoint()
    connection.receive_data(b'{"version":', 1.0)
    assert connection.next_deadline() == 11.0
    connection.receive_data(b'"v1",', 10.0)  # a drop now and then does not help
    assert connection.tick(10.9) == []
    assert "not ended in time" in reason(connection.tick(11.0))


@pytest.mark.parametrize("method", ["log", "ping"])
def test_each_line_has_its_own_time(method: str) -> None:
    connection = endpoint()
    whole = command("1", method)
    connection.receive_data(whole[:5], 0.0)
    connection.receive_data(whole[5:] + command("2", method)[:5], 9.0)
    assert connection.tick(10.0) == []
    assert connection.next_deadline() != 10.0
    assert "not ended in time" in reason(connection.tick(19.0))


def test_a_blank_line_starts_nothing() -> None:
    connection = endpoint()
    connection.receive_data(b"\n \n", 0.0)
    assert connection.tick(11.0) == []
    assert connection.state is State.READY


def test_the_tap_sees_both_directions() -> None:
    seen: list[tuple[bool, Any]] = []
    connection = Connection(Role.ENDPOINT, 0.0, tap=lambda out, value: seen.append((out, dict(value))))
    connection.receive_data(command("1", "ping", a=1), 0.0)
    assert seen == [
        (False, {"version": "v1", "id": "1", "method": "ping", "params": {"a": 1}}),
        (True, {"version": "v1", "id": "1", "result": {"a": 1}}),
    ]


def test_ready_is_said_once() -> None:
    connection = Connection(Role.ENDPOINT, 0.0)
    connection.receive_data(command("h", "handshake"), 0.0)
    assert connection.send_result("h", {}) == [Ready()]
