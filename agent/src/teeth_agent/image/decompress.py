"""Decompression as a stream that fills buffers, in bounded memory whatever the image says."""

from __future__ import annotations

import fcntl
import lzma
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Protocol

from teeth_agent.errors import AgentError, ToolError
from teeth_agent.run import filter_process
from teeth_agent.tools import zstd

# The largest window that zstd's and xz's own levels ask for (zstd --ultra -22, xz -9) is 128 and 64 MiB.
_MEMORY = 128 << 20
# One step's output: keeps a decompression bomb from growing faster than the disk takes it.
_STEP = 1 << 20
# The kernel's own 64 KiB would mean 16 times the context switches.
_PIPE = 1 << 20
# Held to be sure that the pump thread is gone before what it feeds from goes away.
_PUMP_ENDS = 90.0

# zstd(1) has no exit status of its own for input that stops in the middle of a frame.
_ZSTD_EARLY_END = ("premature", "unfinished", "unexpected end of file")


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


class _Chunks:
    """A Stream over an iterator of byte blocks."""

    def __init__(self, chunks: Iterator[bytes | memoryview]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def fill(self, buffer: memoryview) -> int:
        done = 0
        while done < len(buffer):
            if not self._rest:
                block = next(self._chunks, None)
                if block is None:
                    break
                self._rest = memoryview(block)
                continue
            count = min(len(buffer) - done, len(self._rest))
            buffer[done : done + count] = self._rest[:count]
            self._rest = self._rest[count:]
            done += count
        return done


class _Pipe:
    """A Stream over the output of a filter whose input a pump thread feeds."""

    def __init__(self, output: IO[bytes], pump: _Pump) -> None:
        self._output = output
        self._pump = pump

    def fill(self, buffer: memoryview) -> int:
        done = 0
        while done < len(buffer):
            count = self._output.readinto(buffer[done:])  # type: ignore[attr-defined]
            if not count:
                self._pump.finish()
                break
            done += count
        return done


class _Pump(threading.Thread):
    """Feeds a filter from the source; keeps what the source raised for the thread that reads."""

    def __init__(self, source: Iterable[bytes | memoryview], sink: IO[bytes]) -> None:
        super().__init__(name="image-pump", daemon=True)
        self._source = source
        self._sink = sink
        self._error: BaseException | None = None

    def run(self) -> None:
        blocks = iter(self._source)
        try:
            try:
                for block in blocks:
                    self._feed(memoryview(block))
            except BrokenPipeError:
                _drain(blocks)  # the filter ended by itself: its own status says why
        except BaseException as error:
            self._error = error
        finally:
            self._sink.close()

    def _feed(self, rest: memoryview) -> None:
        while rest:
            rest = rest[self._sink.write(rest) :]

    def finish(self) -> None:
        self.join(_PUMP_ENDS)
        if self._error is not None:
            raise self._error
        if self.is_alive():
            raise AgentError("the decompressor ended before the image did", code="image_corrupt")


@contextmanager
def decompressed(compression: str, source: Iterable[bytes | memoryview]) -> Iterator[Stream]:
    """The image's raw bytes. ``source`` is read in a thread of its own for zstd, else by the reader.

    Memory: the decompressor's window (at most 128 MiB, in the zstd process or here) and about 3 MiB.
    """
    if compression == "zstd":
        with _zstd(source) as stream:
            yield stream
    elif compression == "none":
        yield _Chunks(iter(source))
    else:
        yield _Chunks(_decoded(compression, source))


@contextmanager
def _zstd(source: Iterable[bytes | memoryview]) -> Iterator[Stream]:
    pump: _Pump | None = None
    try:
        with filter_process(zstd.decompress_argv(memory=_MEMORY)) as (sink, output):
            for pipe in (sink, output):
                _enlarge(pipe)
            pump = _Pump(source, sink)
            pump.start()
            yield _Pipe(output, pump)
            pump.finish()
    except ToolError as error:
        if error.code == "tool_missing":
            raise
        early = any(words in str(error) for words in _ZSTD_EARLY_END)
        code = "image_truncated" if early else "image_corrupt"
        raise AgentError(f"the image cannot be decompressed: {error}", code=code) from error
    finally:
        if pump is not None:
            pump.join(_PUMP_ENDS)


def _enlarge(pipe: IO[bytes]) -> None:
    try:
        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE)
    except OSError:
        return  # over the user's pipe quota: slower, not wrong


def _decoded(compression: str, source: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """Gzip members or xz streams, one after the other, as both formats allow."""
    make: type[_Gzip | _Xz] = _Gzip if compression == "gzip" else _Xz
    decoder: _Decoder = make()
    blocks = iter(source)
    try:
        for block in blocks:
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
        _drain(blocks)
        raise AgentError(f"the image is not valid {compression}: {error}", code="image_corrupt") from error
    if not decoder.ended:
        raise AgentError(f"the {compression} data end early", code="image_truncated")


def _drain(blocks: Iterator[bytes | memoryview]) -> None:
    """Let the source judge its bytes to the end: a wrong digest explains a corrupt image, not the reverse."""
    for _ in blocks:
        pass
