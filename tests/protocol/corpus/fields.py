"""Wrong types in every field of every command: each member of good params, exchanged for every kind of value.

What must come of each is not written by hand: the method's published JSON Schema judges it.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jsonschema

from teeth.paths import find_checkout
from teeth_protocol.connection import Role

from .samples import ERASE, HELLO, PREPARE, RUN, STATUS

_LEFT_OUT = object()

# name -> what the member becomes
SUBSTITUTES: dict[str, Any] = {
    "left_out": _LEFT_OUT,
    "null": None,
    "true": True,
    "false": False,
    "zero": 0,
    "one": 1,
    "negative": -1,
    "largest_integer": 2**53,
    "real": 1.5,
    "tiny_real": 5e-324,
    "huge_real": 1e308,
    "empty_string": "",
    "string": "x",
    "number_as_string": "1",
    "control_letters": "\x1b[2J\n\x00",
    "letters": "\u202eé\U0001f600",
    "long_string": "x" * 2500,
    "empty_list": [],
    "list": ["x"],
    "list_of_null": [None],
    "long_list": [0] * 1100,
    "empty_object": {},
    "object": {"x": 1},
}


def _running(**members: Any) -> dict[str, Any]:
    return {name: STATUS[name] for name in ("task_id", "seq", "percent", "eta", "step", "fields")} | members


# name -> (method, who reads it, good params)
SAMPLES: dict[str, tuple[str, Role, dict[str, Any]]] = {
    "handshake": ("handshake", Role.ENDPOINT, HELLO),
    "task_status.running": ("task_status", Role.ENDPOINT, _running(state="running")),
    "task_status.phase": ("task_status", Role.ENDPOINT, _running(state="running", phase="prepared")),
    "task_status.error": (
        "task_status",
        Role.ENDPOINT,
        {"task_id": "t", "seq": 1, "state": "error", "code": "c", "msg": "m", "detail": {"units": []}},
    ),
    "task_status.complete": (
        "task_status",
        Role.ENDPOINT,
        {"task_id": "t", "seq": 1, "state": "complete", "percent": 100.0, "eta": 0, "result": {}},
    ),
    "enroll.first": (
        "enroll",
        Role.ENDPOINT,
        {
            "id": "n",
            "boot_id": "b",
            "macs": ["52:54:00:00:00:01"],
            "uuid": "4bc88484-0f0e-4c39-9f5b-0d3c8a1c2d11",
            "token": "t",
            "csr": "-----BEGIN CERTIFICATE REQUEST-----",
        },
    ),
    "enroll.time": ("enroll", Role.ENDPOINT, {"only": "time"}),
    "cancel_task": ("cancel_task", Role.AGENT, {"task_id": "t"}),
    "disk_erase": ("decom.disk_erase", Role.AGENT, {"task_id": "t", **ERASE}),
    "prepare_image": ("standbye.prepare_image", Role.AGENT, {"task_id": "t", **PREPARE}),
    "run_image": ("standbye.run_image", Role.AGENT, {"task_id": "t", **RUN}),
}
# Refused for what they mean, not for their kind: no schema says it.
STRICTER = frozenset(
    {
        "field.prepare_image:image.size.largest_integer",  # another size than raw_size, uncompressed
        "field.prepare_image:image.raw_size.largest_integer",
        "field.prepare_image:root_disk.empty_object",  # no hint at all would be any disk
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldCase:
    """``method`` with ``params`` of which one member is ``name``'s; ``good``: the schema takes them."""

    name: str
    method: str
    reader: Role
    params: dict[str, Any]
    good: bool

    @property
    def reason(self) -> str:
        return f"the member {self.name.partition(':')[2]}: {'allowed' if self.good else 'of the wrong kind'}"


def cases(reader: Role) -> Iterator[FieldCase]:
    """Every substitution in every member of every sample that this side reads."""
    for sample, (method, reads, params) in SAMPLES.items():
        if reads is not reader:
            continue
        valid = validator(method)
        assert valid(params), f"the sample {sample} is not good itself"
        yield FieldCase(name=f"field.{sample}:good", method=method, reader=reader, params=params, good=True)
        for path in _paths(params):
            for kind, value in SUBSTITUTES.items():
                changed = _with(params, path, value)
                name = f"field.{sample}:{'.'.join(map(str, path))}.{kind}"
                yield FieldCase(name=name, method=method, reader=reader, params=changed, good=valid(changed))


@functools.cache
def validator(method: str) -> Any:
    """Whether params of this method are what its published schema says."""
    path = find_checkout().root / "docs" / "schema" / f"{method}.params.json"
    return jsonschema.Draft202012Validator(json.loads(path.read_text(encoding="utf-8"))).is_valid


def _paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where every member is, objects and lists themselves too."""
    if path:
        yield path
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _paths(item, (*path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _paths(item, (*path, index))


def _with(params: dict[str, Any], path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(params)
    place: Any = changed
    for step in path[:-1]:
        place = place[step]
    if value is _LEFT_OUT:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return changed
