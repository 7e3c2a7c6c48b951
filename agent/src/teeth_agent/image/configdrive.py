"""The config drive: a FAT file system labelled config-2 in OpenStack's layout.

FAT, because it works on 512 and 4096 byte sectors alike (an iso9660 file system of 2048 byte blocks cannot be
mounted from a disk with larger ones) and what makes it, dosfstools and mtools, is small and well kept.
Everything lives in a memory file without a name: nothing is left behind, however the agent ends.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from teeth_agent.blockio import Device, aligned_buffer
from teeth_agent.errors import AgentError, DeviceError, image_errors
from teeth_agent.image import disktable
from teeth_agent.image.params import ConfigDrive
from teeth_agent.tools import blkid, mkfs_vfat, mtools, sgdisk
from teeth_image import gpt

LABEL = "config-2"
_MIB = 1 << 20
# Two FATs, the root folder and clusters of up to 4 KiB stay far below this for the number of files allowed.
_OVERHEAD = 768 << 10
_CLUSTER = 16 << 10
# What the format's readers are used to, and far above what one wire message carries.
_LARGEST = 64 * _MIB
_FOLDERS = ("openstack", "openstack/latest", "openstack/content")


def layout(drive: ConfigDrive) -> dict[str, bytes]:
    """The drive's files by name. Raises nothing: ``drive`` is checked already."""
    content = {f"openstack/content/{index:04}": one.content for index, one in enumerate(drive.files)}
    meta_data = dict(drive.meta_data)
    if drive.files:
        given = meta_data.get("files")
        meta_data["files"] = [
            *(given if isinstance(given, list) else []),
            *({"path": one.path, "content_path": f"/content/{n:04}"} for n, one in enumerate(drive.files)),
        ]
    files = {"openstack/latest/meta_data.json": _json(meta_data)}
    if drive.user_data is not None:
        files["openstack/latest/user_data"] = drive.user_data.encode()
    for name, value in (("vendor_data", drive.vendor_data), ("network_data", drive.network_data)):
        if value is not None:
            files[f"openstack/latest/{name}.json"] = _json(value)
    return files | content


def size_for(files: Mapping[str, bytes]) -> int:
    """Bytes for the file system, a whole number of MiB. Raises AgentError(config_drive_too_large)."""
    content = sum(-(-max(len(data), 1) // _CLUSTER) * _CLUSTER for data in files.values())
    size = -(-(content + content // 64 + _OVERHEAD) // _MIB) * _MIB
    if size > _LARGEST:
        raise AgentError(
            f"the config drive would need {size} bytes, at most {_LARGEST} are allowed",
            code="config_drive_too_large",
        )
    return size


@contextmanager
def built(files: Mapping[str, bytes], *, size: int, sector: int) -> Iterator[memoryview]:
    """The finished file system in an aligned buffer of ``size`` bytes, zeroed when the block is left."""
    with aligned(size) as buffer:
        descriptor = os.memfd_create("config-drive", os.MFD_CLOEXEC)
        try:
            os.ftruncate(descriptor, size)
            _fill(f"/proc/{os.getpid()}/fd/{descriptor}", files, sector)
            if os.preadv(descriptor, [buffer], 0) != size:
                raise AgentError("the config drive could not be read back from memory", code="config_drive")
        finally:
            os.ftruncate(descriptor, 0)
            os.close(descriptor)
        yield buffer


@contextmanager
def aligned(size: int) -> Iterator[memoryview]:
    """An aligned buffer for secret bytes: zeroed at the end."""
    buffer = aligned_buffer(size)
    try:
        yield buffer
    finally:
        buffer[:] = bytes(size)


def place(device: Device, size: int) -> tuple[int, int]:
    """Make room for ``size`` bytes in a partition named config-2: (offset, length) in bytes.

    One that is there is used if it is large enough, else removed; a new one goes to the end of the disk.
    Raises AgentError(partition_table | no_room) and ToolError.
    """
    table = disktable.read(device)
    old = _existing(device, table)
    if old is not None and table.length(old) >= size and old.first * table.block % device.logical_block == 0:
        return table.offset(old), table.length(old)
    if old is not None:
        sgdisk.delete_partition(device.path, old.number)
        table = disktable.read(device)
    with image_errors():
        new = gpt.plan_at_end(table, size)
    sgdisk.new_partition(device.path, number=new.number, first=new.first, last=new.last, name=LABEL)
    device.reread_partitions()
    made = disktable.read(device).named(LABEL)
    if made is None or (made.first, made.last) != (new.first, new.last):
        raise AgentError("the config drive's partition is not where it was put", code="partition_table")
    return table.offset(made), table.length(made)


def write(device: Device, offset: int, content: memoryview) -> None:
    """Write, flush, read back and compare. Raises DeviceError(verify_failed), never with the content."""
    device.write_from(offset, content)
    device.flush()
    with aligned(len(content)) as back:
        device.read_into(offset, back)
        same = bytearray(content) == back
    if not same:
        raise DeviceError(
            f"{device.path}: the config drive does not read back as written", code="verify_failed"
        )


def _existing(device: Device, table: gpt.Table) -> gpt.Partition | None:
    """By the partition's name, else by the label of the file system in it, as its readers look for it."""
    named = table.named(LABEL)
    if named is not None:
        return named
    for one in table.partitions:
        found = blkid.probe(device.path, offset=table.offset(one), length=table.length(one))
        if found.kind in ("vfat", "iso9660") and (found.label or "").lower() == LABEL:
            return one
    return None


def _fill(path: str, files: Mapping[str, bytes], sector: int) -> None:
    mkfs_vfat.make(path, label=LABEL, sector=sector)
    mtools.make_folders(path, _FOLDERS)
    for name, data in files.items():
        mtools.write_file(path, name, data)


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1).encode()
