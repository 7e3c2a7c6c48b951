"""qcow2 files that are cut, damaged, or made to lead a reader astray: each is refused, with its own code."""

from __future__ import annotations

import random
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.diskimages import run
from fakes.image_source import MemorySource
from teeth_agent.errors import AgentError
from teeth_agent.image.pieces import BufferPool, Packed
from teeth_agent.image.qcow2stream import Qcow2

MIB = 1 << 20
CLUSTER = 65536
SIZE = 4 * MIB
# Where fields are in the header.
VERSION, BACKING, BACKING_SIZE, BITS, DISK, CRYPT = (
    (4, "I"),
    (8, "Q"),
    (16, "I"),
    (20, "I"),
    (24, "Q"),
    (32, "I"),
)
L1_SIZE, L1, REFCOUNTS, REFCOUNT_CLUSTERS = (36, "I"), (40, "Q"), (48, "Q"), (56, "I")
FEATURES, AUTOCLEAR, REFCOUNT_ORDER, HEADER_LENGTH, TYPE = (
    (72, "Q"),
    (88, "Q"),
    (96, "I"),
    (100, "I"),
    (104, "B"),
)


def make(folder, *options, packed=False):
    raw = folder / "disk"
    raw.write_bytes(random.Random(1).randbytes(2 * MIB) + b"abc " * (MIB // 4) + bytes(MIB))
    path = folder / "disk.qcow2"
    given = [f"-o{','.join(options)}"] if options else []
    run("qemu-img", "convert", "-Oqcow2", *given, *(["-c"] if packed else []), str(raw), str(path))
    return path.read_bytes()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return make(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return make(tmp_path_factory.mktemp("packed"), packed=True)


@pytest.fixture(scope="module")
def packed_zstd(tmp_path_factory):
    return make(tmp_path_factory.mktemp("zstd"), "compression_type=zstd", packed=True)


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    return make(tmp_path_factory.mktemp("extended"), "extended_l2=on,cluster_size=128k")


def get(image, field):
    return struct.unpack_from(">" + field[1], image, field[0])[0]


def put(image, *changes):
    changed = bytearray(image)
    for field, value in changes:
        struct.pack_into(">" + field[1], changed, field[0], value)
    return bytes(changed)


def l2(image, index, word=0, width=1):
    """The field of an entry of the first L2 table."""
    table = get(image, (get(image, L1), "Q")) & 0x00FF_FFFF_FFFF_FE00
    return table + 8 * (index * width + word), "Q"


def walk(source):
    """What is written, as (offset, length)."""
    image, pool, done = Qcow2(source), BufferPool(), []
    for piece in image.pieces(pool, source):
        assert 0 <= piece.offset < piece.offset + piece.length <= image.size
        if isinstance(piece, Packed):
            piece.unpack(memoryview(bytearray(piece.length)))
            pool.give_back(piece.packed)
        elif piece.data is not None:
            pool.give_back(piece.data)
        done.append((piece.offset, piece.length))
    return done


def refused(image, **source):
    found = MemorySource(image, **source)
    with pytest.raises(AgentError) as caught:
        walk(found)
    assert not caught.value.__context__ or "qcow2" in str(caught.value)
    return caught.value.code


HEADERS = {
    "no qcow2": ([((0, "I"), 1)], "image_format"),
    "a backing file": ([(BACKING, 1024), (BACKING_SIZE, 9)], "qcow2_backing_file"),
    "a backing file of no length": ([(BACKING, 1024)], "qcow2_backing_file"),
    "a backing file at no place": ([(BACKING_SIZE, 9)], "qcow2_backing_file"),
    "AES": ([(CRYPT, 1)], "qcow2_encrypted"),
    "LUKS": ([(CRYPT, 2)], "qcow2_encrypted"),
    "an external data file": ([(FEATURES, 4)], "qcow2_external_data"),
    "raw external data": ([(AUTOCLEAR, 2)], "qcow2_external_data"),
    "dirty": ([(FEATURES, 1)], "qcow2_corrupt"),
    "corrupt": ([(FEATURES, 2)], "qcow2_corrupt"),
    "an unknown feature": ([(FEATURES, 1 << 5)], "qcow2_unsupported"),
    "another unknown feature": ([(FEATURES, 1 << 63)], "qcow2_unsupported"),
    "version 1": ([(VERSION, 1)], "qcow2_unsupported"),
    "version 4": ([(VERSION, 4)], "qcow2_unsupported"),
    "tiny clusters": ([(BITS, 8)], "qcow2_unsupported"),
    "huge clusters": ([(BITS, 22)], "qcow2_unsupported"),
    "clusters beyond words": ([(BITS, 0xFFFFFFFF)], "qcow2_unsupported"),
    "an unknown compression": ([(FEATURES, 8), (TYPE, 2)], "qcow2_unsupported"),
    "a compression type without its feature": ([(TYPE, 1)], "qcow2_corrupt"),
    "a feature without its compression type": ([(FEATURES, 8)], "qcow2_corrupt"),
    "no disk": ([(DISK, 0)], "qcow2_corrupt"),
    "half a sector": ([(DISK, SIZE + 1)], "qcow2_corrupt"),
    "a disk beyond its L1 table": ([(DISK, 1 << 50), (L1_SIZE, 1)], "qcow2_too_large"),
    "a disk one table beyond": ([(DISK, (512 << 20) + 512)], "qcow2_corrupt"),
    "a huge L1 table": ([(L1_SIZE, 0xFFFFFFFF)], "qcow2_too_large"),
    "an L1 table beyond the file": ([(L1, 1 << 40)], "image_truncated"),
    "an L1 table nowhere": ([(L1, 0)], "qcow2_corrupt"),
    "an L1 table on no cluster": ([(L1, CLUSTER + 512)], "qcow2_corrupt"),
    "an L1 table that is the header": ([(REFCOUNTS, CLUSTER * 3)], "qcow2_corrupt"),
    "reference counts beyond the file": ([(REFCOUNTS, 1 << 62)], "image_truncated"),
    "a huge table of reference counts": ([(REFCOUNT_CLUSTERS, 1 << 31)], "qcow2_too_large"),
    "no reference counts": ([(REFCOUNT_CLUSTERS, 0)], "qcow2_corrupt"),
    "reference counts too wide": ([(REFCOUNT_ORDER, 7)], "qcow2_corrupt"),
    "a header without end": ([(HEADER_LENGTH, 0xFFFFFFF8)], "qcow2_corrupt"),
    "a short header": ([(HEADER_LENGTH, 96)], "qcow2_corrupt"),
    "an extension without end": ([((112, "I"), 7), ((116, "I"), 0xFFFFFFFF)], "qcow2_corrupt"),
    "the name of a data file": ([((112, "I"), 0x44415441), ((116, "I"), 8)], "qcow2_external_data"),
    "an encryption header": ([((112, "I"), 0x0537BE77), ((116, "I"), 16)], "qcow2_encrypted"),
}


@pytest.mark.parametrize(("changes", "code"), HEADERS.values(), ids=HEADERS.keys())
def test_headers(plain, changes, code):
    assert refused(put(plain, *changes)) == code


def test_what_qemu_itself_makes_of_other_files(tmp_path):
    base = tmp_path / "base"
    base.write_bytes(bytes(MIB))
    overlay, outside = tmp_path / "overlay.qcow2", tmp_path / "outside.qcow2"
    run("qemu-img", "create", "-q", "-fqcow2", "-Fraw", f"-b{base}", str(overlay))
    assert refused(overlay.read_bytes()) == "qcow2_backing_file"
    run("qemu-img", "create", "-q", "-fqcow2", f"-odata_file={tmp_path / 'data'}", str(outside), "1M")
    assert refused(outside.read_bytes()) == "qcow2_external_data"


ENTRIES = {
    "beyond the file": (1 << 40, "image_truncated"),
    "at the end of the file": (0x00FF_FFFF_FFFF_0000, "image_truncated"),
    "on no cluster": (CLUSTER * 5 + 512, "qcow2_corrupt"),
    "the header": (1 << 63, "qcow2_corrupt"),
    "reserved low bits": (CLUSTER * 5 | 2, "qcow2_corrupt"),
    "reserved high bits": (CLUSTER * 5 | 1 << 57, "qcow2_corrupt"),
    "the table of reference counts": (CLUSTER, "qcow2_corrupt"),
    "zeros kept in the L1 table": (CLUSTER * 3 | 1, "qcow2_corrupt"),
    "compressed beyond the file": (1 << 62 | 1 << 40, "image_truncated"),
    "compressed in the header": (1 << 62, "qcow2_corrupt"),
    "compressed and counted": (3 << 62 | CLUSTER * 5, "qcow2_corrupt"),
}


@pytest.mark.parametrize(("entry", "code"), ENTRIES.values(), ids=ENTRIES.keys())
def test_entries_of_l2(plain, entry, code):
    assert refused(put(plain, (l2(plain, 3), entry))) == code


def test_two_clusters_of_the_disk_in_one_of_the_file(plain):
    other = get(plain, l2(plain, 1))
    assert refused(put(plain, (l2(plain, 3), other))) == "qcow2_corrupt"


def test_an_l2_table_used_twice_or_as_data(plain):
    table = l2(plain, 0)[0]
    assert refused(put(plain, (l2(plain, 3), table))) == "qcow2_corrupt"
    larger = put(plain, (DISK, 1 << 30), (L1_SIZE, 2))
    first = get(plain, (get(plain, L1), "Q"))
    assert refused(put(larger, ((get(plain, L1) + 8, "Q"), first))) == "qcow2_corrupt"


@pytest.mark.parametrize("entry", [1 << 56, CLUSTER * 4 + 512, 1 << 50, 1, 0x00FF_FFFF_FFFF_0000])
def test_entries_of_l1(plain, entry):
    assert refused(put(plain, ((get(plain, L1), "Q"), entry))) in ("qcow2_corrupt", "image_truncated")


def test_version_2_has_no_zeros(plain):
    assert refused(put(plain, (VERSION, 2), (l2(plain, 60), 1))) == "qcow2_corrupt"
    walk(MemorySource(put(plain, (l2(plain, 60), 1))))


def test_parts_of_clusters(extended):
    bits = l2(extended, 0, 1, 2)
    assert refused(put(extended, (bits, 1 << 32 | 1))) == "qcow2_corrupt"  # there and zero
    empty = l2(extended, 30, 0, 2)[0]
    assert get(extended, (empty, "Q")) == 0
    assert refused(put(extended, ((empty + 8, "Q"), 1))) == "qcow2_corrupt"  # a part of nothing
    assert refused(put(extended, (l2(extended, 0, 0, 2), 1))) == "qcow2_corrupt"


def test_compressed_clusters_that_overlap(packed):
    first, second = get(packed, l2(packed, 32)), get(packed, l2(packed, 33))
    assert first >> 62 == second >> 62 == 1
    assert refused(put(packed, (l2(packed, 33), first))) == "qcow2_corrupt"
    within = get(packed, l2(packed, 0))
    if within >> 62 == 1:
        assert refused(put(packed, (l2(packed, 1), within + 1))) == "qcow2_corrupt"


def test_more_compressed_clusters_than_a_cluster_has_room_for(packed):
    """Each begins a byte before the last: they all overlap, and there is no end of them to sort."""
    changed, table = bytearray(put(packed, (DISK, 512 << 20))), l2(packed, 0)[0]
    at = get(packed, l2(packed, 0)) & 0x00FF_FFFF_FFFF_FE00
    for index in range(8000):
        struct.pack_into(">Q", changed, table + 8 * index, 1 << 62 | at + 8191 - index)
    assert refused(bytes(changed)) == "qcow2_corrupt"


def compressed_at(image):
    return get(image, l2(image, 32)) & (1 << 54) - 1


def test_compressed_data_that_are_none(packed, packed_zstd):
    for image in (packed, packed_zstd):
        assert refused(put(image, ((compressed_at(image), "Q"), 0xFFFF_FFFF_FFFF_FFFF))) == "image_corrupt"


def test_compressed_data_that_are_less_than_a_cluster(packed, packed_zstd):
    deflate = zlib.compressobj(9, zlib.DEFLATED, -12)
    for image, data in (
        (packed, deflate.compress(b"short") + deflate.flush()),
        (packed_zstd, run("zstd", "-c", input=b"short")),
    ):
        changed, at = bytearray(image), compressed_at(image)
        changed[at : at + len(data)] = data
        assert refused(bytes(changed)) == "image_corrupt"


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.2, 0.5, 0.9, 0.999])
def test_cut(plain, packed, share):
    for image in (plain, packed):
        assert refused(image[: int(len(image) * share)]) in (
            "image_truncated",
            "image_format",
            "qcow2_corrupt",
        )
    assert refused(plain[: int(len(plain) * 0.9)]) == "image_truncated"


def test_cut_on_the_way(plain):
    """The server promises the whole file and its stream ends early: whoever is the source, it is noticed."""
    assert refused(plain, streamed=plain[: len(plain) // 2]) == "image_truncated"


def test_tables_that_are_others_in_the_whole_file(plain):
    """A server that gives one file to who reads a range and another to who reads it all."""
    for place in (l2(plain, 60)[0], get(plain, L1) + 7, 100, get(plain, REFCOUNTS) + 64):
        other = bytearray(plain)
        other[place] ^= 1
        assert refused(plain, streamed=bytes(other)) == "digest_mismatch"


def test_without_ranges(plain):
    assert refused(plain, random_access=False) == "qcow2_needs_ranges"


def test_clusters_smaller_than_blocks(tmp_path):
    assert refused(make(tmp_path, "cluster_size=2k")) == "qcow2_unsupported"


def test_only_the_tables_are_read_ahead(plain):
    source = MemorySource(plain)
    Qcow2(source)
    assert source.received == 0
    assert sum(length for _, length in source.reads) < 4 * CLUSTER + 8


PLACES = st.one_of(st.integers(0, 127), st.integers(CLUSTER, 5 * CLUSTER), st.integers(0, SIZE))


@given(
    st.lists(st.tuples(PLACES, st.binary(min_size=1, max_size=8)), min_size=1, max_size=4), st.integers(0, 2)
)
@settings(max_examples=300, deadline=None)
def test_damage_anywhere_ends_in_pieces_of_the_disk_or_a_refusal(
    plain, packed, extended, packed_zstd, damage, which
):
    """Whatever the bytes: pieces inside of the disk that cover it once, or an AgentError with a code."""
    image = bytearray((plain, packed, extended, packed_zstd)[which])
    for place, content in damage:
        place %= len(image)
        image[place : place + len(content)] = content[: len(image) - place]
    code, done = "", []
    try:
        done = sorted(walk(MemorySource(bytes(image))))
    except AgentError as error:
        code = error.code
    if code:
        assert code.startswith(("qcow2_", "image_"))
        return
    at = 0
    for offset, length in done:
        assert offset == at
        at += length
    assert at == get(image, DISK)
