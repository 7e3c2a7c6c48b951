"""One image onto one disk: fetch, decompress, write, read back, complete.

Memory, whatever the image's size: 24 MiB of buffers that are lent to what reads the image, 16 MiB for the
threads that unpack, 8 MiB for those that read back, 4 MiB read ahead, 2 MiB held back: 54 MiB. A zstd or xz
stream that is not cut into frames needs none of the 16 MiB, but its window: 8 MiB for usual images, at most
64 MiB.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from teeth_agent.blockio import Device
from teeth_agent.errors import AgentError
from teeth_agent.image import headcheck
from teeth_agent.image.ahead import Ahead
from teeth_agent.image.decompress import judged_by_source, stream_pieces
from teeth_agent.image.headcheck import CheckHead, begins_as_declared
from teeth_agent.image.params import ImageSpec
from teeth_agent.image.pieces import BufferPool
from teeth_agent.image.progress import Progress
from teeth_agent.image.qcow2stream import Qcow2
from teeth_agent.image.rawproof import RawChunks, check_by_rereading
from teeth_agent.image.source import Source
from teeth_agent.image.write import DiskWriter, Expected, Written
from teeth_agent.reporter import Reporter
from teeth_agent.tools import sgdisk, udevadm

_BY_MANIFEST = "read back past the page cache, sha256 of each chunk by the manifest"
_BY_CRC = "read back past the page cache, crc32 of every piece of at most 4 MiB"
_ZEROS = "; zeros that were skipped: read back by the erase, and in samples here"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What was put on the disk and where it came from, sizes in bytes."""

    raw_bytes: int
    written_bytes: int
    skipped_bytes: int
    zero_bytes: int
    restarts: int
    source: Literal["network", "cache"]
    fetched_bytes: int
    peer_bytes: int
    verify_method: str


def check_fits(image: ImageSpec, device: Device) -> None:
    """Raises AgentError(disk_too_small) where it can be known before a byte is written."""
    size = image.known_raw_size
    if size is not None and size > device.size:
        raise AgentError(
            f"the image has {size} bytes, {device.path} only {device.size}", code="disk_too_small"
        )


def write_image(
    image: ImageSpec,
    device: Device,
    source: Source,
    *,
    reads_zero: bool,
    seeks: bool,
    reporter: Reporter,
    check_head: CheckHead = headcheck.anything,
    touch: Callable[[], None] = lambda: None,
) -> Prepared:
    """Write and verify. Until this returns the disk has neither boot sector nor partition table.

    ``device`` may be a Window of one; ``seeks``: it is a spinning one. ``check_head`` may refuse the first
    MiB, and is asked again once all is read. ``touch`` is called before the first byte is written: when the
    image's beginning has come. Raises AgentError with the codes of fetch, decompress, qcow2
    and write, DeviceError, and Cancelled.
    """
    check_fits(image, device)
    qcow2 = _qcow2(image, source, device)
    expected = _expected(image, source, qcow2, check_head)
    progress = Progress(source, expected.raw_size, reporter)
    writer = DiskWriter(device, reads_zero=reads_zero, seeks=seeks, expected=expected, tick=progress.tick)
    pool = BufferPool()
    blocks = begins_as_declared(source, format=image.format, compression=image.compression)
    with Ahead(blocks, source.stop) as ahead:
        ahead.wait_for_first()
        touch()
        try:
            pieces = qcow2.pieces(pool, ahead) if qcow2 else stream_pieces(image.compression, ahead, pool)
            written = writer.write(pieces, pool, ahead.interrupt)
        except AgentError as error:
            judged_by_source(error, ahead)
            raise
    if not source.proven:  # whatever a decompressor took for the end, it was not the image's
        raise AgentError("the image was not read to its end: its digest is not known", code="image_truncated")
    check_head(writer.ends.head, written.raw_bytes)
    by_manifest = written.by_manifest == written.raw_bytes
    if image.raw_digest is not None and expected.raw_digest is None and not by_manifest:
        check_by_rereading(device, writer.ends, written.raw_bytes, image.raw_digest, progress.reread)
    writer.finish()
    progress.done(written)
    method = (_BY_MANIFEST if by_manifest else _BY_CRC) + (_ZEROS if written.skipped_bytes else "")
    return _prepared(written, source, method)


def settle_partitions(device: Device, *, has_table: bool) -> None:
    """Move the backup GPT to the disk's end and let kernel and udev take the partitions in."""
    if has_table:
        sgdisk.move_backup_to_end(device.path)
    device.flush()
    device.reread_partitions()
    udevadm.settle()


def _qcow2(image: ImageSpec, source: Source, device: Device) -> Qcow2 | None:
    """The first pass over a qcow2 file, before the disk is touched; None for other formats."""
    if image.format != "qcow2":
        return None
    found = Qcow2(source)
    if image.raw_size is not None and image.raw_size != found.size:
        raise AgentError(
            f"the qcow2 file describes a disk of {found.size} bytes, expected {image.raw_size}",
            code="image_size",
        )
    if found.size > device.size:
        raise AgentError(
            f"the image has {found.size} bytes, {device.path} only {device.size}", code="disk_too_small"
        )
    return found


def _expected(image: ImageSpec, source: Source, qcow2: Qcow2 | None, check_head: CheckHead) -> Expected:
    """A raw digest that is asked for is proven by a manifest's chunks as they are read back, or is one more.

    Nothing is proven twice unasked: what is fetched has its digest, and zstd unpacks it as it was packed.
    """
    manifest, chunks = source.manifest, None
    raw_size = image.known_raw_size if qcow2 is None else qcow2.size
    if manifest is not None and manifest.raw_size is not None:
        raw_size = manifest.raw_size if raw_size is None else raw_size
        if image.raw_digest is not None and manifest.raw_chunks and manifest.raw_chunk_size:
            chunks = RawChunks(
                size=manifest.raw_chunk_size, raw_size=manifest.raw_size, digests=manifest.raw_chunks
            )
    # The pieces of a qcow2 file come in the order of the file: for them there is check_by_rereading.
    by_digest = chunks is None and qcow2 is None
    return Expected(
        raw_size=raw_size,
        raw_digest=image.raw_digest if by_digest else None,
        raw_chunks=chunks,
        check_head=lambda head: check_head(head, None),
    )


def _prepared(written: Written, source: Source, method: str) -> Prepared:
    return Prepared(
        raw_bytes=written.raw_bytes,
        written_bytes=written.written_bytes,
        skipped_bytes=written.skipped_bytes,
        zero_bytes=written.zero_bytes,
        restarts=source.restarts,
        source=source.kind,
        fetched_bytes=source.fetched_bytes,
        peer_bytes=source.peer_bytes,
        verify_method=method,
    )
