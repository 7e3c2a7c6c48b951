"""Unix sockets at paths longer than a socket's address may be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def short(path: Path) -> Iterator[str]:
    """An address for the socket at ``path`` that fits unix(7)'s 107 bytes, by way of its open folder; valid
    while the block runs. Raises OSError when there is no such folder."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
