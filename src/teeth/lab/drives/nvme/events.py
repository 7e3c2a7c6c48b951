"""Asynchronous events (NVMe base 2.0, 5.2)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """``kind``: 0 error, 1 SMART, 2 notice, 6 I/O command set. ``page``: the log to read, 0 for none."""

    kind: int
    info: int
    page: int

    @property
    def result(self) -> int:
        """Dword 0 of the completion."""
        return self.kind | self.info << 8 | self.page << 16
