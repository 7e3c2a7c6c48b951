"""Where every byte of a qcow2 file belongs, in the order of the file.

``plan`` reads the tables, and only them, and says what it wants to read; ``Layout.steps`` then tells how to
go through the file once from front to end, and ``Layout.zeros`` what of the disk is in no cluster of it.

Memory, whatever the image: 4 bytes for each cluster of the file (8 MiB at most; 4 more with extended L2
entries), 16 for each compressed cluster (16 MiB at most), 8 for each run of zeros (8 MiB at most), the L1
table (4 MiB at most) and one read of at most 2 MiB; 20 MiB more for a moment, where a million compressed
clusters lie in no order. A file of 20 GiB with clusters of 64 KiB has 1.3 MB.
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from teeth_image.qcow2 import HEAD, Header, corrupt, parse_header, too_large, truncated

# (offset, length) of what is to be read; what is sent in are exactly these bytes.
Plan = Generator[tuple[int, int], bytes, "Layout"]

# One read, and one step of data: what a buffer of the writer has room for.
STEP = 4 << 20
_READ = 1 << 20
# Tables of which the gap between is smaller are read at once.
_GAP = 64 << 10
MAX_TABLES = 1 << 17
MAX_PACKED = 1 << 20
MAX_ZERO_RUNS = 1 << 20

_OFFSET = 0x00FF_FFFF_FFFF_FE00
_COPIED = 1 << 63
_PACKED_BIT = 1 << 62
_ZERO_BIT = 1
_L1_RESERVED = ~(_OFFSET | _COPIED) & (1 << 64) - 1
_L2_RESERVED = ~(_OFFSET | _COPIED | _PACKED_BIT | _ZERO_BIT) & (1 << 64) - 1
_TOP_OFFSET = 1 << 56
_FULL = 0xFFFF_FFFF
_PARTS = 32
_SECTOR = 512

# What a cluster of the file is: 0 free, 1 + n guest cluster n, or one of these.
_MARKS = 0xFFFF_FFF0
HEADER, REFCOUNTS, L1, L2, _OWNED, _PACKED = range(_MARKS, _MARKS + 6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """``length`` bytes at ``host`` in the file are at ``guest`` on the disk.

    ``parts``: None, or which of the 32 parts of this one cluster are in the file (bit n for part n); the
    others are zeros.
    """

    host: int
    length: int
    guest: int
    parts: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedData:
    """Compressed clusters that follow each other in the file and on the disk.

    The first begins at ``host``, each ends where the next begins or before it; ``ends`` are relative to
    ``host``. They are of a cluster each when unpacked, the last one cut to the disk's end: ``length`` in all.
    """

    host: int
    ends: tuple[int, ...]
    guest: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TableData:
    """A table that was read for the plan: to be compared by ``Layout.digests[mark]``."""

    mark: int
    host: int
    length: int


Step = Data | PackedData | TableData


class Layout:
    """What ``plan`` found. ``digests``: of each table that was read, those of L2 in the order of the file."""

    def __init__(self, header: Header, file_size: int) -> None:
        self.header = header
        self.file_size = file_size
        self.digests: dict[int, bytes] = {}
        self.sections: dict[int, tuple[int, int]] = {}
        count = -(-file_size // header.cluster)
        self.hosts = array("I", bytes(4 * count))
        self.parts = array("I", bytes(4 * count)) if header.extended else None
        self.packed_at = array("Q")
        self.packed_end = array("I")
        self.packed_guest = array("I")
        self.zero_first = array("I")
        self.zero_count = array("I")

    @property
    def size(self) -> int:
        """Of the disk, in bytes."""
        return self.header.size

    def zeros(self) -> Iterator[tuple[int, int]]:
        """(offset, length) on the disk of what is zero without being in the file."""
        bits = self.header.cluster_bits
        for first, count in zip(self.zero_first, self.zero_count, strict=True):
            offset = first << bits
            yield offset, min(count << bits, self.size - offset)

    def steps(self) -> Iterator[Step]:
        """Everything of the file that matters, in its order; ranges of the file never overlap."""
        hosts, index, packed = self.hosts, 0, 0
        while index < len(hosts):
            value = hosts[index]
            if value == 0 or value == _OWNED:
                index += 1
            elif value < _MARKS:
                step = self._data(index, value - 1)
                yield step
                index += -(-step.length >> self.header.cluster_bits) or 1
            elif value == _PACKED:
                index += 1
                while packed < len(self.packed_at) and self.packed_at[packed] < index * self.header.cluster:
                    batch = self._packed(packed)
                    yield batch
                    packed += len(batch.ends)
            else:
                yield self._table(index, value)
                index += 1
                # Of the others only the beginning may have been read.
                while value != L2 and index < len(hosts) and hosts[index] == value:
                    index += 1

    def _data(self, index: int, guest: int) -> Data:
        cluster, hosts = self.header.cluster, self.hosts
        if self.parts is not None and self.parts[index] != _FULL:
            length = min(cluster, self.size - guest * cluster)
            return Data(host=index * cluster, length=length, guest=guest * cluster, parts=self.parts[index])
        count, most = 1, min(STEP // cluster, len(hosts) - index)
        while (
            count < most
            and hosts[index + count] == guest + 1 + count
            and (self.parts is None or self.parts[index + count] == _FULL)
        ):
            count += 1
        length = min(count * cluster, self.size - guest * cluster)
        return Data(host=index * cluster, length=length, guest=guest * cluster)

    def _packed(self, index: int) -> PackedData:
        cluster = self.header.cluster
        host, guest = self.packed_at[index], self.packed_guest[index]
        ends = [self.packed_end[index]]
        most = min(STEP // cluster, len(self.packed_at) - index)
        while (
            len(ends) < most
            and self.packed_guest[index + len(ends)] == guest + len(ends)
            and self.packed_at[index + len(ends)] == host + ends[-1]
            and ends[-1] + self.packed_end[index + len(ends)] <= STEP
        ):
            ends.append(ends[-1] + self.packed_end[index + len(ends)])
        offset = guest * cluster
        length = min(len(ends) * cluster, self.size - offset)
        return PackedData(host=host, ends=tuple(ends), guest=offset, length=length)

    def _table(self, index: int, mark: int) -> TableData:
        if mark == L2:
            return TableData(mark=mark, host=index * self.header.cluster, length=self.header.cluster)
        host, length = self.sections[mark]
        return TableData(mark=mark, host=host, length=length)


def plan(file_size: int) -> Plan:
    """Read the tables of a file of ``file_size`` bytes. Raises ImageError, codes as ``parse_header``."""
    head = yield 0, min(HEAD, file_size)
    header = parse_header(head, file_size)
    builder = _Builder(header, file_size)
    builder.section(HEADER, 0, head[: header.cluster], header.cluster)
    length = header.refcount_table_clusters * header.cluster
    table = yield from _read(header.refcount_table_offset, length, file_size, "its table of reference counts")
    builder.section(REFCOUNTS, header.refcount_table_offset, table, length)
    builder.refcounts(table)
    table = yield from _read(header.l1_offset, header.tables * 8, file_size, "its L1 table")
    builder.section(L1, header.l1_offset, table, header.l1_entries * 8)
    l1 = builder.l1(table)
    hashed = hashlib.sha256()
    for group in _groups(l1.order, l1.offsets, header.cluster):
        first, last = l1.offsets[group[0]], l1.offsets[group[-1]]
        tables = yield from _read(first, last + header.cluster - first, file_size, "an L2 table")
        for index in group:
            start = l1.offsets[index] - first
            content = tables[start : start + header.cluster]
            hashed.update(content)
            builder.l2(index, content)
    builder.layout.digests[L2] = hashed.digest()
    return builder.finish()


@dataclass(frozen=True, slots=True, kw_only=True)
class _L1Table:
    """``offsets`` by index, 0 for tables that are not there; ``order``: those that are, as in the file."""

    offsets: array[int]
    order: list[int]


class _Builder:
    """Fills a layout, and sees to it that every cluster of the file is one thing only."""

    def __init__(self, header: Header, file_size: int) -> None:
        self.layout = Layout(header, file_size)
        self._header = header
        self._size = file_size

    def section(self, mark: int, offset: int, content: bytes, length: int) -> None:
        """A table of ``length`` bytes, of which ``content`` was read."""
        self.layout.sections[mark] = offset, len(content)
        self.layout.digests[mark] = hashlib.sha256(content).digest()
        if offset + length > -(-self._size // self._header.cluster) * self._header.cluster:
            raise truncated("one of its tables")
        for at in range(offset, offset + length, self._header.cluster):
            self._own(at, mark)

    def refcounts(self, table: bytes) -> None:
        for offset in _numbers(table):
            if offset:
                self._aligned(offset, "a block of reference counts")
                self._own(offset, _OWNED)

    def l1(self, table: bytes) -> _L1Table:
        offsets = _numbers(table)
        for index, entry in enumerate(offsets):
            if entry & _L1_RESERVED:
                raise corrupt(f"entry {index} of its L1 table has reserved bits")
            offsets[index] = entry & _OFFSET
        order = sorted((index for index, offset in enumerate(offsets) if offset), key=offsets.__getitem__)
        if len(order) > MAX_TABLES:
            raise too_large(f"more than {MAX_TABLES} L2 tables")
        for index in order:
            self._aligned(offsets[index], "an L2 table")
            self._own(offsets[index], L2)
        for index, offset in enumerate(offsets):
            if not offset:
                first = index * self._header.entries
                self._zero(first, min(self._header.entries, self._header.guest_clusters - first))
        return _L1Table(offsets=offsets, order=order)

    def l2(self, index: int, table: bytes) -> None:
        """The table at ``index`` of L1. What it says beyond the end of the disk is not looked at."""
        first = index * self._header.entries
        count = min(self._header.entries, self._header.guest_clusters - first)
        if table.count(0) == len(table):
            self._zero(first, count)
            return
        numbers = _numbers(table)
        if self._header.extended:
            for guest in range(first, first + count):
                at = 2 * (guest - first)
                self._extended(guest, numbers[at], numbers[at + 1])
            return
        plain = _ZERO_BIT | _PACKED_BIT | _L2_RESERVED
        for guest, entry in enumerate(numbers[:count], first):
            if entry == 0:
                self._zero(guest, 1)
            elif entry & plain:
                self._special(guest, entry)
            else:
                self._data(guest, entry & _OFFSET)

    def finish(self) -> Layout:
        _sort_packed(self.layout)
        return self.layout

    def _special(self, guest: int, entry: int) -> None:
        if entry & _PACKED_BIT:
            self._compressed(guest, entry)
            return
        if entry & _L2_RESERVED or self._header.version == 2:
            raise corrupt(f"the entry of cluster {guest} has reserved bits")
        if entry & _OFFSET:
            self._aligned(entry & _OFFSET, f"cluster {guest}", whole=False)
            self._own(entry & _OFFSET, _OWNED)
        self._zero(guest, 1)

    def _extended(self, guest: int, entry: int, bits: int) -> None:
        if entry & _PACKED_BIT:
            if bits:
                raise corrupt(f"the compressed cluster {guest} has parts")
            self._compressed(guest, entry)
            return
        if entry & (_L2_RESERVED | _ZERO_BIT):
            raise corrupt(f"the entry of cluster {guest} has reserved bits")
        there, zeros, offset = bits & _FULL, bits >> _PARTS, entry & _OFFSET
        if there & zeros:
            raise corrupt(f"a part of cluster {guest} is said to be there and to be zero")
        if there:
            self._data(guest, offset, parts=there)
            return
        if offset:
            self._aligned(offset, f"cluster {guest}", whole=False)
            self._own(offset, _OWNED)
        self._zero(guest, 1)

    def _data(self, guest: int, offset: int, parts: int = _FULL) -> None:
        cluster = self._header.cluster
        if offset == 0:
            raise corrupt(f"cluster {guest} is said to be in another file")
        # The file may end before what the disk does not reach, or has no part of.
        used = min(cluster // _PARTS * parts.bit_length(), self._header.size - guest * cluster)
        if offset % cluster:
            raise corrupt(f"cluster {guest} does not begin with a cluster of the file")
        if offset + used > self._size:
            raise truncated(f"cluster {guest} of the disk")
        self._own(offset, guest + 1)
        if self.layout.parts is not None:
            self.layout.parts[offset // cluster] = parts

    def _compressed(self, guest: int, entry: int) -> None:
        shift = 62 - (self._header.cluster_bits - 8)
        offset = entry & ((1 << shift) - 1)
        sectors = (entry & ~(_COPIED | _PACKED_BIT)) >> shift
        if entry & _COPIED or offset >= _TOP_OFFSET:
            raise corrupt(f"the entry of the compressed cluster {guest} has reserved bits")
        if offset >= self._size:
            raise truncated(f"cluster {guest} of the disk")
        if len(self.layout.packed_at) == MAX_PACKED:
            raise too_large(f"more than {MAX_PACKED} compressed clusters: convert it to raw")
        end = min((offset // _SECTOR + 1 + sectors) * _SECTOR, self._size)
        self.layout.packed_at.append(offset)
        self.layout.packed_end.append(end - offset)
        self.layout.packed_guest.append(guest)
        hosts, bits = self.layout.hosts, self._header.cluster_bits
        for cluster in range(offset >> bits, (end - 1 >> bits) + 1):
            if hosts[cluster] != _PACKED:
                self._own(cluster << bits, _PACKED)

    def _zero(self, guest: int, count: int) -> None:
        first, counts = self.layout.zero_first, self.layout.zero_count
        if first and first[-1] + counts[-1] == guest:
            counts[-1] += count
            return
        if len(first) == MAX_ZERO_RUNS:
            raise too_large(f"more than {MAX_ZERO_RUNS} runs of zeros: convert it to raw")
        first.append(guest)
        counts.append(count)

    def _aligned(self, offset: int, what: str, *, whole: bool = True) -> None:
        if offset % self._header.cluster or offset >= 1 << 62:
            raise corrupt(f"{what} does not begin with a cluster of the file")
        if offset + (self._header.cluster if whole else 1) > self._size:
            raise truncated(what)

    def _own(self, offset: int, value: int) -> None:
        index = offset >> self._header.cluster_bits
        if self.layout.hosts[index] != 0:
            raise corrupt(f"the cluster at byte {offset} of the file is used twice")
        self.layout.hosts[index] = value


def _sort_packed(layout: Layout) -> None:
    """In the order of the file, each ending where the next begins if they share a sector."""
    at = layout.packed_at
    if any(at[index] > at[index + 1] for index in range(len(at) - 1)):
        order = _order(at, layout.header.cluster_bits, len(layout.hosts))
        at = layout.packed_at = array("Q", (at[index] for index in order))
        layout.packed_end = array("I", (layout.packed_end[index] for index in order))
        layout.packed_guest = array("I", (layout.packed_guest[index] for index in order))
    ends = layout.packed_end
    for index in range(len(at) - 1):
        room, length = at[index + 1] - at[index], ends[index]
        if room < length:
            # Only the last sector may be shared (its length is not known more exactly than that).
            last = (at[index] + length - 1) // _SECTOR * _SECTOR
            if room == 0 or at[index + 1] < last:
                raise corrupt(f"compressed clusters overlap at byte {at[index + 1]} of the file")
            ends[index] = room


def _order(at: array[int], bits: int, hosts: int) -> array[int]:
    """The indexes of ``at`` in the order of its offsets, by clusters: to sort a million costs 70 MiB."""
    begins = array("I", bytes(4 * (hosts + 1)))
    for offset in at:
        begins[(offset >> bits) + 1] += 1
    for cluster in range(hosts):
        if begins[cluster + 1] > 1 << bits >> 4:
            raise corrupt(f"too many compressed clusters begin in cluster {cluster} of the file")
        begins[cluster + 1] += begins[cluster]
    order = array("I", bytes(4 * len(at)))
    for index, offset in enumerate(at):
        cluster = offset >> bits
        order[begins[cluster]] = index
        begins[cluster] += 1
    first = 0  # begins[n] is now where cluster n ends
    for cluster in range(hosts):
        end = begins[cluster]
        if end - first > 1:
            order[first:end] = array("I", sorted(order[first:end], key=at.__getitem__))
        first = end
    return order


def _read(offset: int, length: int, file_size: int, what: str) -> Generator[tuple[int, int], bytes, bytes]:
    if offset + length > file_size:
        raise truncated(what)
    parts = []
    for start in range(offset, offset + length, _READ):
        part = yield start, min(_READ, offset + length - start)
        parts.append(part)
    return b"".join(parts)


def _groups(order: list[int], offsets: array[int], cluster: int) -> Iterator[list[int]]:
    """L2 tables that are read at once, by their indexes."""
    group: list[int] = []
    for index in order:
        if group:
            gap = offsets[index] - offsets[group[-1]] - cluster
            if gap > _GAP or offsets[index] + cluster - offsets[group[0]] > _READ:
                yield group
                group = []
        group.append(index)
    if group:
        yield group


def _numbers(table: bytes) -> array[int]:
    found = array("Q", table)
    if sys.byteorder == "little":
        found.byteswap()
    return found
