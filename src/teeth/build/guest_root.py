"""A guest as a root archive: the files of one system as a tar, for a disk that is partitioned at deployment.

It is made from the tree of the whole-disk image, without what names a disk: no boot loader, no grub.cfg, and
an fstab that knows the root file system by its label.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from teeth.build.dib import as_root
from teeth.build.disk_tree import TreeFacts, read_tree, unpack_tree
from teeth.build.guest import MANIFEST, NAMESPACE, ZSTD_LEVEL, publish, work_folder
from teeth.build.guest_tree import DEFAULT_RELEASE, RELEASES, Say, tree_archive, tree_key
from teeth.build.locks import only_one
from teeth.cache import content_key, file_digest
from teeth.paths import Paths
from teeth.proc import run

ROOT = "root.tar.zst"
_SOURCES = ("guest_root.py", "disk_tree.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class RootManifest:
    """manifest.json of a root archive. Sizes in bytes, digests as ``sha256:HEX``; ``raw_*`` of the tar."""

    id: str
    name: str
    kind: str
    size: int
    digest: str
    format: str
    compression: str
    raw_size: int
    raw_digest: str
    kernel_version: str
    packages: dict[str, str]
    key: str


def root_folder(paths: Paths, release: str) -> Path:
    return paths.guests / f"{release}-root"


def root_key(paths: Paths, release: str) -> str:
    """One digest over everything in the checkout that the archive is made from."""
    return content_key(
        [Path(__file__).parent / name for name in _SOURCES], {"tree": tree_key(paths, release)}
    )


def build_root(
    paths: Paths,
    *,
    release: str = DEFAULT_RELEASE,
    refresh: bool = False,
    say: Say = lambda _: None,
    on_line: Say | None = None,
) -> tuple[RootManifest, bool]:
    """(manifest, whether it was built now), as build_guest does."""
    with only_one(paths.cache / "guest.lock", say):
        key, folder = root_key(paths, release), root_folder(paths, release)
        present = read_root_manifest(folder)
        if present is not None and present.key == key and not refresh:
            return present, False
        started = time.monotonic()
        with work_folder(paths) as work:
            archive = tree_archive(paths, release, work, refresh=refresh, say=say, on_line=on_line)
            manifest = _build(archive, work, key, name=f"{RELEASES[release]}-root")
            publish(work, folder, (ROOT,), asdict(manifest))
        say(f"{manifest.name}: done in {time.monotonic() - started:.0f} s")
    return manifest, True


def read_root_manifest(folder: Path) -> RootManifest | None:
    """The manifest of a finished archive in ``folder``; None when there is none, or only half of one."""
    try:
        manifest = RootManifest(**json.loads((folder / MANIFEST).read_text()))
        whole = (folder / ROOT).stat().st_size == manifest.size
    except (OSError, ValueError, TypeError):
        return None
    return manifest if whole else None


def _build(archive: Path, work: Path, key: str, *, name: str) -> RootManifest:
    facts = read_tree(archive)
    tree, packed = work / "tree", work / "root.tar"
    unpack_tree(archive, tree)
    archive.unlink()
    # diskimage-builder's archive leaves the two out, because the build's own were mounted there.
    run([*as_root(), "install", "-d", "-m", "0555", "-o", "0", "-g", "0", tree / "proc", tree / "sys"])
    words = ("--numeric-owner", "--sort=name", "--acls", "--xattrs", "--xattrs-include=*", "--format=posix")
    run([*as_root(), "tar", "-C", tree, "-cf", packed, *words, "."])
    run(["zstd", "-q", "-f", "-T0", ZSTD_LEVEL, "--check", packed, "-o", work / ROOT])
    return _describe(work, packed, name=name, facts=facts, key=key)


def _describe(work: Path, packed: Path, *, name: str, facts: TreeFacts, key: str) -> RootManifest:
    digest = f"sha256:{file_digest(work / ROOT)}"
    return RootManifest(
        id=str(uuid.uuid5(NAMESPACE, digest)),
        name=f"teeth-{name}",
        kind="root",
        size=(work / ROOT).stat().st_size,
        digest=digest,
        format="tar",
        compression="zstd",
        raw_size=packed.stat().st_size,
        raw_digest=f"sha256:{file_digest(packed)}",
        kernel_version=facts.kernel_version,
        packages=dict(facts.packages),
        key=key,
    )
