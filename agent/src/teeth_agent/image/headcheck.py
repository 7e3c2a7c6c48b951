"""An image's beginning, looked at before it is let onto a disk: what it is, and the table that it brings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from teeth_agent.blockio import Device
from teeth_agent.errors import AgentError, image_errors
from teeth_image import gpt, parttable, sniff

# Called with the first MiB of the image as soon as it is there, and once more when all of it was read, then
# with the number of its bytes.
CheckHead = Callable[[memoryview, int | None], None]

# Until the end was seen, how much was announced is only what somebody said.
_UNKNOWN = 1 << 62


def begins_as_declared(
    blocks: Iterable[bytes | memoryview], *, format: str, compression: str
) -> Iterator[bytes | memoryview]:
    """The same blocks. Raises AgentError(image_format) before the first if it is something else.

    What is not compressed is looked at as a whole head later.
    """
    first = True
    for block in blocks:
        if first and len(block) and compression != "none":
            with image_errors():
                sniff.check_fetched(bytes(block[: sniff.HEAD]), format=format, compression=compression)
            first = False
        yield block


def of_disk(device: Device) -> CheckHead:
    """For a whole disk. Raises AgentError: image_format, sector_size, partition_table."""

    def check(head: memoryview, size: int | None) -> None:
        with image_errors():
            sniff.check_raw(bytes(head[: sniff.HEAD]), format="raw")
            made_for = gpt.block_size_of(head)
            if made_for is not None and made_for != device.logical_block:
                raise AgentError(
                    f"the image's partition table is for blocks of {made_for} bytes, "
                    f"{device.path} has blocks of {device.logical_block}",
                    code="sector_size",
                )
            parttable.check(
                bytes(head[: gpt.HEAD]),
                block=device.logical_block,
                image_size=_UNKNOWN if size is None else size,
                disk_size=_UNKNOWN if size is None else device.size,
            )

    return check


def of_filesystem(head: memoryview, _size: int | None) -> None:
    """For a file system without a partition table. Raises AgentError(image_format)."""
    with image_errors():
        sniff.check_raw(bytes(head[: sniff.HEAD]), format="raw")


def anything(_head: memoryview, _size: int | None) -> None:
    """Raises nothing."""
