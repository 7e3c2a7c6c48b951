"""What is reported of each unit, failures too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from teeth_agent.erase.hidden import Hidden
from teeth_agent.erase.kernellog import Window
from teeth_agent.erase.model import Grade, Outcome, Rung, Unit
from teeth_agent.erase.plan import UnitPlan, describe
from teeth_agent.erase.protect import Action
from teeth_agent.erase.readback import Readback


@dataclass(slots=True, kw_only=True)
class Proof:
    """The six proofs, each None until it has been looked at. Filled in by one unit's thread alone.

    ``completed``: the method ended as the device itself says it should; ``canaries`` counts those planted in
    the rung that counts, ``survived`` those that could still be read after it.
    """

    identity: bool | None = None
    completed: bool | None = None
    device_status: dict[str, Any] = field(default_factory=dict)
    canaries: int = 0
    survived: int | None = None
    readbacks: list[Readback] = field(default_factory=list)
    kernel_log: Window | None = None
    hidden: Hidden | None = None
    changes: list[str] = field(default_factory=list)
    stale_partitions: tuple[str, ...] = ()

    def missing(self, extents: int) -> list[tuple[str, str]]:
        """(code, reason) of every proof that does not hold; empty only if all six do."""
        found: list[tuple[str, str]] = []
        if self.identity is not True:
            found.append(("identity_changed", "; ".join(self.changes) or "the drive was not looked at again"))
        if self.completed is not True:
            found.append(("not_completed", "the device did not confirm the erase"))
        if self.canaries == 0 or self.survived != 0:
            found.append(
                ("canary_survived", f"{self.survived} of {self.canaries} canaries can still be read")
            )
        if len(self.readbacks) != extents or not all(readback.holds for readback in self.readbacks):
            places = [readback.mismatch for readback in self.readbacks if readback.mismatch is not None]
            found.append(("not_zero", f"data at byte {places[0]}" if places else "not read back whole"))
        if self.kernel_log is None or not self.kernel_log.holds:
            lines = self.kernel_log.lines if self.kernel_log else ()
            found.append(
                ("kernel_log", f"the kernel said: {lines[0]}")
                if lines
                else ("kernel_log_incomplete", "the kernel's log could not be read without a gap")
            )
        if self.hidden is None or not self.hidden.holds:
            found.append(("hidden_area", self.hidden.reason if self.hidden else "not looked for"))
        if self.stale_partitions:
            found.append(("stale_partitions", f"the kernel still has {', '.join(self.stale_partitions)}"))
        return found

    def to_json(self) -> dict[str, Any]:
        read = [readback.to_json() for readback in self.readbacks]
        return {
            "identity": {"unchanged": self.identity, "changes": self.changes},
            "device_status": {"completed": self.completed, **self.device_status},
            "canaries": {"count": self.canaries, "survived": self.survived},
            "readback": {
                "kind": read[0]["kind"] if read else None,
                "bytes": sum(one["bytes"] for one in read),
                "mismatches": sum(one["mismatches"] for one in read),
                "extents": read,
            },
            "kernel_log": self.kernel_log.to_json() if self.kernel_log else None,
            "hidden_areas": self.hidden.to_json() if self.hidden else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRecord:
    """How one unit ended. ``unit`` is None for a drive that was expected and is not there."""

    unit: Unit | None
    name: str
    outcome: Outcome
    rung: Rung | None = None
    grade: Grade | None = None
    code: str = ""
    reason: str = ""
    seconds: float = 0.0
    proof: Proof | None = None
    attempts: Sequence[Mapping[str, Any]] = ()
    commands: Sequence[str] = ()
    known_zero: bool = False

    def satisfies(self, required: Grade) -> bool:
        if self.outcome is Outcome.EXCLUDED:
            return True
        reached = self.outcome.grade
        return reached is not None and reached.reaches(required)

    def to_json(self) -> dict[str, Any]:
        nobody = {"serial": self.name, "wwn": None, "model": None, "transport": None, "size": None}
        return {
            **(describe(self.unit) if self.unit else nobody),
            "devices": [medium.name for medium in self.unit.media] if self.unit else [],
            "outcome": self.outcome.value,
            "method": self.rung.name if self.rung else None,
            "grade": self.grade.value if self.grade else None,
            "code": self.code,
            "reason": self.reason,
            "seconds": round(self.seconds, 1),
            "proof": self.proof.to_json() if self.proof else None,
            "attempts": [dict(attempt) for attempt in self.attempts],
            "commands": list(self.commands),
        }


_OUTCOMES = {
    Action.EXCLUDE: Outcome.EXCLUDED,
    Action.REFUSE: Outcome.FAILED,
    Action.LOCKED: Outcome.LOCKED,
}


def untouched(plan: UnitPlan) -> UnitRecord:
    """The record of a unit that the plan leaves alone."""
    return UnitRecord(
        unit=plan.unit, name=plan.unit.key, outcome=_OUTCOMES[plan.action], code=plan.code, reason=plan.reason
    )


def late(plan: UnitPlan) -> UnitRecord:
    """The record of a unit that came after the plan was made: nobody erased it."""
    if plan.action is not Action.ERASE:
        return untouched(plan)
    reason = "it came while the others were being erased: run the erase again"
    return UnitRecord(
        unit=plan.unit, name=plan.unit.key, outcome=Outcome.FAILED, code="appeared_late", reason=reason
    )


def absent(name: str, code: str, reason: str) -> UnitRecord:
    """The record of something that should be a unit here and is not."""
    return UnitRecord(unit=None, name=name, outcome=Outcome.FAILED, code=code, reason=reason)
