"""The params of decom.disk_erase, read into types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from teeth_agent.erase.model import Grade, plain_name
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
    """How much is read back after a method that promises zeros. An overwrite is always read back whole."""

    FULL = "full"
    SAMPLED = "sampled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What one command allows and asks for. Names are serial numbers or WWNs.

    ``allow``: when not empty, nothing else is erased, and shared transports named here may be.
    ``expected``: when not None, exactly these must be there. ``expect_none``: no disk at all is a success.
    ``expect_unaccounted``: storage controllers whose drives cannot be seen are known of.
    """

    required: Grade = Grade.CLEAR
    allow: frozenset[str] = frozenset()
    exclude: frozenset[str] = frozenset()
    expected: frozenset[str] | None = None
    removable: Removable = Removable.BLOCK
    verification: Verification = Verification.FULL
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
    return Policy(
        required=Grade(said.required_grade),
        allow=frozenset(said.allow),
        exclude=frozenset(said.exclude),
        expected=None if said.expected_serials is None else frozenset(said.expected_serials),
        removable=Removable(said.removable),
        verification=Verification(said.verification),
        expect_none=said.expect_no_disk,
        expect_unaccounted=said.expect_unaccounted,
        plan_only=said.plan,
        plan_digest=said.plan_digest,
    )
