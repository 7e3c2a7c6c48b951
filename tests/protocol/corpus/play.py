"""Plays a case against the sans-IO Connection, cut into pieces in whatever way, and says what came of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from teeth_protocol.connection import Answered, Closed, CommandReceived, Connection, Event, Role, State
from teeth_protocol.errors import Problem
from teeth_protocol.limits import Limits
from teeth_protocol.strictjson import loads

from .case import ANY, RESULT, Case, Stage, command, line

CUT_EVERYWHERE = 640  # a case up to this size is cut at every position, and fed byte by byte
_LOST = "connection_lost"


@dataclass(slots=True)
class Outcome:
    """What came of a case. ``answers``: (id, code) in the order in which they were written."""

    fatal: str | None = None
    closed: bool = False
    peer_fatal: bool = False
    answers: list[tuple[str, str]] = field(default_factory=list)
    delivered: list[tuple[str, str, str]] = field(default_factory=list)
    resolved: list[tuple[str, str]] = field(default_factory=list)
    ignored: int = 0
    waits: bool = False


# The handshake may take as long as it likes, so that a line's own deadline can be seen.
_PATIENT = Limits(handshake_timeout=12.0)


def opened(case: Case, *, limits: Limits = _PATIENT) -> Connection:
    """A connection at the case's stage, its own commands sent."""
    connection = Connection(case.reader, 0.0, limits=limits)
    if case.reader is Role.AGENT:
        connection.send_command("handshake", {}, 0.0)
        if case.stage is Stage.AFTER:
            connection.receive_data(line(("id", b'"a1"'), ("result", b"{}")), 0.0)
            connection.send_command("log", {}, 0.0)
    elif case.stage is Stage.AFTER:
        (event,) = connection.receive_data(command("handshake", id="a1"), 0.0)
        assert isinstance(event, CommandReceived)
        connection.send_result(event.id, {})
        connection.send_command("inventory", {}, 0.0)
    connection.data_to_send()
    return connection


def play(case: Case, pieces: Iterable[bytes]) -> Outcome:
    """Feed the pieces, then answer what was asked as the case says its handler would."""
    connection, outcome = opened(case), Outcome()
    for piece in pieces:
        _note(outcome, connection.receive_data(piece, 0.0))
    for identity, method, _ in list(outcome.delivered):
        code = case.answers.get(identity, RESULT)
        if connection.state is State.CLOSED:
            break
        if code in (RESULT, ANY) or identity not in case.handled:
            _note(outcome, connection.send_result(identity, {}))
        else:
            _note(outcome, connection.send_problem(identity, Problem(code=code, msg=f"{method}: no")))
    _read_answers(outcome, connection.data_to_send())
    outcome.ignored = connection.ignored
    outcome.closed = connection.state is State.CLOSED
    # What waits for its end is told from outside: only such a line has a deadline of ten seconds.
    if not outcome.closed:
        assert connection.tick(9.9) == []
        outcome.waits = any(isinstance(event, Closed) for event in connection.tick(10.0))
    return outcome


def cuts(data: bytes, *, everywhere: int = CUT_EVERYWHERE, step: int = 1) -> Iterator[list[bytes]]:
    """Byte by byte, and in two at every position (at many, where it is longer than ``everywhere``).

    ``step``: only at every so many.
    """
    if len(data) <= everywhere:
        yield [data[at : at + 1] for at in range(len(data))]
        positions: Iterable[int] = range(1, len(data), step)
    else:
        edge = 96
        head, tail = data[:edge], data[-edge:]
        yield [*_bytes(head), data[edge:-edge], *_bytes(tail)]
        yield [data[at : at + 4093] for at in range(0, len(data), 4093)]
        ends = [at + step for at in range(len(data)) if data[at] == 10 for step in (0, 1)][:32]
        positions = sorted({1, 2, 4096, 4097, len(data) // 2, len(data) - 2, len(data) - 1, *ends})
    for at in positions:
        if 0 < at < len(data):
            yield [data[:at], data[at:]]


def _bytes(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def _note(outcome: Outcome, events: list[Event]) -> None:
    for event in events:
        if isinstance(event, CommandReceived):
            outcome.delivered.append((event.id, event.method, json.dumps(event.params)))
        elif isinstance(event, Answered):
            code = RESULT if event.problem is None else event.problem.code
            outcome.resolved.append((event.id, code))
        elif isinstance(event, Closed):
            outcome.peer_fatal = event.fatal
            outcome.closed = True


def _read_answers(outcome: Outcome, sent: bytes) -> None:
    for one in sent.splitlines():
        message: dict[str, Any] = loads(one)
        if "fatal_error" in message:
            outcome.fatal = message["fatal_error"]
            outcome.peer_fatal = False
        else:
            outcome.answers.append((message["id"], message.get("error", {}).get("code", RESULT)))
