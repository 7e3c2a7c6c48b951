"""How a command comes to the operator's door."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import click

from teeth.api.client import Operator, find_door

AS_JSON = click.option("--json", "as_json", is_flag=True, help="JSON, for programs.")


@contextlib.contextmanager
def operator() -> Iterator[Operator]:
    """The door that ``teeth --data DIR`` or the environment names."""
    data: Path | None = click.get_current_context().find_root().params.get("data")
    with Operator(lambda: find_door(data, os.environ)) as opened:
        yield opened
