"""Writing an image so that the disk is not bootable before every byte was read back and found right.

Both ends of the disk are zeroed first and written last (``teeth_agent.image.ends``). Between that, several
threads unpack and write, and two read back what was flushed.
"""

from __future__ import annotations

import hashlib
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from teeth_agent.blockio import Device, aligned_buffer
from teeth_agent.errors import AgentError
from teeth_agent.image.ends import Ends
from teeth_agent.image.pieces import PIECE, BufferPool, Packed, Piece, Pieces
from teeth_agent.image.rawproof import RawChunks, RawDigest
from teeth_agent.image.readback import ReadBack, Record, chunks_hold, not_as_the_manifest_says
from teeth_agent.image.zeroruns import GRAIN, runs
from teeth_agent.inflight import run_threads, taking_turns

# docs/adr/0021: more requests in flight gain nothing. The pool has a buffer for each and two for the reader.
WRITERS = 4
READERS = 2
# Shorter runs of zeros are written as data, for a command for zeros costs about as much as writing so much.
_WORTH_A_COMMAND = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What is known of the image before. ``raw_digest`` is given only if the pieces come in order.

    ``check_head`` is called with the first MiB once it is there, and may raise AgentError.
    """

    raw_size: int | None = None
    raw_digest: str | None = None
    raw_chunks: RawChunks | None = None
    check_head: Callable[[memoryview], None] = lambda _head: None


@dataclass(slots=True, kw_only=True)
class Written:
    """What has become of the image so far. Sizes in bytes.

    ``raw_bytes`` = ``written_bytes`` + ``skipped_bytes``, but for the padding of the last block;
    ``zero_bytes`` of both; ``read_back`` of them are proven, ``by_manifest`` have a digest there.
    ``complete``: nothing is left to write but the ends.
    """

    raw_bytes: int = 0
    written_bytes: int = 0
    skipped_bytes: int = 0
    zero_bytes: int = 0
    read_back: int = 0
    complete: bool = False
    by_manifest: int = 0


Tick = Callable[[Written], None]


class DiskWriter:
    """One image onto one device. ``reads_zero``: the device is known to, so zeros are not written.

    ``seeks``: reading while writing would be slow. ``tick`` is called from any thread after each piece, and
    may raise to stop.
    """

    def __init__(
        self, device: Device, *, reads_zero: bool, seeks: bool, expected: Expected, tick: Tick
    ) -> None:
        self.written = Written()
        self.ends = Ends(device)
        self._device = device
        self._reads_zero = reads_zero
        self._expected = expected
        self._tick = tick
        self._lock = threading.Lock()
        self._head_is_checked = False
        self._readback = ReadBack(device, seeks=seeks, advance=self._proven)
        self._digest = RawDigest(expected.raw_digest) if expected.raw_digest else None

    def write(self, pieces: Pieces, pool: BufferPool, interrupt: Callable[[], object]) -> Written:
        """Write all but the ends and read it back. ``interrupt`` wakes a reader of pieces that waits.

        Raises DeviceError, what ``pieces`` raises, AgentError(disk_too_small | image_size | image_truncated |
        digest_mismatch): then the disk does not boot.
        """
        self.ends.wipe()
        stop = threading.Event()

        def halt() -> None:
            stop.set()
            self._readback.stop()
            pool.stop()
            if self._digest is not None:
                self._digest.stop()
            interrupt()

        write = taking_turns(pieces, lambda: self._make_writer(pool), stop)
        read = taking_turns(self._readback.records(), self._readback.make_reader, stop)
        last = _Last(WRITERS, self._all_written)
        run_threads([lambda: last.of(write)] * WRITERS + [read] * READERS, halt)
        self._check_all()
        return self.written

    def finish(self) -> None:
        """Write what was held back. Raises DeviceError."""
        self.ends.write()

    def _make_writer(self, pool: BufferPool) -> Callable[[Piece | Packed], bool]:
        buffers: list[memoryview] = []  # made for the first piece that is packed

        def write(piece: Piece | Packed) -> bool:
            if isinstance(piece, Packed):
                try:
                    self._check_room(piece)
                    if not buffers:
                        buffers.append(aligned_buffer(PIECE))
                    piece.unpack(buffers[0][: piece.length])
                finally:
                    if piece.packed is not None:
                        pool.give_back(piece.packed)
                self._put(piece, buffers[0])
            elif piece.data is None:
                self._check_room(piece)
                self._put_zeros(piece)
            else:
                try:
                    self._check_room(piece)
                    self._put(piece, memoryview(piece.data.obj))
                finally:
                    pool.give_back(piece.data)
            self._tick(self.written)
            return True

        return write

    def _check_room(self, piece: Piece | Packed) -> None:
        end, known = piece.offset + piece.length, self._expected.raw_size
        assert piece.offset % self._device.logical_block == 0
        if known is not None and end > known:
            raise AgentError(
                f"the image decompresses to more than the {known} bytes it should have", code="image_size"
            )
        if end > self._device.size:
            raise AgentError(
                f"the image is larger than {self._device.path} ({self._device.size} bytes)",
                code="disk_too_small",
            )

    def _put(self, piece: Piece | Packed, buffer: memoryview) -> None:
        """``buffer`` begins with the piece, and has room for its padding."""
        view = buffer[: self._padded(piece.length)]
        view[piece.length :] = bytes(len(view) - piece.length)
        if self._digest is not None:
            self._digest.update(piece.offset, piece.length, view[: piece.length])
        held = self.ends.hold(piece.offset, len(view), view)
        if held:
            self._check_head(at_end=False)
        counts = Written(raw_bytes=piece.length, written_bytes=held)
        digests = self._vouched_for(piece, counts)
        whole = len(view) == piece.length and not held
        if digests and not whole:
            self._check_chunks(piece, view[: piece.length], digests)
        low, high = self._between_ends(piece.offset, len(view))
        if low < high:
            body = view[low - piece.offset : high - piece.offset]
            self._put_body(low, body, digests if whole else (), counts)
        self._count(counts)

    def _put_body(self, offset: int, view: memoryview, digests: tuple[bytes, ...], counts: Written) -> None:
        worth = GRAIN if self._reads_zero else _WORTH_A_COMMAND
        for start, end, zero in runs(view, worth):
            length = end - start
            if zero:
                self._make_zero(offset + start, length, counts)
            else:
                self._device.write_from(offset + start, view[start:end])
                counts.written_bytes += length
            if not digests:
                self._readback.add(
                    Record(
                        offset=offset + start,
                        length=length,
                        crc=None if zero else zlib.crc32(view[start:end]),
                        sampled=zero and self._reads_zero,
                    )
                )
        if digests:
            assert self._expected.raw_chunks is not None
            chunk = self._expected.raw_chunks.size
            crc = zlib.crc32(view)
            self._readback.add(Record(offset=offset, length=len(view), crc=crc, chunk=chunk, digests=digests))

    def _put_zeros(self, piece: Piece) -> None:
        if self._digest is not None:
            self._digest.update(piece.offset, piece.length, None)
        counts = Written(raw_bytes=piece.length)
        self._check_zero_chunks(piece, self._vouched_for(piece, counts))
        padded = self._padded(piece.length)
        counts.written_bytes = self.ends.hold(piece.offset, padded, None)
        if counts.written_bytes:
            self._check_head(at_end=False)
        low, high = self._between_ends(piece.offset, padded)
        if low < high:
            self._make_zero(low, high - low, counts)
            self._readback.add(Record(offset=low, length=high - low, crc=None, sampled=self._reads_zero))
        self._count(counts)

    def _make_zero(self, offset: int, length: int, counts: Written) -> None:
        counts.zero_bytes += length
        if self._reads_zero:
            counts.skipped_bytes += length
        else:
            self._device.zero_range(offset, length)
            counts.written_bytes += length

    def _vouched_for(self, piece: Piece | Packed, counts: Written) -> tuple[bytes, ...]:
        chunks = self._expected.raw_chunks
        digests = () if chunks is None else chunks.of(piece.offset, piece.length)
        counts.by_manifest = piece.length if digests else 0
        return digests

    def _check_chunks(self, piece: Piece | Packed, view: memoryview, digests: tuple[bytes, ...]) -> None:
        assert self._expected.raw_chunks is not None
        if not chunks_hold(view, self._expected.raw_chunks.size, digests):
            raise not_as_the_manifest_says(piece.offset, piece.length)

    def _check_zero_chunks(self, piece: Piece, digests: tuple[bytes, ...]) -> None:
        chunk = 0 if self._expected.raw_chunks is None else self._expected.raw_chunks.size
        for index, digest in enumerate(digests):
            # An empty digest is what a manifest should say of zeros.
            zeros = bytes(min(chunk, piece.length - index * chunk)) if digest else b""
            if digest and hashlib.sha256(zeros).digest() != digest:
                raise not_as_the_manifest_says(piece.offset + index * chunk, chunk)

    def _padded(self, length: int) -> int:
        return -(-length // self._device.logical_block) * self._device.logical_block

    def _between_ends(self, offset: int, length: int) -> tuple[int, int]:
        return max(offset, self.ends.front), min(offset + length, self.ends.back)

    def _check_head(self, *, at_end: bool) -> None:
        with self._lock:
            if self._head_is_checked or not (at_end or self.ends.front_is_here):
                return
            self._head_is_checked = True
        self._expected.check_head(self.ends.head)

    def _count(self, counts: Written) -> None:
        with self._lock:
            for name in ("raw_bytes", "written_bytes", "skipped_bytes", "zero_bytes", "by_manifest"):
                setattr(self.written, name, getattr(self.written, name) + getattr(counts, name))

    def _proven(self, length: int) -> None:
        with self._lock:
            self.written.read_back += length
        self._tick(self.written)

    def _all_written(self) -> None:
        self.written.complete = True
        self._readback.end()

    def _check_all(self) -> None:
        known = self._expected.raw_size
        if known is not None and self.written.raw_bytes != known:
            raise AgentError(
                f"the image decompresses to {self.written.raw_bytes} bytes, expected {known}",
                code="image_truncated",
            )
        self._check_head(at_end=True)
        if self._digest is not None:
            self._digest.check()


class _Last:
    """Has ``then`` called once, by the last of so many threads, however each ends."""

    def __init__(self, count: int, then: Callable[[], None]) -> None:
        self._left = count
        self._then = then
        self._lock = threading.Lock()

    def of(self, work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            with self._lock:
                self._left -= 1
                left = self._left
            if not left:
                self._then()
