"""From a whole Debian tree to what the ramdisk carries.

Run by the element teeth-ramdisk-base as ``python -m teeth.build.prune ROOT HOOKS REPORT``, as root, on the
tree that diskimage-builder has made: ROOT the tree, HOOKS its folder of merged element files, REPORT the
JSON file to write. Planning is pure; deleting is one loop.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from teeth.build.modules import choose_modules, read_dependencies, read_soft
from teeth.build.packages import closure, file_owners, read_packages
from teeth.build.rules import DropRules, matcher, read_drop_rules, read_globs, wanted_packages
from teeth.errors import TeethError

_MODULES = "usr/lib/modules"
_STDLIB = "usr/lib/python3.13/"
_SITE = "usr/lib/python3/dist-packages/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """What is in the tree: ``files`` and links with their bytes, ``folders``; paths relative to the root."""

    files: Mapping[str, int]
    folders: frozenset[str]


def scan(root: Path) -> Tree:
    """Everything below ``root`` on its own file system: /proc, /sys and /dev are mounted during a build."""
    files: dict[str, int] = {}
    folders: set[str] = set()
    device = root.stat().st_dev
    pending = [root]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                path = os.path.relpath(entry.path, root)
                if not entry.is_dir(follow_symlinks=False):
                    files[path] = status.st_size
                elif status.st_dev == device:
                    folders.add(path)
                    pending.append(Path(entry.path))
    return Tree(files=files, folders=frozenset(folders))


def choose_files(
    tree: Tree, owners: Mapping[str, str], kept: Collection[str], rules: DropRules, modules: Collection[str]
) -> dict[str, str]:
    """``{path: owner}`` of the files that stay. ``modules``: chosen ones, relative to the root.

    A file of a package stays with its package, any other stays unless a rule drops it; compiled Python
    goes with its source, and the source goes where the compiled form alone suffices.
    """
    dropped = matcher(rules.paths)
    stay: dict[str, str] = {}
    for path in tree.files:
        owner = owners.get(path) or owners.get(python_source(path), "")
        if owner and owner not in kept:
            continue
        if dropped.fullmatch(path) or (".ko" in path and path.startswith(_MODULES) and path not in modules):
            continue
        if _compiled_suffices(path, tree.files):
            continue
        stay[path] = owner or _unpackaged_owner(path)
    return stay


def python_source(path: str) -> str:
    """The source of a compiled file beside it (``a.pyc`` -> ``a.py``), else ``path`` itself."""
    return path[:-1] if path.endswith(".pyc") else path


def _compiled_suffices(path: str, files: Collection[str]) -> bool:
    if not path.startswith((_STDLIB, _SITE)):
        return False
    return "/__pycache__/" in path or (path.endswith(".py") and f"{path}c" in files)


def _unpackaged_owner(path: str) -> str:
    if path.startswith(_SITE):
        return path.removeprefix(_SITE).partition("/")[0].partition("-")[0].removesuffix(".pyc")
    return "(generated)"


def drop_orphans(root: Path, stay: dict[str, str]) -> None:
    """Take out of ``stay``: scripts whose interpreter is gone, then links that lead to nothing that stays."""
    present = set(stay)
    for path in list(stay):
        interpreter = _interpreter(root / path)
        if interpreter and not _resolves(root, interpreter, present):
            del stay[path]
    changed = True
    while changed:
        present = set(stay)
        gone = [path for path in stay if (root / path).is_symlink() and not _leads(root, path, present)]
        for path in gone:
            del stay[path]
        changed = bool(gone)


def _interpreter(path: Path) -> str:
    """The program of a ``#!`` line, "" for anything else; of ``/usr/bin/env NAME`` it is NAME."""
    if path.is_symlink() or not path.stat().st_mode & 0o111:
        return ""
    with path.open("rb") as stream:
        first = stream.readline(200)
    if not first.startswith(b"#!"):
        return ""
    words = first[2:].decode(errors="replace").split()
    if not words:
        return ""
    return f"/usr/bin/{words[1]}" if words[0] == "/usr/bin/env" and len(words) > 1 else words[0]


# /bin/sh, awk and the like are links that busybox's commands take over after pruning.
_LATER = frozenset({"sh", "ash", "awk"})


def _resolves(root: Path, program: str, present: Collection[str]) -> bool:
    if Path(program).name in _LATER:
        return True
    real = os.path.realpath(root / program.lstrip("/"))
    return os.path.relpath(real, os.path.realpath(root)) in present


def _leads(root: Path, path: str, present: Collection[str]) -> bool:
    """Whether the link ends in the tree at something that stays, or in a place filled at run time."""
    target = str((root / path).readlink())
    absolute = os.path.normpath(os.path.join("/", os.path.dirname(path), target)).lstrip("/")  # noqa: PTH118, PTH120
    for short in ("bin", "sbin", "lib", "lib64"):
        if absolute.startswith(f"{short}/"):
            absolute = f"usr/{absolute}"
    if absolute.split("/")[0] in ("proc", "run", "dev", "sys"):
        return True
    return absolute in present or any(name.startswith(f"{absolute}/") for name in present) or absolute == ""


def delete(root: Path, tree: Tree, stay: Collection[str]) -> None:
    """Remove every file that does not stay, and every folder that is then empty."""
    for path in tree.files:
        if path not in stay:
            (root / path).unlink()
    for folder in sorted(tree.folders, key=len, reverse=True):
        if not any((root / folder).iterdir()):
            (root / folder).rmdir()


def kept_modules(root: Path, globs: Iterable[str]) -> Iterator[str]:
    """Paths, relative to the root, of the modules that stay, over all installed kernels."""
    for version in sorted((root / _MODULES).iterdir()):
        needs = read_dependencies((version / "modules.dep").read_text())
        soft = read_soft((version / "modules.softdep").read_text())
        for module in choose_modules(needs, soft, globs):
            yield f"{_MODULES}/{version.name}/{module}"


def main(arguments: list[str]) -> int:
    root, hooks, report = (Path(argument) for argument in arguments)
    try:
        rules = read_drop_rules(hooks / "ramdisk-drop.d")
        packages = read_packages((root / "var/lib/dpkg/status").read_text())
        wanted = wanted_packages(root / "tmp/package-installs.json")
        kept = closure(packages, wanted, without=rules.packages)
        modules = frozenset(kept_modules(root, read_globs(hooks / "ramdisk-modules.d")))
        tree = scan(root)
        stay = choose_files(tree, file_owners(root, kept), kept, rules, modules)
        drop_orphans(root, stay)
        delete(root, tree, stay)
    except (OSError, TeethError) as error:
        print(f"ERROR: {error}")
        return 1
    facts = {
        "packages": [{"name": name, "version": packages[name].version} for name in sorted(kept)],
        "owners": dict(sorted(stay.items())),
    }
    report.write_text(json.dumps(facts, indent=0))
    print(f"kept {len(stay)} of {len(tree.files)} files, {len(kept)} of {len(packages)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
