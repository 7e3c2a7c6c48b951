"""Content keys: what was built from the same inputs is not built again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

_IGNORED = {"__pycache__", ".mypy_cache", ".ruff_cache"}
_BLOCK = 1 << 20


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def tree_files(root: Path) -> list[Path]:
    """Every file and link below ``root`` (or ``root`` itself), sorted, caches and egg-info left out."""
    if not root.is_dir() or root.is_symlink():
        return [root]
    return sorted(
        path
        for path in root.rglob("*")
        if (path.is_symlink() or path.is_file())
        and not any(part in _IGNORED or part.endswith(".egg-info") for part in path.relative_to(root).parts)
    )


def content_key(trees: Iterable[Path], facts: Mapping[str, str]) -> str:
    """One hex digest over the names, modes and bytes of ``trees`` and over ``facts``.

    Paths enter relative to their tree, so that two checkouts in different places agree. Raises ValueError
    for a NUL in a fact: it is what keeps the parts apart (no path can hold one).
    """
    total = hashlib.sha256()
    for name, value in sorted(facts.items()):
        if "\0" in name + value:
            raise ValueError(f"a NUL in the fact {name!r}")
        total.update(f"fact\0{name}\0{value}\n".encode())
    for tree in trees:
        for path in tree_files(tree):
            relative = path.relative_to(tree) if path != tree else Path(path.name)
            if path.is_symlink():
                body = f"link {path.readlink()}"
            else:
                body = f"{'x' if path.stat().st_mode & 0o100 else '-'} {file_digest(path)}"
            total.update(os.fsencode(f"file\0{tree.name}\0{relative}\0{body}\n"))
    return total.hexdigest()
