"""Firmware: WRITE BUFFER and READ BUFFER (SPC-5 6.49, 6.22), and what an image looks like.

A lab image is `TEETHFW1`, the revision in 8 bytes, any filling, and the SHA-256 of all before it. A drive
takes no other: what was cut, changed or made for something else is refused like on a real one.
"""

from __future__ import annotations

import hashlib

from teeth.lab.drives.answer import Answer, Command, Refused, good, take
from teeth.lab.drives.disk import Disk
from teeth.lab.drives.sense import (
    MICROCODE_CHANGED,
    PARAMETER_LENGTH,
    SEQUENCE_ERROR,
    Key,
    Sense,
    invalid_field,
)
from teeth.lab.drives.unit import Unit

_MAGIC = b"TEETHFW1"
IMAGE_MAX = 4 << 20
_BAD_IMAGE = Sense(key=Key.ILLEGAL_REQUEST, asc=0x26, field=0, in_data=True)
# WRITE BUFFER modes: download, with offsets or not, taking effect at once or later.
DOWNLOAD, DOWNLOAD_SAVE, OFFSETS, OFFSETS_SAVE, SELECT_ACTIVATION, DEFER, ACTIVATE = 4, 5, 6, 7, 0xD, 0xE, 0xF
_BUFFER = 4096


def make_image(revision: str, *, size: int = 64 << 10) -> bytes:
    """An image that makes a drive say ``revision``."""
    body = _MAGIC + revision.encode("ascii").ljust(8)[:8]
    body = body.ljust(size - 32, b"\xa5")
    return body + hashlib.sha256(body).digest()


def revision_of(image: bytes) -> str | None:
    """The revision inside an image, None for what is not one."""
    body, digest = image[:-32], image[-32:]
    if not body.startswith(_MAGIC) or hashlib.sha256(body).digest() != digest:
        return None
    return body[8:16].decode("ascii", "replace").strip()


def begins_well(data: bytes) -> bool:
    """Whether this may become an image when more of it comes."""
    return data.startswith(_MAGIC)


def activate_waiting(disk: Disk) -> bool:
    """Run the firmware that was saved for later; whether there was some."""
    if not disk.state.firmware_waiting:
        return False
    disk.state.firmware, disk.state.firmware_waiting = disk.state.firmware_waiting, ""
    disk.save()
    return True


def write_buffer(unit: Unit, command: Command) -> Answer:
    cdb = command.cdb
    mode, offset, length = cdb[1] & 0x1F, take(cdb, 3, 3), take(cdb, 6, 3)
    if mode == ACTIVATE:
        if activate_waiting(unit.disk):
            unit.attend(MICROCODE_CHANGED, but=command.nexus)
        return good()
    data = command.data[:length]
    if len(data) < length:
        raise Refused(PARAMETER_LENGTH)
    if mode == 0x02:
        return _plain(unit, offset, data)
    if mode in (DOWNLOAD, DOWNLOAD_SAVE):
        if offset:
            raise Refused(invalid_field(3))
        unit.microcode[:] = data
    elif mode in (OFFSETS, OFFSETS_SAVE, SELECT_ACTIVATION, DEFER):
        _append(unit.microcode, offset, data)
    else:
        raise Refused(invalid_field(1))
    return _taken(unit, command, mode)


def _append(held: bytearray, offset: int, data: bytes) -> None:
    if offset == 0:
        held.clear()
    if offset != len(held) or offset + len(data) > IMAGE_MAX:
        held.clear()
        raise Refused(SEQUENCE_ERROR)
    held += data


def _taken(unit: Unit, command: Command, mode: int) -> Answer:
    """See whether the image is whole now, and let it take effect as the mode says."""
    revision = revision_of(bytes(unit.microcode))
    if revision is None:
        if mode in (DOWNLOAD, DOWNLOAD_SAVE) or not begins_well(bytes(unit.microcode)):
            unit.microcode.clear()
            raise Refused(_BAD_IMAGE)
        return good()  # more segments may follow
    unit.microcode.clear()
    unit.disk.state.firmware_waiting = revision
    unit.disk.save()
    if mode not in (DEFER, SELECT_ACTIVATION) and activate_waiting(unit.disk):
        unit.attend(MICROCODE_CHANGED, but=command.nexus)
    return good()


def _plain(unit: Unit, offset: int, data: bytes) -> Answer:
    if offset + len(data) > _BUFFER:
        raise Refused(invalid_field(3))
    unit.data_buffer[offset : offset + len(data)] = data
    return good()


def read_buffer(unit: Unit, command: Command) -> Answer:
    cdb = command.cdb
    mode, offset, length = cdb[1] & 0x1F, take(cdb, 3, 3), take(cdb, 6, 3)
    if cdb[2]:
        raise Refused(invalid_field(2))
    if mode == 0x02:
        if offset > _BUFFER:
            raise Refused(invalid_field(3))
        return good(bytes(unit.data_buffer[offset:]), length)
    if mode == 0x03:  # descriptor: offset boundary 2^0, capacity
        return good(b"\0" + _BUFFER.to_bytes(3, "big"), length)
    raise Refused(invalid_field(1))
