"""Writing an image so that the disk is not bootable before every byte was read back and found right.

The first chunk (boot sector and GPT) and what falls on the disk's last MiB (the backup GPT, from which
firmware may restore the first) are held back: ``write_body`` leaves both ends of the disk zero, ``verify``
reads everything else back, and ``write_ends`` completes the disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from teeth_agent.blockio import Device, aligned_buffer
from teeth_agent.errors import AgentError, DeviceError
from teeth_agent.image.decompress import Stream
from teeth_image import gpt

# A partition starts at a multiple of this everywhere today, the GPT lies below the first, and a zero run is
# worth skipping from about this length on.
CHUNK = 1 << 20
# blake2b: where SHA instructions are missing (emulation, older processors) twice as fast as sha256 (197 to
# 96 MiB/s under emulation), and with them still faster than disks. 16 bytes tell any damage, and cost 16 MiB
# for an image of 1 TiB.
_DIGEST = 16
_ZERO_DIGEST = bytes(_DIGEST)
VERIFY_METHOD = "read back past the page cache, blake2b per MiB"
# Two readers keep one core hashing while the other waits for the device.
_READERS = 2

Tick = Callable[["Written", int], None]


@dataclass(slots=True, kw_only=True)
class Written:
    """What has become of the image. Sizes in bytes; ``digests`` has one digest per chunk, zeros for zeros."""

    raw_bytes: int = 0
    written_bytes: int = 0
    skipped_bytes: int = 0
    zero_bytes: int = 0
    digests: bytearray = field(default_factory=bytearray, repr=False)
    held: dict[int, bytes] = field(default_factory=dict, repr=False)


def write_body(
    device: Device, stream: Stream, *, reads_zero: bool, tick: Tick, raw: hashlib._Hash | None = None
) -> Written:
    """Write everything but the ends. ``reads_zero``: the disk is known to, so zero chunks are skipped.

    ``tick(written, bytes_done)`` after each chunk may raise to stop; ``raw`` is fed all raw bytes.
    Raises DeviceError and what the stream raises; AgentError(disk_too_small, sector_size) if so.
    """
    written, buffer, zeros = Written(), aligned_buffer(CHUNK), bytearray(CHUNK)
    # Also when the disk is said to be zero: a boot sector that survives a failure is worth 2 MiB of writing.
    wipe_ends(device)
    while True:
        count = stream.fill(buffer)
        if count == 0:
            break
        if raw is not None:
            raw.update(buffer[:count])
        _write_chunk(device, written, buffer, count, zeros, reads_zero)
        tick(written, written.raw_bytes)
        if count < CHUNK:
            break
    device.flush()
    return written


def wipe_ends(device: Device) -> None:
    """Nothing of what was there can boot, or be recognised, from here on."""
    last = _last_start(device)
    device.zero_range(0, min(CHUNK, device.size))
    if last > 0:
        device.zero_range(last, device.size - last)
    device.flush()


def verify(device: Device, written: Written, *, tick: Tick) -> None:
    """Read all of the body back, skipped chunks too. Raises DeviceError(verify_failed) with the offset."""
    zeros = bytearray(CHUNK)
    chunks = len(written.digests) // _DIGEST
    with ThreadPoolExecutor(_READERS, thread_name_prefix="image-verify") as pool:
        buffers = [aligned_buffer(CHUNK) for _ in range(_READERS)]
        # In rounds of one chunk per reader: nothing is queued that a cancellation would have to wait for.
        for first in range(0, chunks, _READERS):
            indexes = range(first, min(first + _READERS, chunks))
            jobs = [
                pool.submit(_check, device, written, index, buffer, zeros)
                for index, buffer in zip(indexes, buffers, strict=False)
            ]
            for job in jobs:
                job.result()
            tick(written, min(written.raw_bytes, (indexes[-1] + 1) * CHUNK))


def write_ends(device: Device, written: Written) -> None:
    """Write what was held back, the front last of all, and read it back. Raises DeviceError."""
    for offset in sorted(written.held, reverse=True):
        content = written.held[offset]
        buffer = aligned_buffer(len(content))
        buffer[:] = content
        device.write_from(offset, buffer)
        device.flush()
        device.read_into(offset, buffer)
        if bytearray(content) != buffer:
            raise _mismatch(device, offset)


def _write_chunk(
    device: Device, written: Written, buffer: memoryview, count: int, zeros: bytearray, reads_zero: bool
) -> None:
    offset = written.raw_bytes
    length = -(-count // device.logical_block) * device.logical_block
    buffer[count:length] = bytes(length - count)
    if offset + count > device.size:
        raise AgentError(
            f"the image is larger than {device.path} ({device.size} bytes)", code="disk_too_small"
        )
    if offset == 0:
        _check_block_size(device, buffer)
    written.raw_bytes += count
    if offset == 0 or offset >= _last_start(device):
        written.held[offset] = bytes(buffer[:length])
        written.written_bytes += length
        written.digests += _ZERO_DIGEST
    elif _is_zero(buffer[:length], zeros):
        _write_zeros(device, written, offset, length, reads_zero)
    else:
        device.write_from(offset, buffer[:length])
        written.written_bytes += length
        written.digests += _digest(buffer[:length])


def _write_zeros(device: Device, written: Written, offset: int, length: int, reads_zero: bool) -> None:
    written.zero_bytes += length
    if reads_zero:
        written.skipped_bytes += length
    else:
        device.zero_range(offset, length)
        written.written_bytes += length
    written.digests += _ZERO_DIGEST


def _check(device: Device, written: Written, index: int, buffer: memoryview, zeros: bytearray) -> None:
    offset = index * CHUNK
    expected = written.digests[index * _DIGEST : (index + 1) * _DIGEST]
    length = min(CHUNK, -(-(written.raw_bytes - offset) // device.logical_block) * device.logical_block)
    view = buffer[:length]
    device.read_into(offset, view)
    found = _ZERO_DIGEST if _is_zero(view, zeros) else _digest(view)
    if found != expected:
        raise _mismatch(device, offset)


def _check_block_size(device: Device, head: memoryview) -> None:
    made_for = gpt.block_size_of(head)
    if made_for is not None and made_for != device.logical_block:
        raise AgentError(
            f"the image's partition table is for blocks of {made_for} bytes, "
            f"{device.path} has blocks of {device.logical_block}",
            code="sector_size",
        )


def _last_start(device: Device) -> int:
    """Where the first chunk begins that holds a byte of the disk's last MiB."""
    return max(0, device.size - CHUNK) // CHUNK * CHUNK


def _is_zero(view: memoryview, zeros: bytearray) -> bool:
    # bytearray == memoryview is one memcmp; the other way round compares item by item.
    return (zeros if len(view) == CHUNK else bytearray(len(view))) == view


def _digest(data: memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST).digest()


def _mismatch(device: Device, offset: int) -> DeviceError:
    return DeviceError(
        f"{device.path}: what reads back in the MiB at byte {offset} is not what was written",
        code="verify_failed",
    )
