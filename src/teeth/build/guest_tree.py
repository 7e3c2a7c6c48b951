"""The trees that guest images are made of: one of each Debian release, built once and kept by content.

Every image of a release (whole disk, root archive) is made from the same tree, so that what differs between
two deployments is the image's kind and nothing else.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path

from teeth.build.dib import build_recipe
from teeth.build.mirrors import find_mirrors
from teeth.build.recipe import Recipe, element_closure, find_recipe, load_recipe
from teeth.cache import content_key
from teeth.errors import TeethError, UsageError
from teeth.paths import Paths
from teeth.proc import run

Say = Callable[[str], None]

DEFAULT_RELEASE = "trixie"
# Debian's code name: the recipe in image-recipes/.
RELEASES = {"trixie": "guest", "bookworm": "guest-bookworm"}
_KEPT = 4


def recipe_of(paths: Paths, release: str) -> Recipe:
    """Raises UsageError for a release without a recipe, and for a recipe that is wrong."""
    if release not in RELEASES:
        raise UsageError(f"there is no guest of {release!r}", hint=f"there are {', '.join(sorted(RELEASES))}")
    return load_recipe(find_recipe(RELEASES[release], paths.recipes), elements=paths.elements)


def tree_key(paths: Paths, release: str) -> str:
    """One digest over everything in the checkout that the tree is made from, and the builder's version."""
    recipe = recipe_of(paths, release)
    trees = [recipe.path, *(paths.elements / name for name in element_closure(recipe, paths.elements))]
    return content_key(trees, {"diskimage-builder": importlib.metadata.version("diskimage-builder")})


def tree_archive(
    paths: Paths, release: str, work: Path, *, refresh: bool, say: Say, on_line: Say | None
) -> Path:
    """The tree as a tar file in ``work``, which is the caller's to delete: a kept one, or one built now.

    Hold guest.lock. ``refresh`` builds it anew. Raises TeethError.
    """
    kept = paths.cache / "guest" / f"{tree_key(paths, release)[:24]}.tar.zst"
    if kept.is_file() and not refresh:
        kept.touch()
        archive = work / "tree.tar"
        run(["zstd", "-q", "-f", "-d", kept, "-o", archive])
        return archive
    archive = _build(paths, release, work, say=say, on_line=on_line)
    kept.parent.mkdir(parents=True, exist_ok=True)
    partial = kept.with_suffix(".partial")
    run(["zstd", "-q", "-f", "-T0", "-3", archive, "-o", partial])
    partial.replace(kept)
    _forget_old(kept.parent)
    return archive


def _build(paths: Paths, release: str, work: Path, *, say: Say, on_line: Say | None) -> Path:
    recipe = recipe_of(paths, release)
    log = paths.build / "logs" / f"{recipe.imagename}.log"
    say(f"{recipe.imagename}: building the tree with diskimage-builder (log: {log})")
    build = work / "dib"
    build_recipe(
        recipe,
        elements=paths.elements,
        work=build,
        environment=find_mirrors().environment(),
        log=log,
        cache=paths.cache,
        on_line=on_line,
    )
    archive = build / f"{recipe.imagename}.tar"
    if not archive.is_file():
        raise TeethError(f"recipe {recipe.name} made no {archive.name}", hint="its types must be [tar]")
    return archive


def _forget_old(folder: Path) -> None:
    kept = sorted(folder.glob("*.tar.zst"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in kept[_KEPT:]:
        path.unlink()
