"""What the kernel says about a device while it is being erased (E5)."""

from __future__ import annotations

import errno
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from teeth_agent.erase.model import Unit

# The kernel refuses (EINVAL) a buffer that the next record does not fit; the longest is 8 KiB with its names.
_MAX_RECORD = 16 << 10
# One drive that dies can say thousands of lines; the first ones tell what happened.
_MAX_KEPT = 2000

# In the words of the block layer, sd, libata, nvme, mmc and usb-storage.
_TROUBLE = re.compile(
    r"I/O error|medium error|Medium Error|hardware error|Hardware Error|unrecovered|Unrecovered|"
    r"critical (?:target|medium|space|nexus) error|resetting|"
    r"reset (?:controller|device|host|link|SATA|high|super)|"
    r"hard resetting link|soft resetting|timeout|timed out|abort|failed command|exception Emask|"
    r"rejecting I/O|offline|device is down|controller is down|Remov(?:ing|ed)|disconnect|lost page write|"
    r"protection error|Data Protect|wrong size",
)
_ATA_PORT = re.compile(r"/(ata\d+)/")
_USB_PORT = re.compile(r"/(\d+-[\d.]+)/")
_PCI = re.compile(r"/([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])/")
_HCTL = re.compile(r"/(\d+:\d+:\d+:\d+)(?:/|$)")

ReadRecord = Callable[[], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """``lines`` of trouble about one unit; not ``complete`` when the kernel overwrote what was unread."""

    lines: tuple[str, ...]
    complete: bool

    @property
    def holds(self) -> bool:
        return self.complete and not self.lines

    def to_json(self) -> dict[str, Any]:
        return {
            "complete": self.complete,
            "errors": [line[:240] for line in self.lines[:8]],
            "count": len(self.lines),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A moment in the log: how much trouble and how many gaps there had been."""

    trouble: int = 0
    gaps: int = 0


_BEGIN = Mark()


class KernelLog:
    """The kernel's log from one moment on. Any thread may ``drain`` it; do so often, or records are lost."""

    def __init__(self, read_record: ReadRecord) -> None:
        """``read_record`` gives one /dev/kmsg record, and raises what read(2) does: EAGAIN, EPIPE."""
        self._read_record = read_record
        self._lock = threading.Lock()
        self._trouble: deque[str] = deque(maxlen=_MAX_KEPT)
        self._seen = 0  # of trouble, what is no longer kept too
        self._gaps = 0

    def drain(self) -> None:
        """Take in what the kernel has said since. Never raises: unreadable makes the window incomplete."""
        with self._lock:
            for record in self._records():
                message = parse_message(record)
                if message is not None and _TROUBLE.search(message):
                    self._trouble.append(message)
                    self._seen += 1

    def mark(self) -> Mark:
        """This moment, for a window that begins with it."""
        self.drain()
        with self._lock:
            return Mark(trouble=self._seen, gaps=self._gaps)

    def window(self, unit: Unit, since: Mark = _BEGIN) -> Window:
        """Everything since that moment, at first since the log was opened, that concerns this unit."""
        self.drain()
        with self._lock:
            forgotten = self._seen - len(self._trouble)
            complete = self._gaps == since.gaps and forgotten <= since.trouble
            lines = islice(self._trouble, max(0, since.trouble - forgotten), None)
            return Window(lines=tuple(about(unit, lines)), complete=complete)

    def _records(self) -> Iterator[bytes]:
        while True:
            try:
                record = self._read_record()
            except OSError as error:
                if error.errno == errno.EAGAIN:
                    return
                self._gaps += 1
                if error.errno == errno.EPIPE:  # overwritten: the next read goes on with what is still there
                    continue
                return
            if not record:
                return
            yield record


@contextmanager
def open_kernel_log(path: str = "/dev/kmsg") -> Iterator[KernelLog]:
    """The kernel's log from now on. Where it cannot be opened, windows are incomplete and prove nothing."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        yield KernelLog(_unreadable)
        return
    try:
        os.lseek(descriptor, 0, os.SEEK_END)
        yield KernelLog(lambda: os.read(descriptor, _MAX_RECORD))
    finally:
        os.close(descriptor)


def parse_message(record: bytes) -> str | None:
    """The text of one record "priority,sequence,time,flags;text"; lines of names follow (ABI dev-kmsg)."""
    head, found, text = record.partition(b";")
    if not found or not head[:1].isdigit():
        return None
    # User space may write here too (facility above 0); only the kernel's own words count.
    priority = head.split(b",", 1)[0]
    if not priority.isdigit() or int(priority) >> 3:
        return None
    return text.split(b"\n", 1)[0].decode(errors="replace")


def names_of(unit: Unit) -> frozenset[str]:
    """What the kernel may call a unit: sda, 2:0:0:0, ata3, usb 1-2, nvme0, nvme0n1, nvme 0000:01:00.0."""
    names = set()
    for medium in unit.media:
        names.add(medium.name)
        names.update(_ATA_PORT.findall(medium.sysfs_path), _HCTL.findall(medium.sysfs_path))
        names.update(f"usb {port}" for port in _USB_PORT.findall(medium.sysfs_path)[-1:])
        if medium.controller:
            names.add(medium.controller)
            names.update(f"nvme {address}" for address in _PCI.findall(medium.sysfs_path)[-1:])
    return frozenset(names)


def about(unit: Unit, messages: Iterable[str]) -> Iterator[str]:
    """Those messages that name the unit, a partition or a path of it: "sda1", "ata3.00", "nvme0c0n1p2"."""
    forms = []
    for name in sorted(names_of(unit)):
        suffix = r"(?:c\d+)?(?:n\d+)?(?:p\d+)?" if name[-1].isdigit() else r"\d*"
        forms.append(re.escape(name) + suffix)
    pattern = re.compile(rf"(?<![\w:])(?:{'|'.join(forms)})(?!\w)")
    return (message for message in messages if pattern.search(message))


def _unreadable() -> bytes:
    raise OSError(errno.EACCES, "no kernel log")
