"""Two kinds of protocol error, and the problem record that stands on the wire."""

from __future__ import annotations

from dataclasses import dataclass


class ProtocolError(Exception):
    """Something about the conversation itself is wrong."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the protocol: the connection ends with a fatal_error carrying this message."""


class LocalProtocolError(ProtocolError):
    """Our own side asked for something that the connection's state does not allow: a bug here."""


class UnsendableError(LocalProtocolError):
    """A message that the peer would have to refuse: too long, too deep, or not JSON. Nothing was sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """The ``error`` member of an error response: a stable code for programs, a message for people."""

    code: str
    msg: str
    detail: dict[str, object] | None = None


class ProblemError(Exception):
    """Raised by a command's handler to answer with an error response instead of a result."""

    def __init__(self, code: str, msg: str, *, detail: dict[str, object] | None = None) -> None:
        super().__init__(msg)
        self.problem = Problem(code=code, msg=msg, detail=detail)
