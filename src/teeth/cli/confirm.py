"""Asking a person before something that cannot be undone."""

from __future__ import annotations

import sys

import click

from teeth.errors import UsageError


def confirm(question: str, *, yes: bool, act: str) -> None:
    """Go on if ``yes`` or if the person at the terminal says so.

    Raises UsageError when the answer is no, and where there is nobody to ask.
    """
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(f"{act} needs --yes where nobody can be asked")
    if not click.confirm(question, err=True):
        raise UsageError("not confirmed: nothing was asked of anybody")
