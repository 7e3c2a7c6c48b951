"""The ramdisk artefact: ``build/ramdisk/`` with vmlinuz, initramfs and manifest.json.

Two stages (docs/adr/0002-ramdisk-layers.md): the base, made by diskimage-builder and kept by the content of
everything but the agent; then the agent as a second archive behind it, made in seconds.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from teeth import __version__
from teeth.build import wheelhouse
from teeth.build.budget import check_budget
from teeth.build.dib import as_root, build_recipe, remove_tree
from teeth.build.layers import join, pack_paths, unpack_archive
from teeth.build.locks import only_one
from teeth.build.manifest import largest, measure, read_manifest
from teeth.build.mirrors import find_mirrors
from teeth.build.recipe import Recipe, element_closure, load_recipe
from teeth.cache import content_key, file_digest
from teeth.errors import TeethError
from teeth.paths import Paths
from teeth.proc import run

Say = Callable[[str], None]

LAYER_LEVEL = 19  # the agent's layer is small: the best compression costs no time
_BASE_CODE = ("prune.py", "packages.py", "modules.py", "rules.py")  # what decides on the base's content
_PASSED_ON = ("TEETH_ZSTD_LEVEL", "TEETH_DEBUG_AUTHORIZED_KEY", "SOURCE_DATE_EPOCH")
_KEPT_BASES = 3
_HOOK = "post-root.d/50-teeth-agent-install"


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """Where the artefact lies, its manifest, and whether this call made it."""

    folder: Path
    manifest: Mapping[str, Any]
    fresh: bool


def build_ramdisk(paths: Paths, recipe_path: Path, *, say: Say, refresh: bool = False) -> Built:
    """Make the ramdisk of one recipe, or find it made from the same inputs.

    ``refresh`` makes the base anew, with the archive's present packages. The output folder,
    ``build/IMAGENAME``, is replaced as a whole and only by a complete one. Raises TeethError.
    """
    recipe = load_recipe(recipe_path, elements=paths.elements)
    folder = paths.build / recipe.imagename
    with only_one(paths.cache / f"{recipe.imagename}.lock", say):
        variables = {name: os.environ[name] for name in _PASSED_ON if os.environ.get(name)}
        base_key = _base_key(paths, recipe, variables)
        key = _key(paths, base_key)
        manifest = read_manifest(folder)
        if manifest is not None and manifest["key"] == key and not refresh:
            return Built(folder=folder, manifest=manifest, fresh=False)
        started = time.monotonic()
        base = _base(paths, recipe, base_key, variables, say=say, refresh=refresh)
        with ExitStack() as stack:
            work = paths.build / "work" / f"{recipe.imagename}-layer"
            remove_tree(work)
            stack.callback(remove_tree, work)
            _replace(_finish(paths, recipe, base, key, work=work, say=say), folder)
        say(f"{recipe.name}: done in {time.monotonic() - started:.0f} s")
    manifest = read_manifest(folder)
    if manifest is None:
        raise TeethError(f"{folder} was changed while it was being made", hint="run it again")
    return Built(folder=folder, manifest=manifest, fresh=True)


def _base_key(paths: Paths, recipe: Recipe, variables: Mapping[str, str]) -> str:
    code = Path(__file__).parent
    trees = [recipe.path, paths.agent / "requirements.lock", *(code / name for name in _BASE_CODE)]
    trees += [paths.elements / name for name in element_closure(recipe, paths.elements)]
    return content_key(trees, {**variables, "diskimage-builder": installed_version("diskimage-builder")})


def _key(paths: Paths, base_key: str) -> str:
    code = Path(__file__).parent
    trees = [paths.agent / "src", paths.agent / "pyproject.toml"]
    trees += [code / name for name in ("ramdisk.py", "layers.py", "wheelhouse.py", "manifest.py")]
    return content_key(trees, {"base": base_key, "version": __version__})


def _base(
    paths: Paths, recipe: Recipe, key: str, variables: Mapping[str, str], *, say: Say, refresh: bool
) -> Path:
    """The folder with base.cpio.zst, vmlinuz, base.json and kernel-version; made when it is not kept yet."""
    kept = paths.cache / "ramdisk" / key[:24]
    if kept.is_dir() and not refresh:
        kept.touch()
        return kept
    started = time.monotonic()
    work, log = paths.build / "work" / recipe.imagename, paths.build / "logs" / f"{recipe.imagename}.log"
    remove_tree(work)
    output = work / "output"
    wheels = wheelhouse.fetch_dependencies(paths.agent / "requirements.lock", paths.cache)
    say(f"{recipe.name}: building the base with diskimage-builder (log: {_relative(log, paths)})")
    environment = {
        **find_mirrors().environment(),
        **recipe.environment,
        **variables,
        "TEETH_OUTPUT": f"{output}",
        "TEETH_WHEELHOUSE": f"{wheels}",
    }
    try:
        build_recipe(
            recipe,
            elements=paths.elements,
            work=work,
            environment=environment,
            log=log,
            cache=paths.cache,
            on_line=_PhaseTeller(recipe.name, say),
        )
        kept.parent.mkdir(parents=True, exist_ok=True)
        if kept.exists():
            shutil.rmtree(kept)
        output.rename(kept)
    finally:
        remove_tree(work)
    _forget_old(kept.parent)
    say(f"{recipe.name}: base made in {time.monotonic() - started:.0f} s")
    return kept


class _PhaseTeller:
    """Turns diskimage-builder's log into one line for each phase as it begins."""

    _WORDS = {  # noqa: RUF012 - constant
        "root": "bootstrapping Debian",
        "install": "installing packages",
        "post-root": "installing the agent's dependencies",
        "cleanup": "compiling, pruning and packing",
    }

    def __init__(self, name: str, say: Say) -> None:
        self._name, self._say = name, say
        self._told: set[str] = set()

    def __call__(self, line: str) -> None:
        phase = (
            line.rpartition("/hooks/")[2]
            if "Running hooks from" in line
            else line.rpartition("/in_target.d/")[2]
        )
        phase = phase.partition(".d")[0]
        if "Running" in line and phase in self._WORDS and phase not in self._told:
            self._told.add(phase)
            self._say(f"{self._name}: {self._WORDS[phase]}")


def _finish(paths: Paths, recipe: Recipe, base: Path, key: str, *, work: Path, say: Say) -> Path:
    """Add the agent's layer to ``base`` and describe the whole; returns the folder to put in place."""
    say(f"{recipe.name}: adding the agent")
    tree, wheels, made = work / "tree", work / "wheels", work / "made"
    for folder in (wheels, made):
        folder.mkdir(parents=True)
    unpack_archive(base / "base.cpio.zst", tree)
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    wheel = wheelhouse.build_agent(paths.agent, wheels, cache=paths.cache, epoch=epoch)
    _install_agent(paths, tree, wheels)
    about = {"ramdisk": key, "built": epoch, "version": __version__}
    staged = work / "agent.json"
    staged.write_text(json.dumps(about) + "\n")
    run([*as_root(), "install", "-D", "-m", "0644", f"{staged}", f"{tree}/etc/teeth/agent.json"])
    pack_paths(tree, ["etc/teeth", "usr/lib/teeth"], work / "agent.cpio.zst", level=LAYER_LEVEL, epoch=epoch)

    initramfs = made / "initramfs"
    layers = join([("base", base / "base.cpio.zst"), ("agent", work / "agent.cpio.zst")], initramfs)
    shutil.copyfile(base / "vmlinuz", made / "vmlinuz")
    facts = json.loads((base / "base.json").read_text())
    owners: dict[str, str] = facts["owners"]
    sizes = measure(tree)
    top = largest(sizes, owners)
    check_budget(recipe.name, initramfs.stat().st_size, top[0]["name"])
    manifest = {
        "recipe": recipe.name,
        "key": key,
        "version": __version__,
        "built": epoch,
        "kernel_version": (base / "kernel-version").read_text().strip(),
        "kernel_bytes": (made / "vmlinuz").stat().st_size,
        "kernel_digest": file_digest(made / "vmlinuz"),
        "initramfs_bytes": initramfs.stat().st_size,
        "digest": file_digest(initramfs),
        "unpacked_bytes": sum(sizes.values()),
        "files": len(sizes),
        "layers": [asdict(layer) for layer in layers],
        "largest": top,
        "packages": facts["packages"],
        "inputs": {
            "base": base.name,
            "elements": list(element_closure(recipe, paths.elements)),
            "diskimage-builder": installed_version("diskimage-builder"),
            "requirements.lock": file_digest(paths.agent / "requirements.lock"),
            "agent_wheel": file_digest(wheel),
        },
    }
    (made / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return made


def _install_agent(paths: Paths, tree: Path, wheels: Path) -> None:
    """The element's own hook, on the finished tree: there is one way for the agent to get in."""
    values = {"TARGET_ROOT": tree, "TEETH_WHEELHOUSE": wheels, "DIB_PYTHON_EXEC": sys.executable}
    run([paths.elements / "teeth-agent" / _HOOK], env={name: str(value) for name, value in values.items()})


def _replace(made: Path, folder: Path) -> None:
    """Put ``made`` where ``folder`` is; who has files of the old one open keeps them."""
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    made.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _forget_old(folder: Path) -> None:
    bases = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in bases[_KEPT_BASES:]:
        shutil.rmtree(old)


def _relative(path: Path, paths: Paths) -> Path:
    return path.relative_to(paths.root) if path.is_relative_to(paths.root) else path
