"""The config drive: built in memory, put into a partition of its own, read back.

FAT unless iso9660 is asked for, because it works on 512 and 4096 byte sectors alike (an iso9660 file system
of 2048 byte blocks cannot be mounted from a disk with larger ones) and what makes it, dosfstools and mtools,
is small and well kept. What it holds is ``drivecontent``'s.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from teeth_agent.blockio import Device, aligned_buffer
from teeth_agent.errors import AgentError, DeviceError, image_errors
from teeth_agent.image import disktable, drivecontent
from teeth_agent.image.params import ConfigDrive
from teeth_agent.tools import blkid, mkfs_vfat, mtools, sgdisk, xorriso
from teeth_image import gpt

_NAMES = {label.lower() for label in drivecontent.LABELS.values()}
_ISO_BLOCK = 2048
_MIB = 1 << 20
# Two FATs, the root folder and clusters of up to 4 KiB stay far below this for the number of files allowed.
_OVERHEAD = 768 << 10
_CLUSTER = 16 << 10
# What the format's readers are used to, and far above what one wire message carries.
_LARGEST = 64 * _MIB


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
def built(drive: ConfigDrive, *, size: int, sector: int, work: Path) -> Iterator[memoryview]:
    """The finished file system in an aligned buffer of ``size`` bytes, zeroed when the block is left.

    ``work``: a folder in memory. Raises AgentError(config_drive | config_drive_sectors), ToolError.
    """
    if drive.filesystem == "iso9660" and sector > _ISO_BLOCK:
        raise AgentError(
            f"an iso9660 config drive cannot be mounted from a disk with blocks of {sector} bytes: "
            "ask for vfat",
            code="config_drive_sectors",
        )
    with aligned(size) as buffer:
        if drive.filesystem == "iso9660":
            _build_iso(drive, buffer, work)
        else:
            _build_fat(drive, buffer, sector)
        yield buffer


@contextmanager
def aligned(size: int) -> Iterator[memoryview]:
    """An aligned buffer for secret bytes: zeroed at the end."""
    buffer = aligned_buffer(size)
    try:
        yield buffer
    finally:
        buffer[:] = bytes(size)


def place(device: Device, size: int, label: str) -> tuple[int, int]:
    """Make room for ``size`` bytes in a partition with this name: (offset, length) in bytes.

    A drive of any layout that is there goes: its place is used again if it is large enough, else removed. A
    new one goes to the end of the disk. Raises AgentError(partition_table | no_room), DeviceError, ToolError.
    """
    table = disktable.read(device)
    old = _existing(device, table)
    fitting = [
        one
        for one in old
        if table.length(one) >= size and one.first * table.block % device.logical_block == 0
    ]
    for one in old:
        # Also where the new one goes: it may be shorter, and what was there is somebody's secrets.
        _forget(device, table.offset(one), table.length(one))
        if one not in fitting[:1]:
            sgdisk.delete_partition(device.path, one.number)
    if fitting:
        if fitting[0].name != label:
            sgdisk.rename_partition(device.path, fitting[0].number, label)
        return table.offset(fitting[0]), table.length(fitting[0])
    return _add(device, disktable.read(device), size, label)


def _add(device: Device, table: gpt.Table, size: int, label: str) -> tuple[int, int]:
    with image_errors():
        new = gpt.plan_at_end(table, size)
    sgdisk.new_partition(device.path, number=new.number, first=new.first, last=new.last, name=label)
    device.reread_partitions()
    made = disktable.read(device).named(label)
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


def _existing(device: Device, table: gpt.Table) -> list[gpt.Partition]:
    """By a partition's name, or by the label of the file system in it, as its readers look for it."""
    return [one for one in table.partitions if _is_drive(one.name) or _is_drive(_label(device, table, one))]


def _label(device: Device, table: gpt.Table, one: gpt.Partition) -> str:
    return blkid.probe(device.path, offset=table.offset(one), length=table.length(one)).label or ""


def _is_drive(name: str) -> bool:
    return name.lower() in _NAMES


def _forget(device: Device, offset: int, length: int) -> None:
    """Zero what an old drive had; of a partition that is larger than any drive, its beginning."""
    device.zero_range(offset, min(length, _LARGEST))
    device.flush()


def _build_fat(drive: ConfigDrive, buffer: memoryview, sector: int) -> None:
    """In a memory file without a name, filled through pipes: nothing is left, however the agent ends."""
    descriptor = os.memfd_create("config-drive", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, len(buffer))
        path = f"/proc/{os.getpid()}/fd/{descriptor}"
        mkfs_vfat.make(path, label=drivecontent.label(drive), sector=sector)
        if folders := drivecontent.folders(drive):
            mtools.make_folders(path, folders)
        for name, data in drivecontent.layout(drive).items():
            mtools.write_file(path, name, data)
        if os.preadv(descriptor, [buffer], 0) != len(buffer):
            raise AgentError("the config drive could not be read back from memory", code="config_drive")
    finally:
        os.ftruncate(descriptor, 0)
        os.close(descriptor)


def _build_iso(drive: ConfigDrive, buffer: memoryview, work: Path) -> None:
    """xorriso reads files with names: they are in memory, for root only, and zeroed before they go."""
    with tempfile.TemporaryDirectory(prefix="teeth-drive-", dir=work) as name:
        source, target = Path(name) / "source", Path(name) / "iso"
        try:
            for path, data in drivecontent.layout(drive).items():
                (source / path).parent.mkdir(parents=True, exist_ok=True)
                (source / path).write_bytes(data)
            xorriso.make(str(source), str(target), label=drivecontent.label(drive))
            size = target.stat().st_size
            if size > len(buffer):
                raise AgentError(f"the config drive has {size} bytes", code="config_drive_too_large")
            with target.open("rb") as stream:
                if stream.readinto(buffer[:size]) != size:
                    raise AgentError("the config drive could not be read back", code="config_drive")
        finally:
            _overwrite(Path(name))


def _overwrite(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("r+b") as stream:
                stream.write(bytes(path.stat().st_size))
