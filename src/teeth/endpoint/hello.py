"""Who dials: an agent's handshake, read strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from teeth_protocol.errors import ProblemError
from teeth_protocol.fields import FieldError, Fields
from teeth_protocol.messages import valid_id

_MAX_MACS = 32
_MAX_TASKS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """A handshake's params, parsed. ``listed`` None: the agent does not say which tasks it has."""

    node_id: str
    agent: str
    token: str
    boot_id: str
    macs: tuple[str, ...]
    listed: frozenset[str] | None
    timings: Mapping[str, float]


def parse_hello(params: Mapping[str, Any]) -> Hello:
    """Raises ProblemError bad_params."""
    try:
        fields = Fields(params)
        node_id = fields.text("id", max_length=128)
        if not valid_id(node_id):
            raise FieldError("params.id: expected 1-128 of A-Z a-z 0-9 . _ : -")
        timings = fields.object("timings", optional=True)
        return Hello(
            node_id=node_id,
            agent=fields.text("version", "unknown", max_length=64),
            token=fields.text("token", max_length=128),
            boot_id=fields.text("boot_id", max_length=64),
            macs=tuple(mac.lower() for mac in fields.texts("macs", [], most=_MAX_MACS)),
            listed=_listed(fields) if "tasks" in fields else None,
            timings={}
            if timings is None
            else {name: float(timings.number(name)) for name in timings.names()},
        )
    except FieldError as error:
        raise ProblemError("bad_params", str(error)) from error


def _listed(fields: Fields) -> frozenset[str]:
    items = fields.items("tasks", most=_MAX_TASKS)
    return frozenset(
        Fields(item, f"params.tasks[{index}]").text("task_id", max_length=128)
        for index, item in enumerate(items)
    )
