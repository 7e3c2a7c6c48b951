"""What a machine is: the answer to ``inventory``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from teeth_protocol.shape import Items, Range, Text
from teeth_protocol.wire.session import Memory
from teeth_protocol.wire.words import Bytes, Name

# Drives and firmware say of themselves what they like.
Said = Annotated[str, Text(least=0, most=4096)]
Reasons = Annotated[tuple[Said, ...], Items(most=4096)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """DMI strings, and the mode in which the machine was started."""

    sys_vendor: Said | None
    product_name: Said | None
    product_serial: Said | None
    board_name: Said | None
    bios_vendor: Said | None
    bios_version: Said | None
    boot_mode: Annotated[str, Text(pattern="bios|uefi", words="bios or uefi")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """``count`` of logical processors; ``flags`` of the first."""

    model: Said | None
    count: Annotated[int, Range(least=0)]
    flags: Annotated[tuple[Name, ...], Items(most=1024)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """One hardware interface. ``speed`` in Mbit/s, None when its driver does not know."""

    name: Name
    mac: Annotated[str, Text(least=0, most=64)] | None
    carrier: bool
    mtu: Annotated[int, Range(least=0)]
    driver: Name | None
    speed: Annotated[int, Range(least=0)] | None
    booted_from: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A partition as the kernel has it now."""

    name: Name
    size: Bytes
    holders: Reasons
    mounts: Reasons
    swap: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """One whole block device; sizes in bytes.

    ``transport``: nvme, nvme-tcp, nvme-rdma, nvme-fc, scsi, sas, sata, usb, virtio, mmc, sd, pmem, iscsi, fc,
    xen or unknown. ``out_of_scope`` and ``virtual_media``: why it is not a drive of the machine.
    """

    name: Name
    devnode: Said
    sysfs_path: Said
    serial: Said | None
    wwn: Said | None
    vendor: Said | None
    model: Said | None
    firmware: Said | None
    transport: Name
    size: Bytes
    logical_block: Bytes
    physical_block: Bytes
    rotational: bool
    removable: bool
    read_only: bool
    by_path: Said | None
    hctl: Name | None
    controller: Said | None
    namespace: Annotated[int, Range(least=0)] | None
    diskseq: Annotated[int, Range(least=0)] | None
    holders: Reasons
    mounts: Reasons
    swap: bool
    partitions: Annotated[tuple[Partition, ...], Items(most=4096)]
    out_of_scope: Said | None
    virtual_media: Said | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """The machine's facts."""

    firmware: Firmware
    processor: Processor
    memory: Memory
    interfaces: Annotated[tuple[Interface, ...], Items(most=1024)]
    disks: Annotated[tuple[Disk, ...], Items(most=4096)]
