"""One image onto one disk: fetch, decompress, write, read back, complete.

Memory: 128 MiB of decompressor window at the most (8 MiB for usual images), 2 MiB of pipes, 8 MiB of buffers
and held chunks, and 16 bytes per MiB of image for its digests.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass

from teeth_agent.blockio import Device
from teeth_agent.errors import AgentError
from teeth_agent.image import write
from teeth_agent.image.decompress import decompressed
from teeth_agent.image.fetch import Fetch
from teeth_agent.image.params import ImageSpec
from teeth_agent.reporter import Reporter
from teeth_agent.tools import sgdisk, udevadm

# Where each step ends, in percent of the task. Reading back was measured at two to three times the speed of
# fetching and writing.
_FETCHED = 70.0
_VERIFIED = 99.0
# Before this much time has passed a rate says nothing.
_RATE_AFTER = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What was put on the disk, sizes in bytes."""

    raw_bytes: int
    written_bytes: int
    skipped_bytes: int
    zero_bytes: int
    restarts: int


def check_fits(image: ImageSpec, device: Device) -> None:
    """Raises AgentError(disk_too_small) where it can be known before a byte is written."""
    size = image.known_raw_size
    if size is not None and size > device.size:
        raise AgentError(
            f"the image has {size} bytes, {device.path} only {device.size}", code="disk_too_small"
        )


def write_image(
    image: ImageSpec, device: Device, *, reads_zero: bool, reporter: Reporter, fetch: Fetch | None = None
) -> Prepared:
    """Write and verify. Until this returns the disk has neither boot sector nor partition table.

    Raises AgentError with the codes of fetch, decompress and write, DeviceError, and Cancelled.
    """
    check_fits(image, device)
    fetch = fetch or Fetch(image)
    raw = hashlib.new(image.raw_digest.partition(":")[0]) if image.raw_digest else None
    progress = _Progress(image, reporter)
    with decompressed(image.compression, fetch) as stream:
        try:
            written = write.write_body(
                device, stream, reads_zero=reads_zero, tick=progress.fetching(fetch), raw=raw
            )
        except BaseException:
            fetch.stop()
            raise
    if not fetch.proven:  # whatever a decompressor took for the end, it was not the image's
        raise AgentError("the image was not read to its end: its digest is not known", code="image_truncated")
    _check_raw(image, written, raw)
    write.verify(device, written, tick=progress.verifying())
    write.write_ends(device, written)
    return Prepared(
        raw_bytes=written.raw_bytes,
        written_bytes=written.written_bytes,
        skipped_bytes=written.skipped_bytes,
        zero_bytes=written.zero_bytes,
        restarts=fetch.restarts,
    )


def settle_partitions(device: Device, *, has_table: bool) -> None:
    """Move the backup GPT to the disk's end and let kernel and udev take the partitions in."""
    if has_table:
        sgdisk.move_backup_to_end(device.path)
    device.flush()
    device.reread_partitions()
    udevadm.settle()


def _check_raw(image: ImageSpec, written: write.Written, raw: hashlib._Hash | None) -> None:
    if image.raw_size is not None and written.raw_bytes != image.raw_size:
        code = "image_truncated" if written.raw_bytes < image.raw_size else "image_size"
        raise AgentError(
            f"the image decompresses to {written.raw_bytes} bytes, expected {image.raw_size}", code=code
        )
    if raw is not None and image.raw_digest is not None:
        expected = image.raw_digest.partition(":")[2]
        if raw.hexdigest() != expected:
            raise AgentError(
                f"the decompressed image has digest {raw.hexdigest()}, expected {expected}",
                code="digest_mismatch",
            )


class _Progress:
    """Turns chunks into percent, rate and the seconds left."""

    def __init__(self, image: ImageSpec, reporter: Reporter) -> None:
        self._image = image
        self._reporter = reporter

    def fetching(self, fetch: Fetch) -> write.Tick:
        began = time.monotonic()

        def tick(written: write.Written, done: int) -> None:
            total = self._image.known_raw_size
            # Without a raw size, what was fetched is the only honest measure of how far it is.
            share = done / total if total else fetch.received / self._image.size
            spent = time.monotonic() - began
            # The rest of this step, and reading back in proportion to what the whole step will have taken.
            whole = spent / share if share > 0 else 0.0
            left = whole * (1 - share) + whole * (100 - _FETCHED) / _FETCHED
            self._report(
                "fetch_write", _FETCHED * share, left, spent, written, done, total or written.raw_bytes
            )

        return tick

    def verifying(self) -> write.Tick:
        began = time.monotonic()

        def tick(written: write.Written, done: int) -> None:
            share = done / written.raw_bytes if written.raw_bytes else 1.0
            spent = time.monotonic() - began
            left = spent / share * (1 - share) if share else 0.0
            percent = _FETCHED + (_VERIFIED - _FETCHED) * share
            self._report("verify", percent, left, spent, written, done, written.raw_bytes)

        return tick

    def _report(
        self,
        step: str,
        percent: float,
        left: float,
        spent: float,
        written: write.Written,
        done: int,
        total: int,
    ) -> None:
        self._reporter.check_cancelled()
        known = spent >= _RATE_AFTER
        self._reporter.progress(
            min(percent, _VERIFIED),
            eta=round(left, 1) if known else None,
            step=step,
            bytes_done=done,
            bytes_total=total,
            bytes_per_second=int(done / spent) if known else None,
            written_bytes=written.written_bytes,
            skipped_bytes=written.skipped_bytes,
        )
