"""How far an image is: percent, rate, and the seconds left."""

from __future__ import annotations

import threading
import time

from teeth_agent.image.source import Source
from teeth_agent.image.write import Written
from teeth_agent.reporter import Reporter

# How much of the task the writing is, in percent; reading back was measured at two to three times its speed.
_WRITING = 70.0
_VERIFIED = 99.0
# Before this much time has passed a rate says nothing.
_RATE_AFTER = 2.0


class Progress:
    """Tells a reporter what becomes of one image. Any thread may use it; every method may raise Cancelled."""

    def __init__(self, source: Source, raw_size: int | None, reporter: Reporter) -> None:
        self._raw_size = raw_size
        self._source = source
        self._reporter = reporter
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._reread = 0

    def tick(self, written: Written) -> None:
        """A piece was written or read back."""
        self._reporter.check_cancelled()
        with self._lock:
            total = written.raw_bytes if written.complete else self._raw_size
            # Without a raw size, what was fetched is the only honest measure of how far it is.
            share = written.raw_bytes / total if total else self._source.received / self._source.size
            proven = written.read_back / (total or written.raw_bytes or 1)
            percent = _WRITING * share + (_VERIFIED - _WRITING) * min(1.0, proven * min(1.0, share))
            self._report(written, percent, total or written.raw_bytes)

    def reread(self, length: int) -> None:
        """So much was read once more, for its digest."""
        self._reporter.check_cancelled()
        with self._lock:
            self._reread += length
            self._reporter.progress(_VERIFIED, step="verify", bytes_done=self._reread)

    def done(self, written: Written) -> None:
        with self._lock:
            self._report(written, _VERIFIED, written.raw_bytes)

    def _report(self, written: Written, percent: float, total: int) -> None:
        spent = time.monotonic() - self._began
        known = spent >= _RATE_AFTER
        done = written.read_back if written.complete else written.raw_bytes
        self._reporter.progress(
            min(percent, _VERIFIED),
            eta=round(spent * (_VERIFIED - percent) / percent, 1) if known and percent else None,
            step="verify" if written.complete else "fetch_write",
            bytes_done=done,
            bytes_total=total,
            bytes_per_second=int(written.raw_bytes / spent) if known else None,
            written_bytes=written.written_bytes,
            skipped_bytes=written.skipped_bytes,
        )
