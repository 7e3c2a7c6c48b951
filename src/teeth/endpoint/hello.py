"""Who dials: an agent's handshake, read strictly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from teeth_protocol.capabilities import PROTOCOLS, agreed, common_version, no_common_version
from teeth_protocol.errors import ProblemError
from teeth_protocol.fields import FieldError
from teeth_protocol.shape import read
from teeth_protocol.wire.session import Handshake

_PLAIN_BOOT = "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """A handshake's params, parsed. ``listed`` None: the agent does not say which tasks it has.

    ``methods`` None: it does not say which task methods it serves. ``capabilities``: those that this side has
    too; ``protocol``: the version that both speak. ``plain``: it came over the plain-text listener,
    perhaps from a client that knows only the seed.
    """

    node_id: str
    agent: str
    boot_id: str
    macs: tuple[str, ...]
    listed: frozenset[str] | None
    timings: Mapping[str, float]
    protocol: str = PROTOCOLS[0]
    capabilities: tuple[str, ...] = ()
    methods: tuple[str, ...] | None = None
    ramdisk: str | None = None
    plain: bool = False


def parse_hello(params: Mapping[str, Any], *, plain: bool = False) -> Hello:
    """Raises ProblemError bad_params, and no_common_version."""
    try:
        said = read(Handshake, params)
        return _hello(said, plain)
    except FieldError as error:
        raise ProblemError("bad_params", str(error)) from error


def _hello(said: Handshake, plain: bool) -> Hello:
    boot_id = said.boot_id or (_PLAIN_BOOT if plain else None)
    if boot_id is None:
        raise FieldError("params.boot_id: missing, expected a string")
    protocol = common_version(said.protocols)
    if protocol is None:
        raise ProblemError("no_common_version", no_common_version())
    return Hello(
        node_id=said.id,
        agent=said.version,
        boot_id=boot_id,
        macs=normal_macs(said.macs),
        listed=None if said.tasks is None else frozenset(task.task_id for task in said.tasks),
        timings=said.timings,
        protocol=protocol,
        capabilities=tuple(agreed(said.capabilities)),
        methods=said.methods,
        ramdisk=said.ramdisk,
        plain=plain,
    )


def normal_macs(macs: Sequence[str]) -> tuple[str, ...]:
    """Addresses as the endpoint keeps and compares them: in lower case, with colons."""
    return tuple(mac.lower().replace("-", ":") for mac in macs)
