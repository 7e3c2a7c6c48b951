"""The discovery controller: which subsystems there are (NVMe base 2.0, 3.1.2.3 and 5.16.1.23)."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from teeth.lab.drives.nvme.core import CONTROLLER_ID, Host
from teeth.lab.drives.nvme.events import Event
from teeth.lab.drives.nvme.fields import put, text
from teeth.lab.drives.nvme.identify import TRANSFER_MAX, TRANSFER_SHIFT, VERSION
from teeth.lab.drives.submission import Code, NvmeCommand, NvmeRefused, NvmeReply

DISCOVERY = "nqn.2014-08.org.nvmexpress.discovery"
_LOG = 0x70
_RECORD = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A subsystem and where to connect to it."""

    nqn: str
    host: str
    port: int


class Discovery:
    """Answers like a controller that has one log page and no namespace. ``records`` is asked each time."""

    address = DISCOVERY
    there = True
    queues = 0

    def __init__(self, records: Callable[[], Sequence[Record]]) -> None:
        self._records = records

    async def run(self, command: NvmeCommand, host: Host) -> NvmeReply | None:
        try:
            return self._answer(command, host)
        except NvmeRefused as refused:
            return NvmeReply(status=refused.status)

    def _answer(self, command: NvmeCommand, host: Host) -> NvmeReply:
        match command.opcode:
            case 0x02 if command.cdw10 & 0xFF == _LOG:
                length = ((command.cdw10 >> 16 | (command.cdw11 & 0xFFFF) << 16) + 1) * 4
                offset = command.cdw12 | command.cdw13 << 32
                log = _log(self._records())
                if length > TRANSFER_MAX or offset > len(log):
                    raise NvmeRefused(Code.INVALID_FIELD)
                return NvmeReply(data=log[offset : offset + length].ljust(length, b"\0"))
            case 0x02:
                raise NvmeRefused(Code.INVALID_LOG_PAGE)
            case 0x06 if command.cdw10 & 0xFF == 0x01:
                return NvmeReply(data=_controller())
            case 0x09 | 0x0A:
                return _feature(command, host)
            case 0x18:
                return NvmeReply()
            case _:
                raise NvmeRefused(Code.INVALID_FIELD if command.opcode == 0x06 else Code.INVALID_OPCODE)

    def next_event(self, host: Host) -> Event | None:
        return None

    def began(self, host: Host, end: Callable[[], None]) -> None: ...

    def enabled(self) -> None: ...

    def disabled(self, host: Host) -> None: ...

    def ended(self, host: Host, end: Callable[[], None]) -> None: ...


def _feature(command: NvmeCommand, host: Host) -> NvmeReply:
    """Keep alive timer and event configuration, which a discovery controller has too."""
    feature = command.cdw10 & 0xFF
    if feature not in (0x0B, 0x0F):
        raise NvmeRefused(Code.INVALID_FIELD)
    if command.opcode == 0x09 and feature == 0x0F:
        host.keep_alive = command.cdw11
    return NvmeReply(result=host.keep_alive if feature == 0x0F and command.opcode == 0x0A else 0)


def _controller() -> bytes:
    data = bytearray(4096)
    text(data, 4, 20, "TEETHDISCOVERY")
    text(data, 24, 40, "Teeth lab discovery")
    text(data, 64, 8, "1.0")
    data[77] = TRANSFER_SHIFT
    put(data, 78, 2, CONTROLLER_ID)
    put(data, 80, 4, VERSION)
    data[111] = 2
    data[261] = 1 << 2
    put(data, 320, 2, 10)
    put(data, 514, 2, 128)
    put(data, 536, 4, 1 | 1 << 20)
    data[768 : 768 + len(DISCOVERY)] = DISCOVERY.encode()
    return bytes(data)


def _log(records: Sequence[Record]) -> bytes:
    head = bytearray(_RECORD)
    put(head, 0, 8, 1)
    put(head, 8, 8, len(records))
    return bytes(head) + b"".join(_entry(record) for record in records)


def _entry(record: Record) -> bytes:
    data = bytearray(_RECORD)
    data[0], data[1], data[2] = 3, 2 if ":" in record.host else 1, 2  # TCP, address family, NVM subsystem
    put(data, 4, 2, 1)
    put(data, 6, 2, 0xFFFF)
    put(data, 8, 2, 32)
    text(data, 32, 32, str(record.port))
    name = record.nqn.encode()
    data[256 : 256 + len(name)] = name
    text(data, 512, 256, str(ipaddress.ip_address(record.host)))
    return bytes(data)
