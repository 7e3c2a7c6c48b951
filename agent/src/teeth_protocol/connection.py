"""One connection's life, without I/O and without a clock: bytes and ``now`` in, bytes and events out.

The caller feeds ``receive_data``, calls ``tick`` no later than ``next_deadline``, sends what
``data_to_send`` gives, and closes its socket when ``state`` is CLOSED and everything was sent. Nothing that
the peer sends makes a method raise; LocalProtocolError is always the caller's own doing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from teeth_protocol import capabilities, methods
from teeth_protocol.errors import LocalProtocolError, Problem, RemoteProtocolError, UnsendableError
from teeth_protocol.framing import LineBuffer
from teeth_protocol.limits import Limits
from teeth_protocol.messages import Command, Failure, Fatal, Message, Success, parse, unknown_members
from teeth_protocol.states import TRANSITIONS, Role, State, Trigger
from teeth_protocol.strictjson import JsonError, dumps, loads

__all__ = [
    "TRANSITIONS", "Answered", "Closed", "CommandReceived", "Connection", "Event", "Ready", "Role", "State",
    "Tap", "Trigger",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandReceived:
    """The peer asks; answer with ``send_result`` or ``send_problem`` exactly once."""

    id: str
    method: str
    params: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A command of ours was answered: ``result`` or ``problem``, never both."""

    id: str
    method: str
    result: dict[str, Any] | None = None
    problem: Problem | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The handshake is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """The connection is over; ``fatal`` when one side said so as a fatal_error."""

    reason: str
    fatal: bool


# Fits into the shortest line with its envelope, even if every letter is escaped to six bytes.
_MAX_LAST_WORDS = 600

Event = CommandReceived | Answered | Ready | Closed
Tap = Callable[[bool, Mapping[str, Any]], None]


@dataclass(slots=True)
class _Owed:
    method: str
    memory: int


@dataclass(slots=True)
class _Pending:
    method: str
    deadline: float
    keepalive: bool  # our own ping: nobody waits for its answer


class Connection:
    """The protocol's state on one side of one connection.

    ``now`` is any monotonic clock in seconds, the same one in every call. ``jitter`` gives numbers in
    [0, 1). ``tap`` sees every message: (outgoing, object).

    ``capabilities`` are those that both sides know, empty before the handshake is done. What is ignored is
    counted: ``ignored`` responses to nothing we asked, ``unknown_members`` of messages.
    """

    def __init__(
        self,
        role: Role,
        now: float,
        *,
        limits: Limits | None = None,
        jitter: Callable[[], float] = lambda: 0.5,
        tap: Tap | None = None,
    ) -> None:
        self.role = role
        self.state = State.HANDSHAKE
        self.capabilities: frozenset[str] = frozenset()
        self.ignored = 0
        self.unknown_members = 0
        self._limits = limits or Limits()
        self._jitter = jitter
        self._tap = tap
        self._lines = LineBuffer()
        self._line_started: float | None = None
        self._out = bytearray()
        self._next_id = 0
        self._pending: dict[str, _Pending] = {}
        self._owed: dict[str, _Owed] = {}  # commands of the peer we have not answered, by id
        self._handshake_deadline = now + self._limits.handshake_timeout
        self._heard = now
        self._next_ping = now + self._ping_delay()

    # --- what the caller reads

    def data_to_send(self) -> bytes:
        """What must go out now; empty when nothing."""
        data = bytes(self._out)
        self._out.clear()
        return data

    def next_deadline(self) -> float | None:
        """When ``tick`` must be called at the latest; None when closed."""
        if self.state is State.CLOSED:
            return None
        times = [self._next_ping, self._silence_deadline()]
        times += [pending.deadline for pending in self._pending.values()]
        if self.state is State.HANDSHAKE:
            times.append(self._handshake_deadline)
        if self._line_started is not None:
            times.append(self._line_started + self._limits.line_timeout)
        return min(times)

    # --- what happens to us

    def receive_data(self, data: bytes, now: float) -> list[Event]:
        """Bytes from the peer; b"" is the end of its stream."""
        if self.state is State.CLOSED:
            return []
        if not data:
            return self._end("the peer closed the connection", fatal=False)
        self._heard = now
        self._lines.feed(data)
        ended = self._lines.ended
        events: list[Event] = []
        try:
            while not self._over():
                line = self._lines.next_line(self._line_limit(self._other_role()))
                if line is None:
                    break
                events += self._receive_line(line, now)
        except (RemoteProtocolError, JsonError) as error:
            events += self.send_fatal(str(error))
        if len(self._lines) == 0:
            self._line_started = None
        elif self._line_started is None or self._lines.ended != ended:
            self._line_started = now
        return events

    def tick(self, now: float) -> list[Event]:
        """Let time pass: pings, deadlines, silence."""
        if self.state is State.CLOSED:
            return []
        if self.state is State.HANDSHAKE and now >= self._handshake_deadline:
            return self.send_fatal("no handshake in time")
        if self._line_started is not None and now >= self._line_started + self._limits.line_timeout:
            return self.send_fatal("a line was started and not ended in time")
        if now >= self._silence_deadline():
            return self._end("the peer has been silent for too long", fatal=False)
        events: list[Event] = []
        for identity, pending in list(self._pending.items()):
            if now >= pending.deadline:
                del self._pending[identity]
                if pending.keepalive:
                    continue
                problem = Problem(code="timeout", msg=f"{pending.method} was not answered in time")
                events.append(Answered(id=identity, method=pending.method, problem=problem))
        if now >= self._next_ping:
            self._next_ping = now + self._ping_delay()
            if self.state in (State.READY, State.DRAINING):
                self._send_command(methods.PING, {}, now + self._silence(), keepalive=True)
        return events

    # --- what we want

    def send_command(
        self, method: str, params: dict[str, Any], now: float, *, timeout: float | None = None
    ) -> str:
        """Ask the peer; returns the id that its Answered event will carry.

        Raises LocalProtocolError, of it UnsendableError when the message breaks a bound of the wire.
        """
        allowed = self.state is State.READY or (
            self.state is State.HANDSHAKE and method in methods.UNAUTHENTICATED
        )
        if not allowed:
            raise LocalProtocolError(f"{method} cannot be sent in state {self.state.value}")
        if len(self._pending) >= self._limits.pending:
            raise LocalProtocolError("too many commands wait for an answer")
        wait = self._limits.command_timeout if timeout is None else timeout
        return self._send_command(method, params, now + wait)

    def send_result(self, identity: str, result: dict[str, Any]) -> list[Event]:
        """Answer a command. Answering the handshake makes the connection ready.

        Raises UnsendableError when the result breaks a bound of the wire; an answer is then still owed.
        """
        method = self._owed_method(identity)
        if method is None:
            return []
        self._send(Success(id=identity, result=result))
        del self._owed[identity]
        if self.role is Role.ENDPOINT and method == methods.HANDSHAKE and self.state is State.HANDSHAKE:
            self._agree(result)
            return [Ready()]
        return []

    def send_problem(self, identity: str, problem: Problem) -> list[Event]:
        """Answer a command with an error. Refusing the handshake is fatal. Raises as ``send_result``.

        A ``detail`` is left out when the peer does not know of it.
        """
        method = self._owed_method(identity)
        if method is None:
            return []
        if self.role is Role.ENDPOINT and method == methods.HANDSHAKE and self.state is State.HANDSHAKE:
            return self.send_fatal(problem.msg)
        if capabilities.ERROR_DETAIL not in self.capabilities:
            problem = dataclasses.replace(problem, detail=None)
        self._send(Failure(id=identity, problem=problem))
        del self._owed[identity]
        return []

    def send_fatal(self, message: str) -> list[Event]:
        """Say why, then close."""
        if self.state is State.CLOSED:
            return []
        # Cut and cleaned rather than refused: these are our last words.
        message = message[:_MAX_LAST_WORDS].encode("utf-8", "replace").decode()
        self._send(Fatal(message=message))
        return self._end(message, fatal=True)

    def close(self, reason: str) -> list[Event]:
        """End the connection without telling the peer why."""
        return self._end(reason, fatal=False)

    def drain(self) -> list[Event]:
        """Take no new commands; the caller closes once ``owes`` is 0. Before the handshake: the end."""
        if self.state is State.HANDSHAKE:
            return self._end("closed before the handshake", fatal=False)
        self._move(Trigger.DRAIN)
        return []

    @property
    def owes(self) -> int:
        """Commands of the peer that still wait for our answer."""
        return len(self._owed)

    # --- inside

    def _over(self) -> bool:
        return self.state is State.CLOSED

    def _receive_line(self, line: bytes, now: float) -> list[Event]:
        value = loads(line, max_depth=self._limits.depth, max_values=self._limits.values)
        if self._tap is not None:
            self._tap(False, value)
        message = parse(value)
        self.unknown_members += unknown_members(value)
        if isinstance(message, Command):
            return self._receive_command(message, _memory_of(line))
        if isinstance(message, Fatal):
            return self._end(message.message, fatal=True)
        return self._receive_answer(message, now)

    def _receive_command(self, command: Command, memory: int) -> list[Event]:
        if command.id in self._owed:
            raise RemoteProtocolError("a command id is used again before its answer")
        if self.state is State.HANDSHAKE and command.method not in methods.UNAUTHENTICATED:
            raise RemoteProtocolError(f"{command.method} before the handshake")
        if command.method == methods.PING:
            self._echo(command)
            return []
        if command.method == methods.HANDSHAKE:
            if not self._may_shake_hands():
                self._refuse(command.id, "bad_state", "the handshake is done or under way")
                return []
            self._require_common_version(command.params.get("protocols"))
        if self.state is State.DRAINING:
            self._refuse(command.id, "draining", "this side is closing")
            return []
        owed = sum(waiting.memory for waiting in self._owed.values())
        if len(self._owed) >= self._limits.pending or owed + memory > self._limits.pending_memory:
            self._refuse(command.id, "busy", "too many commands wait for an answer")
            return []
        self._owed[command.id] = _Owed(command.method, memory)
        return [CommandReceived(id=command.id, method=command.method, params=command.params)]

    def _receive_answer(self, message: Success | Failure, now: float) -> list[Event]:
        pending = self._pending.pop(message.id, None)
        if pending is None:
            self.ignored += 1
            return []
        if pending.keepalive:
            return []
        if isinstance(message, Failure):
            answered = Answered(id=message.id, method=pending.method, problem=message.problem)
            if pending.method == methods.HANDSHAKE:
                return [answered, *self._end(message.problem.msg, fatal=True)]
            return [answered]
        events: list[Event] = []
        shaking = self.role is Role.AGENT and self.state is State.HANDSHAKE
        if shaking and pending.method == methods.HANDSHAKE:
            self._require_common_version([message.result.get("protocol", capabilities.PROTOCOLS[0])])
            self._agree(message.result)
            self._next_ping = now + self._ping_delay()
            events.append(Ready())
        events.append(Answered(id=message.id, method=pending.method, result=message.result))
        return events

    def _send_command(
        self, method: str, params: dict[str, Any], deadline: float, *, keepalive: bool = False
    ) -> str:
        self._next_id += 1
        identity = f"{self.role.value[0]}{self._next_id}"
        self._send(Command(id=identity, method=method, params=params))
        self._pending[identity] = _Pending(method, deadline, keepalive)
        return identity

    def _echo(self, ping: Command) -> None:
        try:
            self._send(Success(id=ping.id, result=ping.params))
        except UnsendableError:  # the peer may send longer lines than we may
            self._refuse(ping.id, "too_large", "the echo would be longer than a line may be")

    def _agree(self, welcome: Mapping[str, Any]) -> None:
        """The handshake is done, and ``welcome`` its result."""
        told = welcome.get("capabilities")
        names = [name for name in told if isinstance(name, str)] if isinstance(told, list) else []
        self.capabilities = frozenset(capabilities.agreed(names))
        self._move(Trigger.HANDSHAKE_DONE)

    def _require_common_version(self, protocols: Any) -> None:
        # Anything but a list is for the handshake's reader to refuse, by name.
        if isinstance(protocols, list) and capabilities.common_version(protocols) is None:
            raise RemoteProtocolError(capabilities.no_common_version())

    def _may_shake_hands(self) -> bool:
        shaking = any(waiting.method == methods.HANDSHAKE for waiting in self._owed.values())
        return self.state is State.HANDSHAKE and not shaking

    def _refuse(self, identity: str, code: str, msg: str) -> None:
        self._send(Failure(id=identity, problem=Problem(code=code, msg=msg)))

    def _owed_method(self, identity: str) -> str | None:
        if self.state is State.CLOSED:
            return None
        waiting = self._owed.get(identity)
        if waiting is None:
            raise LocalProtocolError(f"nothing is owed for id {identity}")
        return waiting.method

    def _send(self, message: Message) -> None:
        value = message.to_json()
        try:
            line = dumps(value, max_depth=self._limits.depth, max_values=self._limits.values)
        except JsonError as error:
            raise UnsendableError(str(error)) from None
        limit = self._line_limit(self.role)
        if len(line) > limit:
            raise UnsendableError(f"a message of {len(line)} bytes is over the limit of {limit}")
        if self._tap is not None:
            self._tap(True, value)
        self._out += line + b"\n"

    def _end(self, reason: str, *, fatal: bool) -> list[Event]:
        if self.state is State.CLOSED:
            return []
        self._move(Trigger.END)
        problem = Problem(code="connection_lost", msg=f"the connection ended: {reason}")
        events: list[Event] = [
            Answered(id=identity, method=pending.method, problem=problem)
            for identity, pending in self._pending.items()
            if not pending.keepalive
        ]
        self._pending.clear()
        self._owed.clear()
        return [*events, Closed(reason=reason, fatal=fatal)]

    def _move(self, trigger: Trigger) -> None:
        try:
            self.state = TRANSITIONS[(self.state, trigger)]
        except KeyError:
            raise LocalProtocolError(f"{trigger.value} in state {self.state.value}") from None

    def _other_role(self) -> Role:
        return Role.ENDPOINT if self.role is Role.AGENT else Role.AGENT

    def _line_limit(self, sender: Role) -> int:
        if self.state is State.HANDSHAKE:
            return self._limits.line_unauthenticated
        return self._limits.line_from_agent if sender is Role.AGENT else self._limits.line_from_endpoint

    def _ping_delay(self) -> float:
        spread = self._limits.ping_jitter * (2 * self._jitter() - 1)
        return self._limits.ping_interval * (1 + spread)

    def _silence(self) -> float:
        return self._limits.ping_interval * (1 + self._limits.ping_jitter) * self._limits.silent_pings

    def _silence_deadline(self) -> float:
        return self._heard + self._silence()


def _memory_of(line: bytes) -> int:
    """What a command may take in memory while it waits: CPython keeps a text that has one emoji in four bytes
    a letter, and each small value in about a hundred."""
    return 4 * len(line) + 100 * (line.count(b",") + line.count(b"[") + line.count(b"{"))
