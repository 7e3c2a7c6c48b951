"""Taking apart what is assembled on the disks that are to be erased: md, device mapper, bcache.

Nothing assembles itself in the ramdisk. What somebody assembled all the same is stopped from the top down,
but only where nothing on it is mounted or swapped to: that is left alone, and so is every disk below it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from teeth_agent import sysfs
from teeth_agent.errors import AgentError, DeviceError
from teeth_agent.passthrough import devicemapper

_BLOCKS = "/sys/class/block"
_DEEPEST = 32  # layers; deeper is a loop, which no kernel makes
_GONE_SECONDS = 10.0
_LOOK_SECONDS = 0.05


class Kind(Enum):
    """What an assembled device is made by; each is stopped in its own way."""

    MD = "md"
    DEVICE_MAPPER = "dm"
    BCACHE = "bcache"


_KINDS = ((re.compile(r"md[\w-]+"), Kind.MD), (re.compile(r"dm-\d+"), Kind.DEVICE_MAPPER),
          (re.compile(r"bcache\d+"), Kind.BCACHE))  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block device: what is built directly upon it or its partitions, and why it is in use by itself.

    ``label``: what device mapper calls it.
    """

    name: str
    holders: tuple[str, ...]
    in_use: tuple[str, ...]
    label: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Teardown:
    """``stops``: assembled devices in the order in which they can be stopped. ``kept``: (name, reason) of
    those that cannot, because something on them is in use or nobody here knows how."""

    stops: tuple[str, ...] = ()
    kept: tuple[tuple[str, str], ...] = ()

    def left_upon(self, block: Block) -> tuple[str, ...]:
        """Why ``block`` is still in use once all of ``stops`` are gone, a phrase each; () if it is not."""
        reasons = dict(self.kept)
        held = tuple(
            f"{block.name} is held by {holder}" + (f": {reasons[holder]}" if holder in reasons else "")
            for holder in block.holders
            if holder not in self.stops
        )
        return block.in_use + held


def plan_teardown(disks: Iterable[str], blocks: Mapping[str, Block], spared: Iterable[str] = ()) -> Teardown:
    """What to stop so that ``disks`` are free. Pure.

    A device that cannot be stopped keeps what it is built upon, too. Nothing is stopped that is built, at
    whatever distance, upon one of ``spared``.
    """
    stops: list[str] = []
    kept = _upon(spared, blocks)

    def free(name: str, depth: int) -> str:
        """ "" once everything upon ``name`` is among ``stops``, else why it is not."""
        if depth > _DEEPEST:
            return f"{name} is built upon itself"
        reason = ""
        for holder in blocks[name].holders if name in blocks else ():
            reason = stop(holder, depth + 1) or reason
        return reason

    def stop(name: str, depth: int) -> str:
        if name in stops:
            return ""
        if name in kept:
            return kept[name]
        reason = free(name, depth) or _why_not(name, blocks.get(name))
        if reason:
            kept[name] = reason
        else:
            stops.append(name)
        return reason

    for disk in disks:
        free(disk, 0)
    return Teardown(stops=tuple(stops), kept=tuple(kept.items()))


def upon(name: str, blocks: Mapping[str, Block]) -> set[str]:
    """Everything that is built upon a device, at whatever distance."""
    found: set[str] = set()
    ahead = [name]
    while ahead:
        block = blocks.get(ahead.pop())
        new = set(block.holders) - found if block is not None else set()
        found |= new
        ahead += new
    return found


def _upon(spared: Iterable[str], blocks: Mapping[str, Block]) -> dict[str, str]:
    """Why each device stays that is built upon one that is to be left alone."""
    kept: dict[str, str] = {}
    for disk in spared:
        for name in sorted(upon(disk, blocks)):
            kept.setdefault(name, f"{name} is upon {disk}, which is to be left alone")
    return kept


def kind_of(name: str) -> Kind | None:
    """What made the device of this name; None for what cannot be stopped here."""
    return next((kind for pattern, kind in _KINDS if pattern.fullmatch(name)), None)


def _why_not(name: str, block: Block | None) -> str:
    if block is None:
        return f"{name} cannot be looked at"
    if block.in_use:
        return block.in_use[0]
    return "" if kind_of(name) else f"nobody here knows how to stop {name}"


def read_blocks(root: Path, uses: Callable[[str], Sequence[str]]) -> dict[str, Block]:
    """Every block device by name, partitions folded into their disk. ``uses``: its own use."""
    blocks = {}
    for name in sysfs.names(root, _BLOCKS):
        folder = f"{_BLOCKS}/{name}"
        parts = [
            part for part in sysfs.names(root, folder) if sysfs.read_int(root, f"{folder}/{part}/partition")
        ]
        holders = [*sysfs.names(root, f"{folder}/holders")]
        reasons = [*uses(name)]
        for part in parts:
            holders += sysfs.names(root, f"{folder}/{part}/holders")
            reasons += uses(part)
        blocks[name] = Block(
            name=name,
            holders=tuple(dict.fromkeys(holders)),
            in_use=tuple(reasons),
            label=sysfs.read_text(root, f"{folder}/dm/name") or None,
        )
    return blocks


def carry_out(
    teardown: Teardown,
    root: Path,
    *,
    remove: Callable[[str], None] = devicemapper.remove,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> tuple[tuple[str, str], ...]:
    """Stop what the plan says, top first; (name, reason) of what did not stop.

    What is below a device that did not stop is not tried.
    """
    failed: list[tuple[str, str]] = []
    for name in teardown.stops:
        above = set(sysfs.names(root, f"{_BLOCKS}/{name}/holders"))
        if above & {one for one, _ in failed}:
            failed.append((name, f"{min(above)} is still upon it"))
            continue
        try:
            _stop(name, root, remove)
            _wait_gone(name, root, clock, pause)
        except AgentError as error:
            failed.append((name, str(error)))
    return tuple(failed)


def _stop(name: str, root: Path, remove: Callable[[str], None]) -> None:
    match kind_of(name):
        case Kind.DEVICE_MAPPER:
            remove(sysfs.read_text(root, f"{_BLOCKS}/{name}/dm/name", "") or "")
        case Kind.MD:
            _write(name, root, f"{_BLOCKS}/{name}/md/array_state", "clear")
        case Kind.BCACHE:
            _write(name, root, f"{_BLOCKS}/{name}/bcache/stop", "1")
        case None:
            raise DeviceError(f"nobody here knows how to stop {name}", code="teardown_failed")


def _write(name: str, root: Path, path: str, text: str) -> None:
    try:
        sysfs.write_text(root, path, text)
    except OSError as error:
        raise DeviceError(f"{name} cannot be stopped: {error.strerror}", code="teardown_failed") from error


def _wait_gone(name: str, root: Path, clock: Callable[[], float], pause: Callable[[float], None]) -> None:
    """An md array that was stopped may keep its name, empty; whoever else is stopped goes."""
    deadline = clock() + _GONE_SECONDS
    while _there(name, root):
        if clock() >= deadline:
            raise DeviceError(f"{name} was stopped and is still there", code="teardown_failed")
        pause(_LOOK_SECONDS)


def _there(name: str, root: Path) -> bool:
    if name not in sysfs.names(root, _BLOCKS):
        return False
    state = sysfs.read_text(root, f"{_BLOCKS}/{name}/md/array_state")
    return state not in ("clear", "inactive") if state is not None else True
