"""What is reported of each unit, failures too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from teeth_agent.erase.canary import SecondLook
from teeth_agent.erase.examine import Examination
from teeth_agent.erase.expect import ReadProof
from teeth_agent.erase.hidden import Hidden
from teeth_agent.erase.kernellog import Window
from teeth_agent.erase.model import Grade, Outcome, Rung, Unit
from teeth_agent.erase.plan import UnitPlan, describe
from teeth_agent.erase.protect import Action


@dataclass(slots=True, kw_only=True)
class Proof:
    """The six proofs, each None until it has been looked at. Filled in by one unit's thread alone.

    ``completed``: the method ended as the device itself says it should; ``canaries`` counts those planted in
    the rung that counts, ``survived`` those that could still be read after it, by any path. ``before`` and
    ``after``: what the drive said of itself.
    """

    identity: bool | None = None
    completed: bool | None = None
    device_status: dict[str, Any] = field(default_factory=dict)
    canaries: int = 0
    survived: int | None = None
    readbacks: list[ReadProof] = field(default_factory=list)
    second_looks: list[SecondLook] = field(default_factory=list)
    before: Examination | None = None
    after: Examination | None = None
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
            found.append(("not_zero", _what_was_read(self.readbacks)))
        returned = [place for look in self.second_looks for place in look.returned]
        if returned or len(self.second_looks) < extents:
            words = f"old content came back at byte {returned[0]}" if returned else "not looked at again"
            found.append(("content_returned", words))
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
            "canaries": {
                "count": self.canaries,
                "survived": self.survived,
                "second_looks": [look.to_json() for look in self.second_looks],
            },
            "readback": {
                "kind": read[0]["kind"] if read else None,
                "expected": read[0]["expected"] if read else None,
                "bytes": sum(one["bytes"] for one in read),
                "mismatches": sum(one["mismatches"] for one in read),
                "extents": read,
            },
            "kernel_log": self.kernel_log.to_json() if self.kernel_log else None,
            "hidden_areas": self.hidden.to_json() if self.hidden else None,
            "before": self.before.to_json() if self.before else None,
            "after": self.after.to_json() if self.after else None,
        }


def _what_was_read(readbacks: Sequence[ReadProof]) -> str:
    places = [place for one in readbacks if (place := one.to_json()["first_mismatch"]) is not None]
    return f"data at byte {places[0]}" if places else "not read back whole"


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
    recovered: Sequence[Mapping[str, Any]] = ()
    noted: Sequence[str] = ()
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
            "recovered": [dict(found) for found in self.recovered],
            "noted": list(self.noted),
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
