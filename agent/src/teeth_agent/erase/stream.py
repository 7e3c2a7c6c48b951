"""Moving a whole device's bytes: many requests in flight, and a stop at the first trouble."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator

from teeth_agent.blockio import Device, aligned_buffer

# 1 MiB is past the point where larger requests are faster; four in flight keep a device's queue filled while
# Python prepares the next one. A drive then costs 4 MiB of buffers, so that many at once fit a small ramdisk.
CHUNK = 1 << 20
IN_FLIGHT = 4

Range = tuple[int, int]  # offset, length, in bytes


def chunks(ranges: Iterable[Range], chunk: int = CHUNK) -> Iterator[Range]:
    """Cut ranges into pieces of at most ``chunk`` bytes, in order."""
    for start, length in ranges:
        for offset in range(start, start + length, chunk):
            yield offset, min(chunk, start + length - offset)


def each_chunk(
    ranges: Iterable[Range], make_worker: Callable[[], Callable[[int, int], bool]], workers: int = IN_FLIGHT
) -> None:
    """Call ``worker(offset, length)`` for every chunk, from several threads.

    ``make_worker`` is called once in each thread, for what the thread needs of its own. A worker that returns
    False ends the walk; the first exception of any of them ends it too, and is raised here once all stopped.
    """
    pending = chunks(ranges)
    lock = threading.Lock()
    stop = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            worker = make_worker()
            while not stop.is_set():
                with lock:
                    piece = next(pending, None)
                if piece is None:
                    return
                if not worker(*piece):
                    stop.set()
        except BaseException as error:  # handed to the caller's thread below
            failures.append(error)
            stop.set()

    _run_threads(work, workers, stop)
    if failures:
        raise failures[0]


def _run_threads(work: Callable[[], None], count: int, stop: threading.Event) -> None:
    """Until all have ended; ``stop`` is set for them if one cannot be started."""
    started: list[threading.Thread] = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            started.append(thread)
    except BaseException:
        stop.set()
        raise
    finally:
        # On every way out: the caller closes the device, and its descriptor's number may soon be another's.
        for thread in started:
            thread.join()


def write_zeros(device: Device, advance: Callable[[int], None]) -> int:
    """Write zeros over the whole device and flush it; the bytes written. Raises DeviceError.

    ``advance`` is told every finished chunk's length, from several threads, and may raise to stop.
    """
    zeros = aligned_buffer(CHUNK)  # only ever read from, so all threads share it

    def make_worker() -> Callable[[int, int], bool]:
        def write(offset: int, length: int) -> bool:
            device.write_from(offset, zeros[:length])
            advance(length)
            return True

        return write

    each_chunk([(0, device.size)], make_worker)
    device.flush()
    return device.size
