"""UEFI load options that name a file on a GPT partition. UEFI specification 2.10, 3.1.3 and 10.3.5."""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass

_ACTIVE = 1
_MEDIA, _HARD_DRIVE, _FILE_PATH = 0x04, 0x01, 0x04
_END = b"\x7f\xff\x04\x00"
# Type, subtype, length; number, first block, blocks, signature; format GPT, signature a GUID.
_DRIVE_NODE = struct.Struct("<BBHIQQ16sBB")
_GPT, _GUID = 2, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a loader lies: its partition (``first``, ``blocks`` in logical blocks), path with slashes."""

    number: int
    first: int
    blocks: int
    partition: uuid.UUID
    path: str


def build(title: str, target: Target) -> bytes:
    """An active load option. ``title`` and path have no characters beyond 16 bits."""
    drive = _DRIVE_NODE.pack(
        _MEDIA,
        _HARD_DRIVE,
        _DRIVE_NODE.size,
        target.number,
        target.first,
        target.blocks,
        target.partition.bytes_le,
        _GPT,
        _GUID,
    )
    name = _text("\\" + target.path.strip("/").replace("/", "\\"))
    path = drive + struct.pack("<BBH", _MEDIA, _FILE_PATH, 4 + len(name)) + name + _END
    return struct.pack("<IH", _ACTIVE, len(path)) + _text(title) + path


def title_of(option: bytes) -> str:
    """The description of any load option; what is damaged gives some other text, never an error."""
    at = 6
    while at + 2 <= len(option) and option[at : at + 2] != b"\0\0":
        at += 2
    return option[6:at].decode("utf-16-le", errors="replace")


def read_order(data: bytes) -> list[int]:
    """The numbers in a BootOrder; half a number at its end is left out."""
    count = len(data) // 2
    return list(struct.unpack_from(f"<{count}H", data))


def build_order(numbers: list[int]) -> bytes:
    return struct.pack(f"<{len(numbers)}H", *numbers)


def _text(text: str) -> bytes:
    return text.encode("utf-16-le") + b"\0\0"
