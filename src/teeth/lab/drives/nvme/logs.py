"""Get Log Page (NVMe base 2.0, 5.16)."""

from __future__ import annotations

import math
from collections.abc import Callable

from teeth.lab.drives.logs import TEMPERATURE
from teeth.lab.drives.model import Method
from teeth.lab.drives.nvme.core import Core, Host
from teeth.lab.drives.nvme.fields import put, text
from teeth.lab.drives.nvme.identify import TRANSFER_MAX
from teeth.lab.drives.nvme.sanitize import passes_done
from teeth.lab.drives.nvme.spec import UNIT
from teeth.lab.drives.submission import Code, NvmeAnswer, NvmeCommand, NvmeRefused, NvmeReply

_EVENT_OF_PAGE = {0x01: 0, 0x02: 1, 0x03: 2, 0x04: 2, 0x81: 6}
_KELVIN = 273
_UNKNOWN = 0xFFFFFFFF


def get_log_page(core: Core, host: Host, command: NvmeCommand) -> NvmeAnswer:
    page = command.cdw10 & 0xFF
    length = ((command.cdw10 >> 16 | (command.cdw11 & 0xFFFF) << 16) + 1) * 4
    offset = command.cdw12 | command.cdw13 << 32
    row = PAGES.get(page)
    if row is None:
        raise NvmeRefused(Code.INVALID_LOG_PAGE)
    if not row[2] and (trouble := core.trouble()):
        raise NvmeRefused(trouble)
    if offset % 4 or length > TRANSFER_MAX or command.cdw14 >> 23 & 1:
        raise NvmeRefused(Code.INVALID_FIELD)
    data = row[1](core, host)
    if offset > len(data):
        raise NvmeRefused(Code.INVALID_FIELD)
    if not command.cdw10 >> 15 & 1:  # without "retain asynchronous event"
        host.masked.discard(_EVENT_OF_PAGE.get(page, -1))
        if page == 0x04:
            host.changed.clear()
    return NvmeReply(data=data[offset : offset + length].ljust(length, b"\0"))


def _supported(core: Core, host: Host) -> bytes:
    """Log pages that there are, and that offsets are counted in bytes (5.16.1.1)."""
    return b"".join((int(page in PAGES)).to_bytes(4, "little") for page in range(256))


def _errors(core: Core, host: Host) -> bytes:
    """The last commands that ended badly, newest first (5.16.1.2)."""
    data = bytearray(64 * 64)
    for number, failure in enumerate(core.failures):
        entry = bytearray(64)
        put(entry, 0, 8, failure.count)
        put(entry, 12, 2, failure.status << 1)
        put(entry, 14, 2, 0xFFFF)
        put(entry, 16, 8, failure.lba)
        put(entry, 24, 4, failure.nsid)
        data[64 * number : 64 * number + 64] = entry
    return bytes(data)


def _smart(core: Core, host: Host) -> bytes:
    """SMART / health information (5.16.1.3)."""
    data, state, spec = bytearray(512), core.disk.state, core.spec
    spare = 100 - 100 * len(state.remapped) // max(1, spec.spares)
    data[0] = int(spare < 10) | int(core.disk.read_only) << 3
    put(data, 1, 2, TEMPERATURE + _KELVIN)
    data[3], data[4] = spare, 10
    put(data, 32, 16, -(-state.read * UNIT // 512_000))
    put(data, 48, 16, -(-state.written * UNIT // 512_000))
    put(data, 64, 16, state.read)
    put(data, 80, 16, state.written)
    put(data, 112, 16, state.power_cycles)
    put(data, 128, 16, state.power_cycles)
    put(data, 160, 16, len(state.bad) + len(state.remapped))
    put(data, 176, 16, core.failed)
    return bytes(data)


def _firmware(core: Core, host: Host) -> bytes:
    """Firmware slots (5.16.1.4)."""
    data, state = bytearray(512), core.state
    data[0] = state.active | state.next << 4
    for number, revision in enumerate(state.slots):
        if revision:
            text(data, 8 + 8 * number, 8, revision)
    return bytes(data)


def _changed(core: Core, host: Host) -> bytes:
    """Namespaces that changed since this was read last (5.16.1.5)."""
    return b"".join(nsid.to_bytes(4, "little") for nsid in sorted(host.changed)).ljust(4096, b"\0")


def _effects(core: Core, host: Host) -> bytes:
    """Commands that there are and what they do (5.16.1.6)."""
    data = bytearray(4096)
    for at, table in ((0, core.admin_table), (1024, core.io_table)):
        for opcode, operation in table.items():
            put(data, at + 4 * opcode, 4, 1 | operation.effects)
    return bytes(data)


def _sanitize(core: Core, host: Host) -> bytes:
    """Sanitize status (5.16.1.25)."""
    data, state, disk = bytearray(512), core.state, core.disk
    running = disk.state.sanitize.state == "running"
    put(data, 0, 2, min(0xFFFE, int(disk.said_fraction() * 65536)) if running else 0xFFFF)
    put(data, 2, 2, state.sstat | passes_done(core) << 3 | int(state.clean) << 8)
    put(data, 4, 4, state.scdw10)
    for at, method in (
        (8, Method.SANITIZE_OVERWRITE),
        (12, Method.SANITIZE_BLOCK),
        (16, Method.SANITIZE_CRYPTO),
    ):
        # What is told of an overwrite is the time of sixteen passes.
        passes = 16 if method is Method.SANITIZE_OVERWRITE else 1
        known = method in core.spec.sanitizes
        estimate = math.ceil(core.spec.seconds(method, passes)) if known else _UNKNOWN
        put(data, at, 4, estimate)
        put(data, at + 12, 4, estimate)
    return bytes(data)


Page = Callable[[Core, Host], bytes]
# Name, what gives it, and whether it is given although a sanitize runs or has failed.
PAGES: dict[int, tuple[str, Page, bool]] = {
    0x00: ("Supported Log Pages", _supported, True),
    0x01: ("Error Information", _errors, True),
    0x02: ("SMART / Health Information", _smart, True),
    0x03: ("Firmware Slot Information", _firmware, False),
    0x04: ("Changed Namespace List", _changed, True),
    0x05: ("Commands Supported and Effects", _effects, True),
    0x81: ("Sanitize Status", _sanitize, True),
}
