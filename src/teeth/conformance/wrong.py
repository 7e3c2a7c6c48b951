"""What ends a transcript before its last line."""

from __future__ import annotations


class Wrong(Exception):
    """The peer broke a rule; the message says which. ``detail``: further lines, for a person."""

    def __init__(self, message: str, detail: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.detail = detail


class Skipped(Exception):
    """The peer has not what the transcript is about; the message says why."""
