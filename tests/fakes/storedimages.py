"""Images for the endpoint's store, made by real tools, small: good ones, and each way of being bad."""

from __future__ import annotations

import io
import os
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path

from fakes import diskimages
from fakes.diskimages import MIB, make, run, system_files


def program(machine: int = 62) -> bytes:
    """The header of an ELF program for a machine (62: x86_64, 183: aarch64)."""
    return b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 2, machine) + bytes(200)


def arm_kernel() -> bytes:
    head = bytearray(4096)
    head[56:60] = b"ARM\x64"
    return bytes(head)


def files(**changes: bytes | None) -> dict[str, bytes]:
    """A system's files; ``changes`` by path with / written as __, None: not there."""
    found = {**system_files(), "usr/sbin/init": program()}
    for name, content in changes.items():
        path = name.replace("__", "/")
        if content is None:
            del found[path]
        else:
            found[path] = content
    return found


def disk(folder: Path, name: str = "disk.raw") -> Path:
    folder.mkdir(exist_ok=True)
    return make(folder / name, folder, files=files())


def changed(good: Path, folder: Path, **changes: bytes | None) -> Path:
    """A copy of a disk with another file system in its place: see ``files``."""
    path = folder / "changed.raw"
    path.write_bytes(good.read_bytes())
    tree = diskimages.tree(folder / "changed-tree", files(**changes))
    place, size = f"offset={diskimages.ROOT_START}", f"{diskimages.ROOT_SIZE >> 10}k"
    run("mke2fs", "-q", "-F", "-t", "ext4", "-d", str(tree), "-E", place, str(path), size)
    return path


def tar(
    folder: Path, content: Mapping[str, bytes] | None = None, links: Mapping[str, str] | None = None
) -> Path:
    path = folder / "root.tar"
    with tarfile.open(path, "w") as archive:
        for name, target in (links or {}).items():
            link = tarfile.TarInfo(f"./{name}")
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
        for name, data in (files() if content is None else content).items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def file_system(folder: Path) -> Path:
    """An ext4 file system without a partition table."""
    path = folder / "root.ext4"
    tree = diskimages.tree(folder / "ext4-tree", files())
    (tree / "sbin").symlink_to("usr/sbin")
    run("mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(path), f"{12 * MIB >> 10}k")
    return path


def qcow2(source: Path, *options: str) -> Path:
    path = source.with_suffix(".qcow2")
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, str(source), str(path))
    return path


def cut(path: Path, size: int) -> Path:
    os.truncate(path, size)
    return path
