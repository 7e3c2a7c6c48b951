"""iSCSI protocol data units (RFC 7143 11): bytes to header fields and back; keys of text exchanges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

HEADER = 48
AHS_MAX = 255 * 4
TEXT_MAX = 64 << 10
KEYS_MAX = 128


class Op(IntEnum):
    """Opcodes of RFC 7143 11.2.1.2."""

    NOP_OUT = 0x00
    COMMAND = 0x01
    TASK_MANAGEMENT = 0x02
    LOGIN = 0x03
    TEXT = 0x04
    DATA_OUT = 0x05
    LOGOUT = 0x06
    NOP_IN = 0x20
    RESPONSE = 0x21
    TASK_RESPONSE = 0x22
    LOGIN_RESPONSE = 0x23
    TEXT_RESPONSE = 0x24
    DATA_IN = 0x25
    LOGOUT_RESPONSE = 0x26
    R2T = 0x31
    REJECT = 0x3F


class PduError(Exception):
    """What came is not iSCSI; ``reason`` is that of a Reject PDU (RFC 7143 11.17.1)."""

    def __init__(self, message: str, *, reason: int = 0x04) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Pdu:
    """One unit from the initiator: its 48-byte header, extra headers and data."""

    header: bytes
    extra: bytes = b""
    data: bytes = b""

    @property
    def opcode(self) -> int:
        return self.header[0] & 0x3F

    @property
    def immediate(self) -> bool:
        return bool(self.header[0] & 0x40)

    @property
    def flags(self) -> int:
        return self.header[1]

    @property
    def final(self) -> bool:
        return bool(self.header[1] & 0x80)

    @property
    def lun(self) -> bytes:
        return self.header[8:16]

    @property
    def tag(self) -> int:
        """Initiator task tag."""
        return self.number(16)

    def number(self, at: int, size: int = 4) -> int:
        return int.from_bytes(self.header[at : at + size], "big")


def sizes(header: bytes, limit: int) -> tuple[int, int]:
    """(bytes of extra headers, bytes of data without padding). PduError when it is more than we take."""
    extra, data = header[4] * 4, int.from_bytes(header[5:8], "big")
    if data > limit:
        raise PduError(f"a data segment of {data} bytes where {limit} are allowed")
    return extra, data


def padded(length: int) -> int:
    return -(-length // 4) * 4


def build(opcode: int, flags: int, *, data: bytes = b"", lun: bytes = bytes(8), tag: int = 0xFFFFFFFF,
          bytes_2_3: bytes = b"\0\0", fields: Mapping[int, int] | None = None) -> bytes:  # fmt: skip
    """A unit to the initiator; ``fields`` are 32-bit numbers by their offset in the header."""
    header = bytearray(HEADER)
    header[0], header[1] = opcode, flags
    header[2:4] = bytes_2_3
    header[5:8] = len(data).to_bytes(3, "big")
    header[8:16] = lun
    header[16:20] = tag.to_bytes(4, "big")
    for at, value in (fields or {}).items():
        header[at : at + 4] = (value & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(header) + data + bytes(-len(data) % 4)


def parse_keys(data: bytes) -> dict[str, str]:
    """`key=value` pairs, a zero byte behind each (RFC 7143 6.1). PduError for anything else."""
    keys: dict[str, str] = {}
    for part in data.split(b"\0"):
        if not part:
            continue
        try:
            name, mark, value = part.decode("utf-8").partition("=")
        except UnicodeDecodeError:
            raise PduError("a text key that is not UTF-8") from None
        if not mark or not name or len(name) > 63 or name in keys or len(keys) >= KEYS_MAX:
            raise PduError("a text exchange that is not distinct key=value pairs")
        keys[name] = value
    return keys


def build_keys(keys: list[tuple[str, str]]) -> bytes:
    return b"".join(f"{name}={value}".encode() + b"\0" for name, value in keys)
