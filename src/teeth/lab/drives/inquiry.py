"""INQUIRY and its vital product data (SPC-5 6.7 and 7.7, SBC-4 6.6, SAT-4 8.1 and 12.4)."""

from __future__ import annotations

from teeth.lab.drives.answer import Answer, Command, Refused, good, take
from teeth.lab.drives.disk import Disk
from teeth.lab.drives.sense import invalid_field
from teeth.lab.drives.unit import Unit, model_name

MAX_TRANSFER = 32 << 20  # bytes one command may carry; block limits page
COMPARE_MAX = 0xFF  # blocks one COMPARE AND WRITE compares
UNMAP_RANGES = 256
# SAM-5, SPC-4, SBC-3, and SAS or SAT beside them: version descriptors, SPC-5 table 144.
_SAS_VERSIONS = (0x00A0, 0x0C00, 0x0460, 0x04C0)
_SAT_VERSIONS = (0x00A0, 0x1EA0, 0x0460, 0x04C0)


def inquiry(unit: Unit, command: Command) -> Answer:
    cdb = command.cdb
    limit = take(cdb, 3, 2)
    if cdb[1] & 0x02:
        raise Refused(invalid_field(1))
    if not cdb[1] & 0x01:
        if cdb[2]:
            raise Refused(invalid_field(2))
        return good(_standard(unit), limit)
    pages = vital_pages(unit)
    if cdb[2] not in pages:
        raise Refused(invalid_field(2))
    body = pages[cdb[2]]
    return good(bytes((0, cdb[2])) + len(body).to_bytes(2, "big") + body, limit)


def _standard(unit: Unit) -> bytes:
    said = unit.identity()
    data = bytearray(96)
    # SPC-4, response data format 2 with HiSup, additional length, CmdQue.
    data[2:8] = bytes((0x06, 0x12, 96 - 5, 0, 0, 0x02))
    data[8:16] = _text(said.vendor, 8)
    data[16:32] = _text(said.product, 16)
    data[32:36] = _text(said.revision, 4)
    for index, version in enumerate(_SAT_VERSIONS if said.sata else _SAS_VERSIONS):
        data[58 + 2 * index : 60 + 2 * index] = version.to_bytes(2, "big")
    return bytes(data)


def vital_pages(unit: Unit) -> dict[int, bytes]:
    """Every page the unit has, without its 4-byte header."""
    disk = unit.disk
    pages = {
        0x80: _text(disk.serial, 20),
        0x83: _names(unit),
        0xB0: _block_limits(unit),
        0xB1: _characteristics(unit),
        0xB2: _provisioning(disk),
    }
    pages |= unit.extra_pages()
    return {0x00: bytes(sorted((0x00, *pages))), **dict(sorted(pages.items()))}


def _text(text: str, size: int) -> bytes:
    return text.encode("ascii").ljust(size)[:size]


def _names(unit: Unit) -> bytes:
    """NAA of the logical unit; a SATA drive also the vendor-specific and T10 names of SAT-4 12.4.2."""
    disk = unit.disk
    naa = bytes((0x01, 0x03, 0, 8)) + bytes.fromhex(disk.spec.wwn)
    said = unit.identity()
    if said.sata:
        serial = _text(disk.serial, 20)
        t10 = _text(said.vendor, 8) + _text(model_name(disk), 40) + serial
        return bytes((0x02, 0, 0, 20)) + serial + bytes((0x02, 1, 0, len(t10))) + t10 + naa
    t10 = _text(said.vendor, 8) + _text(said.product, 16) + _text(disk.serial, 20)
    # The target port: relative number 1, and a name of its own next to the unit's, as SAS drives count.
    port = f"{int(disk.spec.wwn, 16) + 1:016x}"
    return (
        naa
        + bytes((0x02, 1, 0, len(t10)))
        + t10
        + bytes((0x61, 0x93, 0, 8))
        + bytes.fromhex(port[-16:])
        + bytes((0x61, 0x94, 0, 4, 0, 0, 0, 1))
    )


def _block_limits(unit: Unit) -> bytes:
    disk, body = unit.disk, bytearray(60)
    body[1] = COMPARE_MAX if (0x89, None) in unit.operations else 0
    sector = disk.spec.sector
    body[2:4] = max(1, disk.spec.physical_size // sector).to_bytes(2, "big")
    body[4:8] = (MAX_TRANSFER // sector).to_bytes(4, "big")
    body[8:12] = (min(1 << 20, MAX_TRANSFER) // sector).to_bytes(4, "big")
    if disk.spec.unmap:
        body[16:20] = (0xFFFFFFFF).to_bytes(4, "big")
        body[20:24] = UNMAP_RANGES.to_bytes(4, "big")
        body[24:28] = max(1, disk.spec.physical_size // sector).to_bytes(4, "big")
    return bytes(body)


def _characteristics(unit: Unit) -> bytes:
    disk = unit.disk
    body = bytearray(60)
    body[0:2] = (disk.spec.rpm if disk.spec.rotational else 1).to_bytes(2, "big")
    # WABEREQ and WACEREQ: reads after such an erase give data; nominal form factor 2.5 or 3.5 inch.
    body[3] = 0x40 if (0x48, 0x02) in unit.operations else 0
    body[3] |= 0x10 if (0x48, 0x03) in unit.operations else 0
    body[3] |= 0x02 if disk.spec.rotational else 0x03
    return bytes(body)


def _provisioning(disk: Disk) -> bytes:
    if not disk.spec.unmap:
        return bytes(4)
    # LBPU, LBPWS, LBPWS10, LBPRZ=1 (zeros); thin would need thresholds: resource provisioned.
    return bytes((0, 0x80 | 0x40 | 0x20 | 0x04, 0x01, 0))
