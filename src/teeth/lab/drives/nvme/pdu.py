"""NVMe/TCP protocol data units (NVMe/TCP transport 1.0, 3.6): bytes to fields and back, digests."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from teeth.lab.drives.nvme.fields import put, take

HEADER = 8  # the common header
SQE, CQE = 64, 16
MAX_DATA_OUT = 128 << 10  # MAXH2CDATA: what one H2CData brings at most
_DIGEST = 4


class Type(IntEnum):
    """PDU types, 3.6.2."""

    IC_REQUEST = 0x00
    IC_RESPONSE = 0x01
    HOST_TERMINATE = 0x02
    CONTROLLER_TERMINATE = 0x03
    COMMAND = 0x04
    RESPONSE = 0x05
    DATA_OUT = 0x06
    DATA_IN = 0x07
    READY = 0x09


# Bytes of the whole header by type, of what a host sends (3.6.2.2, .4, .6, .8).
LENGTHS = {Type.IC_REQUEST: 128, Type.HOST_TERMINATE: 24, Type.COMMAND: 72, Type.DATA_OUT: 24}
HEADER_DIGEST, DATA_DIGEST, LAST = 0x01, 0x02, 0x04


class Fatal(IntEnum):
    """Fatal error status of a terminate request, 3.6.2.5."""

    INVALID_FIELD = 0x01
    SEQUENCE = 0x02
    HEADER_DIGEST = 0x03
    OUT_OF_RANGE = 0x04
    LIMIT = 0x05
    UNSUPPORTED = 0x06


class PduError(Exception):
    """What came is not NVMe/TCP; ``fatal`` and ``at`` go into the terminate request, ``header`` with them."""

    def __init__(self, message: str, fatal: Fatal, *, at: int = 0, header: bytes = b"") -> None:
        super().__init__(message)
        self.fatal = fatal
        self.at = at
        self.header = header


@dataclass(frozen=True, slots=True, kw_only=True)
class Digests:
    """What both sides agreed to guard."""

    header: bool = False
    data: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pdu:
    """One unit from the host. ``intact``: its data digest, where there is one, is right."""

    header: bytes
    data: bytes = b""
    intact: bool = True

    @property
    def type(self) -> int:
        return self.header[0]

    def number(self, at: int, size: int) -> int:
        return take(self.header, at, size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The bytes of a unit behind its common header: rest of the header, digest, padding, data, digest."""

    header: int
    header_digest: int
    padding: int
    data: int
    data_digest: int


def shape(common: bytes, digests: Digests, limit: int) -> Shape:
    """How a unit goes on. PduError for a header that cannot be, and for more data than ``limit``."""
    kind, flags, length, offset = common[0], common[1], common[2], common[3]
    total = take(common, 4, 4)
    wanted = LENGTHS.get(Type(kind)) if kind in list(Type) else None
    if wanted is None:
        raise PduError(f"a unit of type {kind:02x}h", Fatal.INVALID_FIELD, header=common)
    if length != wanted:
        raise PduError(f"a header of {length} bytes", Fatal.INVALID_FIELD, at=2, header=common)
    guarded = digests.header and kind not in (Type.IC_REQUEST, Type.HOST_TERMINATE)
    if guarded != bool(flags & HEADER_DIGEST):
        raise PduError("a header digest against what was agreed", Fatal.INVALID_FIELD, at=1, header=common)
    digest = _DIGEST if guarded else 0
    if total == length + digest or kind in (Type.IC_REQUEST, Type.HOST_TERMINATE):
        rest = total - length - digest
        if rest < 0 or rest > limit or (kind == Type.IC_REQUEST and rest):
            raise PduError(f"a unit of {total} bytes", Fatal.INVALID_FIELD, at=4, header=common)
        return Shape(header=length - HEADER, header_digest=digest, padding=0, data=rest, data_digest=0)
    tail = _DIGEST if digests.data else 0
    if bool(flags & DATA_DIGEST) != digests.data:
        raise PduError("a data digest against what was agreed", Fatal.INVALID_FIELD, at=1, header=common)
    data = total - offset - tail
    if offset < length + digest or offset % 4 or data <= 0:
        raise PduError(f"data at {offset} of {total}", Fatal.INVALID_FIELD, at=3, header=common)
    if data > limit:
        raise PduError(f"{data} bytes of data where {limit} are allowed", Fatal.LIMIT, at=4, header=common)
    return Shape(
        header=length - HEADER,
        header_digest=digest,
        padding=offset - length - digest,
        data=data,
        data_digest=tail,
    )


def build(kind: Type, body: bytes, *, data: bytes = b"", digests: Digests = Digests(), align: int = 4,
          flags: int = 0) -> bytes:  # fmt: skip
    """A unit to the host: ``body`` is its header behind the common one, ``data`` begins at a multiple of
    ``align``."""
    plain = kind in (Type.IC_RESPONSE, Type.CONTROLLER_TERMINATE)
    length = HEADER + len(body)
    guarded = digests.header and not plain
    end = length + (_DIGEST if guarded else 0)
    offset = -(-end // align) * align if data and not plain else end
    tail = _DIGEST if data and digests.data and not plain else 0
    common = bytearray(HEADER)
    common[0] = kind
    common[1] = flags | (HEADER_DIGEST if guarded else 0) | (DATA_DIGEST if tail else 0)
    common[2] = length
    common[3] = offset if data and not plain else 0
    put(common, 4, 4, offset + len(data) + tail)
    head = bytes(common) + body
    unit = head + (crc32c(head) if guarded else b"")
    return unit.ljust(offset, b"\0") + data + (crc32c(data) if tail else b"")


def ic_response(digests: Digests) -> bytes:
    body = bytearray(120)
    body[3] = int(digests.header) | int(digests.data) << 1
    put(body, 4, 4, MAX_DATA_OUT)
    return build(Type.IC_RESPONSE, bytes(body))


def response(cid: int, digests: Digests, *, status: int = 0, result: int = 0, head: int = 0, queue: int = 0,
             retry: bool = False) -> bytes:  # fmt: skip
    """A completion queue entry (base 2.0, 3.3.3.2). Without ``retry`` an error says "do not retry"."""
    entry = bytearray(CQE)
    put(entry, 0, 8, result)
    put(entry, 8, 2, head)
    put(entry, 10, 2, queue)
    put(entry, 12, 2, cid)
    put(entry, 14, 2, (status << 1 | (0 if retry else 1 << 15)) if status else 0)
    return build(Type.RESPONSE, bytes(entry), digests=digests)


def data_in(cid: int, data: bytes, digests: Digests, *, offset: int, last: bool, align: int) -> bytes:
    body = bytearray(16)
    put(body, 0, 2, cid)
    put(body, 4, 4, offset)
    put(body, 8, 4, len(data))
    return build(
        Type.DATA_IN, bytes(body), data=data, digests=digests, align=align, flags=LAST if last else 0
    )


def ready(cid: int, tag: int, offset: int, length: int, digests: Digests) -> bytes:
    """Ready to transfer: the host is to send this part of a command's data."""
    body = bytearray(16)
    put(body, 0, 2, cid)
    put(body, 2, 2, tag)
    put(body, 4, 4, offset)
    put(body, 8, 4, length)
    return build(Type.READY, bytes(body), digests=digests)


def terminate(error: PduError) -> bytes:
    body = bytearray(16)
    put(body, 0, 2, error.fatal)
    put(body, 2, 4, error.at)
    return build(Type.CONTROLLER_TERMINATE, bytes(body), data=error.header[:128])


def _table() -> tuple[int, ...]:
    rows = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        rows.append(value)
    return tuple(rows)


_CRC = _table()


def crc32c(data: bytes) -> bytes:
    """The digest as it goes over the wire."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _CRC[(value ^ byte) & 0xFF] ^ value >> 8
    return (value ^ 0xFFFFFFFF).to_bytes(4, "little")
