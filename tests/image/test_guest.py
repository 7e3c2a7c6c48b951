"""The built guest image: what its manifest promises, and what lies on its disk."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest

from teeth.build.guest import DISK, MANIFEST, RAW, GuestManifest, build_guest
from teeth.cache import file_digest
from teeth.paths import find_checkout
from teeth.proc import run

pytestmark = [pytest.mark.image, pytest.mark.xdist_group("guest-content")]  # it is unpacked once

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    folder: Path
    manifest: GuestManifest

    def ask(self, command: str) -> str:
        """debugfs's answer about the root file system."""
        offset = self.manifest.partitions[2]["offset"]
        return run(["debugfs", "-R", command, f"{self.folder / RAW}?offset={offset}"])

    def has(self, path: str) -> bool:
        return "Inode:" in self.ask(f"stat {path}")

    def names(self, folder: str) -> set[str]:
        """What lies in a folder."""
        rows = [line.split("/") for line in self.ask(f"ls -p {folder}").splitlines()]
        return {row[5] for row in rows if len(row) > 5} - {".", ".."}


@pytest.fixture(scope="module")
def guest() -> Guest:
    paths = find_checkout()
    manifest, _ = build_guest(paths)
    return Guest(folder=paths.guest, manifest=manifest)


def test_the_manifest_describes_the_files(guest: Guest) -> None:
    manifest = guest.manifest
    assert json.loads((guest.folder / MANIFEST).read_text())["id"] == manifest.id
    assert uuid.UUID(manifest.id).version == 5
    assert (guest.folder / DISK).stat().st_size == manifest.size
    assert f"sha256:{file_digest(guest.folder / DISK)}" == manifest.digest
    assert (guest.folder / RAW).stat().st_size == manifest.raw_size
    assert f"sha256:{file_digest(guest.folder / RAW)}" == manifest.raw_digest
    assert manifest.raw_size < manifest.min_disk


def test_the_compressed_disk_is_the_raw_one(guest: Guest, tmp_path: Path) -> None:
    unpacked = tmp_path / "disk"
    run(["zstd", "-q", "-d", "--sparse", guest.folder / DISK, "-o", unpacked])
    assert f"sha256:{file_digest(unpacked)}" == guest.manifest.raw_digest
    unpacked.unlink()
    assert "Check: XXH64" in run(["zstd", "-lv", guest.folder / DISK])


def test_it_is_small_enough_to_be_written_under_emulation(guest: Guest) -> None:
    assert guest.manifest.size <= 130 * MIB
    assert guest.manifest.raw_size <= 1024 * MIB
    assert (guest.folder / RAW).stat().st_blocks * 512 <= 450 * MIB


def test_partitions_are_where_the_manifest_says(guest: Guest) -> None:
    assert "No problems found" in run(["sgdisk", "--verify", guest.folder / RAW])
    table = run(["sgdisk", "--print", guest.folder / RAW])
    rows = re.findall(r"^ +(\d+) +(\d+) +(\d+) +\S+ \S+ +(\w{4}) +(\w+)$", table, re.MULTILINE)
    said = [
        (
            str(part["number"]),
            str(part["offset"] // 512),
            str((part["offset"] + part["size"]) // 512 - 1),
            part["type"].upper(),
            part["name"],
        )
        for part in guest.manifest.partitions
    ]
    assert rows == said


def test_its_file_systems_are_clean(guest: Guest) -> None:
    root, esp = guest.manifest.partitions[2], guest.manifest.partitions[1]
    run(["e2fsck", "-f", "-n", f"{guest.folder / RAW}?offset={root['offset']}"])
    listing = run(["mdir", "-b", "-/", "-i", f"{guest.folder / RAW}@@{esp['offset']}", "::"])
    assert "::/EFI/BOOT/BOOTX64.EFI" in listing.splitlines()


def test_grub_starts_a_kernel_that_is_there(guest: Guest) -> None:
    lines = [line.split() for line in guest.ask("cat /boot/grub/grub.cfg").splitlines() if line.strip()]
    [linux] = [words for words in lines if words[0] == "linux"]
    [initrd] = [words for words in lines if words[0] == "initrd"]
    assert guest.has(linux[1])
    assert guest.has(initrd[1])
    assert linux[1].endswith(guest.manifest.kernel_version)
    assert f"root=UUID={guest.manifest.root_uuid}" in linux
    assert "console=ttyS0,115200" in linux
    assert guest.ask("cat /etc/fstab").startswith(f"UUID={guest.manifest.root_uuid} / ext4 ")


@pytest.mark.parametrize(
    "path",
    [
        "/usr/bin/cloud-init",
        "/etc/cloud/cloud.cfg.d/90-teeth-guest.cfg",
        "/usr/lib/systemd/system/cloud-init-main.service",
        "/etc/systemd/system/multi-user.target.wants/systemd-networkd.service",
        "/usr/sbin/fsck.ext4",
        "/usr/sbin/init",
    ],
)
def test_what_a_deployed_system_needs_is_there(guest: Guest, path: str) -> None:
    assert guest.has(path)


def test_both_kinds_of_config_drive_can_be_mounted(guest: Guest) -> None:
    folder = f"/usr/lib/modules/{guest.manifest.kernel_version}/kernel/fs"
    needed = {"isofs": "isofs.ko.xz", "fat": "vfat.ko.xz", "nls": "nls_cp437.ko.xz"}
    assert {name for name, file in needed.items() if file not in guest.names(f"{folder}/{name}")} == set()
    # Debian's FAT driver asks for this character set when the mount names none.
    assert "nls_ascii.ko.xz" in guest.names(f"{folder}/nls")


def test_the_initramfs_knows_the_disks_that_a_server_has(guest: Guest, tmp_path: Path) -> None:
    version = guest.manifest.kernel_version
    initrd = tmp_path / "initrd"
    guest.ask(f"dump /boot/initrd.img-{version} {initrd}")
    # Two cpio archives: modules, which are compressed already, as they are; the rest as one zstd frame.
    data = initrd.read_bytes()
    modules, rest = data.split(b"TRAILER!!!", 1)
    programs = run(["zstd", "-q", "-d", "-c"], input=rest[rest.index(b"\x28\xb5\x2f\xfd") :])
    built_in = guest.ask(f"cat /usr/lib/modules/{version}/modules.builtin")
    drivers = ("virtio_blk", "virtio_scsi", "nvme", "sd_mod", "ahci", "ext4")
    missing = [
        name for name in drivers if f"/{name}.ko".encode() not in modules and f"/{name}.ko" not in built_in
    ]
    assert missing == []
    assert "usr/sbin/fsck.ext4" in programs


def test_python_is_compiled(guest: Guest) -> None:
    [cached] = [name for name in guest.names("/usr/lib/python3/dist-packages/cloudinit") if "pycache" in name]
    compiled = guest.names(f"/usr/lib/python3/dist-packages/cloudinit/{cached}")
    assert any(name.startswith("stages.cpython-") for name in compiled)


def test_every_machine_makes_an_identity_of_its_own(guest: Guest) -> None:
    assert "Size: 0" in guest.ask("stat /etc/machine-id")
    assert not guest.names("/etc") & {"resolv.conf"}, "the build host's resolvers"
    assert not [name for name in guest.names("/etc/apt/sources.list.d") if name.endswith(".list")]


def test_no_password_opens_anything(guest: Guest) -> None:
    fields = [line.split(":") for line in guest.ask("cat /etc/shadow").splitlines() if ":" in line]
    assert fields
    assert [name for name, password, *_ in fields if not password.startswith(("!", "*"))] == []
    assert not guest.has("/usr/sbin/sshd")


@pytest.mark.parametrize("folder", ["/usr/share/man", "/usr/share/locale", "/var/lib/apt/lists", "/tmp"])
def test_nothing_superfluous_is_carried(guest: Guest, folder: str) -> None:
    assert guest.names(folder) == set()


def test_the_package_list_is_the_systems_own(guest: Guest) -> None:
    status = guest.ask("cat /var/lib/dpkg/status")
    for name in ("cloud-init", "systemd", "e2fsprogs"):
        assert f"Package: {name}\n" in status
        assert f"Version: {guest.manifest.packages[name]}\n" in status
