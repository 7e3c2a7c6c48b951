"""Decompression as a stream that fills buffers, in bounded memory whatever the image says."""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Protocol

from teeth_agent.errors import AgentError
from teeth_agent.image.ahead import Ahead, Feed
from teeth_agent.image.pieces import PIECE, BufferPool, Piece, Pieces
from teeth_agent.image.zstdstream import ZstdStream, zstd_pieces

# xz -9, its highest level, needs its window of 64 MiB and a little more.
_MEMORY = 66 << 20
# One step's output: keeps a decompression bomb from growing faster than the disk takes it.
_STEP = 1 << 20


class Stream(Protocol):
    def fill(self, buffer: memoryview) -> int:
        """Fill ``buffer``; fewer bytes only at the end of the image.

        Raises AgentError(image_corrupt | image_truncated), and whatever the source raised.
        """
        ...


class _Decoder(Protocol):
    """What zlib's and lzma's decompressor objects have in common, made one by the classes below."""

    @property
    def ended(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    def decode(self, data: bytes, most: int) -> bytes: ...
    def left_over(self) -> bytes: ...


class _Gzip:
    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    @property
    def ended(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    def decode(self, data: bytes, most: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, most)

    def left_over(self) -> bytes:
        return self._inner.unused_data


class _Xz:
    def __init__(self) -> None:
        self._inner = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_MEMORY)

    @property
    def ended(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return self._inner.needs_input

    def decode(self, data: bytes, most: int) -> bytes:
        return self._inner.decompress(data, most)

    def left_over(self) -> bytes:
        return self._inner.unused_data


@contextmanager
def decompressed(compression: str, source: Iterable[bytes | memoryview]) -> Iterator[Stream]:
    """The image's raw bytes, in order. ``source`` is read in a thread of its own, 4 MiB ahead.

    Memory: the decompressor's window (64 MiB at most: AgentError(image_memory)) and 5 MiB.
    """
    with Ahead(source) as ahead:
        try:
            if compression == "zstd":
                with closing(ZstdStream(Feed(ahead))) as stream:
                    yield stream
            else:
                yield Feed(_plain(compression, ahead))
        except AgentError as error:
            judged_by_source(error, ahead)
            raise


def judged_by_source(error: AgentError, ahead: Ahead) -> None:
    """Read the source of a corrupt image to its end: a wrong digest explains that, and is raised instead."""
    if error.code == "image_corrupt":
        ahead.drain()


def stream_pieces(compression: str, ahead: Ahead, pool: BufferPool) -> Pieces:
    """A raw image's pieces, in order. Raises AgentError as ``decompressed`` does."""
    if compression == "zstd":
        return zstd_pieces(Feed(ahead), pool)
    return _in_order(Feed(_plain(compression, ahead)), pool)


def _in_order(stream: Stream, pool: BufferPool) -> Pieces:
    offset, count = 0, PIECE
    while count == PIECE:
        buffer = pool.take()
        count = stream.fill(buffer[:PIECE])
        if not count:
            pool.give_back(buffer)
            return
        yield Piece(offset=offset, length=count, data=buffer[:count])
        offset += count


def _plain(compression: str, source: Iterable[memoryview]) -> Iterable[bytes | memoryview]:
    return source if compression == "none" else _decoded(compression, source)


def _decoded(compression: str, source: Iterable[memoryview]) -> Iterator[bytes]:
    """Gzip members or xz streams, one after the other, as both formats allow."""
    make: type[_Gzip | _Xz] = _Gzip if compression == "gzip" else _Xz
    decoder: _Decoder = make()
    try:
        for block in source:
            data, more = bytes(block), False
            while data or more:
                if decoder.ended:
                    # Both formats allow zero padding before the next member.
                    data = data.lstrip(b"\0")
                    if not data:
                        break
                    decoder = make()
                out = decoder.decode(data, _STEP)
                data = decoder.left_over() if decoder.ended else b""
                more = not decoder.ended and (len(out) == _STEP or not decoder.needs_input)
                if out:
                    yield out
    except (zlib.error, lzma.LZMAError) as error:
        # lzma has no exception of its own for it.
        code = "image_memory" if "Memory usage limit" in str(error) else "image_corrupt"
        raise AgentError(f"the image cannot be decompressed as {compression}: {error}", code=code) from error
    if not decoder.ended:
        raise AgentError(f"the {compression} data end early", code="image_truncated")
