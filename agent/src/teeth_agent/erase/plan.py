"""What would be done to each unit, and why: pure, from facts to a plan."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from teeth_agent.erase.model import Medium, Method, Unit, group_units
from teeth_agent.erase.policy import Policy, Removable
from teeth_agent.tools import hdparm, nvme

# Others may be reading and writing these right now: erased only when named.
_SHARED = ("iscsi", "fc", "nvme-tcp", "nvme-rdma", "nvme-fc", "nvme-loop")
_REMOVABLE = ("usb", "sd")


class Action(Enum):
    ERASE = "erase"
    EXCLUDE = "exclude"
    REFUSE = "refuse"
    LOCKED = "locked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """What the tools found out: by NVMe controller name, and by name of a SATA disk."""

    nvme: Mapping[str, nvme.Controller] = field(default_factory=dict)
    ata: Mapping[str, hdparm.Identity] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitPlan:
    """``methods``: the ladder, best first; empty, with ``code`` and ``reason``, unless to ERASE."""

    unit: Unit
    action: Action
    methods: tuple[Method, ...] = ()
    code: str = ""
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            **describe(self.unit),
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
            "methods": [{"method": method.value, "grade": method.grade.value} for method in self.methods],
            "code": self.code,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasePlan:
    """``out_of_scope``: (name, reason) of what is no drive; ``unaccounted``: controllers that hide theirs.

    ``missing``: names that the command wants erased and no drive bears; ``unspared``: those that it wants
    left alone and no drive bears.
    """

    policy: Policy
    units: tuple[UnitPlan, ...]
    missing: tuple[str, ...]
    unspared: tuple[str, ...]
    unaccounted: tuple[str, ...]
    out_of_scope: tuple[tuple[str, str], ...]

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
            "required_grade": self.policy.required.value,
            "verification": self.policy.verification.value,
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
        units=tuple(_plan_unit(unit, policy, probes) for unit in units),
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


def _plan_unit(unit: Unit, policy: Policy, probes: Probes) -> UnitPlan:
    stop = _excluded(unit, policy) or _refused(unit, policy) or _locked(unit, probes)
    if stop is not None:
        action, code, reason = stop
        return UnitPlan(unit=unit, action=action, code=code, reason=reason)
    methods = tuple(method for method in _ladder(unit, probes) if method.grade.reaches(policy.required))
    if not methods:
        reason = f"no method known here erases this drive to the grade {policy.required.value}"
        return UnitPlan(unit=unit, action=Action.REFUSE, code="grade_unreachable", reason=reason)
    return UnitPlan(unit=unit, action=Action.ERASE, methods=methods)


def newcomers(plan: ErasePlan, media: tuple[Medium, ...]) -> tuple[UnitPlan, ...]:
    """What the same policy says of the drives in ``media`` that came only after the plan was made."""
    known = {(medium.name, medium.diskseq) for unit in plan.units for medium in unit.unit.media}
    new = tuple(medium for medium in media if (medium.name, medium.diskseq) not in known)
    return plan_erase(new, plan.policy, Probes()).units


_Stop = tuple[Action, str, str]


def _excluded(unit: Unit, policy: Policy) -> _Stop | None:
    named = sorted(name for name in policy.exclude if unit.is_called(name))
    if named:
        return Action.EXCLUDE, "excluded_by_command", f"params.exclude names {named[0]}"
    if unit.first.virtual_media is not None:
        return Action.EXCLUDE, "virtual_media", unit.first.virtual_media
    if policy.allow and not any(unit.is_called(name) for name in policy.allow):
        return Action.EXCLUDE, "not_allowed", "params.allow does not name it"
    if _is_removable(unit) and policy.removable is Removable.EXCLUDE:
        return Action.EXCLUDE, "removable", "params.removable excludes it"
    return None


def _refused(unit: Unit, policy: Policy) -> _Stop | None:
    if policy.expected is not None and not any(unit.is_called(name) for name in policy.expected):
        return Action.REFUSE, "unexpected_disk", "params.expected_serials does not name it"
    in_use = [reason for medium in unit.media for reason in medium.in_use]
    if in_use:
        return Action.REFUSE, "in_use", "; ".join(in_use[:8])
    if _is_removable(unit) and policy.removable is Removable.BLOCK:
        return (
            Action.REFUSE,
            "removable_blocked",
            "a removable drive: params.removable must say erase or exclude",
        )
    if unit.first.transport in _SHARED and not any(unit.is_called(name) for name in policy.allow):
        reason = f"{unit.first.transport} may be shared with other machines: params.allow must name it"
        return Action.REFUSE, "shared_transport", reason
    if any(medium.size == 0 for medium in unit.media):
        return Action.REFUSE, "unreadable", "the drive gives no capacity"
    if any(medium.read_only for medium in unit.media):
        return Action.REFUSE, "read_only", "the drive is write protected"
    return None


def _locked(unit: Unit, probes: Probes) -> _Stop | None:
    for medium in unit.media:
        identity = probes.ata.get(medium.name)
        if identity is not None and identity.locked:
            return Action.LOCKED, "locked", "the drive is locked by an ATA security password"
    return None


def _is_removable(unit: Unit) -> bool:
    return any(medium.removable or medium.transport in _REMOVABLE for medium in unit.media)


def _ladder(unit: Unit, probes: Probes) -> tuple[Method, ...]:
    controller = probes.nvme.get(unit.first.controller or "")
    methods: list[Method] = []
    if controller is not None and controller.can_crypto_erase:
        methods.append(Method.NVME_FORMAT_CRYPTO)
    if controller is not None and controller.can_format:
        methods.append(Method.NVME_FORMAT_USER_DATA)
    return (*methods, Method.OVERWRITE)
