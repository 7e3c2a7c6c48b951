"""The files of one system onto a disk that is laid out here: BIOS boot partition, ESP, root, boot loader.

The disk does not start before everything was read back: while the files are written it has no partition
table and no boot sector (the root is reached as a part of the disk); then come the loaders, then the table,
which is what lets UEFI find its loader, and last of all the boot sector.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from teeth_agent.blockio import Device, aligned_buffer
from teeth_agent.errors import AgentError, DeviceError, ToolError, image_errors
from teeth_agent.image import bootfiles, bootloader, disktable, tree, untar
from teeth_agent.image.decompress import Stream, decompressed
from teeth_agent.image.headcheck import begins_as_declared
from teeth_agent.image.params import ImageSpec
from teeth_agent.image.pieces import Window
from teeth_agent.image.source import Source
from teeth_agent.reporter import Reporter
from teeth_agent.tools import losetup, mke2fs, mount, sgdisk, udevadm
from teeth_image import extfs, rootlayout, sniff

# <linux/fs.h>
_BLKFLSBUF = 0x1261
_MIB = 1 << 20
# What ext4 keeps for itself beside the files: inodes (1/64), journal, root's reserve (1/20).
_EXT4_SHARE, _EXT4_FIXED = 1.12, 96 * _MIB
_MACHINE = "x86_64"
_UNPACKED, _VERIFIED, _DONE = 70.0, 95.0, 99.0


class Stats(Protocol):
    """What writing a file system image came to, in bytes."""

    @property
    def raw_bytes(self) -> int: ...
    @property
    def written_bytes(self) -> int: ...
    @property
    def skipped_bytes(self) -> int: ...
    @property
    def zero_bytes(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """Sizes in bytes; of a tar, ``written_bytes`` are those of its files."""

    raw_bytes: int
    written_bytes: int
    skipped_bytes: int
    zero_bytes: int
    verify_method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    image: ImageSpec
    device: Device
    layout: rootlayout.Layout
    reporter: Reporter
    machine: str
    command_line: str
    # Identities are chosen before anything is written: the configuration names them.
    root_partition: uuid.UUID
    esp_volume: int
    work: Path

    @property
    def window(self) -> tuple[int, int]:
        return self.layout.offset(self.layout.root), self.layout.length(self.layout.root)


def check(image: ImageSpec, device: Device, *, machine: str) -> rootlayout.Layout:
    """What can be known before the first byte is written.

    Raises AgentError(root_unsupported | disk_too_small).
    """
    if machine != _MACHINE:
        raise AgentError(f"root images cannot be installed on {machine} yet", code="root_unsupported")
    need = image.known_raw_size or _MIB
    if image.format == "tar":
        need = int(need * _EXT4_SHARE) + _EXT4_FIXED
    with image_errors():
        return rootlayout.plan(size=device.size, block=device.logical_block, need=need)


def install(
    image: ImageSpec,
    device: Device,
    source: Source,
    reporter: Reporter,
    *,
    write_filesystem: Callable[[Device], Stats],
    machine: str,
    command_line: str,
    loader: Path | None = None,
    work: Path | None = None,
) -> Installed:
    """Everything from the empty disk to one that starts by itself.

    ``write_filesystem`` writes an image of a file system to the device it is given, verifies it, and is not
    called for a tar. ``command_line``: this ramdisk's, for its consoles. Raises AgentError: the codes of
    ``check``, of fetching and unpacking, no_kernel, no_init, wrong_architecture, root_filesystem,
    boot_loader, no_space; DeviceError; ToolError. The disk does not start then.
    """
    layout = check(image, device, machine=machine)
    programs = bootloader.programs(loader or bootloader.FOLDER)
    job = _Job(
        image=image,
        device=device,
        layout=layout,
        reporter=reporter,
        machine=machine,
        command_line=command_line,
        root_partition=uuid.uuid4(),
        esp_volume=secrets.randbits(32),
        work=Path(tempfile.gettempdir()) if work is None else work,
    )
    _wipe_ends(device)
    is_tar = image.format == "tar"
    done = _install_tar(job, source) if is_tar else _install_filesystem(job, write_filesystem)
    reporter.check_cancelled()
    reporter.progress(_VERIFIED, step="boot_loader")
    bootloader.write_esp(device, layout, programs, volume=job.esp_volume)
    # No BIOS starts from blocks of another size than 512, and GRUB's boot sector knows no other.
    bios = layout.block == 512
    if bios:
        bootloader.write_core(device, layout, programs)
    _write_table(job)
    if bios:
        bootloader.write_boot_sector(device, layout, programs)
    device.flush()
    device.reread_partitions()
    udevadm.settle()
    reporter.progress(_DONE, step="boot_loader")
    return done


def _install_tar(job: _Job, source: Source) -> Installed:
    root = uuid.uuid4()
    _, length = job.window
    blocks = begins_as_declared(source, format="tar", compression=job.image.compression)
    with decompressed(job.image.compression, blocks) as plain:
        stream = _Counted(plain, job.image)
        try:
            with _attached(job) as node:
                mke2fs.make(node, unique=root)
                with _folder(job) as point, mount.mounted_for_writing(node, point, "ext4"):
                    expected = untar.unpack(stream, point, room=length, tick=_unpacking(job))
                    stream.check(source)
                    choice = bootfiles.check(point, machine=job.machine)
                    _expect_written(
                        expected,
                        bootfiles.write(point, choice, _site(job, root), command_line=job.command_line),
                    )
        except BaseException:
            source.stop()
            raise
    _past_the_cache(job.device.path)
    with _attached(job) as node, _folder(job) as point, mount.mounted(node, point, "ext4"):
        tree.compare(point, expected, tick=_verifying(job, expected.bytes))
    return Installed(
        raw_bytes=stream.done,
        written_bytes=expected.bytes,
        skipped_bytes=0,
        zero_bytes=0,
        verify_method=tree.VERIFY_METHOD,
    )


def _install_filesystem(job: _Job, write_filesystem: Callable[[Device], Stats]) -> Installed:
    offset, length = job.window
    done = write_filesystem(Window(job.device, offset, length))
    found = _filesystem(job)
    with _attached(job) as node, _folder(job) as point, _mounted(node, point):
        choice = bootfiles.check(point, machine=job.machine)
        written = bootfiles.write(point, choice, _site(job, found.unique), command_line=job.command_line)
    _past_the_cache(job.device.path)
    # What was written before is proven block by block; this is what came on top.
    with _attached(job) as node, _folder(job) as point, mount.mounted(node, point, "ext4"):
        for name, content in written.items():
            if (point / os.fsdecode(name)).read_bytes() != content:
                raise DeviceError(f"/{os.fsdecode(name)} does not read back as written", code="verify_failed")
    return Installed(
        raw_bytes=done.raw_bytes,
        written_bytes=done.written_bytes,
        skipped_bytes=done.skipped_bytes,
        zero_bytes=done.zero_bytes,
        verify_method="read back past the page cache; then the boot loader's files likewise",
    )


def _filesystem(job: _Job) -> extfs.ExtFs:
    """Raises AgentError(root_filesystem) for one that is not whole or that our boot loader cannot read."""
    offset, length = job.window
    head = aligned_buffer(8192)
    job.device.read_into(offset, head)
    found = extfs.parse(bytes(head[extfs.SUPERBLOCK_AT : extfs.SUPERBLOCK_AT + extfs.SUPERBLOCK_BYTES]))
    if found is None:
        raise AgentError("the root image is no ext2, ext3 or ext4 file system", code="root_filesystem")
    if found.unreadable:
        raise AgentError(
            f"the root file system has features that the boot loader cannot read ({found.unreadable:#x})",
            code="root_filesystem",
        )
    if found.size > length:
        raise AgentError(
            f"the root file system says that it has {found.size} bytes, its partition has {length}",
            code="root_filesystem",
        )
    return found


@contextmanager
def _mounted(node: str, point: Path) -> Iterator[Path]:
    try:
        with mount.mounted_for_writing(node, point, "ext4"):
            yield point
    except ToolError as error:
        raise AgentError(
            f"the root file system cannot be mounted: {error}", code="root_filesystem"
        ) from error


def _write_table(job: _Job) -> None:
    slots = job.layout.slots
    guids = {rootlayout.ROOT_NUMBER: job.root_partition}
    sgdisk.new_table(
        job.device.path,
        [
            (one.number, one.kind, guids.get(one.number, uuid.uuid4()), one.first, one.last, one.name)
            for one in slots
        ],
    )
    job.device.flush()
    found = {(one.number, one.kind, one.first, one.last) for one in disktable.read(job.device).partitions}
    if found != {(one.number, one.kind, one.first, one.last) for one in slots}:
        raise DeviceError(
            f"{job.device.path}: the partition table does not read back as written", code="verify_failed"
        )


def _wipe_ends(device: Device) -> None:
    """Nothing of what was there can start, or be recognised, from here on."""
    device.zero_range(0, _MIB)
    device.zero_range(device.size - _MIB, _MIB)
    device.flush()
    device.reread_partitions()


def _site(job: _Job, root: uuid.UUID) -> bootfiles.Site:
    volume = f"{job.esp_volume:08X}"
    return bootfiles.Site(
        root_uuid=str(root),
        root_partition=str(job.root_partition),
        root_kind="ext4",
        esp_uuid=f"{volume[:4]}-{volume[4:]}",
    )


def _expect_written(expected: tree.Expected, written: dict[bytes, bytes]) -> None:
    for path, content in written.items():
        said = tree.digest()
        said.update(content)
        expected.replace(path, tree.record(tree.FILE, mode=0o644, uid=0, gid=0, extra=said.digest()))


@contextmanager
def _attached(job: _Job) -> Iterator[str]:
    offset, length = job.window
    with losetup.attached(job.device.path, offset=offset, length=length, block=job.layout.block) as node:
        yield node


@contextmanager
def _folder(job: _Job) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="teeth-root-", dir=job.work) as name:
        yield Path(name)


def _past_the_cache(path: str) -> None:
    """What is read next comes from the device."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        if stat.S_ISBLK(os.fstat(descriptor).st_mode):
            fcntl.ioctl(descriptor, _BLKFLSBUF)
    except OSError as error:
        raise DeviceError(f"{path}: flush failed: {error.strerror}", code="write_failed") from error
    finally:
        os.close(descriptor)


class _Counted:
    """A Stream that knows how much came out and, where asked for, its digest."""

    def __init__(self, stream: Stream, image: ImageSpec) -> None:
        self._stream = stream
        self._image = image
        self._raw = hashlib.new(image.raw_digest.partition(":")[0]) if image.raw_digest else None
        self.done = 0

    def fill(self, buffer: memoryview) -> int:
        count = self._stream.fill(buffer)
        if self.done == 0:
            with image_errors():
                sniff.check_raw(bytes(buffer[: min(count, sniff.HEAD)]), format="tar")
        self.done += count
        if self._raw is not None:
            self._raw.update(buffer[:count])
        return count

    def check(self, source: Source) -> None:
        """At the end. Raises AgentError(image_truncated | image_size | digest_mismatch)."""
        wanted = self._image.raw_size
        if not source.proven:
            raise AgentError(
                "the image was not read to its end: its digest is not known", code="image_truncated"
            )
        if wanted is not None and self.done != wanted:
            code = "image_truncated" if self.done < wanted else "image_size"
            raise AgentError(f"the image decompresses to {self.done} bytes, expected {wanted}", code=code)
        if self._raw is not None and self._image.raw_digest is not None:
            expected = self._image.raw_digest.partition(":")[2]
            if self._raw.hexdigest() != expected:
                raise AgentError(
                    f"the decompressed image has digest {self._raw.hexdigest()}, expected {expected}",
                    code="digest_mismatch",
                )


def _unpacking(job: _Job) -> Callable[[int], None]:
    total = job.image.known_raw_size

    def tick(done: int) -> None:
        job.reporter.check_cancelled()
        share = min(1.0, done / total) if total else 0.0
        job.reporter.progress(_UNPACKED * share, step="unpack", bytes_done=done, bytes_total=total)

    return tick


def _verifying(job: _Job, total: int) -> Callable[[int], None]:
    def tick(done: int) -> None:
        job.reporter.check_cancelled()
        share = min(1.0, done / total) if total else 1.0
        percent = _UNPACKED + (_VERIFIED - _UNPACKED) * share
        job.reporter.progress(percent, step="verify", bytes_done=done, bytes_total=total)

    return tick
