"""manifest.json of a ramdisk: reading it back, and what makes up its size."""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_CONTRIBUTORS = 10
_AGENT = "teeth-agent"


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a complete artefact, else None: unreadable, or its files are not the described ones.

    Sizes are compared, not digests: this is asked before every boot, and the files are replaced as a whole.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        sizes = (folder / "initramfs").stat().st_size, (folder / "vmlinuz").stat().st_size
        whole = sizes == (manifest["initramfs_bytes"], manifest["kernel_bytes"])
        return manifest if whole and "key" in manifest else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def measure(tree: Path) -> dict[str, int]:
    """``{path: bytes}`` of every file and link below ``tree``; a file with several names counts once."""
    sizes: dict[str, int] = {}
    seen: set[int] = set()
    for folder, folders, names in os.walk(tree):
        for path in (Path(folder, name) for name in (*names, *folders)):
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode):
                continue
            first = status.st_nlink == 1 or status.st_ino not in seen
            seen.add(status.st_ino)
            counts = first and (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode))
            sizes[str(path.relative_to(tree))] = status.st_size if counts else 0
    return sizes


def largest(sizes: Mapping[str, int], owners: Mapping[str, str]) -> list[dict[str, Any]]:
    """The ten biggest contributors, ``{"name", "bytes"}`` each, by Debian package or Python package."""
    total: Counter[str] = Counter()
    for path, size in sizes.items():
        default = _AGENT if path.startswith("usr/lib/teeth/") else "(generated)"
        total[owners.get(path, default)] += size
    return [{"name": name, "bytes": size} for name, size in total.most_common(_CONTRIBUTORS)]
