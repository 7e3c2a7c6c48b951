"""A qcow2 file written out as the disk that it describes. The tables are read by teeth_image, strictly."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from pathlib import Path

from teeth.images.errors import BadImage
from teeth.images.spool import SparseFile
from teeth.images.unpack import zstd
from teeth_image.qcow2layout import Data, Layout, PackedData, plan

_PARTS = 32
Read = Callable[[int, int], bytes]


def to_raw(source: Path, target: Path, *, most: int) -> None:
    """Write the disk, of at most ``most`` bytes, to ``target``. Raises ImageError, BadImage, TeethError."""
    size = source.stat().st_size
    fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:

        def read(offset: int, length: int) -> bytes:
            found = os.pread(fd, length, offset)
            if len(found) != length:
                raise BadImage("the qcow2 file ends in the middle of its data")
            return found

        layout = _planned(size, read)
        if layout.size > most:
            raise BadImage(
                f"the image is a disk of {layout.size} bytes, more than {most}", hint="see --max-size"
            )
        with SparseFile(target) as disk:
            for step in layout.steps():
                if isinstance(step, Data):
                    _data(step, layout, read, disk)
                elif isinstance(step, PackedData):
                    _packed(step, layout, read, disk)
            disk.end(layout.size)
    finally:
        os.close(fd)


def _planned(size: int, read: Read) -> Layout:
    asking = plan(size)
    try:
        wanted = next(asking)
        while True:
            wanted = asking.send(read(*wanted))
    except StopIteration as end:
        found = end.value
        assert isinstance(found, Layout)
        return found


def _data(step: Data, layout: Layout, read: Read, disk: SparseFile) -> None:
    if step.parts is None:
        disk.write(step.guest, read(step.host, step.length))
        return
    part = layout.header.cluster // _PARTS
    for number in range(_PARTS):
        length = min(part, step.length - number * part)
        if step.parts >> number & 1 and length > 0:
            disk.write(step.guest + number * part, read(step.host + number * part, length))


def _packed(step: PackedData, layout: Layout, read: Read, disk: SparseFile) -> None:
    cluster = layout.header.cluster
    packed = read(step.host, step.ends[-1])
    begin = 0
    for number, end in enumerate(step.ends):
        length = min(cluster, step.length - number * cluster)
        content = _unpack(packed[begin:end], layout.header.compression, cluster)
        if len(content) < length:
            raise BadImage(f"the compressed cluster at byte {step.guest + number * cluster} is damaged")
        disk.write(step.guest + number * cluster, content[:length])
        begin = end


def _unpack(data: bytes, compression: str, cluster: int) -> bytes:
    """At most a cluster; behind the compressed data there may be anything up to the end of its sector."""
    try:
        if compression == "zlib":
            return zlib.decompressobj(wbits=-15).decompress(data, cluster)
        return zstd.ZstdDecompressor().decompress(data, cluster)
    except (zlib.error, zstd.ZstdError) as error:
        raise BadImage(f"a compressed cluster is damaged: {error}") from error
