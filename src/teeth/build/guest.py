"""The guest image: a small Debian on a whole disk, which stands for the system that a user deploys."""

from __future__ import annotations

import importlib.metadata
import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from teeth.build.dib import build_recipe, remove_tree
from teeth.build.disk import SECTOR, Layout, assemble_disk, plan_layout
from teeth.build.disk_grub import find_grub
from teeth.build.disk_tree import TreeFacts, read_tree, settle_tree, unpack_tree
from teeth.build.locks import only_one
from teeth.build.mirrors import find_mirrors
from teeth.build.recipe import element_closure, find_recipe, load_recipe
from teeth.cache import content_key, file_digest
from teeth.errors import TeethError
from teeth.paths import Paths
from teeth.proc import run

DISK = "disk.raw.zst"
RAW = "disk.raw"
MANIFEST = "manifest.json"

_MIB = 1 << 20
# Room for the first logs and packages: the root file system is not grown at the first boot.
_FREE = 200 * _MIB
# Behind the image a disk must still take a config drive.
_CONFIG_DRIVE = 64 * _MIB
_ARGUMENTS = "console=tty0 console=ttyS0,115200"
# Measured on this image with two cores: 3 takes 0.4 s, 12 takes 3 s for 7 % less, 19 takes 31 s for 13 %.
_ZSTD_LEVEL = "-12"
# Images made from equal inputs share their identifiers.
_NAMESPACE = uuid.UUID("5f8a5f0e-6f0c-5d0b-9c57-7d1c6c1b8f52")
_SOURCES = ("guest.py", "disk.py", "disk_grub.py", "disk_tree.py")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestManifest:
    """build/guest/manifest.json. Sizes in bytes, digests as ``sha256:HEX``.

    ``id``, ``size`` and ``digest`` are those of the compressed file, which is what is fetched; ``raw_*``
    those of the disk in it. ``min_disk``: the smallest disk that takes it and a config drive.
    ``partitions``: each ``{number, name, type, offset, size}``. ``packages``: version by name.
    """

    id: str
    name: str
    size: int
    digest: str
    format: str
    compression: str
    raw_size: int
    raw_digest: str
    min_disk: int
    sector_size: int
    root_uuid: str
    kernel_version: str
    kernel_arguments: str
    partitions: list[dict[str, Any]]
    packages: dict[str, str]
    key: str


def guest_key(paths: Paths) -> str:
    """One digest over everything in the checkout that the image is made from, and the tools' versions."""
    recipe = load_recipe(find_recipe("guest", paths.recipes), elements=paths.elements)
    trees = [recipe.path, *(Path(__file__).parent / name for name in _SOURCES)]
    trees += [paths.elements / name for name in element_closure(recipe, paths.elements)]
    facts = {
        "diskimage-builder": importlib.metadata.version("diskimage-builder"),
        "grub": run(["grub-mkimage", "--version"]).strip(),
    }
    return content_key(trees, facts)


def read_manifest(folder: Path) -> GuestManifest | None:
    """The manifest of a finished image in ``folder``; None when there is none, or only half of one."""
    try:
        manifest = GuestManifest(**json.loads((folder / MANIFEST).read_text()))
        whole = (folder / DISK).stat().st_size == manifest.size
    except (OSError, ValueError, TypeError):
        return None
    return manifest if whole and (folder / RAW).is_file() else None


def build_guest(
    paths: Paths, *, refresh: bool = False, say: Say = lambda _: None, on_line: Say | None = None
) -> tuple[GuestManifest, bool]:
    """(manifest, whether it was built now). An image of the same inputs is left as it is.

    ``say`` gets one line per step, ``on_line`` diskimage-builder's own lines. Raises TeethError. Nothing
    stays mounted or looped on any way out; a build that does not end leaves the image before it in place.
    """
    with only_one(paths.cache / "guest.lock", say):
        key = guest_key(paths)
        present = read_manifest(paths.guest)
        if present is not None and present.key == key and not refresh:
            return present, False
        started = time.monotonic()
        with _work_folder(paths) as work:
            manifest = _build(paths, work, key, say=say, on_line=on_line)
            _publish(work, paths.guest, manifest)
        say(f"guest: done in {time.monotonic() - started:.0f} s")
    return manifest, True


def _build(paths: Paths, work: Path, key: str, *, say: Say, on_line: Say | None) -> GuestManifest:
    """Make both disk files in ``work``."""
    modules = find_grub()
    root_uuid = uuid.uuid5(_NAMESPACE, key)
    archive = _build_tree(paths, work, say, on_line)
    facts = read_tree(archive)
    layout = plan_layout(facts.content, free=_FREE)
    say(f"guest: assembling a disk of {layout.size // _MIB} MiB")
    tree, disk = work / "tree", work / RAW
    unpack_tree(archive, tree)
    archive.unlink()
    settle_tree(tree, facts=facts, root_uuid=root_uuid, arguments=_ARGUMENTS, scratch=work / "settings")
    assemble_disk(tree, disk, layout=layout, root_uuid=root_uuid, modules=modules, work=work / "grub")
    say("guest: compressing it")
    run(["zstd", "-q", "-f", "-T0", _ZSTD_LEVEL, "--check", disk, "-o", work / DISK])
    return _describe(work, layout=layout, facts=facts, root_uuid=root_uuid, key=key)


def _build_tree(paths: Paths, work: Path, say: Say, on_line: Say | None) -> Path:
    recipe = load_recipe(find_recipe("guest", paths.recipes), elements=paths.elements)
    log = paths.build / "logs" / "guest.log"
    say(f"guest: building the tree with diskimage-builder (log: {log})")
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


@contextmanager
def _work_folder(paths: Paths) -> Iterator[Path]:
    """The build's own folder; what a killed build left there goes first."""
    work = paths.build / "work" / "guest"
    remove_tree(work)
    work.mkdir(parents=True)
    try:
        yield work
    finally:
        remove_tree(work)


def _describe(
    work: Path, *, layout: Layout, facts: TreeFacts, root_uuid: uuid.UUID, key: str
) -> GuestManifest:
    digest = f"sha256:{file_digest(work / DISK)}"
    return GuestManifest(
        id=str(uuid.uuid5(_NAMESPACE, digest)),
        name="teeth-guest",
        size=(work / DISK).stat().st_size,
        digest=digest,
        format="raw",
        compression="zstd",
        raw_size=layout.size,
        raw_digest=f"sha256:{file_digest(work / RAW)}",
        min_disk=layout.size + _CONFIG_DRIVE,
        sector_size=SECTOR,
        root_uuid=str(root_uuid),
        kernel_version=facts.kernel_version,
        kernel_arguments=_ARGUMENTS,
        partitions=[
            {
                "number": part.number,
                "name": part.name,
                "type": part.type,
                "offset": part.offset,
                "size": part.sectors * SECTOR,
            }
            for part in layout.partitions
        ],
        packages=dict(facts.packages),
        key=key,
    )


def _publish(work: Path, folder: Path, manifest: GuestManifest) -> None:
    """Replace the image in ``folder``. The manifest goes first and comes last: a build cut off in between
    leaves no image that looks whole."""
    folder.mkdir(parents=True, exist_ok=True)
    text = work / MANIFEST
    text.write_text(json.dumps(asdict(manifest), indent=2) + "\n")
    (folder / MANIFEST).unlink(missing_ok=True)
    for name in (RAW, DISK, MANIFEST):
        (work / name).replace(folder / name)
