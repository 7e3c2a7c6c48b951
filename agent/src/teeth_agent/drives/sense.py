"""Sense data in both formats (SPC-5 4.4), with what ATA pass-through puts there (SAT-4 12.2.2)."""

from __future__ import annotations

from dataclasses import dataclass

_FIXED, _FIXED_DEFERRED, _DESCRIPTOR, _DESCRIPTOR_DEFERRED = 0x70, 0x71, 0x72, 0x73
_INFORMATION, _SPECIFIC, _ATA_RETURN = 0x00, 0x02, 0x09
_KEYS_WITH_PROGRESS = frozenset({0x0, 0x2})  # NO SENSE and NOT READY (SPC-5 4.4.2.4.4)
_ILLEGAL_REQUEST, _ABORTED = 0x5, 0xB
_ATA_INFORMATION = (0x00, 0x1D)  # ATA PASS THROUGH INFORMATION AVAILABLE
_ERR, _DF, _DRDY = 0x01, 0x20, 0x40


@dataclass(frozen=True, slots=True, kw_only=True)
class AtaReturn:
    """The ATA registers at a command's end.

    ``lba`` and ``count`` hold what came through; ``whole`` is False when fixed format cut off bits that were
    not zero: those of the count above 7, those of the address above 23. ``count_high`` and ``lba_high`` tell
    whether such bits were set, also when they were cut off. ``log_index`` is then where the translator keeps
    all of it, 0 for nowhere (SAT-4: one more than the parameter code in log page 16h).
    """

    error: int
    status: int
    device: int
    count: int
    lba: int
    count_high: bool
    lba_high: bool
    whole: bool
    log_index: int = 0

    def completed_by(self, kept: AtaReturn | None) -> AtaReturn:
        """``kept``, if that can be what these registers were cut from, else these."""
        if kept is None or not kept.whole:
            return self
        low = (kept.error, kept.status, kept.device, kept.count & 0xFF, kept.lba & 0xFFFFFF)
        same = low == (self.error, self.status, self.device, self.count, self.lba)
        return kept if same and (kept.count_high, kept.lba_high) == (self.count_high, self.lba_high) else self

    @property
    def good(self) -> bool:
        """Neither an error nor a device fault. The error register means something only with an error."""
        return not self.status & (_ERR | _DF)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sense:
    """``readable`` is False for bytes that are no sense data; then all else says nothing.

    ``progress`` is a fraction below 1. ``information`` is mostly a block address. ``field`` is the byte that
    an ILLEGAL REQUEST points at, in the CDB or, with ``in_data``, in what was sent. ``ata``: None when the
    registers did not come, or came as zeros only (a ready drive never shows a status of zero).
    """

    readable: bool = True
    deferred: bool = False
    key: int = 0
    asc: int = 0
    ascq: int = 0
    information: int | None = None
    progress: float | None = None
    field: int | None = None
    in_data: bool = False
    ata: AtaReturn | None = None

    @property
    def codes(self) -> tuple[int, int, int]:
        return self.key, self.asc, self.ascq

    def __str__(self) -> str:
        return f"{self.key:X}/{self.asc:02X}/{self.ascq:02X}" if self.readable else "no sense data"


def parse_sense(data: bytes) -> Sense:
    """Read sense data; never raises, whatever the bytes are. What is cut off counts as absent."""
    match data[0] & 0x7F if data else 0:
        case code if code in (_FIXED, _FIXED_DEFERRED):
            return _fixed(data, deferred=code == _FIXED_DEFERRED)
        case code if code in (_DESCRIPTOR, _DESCRIPTOR_DEFERRED):
            return _descriptor(data, deferred=code == _DESCRIPTOR_DEFERRED)
        case _:
            return Sense(readable=False)


def _fixed(data: bytes, *, deferred: bool) -> Sense:
    if len(data) < 3:
        return Sense(readable=False)
    # Behind byte 7 only what the additional length covers was sent.
    end = min(len(data), 8 + data[7]) if len(data) > 7 else len(data)
    data = data[:end].ljust(18, b"\0")
    key, asc, ascq = data[2] & 0x0F, data[12], data[13]
    progress, field, in_data = _key_specific(key, data[15:18])
    valid = bool(data[0] & 0x80)
    return Sense(
        deferred=deferred,
        key=key,
        asc=asc,
        ascq=ascq,
        information=int.from_bytes(data[3:7], "big") if valid else None,
        progress=progress,
        field=field,
        in_data=in_data,
        ata=_fixed_registers(data) if (asc, ascq) == _ATA_INFORMATION or key == _ABORTED else None,
    )


def _fixed_registers(data: bytes) -> AtaReturn | None:
    """INFORMATION: error, status, device, count (7:0). COMMAND-SPECIFIC: flags, address (23:0)."""
    error, status, device, count = data[3:7]
    flags = data[8]
    if not status & (_DRDY | _ERR | _DF):
        return None  # nothing was put there, or a translation of formats lost it
    count_high, lba_high = bool(flags & 0x40), bool(flags & 0x20)
    return AtaReturn(
        error=error,
        status=status,
        device=device,
        count=count,
        lba=int.from_bytes(data[9:12], "little"),
        count_high=count_high,
        lba_high=lba_high,
        whole=not (count_high or lba_high),
        log_index=flags & 0x0F,
    )


def _descriptor(data: bytes, *, deferred: bool) -> Sense:
    if len(data) < 4:
        return Sense(readable=False)
    key, asc, ascq = data[1] & 0x0F, data[2], data[3]
    information: int | None = None
    progress: float | None = None
    field: int | None = None
    in_data = False
    ata: AtaReturn | None = None
    end = min(len(data), 8 + data[7]) if len(data) > 7 else 0
    at = 8
    while at + 2 <= end:
        kind, size = data[at], data[at + 1] + 2
        part = data[at : min(at + size, end)]
        at += size
        if kind == _INFORMATION and len(part) >= 12 and part[2] & 0x80:
            information = int.from_bytes(part[4:12], "big")
        elif kind == _SPECIFIC and len(part) >= 7:
            progress, field, in_data = _key_specific(key, part[4:7])
        elif kind == _ATA_RETURN:
            ata = parse_ata_return(part)
    return Sense(
        deferred=deferred,
        key=key,
        asc=asc,
        ascq=ascq,
        information=information,
        progress=progress,
        field=field,
        in_data=in_data,
        ata=ata,
    )


def parse_ata_return(part: bytes) -> AtaReturn | None:
    """The ATA Status Return descriptor: the high halves count only with EXTEND. None for anything else."""
    if len(part) < 14 or part[0] != _ATA_RETURN:
        return None
    long, error = bool(part[2] & 0x01), part[3]
    device, status = part[12], part[13]
    if not status & (_DRDY | _ERR | _DF):
        return None
    low = part[7] | part[9] << 8 | part[11] << 16
    high = part[6] | part[8] << 8 | part[10] << 16
    count = part[5] | part[4] << 8 if long else part[5]
    return AtaReturn(
        error=error,
        status=status,
        device=device,
        count=count,
        lba=low | high << 24 if long else low,
        count_high=count > 0xFF,
        lba_high=long and high > 0,
        whole=True,
    )


def _key_specific(key: int, part: bytes) -> tuple[float | None, int | None, bool]:
    """(progress, field, whether the field is in the data) of the three sense-key specific bytes."""
    if not part[0] & 0x80:
        return None, None, False
    value = int.from_bytes(part[1:3], "big")
    if key in _KEYS_WITH_PROGRESS:
        return value / 65536, None, False
    if key == _ILLEGAL_REQUEST:
        return None, value, not part[0] & 0x40
    return None, None, False
