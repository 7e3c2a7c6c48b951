"""The last partition of a disk that was just written to its end, and the file system in it.

The table is changed in place, in both of its copies: only the partition's last block and the checksums.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from teeth_agent.blockio import Device, aligned_buffer
from teeth_agent.errors import AgentError, DeviceError, ToolError, image_errors
from teeth_agent.image import disktable
from teeth_agent.tools import blkid, ext4, losetup, sgdisk, udevadm
from teeth_image import gpt, gptgrow

# The largest config drive that there may be, which takes its place at the end of the disk.
ROOM = 64 << 20
_EXT = ("ext2", "ext3", "ext4")

Mode = Literal["none", "partition", "filesystem"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grown:
    """``what`` has grown, and why not more, "" if it is what was asked for."""

    what: Mode
    reason: str = ""


def grow(device: Device, mode: Mode) -> Grown:
    """``device``: a disk that nothing uses, its backup table at its end or not.

    Raises AgentError (grow_failed: the file system is not what it was; partition_table), DeviceError and
    ToolError; what cannot grow and is as it was is no error.
    """
    if mode == "none":
        return Grown(what="none")
    if not _has_table(device):
        return Grown(what="none", reason="the disk has no GUID partition table")
    table = disktable.read(device)
    if table.backup != device.size // device.logical_block - 1:
        sgdisk.move_backup_to_end(device.path)
        table = disktable.read(device)
    one = gptgrow.growing(table)
    if isinstance(one, str):
        return Grown(what="none", reason=one)
    last = gptgrow.last_block(table, room=ROOM)
    partition: Mode = "partition" if last > one.last else "none"
    if last > one.last:
        _lengthen(device, table, one, last)
        device.reread_partitions()
        udevadm.settle()
    if mode == "filesystem":
        reason = _grow_filesystem(device, disktable.read(device), one.number)
        return Grown(what="filesystem") if reason is None else Grown(what=partition, reason=reason)
    if partition == "none":
        reason = f"behind the last partition (number {one.number}) there is no room but for a config drive"
        return Grown(what="none", reason=reason)
    return Grown(what="partition")


def _has_table(device: Device) -> bool:
    head = aligned_buffer(2 * device.logical_block)
    device.read_into(0, head)
    return gpt.block_size_of(head) == device.logical_block


def _lengthen(device: Device, table: gpt.Table, one: gpt.Partition, last: int) -> None:
    # The backup first: until the end one of the two is whole, whenever the machine stops.
    for at in (table.backup, 1):
        raw = _read(device, at, 1)
        with image_errors():
            header = gpt.read_header(raw, at)
            entries = _read(device, header.start, header.blocks(table.block))
            raw, entries = gpt.lengthened(raw, entries, number=one.number, last=last)
        _write(device, header.start, entries)
        _write(device, at, raw)
        device.flush()
    wanted = {**{other.number: other for other in table.partitions}, one.number: replace(one, last=last)}
    if {other.number: other for other in disktable.read(device).partitions} != wanted:
        raise AgentError("the grown partition is not where it was put", code="partition_table")


def _grow_filesystem(device: Device, table: gpt.Table, number: int) -> str | None:
    """None if it has grown, else why not."""
    one = next(one for one in table.partitions if one.number == number)
    offset, length = table.offset(one), table.length(one)
    kind = blkid.probe(device.path, offset=offset, length=length).kind
    if kind not in _EXT:
        what = f"a {kind} file system, which grows only while it is mounted" if kind else "no file system"
        return f"partition {number} holds {what}"
    with losetup.attached(device.path, offset=offset, length=length, block=device.logical_block) as node:
        if not ext4.check(node):
            return f"the {kind} file system of partition {number} is damaged and was not grown"
        try:
            grown = ext4.grow(node)
        except ToolError as error:
            raise AgentError(f"partition {number}: {error}", code="grow_failed") from error
    device.flush()
    return None if grown else f"the {kind} file system of partition {number} fills it already"


def _read(device: Device, at: int, blocks: int) -> bytes:
    """``blocks`` logical blocks from block ``at`` on."""
    buffer = aligned_buffer(blocks * device.logical_block)
    device.read_into(at * device.logical_block, buffer)
    return bytes(buffer)


def _write(device: Device, at: int, content: bytes) -> None:
    """Write and read back. Raises DeviceError."""
    buffer = aligned_buffer(len(content))
    buffer[:] = content
    device.write_from(at * device.logical_block, buffer)
    device.flush()
    if _read(device, at, len(content) // device.logical_block) != content:
        raise DeviceError(
            f"{device.path}: the partition table does not read back as written", code="verify_failed"
        )
