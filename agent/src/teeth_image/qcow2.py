"""The header of a qcow2 file, read strictly (QEMU, docs/interop/qcow2.txt; versions 2 and 3).

What would make a reader open another file, or guess, is refused: backing files, external data files,
encryption, features that nobody here knows, files marked dirty or corrupt. Internal snapshots are passed
over: the disk is what it is now, as for ``qemu-img convert``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from teeth_image.errors import ImageError

MAGIC = b"QFI\xfb"
# All that is looked at of the first cluster: header and extensions have some hundred bytes.
HEAD = 64 << 10
# 4 MiB of L1 table reach 256 TiB with clusters of 64 KiB, 16 GiB with 512 bytes.
MAX_L1 = 1 << 19
MAX_REFCOUNT_TABLE = 4 << 20
# With 4 bytes for each: files of 128 GiB with clusters of 64 KiB, of 8 GiB with 4 KiB.
MAX_HOST_CLUSTERS = 1 << 21
MAX_GUEST_CLUSTERS = 1 << 31

_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
_V3 = struct.Struct(">QQQII")
_EXTENSION = struct.Struct(">II")
_CLUSTER_BITS = range(9, 22)  # QEMU's own bounds: 512 bytes to 2 MiB
_EXTENDED_CLUSTER_BITS = 14
_DIRTY, _CORRUPT, _EXTERNAL, _COMPRESSION, _EXTENDED = 1, 2, 4, 8, 16
_RAW_EXTERNAL = 2
_ENCRYPTION_EXTENSION = 0x0537BE77
_EXTERNAL_EXTENSION = 0x44415441
_COMPRESSIONS = {0: "zlib", 1: "zstd"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """``size`` of the disk that is described, in bytes; offsets are bytes into the file.

    ``compression`` of compressed clusters: "zlib" (raw deflate) or "zstd". ``extended``: L2 entries have 16
    bytes and tell 32 parts of a cluster apart.
    """

    version: int
    size: int
    cluster_bits: int
    l1_offset: int
    l1_entries: int
    refcount_table_offset: int
    refcount_table_clusters: int
    snapshots: int
    compression: str
    extended: bool

    @property
    def cluster(self) -> int:
        return 1 << self.cluster_bits

    @property
    def entries(self) -> int:
        """Guest clusters that one L2 table describes."""
        return self.cluster // (16 if self.extended else 8)

    @property
    def guest_clusters(self) -> int:
        return -(-self.size // self.cluster)

    @property
    def tables(self) -> int:
        """L1 entries that describe the disk; what lies behind them is a machine's saved state."""
        return -(-self.guest_clusters // self.entries)


def parse_header(head: bytes, file_size: int) -> Header:
    """``head``: the first HEAD bytes of the file, or all of it.

    Raises ImageError: image_format (no qcow2), qcow2_backing_file, qcow2_external_data, qcow2_encrypted,
    qcow2_unsupported, qcow2_too_large, qcow2_corrupt, image_truncated.
    """
    if head[:4] != MAGIC:
        raise ImageError("the file is no qcow2 file", code="image_format")
    if len(head) < _V2.size:
        raise truncated("its header")
    (_, version, backing, backing_length, bits, size, crypt, *tables) = _V2.unpack_from(head)
    l1_entries, l1, table, table_clusters, snapshots, _ = tables
    if backing or backing_length:
        raise ImageError(
            "the qcow2 file has a backing file, which is never opened: convert it to a whole image",
            code="qcow2_backing_file",
        )
    if crypt:
        raise ImageError("the qcow2 file is encrypted", code="qcow2_encrypted")
    if version not in (2, 3):
        raise unsupported(f"has version {version}")
    if bits not in _CLUSTER_BITS:
        raise unsupported(f"has clusters of 2^{bits} bytes")
    length, features, compression = _version_3(head) if version == 3 else (_V2.size, 0, "zlib")
    header = Header(
        version=version,
        size=size,
        cluster_bits=bits,
        l1_offset=l1,
        l1_entries=l1_entries,
        refcount_table_offset=table,
        refcount_table_clusters=table_clusters,
        snapshots=snapshots,
        compression=compression,
        extended=bool(features & _EXTENDED),
    )
    _check_sizes(header, file_size)
    for kind in _extensions(head[: min(HEAD, header.cluster)], length):
        if kind == _EXTERNAL_EXTENSION:
            raise _external()
        if kind == _ENCRYPTION_EXTENSION:
            raise ImageError("the qcow2 file has an encryption header", code="qcow2_encrypted")
    return header


def corrupt(what: str) -> ImageError:
    return ImageError(f"the qcow2 file is damaged: {what}", code="qcow2_corrupt")


def unsupported(what: str) -> ImageError:
    return ImageError(f"the qcow2 file {what}, which is not supported", code="qcow2_unsupported")


def truncated(what: str) -> ImageError:
    return ImageError(f"the qcow2 file ends before the end of {what}", code="image_truncated")


def too_large(what: str) -> ImageError:
    return ImageError(f"the qcow2 file has {what}", code="qcow2_too_large")


def _version_3(head: bytes) -> tuple[int, int, str]:
    """(header length, incompatible features, compression)."""
    if len(head) < _V2.size + _V3.size:
        raise truncated("its header")
    features, _, autoclear, refcount_order, length = _V3.unpack_from(head, _V2.size)
    if features & _EXTERNAL or autoclear & _RAW_EXTERNAL:
        raise _external()
    if features & _DIRTY:
        raise corrupt("it is marked dirty (it was not closed; qemu-img check repairs it)")
    if features & _CORRUPT:
        raise corrupt("it is marked corrupt")
    unknown = features & ~(_COMPRESSION | _EXTENDED)
    if unknown:
        raise unsupported(f"has unknown incompatible features ({unknown:#x})")
    if refcount_order > 6 or length % 8 or not _V2.size + _V3.size <= length <= HEAD:
        raise corrupt("its header has a wrong length or reference counts of a wrong width")
    kind = head[104] if length > 104 and len(head) > 104 else 0
    if kind not in _COMPRESSIONS:
        raise unsupported(f"has clusters compressed by method {kind}")
    if bool(features & _COMPRESSION) != (kind != 0):
        raise corrupt("its compression type and its features disagree")
    return length, features, _COMPRESSIONS[kind]


def _extensions(first: bytes, start: int) -> Iterator[int]:
    """The types of the header extensions, which end inside of the first cluster. Raises ImageError."""
    while start + _EXTENSION.size <= len(first):
        kind, length = _EXTENSION.unpack_from(first, start)
        if kind == 0:
            return
        start += _EXTENSION.size + -(-length // 8) * 8
        if start > len(first):
            raise corrupt("a header extension ends beyond the first cluster")
        yield kind


def _check_sizes(header: Header, file_size: int) -> None:
    if header.size == 0 or header.size % 512:
        raise corrupt(f"it describes a disk of {header.size} bytes")
    if header.extended and header.cluster_bits < _EXTENDED_CLUSTER_BITS:
        raise corrupt(f"parts of clusters of only {header.cluster} bytes")
    if header.guest_clusters > MAX_GUEST_CLUSTERS:
        raise too_large(
            f"a disk of {header.guest_clusters} clusters, at most {MAX_GUEST_CLUSTERS} can be written"
        )
    if -(-file_size // header.cluster) > MAX_HOST_CLUSTERS:
        raise too_large(
            f"more than {MAX_HOST_CLUSTERS} clusters of {header.cluster} bytes: convert it to raw, or to "
            "larger clusters"
        )
    if max(header.l1_entries, header.tables) > MAX_L1:
        raise too_large(f"an L1 table of more than {MAX_L1} entries")
    if header.l1_entries < header.tables:
        raise corrupt(f"an L1 table of {header.l1_entries} entries, the disk needs {header.tables}")
    if header.refcount_table_clusters * header.cluster > MAX_REFCOUNT_TABLE:
        raise too_large(f"a table of reference counts of more than {MAX_REFCOUNT_TABLE} bytes")
    if header.l1_offset % header.cluster or header.refcount_table_offset % header.cluster:
        raise corrupt("its tables do not begin with a cluster")
    if header.l1_offset == 0 or header.refcount_table_offset == 0 or header.refcount_table_clusters == 0:
        raise corrupt("it has no tables")


def _external() -> ImageError:
    return ImageError(
        "the qcow2 file keeps its data in another file, which is never opened", code="qcow2_external_data"
    )
