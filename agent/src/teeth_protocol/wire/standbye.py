"""standbye: cache images, prepare one, run it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from teeth_protocol.shape import NOT_NULL, SECRET, Items, Range, Text
from teeth_protocol.wire.machine import Said
from teeth_protocol.wire.words import BootId, Bytes, Id, Name

# Neither a space nor a line end may get into a request line.
Url = Annotated[str, Text(most=4096, pattern="[Hh][Tt][Tt][Pp][Ss]?://[!-~]+", words="an http or https URL")]
# Mirrors of one image: more than a handful is a mistake, and each costs its own retries.
Urls = Annotated[tuple[Url, ...], Items(least=1, most=16)]
Digest = Annotated[
    str,
    Text(pattern="[Ss][Hh][Aa](256:[0-9A-Fa-f]{64}|512:[0-9A-Fa-f]{128})", words="sha256:HEX or sha512:HEX"),
]
Base64 = Annotated[str, Text(least=0, base64=True, words="base64 text")]
Compression = Literal["none", "zstd", "gzip", "xz"]
TextOp = Literal["==", "!=", "contains"]
Equal = Literal["==", "!="]
# Of a whole task. A terabyte over a slow line is hours; more than a week is a mistake.
Deadline = Annotated[float, Range(least=1, most=7 * 86400)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunks:
    """A manifest of chunks of ``size`` bytes: their sha256 in order, in hex, and a signature over them."""

    size: Annotated[int, Range(least=4096, most=1 << 30)]
    digests: Annotated[
        tuple[Annotated[str, Text(pattern="[0-9a-f]{64}", words="64 hex digits")], ...], Items(most=8192)
    ]
    signature: Annotated[str, Text(most=4096)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A file with the digests of an image's chunks: too long for a command, so named by its own digest.

    Its form is in docs/images.md. ``urls`` are tried in order; ``size`` in bytes.
    """

    urls: Urls
    size: Annotated[int, Range(least=2, most=64 << 20)]
    digest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """Where an image is, and what it must be.

    ``size`` in bytes and ``digest`` are of what is fetched, ``raw_size`` and ``raw_digest`` of what comes out
    of the decompression (for ``qcow2``: the disk that it describes). ``kind`` disk: the whole disk with its
    own boot loader; root: the files of one system, as a file system (``raw``) or as a ``tar``. ``peers``
    have it too and are asked first: only with ``manifest`` or ``chunks``. ``proxy``: an HTTP proxy for
    ``urls``, never for ``peers``.
    """

    id: Name
    urls: Urls
    size: Annotated[int, Range(least=1, most=2**53)]
    digest: Digest
    format: Literal["raw", "qcow2", "tar"]
    kind: Literal["disk", "root"] = "disk"
    name: Annotated[str, Text(least=0, most=256)] = ""
    compression: Compression = "none"
    raw_size: Annotated[int, Range(least=1, most=2**53)] | None = None
    raw_digest: Digest | None = None
    chunks: Chunks | None = None
    manifest: Manifest | None = None
    peers: Annotated[tuple[Url, ...], Items(most=16)] = ()
    proxy: Url | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextHint:
    """A condition on a text."""

    op: TextOp
    value: Annotated[str, Text(least=0, most=4096)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeHint:
    """A condition on a size in bytes."""

    op: Literal["==", "!=", ">=", "<=", ">", "<"]
    value: Bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class FlagHint:
    """A condition on a fact that holds or does not."""

    op: Equal
    value: bool


_Text = Annotated[Said | TextHint | None, NOT_NULL]


@dataclass(frozen=True, slots=True, kw_only=True)
class RootDisk:
    """Conditions of which all must hold for exactly one disk; a plain value means ``==``.

    Closed: a hint that nobody knows was meant to keep the image off some disk.
    """

    CLOSED: ClassVar[str] = "not a hint; there are serial, wwn, name, model, by_path, hctl, size, rotational"

    serial: _Text = None
    wwn: _Text = None
    name: _Text = None
    model: _Text = None
    by_path: _Text = None
    hctl: _Text = None
    size: Annotated[Bytes | SizeHint | None, NOT_NULL] = None
    rotational: Annotated[bool | FlagHint | None, NOT_NULL] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheImages:
    """Cache as many of these as fit, in this order; an image that is not named may be thrown out.

    ``share``: serve what is cached to other machines, as long as this ramdisk runs. ``deadline`` in seconds.
    """

    task_id: Id
    images: Annotated[tuple[Image, ...], Items(most=256)]
    share: bool = False
    deadline: Deadline | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedImage:
    """What became of one image. ``reason``: why it is not cached."""

    id: Name
    cached: bool
    bytes: Bytes = 0
    reason: Said = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cached:
    """``place``: disk or memory; ``budget`` in bytes. ``shared_at``: where other machines may fetch from."""

    images: tuple[CachedImage, ...]
    place: Literal["disk", "memory"]
    budget: Bytes
    shared_at: Url | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareImage:
    """Write one image to the root disk and verify it.

    ``root_disk`` must fit exactly one disk; a disk that fits all hints of one of ``skip`` is never it.
    ``grow``: the last partition to the end of the disk, and the file system in it too. ``deadline`` in
    seconds.
    """

    task_id: Id
    image: Image
    root_disk: RootDisk
    skip: Annotated[tuple[RootDisk, ...], Items(most=64)] = ()
    grow: Literal["none", "partition", "filesystem"] = "none"
    deadline: Deadline | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedDisk:
    """The disk that holds the image."""

    name: Name
    serial: Said | None
    wwn: Said | None
    size: Bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """The image is on the disk, and every byte that was written was read back.

    ``skipped_bytes`` are zeros where this boot's erase has read back zeros: ``verify_method`` says how they
    were looked at again.
    ``fetched_bytes`` over the network, of them ``peer_bytes`` from other machines. ``grow_reason``: why less
    was grown than was asked for.
    """

    image_id: Name
    digest: Digest
    disk: PreparedDisk
    raw_bytes: Bytes
    written_bytes: Bytes
    skipped_bytes: Bytes
    zero_bytes: Bytes
    fetch_restarts: Annotated[int, Range(least=0)]
    verified: bool
    verify_method: Said
    seconds: Annotated[float, Range(least=0)]
    source: Literal["network", "cache"] = "network"
    fetched_bytes: Bytes = 0
    peer_bytes: Bytes = 0
    grown: Literal["none", "partition", "filesystem"] = "none"
    grow_reason: Said = ""
    peak_memory_bytes: Bytes = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveFile:
    """A file that the system's first boot puts at ``path``."""

    path: Annotated[str, Text(most=4096, pattern="/[^\\u0000]*", words="an absolute path")]
    content_b64: Annotated[Base64, SECRET] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigDrive:
    """What the system's first boot is told: OpenStack's config-2 layout or NoCloud's."""

    layout: Literal["openstack", "nocloud"] = "openstack"
    filesystem: Literal["vfat", "iso9660"] = "vfat"

    # Its readers take uuid for the instance's identity, and refuse a drive without one.
    meta_data: Annotated[Mapping[str, Any], Items(texts=("uuid",)), SECRET] = field(repr=False)
    user_data: Annotated[str, SECRET] | None = field(default=None, repr=False)
    vendor_data: Annotated[Mapping[str, Any] | str | tuple[Any, ...] | None, SECRET] = field(
        default=None, repr=False
    )
    network_data: Annotated[Mapping[str, Any] | str | tuple[Any, ...] | None, SECRET] = field(
        default=None, repr=False
    )
    files: Annotated[tuple[DriveFile, ...], Items(most=256)] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunImage:
    """Write the config drive, leave for the system. ``boot`` auto: kexec if it can be done, else reboot."""

    task_id: Id
    image_id: Name
    config_drive: Annotated[ConfigDrive, SECRET] = field(repr=False)
    boot: Literal["auto", "kexec", "reboot"] = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """What kexec would start."""

    title: Said
    source: Said
    path: Said
    initrds: tuple[Said, ...]
    command_line: Said


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskBoot:
    """Whether the disk can start by itself in this firmware's mode."""

    firmware: Name
    bootable: bool
    reason: Said


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveSite:
    """Where the config drive lies on the disk, in bytes."""

    offset: Bytes
    length: Bytes
    content_bytes: Bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """Said at the phases ``prepared`` and ``leaving``. ``boot_id`` of the ramdisk; ``reason``: why so."""

    image_id: Name
    boot: Literal["kexec", "reboot"]
    reason: Said
    boot_id: BootId
    kernel: Kernel | None
    disk_boot: DiskBoot
    config_drive: DriveSite
