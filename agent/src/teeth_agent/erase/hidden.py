"""Areas of a unit that no block device shows (E6): what the drive's answers mean. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from teeth_agent.drives.ata_areas import Areas
from teeth_agent.drives.nvmedata import Controller


class State(Enum):
    NONE = "none"
    FOUND = "found"
    UNKNOWN = "unknown"
    NOT_APPLICABLE = "not_applicable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hidden:
    """What was found out about hidden areas; ``reason`` says how, or why there is nothing to look at.

    ``sanitized``: a sanitize reaches there all the same.
    """

    state: State
    reason: str
    sanitized: bool = False

    @property
    def holds(self) -> bool:
        return self.state in (State.NONE, State.NOT_APPLICABLE)

    def after_sanitize(self) -> Hidden:
        """The same, when all of the drive was sanitized, what nobody can address with it."""
        if not self.sanitized:
            return self
        reason = f"{self.reason}; a sanitize reaches there all the same"
        return Hidden(state=State.NONE, reason=reason)

    def to_json(self) -> dict[str, Any]:
        return {"state": self.state.value, "reason": self.reason}


NOT_APPLICABLE = {
    "virtio": "a virtual disk ends where its host ends it",
    "xen": "a virtual disk ends where its host ends it",
    "mmc": "boot and general purpose areas are block devices of their own, each judged as a unit",
    "sd": "the card's protected area cannot be reached through the block layer",
    "pmem": "the label area is not part of the data",
}


def judge_nvme(ours: Collection[int | None], controller: Controller, listed: Sequence[int]) -> Hidden:
    """Every namespace that the drive lists must be one of ``ours``, and no capacity may be unallocated."""
    foreign = [namespace for namespace in listed if namespace not in ours]
    if foreign:
        return Hidden(state=State.FOUND, reason=f"namespaces without a block device: {foreign[:16]}")
    if controller.unvmcap:
        reason = f"{controller.unvmcap} bytes belong to no namespace"
        return Hidden(state=State.FOUND, reason=reason, sanitized=True)
    return Hidden(state=State.NONE, reason=f"namespaces {list(listed)} all erased, no unallocated capacity")


def judge_ata(areas: Areas) -> Hidden:
    """Every sector must be accessible, and the drive must say so.

    Firmware often freezes the configuration overlay, and then nobody learns what is behind it; a sanitize
    erases there all the same.
    """
    if areas.hidden is None:
        beyond = areas.native is not None and areas.native == areas.accessible
        reason = f"the drive does not tell where it ends: {areas.unknown or areas.to_json()}"
        return Hidden(state=State.UNKNOWN, reason=reason, sanitized=beyond)
    if areas.hidden:
        reason = f"{areas.accessible} of {areas.overlay} sectors are accessible"
        return Hidden(state=State.FOUND, reason=reason)
    return Hidden(state=State.NONE, reason=f"all {areas.accessible} sectors are accessible")
