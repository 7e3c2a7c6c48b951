"""IDENTIFY DEVICE data (ACS-4 7.13)."""

from __future__ import annotations

import math

from teeth.lab.drives.disk import Disk
from teeth.lab.drives.model import Method
from teeth.lab.drives.security import SecurityModel
from teeth.lab.drives.unit import model_name

TRIM_BLOCKS = 8  # 512-byte pages of ranges one DATA SET MANAGEMENT takes
_28BIT = (1 << 28) - 1


def identify(disk: Disk, security: SecurityModel, *, settings_preserved: bool, look_ahead: bool) -> bytes:
    """All 256 words, lies included, with the checksum right behind whatever was said."""
    words = [0] * 256
    _basics(disk, words)
    _feature_sets(disk, security, words, settings_preserved=settings_preserved, look_ahead=look_ahead)
    _sizes(disk, words)
    _erasing(disk, security, words)
    for behaviour in disk.behaviours:
        behaviour.identify(disk, words)
    data = bytearray(b"".join(word.to_bytes(2, "little") for word in words))
    data[510] = 0xA5
    data[511] = -sum(data[:511]) & 0xFF
    return bytes(data)


def _basics(disk: Disk, words: list[int]) -> None:
    words[0] = 0x0040
    words[1], words[3], words[6] = 16383, 16, 63
    _string(words, 10, 10, disk.serial)
    _string(words, 23, 4, disk.state.firmware)
    _string(words, 27, 20, model_name(disk))
    words[47], words[48] = 0x8001, 0x4000
    words[49], words[50], words[53] = 0x2F00, 0x4000, 0x0006
    words[63], words[64] = 0x0007, 0x0003
    words[65] = words[66] = words[67] = words[68] = 120
    words[76], words[77] = 0x000E, 0x0006
    # ATA-4 to ACS-4.
    words[80], words[81] = 0x0FF0, 0x006D
    words[88] = 0x407F
    words[222] = 0x107F


def _feature_sets(
    disk: Disk, security: SecurityModel, words: list[int], *, settings_preserved: bool, look_ahead: bool
) -> None:
    spec, state = disk.spec, disk.state
    secured = 0x0002 if spec.security else 0
    hpa = 0x0400 if spec.hidden_by == "hpa" else 0
    ama = 0x0100 if spec.hidden_by == "ama" else 0
    dco = 0x0800 if spec.hidden_by == "hpa" else 0
    words[78], words[79] = 0x0040, 0x0040 if settings_preserved else 0
    words[82] = 0x4069 | secured | hpa
    words[83] = 0x7401 | dco
    words[84] = 0x4163
    words[85] = 0x4008 | (secured if security.enabled else 0) | hpa
    words[85] |= (0x0020 if disk.caching else 0) | (0x0040 if look_ahead else 0) | int(state.smart)
    words[86] = 0xB401 | dco
    words[87] = 0x4163
    words[119] = 0x4000 | 0x0004 | 0x0010 | ama
    words[120] = 0x4000 | 0x0004 | 0x0010 | ama
    words[234], words[235] = 1, 0xFFFE


def _sizes(disk: Disk, words: list[int]) -> None:
    spec = disk.spec
    blocks = disk.blocks
    _number(words, 60, 2, min(blocks, _28BIT))
    _number(words, 100, 4, blocks)
    ratio = spec.physical_size // spec.sector
    words[106] = 0x4000 | (0x1000 if spec.sector > 512 else 0)
    words[106] |= (0x2000 | ratio.bit_length() - 1) if ratio > 1 else 0
    if spec.sector > 512:
        _number(words, 117, 2, spec.sector // 2)
    for index in range(4):
        words[108 + index] = int(spec.wwn[4 * index : 4 * index + 4], 16)
    words[209] = 0x4000
    words[217] = spec.rpm if spec.rotational else 1


def _erasing(disk: Disk, security: SecurityModel, words: list[int]) -> None:
    spec = disk.spec
    if spec.sanitizes:
        words[59] |= 0x1000 | 0x0800 | 0x0400
        words[59] |= 0x2000 if Method.SANITIZE_CRYPTO in spec.sanitizes else 0
        words[59] |= 0x4000 if Method.SANITIZE_OVERWRITE in spec.sanitizes else 0
        words[59] |= 0x8000 if Method.SANITIZE_BLOCK in spec.sanitizes else 0
    if spec.unmap:
        words[69] |= 0x4000 | 0x0020  # deterministic, and zeros
        words[105], words[169] = TRIM_BLOCKS, 0x0001
    if spec.security:
        words[89] = _minutes(spec.seconds(Method.SECURITY_ERASE))
        words[90] = _minutes(spec.seconds(Method.SECURITY_ERASE_ENHANCED)) if spec.enhanced else 0
        words[92] = security.kept.master_id
        words[128] = 0x0001 | (0x0020 if spec.enhanced else 0)
        words[128] |= 0x0002 if security.enabled else 0
        words[128] |= 0x0004 if security.locked else 0
        words[128] |= 0x0008 if security.frozen else 0
        words[128] |= 0x0010 if security.expired else 0
        words[128] |= 0x0100 if security.kept.maximum else 0


def _minutes(seconds: float) -> int:
    """Words 89 and 90: pairs of minutes, 255 for more than 508 minutes."""
    return min(255, max(1, math.ceil(seconds / 120)))


def _string(words: list[int], at: int, size: int, text: str) -> None:
    data = text.encode("ascii").ljust(2 * size)[: 2 * size]
    for index in range(size):
        words[at + index] = data[2 * index] << 8 | data[2 * index + 1]


def _number(words: list[int], at: int, size: int, value: int) -> None:
    for index in range(size):
        words[at + index] = value >> 16 * index & 0xFFFF
