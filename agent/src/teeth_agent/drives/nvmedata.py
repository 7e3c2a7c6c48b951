"""What NVMe controllers answer: Identify data and log pages, read into typed values.

NVM Express Base Specification 2.0 (figures 271 to 280) and NVM Command Set Specification 1.0 (figure 97).
Every reader takes any bytes: what is too short is a DeviceError(bad_answer), never another exception.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from teeth_agent.errors import DeviceError

PAGE = 4096  # bytes of every Identify data structure
LIST_MAX = PAGE // 4
SANITIZE_LOG_SIZE = 32
FIRMWARE_LOG_SIZE = 512
_UNKNOWN_SECONDS = 0xFFFFFFFF

_CRYPTO, _BLOCK, _OVERWRITE = 0x1, 0x2, 0x4  # SANICAP
_SLOTS = 7


class Action(IntEnum):
    """SANACT of the Sanitize command (5.24)."""

    EXIT_FAILURE = 1
    BLOCK = 2
    OVERWRITE = 3
    CRYPTO = 4


class SecureErase(IntEnum):
    """SES of Format NVM (5.14). There is no member for "none": such a format is never sent."""

    USER_DATA = 1
    CRYPTO = 2


class Sanitizing(IntEnum):
    """SSTAT bits 2:0 of the sanitize status log (5.16.1.20); other values are reserved."""

    NEVER = 0
    DONE = 1
    RUNNING = 2
    FAILED = 3
    DONE_FORCED_DEALLOCATE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Controller:
    """Identify Controller. Capacities in bytes, 0 where the controller does not tell; ``raw``: all of it."""

    serial: str
    model: str
    firmware: str
    subnqn: str
    cntlid: int
    cmic: int
    oacs: int
    oncs: int
    fna: int
    frmw: int
    sanicap: int
    nn: int
    mnan: int
    tnvmcap: int
    unvmcap: int
    raw: bytes

    @property
    def can_format(self) -> bool:
        return bool(self.oacs & 0x02)

    @property
    def can_crypto_format(self) -> bool:
        return self.can_format and bool(self.fna & 0x04)

    @property
    def manages_namespaces(self) -> bool:
        return bool(self.oacs & 0x08)

    @property
    def erases_all_at_once(self) -> bool:
        """FNA bit 1: a format's secure erase reaches every namespace, whichever it is sent to. Bit 0 is not
        enough: it is about formats, secure erase excluded."""
        return bool(self.fna & 0x02)

    @property
    def actions(self) -> frozenset[Action]:
        """The sanitize operations that it has."""
        bits = ((_CRYPTO, Action.CRYPTO), (_BLOCK, Action.BLOCK), (_OVERWRITE, Action.OVERWRITE))
        return frozenset(action for bit, action in bits if self.sanicap & bit)

    @property
    def inhibits_no_deallocate(self) -> bool:
        """NDI: a sanitize that asks for No-Deallocate is refused, or deallocates all the same."""
        return bool(self.sanicap & 1 << 29)

    @property
    def no_deallocate_modifies_media(self) -> int:
        """NODMMAS: 0 not said, 1 media are not modified after a sanitize without deallocation, 2 they are."""
        return self.sanicap >> 30 & 0x3

    @property
    def shared(self) -> bool:
        """CMIC: the subsystem may have further ports or controllers, so another host may use its media."""
        return bool(self.cmic & 0x03)


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """Identify Namespace. ``blocks`` of ``block_size`` bytes, each with ``metadata_size`` more.

    The format is told as Format NVM wants it again: ``lbaf``, ``metadata_inline`` (MSET), ``protection`` (PI)
    and ``protection_first`` (PIL). ``remaining``: percent of a running format that is left (FPI), 0 when none
    runs, None when the controller does not tell.
    """

    nsid: int
    blocks: int
    block_size: int
    metadata_size: int
    lbaf: int
    metadata_inline: bool
    protection: int
    protection_first: bool
    capacity: int
    shared: bool
    write_protected: bool
    remaining: int | None
    nguid: str
    eui64: str
    raw: bytes

    @property
    def size(self) -> int:
        return self.blocks * self.block_size

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """What a format that keeps everything must leave alone."""
        return self.blocks, self.block_size, self.metadata_size, self.protection


@dataclass(frozen=True, slots=True, kw_only=True)
class SanitizeLog:
    """The sanitize status log page, 81h. Estimates in seconds, as told, of overwrite, block and crypto erase;
    None where the drive does not tell. ``estimate`` makes sense of them.

    ``state`` is None for a reserved value. ``passes``: overwrite passes completed. ``cdw10`` is that of the
    Sanitize command that it tells of.
    """

    progress: int
    state: Sanitizing | None
    passes: int
    global_data_erased: bool
    cdw10: int
    estimates: tuple[int | None, int | None, int | None]
    estimates_no_deallocate: tuple[int | None, int | None, int | None]
    raw: bytes

    @property
    def fraction(self) -> float:
        """SPROG as a part of one; below one until the operation has ended."""
        return self.progress / 65536

    @property
    def action(self) -> int:
        """SANACT of the command that it tells of."""
        return self.cdw10 & 0x7

    @property
    def exit_allowed(self) -> bool:
        """AUSE of that command: a failure may be left without a successful sanitize."""
        return bool(self.cdw10 & 0x8)

    @property
    def complete(self) -> bool:
        return self.state in (Sanitizing.DONE, Sanitizing.DONE_FORCED_DEALLOCATE)

    def estimate(self, action: Action, *, passes: int = 1, no_deallocate: bool = False) -> int | None:
        """Seconds that the drive says this action takes; without deallocation where that is told apart."""
        index = {Action.OVERWRITE: 0, Action.BLOCK: 1, Action.CRYPTO: 2}.get(action)
        if index is None:
            return None
        kept = self.estimates_no_deallocate[index] if no_deallocate else None
        seconds = kept or self.estimates[index]
        if seconds is None or action is not Action.OVERWRITE:
            return seconds
        # What is told is the time of sixteen passes.
        return -(-seconds * passes // 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwareLog:
    """The firmware slot log page, 03h. ``next`` is the slot that a reset makes active, 0 for none."""

    active: int
    next: int
    revisions: tuple[str, ...]


def parse_controller(data: bytes) -> Controller:
    """Identify Controller data, CNS 01h."""
    _need(data, PAGE, "Identify Controller data")
    return Controller(
        serial=_text(data[4:24]),
        model=_text(data[24:64]),
        firmware=_text(data[64:72]),
        subnqn=_text(data[768:1024]),
        cntlid=_number(data, 78, 2),
        cmic=data[76],
        oacs=_number(data, 256, 2),
        oncs=_number(data, 520, 2),
        fna=data[524],
        frmw=data[260],
        sanicap=_number(data, 328, 4),
        nn=_number(data, 516, 4),
        mnan=_number(data, 540, 4),
        tnvmcap=_number(data, 280, 16),
        unvmcap=_number(data, 296, 16),
        raw=bytes(data[:PAGE]),
    )


def parse_namespace(nsid: int, data: bytes) -> Namespace:
    """Identify Namespace data, CNS 00h or 11h. DeviceError(bad_answer) too where the format is none."""
    _need(data, PAGE, f"Identify data of namespace {nsid}")
    flbas = data[26]
    # Bits 6:5 are the upper ones, used only where there are more than 16 formats (NLBAF counts from zero).
    lbaf = flbas & 0x0F | (flbas >> 5 & 0x03) << 4 if data[25] >= 16 else flbas & 0x0F
    if lbaf > data[25]:
        raise _bad(f"namespace {nsid} says format {lbaf} of {data[25] + 1}")
    entry = _number(data, 128 + 4 * lbaf, 4)
    exponent = entry >> 16 & 0xFF
    if not 9 <= exponent <= 24:
        raise _bad(f"namespace {nsid} has blocks of 2^{exponent} bytes")
    return Namespace(
        nsid=nsid,
        blocks=_number(data, 0, 8),
        block_size=1 << exponent,
        metadata_size=entry & 0xFFFF,
        lbaf=lbaf,
        metadata_inline=bool(flbas & 0x10),
        protection=data[29] & 0x7,
        protection_first=bool(data[29] & 0x8),
        capacity=_number(data, 48, 16),
        shared=bool(data[30] & 0x01),
        write_protected=bool(data[99] & 0x01),
        remaining=data[32] & 0x7F if data[32] & 0x80 else None,
        nguid=_name(data[104:120]),
        eui64=_name(data[120:128]),
        raw=bytes(data[:PAGE]),
    )


def parse_list(data: bytes) -> tuple[int, ...]:
    """A namespace list: ascending ids until the first zero (figure 280)."""
    _need(data, PAGE, "a namespace list")
    found: list[int] = []
    for index in range(LIST_MAX):
        nsid = _number(data, 4 * index, 4)
        if nsid == 0:
            break
        if nsid >= 0xFFFFFFFF or (found and nsid <= found[-1]):
            raise _bad(f"a namespace list with {nsid} behind {found[-1] if found else 'nothing'}")
        found.append(nsid)
    return tuple(found)


def parse_sanitize_log(data: bytes) -> SanitizeLog:
    """The sanitize status log, 32 bytes or more."""
    _need(data, SANITIZE_LOG_SIZE, "the sanitize log")
    status = _number(data, 2, 2)
    state = Sanitizing(status & 0x7) if status & 0x7 in set(Sanitizing) else None
    return SanitizeLog(
        progress=_number(data, 0, 2),
        state=state,
        passes=status >> 3 & 0x1F,
        global_data_erased=bool(status & 0x100),
        cdw10=_number(data, 4, 4),
        estimates=(_seconds(data, 8), _seconds(data, 12), _seconds(data, 16)),
        estimates_no_deallocate=(_seconds(data, 20), _seconds(data, 24), _seconds(data, 28)),
        raw=bytes(data[:SANITIZE_LOG_SIZE]),
    )


def parse_firmware_log(data: bytes) -> FirmwareLog:
    """The firmware slot log: revisions of slots 1 to 7, "" where one is empty."""
    _need(data, FIRMWARE_LOG_SIZE, "the firmware slot log")
    return FirmwareLog(
        active=data[0] & 0x7,
        next=data[0] >> 4 & 0x7,
        revisions=tuple(_text(data[8 + 8 * slot : 16 + 8 * slot]) for slot in range(_SLOTS)),
    )


def _seconds(data: bytes, offset: int) -> int | None:
    """None is "not reported"; zero means that the operation is over when the command is."""
    value = _number(data, offset, 4)
    return None if value == _UNKNOWN_SECONDS else value


def _number(data: bytes, offset: int, size: int) -> int:
    return int.from_bytes(data[offset : offset + size], "little")


def _text(data: bytes) -> str:
    """ASCII padded with spaces or zeros; what is not printable is shown as a question mark."""
    text = data.split(b"\0", 1)[0].decode("ascii", "replace")
    return "".join(letter if letter.isprintable() and letter.isascii() else "?" for letter in text).strip()


def _name(data: bytes) -> str:
    """A globally unique name in hex; "" where there is none."""
    return data.hex() if any(data) else ""


def _need(data: bytes, size: int, what: str) -> None:
    if len(data) < size:
        raise _bad(f"{what} ends after {len(data)} of {size} bytes")


def _bad(message: str) -> DeviceError:
    return DeviceError(f"the drive answered: {message}", code="bad_answer")
