"""The params of decom.disk_erase, read into types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from teeth_agent.erase.model import Grade, Unit, plain_name
from teeth_agent.errors import ParamsError
from teeth_protocol.fields import FieldError
from teeth_protocol.shape import read
from teeth_protocol.wire.erase import DiskErase


class Removable(Enum):
    """What to do with USB, SD and other removable drives."""

    BLOCK = "block"
    ERASE = "erase"
    EXCLUDE = "exclude"


class Verification(Enum):
    """How much is read back after what a drive did alone. An overwrite is always read back whole.

    OVERWRITE: in full, and afterwards this machine overwrites all of it too, and reads that back.
    """

    FULL = "full"
    SAMPLED = "sampled"
    OVERWRITE = "overwrite"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExcludeRule:
    """Leaves alone what has all of the properties it gives; it gives at least one. ``at_most``: bytes."""

    rule: str
    model: str | None = None
    transport: str | None = None
    at_most: int | None = None

    def covers(self, unit: Unit) -> bool:
        first = unit.first
        checks = []
        if self.model is not None:
            checks.append(plain_name(first.model or "") == plain_name(self.model))
        if self.transport is not None:
            checks.append(first.transport == self.transport)
        if self.at_most is not None:
            checks.append(0 < unit.size <= self.at_most)
        return bool(checks) and all(checks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What one command allows and asks for. Names are serial numbers or WWNs.

    ``allow``: when not empty, nothing else is erased, and shared transports named here may be.
    ``expected``: when not None, exactly these must be there. ``expect_none``: no disk at all is a success.
    ``expect_unaccounted``: storage controllers whose drives cannot be seen are known of. ``fallback``: when a
    rung does not prove itself the next one is climbed. ``fence``: a drive whose sanitize failed stays in its
    failure mode, unreadable, and no other rung is climbed. ``time_limit``: seconds that one operation of a
    drive may take. ``firmware_traces``: remove what a system left in the firmware, too.
    """

    required: Grade = Grade.CLEAR
    allow: frozenset[str] = frozenset()
    exclude: frozenset[str] = frozenset()
    exclude_rules: tuple[ExcludeRule, ...] = ()
    expected: frozenset[str] | None = None
    removable: Removable = Removable.BLOCK
    verification: Verification = Verification.FULL
    fallback: bool = True
    fence: bool = False
    time_limit: float = 72 * 3600.0
    firmware_traces: bool = False
    expect_none: bool = False
    expect_unaccounted: bool = False
    plan_only: bool = False
    plan_digest: str | None = None


def read_policy(params: Mapping[str, Any]) -> Policy:
    """Read a command's params.

    Raises ParamsError naming the path; also for a param nobody knows: a misspelt ``exclude`` must not erase.
    """
    try:
        # Whoever took the task has read its id; without one this is only a policy.
        said = read(DiskErase, {"task_id": "-", **params})
    except FieldError as error:
        raise ParamsError(str(error)) from None
    excluded = {plain_name(name) for name in said.exclude}
    both = [name for name in said.allow if plain_name(name) in excluded]
    if both:
        raise ParamsError(f"params.exclude: {min(both)} is in params.allow too")
    rules = tuple(
        ExcludeRule(rule=rule.rule, model=rule.model, transport=rule.transport, at_most=rule.at_most)
        for rule in said.exclude_rules
    )
    empty = [rule.rule for rule in rules if (rule.model, rule.transport, rule.at_most) == (None, None, None)]
    if empty:
        raise ParamsError(f"params.exclude_rules: rule {empty[0]} gives no model, transport or at_most")
    return Policy(
        required=Grade(said.required_grade),
        allow=frozenset(said.allow),
        exclude=frozenset(said.exclude),
        exclude_rules=rules,
        expected=None if said.expected_serials is None else frozenset(said.expected_serials),
        removable=Removable(said.removable),
        verification=Verification(said.verification),
        fallback=said.fallback,
        fence=said.fence,
        time_limit=float(said.time_limit),
        firmware_traces=said.firmware_traces,
        expect_none=said.expect_no_disk,
        expect_unaccounted=said.expect_unaccounted,
        plan_only=said.plan,
        plan_digest=said.plan_digest,
    )
