"""A disk around a small tree, looked at with the tools that a machine's firmware and kernel agree with."""

from __future__ import annotations

import json
import os
import struct
import tarfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest

from teeth.build.dib import remove_tree
from teeth.build.disk import SECTOR, Content, Layout, assemble_disk, plan_layout
from teeth.build.disk_grub import find_grub
from teeth.build.disk_tree import read_tree, settle_tree, unpack_tree
from teeth.proc import run

ROOT_UUID = uuid.UUID("7d8f2f14-3f6e-4b54-9a3e-0c9d3f1f2a11")
MIB = 1 << 20
HOSTS = b"127.0.0.1 localhost\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    path: Path
    layout: Layout

    def root(self, command: str) -> str:
        """debugfs's answer about the root file system."""
        return run(["debugfs", "-R", command, f"{self.path}?offset={self.layout.root.offset}"])

    def sectors(self, first: int, count: int) -> bytes:
        with self.path.open("rb") as stream:
            stream.seek(first * SECTOR)
            return stream.read(count * SECTOR)


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", **fields: object) -> None:
    member = tarfile.TarInfo(f"./{name}")
    member.size = len(data)
    member.mtime = 1_700_000_000
    for field, value in fields.items():
        setattr(member, field, value)
    tar.addfile(member, BytesIO(data))


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    work = tmp_path_factory.mktemp("disk")
    archive = work / "tree.tar"
    with tarfile.open(archive, "w") as tar:
        for folder in ("boot", "etc", "usr", "usr/bin", "var", "var/lib", "var/lib/dpkg"):
            add(tar, folder, type=tarfile.DIRTYPE, mode=0o755)
        add(tar, "boot/vmlinuz-9.9-test", os.urandom(3 * MIB))
        add(tar, "boot/initrd.img-9.9-test", os.urandom(MIB))
        add(tar, "etc/hosts", HOSTS, mode=0o640, uid=7, gid=8)
        add(tar, "usr/bin/first", b"#!/bin/sh\n", mode=0o4755)
        add(tar, "usr/bin/second", type=tarfile.LNKTYPE, linkname="./usr/bin/first")
        add(tar, "bin", type=tarfile.SYMTYPE, linkname="usr/bin")
        add(tar, "var/lib/dpkg/status", b"Package: x\nStatus: install ok installed\nVersion: 1.2-3\n\n")
    facts = read_tree(archive)
    layout = plan_layout(facts.content, free=32 * MIB)
    tree = work / "tree"
    unpack_tree(archive, tree)
    settle_tree(tree, facts=facts, root_uuid=ROOT_UUID, arguments="console=ttyS0", scratch=work / "settings")
    path = work / "disk.raw"
    assemble_disk(tree, path, layout=layout, root_uuid=ROOT_UUID, modules=find_grub(), work=work / "grub")
    remove_tree(tree)
    yield Disk(path=path, layout=layout)
    path.unlink()


def test_the_partition_table_is_sound(disk: Disk) -> None:
    assert "No problems found" in run(["sgdisk", "--verify", disk.path])


@pytest.mark.parametrize(
    ("number", "name", "type_guid"),
    [
        (1, "bios", "21686148-6449-6E6F-744E-656564454649"),
        (2, "esp", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"),
        (3, "root", "0FC63DAF-8483-4772-8E79-3D69D8477DE4"),
    ],
)
def test_partitions_lie_where_the_plan_says(disk: Disk, number: int, name: str, type_guid: str) -> None:
    info = run(["sgdisk", f"--info={number}", disk.path])
    planned = disk.layout.partitions[number - 1]
    assert f"Partition GUID code: {type_guid}" in info
    assert f"First sector: {planned.first} " in info
    assert f"Last sector: {planned.first + planned.sectors - 1} " in info
    assert f"Partition name: '{name}'" in info
    assert str(uuid.uuid5(ROOT_UUID, name)).upper() in info


def test_the_backup_table_is_at_the_very_end(disk: Disk) -> None:
    assert disk.path.stat().st_size == disk.layout.size
    assert disk.sectors(disk.layout.size // SECTOR - 1, 1).startswith(b"EFI PART")


def test_the_root_file_system_is_clean(disk: Disk) -> None:
    # -n: nothing is repaired, so any fault is a non-zero status.
    run(["e2fsck", "-f", "-n", f"{disk.path}?offset={disk.layout.root.offset}"])


def test_the_root_file_system_has_only_features_that_grub_reads(disk: Disk) -> None:
    stats = run(["dumpe2fs", "-h", f"{disk.path}?offset={disk.layout.root.offset}"])
    fields = dict(line.split(":", 1) for line in stats.splitlines() if ":" in line)
    assert fields["Filesystem UUID"].strip() == str(ROOT_UUID)
    assert fields["Filesystem volume name"].strip() == "root"
    assert not {"metadata_csum_seed", "orphan_file"} & set(fields["Filesystem features"].split())
    free = int(fields["Free blocks"]) * int(fields["Block size"])
    assert 32 * MIB <= free < 40 * MIB


def test_files_keep_content_owner_and_mode(disk: Disk) -> None:
    assert disk.root("cat /etc/hosts") == HOSTS.decode()
    stat = disk.root("stat /etc/hosts")
    assert "Mode:  0640" in stat
    assert "User:     7   Group:     8" in stat
    assert "Mode:  04755" in disk.root("stat /usr/bin/first")
    assert "Links: 2" in disk.root("stat /usr/bin/second")
    assert 'Fast link dest: "usr/bin"' in disk.root("stat /bin")


def test_mount_points_are_there_although_the_archive_lacks_them(disk: Disk) -> None:
    for name in ("proc", "sys"):
        assert "Type: directory" in disk.root(f"stat /{name}")


def test_fstab_and_grub_name_the_same_file_system(disk: Disk) -> None:
    assert disk.root("cat /etc/fstab").split()[:3] == [f"UUID={ROOT_UUID}", "/", "ext4"]
    lines = [line.split() for line in disk.root("cat /boot/grub/grub.cfg").splitlines() if line.strip()]
    [linux] = [words for words in lines if words[0] == "linux"]
    [initrd] = [words for words in lines if words[0] == "initrd"]
    assert linux[1:] == ["/boot/vmlinuz-9.9-test", f"root=UUID={ROOT_UUID}", "ro", "console=ttyS0"]
    assert initrd[1:] == ["/boot/initrd.img-9.9-test"]
    for path in (linux[1], initrd[1]):
        assert "Type: regular" in disk.root(f"stat {path}")


def test_the_boot_sector_leads_into_the_core(disk: Disk) -> None:
    sector = disk.sectors(0, 1)
    first = disk.layout.bios.first
    assert sector[510:] == b"\x55\xaa"
    assert sector[446 + 4] == 0xEE, "the protective entry must have stayed"
    assert struct.unpack_from("<Q", sector, 0x5C) == (first,)
    core = disk.sectors(first, 1)
    following, length, _ = struct.unpack_from("<QHH", core, 500)
    assert following == first + 1
    assert 0 < length < disk.layout.bios.sectors
    behind = disk.sectors(first + 1 + length, disk.layout.bios.sectors - 1 - length)
    assert not any(behind), "the block list must end where the core ends"
    assert any(disk.sectors(first + length, 1)), "the block list's last sector must be the core's"


def test_firmware_finds_a_program_that_looks_for_our_root(disk: Disk, tmp_path: Path) -> None:
    image = f"{disk.path}@@{disk.layout.esp.offset}"
    program = tmp_path / "program"
    run(["mcopy", "-i", image, "::/EFI/BOOT/BOOTX64.EFI", program])
    data = program.read_bytes()
    assert data[:2] == b"MZ"
    assert f"search.fs_uuid {ROOT_UUID} root".encode() in data
    assert b"FAT32" in disk.sectors(disk.layout.esp.first, 1)


def test_empty_space_costs_nothing(disk: Disk) -> None:
    # 4 MiB of random files, 16 MiB of journal (allocated, never written), grub and the tables.
    assert disk.path.stat().st_blocks * 512 < 26 * MIB < disk.layout.size


def test_no_loop_device_holds_the_disk(disk: Disk) -> None:
    devices = json.loads(run(["losetup", "--json", "--list"]) or '{"loopdevices": []}')["loopdevices"]
    assert not [device for device in devices if device["back-file"].startswith(str(disk.path.parent))]


@pytest.mark.parametrize("content", [(0, 0), (1, 1), (70_000, 12_000), (1_000_000, 200_000)])
def test_layouts_are_aligned_and_large_enough(content: tuple[int, int]) -> None:
    blocks, inodes = content
    layout = plan_layout(Content(blocks=blocks, inodes=inodes), free=100 * MIB)
    end = MIB // SECTOR
    for part in layout.partitions:
        assert part.first >= end
        assert part.first % (MIB // SECTOR) == 0
        end = part.first + part.sectors
    assert layout.size % MIB == 0
    assert layout.size - end * SECTOR >= 33 * SECTOR, "no room for the backup table"
    assert layout.root.sectors * SECTOR >= blocks * 4096 + 100 * MIB
    assert layout.inodes > inodes
