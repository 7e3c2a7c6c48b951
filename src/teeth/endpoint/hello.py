"""Who dials: an agent's handshake, read strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from teeth_protocol.capabilities import PROTOCOLS, agreed, common_version, no_common_version
from teeth_protocol.errors import ProblemError
from teeth_protocol.fields import FieldError
from teeth_protocol.shape import read
from teeth_protocol.wire.session import Handshake


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """A handshake's params, parsed. ``listed`` None: the agent does not say which tasks it has.

    ``methods`` None: it does not say which task methods it serves. ``capabilities``: those that this side has
    too; ``protocol``: the version that both speak.
    """

    node_id: str
    agent: str
    token: str | None
    boot_id: str
    macs: tuple[str, ...]
    listed: frozenset[str] | None
    timings: Mapping[str, float]
    protocol: str = PROTOCOLS[0]
    capabilities: tuple[str, ...] = ()
    methods: tuple[str, ...] | None = None


def parse_hello(params: Mapping[str, Any]) -> Hello:
    """Raises ProblemError bad_params, and no_common_version."""
    try:
        said = read(Handshake, params)
        return _hello(said)
    except FieldError as error:
        raise ProblemError("bad_params", str(error)) from error


def _hello(said: Handshake) -> Hello:
    if said.token is None or said.boot_id is None:
        raise FieldError(f"params.{'token' if said.token is None else 'boot_id'}: missing, expected a string")
    protocol = common_version(said.protocols)
    if protocol is None:
        raise ProblemError("no_common_version", no_common_version())
    return Hello(
        node_id=said.id,
        agent=said.version,
        token=said.token,
        boot_id=said.boot_id,
        macs=tuple(mac.lower() for mac in said.macs),
        listed=None if said.tasks is None else frozenset(task.task_id for task in said.tasks),
        timings=said.timings,
        protocol=protocol,
        capabilities=tuple(agreed(said.capabilities)),
        methods=said.methods,
    )
