"""What a user can be told in one line."""

from __future__ import annotations


class TeethError(Exception):
    """Anything the host side refuses or fails at, worded for the person at the terminal.

    The message says what is wrong; ``hint`` says what to do about it. The command line prints both on
    one line and exits with ``exit_code``.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(TeethError):
    """The request itself is wrong: a bad option value, an unreadable recipe, a missing file."""

    exit_code = 2
