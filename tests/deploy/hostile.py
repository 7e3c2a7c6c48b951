"""Images that are wrong on purpose, made by the tools that users make theirs with, then damaged.

The disks are small (about 110 MiB, nearly all of it zero) and start a real GRUB: one thing in each is wrong.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import struct
import tarfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teeth.boot.images import ImageFile
from teeth.build.disk import SECTOR, Content, assemble_disk, plan_layout
from teeth.build.disk_grub import find_grub, grub_config
from teeth.proc import run

MIB = 1 << 20
KERNEL, INITRD = "/boot/vmlinuz-1", "/boot/initrd.img-1"
_NAMESPACE = uuid.UUID("0d8a5f0e-6f0c-5d0b-9c57-7d1c6c1b8f53")
# Documentation/arch/arm64/booting.rst: the magic number at byte 56 of a kernel's header.
ARM_KERNEL = bytes(56) + b"ARM\x64" + bytes(4096 - 60)


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A small disk's files by path, and its grub.cfg (None: the right one for a kernel at KERNEL)."""

    name: str
    files: Mapping[str, bytes]
    grub_cfg: str | None = None


def disk_of(system: System, folder: Path) -> Path:
    """A raw disk with GPT, GRUB for BIOS and UEFI, an ESP and an ext4 root file system."""
    work = folder / f"{system.name}.work"
    tree, disk = work / "tree", folder / f"{system.name}.disk"
    root_uuid = uuid.uuid5(_NAMESPACE, system.name)
    cfg = system.grub_cfg
    if cfg is None:
        cfg = grub_config(root_uuid=root_uuid, kernel=KERNEL, initrd=INITRD, arguments="", title=system.name)
    blocks = 0
    for name, content in {
        **system.files,
        "/boot/grub/grub.cfg": cfg.encode(errors="surrogateescape"),
    }.items():
        path = tree / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        blocks += len(content) // 4096 + 2
    layout = plan_layout(Content(blocks=blocks, inodes=64), free=24 * MIB)
    assemble_disk(tree, disk, layout=layout, root_uuid=root_uuid, modules=find_grub(), work=work / "grub")
    shutil.rmtree(work)
    return disk


def without_boot_code(disk: Path) -> None:
    """What a disk for another architecture looks like to a BIOS: a table, but no program."""
    with disk.open("r+b") as stream:
        stream.write(bytes(440))


def for_arm(disk: Path, folder: Path) -> None:
    """The ESP holds the loader of 64-bit ARM only, and the boot sector nothing."""
    esp = f"{disk}@@{2 * MIB}"
    loader = folder / "BOOTAA64.EFI"
    loader.write_bytes(
        b"MZ" + bytes(58) + struct.pack("<I", 64) + b"PE\0\0" + struct.pack("<H", 0xAA64) + bytes(440)
    )
    run(["mdel", "-i", esp, "::/EFI/BOOT/BOOTX64.EFI"])
    run(["mcopy", "-i", esp, loader, "::/EFI/BOOT/BOOTAA64.EFI"])
    without_boot_code(disk)


def beyond_the_disk(folder: Path) -> Path:
    """A table made for a disk of 4 GiB, whose second partition lies behind the 64 MiB that the image has."""
    large, disk = folder / "beyond.large", folder / "beyond.disk"
    with large.open("wb") as stream:
        stream.truncate(4096 * MIB)
    run(["sgdisk", "--clear", "--new=1:2048:+8M", "--new=2:1G:+2G", large])
    with large.open("rb") as source, disk.open("wb") as target:
        target.write(source.read(64 * MIB))
    large.unlink()
    # What follows is not zero, or nothing would be written of it.
    with disk.open("r+b") as stream:
        stream.seek(MIB)
        stream.write(os.urandom(MIB))
    return disk


def zstd(path: Path, *options: str) -> Path:
    """The file compressed, beside it."""
    output = path.with_name(f"{path.name}.zst")
    run(["zstd", "-q", "-f", "-3", "--check", *options, path, "-o", output])
    return output


def bomb(folder: Path, size: int) -> Path:
    """Some hundred kilobytes that become ``size`` zero bytes."""
    zeros = folder / "bomb"
    with zeros.open("wb") as stream:
        stream.truncate(size)
    output = zstd(zeros)
    zeros.unlink()
    return output


def qcow2(disk: Path, folder: Path, name: str, *options: str) -> Path:
    output = folder / f"{name}.qcow2"
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, disk, output])
    return output


def backed(disk: Path, folder: Path) -> Path:
    """A qcow2 that holds nothing and says that its content is another file's."""
    output = folder / "backed.qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", disk, "-F", "raw", output])
    return output


def cut(path: Path, share: float) -> Path:
    """The first part of a file, as a transfer that nobody checked would leave it."""
    os.truncate(path, int(path.stat().st_size * share) // SECTOR * SECTOR)
    return path


def with_last_byte_changed(disk: Path, copy: Path) -> Path:
    """The same but for one bit, at its very end."""
    content = bytearray(disk.read_bytes())
    content[-1] ^= 1
    copy.write_bytes(content)
    return copy


def tar_of(files: Mapping[str, bytes], path: Path) -> Path:
    """An archive of root's files, all of them executable."""
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f".{name}")
            member.size, member.mode = len(content), 0o755
            tar.addfile(member, io.BytesIO(content))
    return path


def described(path: Path, **members: Any) -> ImageFile:
    """The image file with a true size and digest, unless ``members`` say otherwise."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    known = {
        "id": str(uuid.uuid5(_NAMESPACE, f"{path.name} {digest} {sorted(members.items())}")),
        "name": path.name,
        "size": path.stat().st_size,
        "digest": f"sha256:{digest}",
        "format": "raw",
        "compression": "none",
    }
    return ImageFile(path=path, manifest={**known, **members})
