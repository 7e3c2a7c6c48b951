"""Two Connections joined by pipes that split, damage and cut, on a virtual clock: what must always hold."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fuzz.strategies import objects
from protocol.corpus.case import Case
from protocol.corpus.table import cases
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
)
from teeth_protocol.errors import LocalProtocolError, Problem, UnsendableError
from teeth_protocol.limits import Limits

pytestmark = pytest.mark.slow

# Small where that changes nothing but how soon a bound is met.
_LIMITS = Limits(
    pending=4, line_from_agent=5000, line_from_endpoint=6000, pending_memory=60_000, values=200, depth=6
)
_READ = 4096  # a driver reads that much at once
_GARBAGE = [case.data for role in Role for case in cases(role) if len(case.data) < 400]

methods = st.sampled_from(["ping", "log", "status", "x.y", "handshake", "enroll"])
sides = st.sampled_from(list(Role))


def reachable() -> set[tuple[State, State]]:
    """Which states may follow which, by however many steps of the table."""
    found = {(state, state) for state in State} | {(old, new) for (old, _), new in TRANSITIONS.items()}
    while True:
        more = {(a, d) for a, b in found for c, d in found if b is c} | found
        if more == found:
            return found
        found = more


_REACHABLE = reachable()


class Side:
    """One Connection with its books: what it sent, what it was answered, what it owes."""

    def __init__(self, role: Role) -> None:
        self.connection = Connection(role, 0.0, limits=_LIMITS)
        self.state = self.connection.state
        self.sent: list[str] = []
        self.answered: Counter[str] = Counter()
        self.owed: dict[str, str] = {}
        self.closed = 0
        self.ready = 0
        self.inbox = bytearray()  # on its way to this side

    def take(self, events: list[Event]) -> None:
        assert not (events and self.closed), "something happened after the end"
        for event in events:
            if isinstance(event, CommandReceived):
                assert event.id not in self.owed
                self.owed[event.id] = event.method
            elif isinstance(event, Answered):
                assert (event.result is None) != (event.problem is None)
                self.answered[event.id] += 1
            elif isinstance(event, Ready):
                self.ready += 1
            elif isinstance(event, Closed):
                self.closed += 1
        if self.closed:
            self.owed.clear()


class Conversation(RuleBasedStateMachine):
    """The rules are what drivers, peers and networks may do; no rule expects a particular outcome."""

    @initialize()
    def begin(self) -> None:
        self.now = 0.0
        self.sides = {role: Side(role) for role in Role}
        self.garbled = False

    # --- what drivers do

    @rule(role=sides, method=methods, params=objects, timeout=st.none() | st.floats(0.1, 40))
    def ask(self, role: Role, method: str, params: dict[str, Any], timeout: float | None) -> None:
        side = self.sides[role]
        try:
            side.sent.append(side.connection.send_command(method, params, self.now, timeout=timeout))
        except LocalProtocolError:
            return
        self.flush(role)

    @rule()
    def shake_hands(self) -> None:
        """The short way to a session, for what is only possible in one."""
        agent = self.sides[Role.AGENT]
        if agent.connection.state is State.HANDSHAKE and not agent.sent:
            self.ask(Role.AGENT, "handshake", {}, None)
            self.deliver(Role.ENDPOINT, 10_000)
            self.answer(Role.ENDPOINT, 0, {}, True)
            self.deliver(Role.AGENT, 10_000)

    @rule(role=sides, which=st.integers(0, 9), result=objects, good=st.booleans())
    def answer(self, role: Role, which: int, result: dict[str, Any], good: bool) -> None:
        side = self.sides[role]
        if not side.owed:
            return
        identity = list(side.owed)[which % len(side.owed)]
        try:
            if good:
                side.take(side.connection.send_result(identity, result))
            else:
                side.take(side.connection.send_problem(identity, Problem(code="no", msg="no")))
        except UnsendableError:
            return
        side.owed.pop(identity, None)
        self.flush(role)

    @rule(role=sides, how=st.sampled_from(["drain", "close", "fatal"]))
    @precondition(lambda self: self.garbled)  # late, so that most conversations get somewhere
    def leave(self, role: Role, how: str) -> None:
        side = self.sides[role]
        if how == "drain":
            side.take(side.connection.drain())
        elif how == "close":
            side.take(side.connection.close("enough"))
        else:
            side.take(side.connection.send_fatal("enough"))
        self.flush(role)

    # --- what networks and strangers do

    @rule(role=sides, count=st.integers(1, _READ))
    def deliver(self, role: Role, count: int) -> None:
        side = self.sides[role]
        piece = bytes(side.inbox[:count])
        del side.inbox[:count]
        if piece:
            side.take(side.connection.receive_data(piece, self.now))
            self.flush(role)

    @rule(role=sides, at=st.integers(0, 400), to=st.integers(0, 255))
    def damage(self, role: Role, at: int, to: int) -> None:
        inbox = self.sides[role].inbox
        if at < len(inbox):
            inbox[at] = to
            self.garbled = True

    @rule(role=sides, data=st.sampled_from(_GARBAGE) | st.binary(min_size=1, max_size=20))
    def inject(self, role: Role, data: bytes) -> None:
        self.sides[role].inbox += data
        self.garbled = True

    @rule(role=sides)
    @precondition(lambda self: self.garbled)
    def hang_up(self, role: Role) -> None:
        side = self.sides[role]
        side.take(side.connection.receive_data(b"", self.now))
        self.flush(role)

    # --- time

    @rule(role=sides)
    def wake_at_the_deadline(self, role: Role) -> None:
        """Ticking at the deadline makes progress; a moment before it there is nothing to do."""
        side = self.sides[role]
        deadline = side.connection.next_deadline()
        if deadline is None:
            return
        if deadline - 1e-6 > self.now:
            assert side.connection.tick(deadline - 1e-6) == []
            assert side.connection.data_to_send() == b""
        self.now = max(self.now, deadline)
        side.take(side.connection.tick(self.now))
        self.no_busy_loop(side)
        self.flush(role)

    @rule(seconds=st.floats(0.001, 70))
    def time_passes(self, seconds: float) -> None:
        """Drivers may be late, by however much."""
        self.now += seconds
        for role, side in self.sides.items():
            side.take(side.connection.tick(self.now))
            self.no_busy_loop(side)
            self.flush(role)

    def no_busy_loop(self, side: Side) -> None:
        after = side.connection.next_deadline()
        assert after is None or after > self.now

    # --- what must always hold

    @invariant()
    def states_follow_the_table(self) -> None:
        for side in getattr(self, "sides", {}).values():
            assert (side.state, side.connection.state) in _REACHABLE
            side.state = side.connection.state
            assert (side.state is State.CLOSED) == (side.closed == 1)
            assert (side.connection.next_deadline() is None) == (side.state is State.CLOSED)
            assert side.ready <= 1

    @invariant()
    def every_command_is_answered_once(self) -> None:
        for side in getattr(self, "sides", {}).values():
            assert not set(side.answered) - set(side.sent), "an answer to what was not asked"
            assert all(count == 1 for count in side.answered.values())
            if side.closed:
                assert set(side.answered) == set(side.sent)

    @invariant()
    def memory_is_bounded(self) -> None:
        for side in getattr(self, "sides", {}).values():
            connection = side.connection
            assert len(connection._lines) <= 6000 + _READ
            assert connection.owes == len(side.owed)
            assert connection.owes <= _LIMITS.pending
            assert len(connection._pending) <= _LIMITS.pending + 4  # pings of our own that wait
            assert sum(owed.memory for owed in connection._owed.values()) <= _LIMITS.pending_memory
            assert not connection._out  # everything was taken

    def flush(self, role: Role) -> None:
        """What a side has to say is on its way to the other, and no longer than a line may be."""
        other = Role.ENDPOINT if role is Role.AGENT else Role.AGENT
        data = self.sides[role].connection.data_to_send()
        assert data == b"" or data.endswith(b"\n")
        assert all(len(line) <= 6000 for line in data.split(b"\n"))
        self.sides[other].inbox += data


TestConversation = Conversation.TestCase
TestConversation.settings = settings(stateful_step_count=50, deadline=None)


def test_the_garbage_is_plenty() -> None:
    assert len(_GARBAGE) > 500
    assert isinstance(cases(Role.AGENT)[0], Case)
