"""Little-endian structures, field by field."""

from __future__ import annotations


def put(data: bytearray, offset: int, size: int, value: int) -> None:
    """A number; one that is too large is shown as the largest."""
    data[offset : offset + size] = min(value, (1 << 8 * size) - 1).to_bytes(size, "little")


def text(data: bytearray, offset: int, size: int, value: str) -> None:
    """ASCII, spaces behind it (NVMe base 2.0, 1.4.2)."""
    data[offset : offset + size] = value.encode("ascii", "replace").ljust(size)[:size]


def take(data: bytes, offset: int, size: int) -> int:
    """The number at ``offset``; what is beyond the end counts as zero."""
    return int.from_bytes(data[offset : offset + size], "little")
