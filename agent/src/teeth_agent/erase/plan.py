"""What would be done to each unit, and why: pure, from facts to a plan."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from teeth_agent.erase.capabilities import UnitKind, kind_of
from teeth_agent.erase.estimate import estimate
from teeth_agent.erase.ladder import PassedOver, make_ladder
from teeth_agent.erase.model import Medium, Rung, Unit, group_units
from teeth_agent.erase.policy import Policy
from teeth_agent.erase.protect import Action, Facts, protect

# What is known of a unit nobody could ask.
_NOTHING = Facts()


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """What was found out about each unit, by the name of its first medium."""

    facts: Mapping[str, Facts] = field(default_factory=dict)

    def of(self, unit: Unit) -> Facts:
        return self.facts.get(unit.first.name, _NOTHING)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitPlan:
    """``rungs``: the ladder, best first; empty, with ``code`` and ``reason``, unless to ERASE.

    ``passed_over``: rungs that are not climbed, and why; ``noted``: what is erased all the same and must be
    told of; ``seconds``: how long the first rung takes, None when nobody knows.
    """

    unit: Unit
    kind: UnitKind
    action: Action
    rungs: tuple[Rung, ...] = ()
    passed_over: tuple[PassedOver, ...] = ()
    noted: tuple[str, ...] = ()
    seconds: float | None = None
    code: str = ""
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            **describe(self.unit),
            "kind": self.kind.value,
            "devices": [
                {
                    "name": medium.name,
                    "size": medium.size,
                    "namespace": medium.namespace,
                    "seq": medium.diskseq,
                }
                for medium in self.unit.media
            ],
            "action": self.action.value,
            "methods": [{"method": rung.name, "grade": rung.grade.value} for rung in self.rungs],
            "passed_over": [{"method": over.name, "reason": over.reason} for over in self.passed_over],
            "noted": list(self.noted),
            "seconds": None if self.seconds is None else round(self.seconds),
            "code": self.code,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """An assembled device that is taken apart before anything is erased. ``label``: device mapper's name."""

    name: str
    label: str | None

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "label": self.label}


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasePlan:
    """``out_of_scope``: (name, reason) of what is no drive; ``unaccounted``: controllers that hide theirs.

    ``missing``: names that the command wants erased and no drive bears; ``unspared``: those that it wants
    left alone and no drive bears. ``stops``: what is taken apart first, in this order; the units are planned
    as they will be then, so that the plan is the same before and after.
    """

    policy: Policy
    units: tuple[UnitPlan, ...]
    missing: tuple[str, ...]
    unspared: tuple[str, ...]
    unaccounted: tuple[str, ...]
    out_of_scope: tuple[tuple[str, str], ...]
    stops: tuple[Stop, ...] = ()

    @property
    def digest(self) -> str:
        """Of everything that the plan says: a machine that changed gives another one."""
        text = json.dumps(self._facts(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    def to_json(self) -> dict[str, Any]:
        return {**self._facts(), "digest": self.digest}

    def _facts(self) -> dict[str, Any]:
        return {
            "units": [unit.to_json() for unit in self.units],
            "missing": list(self.missing),
            "unspared": list(self.unspared),
            "unaccounted": list(self.unaccounted),
            "out_of_scope": [{"name": name, "reason": reason} for name, reason in self.out_of_scope],
            "stops": [stop.to_json() for stop in self.stops],
            "required_grade": self.policy.required.value,
            "verification": self.policy.verification.value,
            "fallback": self.policy.fallback,
        }


def describe(unit: Unit) -> dict[str, Any]:
    """How a unit is named on the wire, in plans and records alike."""
    first = unit.first
    return {
        "serial": first.serial,
        "wwn": first.wwn,
        "model": first.model,
        "transport": first.transport,
        "size": unit.size,
    }


def plan_erase(
    media: tuple[Medium, ...], policy: Policy, probes: Probes, unaccounted: tuple[str, ...] = ()
) -> ErasePlan:
    """Decide for every block device of the machine. Pure: touches nothing, asks nothing."""
    drives = tuple(medium for medium in media if medium.out_of_scope is None)
    units = group_units(drives)
    expected = policy.expected or frozenset()
    return ErasePlan(
        policy=policy,
        units=tuple(_plan_unit(unit, policy, probes.of(unit)) for unit in units),
        missing=_strangers(expected | policy.allow, units),
        unspared=_strangers(policy.exclude, units),
        unaccounted=unaccounted,
        out_of_scope=tuple(
            (medium.name, medium.out_of_scope) for medium in media if medium.out_of_scope is not None
        ),
    )


def _strangers(names: frozenset[str], units: Sequence[Unit]) -> tuple[str, ...]:
    """Those of ``names`` that no unit bears."""
    return tuple(sorted(name for name in names if not any(unit.is_called(name) for unit in units)))


def _plan_unit(unit: Unit, policy: Policy, facts: Facts) -> UnitPlan:
    kind = kind_of(unit, facts.capabilities)
    stop = protect(unit, facts, policy)
    if stop is not None:
        return UnitPlan(unit=unit, kind=kind, action=stop.action, code=stop.code, reason=stop.reason)
    ladder = make_ladder(kind, facts.capabilities, policy)
    if not ladder.rungs:
        reason = f"no method known here erases this drive to the grade {policy.required.value}"
        return UnitPlan(
            unit=unit,
            kind=kind,
            action=Action.REFUSE,
            passed_over=ladder.passed_over,
            code="grade_unreachable",
            reason=reason,
        )
    return UnitPlan(
        unit=unit,
        kind=kind,
        action=Action.ERASE,
        rungs=ladder.rungs,
        passed_over=ladder.passed_over,
        noted=facts.noted,
        seconds=estimate(unit, facts.capabilities, ladder.rungs[0], policy.verification),
    )


def newcomers(
    plan: ErasePlan, media: tuple[Medium, ...], erased: Iterable[Unit] = ()
) -> tuple[UnitPlan, ...]:
    """What the same policy says of the drives in ``media`` that came only after the plan was made.

    ``erased``: units as they were erased, with what was opened up of them.
    """
    units = [*(unit.unit for unit in plan.units), *erased]
    known = {(medium.name, medium.diskseq) for unit in units for medium in unit.media}
    new = tuple(medium for medium in media if (medium.name, medium.diskseq) not in known)
    return plan_erase(new, plan.policy, Probes()).units
