"""Where things lie: one place that knows the layout of a checkout and of ``build/``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from teeth.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """The folders of one checkout. Everything teeth writes lies under ``build``."""

    root: Path

    @property
    def build(self) -> Path:
        return self.root / "build"

    @property
    def cache(self) -> Path:
        """Content-addressed intermediate results; safe to delete."""
        return self.build / "cache"

    @property
    def ramdisk(self) -> Path:
        return self.build / "ramdisk"

    @property
    def guest(self) -> Path:
        return self.build / "guest"

    @property
    def guests(self) -> Path:
        """Further guest images, a folder each."""
        return self.build / "guests"

    @property
    def demo(self) -> Path:
        return self.build / "demo"

    @property
    def elements(self) -> Path:
        return self.root / "elements"

    @property
    def recipes(self) -> Path:
        return self.root / "image-recipes"

    @property
    def agent(self) -> Path:
        return self.root / "agent"


def find_checkout(start: Path | None = None) -> Paths:
    """The checkout that holds ``start`` (default: ``$TEETH_ROOT``, else this package's own, else the
    current folder).

    Raises UsageError when no folder upwards holds both ``elements/`` and ``image-recipes/``.
    """
    candidates: list[Path] = []
    if start is not None:
        candidates.append(start)
    elif env := os.environ.get("TEETH_ROOT"):
        candidates.append(Path(env))
    else:
        candidates += [Path(__file__).resolve(), Path.cwd()]
    for candidate in candidates:
        for folder in (candidate, *candidate.parents):
            if (folder / "elements").is_dir() and (folder / "image-recipes").is_dir():
                return Paths(root=folder)
    raise UsageError("no teeth checkout found", hint="run inside a clone, or set TEETH_ROOT to one")
