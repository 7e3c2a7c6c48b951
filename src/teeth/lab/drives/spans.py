"""Runs of blocks, cut to size."""

from __future__ import annotations

from collections.abc import Sequence

Span = tuple[int, int]


def within(spans: Sequence[Span], first: int, end: int) -> list[Span]:
    """The parts of ``spans`` that lie in ``first`` to ``end``."""
    cut = ((max(start, first), min(stop, end)) for start, stop in spans)
    return [(start, stop) for start, stop in cut if start < stop]


def without(spans: Sequence[Span], first: int, end: int) -> list[Span]:
    """The parts of ``spans`` that lie outside ``first`` to ``end``."""
    far = max((stop for _, stop in spans), default=0)
    return sorted([*within(spans, 0, first), *within(spans, end, far)])
