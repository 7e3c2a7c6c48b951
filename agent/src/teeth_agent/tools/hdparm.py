"""hdparm, only to look: ATA security state and the host protected area.

Its exit status is not used: it has been 0 for commands that failed. What it prints is judged, and what it
does not print is None, never a guess.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from teeth_agent.run import run

# "max sectors   = 2097152/2097152, HPA is disabled"; the first is accessible, the second the native maximum.
# No drive has more sectors than 18 digits count; int() refuses thousands of them.
_HPA = re.compile(r"max sectors\s*=\s*([0-9]{1,18})/([0-9]{1,18})(?![0-9])")
# How hdparm lists what newer drives have instead of a host protected area, and what hides as much: Accessible
# Max Address Configuration (ACS-3, IDENTIFY DEVICE word 119, bit 8).
_ACCESSIBLE_MAX = "unknown 119[8]"
_SECURITY = re.compile(r"^Security:\s*$(.*?)(?=^\S|\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What ``hdparm -I`` says; ``answered`` is False when it says nothing, and then so is all the rest.

    ``has_hpa``: sectors may be hidden, by a host protected area or what replaced it.
    """

    answered: bool
    has_hpa: bool
    security_supported: bool
    enabled: bool
    locked: bool
    frozen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxSectors:
    """``accessible`` and ``native`` maximum address in sectors; both None when hdparm could not read them."""

    accessible: int | None
    native: int | None


def identify(devnode: str) -> Identity:
    """IDENTIFY DEVICE of an ATA drive. Raises ToolError only when hdparm cannot be started or hangs."""
    return parse_identity(run(["hdparm", "-I", devnode], check=False).stdout)


def parse_identity(text: str) -> Identity:
    """Read what ``hdparm -I`` prints; a state is written "\\tlocked" or "not\\tlocked"."""
    found = _SECURITY.search(text)
    section = found.group(1) if found else ""
    return Identity(
        answered="ATA device" in text,
        has_hpa="Host Protected Area feature set" in text or _ACCESSIBLE_MAX in text,
        security_supported=_state(section, "supported"),
        enabled=_state(section, "enabled"),
        locked=_state(section, "locked"),
        frozen=_state(section, "frozen"),
    )


def max_sectors(devnode: str) -> MaxSectors:
    """READ NATIVE MAX ADDRESS against what is accessible. Raises ToolError as ``identify`` does."""
    return parse_max_sectors(run(["hdparm", "-N", devnode], check=False).stdout)


def parse_max_sectors(text: str) -> MaxSectors:
    """Read what ``hdparm -N`` prints."""
    found = _HPA.search(text)
    if found is None:
        return MaxSectors(accessible=None, native=None)
    return MaxSectors(accessible=int(found.group(1)), native=int(found.group(2)))


def _state(section: str, word: str) -> bool:
    return re.search(rf"^\t(?:\s*){word}\b", section, re.MULTILINE) is not None
