"""Zstandard frames, taken apart without decompressing them. RFC 8878, sections 3.1.1 and 3.1.2."""

from __future__ import annotations

from dataclasses import dataclass

from teeth_image.errors import ImageError

MAGIC = 0xFD2FB528
# Sixteen magic numbers, of frames that hold something else than data: seek tables, for one.
_SKIPPABLE = 0x184D2A50
_SKIPPABLE_MASK = 0xFFFFFFF0
# What tells how long a frame's header is: the magic number and the frame header descriptor.
_FIRST = 5
_RLE, _RESERVED = 1, 3
_CONTENT_SIZE_BYTES = (0, 2, 4, 8)
_DICTIONARY_BYTES = (0, 1, 2, 4)
# RFC 8878, 3.1.1.2.4: no block is larger, packed or not.
MOST_BLOCK = 128 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameHeader:
    """The beginning of a frame; sizes in bytes.

    ``length`` of the header itself; ``skip``: the length of all that follows it, for a skippable frame,
    else None; ``content``: what the frame says that it unpacks to, None where it does not say; ``window``:
    how far back it refers, which is the memory that a decompressor needs that cannot look back at its output.
    """

    length: int
    skip: int | None
    content: int | None
    window: int
    checksum: bool


def read_header(data: bytes | memoryview) -> FrameHeader | None:
    """The header at the front of ``data``; None while it is not there to its end (at most 18 bytes).

    Raises ImageError(image_corrupt) for what is no frame, and for one that needs a dictionary.
    """
    if len(data) < _FIRST:
        return None
    magic = int.from_bytes(data[:4], "little")
    if magic & _SKIPPABLE_MASK == _SKIPPABLE:
        if len(data) < 8:
            return None
        skip = int.from_bytes(data[4:8], "little")
        return FrameHeader(length=8, skip=skip, content=None, window=0, checksum=False)
    if magic != MAGIC:
        raise ImageError("the image is not valid zstd: a wrong magic number", code="image_corrupt")
    return _data_frame(data)


def _data_frame(data: bytes | memoryview) -> FrameHeader | None:
    descriptor = data[4]
    single = bool(descriptor & 0x20)
    size_bytes = _CONTENT_SIZE_BYTES[descriptor >> 6] or int(single)
    dictionary_bytes = _DICTIONARY_BYTES[descriptor & 3]
    after_window = _FIRST + (0 if single else 1)
    length = after_window + dictionary_bytes + size_bytes
    if len(data) < length:
        return None
    if descriptor & 0x08:
        raise ImageError("the image is not valid zstd: a reserved bit is set", code="image_corrupt")
    if any(data[after_window : after_window + dictionary_bytes]):
        raise ImageError("the image's zstd frames need a dictionary", code="image_corrupt")
    content = None
    if size_bytes:
        content = int.from_bytes(data[length - size_bytes : length], "little")
        content += 256 if size_bytes == 2 else 0
    if single:
        assert content is not None
        window = content
    else:
        exponent, mantissa = data[_FIRST] >> 3, data[_FIRST] & 7
        window = (1 << (10 + exponent)) // 8 * (8 + mantissa)
    return FrameHeader(
        length=length, skip=None, content=content, window=window, checksum=bool(descriptor & 0x04)
    )


class BlockWalk:
    """Finds the end of a data frame by the lengths of its blocks, in memory that grows as it comes.

    ``needed`` bytes from the frame's start on must be there before ``step`` may be called; once ``ended``,
    the frame has exactly ``needed`` bytes.
    """

    __slots__ = ("_block", "_checksum", "ended", "needed")

    def __init__(self, header: FrameHeader) -> None:
        self._block = header.length
        self._checksum = 4 if header.checksum else 0
        self.ended = False
        self.needed = header.length + 3

    def step(self, frame: bytes | memoryview) -> None:
        """Go past one block. Raises ImageError(image_corrupt)."""
        said = int.from_bytes(frame[self._block : self._block + 3], "little")
        kind, size = said >> 1 & 3, said >> 3
        if kind == _RESERVED or (size > MOST_BLOCK and kind != _RLE):
            raise ImageError("the image is not valid zstd: a block of no valid kind", code="image_corrupt")
        self._block += 3 + (1 if kind == _RLE else size)
        if said & 1:
            self.ended = True
            self.needed = self._block + self._checksum
        else:
            self.needed = self._block + 3
