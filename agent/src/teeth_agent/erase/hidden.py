"""Areas of a unit that no block device shows (E6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from teeth_agent.erase.model import Unit
from teeth_agent.errors import AgentError
from teeth_agent.tools import hdparm, nvme


class State(Enum):
    NONE = "none"
    FOUND = "found"
    UNKNOWN = "unknown"
    NOT_APPLICABLE = "not_applicable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hidden:
    """What was found out about hidden areas; ``reason`` says how, or why there is nothing to look at."""

    state: State
    reason: str

    @property
    def holds(self) -> bool:
        return self.state in (State.NONE, State.NOT_APPLICABLE)

    def to_json(self) -> dict[str, Any]:
        return {"state": self.state.value, "reason": self.reason}


_NOT_APPLICABLE = {
    "virtio": "a virtual disk ends where its host ends it",
    "xen": "a virtual disk ends where its host ends it",
    "mmc": "boot and general purpose areas are block devices of their own, each judged as a unit",
    "sd": "the card's protected area cannot be reached through the block layer",
    "pmem": "the label area is not part of the data",
}


def look(unit: Unit) -> Hidden:
    """Look for hidden areas as the transport allows. Never raises: what cannot be read is unknown."""
    try:
        if unit.first.controller is not None:
            return _look_nvme(unit, unit.first.controller)
        if unit.first.speaks_ata:
            return _look_ata(unit)
    except AgentError as error:
        return Hidden(state=State.UNKNOWN, reason=str(error))
    reason = _NOT_APPLICABLE.get(
        unit.first.transport, f"there is no host protected area to be asked for over {unit.first.transport}"
    )
    return Hidden(state=State.NOT_APPLICABLE, reason=reason)


def _look_nvme(unit: Unit, name: str) -> Hidden:
    controller = nvme.identify(name)
    # Only a controller that manages namespaces can have detached ones, and knows the list of allocated ones.
    listed = nvme.list_namespaces(name, allocated=controller.manages_namespaces)
    return judge_nvme(unit, controller, listed)


def judge_nvme(unit: Unit, controller: nvme.Controller, listed: tuple[int, ...]) -> Hidden:
    """Every namespace that the drive lists must be one of the unit's, and no capacity may be unallocated."""
    ours = {extent.medium.namespace for extent in unit.extents}
    foreign = [namespace for namespace in listed if namespace not in ours]
    if foreign:
        return Hidden(state=State.FOUND, reason=f"namespaces without a block device: {foreign[:16]}")
    if controller.unallocated_capacity:
        reason = f"{controller.unallocated_capacity} bytes belong to no namespace"
        return Hidden(state=State.FOUND, reason=reason)
    return Hidden(state=State.NONE, reason=f"namespaces {list(listed)} all erased, no unallocated capacity")


def _look_ata(unit: Unit) -> Hidden:
    devnode = unit.first.devnode
    return judge_ata(hdparm.max_sectors(devnode), lambda: hdparm.identify(devnode))


def judge_ata(sectors: hdparm.MaxSectors, identify: Callable[[], hdparm.Identity]) -> Hidden:
    """The native maximum address must be the accessible one."""
    if sectors.native is not None and sectors.accessible is not None:
        if sectors.native == sectors.accessible:
            return Hidden(state=State.NONE, reason=f"all {sectors.native} sectors are accessible")
        reason = f"{sectors.accessible} of {sectors.native} sectors are accessible"
        return Hidden(state=State.FOUND, reason=reason)
    identity = identify()
    if identity.answered and not identity.has_hpa:
        reason = "the drive has no feature that hides sectors behind a maximum address"
        return Hidden(state=State.NOT_APPLICABLE, reason=reason)
    return Hidden(state=State.UNKNOWN, reason="the drive does not tell its native maximum address")
