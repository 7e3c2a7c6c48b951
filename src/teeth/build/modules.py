"""Which kernel modules the ramdisk carries: those asked for and all that they depend on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from teeth.build.rules import matcher


def read_dependencies(modules_dep: str) -> dict[str, tuple[str, ...]]:
    """``{module: modules it needs}`` from the text of modules.dep; paths like ``kernel/fs/x.ko.xz``."""
    table: dict[str, tuple[str, ...]] = {}
    for line in modules_dep.splitlines():
        name, _, needs = line.partition(":")
        table[name] = tuple(needs.split())
    return table


def read_soft(modules_softdep: str) -> dict[str, tuple[str, ...]]:
    """``{module name: names it would like}`` from modules.softdep (``softdep NAME pre: A B post: C``)."""
    table: dict[str, tuple[str, ...]] = {}
    for line in modules_softdep.splitlines():
        words = line.split()
        if len(words) > 2 and words[0] == "softdep":
            wanted = tuple(word for word in words[2:] if not word.endswith(":"))
            table[words[1]] = (*table.get(words[1], ()), *wanted)
    return table


def choose_modules(
    needs: Mapping[str, Iterable[str]], soft: Mapping[str, Iterable[str]], globs: Iterable[str]
) -> frozenset[str]:
    """The modules (keys of ``needs``) that match ``globs`` below kernel/, with all that they need.

    Soft dependencies count: ext4 asks for a checksum by such a line alone.
    """
    pattern = matcher(globs)
    by_name: dict[str, str] = {module_name(path): path for path in needs}
    chosen: set[str] = set()
    pending = [path for path in needs if pattern.fullmatch(path.removeprefix("kernel/"))]
    while pending:
        path = pending.pop()
        if path in chosen:
            continue
        chosen.add(path)
        pending += needs[path]
        liked = soft.get(module_name(path), ())
        pending += [by_name[name] for name in map(_canonical, liked) if name in by_name]
    return frozenset(chosen)


def module_name(path: str) -> str:
    """``kernel/fs/nls/nls_iso8859-1.ko.xz`` -> ``nls_iso8859_1``, as the kernel names it."""
    return _canonical(Path(path).name.partition(".ko")[0])


def _canonical(name: str) -> str:
    return name.replace("-", "_")
