"""Several blocking calls in flight, and a stop at the first trouble.

Threads, not io_uring: docs/adr/0021 has the measurements.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

_T = TypeVar("_T")


def taking_turns(
    items: Iterator[_T], make_worker: Callable[[], Callable[[_T], bool]], stop: threading.Event
) -> Callable[[], None]:
    """What several threads are to run: each takes the next item when it has done with its last.

    ``items`` is advanced by whichever thread is free, by one at a time. ``make_worker`` is called once in
    each thread, for what the thread needs of its own. A worker that returns False sets ``stop``; once that is
    set, no item is taken.
    """
    lock = threading.Lock()
    ended = threading.Event()

    def work() -> None:
        worker = make_worker()
        while not stop.is_set():
            with lock:
                # A generator that raised is at its end, which must not look like the end of its items.
                if ended.is_set() or stop.is_set():
                    return
                try:
                    item = next(items)
                except StopIteration:
                    ended.set()
                    return
                except BaseException:
                    ended.set()
                    stop.set()
                    raise
            if not worker(item):
                stop.set()

    return work


def run_threads(works: Sequence[Callable[[], None]], stop: Callable[[], object]) -> None:
    """Run each in a thread until all have ended, then raise the first exception of any of them.

    ``stop`` is called, perhaps more than once, when one failed or could not be started.
    """
    failures: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # handed to the caller's thread below
            failures.append(error)
            stop()

    started: list[threading.Thread] = []
    try:
        for work in works:
            thread = threading.Thread(target=guarded, args=(work,), daemon=True)
            thread.start()
            started.append(thread)
    except BaseException:
        stop()
        raise
    finally:
        # On every way out: the caller closes the device, and its descriptor's number may soon be another's.
        for thread in started:
            thread.join()
    if failures:
        raise failures[0]
