"""What is left alone, and why: pure rules over what the kernel and the drives say, in the order they count.

What is on a disk may add a refusal here, never a silent skip.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from teeth_agent.erase.capabilities import AtaCapabilities, Capabilities, PlainCapabilities
from teeth_agent.erase.model import Unit
from teeth_agent.erase.policy import Policy, Removable

# Others may be reading and writing these right now: erased only when named.
SHARED = ("iscsi", "fc", "nvme-tcp", "nvme-rdma", "nvme-fc", "nvme-loop")
_REMOVABLE = ("usb", "sd")


_NOT_ASKED = PlainCapabilities(reason="it was not asked what it can do")


class Action(Enum):
    ERASE = "erase"
    EXCLUDE = "exclude"
    REFUSE = "refuse"
    LOCKED = "locked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was found out about one unit beyond what the kernel lists.

    ``shared_use``: signs that other machines use it too (a cluster file system, another machine's persistent
    reservation), one phrase each. ``busy``: what an earlier erase has left, "" for nothing. ``stops``: what
    is built upon it and stopped first.
    """

    capabilities: Capabilities = _NOT_ASKED
    shared_use: tuple[str, ...] = ()
    busy: str = ""
    stops: tuple[str, ...] = ()

    @property
    def noted(self) -> tuple[str, ...]:
        """What is erased all the same, and must be told of: a phrase each."""
        drive = self.capabilities
        busy = (f"{self.busy}: that is seen to first",) if self.busy else ()
        locked = isinstance(drive, AtaCapabilities) and drive.security.locked
        words = (
            ("locked by an ATA password: erased only if one of the known ones opens it",) if locked else ()
        )
        stops = tuple(f"{name} is built upon it: stopped first" for name in self.stops)
        return (*self.shared_use, *busy, *words, *stops)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Why a unit is not erased: a stable code and one phrase."""

    action: Action
    code: str
    reason: str


def protect(unit: Unit, facts: Facts, policy: Policy) -> Stop | None:
    """The first rule that keeps the unit from being erased; None when nothing does."""
    case = _Case(unit=unit, facts=facts, policy=policy)
    for rule in _RULES:
        stop = rule(case)
        if stop is not None:
            return stop
    return None


def is_shared(unit: Unit) -> bool:
    """Whether other machines can reach it by its very transport."""
    return any(medium.transport in SHARED for medium in unit.media)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    unit: Unit
    facts: Facts
    policy: Policy


def _excluded_by_name(case: _Case) -> Stop | None:
    named = sorted(name for name in case.policy.exclude if case.unit.is_called(name))
    if not named:
        return None
    return Stop(action=Action.EXCLUDE, code="excluded_by_command", reason=f"params.exclude names {named[0]}")


def _excluded_by_rule(case: _Case) -> Stop | None:
    for rule in case.policy.exclude_rules:
        if rule.covers(case.unit):
            reason = f"params.exclude_rules: rule {rule.rule} covers it"
            return Stop(action=Action.EXCLUDE, code="excluded_by_rule", reason=reason)
    return None


def _virtual_media(case: _Case) -> Stop | None:
    said = case.unit.first.virtual_media
    return None if said is None else Stop(action=Action.EXCLUDE, code="virtual_media", reason=said)


def _not_allowed(case: _Case) -> Stop | None:
    if not case.policy.allow or any(case.unit.is_called(name) for name in case.policy.allow):
        return None
    return Stop(action=Action.EXCLUDE, code="not_allowed", reason="params.allow does not name it")


def _removable_excluded(case: _Case) -> Stop | None:
    if not _is_removable(case.unit) or case.policy.removable is not Removable.EXCLUDE:
        return None
    return Stop(action=Action.EXCLUDE, code="removable", reason="params.removable excludes it")


def _unexpected(case: _Case) -> Stop | None:
    if case.policy.expected is None or any(case.unit.is_called(name) for name in case.policy.expected):
        return None
    reason = "params.expected_serials does not name it"
    return Stop(action=Action.REFUSE, code="unexpected_disk", reason=reason)


def _in_use(case: _Case) -> Stop | None:
    reasons = [reason for medium in case.unit.media for reason in medium.in_use]
    return Stop(action=Action.REFUSE, code="in_use", reason="; ".join(reasons[:8])) if reasons else None


def _removable_blocked(case: _Case) -> Stop | None:
    if not _is_removable(case.unit) or case.policy.removable is not Removable.BLOCK:
        return None
    reason = "a removable drive: params.removable must say erase or exclude"
    return Stop(action=Action.REFUSE, code="removable_blocked", reason=reason)


def _shared_transport(case: _Case) -> Stop | None:
    if not is_shared(case.unit):
        return None
    if not any(case.unit.is_called(name) for name in case.policy.allow):
        reason = f"{case.unit.first.transport} may be shared with other machines: params.allow must name it"
        return Stop(action=Action.REFUSE, code="shared_transport", reason=reason)
    if case.facts.shared_use:
        reason = f"other machines use it: {'; '.join(case.facts.shared_use[:4])}"
        return Stop(action=Action.REFUSE, code="shared_use", reason=reason)
    return None


def _unreadable(case: _Case) -> Stop | None:
    # While it sanitizes, or after it failed to, a drive gives no capacity: that passes.
    if case.facts.busy or all(medium.size for medium in case.unit.media):
        return None
    return Stop(action=Action.REFUSE, code="unreadable", reason="the drive gives no capacity")


def _read_only(case: _Case) -> Stop | None:
    if not any(medium.read_only for medium in case.unit.media):
        return None
    return Stop(action=Action.REFUSE, code="read_only", reason="the drive is write protected")


def _locked(case: _Case) -> Stop | None:
    drive = case.facts.capabilities
    if not isinstance(drive, AtaCapabilities) or not drive.security.locked:
        return None
    if not (drive.security.frozen or drive.security.expired):
        return None  # passwords that are known are tried
    reason = "the drive is locked by an ATA security password, and takes none until it loses power"
    return Stop(action=Action.LOCKED, code="locked", reason=reason)


def _is_removable(unit: Unit) -> bool:
    return any(medium.removable or medium.transport in _REMOVABLE for medium in unit.media)


_RULES: tuple[Callable[[_Case], Stop | None], ...] = (
    _excluded_by_name,
    _excluded_by_rule,
    _virtual_media,
    _not_allowed,
    _removable_excluded,
    _unexpected,
    _in_use,
    _removable_blocked,
    _shared_transport,
    _unreadable,
    _read_only,
    _locked,
)
