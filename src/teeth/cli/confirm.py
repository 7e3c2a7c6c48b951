"""Asking a person before something that cannot be undone."""

from __future__ import annotations

import sys

import click

from teeth.errors import UsageError


def confirm(question: str, *, yes: bool, act: str) -> None:
    """Go on if ``yes`` or if the person at the terminal says so.

    Raises UsageError where there is nobody to ask; click.Abort when the answer is no.
    """
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(f"{act} needs --yes where nobody can be asked")
    click.confirm(question, abort=True, err=True)
