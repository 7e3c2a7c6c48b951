"""Areas of a unit that no block device shows (E6): what the drive's answers mean. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from teeth_agent.drives.nvmedata import Controller


class State(Enum):
    NONE = "none"
    FOUND = "found"
    UNKNOWN = "unknown"
    NOT_APPLICABLE = "not_applicable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hidden:
    """What was found out about hidden areas; ``reason`` says how, or why there is nothing to look at.

    ``unallocated``: bytes that belong to no namespace. Only a sanitize reaches them.
    """

    state: State
    reason: str
    unallocated: int = 0

    @property
    def holds(self) -> bool:
        return self.state in (State.NONE, State.NOT_APPLICABLE)

    def after_sanitize(self) -> Hidden:
        """The same, when the whole subsystem was sanitized, what belongs to no namespace with it."""
        if not self.unallocated:
            return self
        reason = f"{self.reason}; a sanitize reaches them all the same"
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
        return Hidden(state=State.FOUND, reason=reason, unallocated=controller.unvmcap)
    return Hidden(state=State.NONE, reason=f"namespaces {list(listed)} all erased, no unallocated capacity")


def judge_ata(accessible: int, ends: Mapping[str, int | None]) -> Hidden:
    """``accessible`` sectors must be all. ``ends``: how many there are, by each way of hiding some that the
    drive has; None where it did not tell."""
    if not ends:
        reason = "the drive has no feature that hides sectors behind a maximum address"
        return Hidden(state=State.NOT_APPLICABLE, reason=reason)
    more = [
        f"{name}: {accessible} of {count} sectors"
        for name, count in ends.items()
        if count and count > accessible
    ]
    if more:
        return Hidden(state=State.FOUND, reason="; ".join(more))
    silent = [name for name, count in ends.items() if count is None]
    if silent:
        return Hidden(
            state=State.UNKNOWN, reason=f"the drive does not tell where it ends: {', '.join(silent)}"
        )
    return Hidden(state=State.NONE, reason=f"all {accessible} sectors are accessible")
