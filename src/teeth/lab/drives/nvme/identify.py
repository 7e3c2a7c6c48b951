"""Identify (NVMe base 2.0, 5.17; NVM command set 1.0, 4.1.5)."""

from __future__ import annotations

import math

from teeth.lab.drives.model import Method, Namespace
from teeth.lab.drives.nvme.core import ALL, CONTROLLER_ID, EVENT_REQUESTS, Core, Host
from teeth.lab.drives.nvme.fields import put, text
from teeth.lab.drives.nvme.spec import NAMESPACES_MAX, UNIT
from teeth.lab.drives.submission import Code, NvmeAnswer, NvmeCommand, NvmeRefused, NvmeReply
from teeth.lab.drives.unit import model_name

_SIZE = 4096
VERSION = 0x00020000
TRANSFER_SHIFT = 8  # MDTS: 2^8 pages of 4 KiB
TRANSFER_MAX = 4096 << TRANSFER_SHIFT
IN_CAPSULE = 8192
SECTORS = (512, 4096)  # LBA formats 0 and 1
_ACTIONS = {Method.SANITIZE_CRYPTO: 0x1, Method.SANITIZE_BLOCK: 0x2, Method.SANITIZE_OVERWRITE: 0x4}


def identify(core: Core, host: Host, command: NvmeCommand) -> NvmeAnswer:
    kind, controller = command.cdw10 & 0xFF, command.cdw10 >> 16
    command_set = command.cdw11 >> 24
    nsid = command.nsid
    match kind:
        case 0x00 | 0x11:
            data = _namespace(core, nsid, allocated=kind == 0x11)
        case 0x01:
            data = _controller(core)
        case 0x02 | 0x10:
            data = _namespace_list(core, nsid, allocated=kind == 0x10)
        case 0x03:
            data = _descriptors(core, nsid)
        case 0x05 if command_set == 0:
            _need(core, nsid)
            data = bytes(_SIZE)  # no end-to-end protection, which is all it tells of (NVM 1.0, 4.1.5.3)
        case 0x06 if command_set == 0:
            data = bytes(_SIZE)  # no limits beyond those of the controller (NVM 1.0, 4.1.5.4)
        case 0x07 | 0x1A if command_set == 0:
            data = _namespace_list(core, nsid, allocated=kind == 0x1A)
        case 0x08:
            data = _independent(core, nsid)
        case 0x12 | 0x13:
            data = _controller_list(core, nsid, controller, attached=kind == 0x12)
        case 0x1C:
            data = (1).to_bytes(8, "little").ljust(_SIZE, b"\0")
        case _:
            raise NvmeRefused(Code.INVALID_FIELD)
    return NvmeReply(data=data)


def _need(core: Core, nsid: int) -> None:
    if core.active(nsid) is None:
        raise NvmeRefused(Code.INVALID_NAMESPACE if _bad(nsid) else Code.INVALID_FIELD)


def _bad(nsid: int) -> bool:
    return not 1 <= nsid <= NAMESPACES_MAX


# --- controller


def sanitize_capabilities(core: Core) -> int:
    """SANICAP: the methods, no-deallocate inhibited, and what not deallocating means."""
    if not core.spec.sanitizes:
        return 0
    found = sum(bit for method, bit in _ACTIONS.items() if method in core.spec.sanitizes)
    modified = {"kept": 1, "modified": 2, "inhibited": 0}[core.spec.no_deallocate]
    return found | (1 << 29 if core.spec.no_deallocate == "inhibited" else 0) | modified << 30


def format_attributes(core: Core) -> int:
    """FNA."""
    spec = core.spec
    return int(spec.format_all) | int(spec.erase_all) << 1 | int(spec.crypto_format) << 2


def _controller(core: Core) -> bytes:
    data = bytearray(_SIZE)
    spec, disk = core.spec, core.disk
    text(data, 4, 20, disk.serial)
    text(data, 24, 40, model_name(disk))
    text(data, 64, 8, disk.state.firmware)
    data[73:76] = int(spec.wwn[1:7], 16).to_bytes(
        3, "little"
    )  # an NAA name has the OUI behind its first digit
    data[77] = TRANSFER_SHIFT
    put(data, 78, 2, CONTROLLER_ID)
    put(data, 80, 4, VERSION)
    put(data, 92, 4, 1 << 8 | 1 << 9)  # events: namespace attributes, firmware activation
    put(data, 96, 4, 1)  # a host identifier of 128 bits
    data[111] = 1  # an I/O controller
    put(data, 256, 2, int(spec.formats) << 1 | 1 << 2 | int(spec.manages) << 3)
    data[258] = 3
    data[259] = EVENT_REQUESTS - 1
    data[260] = int(spec.first_slot_fixed) | spec.slots << 1 | 1 << 4
    data[261] = 1 << 1 | 1 << 2 | 1 << 5  # effects, offsets and long lengths, the list of log pages
    data[262] = 63
    data[264] = 1
    put(data, 266, 2, 343)
    put(data, 268, 2, 353)
    put(data, 280, 16, spec.blocks * UNIT)
    put(data, 296, 16, core.free_units() * UNIT)
    data[319] = 1  # firmware in pieces of 4 KiB
    put(data, 320, 2, 10)  # keep alive in seconds
    put(data, 328, 4, sanitize_capabilities(core))
    data[512], data[513] = 0x66, 0x44
    put(data, 514, 2, 128)
    put(data, 516, 4, NAMESPACES_MAX)
    put(data, 520, 2, 1 << 0 | int(spec.unmap) << 2 | 1 << 3 | 1 << 7)
    data[524] = format_attributes(core)
    data[525] = 0x06 | int(spec.write_cache)
    put(data, 536, 4, 1 | 1 << 20)
    put(data, 540, 4, NAMESPACES_MAX)
    name = spec.subsystem.encode()
    data[768 : 768 + len(name)] = name
    put(data, 1792, 4, (64 + IN_CAPSULE) // 16)
    put(data, 1796, 4, 1)
    data[1803] = 1
    put(data, 2048, 2, 2500)  # power state 0: 25 W
    return bytes(data)


# --- namespaces


def _namespace(core: Core, nsid: int, *, allocated: bool) -> bytes:
    if nsid == ALL and not allocated:
        # What all that can be made have in common.
        return _formats(bytearray(_SIZE), None)
    if _bad(nsid):
        raise NvmeRefused(Code.INVALID_NAMESPACE)
    found = core.allocated(nsid) if allocated else core.active(nsid)
    if found is None:
        return bytes(_SIZE)
    data = bytearray(_SIZE)
    size = core.said_size(found)
    for at in (0, 8, 16):
        put(data, at, 8, size)
    data[32] = 0x80 | _percent_left(core, found)
    data[33] = 0x01 | 0x08  # deallocated blocks read as zeros; write zeroes deallocates
    put(data, 48, 16, core.size(found) * UNIT)
    data[104:120] = namespace_guid(core, found)
    return _formats(data, found)


def _formats(data: bytearray, namespace: Namespace | None) -> bytes:
    """The block sizes there are, and which is on."""
    data[25] = len(SECTORS) - 1
    data[26] = SECTORS.index(namespace.sector) if namespace else 0
    for number, sector in enumerate(SECTORS):
        put(data, 128 + 4 * number, 4, (sector.bit_length() - 1) << 16 | (0 if number else 2) << 24)
    return bytes(data)


def _percent_left(core: Core, namespace: Namespace) -> int:
    """FPI: how much of a format is still to be done."""
    if namespace.format != "running":
        return {"incomplete": 100, "failed": 100}.get(namespace.format, 0)
    return max(1, math.ceil(100 * (1 - core.disk.said_fraction())))


def namespace_guid(core: Core, namespace: Namespace) -> bytes:
    """NGUID (base 2.0, 5.17.2.1): which of the namespaces that were ever made on the drive this is, then the
    drive's OUI and number."""
    return namespace.serial.to_bytes(8, "big") + bytes.fromhex(core.spec.wwn[1:] + "0")


def _descriptors(core: Core, nsid: int) -> bytes:
    """Namespace identification descriptors: NGUID and command set (base 2.0, 5.17.2.3)."""
    found = core.active(nsid)
    if found is None:
        raise NvmeRefused(Code.INVALID_NAMESPACE)
    data = bytes((2, 16, 0, 0)) + namespace_guid(core, found) + bytes((4, 1, 0, 0, 0))
    return data.ljust(_SIZE, b"\0")


def _independent(core: Core, nsid: int) -> bytes:
    """What a namespace is whatever its command set (base 2.0, 5.17.2.8): ready."""
    if _bad(nsid):
        raise NvmeRefused(Code.INVALID_NAMESPACE)
    data = bytearray(_SIZE)
    if (found := core.active(nsid)) is not None:
        data[4] = 0x80 | _percent_left(core, found)
        data[14] = 0x01
    return bytes(data)


def _namespace_list(core: Core, after: int, *, allocated: bool) -> bytes:
    if after >= 0xFFFFFFFE:
        raise NvmeRefused(Code.INVALID_NAMESPACE)
    found = sorted(
        one.nsid for one in core.state.namespaces if one.nsid > after and (allocated or one.attached)
    )
    return b"".join(nsid.to_bytes(4, "little") for nsid in found).ljust(_SIZE, b"\0")


def _controller_list(core: Core, nsid: int, first: int, *, attached: bool) -> bytes:
    there = first <= CONTROLLER_ID
    if attached:
        if _bad(nsid):
            raise NvmeRefused(Code.INVALID_NAMESPACE)
        there = there and core.active(nsid) is not None
    ids = [CONTROLLER_ID] if there else []
    return b"".join(one.to_bytes(2, "little") for one in [len(ids), *ids]).ljust(_SIZE, b"\0")
