"""Which partition of a disk may grow, and how far."""

from __future__ import annotations

import uuid

from teeth_image import gpt

_MIB = 1 << 20
# Partition types whose content is a system's or its data, by what people call them. Discoverable Partitions
# Specification (UAPI.2) and UEFI; "basic data" is what Linux systems used before they had a type.
_DATA = {
    uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4"): "Linux data",
    uuid.UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709"): "root for x86-64",
    uuid.UUID("b921b045-1df0-41c3-af44-4c6f280d3fae"): "root for arm64",
    uuid.UUID("933ac7e1-2eb4-4f13-b844-0e14e2aef915"): "home",
    uuid.UUID("3b8f8425-20e0-4f3b-907f-1a25a76f98e8"): "server data",
    uuid.UUID("4d21b016-b534-45c2-a9fb-5c16e091fd2d"): "variable data",
    uuid.UUID("e6d6d379-f507-44c2-a23c-238f2a3df928"): "Linux LVM",
    uuid.UUID("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"): "basic data",
}
_OTHERS = {
    gpt.EFI_SYSTEM: "an EFI system partition",
    gpt.BIOS_BOOT: "a BIOS boot partition",
    uuid.UUID("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"): "swap",
    uuid.UUID("9e1a2d38-c612-4316-aa26-8b49521e5a8b"): "a PReP boot partition",
    uuid.UUID("bc13c2ff-59e6-4262-a352-b275fd6f7172"): "an extended boot loader partition",
}
# A config drive is not the system's, whatever its type says.
_CONFIG_DRIVE = "config-2"


def growing(table: gpt.Table) -> gpt.Partition | str:
    """The partition that lies last, if it holds data; else why it must not grow."""
    last = max(table.partitions, key=lambda one: one.last, default=None)
    if last is None:
        return "the disk has no partitions"
    if last.kind not in _DATA:
        what = _OTHERS.get(last.kind, f"of type {last.kind}")
        return f"the last partition (number {last.number}, {what}) holds no data that could grow"
    if last.name == _CONFIG_DRIVE:
        return f"the last partition (number {last.number}) is a config drive"
    return last


def last_block(table: gpt.Table, *, room: int) -> int:
    """Where a partition may end at most, if behind it ``room`` bytes are to be left, from a whole MiB on.

    The same arithmetic as ``gpt.plan_at_end``: a partition of ``room`` bytes has its place behind it.
    """
    align = _MIB // table.block
    return (table.last_usable + 1 - -(-room // table.block)) // align * align - 1
