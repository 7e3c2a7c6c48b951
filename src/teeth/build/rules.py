"""What elements say about the ramdisk's content: drop rules, module lists, wanted packages."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from teeth.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class DropRules:
    """Packages and path globs (relative to the root) that must not be in the ramdisk."""

    packages: frozenset[str]
    paths: tuple[str, ...]


def read_drop_rules(folder: Path) -> DropRules:
    """All files of ``folder``: lines ``package NAME`` or ``path GLOB``, or ``keep NAME`` for a package that one
    element needs and another can do without; UsageError names file and line."""
    packages: set[str] = set()
    keep: set[str] = set()
    paths: list[str] = []
    for where, line in _lines(folder):
        kind, _, value = line.partition(" ")
        value = value.strip()
        if kind == "package" and value:
            packages.add(value)
        elif kind == "keep" and value:
            keep.add(value)
        elif kind == "path" and value and not value.startswith("/"):
            paths.append(value)
        else:
            raise UsageError(f"{where}: {line!r} is none of 'package NAME', 'keep NAME' and 'path GLOB'")
    return DropRules(packages=frozenset(packages - keep), paths=tuple(paths))


def read_globs(folder: Path) -> tuple[str, ...]:
    """All files of ``folder``: one glob a line."""
    return tuple(line for _, line in _lines(folder))


def wanted_packages(package_installs: Path) -> frozenset[str]:
    """The packages that the elements ask for, from diskimage-builder's squashed package-installs.json:
    ``{phase: {"install": [[package, element], ...]}}``."""
    phases = json.loads(package_installs.read_text())
    return frozenset(package for phase in phases.values() for package, _ in phase.get("install", []))


def matcher(globs: Iterable[str]) -> re.Pattern[str]:
    """A pattern for ``fullmatch``: true for a path that a glob matches, and for everything below it."""
    parts = [fnmatch.translate(glob).removesuffix(r"\Z").removesuffix(r"\z") for glob in globs]
    return re.compile(f"(?:{'|'.join(parts)})(?:/.*)?" if parts else r"(?!)", re.DOTALL)


def _lines(folder: Path) -> Iterable[tuple[str, str]]:
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        for number, raw in enumerate(path.read_text().splitlines(), start=1):
            if line := raw.partition("#")[0].strip():
                yield f"{path.name}, line {number}", line
