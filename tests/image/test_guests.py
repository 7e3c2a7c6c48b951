"""The further guests: another release, and root archives of the tree that the disk was made from."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from teeth.build.guest import RAW, GuestManifest, build_guest, guest_folder
from teeth.build.guest_root import ROOT, RootManifest, build_root, root_folder
from teeth.build.guest_tree import RELEASES
from teeth.cache import file_digest
from teeth.paths import find_checkout
from teeth.proc import run

pytestmark = [pytest.mark.image, pytest.mark.xdist_group("guests-content")]  # they are unpacked once

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """A release: its disk's folder, its archive unpacked to ``tar``, the archive's members by name."""

    release: str
    disk: GuestManifest
    root: RootManifest
    folder: Path
    tar: Path
    members: dict[str, tarfile.TarInfo]

    def ask(self, command: str) -> str:
        """debugfs's answer about the disk's root file system."""
        offset = self.disk.partitions[2]["offset"]
        return run(["debugfs", "-R", command, f"{self.folder / RAW}?offset={offset}"])

    def text(self, name: str) -> str:
        """A file of the archive."""
        with tarfile.open(self.tar) as tar:
            stream = tar.extractfile(f"./{name}")
            assert stream is not None
            return stream.read().decode()


@pytest.fixture(scope="module", params=sorted(RELEASES))
def guest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    paths, release = find_checkout(), request.param
    disk, _ = build_guest(paths, release=release)
    root, _ = build_root(paths, release=release)
    unpacked = tmp_path_factory.mktemp("root") / "root.tar"
    run(["zstd", "-q", "-d", root_folder(paths, release) / ROOT, "-o", unpacked])
    with tarfile.open(unpacked) as tar:
        members = {member.name.removeprefix("./"): member for member in tar}
    yield Guest(
        release=release,
        disk=disk,
        root=root,
        folder=guest_folder(paths, release),
        tar=unpacked,
        members=members,
    )
    unpacked.unlink()


def test_the_manifest_describes_the_archive(guest: Guest) -> None:
    file = root_folder(find_checkout(), guest.release) / ROOT
    assert guest.root.size == file.stat().st_size
    assert guest.root.digest == f"sha256:{file_digest(file)}"
    assert guest.root.raw_size == guest.tar.stat().st_size
    assert guest.root.raw_digest == f"sha256:{file_digest(guest.tar)}"
    assert (guest.root.kind, guest.root.format, guest.root.compression) == ("root", "tar", "zstd")


def test_disk_and_archive_are_one_system(guest: Guest) -> None:
    assert guest.root.packages == guest.disk.packages
    assert guest.root.kernel_version == guest.disk.kernel_version
    assert f"VERSION_CODENAME={guest.release}\n" in guest.text("usr/lib/os-release")
    assert f"VERSION_CODENAME={guest.release}\n" in guest.ask("cat /usr/lib/os-release")


def test_the_archive_names_no_disk(guest: Guest) -> None:
    assert not [name for name in guest.members if name.startswith(("boot/grub", "boot/efi/"))]
    assert guest.disk.root_uuid not in json.dumps(guest.text("etc/fstab"))
    assert {"proc", "sys", "dev", "run", "tmp"} <= set(guest.members)


def test_kernel_and_initramfs_are_in_both(guest: Guest) -> None:
    version = guest.disk.kernel_version
    for name in (f"vmlinuz-{version}", f"initrd.img-{version}"):
        inside = guest.ask(f"stat /boot/{name}")
        assert f"Size: {guest.members[f'boot/{name}'].size}" in " ".join(inside.split())


def test_owners_and_rights_are_kept(guest: Guest) -> None:
    shadow = guest.members["etc/shadow"]
    assert (shadow.uid, shadow.mode) == (0, 0o640)
    assert guest.members["tmp"].mode == 0o1777
    assert {member.uid for member in guest.members.values()} >= {0}
    assert guest.members["usr/bin/su"].mode == 0o4755


def test_both_are_small(guest: Guest) -> None:
    assert guest.root.size <= 130 * MIB
    assert guest.disk.size <= 130 * MIB
    assert guest.disk.raw_size <= 1024 * MIB
