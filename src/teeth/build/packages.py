"""dpkg's database of a tree: which packages are there, what they need and which files are theirs."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

# Debian's merged /usr: packages may still name files by the old paths.
_MERGED = re.compile(r"^(bin|sbin|lib|lib64)/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One installed package. ``needs``: for each dependency, the alternatives, as names."""

    name: str
    version: str
    needs: tuple[tuple[str, ...], ...]
    provides: frozenset[str]


def read_packages(status: str) -> dict[str, Package]:
    """Installed packages by name, from the text of /var/lib/dpkg/status (deb822 paragraphs)."""
    packages: dict[str, Package] = {}
    for paragraph in status.split("\n\n"):
        fields = _fields(paragraph)
        if fields.get("Status", "").endswith(" installed"):
            needs = ", ".join(filter(None, (fields.get("Depends"), fields.get("Pre-Depends"))))
            package = Package(
                name=fields["Package"],
                version=fields["Version"],
                needs=tuple(_names(group, "|") for group in needs.split(",") if group.strip()),
                provides=frozenset(_names(fields.get("Provides", ""), ",")),
            )
            packages[package.name] = package
    return packages


def closure(
    packages: Mapping[str, Package], wanted: Collection[str], *, without: Collection[str] = ()
) -> frozenset[str]:
    """``wanted`` and everything that these need, directly or not; ``without`` is not entered.

    Of a dependency's alternatives every installed one counts: apt chose one, and we cannot know which.
    """
    providers: dict[str, set[str]] = {}
    for package in packages.values():
        for name in (package.name, *package.provides):
            providers.setdefault(name, set()).add(package.name)
    found: set[str] = set()
    pending = [name for want in wanted for name in providers.get(want, ())]
    while pending:
        name = pending.pop()
        if name in found or name in without:
            continue
        found.add(name)
        for alternatives in packages[name].needs:
            pending += [provider for need in alternatives for provider in providers.get(need, ())]
    return frozenset(found)


def file_owners(root: Path, packages: Collection[str]) -> dict[str, str]:
    """``{path relative to root: package}`` for everything (folders too) that dpkg lists.

    A path of several packages gets one of ``packages`` if it can.
    """
    owners: dict[str, str] = {}
    for listing in sorted((root / "var/lib/dpkg/info").glob("*.list")):
        name = listing.stem.partition(":")[0]
        for line in listing.read_text().splitlines():
            path = _MERGED.sub(r"usr/\1/", line.lstrip("/"))
            if path and (path not in owners or name in packages):
                owners[path] = name
    return owners


def _fields(paragraph: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in paragraph.splitlines():
        if not line.startswith((" ", "\t")):
            name, _, value = line.partition(":")
            fields[name] = value.strip()
    return fields


def _names(text: str, separator: str) -> tuple[str, ...]:
    return tuple(_split(text, separator))


def _split(text: str, separator: str) -> Iterator[str]:
    for part in text.split(separator):
        if name := re.split(r"[\s(:\[]", part.strip(), maxsplit=1)[0]:
            yield name
