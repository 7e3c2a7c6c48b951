"""The guest image: a small Debian on a whole disk, which stands for the system that a user deploys."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from teeth.build.dib import remove_tree
from teeth.build.disk import SECTOR, Layout, assemble_disk, plan_layout
from teeth.build.disk_grub import find_grub
from teeth.build.disk_tree import TreeFacts, read_tree, settle_tree, unpack_tree
from teeth.build.guest_tree import DEFAULT_RELEASE, RELEASES, Say, tree_archive, tree_key
from teeth.build.locks import only_one
from teeth.cache import content_key, file_digest
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
ZSTD_LEVEL = "-12"
# Images made from equal inputs share their identifiers.
NAMESPACE = uuid.UUID("5f8a5f0e-6f0c-5d0b-9c57-7d1c6c1b8f52")
_SOURCES = ("guest.py", "disk.py", "disk_grub.py", "disk_tree.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestManifest:
    """manifest.json of a whole-disk image. Sizes in bytes, digests as ``sha256:HEX``.

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


def guest_folder(paths: Paths, release: str = DEFAULT_RELEASE) -> Path:
    """Where the whole-disk image of a release lies: build/guest, and build/guests/RELEASE-disk for others."""
    return paths.guest if release == DEFAULT_RELEASE else paths.guests / f"{release}-disk"


def guest_key(paths: Paths, release: str = DEFAULT_RELEASE) -> str:
    """One digest over everything in the checkout that the image is made from, and the tools' versions."""
    trees = [Path(__file__).parent / name for name in _SOURCES]
    facts = {"tree": tree_key(paths, release), "grub": run(["grub-mkimage", "--version"]).strip()}
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
    paths: Paths,
    *,
    release: str = DEFAULT_RELEASE,
    refresh: bool = False,
    say: Say = lambda _: None,
    on_line: Say | None = None,
) -> tuple[GuestManifest, bool]:
    """(manifest, whether it was built now). An image of the same inputs is left as it is.

    ``say`` gets one line per step, ``on_line`` diskimage-builder's own lines. Raises TeethError. Nothing
    stays mounted or looped on any way out; a build that does not end leaves the image before it in place.
    """
    with only_one(paths.cache / "guest.lock", say):
        key, folder = guest_key(paths, release), guest_folder(paths, release)
        present = read_manifest(folder)
        if present is not None and present.key == key and not refresh:
            return present, False
        started = time.monotonic()
        with work_folder(paths) as work:
            archive = tree_archive(paths, release, work, refresh=refresh, say=say, on_line=on_line)
            manifest = _build(archive, work, key, release=release, say=say)
            publish(work, folder, (RAW, DISK), asdict(manifest))
        say(f"{RELEASES[release]}: done in {time.monotonic() - started:.0f} s")
    return manifest, True


def _build(archive: Path, work: Path, key: str, *, release: str, say: Say) -> GuestManifest:
    """Make both disk files in ``work``."""
    modules, name = find_grub(), RELEASES[release]
    root_uuid = uuid.uuid5(NAMESPACE, key)
    facts = read_tree(archive)
    layout = plan_layout(facts.content, free=_FREE)
    say(f"{name}: assembling a disk of {layout.size // _MIB} MiB")
    tree, disk = work / "tree", work / RAW
    unpack_tree(archive, tree)
    archive.unlink()
    settle_tree(tree, facts=facts, root_uuid=root_uuid, arguments=_ARGUMENTS, scratch=work / "settings")
    assemble_disk(tree, disk, layout=layout, root_uuid=root_uuid, modules=modules, work=work / "grub")
    say(f"{name}: compressing it")
    run(["zstd", "-q", "-f", "-T0", ZSTD_LEVEL, "--check", disk, "-o", work / DISK])
    return _describe(work, name=name, layout=layout, facts=facts, root_uuid=root_uuid, key=key)


@contextmanager
def work_folder(paths: Paths) -> Iterator[Path]:
    """The build's own folder; what a killed build left there goes first."""
    work = paths.build / "work" / "guest"
    remove_tree(work)
    work.mkdir(parents=True)
    try:
        yield work
    finally:
        remove_tree(work)


def _describe(
    work: Path, *, name: str, layout: Layout, facts: TreeFacts, root_uuid: uuid.UUID, key: str
) -> GuestManifest:
    digest = f"sha256:{file_digest(work / DISK)}"
    return GuestManifest(
        id=str(uuid.uuid5(NAMESPACE, digest)),
        name=f"teeth-{name}",
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


def publish(work: Path, folder: Path, names: Sequence[str], manifest: Mapping[str, Any]) -> None:
    """Replace the image in ``folder`` by the files ``names`` of ``work``. The manifest goes first and comes
    last: a build cut off in between leaves no image that looks whole."""
    folder.mkdir(parents=True, exist_ok=True)
    text = work / MANIFEST
    text.write_text(json.dumps(manifest, indent=2) + "\n")
    (folder / MANIFEST).unlink(missing_ok=True)
    for name in (*names, MANIFEST):
        (work / name).replace(folder / name)
