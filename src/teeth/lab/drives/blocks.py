"""Commands on blocks: READ, WRITE, VERIFY, SYNCHRONIZE CACHE, UNMAP, WRITE SAME, READ CAPACITY (SBC-4 5)."""

from __future__ import annotations

from dataclasses import dataclass

from teeth.lab.drives.answer import Answer, Command, Refused, check, good, take
from teeth.lab.drives.inquiry import COMPARE_MAX, MAX_TRANSFER, UNMAP_RANGES
from teeth.lab.drives.model import Method
from teeth.lab.drives.sense import (
    PARAMETER_LENGTH,
    Key,
    Sense,
    invalid_field,
    invalid_parameter,
    out_of_range,
)
from teeth.lab.drives.unit import Unit

_VERIFY_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """Where a command's blocks are; ``flags`` is byte 1 of the long forms. ``at`` is the length's byte."""

    lba: int
    count: int
    flags: int
    at: int


def extent(cdb: bytes) -> Extent:
    """The address of any of the 6-, 10-, 12- and 16-byte forms."""
    match cdb[0] >> 5:
        case 0:
            # Length 0 of the shortest form means 256 blocks.
            return Extent(lba=take(cdb, 1, 3) & 0x1FFFFF, count=cdb[4] or 256, flags=0, at=4)
        case 1 | 2:
            return Extent(lba=take(cdb, 2, 4), count=take(cdb, 7, 2), flags=cdb[1], at=7)
        case 5:
            return Extent(lba=take(cdb, 2, 4), count=take(cdb, 6, 4), flags=cdb[1], at=6)
        case _:
            return Extent(lba=take(cdb, 2, 8), count=take(cdb, 10, 4), flags=cdb[1], at=10)


def _data_extent(unit: Unit, command: Command) -> Extent:
    """The extent of a command that moves its blocks' data, within bounds."""
    found = extent(command.cdb)
    if found.flags & 0xE0:  # protection information, which this medium has none of
        raise Refused(invalid_field(1))
    if found.count * unit.disk.spec.sector > MAX_TRANSFER:
        raise Refused(invalid_field(found.at))
    unit.disk.check_range(found.lba, found.count)
    return found


def read(unit: Unit, command: Command) -> Answer:
    where = _data_extent(unit, command)
    return good(unit.disk.read(where.lba, where.count))


def write(unit: Unit, command: Command) -> Answer:
    where = _data_extent(unit, command)
    unit.disk.check_writable()
    data = command.data[: where.count * unit.disk.spec.sector]
    if len(data) < where.count * unit.disk.spec.sector:
        if command.expected is None:
            raise Refused(PARAMETER_LENGTH)
        # The initiator said that it sends less: what is whole is written, the residual tells of the rest.
        data = data[: len(data) - len(data) % unit.disk.spec.sector]
    if not data:
        return good()
    verifies = command.cdb[0] in (0x2E, 0x8E, 0xAE)
    unit.disk.write(where.lba, data, through=verifies or bool(where.flags & 0x08))
    return good()


def compare_and_write(unit: Unit, command: Command) -> Answer:
    """SBC-4 5.3: the first half of the data is what is expected, the second what is written then."""
    where, size = extent(command.cdb), unit.disk.spec.sector
    if where.flags & 0xE0:
        raise Refused(invalid_field(1))
    if where.count > COMPARE_MAX:
        raise Refused(invalid_field(13))
    unit.disk.check_range(where.lba, where.count)
    unit.disk.check_writable()
    half = where.count * size
    if len(command.data) < 2 * half:
        raise Refused(PARAMETER_LENGTH)
    if where.count and (at := _difference(unit.disk.read(where.lba, where.count), command.data[:half])) >= 0:
        return check(Sense(key=Key.MISCOMPARE, asc=0x1D, information=at))
    if where.count:
        unit.disk.write(where.lba, command.data[half : 2 * half], through=bool(where.flags & 0x08))
    return good()


def _difference(found: bytes, wanted: bytes) -> int:
    """The first byte that differs, -1 for none."""
    if found == wanted:
        return -1
    return next(at for at, (one, other) in enumerate(zip(found, wanted, strict=True)) if one != other)


def verify(unit: Unit, command: Command) -> Answer:
    where = extent(command.cdb)
    disk, size = unit.disk, unit.disk.spec.sector
    compare = where.flags >> 1 & 0x03
    if where.flags & 0xE0 or compare == 2:
        raise Refused(invalid_field(1))
    disk.check_range(where.lba, where.count)
    if compare and where.count * size > MAX_TRANSFER:
        raise Refused(invalid_field(where.at))
    if compare:
        unit_data = command.data[: size if compare == 3 else where.count * size]
        if len(unit_data) < (size if compare == 3 else where.count * size):
            raise Refused(PARAMETER_LENGTH)
        wanted = unit_data * where.count if compare == 3 else unit_data
        found = disk.read(where.lba, where.count)
        if (at := _difference(found, wanted)) >= 0:
            return check(Sense(key=Key.MISCOMPARE, asc=0x1D, information=at))
        return good()
    lba, stop, step = where.lba, where.lba + where.count, _VERIFY_CHUNK // size
    while lba < stop:
        disk.read(lba, min(step, stop - lba))
        lba += step
    return good()


def synchronize(unit: Unit, command: Command) -> Answer:
    where = extent(command.cdb)
    unit.disk.check_range(where.lba, where.count)
    unit.disk.flush()
    return good()


def write_same(unit: Unit, command: Command) -> Answer:
    where = extent(command.cdb)
    disk = unit.disk
    unmap, no_data = bool(where.flags & 0x08), bool(where.flags & 0x01)
    if where.flags & 0xE0 or (no_data and command.cdb[0] == 0x41):
        raise Refused(invalid_field(1))
    if where.flags & 0x16 or (unmap and not disk.spec.unmap):
        raise Refused(invalid_field(1))
    # Length 0: to the end of the drive (WSNZ is 0).
    disk.check_range(where.lba, where.count)
    count = where.count or disk.blocks - where.lba
    block = bytes(disk.spec.sector) if no_data else command.data[: disk.spec.sector]
    if len(block) < disk.spec.sector:
        raise Refused(PARAMETER_LENGTH)
    # A block that is not what unmapped blocks read as is written, not unmapped (SBC-4 5.50).
    gone = unmap and not any(block)
    disk.clear(Method.DEALLOCATE if gone else Method.WRITE_SAME, where.lba, count, block)
    return good()


def unmap(unit: Unit, command: Command) -> Answer:
    if not unit.disk.spec.unmap:
        raise Refused(invalid_field(0))
    if command.cdb[1] & 0x01:
        raise Refused(invalid_field(1))
    length = take(command.cdb, 7, 2)
    data = command.data[:length]
    if length == 0:
        return good()
    if len(data) < 8 or length < 8:
        raise Refused(PARAMETER_LENGTH)
    total = take(data, 2, 2) & ~0x0F
    if total > UNMAP_RANGES * 16:
        raise Refused(invalid_parameter(2))
    ranges = []
    for at in range(8, min(8 + total, len(data) - 15), 16):
        lba, count = take(data, at, 8), take(data, at + 8, 4)
        if lba + count > unit.disk.blocks:
            raise Refused(out_of_range(lba))
        ranges.append((lba, count))
    for lba, count in ranges:
        unit.disk.clear(Method.DEALLOCATE, lba, count, bytes(unit.disk.spec.sector))
    return good()


def read_capacity_10(unit: Unit, command: Command) -> Answer:
    if not command.cdb[8] & 0x01 and take(command.cdb, 2, 4):
        raise Refused(invalid_field(2))
    last = min(unit.disk.blocks - 1, 0xFFFFFFFF)
    return good(last.to_bytes(4, "big") + unit.disk.spec.sector.to_bytes(4, "big"))


def read_capacity_16(unit: Unit, command: Command) -> Answer:
    disk = unit.disk
    data = bytearray(32)
    data[0:8] = (disk.blocks - 1).to_bytes(8, "big")
    data[8:12] = disk.spec.sector.to_bytes(4, "big")
    data[13] = (disk.spec.physical_size // disk.spec.sector).bit_length() - 1
    # LBPME and LBPRZ.
    data[14] = 0xC0 if disk.spec.unmap else 0
    return good(bytes(data), take(command.cdb, 10, 4))


def data_out_length(cdb: bytes, sector: int) -> int | None:
    """How many bytes of data a command on blocks takes, None for the others."""
    match cdb[0]:
        case 0x0A | 0x2A | 0x2E | 0x8A | 0x8E | 0xAA:
            return extent(cdb).count * sector
        case 0x41:
            return sector
        case 0x89:
            return 2 * extent(cdb).count * sector
        case 0x93:
            return 0 if cdb[1] & 0x01 else sector
        case 0x2F | 0x8F:
            compare = cdb[1] >> 1 & 0x03
            return {0: 0, 1: extent(cdb).count * sector, 3: sector}.get(compare)
        case 0x00 | 0x25 | 0x28 | 0x35 | 0x88 | 0x91 | 0xA8:
            return 0
        case _:
            return None
