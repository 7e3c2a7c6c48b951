"""IDENTIFY DEVICE data (ACS-4 7.13), as far as erasing needs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from teeth_agent.errors import DeviceError

SIZE = 512
_SIGNATURE = 0xA5
_MORE_THAN_508 = 255
_MORE_THAN_65532 = 0x7FFF
_FASTEST_SLOW = 0x0401  # below this word 217 gives no speed


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """The Security feature set as it stands now. Times in seconds by the drive's own estimate, None when it
    gives none, or only "more than" one. ``maximum``: the master password erases and does not open."""

    supported: bool
    enabled: bool
    locked: bool
    frozen: bool
    expired: bool
    enhanced: bool
    maximum: bool
    erase_seconds: float | None
    enhanced_seconds: float | None
    master_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SanitizeSupport:
    """Word 59: which operations there are."""

    supported: bool
    crypto: bool
    block: bool
    overwrite: bool
    antifreeze: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Trim:
    """``deterministic``: trimmed blocks always read the same; ``zeroed``: as zeros, the drive says."""

    supported: bool
    deterministic: bool
    zeroed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AtaIdentity:
    """What a drive says of itself.

    ``sectors`` of ``logical_sector`` bytes can be reached now. ``wwn`` is "0x..." or None. ``rotation`` is in
    turns a minute, 0 for a drive that does not turn, None when it does not say. ``hpa``, ``ama``, ``dco``: it
    has a host protected area, an accessible max address, a device configuration overlay. ``checked`` is False
    when the data carry no checksum. ``raw`` is all 512 bytes.
    """

    model: str
    serial: str
    firmware: str
    wwn: str | None
    sectors: int
    lba48: bool
    logical_sector: int
    physical_sector: int
    rotation: int | None
    security: Security
    sanitize: SanitizeSupport
    trim: Trim
    hpa: bool
    ama: bool
    dco: bool
    checked: bool
    raw: bytes

    @property
    def solid_state(self) -> bool:
        return self.rotation == 0

    @property
    def size(self) -> int:
        """Bytes that can be reached."""
        return self.sectors * self.logical_sector


def parse_identity(data: bytes) -> AtaIdentity:
    """Read IDENTIFY DEVICE data. Raises DeviceError(identity_unreadable) for what no ATA drive says."""
    if len(data) != SIZE:
        raise _unreadable(f"{len(data)} bytes instead of {SIZE}")
    if data == data[:1] * SIZE:
        raise _unreadable(f"nothing but bytes {data[0]:02X}h")
    words = [int.from_bytes(data[at : at + 2], "little") for at in range(0, SIZE, 2)]
    if words[0] & 0x8000:
        raise _unreadable("the device is not an ATA drive")
    checked = words[255] & 0xFF == _SIGNATURE
    if checked and sum(data) & 0xFF:
        raise _unreadable("the checksum is wrong")
    lba48 = _valid(words[83]) and bool(words[83] & 0x0400)
    return AtaIdentity(
        model=_text(words[27:47]),
        serial=_text(words[10:20]),
        firmware=_text(words[23:27]),
        wwn=_wwn(words),
        sectors=_sectors(words, lba48=lba48),
        lba48=lba48,
        logical_sector=_logical(words),
        physical_sector=_logical(words) << (words[106] & 0x0F if words[106] & 0xE000 == 0x6000 else 0),
        rotation=_rotation(words[217]),
        security=_security(words),
        sanitize=_sanitize(words[59]),
        trim=Trim(
            supported=bool(words[169] & 0x0001),
            deterministic=bool(words[69] & 0x4000),
            zeroed=bool(words[69] & 0x4000) and bool(words[69] & 0x0020),
        ),
        hpa=_supports(words[82], 0x0400),
        ama=_valid(words[119]) and bool(words[119] & 0x0100),
        dco=_valid(words[83]) and bool(words[83] & 0x0800),
        checked=checked,
        raw=data,
    )


def _unreadable(why: str) -> DeviceError:
    return DeviceError(f"IDENTIFY DEVICE data cannot be used: {why}", code="identity_unreadable")


def _valid(word: int) -> bool:
    """Words that carry their own mark: bit 15 clear, bit 14 set."""
    return word & 0xC000 == 0x4000


def _supports(word: int, bit: int) -> bool:
    """Bits of words without a mark: 0 and FFFFh say that the word is not there."""
    return word not in (0, 0xFFFF) and bool(word & bit)


def _text(words: list[int]) -> str:
    """Two characters in a word, the first in the high byte; one that cannot be printed becomes a "?"."""
    raw = b"".join(word.to_bytes(2, "big") for word in words).rstrip(b"\0").decode("ascii", "replace")
    return "".join(sign if sign.isascii() and sign.isprintable() else "?" for sign in raw).strip()


def _wwn(words: list[int]) -> str | None:
    if not _valid(words[87]) or not words[87] & 0x0100:
        return None
    text = "".join(f"{word:04x}" for word in words[108:112])
    return f"0x{text}" if text.strip("0") else None


def _number(words: list[int], at: int, count: int) -> int:
    return sum(word << 16 * index for index, word in enumerate(words[at : at + count]))


def _sectors(words: list[int], *, lba48: bool) -> int:
    if not lba48:
        return _number(words, 60, 2)
    if words[69] & 0x0008:  # EXTENDED NUMBER OF USER ADDRESSABLE SECTORS
        return _number(words, 230, 4)
    return _number(words, 100, 4)


def _logical(words: list[int]) -> int:
    """Bytes in a logical sector: 512 unless word 106 says that words 117 and 118 hold."""
    longer = _valid(words[106]) and words[106] & 0x1000
    return 2 * _number(words, 117, 2) if longer else 512


def _rotation(word: int) -> int | None:
    if word == 1:
        return 0
    return word if _FASTEST_SLOW <= word < 0xFFFF else None


def _sanitize(word: int) -> SanitizeSupport:
    has: Callable[[int], bool] = lambda bit: bool(word & 0x1000) and bool(word & bit)  # noqa: E731
    return SanitizeSupport(
        supported=has(0x1000),
        crypto=has(0x2000),
        block=has(0x8000),
        overwrite=has(0x4000),
        antifreeze=has(0x0400),
    )


def _security(words: list[int]) -> Security:
    """Words 82, 85, 89, 90, 92 and 128. Where two words disagree the more cautious one counts."""
    word = words[128] if words[128] != 0xFFFF else 0
    return Security(
        supported=_supports(words[82], 0x0002) or bool(word & 0x0001),
        enabled=_supports(words[85], 0x0002) or bool(word & 0x0002),
        locked=bool(word & 0x0004),
        frozen=bool(word & 0x0008),
        expired=bool(word & 0x0010),
        enhanced=bool(word & 0x0020),
        maximum=bool(word & 0x0100),
        erase_seconds=_erase_time(words[89]),
        enhanced_seconds=_erase_time(words[90]),
        master_id=words[92],
    )


def _erase_time(word: int) -> float | None:
    """Words 89 and 90 count pairs of minutes, in 8 bits or, with bit 15, in 15."""
    pairs, endless = (word & 0x7FFF, _MORE_THAN_65532) if word & 0x8000 else (word & 0xFF, _MORE_THAN_508)
    return None if pairs in (0, endless) else pairs * 120.0
