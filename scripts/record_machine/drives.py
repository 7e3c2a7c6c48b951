"""What each drive answers to raw commands that only read."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import re
import struct

from record_machine.found import DEVICES_MOST, Json, Recording, dense, names, sparse, text_of, tool

COMMAND_MS = 10_000
SG_IO = 0x2285
SG_FROM_DEVICE = -3
SG_NONE = -1
DRIVER_SENSE = 0x08  # no error: there are sense data
NVME_ADMIN = 0xC0484E41


class SgHeader(ctypes.Structure):
    """sg_io_hdr of <scsi/sg.h>."""

    _fields_ = [
        ("interface_id", ctypes.c_int), ("direction", ctypes.c_int),
        ("cmd_len", ctypes.c_ubyte), ("mx_sb_len", ctypes.c_ubyte), ("iovec_count", ctypes.c_ushort),
        ("dxfer_len", ctypes.c_uint), ("dxferp", ctypes.c_void_p), ("cmdp", ctypes.c_void_p),
        ("sbp", ctypes.c_void_p), ("timeout", ctypes.c_uint), ("flags", ctypes.c_uint),
        ("pack_id", ctypes.c_int), ("usr_ptr", ctypes.c_void_p), ("status", ctypes.c_ubyte),
        ("masked_status", ctypes.c_ubyte), ("msg_status", ctypes.c_ubyte), ("sb_len_wr", ctypes.c_ubyte),
        ("host_status", ctypes.c_ushort), ("driver_status", ctypes.c_ushort), ("resid", ctypes.c_int),
        ("duration", ctypes.c_uint), ("info", ctypes.c_uint),
    ]  # fmt: skip


def scsi(descriptor: int, cdb: bytes, receive: int) -> Json:
    """One command that reads; the answer as it came. Raises OSError when it cannot be sent."""
    command = ctypes.create_string_buffer(cdb, len(cdb))
    data, sense = ctypes.create_string_buffer(max(receive, 1)), ctypes.create_string_buffer(64)
    header = SgHeader(
        interface_id=ord("S"), direction=SG_FROM_DEVICE if receive else SG_NONE, cmd_len=len(cdb),
        mx_sb_len=64, dxfer_len=receive, dxferp=ctypes.addressof(data), cmdp=ctypes.addressof(command),
        sbp=ctypes.addressof(sense), timeout=COMMAND_MS,
    )  # fmt: skip
    fcntl.ioctl(descriptor, SG_IO, header)
    return {
        "cdb": cdb.hex(), "receive": receive, "status": header.status,
        "transport": header.host_status << 8 | header.driver_status & ~DRIVER_SENSE,
        "sense": sense.raw[: header.sb_len_wr].hex(),
        "data": sparse(data.raw[: max(receive - header.resid, 0)]) if receive else sparse(b""),
    }  # fmt: skip


def ata16(command: int, *, feature: int = 0, receive: int = 0, extended: bool = False) -> bytes:
    """ATA PASS-THROUGH (16), SAT-4 12.2.2: a block by PIO, or no data and CK_COND for the registers."""
    protocol, flags, count = (4, 0x0E, 1) if receive else (3, 0x20, 0)
    return bytes([0x85, protocol << 1 | extended, flags, 0, feature, 0, count, *[0] * 6, 0x40, command, 0])


ATA_QUESTIONS = (
    (ata16(0xEC, receive=512), 512),  # IDENTIFY DEVICE
    (ata16(0xB4, extended=True), 0),  # SANITIZE STATUS EXT
    (ata16(0x27, extended=True), 0),  # READ NATIVE MAX ADDRESS EXT
    (ata16(0xF8), 0),  # READ NATIVE MAX ADDRESS
    (ata16(0x78, extended=True), 0),  # GET NATIVE MAX ADDRESS EXT
    (ata16(0xB1, feature=0xC2, receive=512), 512),  # DEVICE CONFIGURATION IDENTIFY
    (bytes([0x4D, 0, 0x56, 0, 0, 0, 0, 2, 0, 0]), 512),  # LOG SENSE: the registers that sense data cut off
)
QUESTIONS = (
    (bytes(6), 0),  # TEST UNIT READY
    (bytes([0x03, 0, 0, 0, 252, 0]), 252),  # REQUEST SENSE
    (bytes([0x12, 0, 0, 0, 96, 0]), 96),  # INQUIRY
    (bytes([0x9E, 0x10, *[0] * 11, 32, 0, 0]), 32),  # READ CAPACITY (16)
    (bytes([0x1A, 0x08, 0x3F, 0, 192, 0]), 192),  # MODE SENSE (6), (10)
    (bytes([0x5A, 0x08, 0x3F, 0, 0, 0, 0, 1, 0, 0]), 256),
    (bytes([0xB7, 0x08, *[0] * 7, 8, 0, 0]), 8),  # READ DEFECT DATA (12), (10): the head
    (bytes([0x37, 0, 0x08, *[0] * 5, 4, 0]), 4),
    (bytes([0x5E, *[0] * 6, 2, 0, 0]), 512),  # PERSISTENT RESERVE IN: keys
)
# SANITIZE by its services; FORMAT UNIT and WRITE SAME (16), which have none.
OPERATIONS = ((0x48, 1), (0x48, 2), (0x48, 3), (0x48, 0x1F), (0x04, None), (0x93, None))


def read_scsi(name: str, entry: Json, *, ata: bool) -> None:
    """INQUIRY, vital product data, what a drive can do; of an ATA drive also IDENTIFY DEVICE and the like."""
    answers = entry.setdefault("scsi", [])
    descriptor = os.open(f"/dev/{name}", os.O_RDONLY | os.O_NONBLOCK)
    try:
        answers += [scsi(descriptor, cdb, receive) for cdb, receive in QUESTIONS]
        pages = [0x00]
        for page in pages:
            answer = scsi(descriptor, bytes([0x12, 1, page, 4, 0, 0]), 1024)
            answers.append(answer)
            if page == 0 and answer["status"] == 0:
                said = dense(answer["data"])
                pages += sorted({page for page in said[4 : 4 + said[3]] if page})[:32]
        for code, service in OPERATIONS:
            # REPORT SUPPORTED OPERATION CODES, with timeouts.
            how = 0x81 if service is None else 0x82
            cdb = bytes([0xA3, 0x0C, how, code, 0, service or 0, 0, 0, 1, 0, 0, 0])
            answers.append(scsi(descriptor, cdb, 256))
        answers += [scsi(descriptor, cdb, receive) for cdb, receive in (ATA_QUESTIONS if ata else ())]
    finally:
        os.close(descriptor)


def nvme(descriptor: int, opcode: int, nsid: int, cdw10: int, cdw11: int, receive: int) -> Json:
    """One admin command that reads, by NVME_IOCTL_ADMIN_CMD (<linux/nvme_ioctl.h>)."""
    data = ctypes.create_string_buffer(receive)
    command = bytearray(struct.pack(
        "<BBHIIIQQIIIIIIIIII", opcode, 0, 0, nsid, 0, 0, 0, ctypes.addressof(data), 0, receive,
        cdw10, cdw11, 0, 0, 0, 0, COMMAND_MS, 0,
    ))  # fmt: skip
    status = fcntl.ioctl(descriptor, NVME_ADMIN, command, True)
    result = struct.unpack_from("<I", command, 68)[0]
    return {
        "opcode": opcode, "nsid": nsid, "cdw10": cdw10, "cdw11": cdw11, "status": status & 0x7FF,
        "result": result, "data": sparse(data.raw if status == 0 else b""),
    }  # fmt: skip


def read_nvme(name: str, entry: Json) -> None:
    """Identify of the controller and of its namespaces, and its logs; NVMe base specification 2.0, 5.17."""
    answers = entry.setdefault("nvme", [])
    descriptor = os.open(f"/dev/{name}", os.O_RDONLY)
    try:
        found = []
        for what in (0x01, 0x02, 0x10):  # controller, active namespaces, allocated ones
            answer = nvme(descriptor, 0x06, 0, what, 0, 4096)
            answers.append(answer)
            if what != 0x01 and answer["status"] == 0:
                found += [value for value in struct.unpack("<1024I", dense(answer["data"])) if value]
        for nsid in sorted(set(found))[:64]:
            for what in (0x00, 0x03, 0x11):  # namespace, its descriptors, the allocated namespace
                answers.append(nvme(descriptor, 0x06, nsid, what, 0, 4096))
        # Sanitize, SMART, firmware slots, commands and effects.
        for page, size in ((0x81, 512), (0x02, 512), (0x03, 512), (0x05, 4096)):
            answers.append(nvme(descriptor, 0x02, 0xFFFFFFFF, page | (size // 4 - 1) << 16, 0, size))
    finally:
        os.close(descriptor)


def read_drives(one: Recording) -> None:
    """Ask each drive itself, by raw commands and by smartctl."""
    for name in [*names("/sys/class/block"), *names("/sys/class/nvme")][:DEVICES_MOST]:
        path = os.path.realpath(f"/sys/class/block/{name}")
        controller = re.match(r"nvme\d+$", name) is not None
        if not controller and not os.path.isdir(f"{path}/device/scsi_device"):
            continue
        entry: Json = {}
        try:
            if controller:
                read_nvme(name, entry)
            else:
                # Bridges of USB drives have hung on commands they did not know: those get none of ATA's.
                translated = (
                    text_of(f"{path}/device/vendor", 64) or ""
                ).strip() == "ATA"  # behind a SAS adapter, say
                read_scsi(name, entry, ata=("/ata" in path or translated) and "/usb" not in path)
        except OSError as error:
            one.lacks(f"/dev/{name}: {error.strerror}")
        text = tool(one, ["smartctl", "-j", "-x", f"/dev/{name}"])
        try:
            entry["smart"] = json.loads(text) if text else None
        except ValueError:
            one.lacks(f"smartctl of /dev/{name} (no JSON)")
        one.drives[name] = entry
