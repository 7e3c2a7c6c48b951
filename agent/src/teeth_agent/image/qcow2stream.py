"""A qcow2 file in two passes: its tables by single reads, then all of it once, in order.

The second pass is what counts: every byte of it goes into the digest, pieces go to the disk as they come, and
the tables that come by are compared with those of the first pass, which a server could have made up for us.
Memory: what ``qcow2layout`` says, and the buffers of the pool.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing

from teeth_agent.errors import AgentError, image_errors
from teeth_agent.image.pieces import ALIGN, BufferPool, Packed, Piece, Pieces
from teeth_agent.image.source import Source
from teeth_agent.libzstd import ZstdDecoder
from teeth_image import qcow2layout
from teeth_image.qcow2 import Header, unsupported
from teeth_image.qcow2layout import Data, Layout, PackedData, TableData
from teeth_image.sniff import check_fetched

# QEMU deflates with a window of 4 KiB; more is accepted, as QEMU itself does not check it.
_DEFLATE = -zlib.MAX_WBITS
# A frame has one cluster, so at most 2 MiB to look back at.
_WINDOW_LOG = 22
_PARTS = 32


class Qcow2:
    """An image whose tables were read; making one is the first pass. ``size`` of the disk, in bytes.

    Raises AgentError: the codes of ``teeth_image.qcow2``, qcow2_needs_ranges, and those of the source.
    """

    def __init__(self, source: Source) -> None:
        if not source.random_access:
            raise _needs_ranges()
        try:
            with image_errors():
                self._layout = _plan(source)
        except AgentError as error:
            raise _needs_ranges() if error.code == "no_ranges" else error from None
        self.size = self._layout.size

    def pieces(self, pool: BufferPool, blocks: Iterable[bytes | memoryview]) -> Pieces:
        """The disk, zeros first, then the file's data in its order.

        ``blocks``: the source's, all of them and in order; they are read to their end.
        Raises AgentError: image_corrupt for compressed data that are none, digest_mismatch if the tables are
        others than in the first pass, and the codes of the source.
        """
        for offset, length in self._layout.zeros():
            yield Piece(offset=offset, length=length, data=None)
        forward = _Forward(blocks)
        found = {mark: hashlib.sha256() for mark in self._layout.digests}
        for step in self._layout.steps():
            forward.skip_to(step.host)
            if isinstance(step, TableData):
                for view in forward.take(step.length):
                    found[step.mark].update(view)
            elif isinstance(step, PackedData):
                yield _packed(step, forward, pool, self._layout.header)
            else:
                yield _data(step, forward, pool, self._layout.header.cluster)
        forward.drain()
        if any(found[mark].digest() != digest for mark, digest in self._layout.digests.items()):
            raise AgentError(
                "the qcow2 file's tables, read first, are others than those in the whole file",
                code="digest_mismatch",
            )


def _needs_ranges() -> AgentError:
    return AgentError(
        "a qcow2 file's tables are read first: its server has to give ranges, or it has to be cached before",
        code="qcow2_needs_ranges",
    )


def _plan(source: Source) -> Layout:
    plan = qcow2layout.plan(source.size)
    try:
        offset, length = next(plan)
        found = source.read(offset, length)
        check_fetched(found, format="qcow2", compression="none")
        while True:
            offset, length = plan.send(found)
            found = source.read(offset, length)
    except StopIteration as end:
        layout: Layout = end.value
    if layout.header.cluster < ALIGN:
        raise unsupported(
            f"has clusters of {layout.header.cluster} bytes, smaller than blocks of disks may be,"
        )
    return layout


def _data(step: Data, forward: _Forward, pool: BufferPool, cluster: int) -> Piece:
    buffer = pool.take()[: step.length]
    if step.parts is None:
        forward.read_into(buffer)
        return Piece(offset=step.guest, length=step.length, data=buffer)
    buffer[:] = bytes(step.length)
    size = cluster // _PARTS
    for start in range(0, step.length, size):
        if step.parts >> start // size & 1:
            forward.skip_to(step.host + start)
            forward.read_into(buffer[start : start + size])
    return Piece(offset=step.guest, length=step.length, data=buffer)


def _packed(step: PackedData, forward: _Forward, pool: BufferPool, header: Header) -> Packed:
    buffer, cluster = pool.take(), header.cluster
    forward.read_into(buffer[: step.ends[-1]])

    def clusters(out: memoryview) -> Iterator[tuple[memoryview, memoryview]]:
        """(compressed, where it goes), the last one shorter at the end of the disk."""
        start = 0
        for index, end in enumerate(step.ends):
            yield buffer[start:end], out[index * cluster : (index + 1) * cluster]
            start = end

    def inflate(out: memoryview) -> None:
        for packed, target in clusters(out):
            _inflate(packed, target)

    def unzstd(out: memoryview) -> None:
        with closing(ZstdDecoder(window_log=_WINDOW_LOG)) as decoder:
            for packed, target in clusters(out):
                _unzstd(decoder, packed, target)

    unpack = unzstd if header.compression == "zstd" else inflate
    return Packed(offset=step.guest, length=step.length, unpack=unpack, packed=buffer)


def _inflate(packed: memoryview, out: memoryview) -> None:
    """One cluster. Behind the data there may be anything."""
    try:
        data = zlib.decompressobj(_DEFLATE).decompress(packed, len(out))
    except zlib.error as error:
        raise AgentError(f"a compressed cluster of the qcow2 file: {error}", code="image_corrupt") from error
    if len(data) != len(out):
        raise _short()
    out[:] = data


def _unzstd(decoder: ZstdDecoder, packed: memoryview, out: memoryview) -> None:
    """One cluster. Behind its frame there may be anything."""
    decoder.reset()
    while out:
        read, filled, ended = decoder.stream(packed, out)
        packed, out = packed[read:], out[filled:]
        if out and (ended or not packed):
            raise _short()


def _short() -> AgentError:
    return AgentError("a compressed cluster of the qcow2 file is too short", code="image_corrupt")


class _Forward:
    """Goes through the blocks of a source once."""

    def __init__(self, blocks: Iterable[bytes | memoryview]) -> None:
        self._blocks = iter(blocks)
        self._block = memoryview(b"")
        self._at = 0

    def skip_to(self, offset: int) -> None:
        assert offset >= self._at
        for _ in self.take(offset - self._at):
            pass

    def take(self, length: int) -> Iterator[memoryview]:
        """The next ``length`` bytes, in parts that are valid until the next is asked for."""
        while length:
            if not self._block:
                self._block = self._next()
            part, self._block = self._block[:length], self._block[length:]
            length -= len(part)
            self._at += len(part)
            yield part

    def read_into(self, buffer: memoryview) -> None:
        done = 0
        for part in self.take(len(buffer)):
            buffer[done : done + len(part)] = part
            done += len(part)

    def drain(self) -> None:
        """To the end of the source, which then has checked the digest."""
        for block in self._blocks:
            self._at += len(block)

    def _next(self) -> memoryview:
        block = next(self._blocks, None)
        if block is None:
            raise AgentError("the qcow2 file ends before its last cluster", code="image_truncated")
        return memoryview(block)
