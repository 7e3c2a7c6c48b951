"""MODE SENSE and MODE SELECT (SPC-5 6.14 and 7.5, SBC-4 6.5)."""

from __future__ import annotations

from teeth.lab.drives.answer import Answer, Command, Refused, good, take
from teeth.lab.drives.disk import Disk
from teeth.lab.drives.sense import (
    MODE_CHANGED,
    PARAMETER_LENGTH,
    Key,
    Sense,
    invalid_field,
    invalid_parameter,
)
from teeth.lab.drives.unit import Unit

_SAVING_UNSUPPORTED = Sense(key=Key.ILLEGAL_REQUEST, asc=0x39)
# Bits that MODE SELECT may change, by page; the page's two header bytes are left out here.
_CHANGEABLE = {
    0x01: bytes.fromhex("c0000000000000000000"),
    0x08: bytes.fromhex("05000000000000000000000000000000 0000"),
    0x0A: bytes.fromhex("04000800000000000000"),
    0x1C: bytes.fromhex("00000000000000000000"),
}


def defaults(disk: Disk) -> dict[int, bytes]:
    """The pages as the drive is made, header bytes included."""
    recovery = bytes.fromhex("010a c0 03 00 00 00 00 03 00 ffff")
    caching = bytearray(bytes.fromhex("0812") + bytes(18))
    caching[2] = 0x04 if disk.spec.write_cache else 0
    control = bytearray(bytes.fromhex("0a0a") + bytes(10))
    control[2] = 0x04 if disk.spec.descriptor_sense else 0
    exceptions = bytes.fromhex("1c0a 10 06 00000000 00000001")
    return {0x01: recovery, 0x08: bytes(caching), 0x0A: bytes(control), 0x1C: exceptions}


def current(unit: Unit) -> dict[int, bytes]:
    saved = {int(page): bytes.fromhex(text) for page, text in unit.disk.state.modes.items()}
    return {**defaults(unit.disk), **saved, **unit.modes}


def apply(unit: Unit) -> None:
    """Let the pages take effect: the write cache, software write protection."""
    pages = current(unit)
    unit.disk.caching = bool(pages[0x08][2] & 0x04)
    unit.disk.protected = bool(pages[0x0A][4] & 0x08)
    if not unit.disk.caching:
        unit.disk.flush()


def mode_sense(unit: Unit, command: Command) -> Answer:
    cdb = command.cdb
    ten = cdb[0] == 0x5A
    control, code, subpage = cdb[2] >> 6, cdb[2] & 0x3F, cdb[3]
    if control == 3 and not _saves(unit):
        raise Refused(_SAVING_UNSUPPORTED)
    if subpage not in (0, 0xFF) or (subpage == 0xFF and code != 0x3F):
        raise Refused(invalid_field(3))
    pages = _view(unit, control)
    if code != 0x3F and code not in pages:
        raise Refused(invalid_field(2))
    body = b"".join(page for number, page in sorted(pages.items()) if code in (0x3F, number))
    blocks = b"" if cdb[1] & 0x08 else _descriptor(unit.disk, long=ten and bool(cdb[1] & 0x10))
    device = (0x80 if unit.disk.read_only or unit.disk.protected else 0) | 0x10
    if ten:
        size = 6 + len(blocks) + len(body)
        head = size.to_bytes(2, "big") + bytes((0, device, int(len(blocks) == 16), 0))
        return good(head + len(blocks).to_bytes(2, "big") + blocks + body, take(cdb, 7, 2))
    return good(bytes((3 + len(blocks) + len(body), 0, device, len(blocks))) + blocks + body, cdb[4])


def _saves(unit: Unit) -> bool:
    return not unit.identity().sata


def _view(unit: Unit, control: int) -> dict[int, bytes]:
    now = current(unit)
    if control == 1:
        return {number: page[:2] + _CHANGEABLE[number] for number, page in now.items()}
    if control == 2:
        now = defaults(unit.disk)
    # PS: the page can be saved.
    return {n: bytes((page[0] | (0x80 if _saves(unit) else 0),)) + page[1:] for n, page in now.items()}


def _descriptor(disk: Disk, *, long: bool) -> bytes:
    blocks, sector = disk.blocks, disk.spec.sector
    if long:
        return blocks.to_bytes(8, "big") + bytes(4) + sector.to_bytes(4, "big")
    return min(blocks, 0xFFFFFFFF).to_bytes(4, "big") + b"\0" + sector.to_bytes(3, "big")


def mode_select(unit: Unit, command: Command) -> Answer:
    cdb = command.cdb
    ten = cdb[0] == 0x55
    length = take(cdb, 7, 2) if ten else cdb[4]
    save = bool(cdb[1] & 0x01)
    if not cdb[1] & 0x10:
        raise Refused(invalid_field(1))
    if save and not _saves(unit):
        raise Refused(invalid_field(1))
    if length == 0:
        return good()
    data = command.data[:length]
    start = 8 if ten else 4
    if len(data) < start:
        raise Refused(PARAMETER_LENGTH)
    described = take(data, 6, 2) if ten else data[3]
    _check_descriptor(unit.disk, data[start : start + described], start, described)
    changed = _pages(unit, data, start + described)
    if changed:
        unit.modes.update(changed)
        if save:
            unit.disk.state.modes.update({str(n): page.hex() for n, page in changed.items()})
            unit.disk.save()
        apply(unit)
        unit.attend(MODE_CHANGED, but=command.nexus)
    return good()


def _check_descriptor(disk: Disk, data: bytes, start: int, said: int) -> None:
    """Only what is already so: resizing and other sector sizes are not this drive's."""
    if said not in (0, 8, 16):
        raise Refused(invalid_parameter(start - 1))
    if len(data) < said:
        raise Refused(PARAMETER_LENGTH)
    if said == 0:
        return
    blocks, sector = (
        (take(data, 0, 8), take(data, 12, 4)) if said == 16 else (take(data, 0, 4), take(data, 5, 3))
    )
    if sector not in (0, disk.spec.sector):
        raise Refused(invalid_parameter(start + said - 3))
    if blocks not in (0, disk.blocks, 0xFFFFFFFF):
        raise Refused(invalid_parameter(start))


def _pages(unit: Unit, data: bytes, at: int) -> dict[int, bytes]:
    """The pages sent, checked as a whole before any takes effect."""
    now = current(unit)
    changed: dict[int, bytes] = {}
    while at < len(data):
        number = data[at] & 0x3F
        if data[at] & 0x40 or number not in now:
            raise Refused(invalid_parameter(at))
        old = now[number]
        if at + len(old) > len(data):
            raise Refused(PARAMETER_LENGTH)
        if data[at + 1] != old[1]:
            raise Refused(invalid_parameter(at + 1))
        sent = bytes((number,)) + data[at + 1 : at + len(old)]
        mask = bytes(2) + _CHANGEABLE[number]
        for index, (was, new, may) in enumerate(zip(old, sent, mask, strict=True)):
            if (was ^ new) & ~may & 0xFF and index > 1:
                raise Refused(invalid_parameter(at + index))
        if sent != old:
            changed[number] = sent
        at += len(old)
    return changed
