"""Reading a source ahead, so that fetching and hashing go on while others decompress and write."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self

from teeth_agent.errors import Cancelled

# 4 MiB in all. Larger than what one read of a socket gives, so that two threads meet less often.
_BLOCK = 1 << 20
_BLOCKS = 4


class Ahead:
    """Iterates over ``source`` in a thread of its own, at most 4 MiB ahead; to be used in a ``with``.

    What the source raises is raised to the reader, after the bytes before it. ``stop_source`` makes a
    running iteration of the source end soon; it is called on leaving before the source's end.
    """

    def __init__(
        self, source: Iterable[bytes | memoryview], stop_source: Callable[[], object] = lambda: None
    ) -> None:
        self._source = source
        self._stop_source = stop_source
        self._changed = threading.Condition()
        self._full: deque[memoryview] = deque()
        self._free = deque(memoryview(bytearray(_BLOCK)) for _ in range(_BLOCKS))
        self._ended = False
        self._left = False
        self._interrupted = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="image-ahead", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._left = True
            self._changed.notify_all()
            ended = self._ended
        if not ended:
            self._stop_source()
        self._thread.join()

    def wait_for_first(self) -> None:
        """Until the first bytes are there, or the source has ended. Raises what the source raises."""
        with self._changed:
            self._wait_for_block()

    def __iter__(self) -> Iterator[memoryview]:
        """Blocks in order; each is writable, and valid until the next is asked for."""
        while True:
            with self._changed:
                self._wait_for_block()
                if not self._full:
                    return
                view = self._full.popleft()
            yield view
            with self._changed:
                assert isinstance(view.obj, bytearray)
                self._free.append(memoryview(view.obj))
                self._changed.notify_all()

    def interrupt(self) -> None:
        """Whoever reads gets Cancelled, from now on."""
        with self._changed:
            self._interrupted = True
            self._changed.notify_all()

    def drain(self) -> None:
        """Let the source judge its bytes to the end, interrupted or not. Raises what it raises."""
        with self._changed:
            self._interrupted = False
        for _ in self:
            pass

    def _wait_for_block(self) -> None:
        self._changed.wait_for(lambda: self._full or self._ended or self._interrupted)
        if self._interrupted:
            raise Cancelled("the reading was interrupted")
        if not self._full and self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._copy()
        except BaseException as error:  # raised again where it is read
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _copy(self) -> None:
        target, filled = self._next_free(), 0
        try:
            for block in self._source:
                rest = memoryview(block)
                while rest:
                    if target is None:
                        return
                    count = min(len(rest), _BLOCK - filled)
                    target[filled : filled + count] = rest[:count]
                    rest, filled = rest[count:], filled + count
                    if filled == _BLOCK:
                        self._hand_over(target)
                        target, filled = self._next_free(), 0
        finally:
            if target is not None and filled:
                self._hand_over(target[:filled])

    def _next_free(self) -> memoryview | None:
        """None when nobody reads any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._free or self._left)
            return None if self._left else self._free.popleft()

    def _hand_over(self, view: memoryview) -> None:
        with self._changed:
            self._full.append(view)
            self._changed.notify_all()


class Feed:
    """A source's bytes, taken as many at a time as are wanted."""

    def __init__(self, blocks: Iterable[bytes | memoryview]) -> None:
        self._blocks = iter(blocks)
        self._rest = memoryview(b"")

    def rest(self) -> memoryview:
        """What is there without waiting, or else the next block; empty at the end."""
        while not self._rest:
            block = next(self._blocks, None)
            if block is None:
                break
            self._rest = memoryview(block)
        return self._rest

    def used(self, count: int) -> None:
        """The first ``count`` bytes of ``rest`` are not wanted again."""
        self._rest = self._rest[count:]

    def fill(self, buffer: memoryview) -> int:
        """Fill ``buffer``; fewer bytes only at the end."""
        done = 0
        while done < len(buffer) and (rest := self.rest()):
            count = min(len(buffer) - done, len(rest))
            buffer[done : done + count] = rest[:count]
            self.used(count)
            done += count
        return done

    def skip(self, count: int) -> int:
        """Leave ``count`` bytes out; fewer only at the end."""
        done = 0
        while done < count and (rest := self.rest()):
            step = min(count - done, len(rest))
            self.used(step)
            done += step
        return done
