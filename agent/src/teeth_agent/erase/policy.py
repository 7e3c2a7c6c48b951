"""The params of decom.disk_erase, read into types."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from teeth_agent.erase.model import Grade, plain_name
from teeth_agent.errors import ParamsError

_MAX_NAMES = 4096  # far more disks than a machine holds
_MAX_NAME = 256
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


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


_KNOWN = frozenset(
    (
        "task_id",
        "plan",
        "plan_digest",
        "required_grade",
        "allow",
        "exclude",
        "expected_serials",
        "removable",
        "verification",
        "expect_no_disk",
        "expect_unaccounted",
    )
)


def read_policy(params: Mapping[str, Any]) -> Policy:
    """Read a command's params.

    Raises ParamsError naming the path; also for a param nobody knows: a misspelt ``exclude`` must not erase.
    """
    unknown = sorted(set(params) - _KNOWN)
    if unknown:
        raise ParamsError(f"params.{unknown[0][:_MAX_NAME]}: decom.disk_erase has no such param")
    policy = Policy(
        required=_choice(params, "required_grade", Grade, Grade.CLEAR),
        allow=_names(params, "allow") or frozenset(),
        exclude=_names(params, "exclude") or frozenset(),
        expected=_names(params, "expected_serials"),
        removable=_choice(params, "removable", Removable, Removable.BLOCK),
        verification=_choice(params, "verification", Verification, Verification.FULL),
        expect_none=_flag(params, "expect_no_disk"),
        expect_unaccounted=_flag(params, "expect_unaccounted"),
        plan_only=_flag(params, "plan"),
        plan_digest=_digest(params),
    )
    excluded = {plain_name(name) for name in policy.exclude}
    both = [name for name in policy.allow if plain_name(name) in excluded]
    if both:
        raise ParamsError(f"params.exclude: {min(both)} is in params.allow too")
    return policy


_Choice = TypeVar("_Choice", bound=Enum)


def _choice(params: Mapping[str, Any], key: str, kind: type[_Choice], default: _Choice) -> _Choice:
    value = params.get(key)
    if value is None:
        return default
    for member in kind:
        if member.value == value:
            return member
    raise ParamsError(f"params.{key}: one of {', '.join(str(member.value) for member in kind)}")


def _flag(params: Mapping[str, Any], key: str) -> bool:
    value = params.get(key, False)
    if not isinstance(value, bool):
        raise ParamsError(f"params.{key}: true or false")
    return value


def _digest(params: Mapping[str, Any]) -> str | None:
    value = params.get("plan_digest")
    if value is None or (isinstance(value, str) and _DIGEST.fullmatch(value)):
        return value
    raise ParamsError("params.plan_digest: sha256: and 64 hex digits")


def _names(params: Mapping[str, Any], key: str) -> frozenset[str] | None:
    value = params.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or len(value) > _MAX_NAMES:
        raise ParamsError(f"params.{key}: a list of at most {_MAX_NAMES} serial numbers or WWNs")
    for index, name in enumerate(value):
        if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME:
            raise ParamsError(f"params.{key}[{index}]: a serial number or WWN")
    return frozenset(value)
