"""What a case of the bad-input corpus is, and the short words in which the tables write one.

A case is bytes that a peer sends at one stage of a connection, and what must come of them. The numbers in the
tables are the bounds of the protocol's page, written out: a bound that moves in the code must fail here.
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field
from typing import Any

from teeth_protocol.connection import Role

LINE_BEFORE = 4 << 10
LINE_FROM_AGENT = 256 << 10
LINE_FROM_ENDPOINT = 1 << 20
DEPTH = 16
VALUES = 10_000
ID_LENGTH = 128
PENDING = 256
INTEGER = 2**53

ANY = "*"  # the answer may be a result or any error: which one is not the wire's affair
RESULT = ""


class Stage(enum.Enum):
    """Where the connection stands when the bytes come."""

    BEFORE = "before"  # the handshake is not done; an agent has sent its own, with the id a1
    AFTER = "after"  # it is done; an endpoint has asked for the inventory (e1), an agent has sent a log (a2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """``reader`` is the side that must bear it. All of what follows is what must come.

    ``fatal``: words of the fatal_error; None when the connection lives on. ``answers``: id -> code (RESULT,
    ANY or an error code) of every answer, empty when it ends. ``handled``: ids that reach a handler, which
    decides their code. ``resolves``: our own commands that these bytes answer, id -> code. ``ignored``:
    answers to nothing. ``waits``: the last line is not whole. ``peer_fatal``: the peer itself ends it.
    ``racy``: over a real socket it depends on timing which of the answers come before the end.
    """

    name: str
    reason: str
    reader: Role
    stage: Stage
    data: bytes
    fatal: str | None = None
    answers: dict[str, str] = field(default_factory=dict)
    handled: frozenset[str] = frozenset()
    resolves: dict[str, str] = field(default_factory=dict)
    ignored: int = 0
    waits: bool = False
    peer_fatal: bool = False
    racy: bool = False

    @property
    def ends(self) -> bool:
        return self.fatal is not None or self.peer_fatal


def text(value: Any) -> bytes:
    """A JSON value as most writers write it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def line(*members: tuple[str, bytes]) -> bytes:
    """An object of raw members (a name may stand twice), with its line end."""
    return b"{" + b",".join(text(name) + b":" + value for name, value in members) + b"}\n"


def command(method: str, params: bytes | None = b"{}", *, id: str = "c1") -> bytes:
    """A command with raw params."""
    head = [("version", b'"v1"'), ("id", text(id)), ("method", text(method))]
    return line(*head) if params is None else line(*head, ("params", params))


def ping(value: bytes, *, id: str = "c1") -> bytes:
    """A ping that carries one raw JSON value, so that every reader gets to see it."""
    return command("ping", b'{"x":' + value + b"}", id=id)


def sized(size: int, method: str = "ping", *, id: str = "c1", letter: bytes = b"x") -> bytes:
    """A command whose line is ``size`` bytes long without its newline."""
    empty = command(method, b'{"x":""}', id=id)
    return command(method, b'{"x":"' + letter * (size + 1 - len(empty)) + b'"}', id=id)


def nested(depth: int, *, lists: bool = False) -> bytes:
    """A value ``depth`` deep in itself."""
    return b"[" * depth + b"]" * depth if lists else b'{"d":' * depth + b"1" + b"}" * depth
