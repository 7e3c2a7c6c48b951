"""Room on the host for the machines of tests that run side by side, in this session and in others.

The host has shares, each enough for a machine of 512 MiB. A test takes all that it needs at once, before its
first machine, and gives them back when it ends: who waits holds nothing, so no two can wait for each other.
``python -m boot.room`` prints how many workers such tests should have here.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from teeth.lab.host import memory_available, room, shares

DEFAULT = (1024,)  # MiB of a test's machines, when it does not say
_MOST_WORKERS = 16
_STEP = 0.1


def _processors() -> int:
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Each share is a lock file in ``folder``: a process that dies, however it dies, gives its own back."""

    folder: Path = field(default_factory=lambda: Path(tempfile.gettempdir()) / f"teeth-room-{os.getuid()}")
    available: Callable[[], int] = memory_available
    processors: int = field(default_factory=_processors)

    @contextmanager
    def take(self, machines: Sequence[int], *, alone: bool = False) -> Iterator[int]:
        """Hold the shares of machines of these sizes (MiB), with ``alone`` every share; yields how many.

        Waits, first come first served, until they are free. A test that needs more than there is gets
        everything, and learns from the machine's start what is short.
        """
        self.folder.mkdir(mode=0o700, exist_ok=True)
        with ExitStack() as held:
            with self._file("gate") as gate:
                fcntl.flock(gate, fcntl.LOCK_EX)
                total = self._total()
                wanted = total if alone else min(shares(machines), total)
                self._fill(held, wanted, total)
            yield wanted

    def _total(self) -> int:
        """The number of shares: counted while nobody has any, as machines take memory only by and by."""
        memo = self.folder / "total"
        with ExitStack() as all_of_them:
            if memo.exists() and (text := memo.read_text()).isdecimal():
                known = int(text)
                if sum(self._try(all_of_them, number) for number in range(known)) < known:
                    return known
            total = room(self.available(), self.processors)
            memo.write_text(str(total))
            return total

    def _fill(self, held: ExitStack, wanted: int, total: int) -> None:
        mine: set[int] = set()
        while True:
            for number in sorted(set(range(total)) - mine):
                if len(mine) < wanted and self._try(held, number):
                    mine.add(number)
            if len(mine) == wanted:
                return
            time.sleep(_STEP)  # a lock can be waited for, but not whichever of many is the first

    def _try(self, held: ExitStack, number: int) -> bool:
        file = self._file(str(number))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        held.enter_context(file)
        return True

    def _file(self, name: str) -> IO[str]:
        return (self.folder / name).open("w")


def workers(available: int, processors: int) -> int:
    """How many tests of the default size may run side by side: none without a processor of its own."""
    return max(1, min(room(available, processors) // shares(DEFAULT), processors, _MOST_WORKERS))


if __name__ == "__main__":
    print(workers(memory_available(), _processors()))
