"""The plan of an erase on a machine where something is assembled on the disks: pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from teeth_agent.erase.model import Medium, Unit, group_units
from teeth_agent.erase.plan import ErasePlan, Probes, Stop, UnitPlan, plan_erase
from teeth_agent.erase.policy import Policy
from teeth_agent.erase.protect import Action
from teeth_agent.erase.teardown import Block, Teardown, kind_of, plan_teardown, upon


def plan_apart(
    media: tuple[Medium, ...],
    policy: Policy,
    probes: Probes,
    unaccounted: tuple[str, ...],
    blocks: Mapping[str, Block],
) -> tuple[ErasePlan, Teardown]:
    """What to stop, and what would be done once that is stopped. Changes nothing: the same machine gives the
    same plan, whether it is only told or carried out.

    Stopped is only what is built upon disks that nothing but their use keeps from being erased.
    """
    free = plan_erase(tuple(replace(medium, in_use=()) for medium in media), policy, probes)
    doomed = [medium.name for unit in free.units if unit.action is Action.ERASE for medium in unit.unit.media]
    spared = [one.name for one in media if one.name not in doomed and kind_of(one.name) is None]
    down = plan_teardown(doomed, blocks, spared)
    plan = plan_erase(
        tuple(_freed(medium, down, blocks) for medium in media),
        policy,
        _told(probes, media, down, blocks),
        unaccounted,
    )
    return replace(plan, stops=tuple(_stop(name, blocks) for name in down.stops)), down


def recheck(plan: ErasePlan, media: Sequence[Medium], failed: Sequence[tuple[str, str]]) -> ErasePlan:
    """The plan as it is carried out: units that are still in use although everything was stopped, or should
    have been, are refused. ``failed``: (name, reason) of what did not stop."""
    now = {medium.name: medium for medium in media}
    why = dict(failed)
    return replace(plan, units=tuple(_recheck(unit, now, why) for unit in plan.units))


def _recheck(unit: UnitPlan, now: Mapping[str, Medium], why: Mapping[str, str]) -> UnitPlan:
    found = [now[medium.name] for medium in unit.unit.media if medium.name in now]
    reasons = [reason for medium in found for reason in medium.in_use]
    if unit.action is not Action.ERASE or not reasons:
        return unit
    told = [f"{name} did not stop: {reason}" for name, reason in why.items()]
    return replace(
        unit, action=Action.REFUSE, rungs=(), code="in_use", reason="; ".join([*reasons[:4], *told[:4]])
    )


def _freed(medium: Medium, down: Teardown, blocks: Mapping[str, Block]) -> Medium:
    block = blocks.get(medium.name)
    return medium if block is None else replace(medium, in_use=down.left_upon(block))


def _told(probes: Probes, media: tuple[Medium, ...], down: Teardown, blocks: Mapping[str, Block]) -> Probes:
    """The facts, with what is stopped on each unit."""
    drives = tuple(medium for medium in media if medium.out_of_scope is None)
    return Probes(
        facts={
            unit.first.name: replace(probes.of(unit), stops=_stopped_on(unit, down, blocks))
            for unit in group_units(drives)
        }
    )


def _stopped_on(unit: Unit, down: Teardown, blocks: Mapping[str, Block]) -> tuple[str, ...]:
    above = {name for medium in unit.media for name in upon(medium.name, blocks)}
    return tuple(_named(_stop(name, blocks)) for name in down.stops if name in above)


def _stop(name: str, blocks: Mapping[str, Block]) -> Stop:
    return Stop(name=name, label=blocks[name].label)


def _named(stop: Stop) -> str:
    return stop.name if stop.label is None else f"{stop.name} ({stop.label})"
