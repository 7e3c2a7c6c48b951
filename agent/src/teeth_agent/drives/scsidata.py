"""What SCSI devices answer: INQUIRY and its pages, capacity, supported commands, read into typed values.

SPC-5 and SBC-4. Every reader takes any bytes: what is too short or of another kind is a
DeviceError(bad_answer), never another exception; what a field's absence leaves open is None.
"""

from __future__ import annotations

from dataclasses import dataclass

from teeth_agent.errors import DeviceError

_DESIGNATORS_MAX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Inquiry:
    """Standard INQUIRY data. ``present`` is False where there is no such logical unit."""

    kind: int
    present: bool
    removable: bool
    version: int
    protection: bool
    vendor: str
    product: str
    revision: str
    raw: bytes

    @property
    def block_device(self) -> bool:
        """Direct access, optical memory, simplified direct access, zoned: what has blocks to erase."""
        return self.kind in (0x00, 0x07, 0x0E, 0x14)


@dataclass(frozen=True, slots=True, kw_only=True)
class Designator:
    """One name of the identification page. ``association``: 0 the logical unit's, 1 a port's, 2 the target's.
    ``kind``: 1 T10 vendor, 2 EUI-64, 3 NAA, 8 SCSI name string. ``name``: hex, or text where it is text."""

    association: int
    kind: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockLimits:
    """Page B0h, in blocks; 0 is "not said"."""

    maximum_transfer: int
    optimal_transfer: int
    maximum_unmap: int
    maximum_unmap_ranges: int
    maximum_write_same: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Characteristics:
    """Page B1h. ``rotation``: per minute, 1 does not rotate, 0 not said. ``after_block_erase`` and
    ``after_crypto_erase`` (WABEREQ, WACEREQ) tell what reading gives after such a sanitize: 0 not said,
    1 data of no meaning, 2 an error, 3 whatever provisioning says of unmapped blocks."""

    rotation: int
    zoned: int
    after_block_erase: int
    after_crypto_erase: int

    @property
    def rotates(self) -> bool | None:
        return None if self.rotation == 0 else self.rotation != 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Provisioning:
    """Page B2h. ``reads_zeros`` is LBPRZ 1: unmapped blocks read as zeros."""

    unmaps: bool
    write_same_unmaps: bool
    reads_zeros: bool
    kind: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """READ CAPACITY (16). ``protection_type``: 0 none, else 1 to 3."""

    blocks: int
    block_size: int
    physical_size: int
    protection_type: int
    raw: bytes

    @property
    def size(self) -> int:
        return self.blocks * self.block_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Support:
    """Whether the device has a command. ``supported`` None: it does not tell. ``recommended``: seconds that
    one should wait for the command by its word, None where it does not say."""

    supported: bool | None
    recommended: int | None = None

    def __bool__(self) -> bool:
        return self.supported is True


def parse_inquiry(data: bytes) -> Inquiry:
    """Standard data, 36 bytes or more."""
    _need(data, 36, "INQUIRY data")
    return Inquiry(
        kind=data[0] & 0x1F,
        present=data[0] >> 5 == 0,
        removable=bool(data[1] & 0x80),
        version=data[2],
        protection=bool(data[5] & 0x01),
        vendor=_text(data[8:16]),
        product=_text(data[16:32]),
        revision=_text(data[32:36]),
        raw=bytes(data),
    )


def page_body(page: int, data: bytes) -> bytes:
    """A vital product data page without its four bytes of header, cut to the length that it says."""
    _need(data, 4, f"page {page:02x}h")
    if data[1] != page:
        raise _bad(f"page {data[1]:02x}h where {page:02x}h was asked for")
    return bytes(data[4 : 4 + _number(data, 2, 2)])


def parse_designators(body: bytes) -> tuple[Designator, ...]:
    """Device identification, page 83h; what is cut off at the end is left out."""
    found: list[Designator] = []
    at = 0
    while at + 4 <= len(body) and len(found) < _DESIGNATORS_MAX:
        size = body[at + 3]
        name = body[at + 4 : at + 4 + size]
        if len(name) < size:
            break
        code_set = body[at] & 0x0F
        text = _text(name) if code_set in (2, 3) else name.hex()
        found.append(Designator(association=body[at + 1] >> 4 & 0x3, kind=body[at + 1] & 0xF, name=text))
        at += 4 + size
    return tuple(found)


def parse_block_limits(body: bytes) -> BlockLimits:
    """Page B0h; devices of earlier standards have a shorter one."""
    body = body.ljust(60, b"\0")
    return BlockLimits(
        maximum_transfer=_number(body, 4, 4),
        optimal_transfer=_number(body, 8, 4),
        maximum_unmap=_number(body, 16, 4),
        maximum_unmap_ranges=_number(body, 20, 4),
        maximum_write_same=_number(body, 32, 8),
    )


def parse_characteristics(body: bytes) -> Characteristics:
    body = body.ljust(60, b"\0")
    return Characteristics(
        rotation=_number(body, 0, 2),
        zoned=body[4] >> 4 & 0x3,
        after_block_erase=body[3] >> 6 & 0x3,
        after_crypto_erase=body[3] >> 4 & 0x3,
    )


def parse_provisioning(body: bytes) -> Provisioning:
    body = body.ljust(4, b"\0")
    return Provisioning(
        unmaps=bool(body[1] & 0x80),
        write_same_unmaps=bool(body[1] & 0x60),
        reads_zeros=body[1] >> 2 & 0x7 == 1,
        kind=body[2] & 0x7,
    )


def parse_capacity(data: bytes) -> Capacity:
    """READ CAPACITY (16) data."""
    _need(data, 14, "READ CAPACITY data")
    last, size = _number(data, 0, 8), _number(data, 8, 4)
    # Blocks of 520 and 528 bytes exist beside powers of two.
    if not 256 <= size <= 1 << 20:
        raise _bad(f"blocks of {size} bytes")
    if last == 0xFFFFFFFFFFFFFFFF:
        raise _bad("a capacity that does not fit")
    return Capacity(
        blocks=last + 1,
        block_size=size,
        physical_size=size << (data[13] & 0x0F),
        protection_type=(data[12] >> 1 & 0x7) + 1 if data[12] & 0x01 else 0,
        raw=bytes(data[:32]),
    )


def parse_support(data: bytes) -> Support:
    """REPORT SUPPORTED OPERATION CODES data for one command (SPC-5 6.35.3)."""
    _need(data, 4, "the report of a command")
    word = data[1] & 0x7
    # 0: not known now; 1: not supported; 3: as the standard says; 5: in the maker's way, which is no promise.
    supported = {1: False, 3: True, 5: False}.get(word)
    at = 4 + _number(data, 2, 2)
    if not data[1] & 0x80 or len(data) < at + 12:
        return Support(supported=supported)
    return Support(supported=supported, recommended=_number(data, at + 8, 4) or None)


def parse_keys(data: bytes) -> tuple[int, ...]:
    """PERSISTENT RESERVE IN, READ KEYS: as many keys as came."""
    _need(data, 8, "the list of reservation keys")
    body = data[8 : 8 + _number(data, 4, 4)]
    return tuple(_number(body, at, 8) for at in range(0, len(body) - 7, 8))


def parse_defects(data: bytes, *, long: bool) -> int | None:
    """How many grown defects READ DEFECT DATA (12 if ``long``, else 10) tells of; None if there is no list.

    The length in the header counts: the list itself need not have been read.
    """
    head = 8 if long else 4
    _need(data, head, "the defect list")
    if not data[1] & 0x08:
        return None
    entry = {0: 4, 1: 8, 2: 8, 3: 8, 4: 8, 5: 8}.get(data[1] & 0x7)
    length = _number(data, 4, 4) if long else _number(data, 2, 2)
    return None if entry is None else length // entry


def parse_write_protected(data: bytes, *, long: bool) -> bool:
    """WP of MODE SENSE (10 if ``long``, else 6) data."""
    at = 3 if long else 2
    _need(data, at + 1, "MODE SENSE data")
    return bool(data[at] & 0x80)


def _number(data: bytes, offset: int, size: int) -> int:
    return int.from_bytes(data[offset : offset + size], "big")


def _text(data: bytes) -> str:
    """ASCII padded with spaces or zeros; what is not printable is shown as a question mark."""
    text = data.split(b"\0", 1)[0].decode("ascii", "replace")
    return "".join(letter if letter.isprintable() and letter.isascii() else "?" for letter in text).strip()


def _need(data: bytes, size: int, what: str) -> None:
    if len(data) < size:
        raise _bad(f"{what} ends after {len(data)} of {size} bytes")


def _bad(message: str) -> DeviceError:
    return DeviceError(f"the device answered: {message}", code="bad_answer")
