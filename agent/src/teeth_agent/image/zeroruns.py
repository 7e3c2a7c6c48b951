"""Where a buffer is zero."""

from __future__ import annotations

from collections.abc import Iterator

# The largest block of today's file systems, and a cluster of qcow2.
GRAIN = 64 << 10
_ZEROS = bytearray(GRAIN)


def runs(view: memoryview, worth: int) -> Iterator[tuple[int, int, bool]]:
    """All of ``view`` as (start, end, whether it is zeros), neighbours joined.

    Zeros are looked for in steps of GRAIN bytes; a run shorter than ``worth`` counts as data, unless it is
    all there is.
    """
    begun = 0  # of the data that were not yet told
    start = 0
    while start < len(view):
        end = _end_of_zeros(view, start)
        if end - start >= worth or (end == len(view) and start == 0 and end):
            if begun < start:
                yield begun, start, False
            yield start, end, True
            begun = end
        start = end if end > start else start + GRAIN
    if begun < len(view):
        yield begun, len(view), False


def _end_of_zeros(view: memoryview, start: int) -> int:
    """Where the run of zeros ends that begins at ``start``: there, if there is none."""
    while start < len(view):
        part = view[start : start + GRAIN]
        # bytearray == memoryview is one memcmp; the other way round compares item by item.
        if (_ZEROS if len(part) == GRAIN else bytearray(len(part))) != part:
            return start
        start += len(part)
    return start
