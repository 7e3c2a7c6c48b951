"""zstd taken apart into frames: small ones for several threads at once, large ones as a stream."""

from __future__ import annotations

from contextlib import closing

from teeth_agent.errors import AgentError, image_errors
from teeth_agent.image.ahead import Feed
from teeth_agent.image.pieces import ALIGN, PIECE, BufferPool, Packed, Piece, Pieces
from teeth_agent.libzstd import ZstdDecoder
from teeth_image.zstdframes import BlockWalk, FrameHeader, read_header

# Windows of up to 64 MiB: all of zstd's levels but --ultra -22, and --long up to 26.
WINDOW_LOG = 26
_LONGEST_HEADER = 18
# A frame of zeros has 4 MiB in less than 200 bytes.
_SHORT = 512
_MOST_SHORT = 8


class ZstdStream:
    """A decompress.Stream of all frames, one after the other; to be closed."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._decoder = ZstdDecoder(window_log=WINDOW_LOG)
        self._inside = False
        self._begun = False
        self._given = memoryview(b"")

    def close(self) -> None:
        self._decoder.close()

    def begin(self, packed: memoryview) -> None:
        """``packed`` is the beginning of a frame, and is read before the feed."""
        assert not self._given
        self._given, self._inside, self._begun = packed, True, True

    def fill(self, buffer: memoryview) -> int:
        """Fill ``buffer``; fewer bytes only at the end of the image. Raises AgentError."""
        done = 0
        while done < len(buffer):
            if not self._inside and not self._next_frame():
                break
            done += self.fill_from_frame(buffer[done:])
        return done

    def fill_from_frame(self, buffer: memoryview) -> int:
        """Fill ``buffer``; fewer bytes only at the end of the frame, and then ``inside`` is False."""
        done = 0
        while self._inside and done < len(buffer):
            packed = self._given or self._feed.rest()
            if not packed:
                raise _early()
            read, filled, ended = self._decoder.stream(packed, buffer[done:])
            done += filled
            if self._given:
                self._given = self._given[read:]
            else:
                self._feed.used(read)
            if ended:
                self._inside = False
        return done

    @property
    def inside(self) -> bool:
        """Whether a frame has begun and not ended."""
        return self._inside

    def _next_frame(self) -> bool:
        """Whether there is one more frame of data."""
        while True:
            start = memoryview(bytearray(_LONGEST_HEADER))
            found = _header(self._feed, start)
            if found is None:
                if not self._begun:
                    raise _early()
                return False
            header, have = found
            if header.skip is None:
                self.begin(start[:have])
                return True
            _skip(self._feed, header.skip)


def zstd_pieces(feed: Feed, pool: BufferPool) -> Pieces:
    """The pieces of an image, in order. Raises AgentError(image_corrupt | image_truncated | image_memory).

    A frame that says its size, of whole ALIGN bytes and not above PIECE, is left packed for the writer's
    threads; everything else is unpacked here. Where compressed frames repeat, as those of zeros do, they are
    unpacked once.
    """
    with closing(ZstdStream(feed)) as stream:
        splitter = _Splitter(feed, pool, stream)
        while splitter.next_frame():
            yield from splitter.pieces()
        yield from splitter.tail()


class _Splitter:
    """``offset``: where the next piece goes; ``_partial``: the beginning of one, whose rest is to come."""

    def __init__(self, feed: Feed, pool: BufferPool, stream: ZstdStream) -> None:
        self._feed = feed
        self._pool = pool
        self._stream = stream
        self._offset = 0
        self._partial: memoryview | None = None
        self._filled = 0
        self._zeros: set[bytes] = set()
        self._any = False
        self._frame: memoryview = memoryview(b"")
        self._have = 0
        self._header: FrameHeader | None = None

    def next_frame(self) -> bool:
        """Go to the next frame of data, if there is one."""
        self._frame = self._pool.take()
        while (found := _header(self._feed, self._frame)) is not None:
            self._header, self._have = found
            if self._header.skip is None:
                self._any = True
                return True
            _skip(self._feed, self._header.skip)
        self._pool.give_back(self._frame)
        if not self._any:
            raise _early()
        return False

    def pieces(self) -> Pieces:
        """Those of the frame."""
        assert self._header is not None
        content = self._header.content
        small = content is not None and content <= PIECE and not content % ALIGN
        if small and not self._filled and self._read_whole(self._header):
            assert content is not None
            yield from self._packed(content)
        else:
            yield from self._streamed()

    def tail(self) -> Pieces:
        """What is left at the end of the image."""
        if self._partial is not None and self._filled:
            yield self._flush()

    def _read_whole(self, header: FrameHeader) -> bool:
        """Get the frame into its buffer; False if it does not fit, which a frame that was packed does."""
        walk = BlockWalk(header)
        while True:
            if walk.needed > len(self._frame):
                return False
            count = self._feed.fill(self._frame[self._have : walk.needed])
            self._have += count
            if self._have < walk.needed:
                raise _early()
            if walk.ended:
                return True
            with image_errors():
                walk.step(self._frame)

    def _packed(self, content: int) -> Pieces:
        offset, packed = self._offset, self._frame[: self._have]
        self._offset += content
        short = bytes(packed) if self._have <= _SHORT else None
        if content == 0 or short in self._zeros:
            self._pool.give_back(packed)
            if content:
                yield Piece(offset=offset, length=content, data=None)
            return

        def unpack(buffer: memoryview) -> None:
            with closing(ZstdDecoder(window_log=WINDOW_LOG)) as decoder:
                if decoder.frame(packed, buffer) != len(buffer):
                    raise AgentError("a zstd frame is not of the size that it says", code="image_corrupt")
            # bytearray == memoryview is one memcmp; the other way round compares item by item.
            if short and len(self._zeros) < _MOST_SHORT and bytearray(len(buffer)) == buffer:
                self._zeros.add(short)

        yield Packed(offset=offset, length=content, unpack=unpack, packed=packed)

    def _streamed(self) -> Pieces:
        self._stream.begin(self._frame[: self._have])
        try:
            while self._stream.inside:
                if self._partial is None:
                    self._partial, self._filled = self._pool.take(), 0
                self._filled += self._stream.fill_from_frame(self._partial[self._filled : PIECE])
                if self._filled == PIECE:
                    yield self._flush()
        finally:
            self._pool.give_back(self._frame)
        # What follows may then be left packed.
        if self._filled and not self._filled % ALIGN:
            yield self._flush()

    def _flush(self) -> Piece:
        assert self._partial is not None
        piece = Piece(offset=self._offset, length=self._filled, data=self._partial[: self._filled])
        self._offset += self._filled
        self._partial, self._filled = None, 0
        return piece


def _header(feed: Feed, buffer: memoryview) -> tuple[FrameHeader, int] | None:
    """The next frame's header, its bytes at the front of ``buffer``, and how many; None at the end."""
    have = 0
    while have < _LONGEST_HEADER:
        if not feed.fill(buffer[have : have + 1]):
            if have:
                raise _early()
            return None
        have += 1
        with image_errors():
            header = read_header(buffer[:have])
        if header is not None:
            return header, have
    raise AssertionError("no header is longer")


def _skip(feed: Feed, length: int) -> None:
    if feed.skip(length) < length:
        raise _early()


def _early() -> AgentError:
    return AgentError("the zstd data end early", code="image_truncated")
