"""Zones of block devices that cannot be written anywhere: the kernel's ioctls, and what they tell.

<linux/blkzoned.h>; the words are those of ZBC (SCSI), ZAC (ATA) and ZNS (NVMe), which the kernel brings
together. Sectors there are 512 bytes whatever the device's logical block is; here all is bytes.
"""

from __future__ import annotations

import errno
import fcntl
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from teeth_agent.errors import DeviceError

# _IOWR(0x12, 130, struct blk_zone_report), _IOW(0x12, 131, struct blk_zone_range), _IOR(0x12, 133, __u32).
_BLKREPORTZONE = 0xC0101282
_BLKRESETZONE = 0x40101283
_BLKGETNRZONES = 0x80041285

_SECTOR = 512
_HEADER = struct.Struct("=QII")  # first sector; zones asked for, then found; flags
_ZONE = struct.Struct("=QQQBBBB4xQ24x")  # start, length, write pointer, type, condition, 2 hints, capacity
_HAS_CAPACITY = 1
_AT_ONCE = 256
# A drive of 100 TB in zones of 128 MiB has 800,000.
_MOST_ZONES = 4_000_000

_READ_ONLY = 0xD
_OFFLINE = 0xF


class ZoneKind(Enum):
    """``SEQUENTIAL``: to be reset and written in order from its start. The others take writes anywhere."""

    CONVENTIONAL = 1
    SEQUENTIAL = 2
    PREFERRED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """Bytes. Only the first ``capacity`` of the ``length`` can be written; behind them there is no medium."""

    start: int
    length: int
    capacity: int
    kind: ZoneKind = ZoneKind.SEQUENTIAL
    condition: int = 0

    @property
    def in_order(self) -> bool:
        return self.kind is ZoneKind.SEQUENTIAL

    @property
    def trouble(self) -> str:
        """Why this zone cannot be erased by writing, "" if it can."""
        return {_READ_ONLY: "read-only", _OFFLINE: "offline"}.get(self.condition, "")


def read_zones(descriptor: int, path: str, size: int) -> tuple[Zone, ...]:
    """All zones of an open block device, in order; () if it is not zoned.

    Raises DeviceError(zones_unreadable) when they cannot be read or do not cover the device.
    """
    try:
        (count,) = struct.unpack("I", fcntl.ioctl(descriptor, _BLKGETNRZONES, bytes(4)))
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL):  # kernels without zoned devices
            return ()
        raise DeviceError(
            f"{path}: zones cannot be counted: {error.strerror}", code="zones_unreadable"
        ) from error
    if count == 0:
        return ()
    if count > _MOST_ZONES:
        raise DeviceError(f"{path} claims to have {count} zones", code="zones_unreadable")
    zones: list[Zone] = []
    place = 0
    while place < size:
        found = list(_report(descriptor, path, place))
        if not found or found[0].start != place or len(zones) + len(found) > count:
            raise DeviceError(f"{path}: no zone begins at byte {place}", code="zones_unreadable")
        zones += found
        place = found[-1].start + found[-1].length
    return tuple(zones)


def reset_zones(descriptor: int, path: str, offset: int, length: int) -> None:
    """Forget what whole zones hold and move their write pointers back. Raises DeviceError(write_failed)."""
    try:
        fcntl.ioctl(descriptor, _BLKRESETZONE, struct.pack("QQ", offset // _SECTOR, length // _SECTOR))
    except OSError as error:
        raise DeviceError(
            f"{path}: the zone at byte {offset} cannot be reset: {error.strerror}", code="write_failed"
        ) from error


def parse_report(data: bytes) -> Iterator[Zone]:
    """The zones in a ``struct blk_zone_report``. Raises ValueError when a zone contradicts itself."""
    _, count, flags = _HEADER.unpack_from(data)
    for index in range(min(count, (len(data) - _HEADER.size) // _ZONE.size)):
        start, length, _, kind, condition, _, _, capacity = _ZONE.unpack_from(
            data, _HEADER.size + index * _ZONE.size
        )
        capacity = capacity if flags & _HAS_CAPACITY else length
        if length == 0 or capacity > length:
            raise ValueError(f"zone at sector {start}: {length} sectors, {capacity} of them for data")
        yield Zone(
            start=start * _SECTOR,
            length=length * _SECTOR,
            capacity=capacity * _SECTOR,
            kind=ZoneKind(kind),
            condition=condition,
        )


def _report(descriptor: int, path: str, place: int) -> Iterator[Zone]:
    buffer = bytearray(_HEADER.size + _AT_ONCE * _ZONE.size)
    _HEADER.pack_into(buffer, 0, place // _SECTOR, _AT_ONCE, 0)
    try:
        fcntl.ioctl(descriptor, _BLKREPORTZONE, buffer)
        yield from parse_report(bytes(buffer))
    except (OSError, ValueError) as error:
        raise DeviceError(f"{path}: zones cannot be read: {error}", code="zones_unreadable") from error
