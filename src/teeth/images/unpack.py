"""Decompression of a stream of unknown origin: by content, in bounded memory, ended at a bound."""

from __future__ import annotations

import lzma
import sys
import zlib
from collections.abc import Iterable, Iterator
from typing import Literal, Protocol

from teeth.images.errors import BadImage

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["Compression", "compression_of", "unpacked", "zstd"]

Compression = Literal["none", "zstd", "gzip", "xz"]
HEAD = 6  # bytes that tell the compression
_STEP = 1 << 20  # most that is unpacked at once
_MAGIC: tuple[tuple[bytes, Compression], ...] = (
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x1f\x8b\x08", "gzip"),
    (b"\xfd7zXZ\x00", "xz"),
)
# Of a zstd frame (log2) and of an xz stream: what a decompressor may ask for on our behalf.
_ZSTD_WINDOW = 27
_XZ_MEMORY = 256 << 20


class _Decompressor(Protocol):
    def unpack(self, data: bytes) -> Iterator[bytes]: ...

    @property
    def eof(self) -> bool: ...

    @property
    def rest(self) -> bytes: ...


def compression_of(head: bytes) -> Compression:
    """By the first HEAD bytes."""
    if head[1:4] == b"\x2a\x4d\x18" and head[:1] and 0x50 <= head[0] <= 0x5F:
        return "zstd"  # a skippable frame in front
    return next((name for magic, name in _MAGIC if head.startswith(magic)), "none")


def unpacked(blocks: Iterable[bytes], compression: Compression) -> Iterator[bytes]:
    """The bytes that ``blocks`` unpack to, in blocks of at most 1 MiB.

    Several frames, members or streams may follow one another. Raises BadImage for what is damaged, ends in
    the middle, asks for too much memory, or has something else behind its end.
    """
    if compression == "none":
        yield from blocks
        return
    one: _Decompressor | None = None
    for block in blocks:
        data = block
        while data:
            if one is None:
                data = data.lstrip(b"\0") if compression == "xz" else data  # stream padding
                if not data:
                    break
                one = _new(compression)
            yield from _safely(one, data, compression)
            data = b""
            if one.eof:
                data, one = one.rest, None
    if one is not None:
        raise BadImage(f"the image ends in the middle of its {compression} data")


def _safely(one: _Decompressor, data: bytes, compression: Compression) -> Iterator[bytes]:
    try:
        yield from one.unpack(data)
    except (zlib.error, lzma.LZMAError, zstd.ZstdError, EOFError, MemoryError) as error:
        raise BadImage(f"the image is not valid {compression}: {error}") from error


def _new(compression: Compression) -> _Decompressor:
    if compression == "gzip":
        return _Gzip()
    if compression == "xz":
        return _Buffered(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY))
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW}
    return _Buffered(zstd.ZstdDecompressor(options=options))


class _Buffered:
    """lzma's and zstd's: they keep what was not unpacked yet."""

    def __init__(self, inner: lzma.LZMADecompressor | zstd.ZstdDecompressor) -> None:
        self._inner = inner

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def rest(self) -> bytes:
        return bytes(self._inner.unused_data)

    def unpack(self, data: bytes) -> Iterator[bytes]:
        out = self._inner.decompress(data, _STEP)
        while True:
            if out:
                yield out
            if self._inner.eof or (self._inner.needs_input and not out):
                return
            if self._inner.needs_input and len(out) < _STEP:
                return
            out = self._inner.decompress(b"", _STEP)


class _Gzip:
    """zlib's: it gives back what was not unpacked yet."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def rest(self) -> bytes:
        return self._inner.unused_data

    def unpack(self, data: bytes) -> Iterator[bytes]:
        while data and not self._inner.eof:
            if out := self._inner.decompress(data, _STEP):
                yield out
            data = self._inner.unconsumed_tail
