"""What a tool claimed of a drive against what the host reads in the drive's backing file.

The file is read as it lies on the host: no command reaches the drive, its word is not asked. A drive with
``fill`` begins full of the lab's mark (teeth.lab.pattern), by which whatever is left is known.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from teeth.errors import TeethError, UsageError
from teeth.lab.pattern import MAGIC

_BLOCKS_AT_ONCE = 2048


class Claim(StrEnum):
    """What a tool says of its own work."""

    ERASED = "erased"
    FAILED = "failed"
    NOTHING = "nothing"


class Verdict(StrEnum):
    """``DECEIVED`` is the one that matters: called erased, and content is left."""

    DECEIVED = "believed a lie"
    RIGHT = "right"
    UNSURE = "gave up on a clean drive"
    SILENT = "said nothing of it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """Blocks of a backing file: with the mark, all zero, or anything else (noise, other patterns).

    ``first`` is the first block with the mark.
    """

    marked: int
    zero: int
    other: int
    first: int | None

    @property
    def blocks(self) -> int:
        return self.marked + self.zero + self.other


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """One drive. ``lies``: what was wrong with it, by name."""

    name: str
    serial: str
    lies: tuple[str, ...]
    claim: Claim
    content: Content

    @property
    def verdict(self) -> Verdict:
        return judge(self.claim, left=self.content.marked > 0)


def judge(claim: Claim, *, left: bool) -> Verdict:
    """A claim against whether content is left."""
    if claim is Claim.NOTHING:
        return Verdict.SILENT
    if (claim is Claim.ERASED) is not left:
        return Verdict.RIGHT
    return Verdict.DECEIVED if left else Verdict.UNSURE


def read_content(path: Path, sector: int) -> Content:
    """Read a whole backing file. Raises TeethError for one that cannot be read."""
    marked = zero = other = at = 0
    first: int | None = None
    empty = bytes(sector * _BLOCKS_AT_ONCE)
    try:
        with path.open("rb", buffering=0) as stream:
            size = os.fstat(stream.fileno()).st_size
            while at < size:
                data = os.pread(stream.fileno(), len(empty), at)
                if not data:
                    break
                if data == empty[: len(data)]:
                    zero += -(-len(data) // sector)
                    at += len(data)
                    continue
                for start in range(0, len(data), sector):
                    block = data[start : start + sector]
                    if MAGIC in block:
                        marked += 1
                        first = (at + start) // sector if first is None else first
                    elif any(block):
                        other += 1
                    else:
                        zero += 1
                at += len(data)
    except OSError as error:
        raise TeethError(f"backing file {path} cannot be read: {error.strerror}") from error
    return Content(marked=marked, zero=zero, other=other, first=first)


def read_claims(text: str, known: Iterable[str]) -> dict[str, Claim]:
    """The lines ``DRIVE erased`` and ``DRIVE failed`` of what a tool printed; other lines are its own.

    ``known``: names and serials of the drives. Raises UsageError when there is no such line, when one names a
    drive that there is not, or two contradict each other.
    """
    names = set(known)
    found: dict[str, Claim] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if len(words) != 2 or words[1] not in (Claim.ERASED, Claim.FAILED):
            continue
        if words[0] not in names:
            raise UsageError(f"claims, line {number}: there is no drive {words[0]}")
        claim = Claim(words[1])
        if found.setdefault(words[0], claim) is not claim:
            raise UsageError(f"claims, line {number}: {words[0]} is both erased and failed")
    if not found:
        raise UsageError(
            "there is no claim", hint="a line for each drive: its serial or name, and `erased` or `failed`"
        )
    return found


def check(drives: Sequence[Mapping[str, Any]], claims: str | None) -> list[Checked]:
    """Every drive as the control socket lists it, judged. TeethError for one that is only in memory."""
    known = [str(drive[key]) for drive in drives for key in ("name", "serial")]
    said = read_claims(claims, known) if claims is not None else {}
    checked = []
    for drive in drives:
        if not drive["file"]:
            raise TeethError(
                f"drive {drive['name']} has no backing file to read", hint='give it file = "..."'
            )
        claim = said.get(drive["serial"], said.get(drive["name"], Claim.NOTHING))
        checked.append(
            Checked(
                name=drive["name"],
                serial=drive["serial"],
                lies=tuple(drive["behaviours"]),
                claim=claim,
                content=read_content(Path(drive["file"]), drive["sector"]),
            )
        )
    return checked
