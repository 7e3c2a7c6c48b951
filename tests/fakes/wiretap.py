"""Listens to every connection of this process and holds what is said against the published schemas."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fakes.schemas import validator
from teeth_protocol.connection import Connection, Role
from teeth_protocol.methods import METHODS
from teeth_protocol.shape import schema
from teeth_protocol.wire.catalogue import SHAPES
from teeth_protocol.wire.envelope import envelope


@functools.cache
def validators() -> Mapping[str, Any]:
    """By "message", "METHOD.params", "METHOD.result" and "METHOD.outcome"."""
    found = {"message": validator(envelope())}
    for name, shapes in SHAPES.items():
        for part in ("params", "result", "outcome"):
            if (shaped := getattr(shapes, part)) is not None:
                found[f"{name}.{part}"] = validator(schema(shaped))
    return found


def valid(what: str, value: Any) -> Any:
    """``value``, which is what the schema says; else the test fails."""
    listening = Wiretap()
    listening.judge(what, value)
    assert listening.wrong == []
    return value


@dataclass
class Wiretap:
    """What was said, and what of it breaks a schema.

    ``roles``: whose words are judged. ``outcomes``: whether those of tasks are: not where the test makes the
    task up itself.
    """

    roles: set[Role] = field(default_factory=lambda: set(Role))
    outcomes: bool = False
    heard: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    _tasks: dict[str, str] = field(default_factory=dict)

    def judge(self, what: str, value: Any) -> None:
        self.heard[what] = self.heard.get(what, 0) + 1
        # As it goes over the wire: a tuple of ours is a list there.
        for error in validators()[what].iter_errors(json.loads(json.dumps(value))):
            path = "".join(f"[{step!r}]" for step in error.absolute_path)
            self.wrong.append(f"{what}{path}: {error.message[:300]}")

    def listen(self, connection: Connection) -> None:
        """Put itself beside whatever listens to ``connection`` already."""
        asked: dict[str, str] = {}
        before = connection._tap

        def tap(outgoing: bool, message: Mapping[str, Any]) -> None:
            if before is not None:
                before(outgoing, message)
            if not outgoing:
                if "method" in message:
                    asked[message["id"]] = message["method"]
            elif connection.role in self.roles:
                self._said(message, asked)

        connection._tap = tap

    def _said(self, message: Mapping[str, Any], asked: Mapping[str, str]) -> None:
        self.judge("message", message)
        method = message.get("method") or asked.get(message.get("id", ""), "")
        if method not in METHODS:
            return
        if "method" in message:
            params = message.get("params") or {}
            self.judge(f"{method}.params", params)
            if METHODS[method].task:
                self._tasks[params.get("task_id", "")] = method
            if method == "task_status":
                self._ended(params)
        elif "result" in message:
            self.judge(f"{method}.result", message["result"])

    def _ended(self, status: Mapping[str, Any]) -> None:
        """A task's last status carries what its method's outcome is."""
        of = self._tasks.get(status["task_id"], "")
        if self.outcomes and status["state"] == "complete" and of in METHODS:
            self.judge(f"{of}.outcome", status.get("result"))
