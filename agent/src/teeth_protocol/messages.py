"""The four kinds of message, as frozen types, and their way from and to JSON objects."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from teeth_protocol.capabilities import PROTOCOLS, no_common_version
from teeth_protocol.errors import Problem, RemoteProtocolError

VERSION = PROTOCOLS[0]
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}\Z")
# Wider than any method we know: a name from another time is answered with an error, not with a hang-up.
METHOD_PATTERN = "[!-~]{1,128}"
_METHOD = re.compile(METHOD_PATTERN + r"\Z")
_MAX_TEXT = 4096  # of a human message; a longer one is cut, not refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    id: str
    method: str
    params: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"version": VERSION, "id": self.id, "method": self.method, "params": self.params}


@dataclass(frozen=True, slots=True, kw_only=True)
class Success:
    id: str
    result: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"version": VERSION, "id": self.id, "result": self.result}


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    id: str
    problem: Problem

    def to_json(self) -> dict[str, Any]:
        error: dict[str, Any] = {"msg": self.problem.msg, "code": self.problem.code}
        if self.problem.detail is not None:
            error["detail"] = self.problem.detail
        return {"version": VERSION, "id": self.id, "error": error}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fatal:
    message: str

    def to_json(self) -> dict[str, Any]:
        return {"version": VERSION, "fatal_error": self.message}


Message = Command | Success | Failure | Fatal
_MEMBERS = frozenset({"version", "id", "method", "params", "result", "error", "fatal_error"})
_ERROR_MEMBERS = frozenset({"msg", "code", "detail"})


def valid_id(text: str) -> bool:
    """Whether ``text`` may stand as a message or task id."""
    return _ID.match(text) is not None


def parse(value: dict[str, Any]) -> Message:
    """The message in a JSON object. Unknown members are ignored. Raises RemoteProtocolError."""
    if "fatal_error" in value:
        return Fatal(message=str(value["fatal_error"])[:_MAX_TEXT])
    version = value.get("version", VERSION)
    if version != VERSION:
        raise RemoteProtocolError(no_common_version())
    identity = value.get("id")
    if not isinstance(identity, str) or not valid_id(identity):
        raise RemoteProtocolError("a message without a valid id")
    kinds = [kind for kind in ("method", "result", "error") if kind in value]
    if len(kinds) != 1:
        raise RemoteProtocolError("a message needs exactly one of method, result and error")
    body = value[kinds[0]]
    if kinds[0] == "method":
        return _command(identity, body, value.get("params", {}))
    if not isinstance(body, dict):
        raise RemoteProtocolError(f"{kinds[0]} is not an object")
    if kinds[0] == "result":
        return Success(id=identity, result=body)
    return Failure(id=identity, problem=_problem(body))


def unknown_members(value: Mapping[str, Any]) -> int:
    """How many members of a message and of its error no one here knows: they are ignored."""
    error = value.get("error")
    inner = len(error.keys() - _ERROR_MEMBERS) if isinstance(error, dict) else 0
    return len(value.keys() - _MEMBERS) + inner


def _command(identity: str, method: Any, params: Any) -> Command:
    if not isinstance(method, str) or not _METHOD.match(method):
        raise RemoteProtocolError("a command without a valid method")
    if params is None:
        params = {}
    if not isinstance(params, dict):
        raise RemoteProtocolError("params is not an object")
    return Command(id=identity, method=method, params=params)


def _problem(body: dict[str, Any]) -> Problem:
    msg = body.get("msg")
    code = body.get("code", "unspecified")
    detail = body.get("detail")
    return Problem(
        code=code[:128] if isinstance(code, str) and code else "unspecified",
        msg=msg[:_MAX_TEXT] if isinstance(msg, str) else "no message given",
        detail=detail if isinstance(detail, dict) else None,
    )
