"""Our reading of qcow2 files against qemu-img's, for what qemu-img makes of many disks."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fakes.diskimages import run
from fakes.image_source import MemorySource
from teeth_agent.image.pieces import ALIGN, PIECE, BufferPool, Packed
from teeth_agent.image.qcow2stream import Qcow2

MIB = 1 << 20


def disk_of(path: Path, size: int, seed: int, *, runs: int = 40) -> Path:
    """A sparse disk: noise, text that compresses, and written zeros, at places on no grid but 512."""
    chance = random.Random(seed)
    with path.open("wb") as disk:
        disk.truncate(size)
        for _ in range(runs):
            length = min(chance.choice((512, 4096, 5 * 512, 65536, 300_000 // 512 * 512)), size)
            disk.seek(chance.randrange(0, (size - length) // 512 + 1) * 512)
            kind = chance.randrange(3)
            content = chance.randbytes(length) if kind == 0 else (b"%d text " % seed * length)[:length]
            disk.write(bytes(length) if kind == 2 else content)
    return path


def written(source, pool=None) -> bytes:
    """The disk that the pieces make, which cover it exactly once."""
    image = Qcow2(source)
    pool = pool or BufferPool()
    disk = bytearray(b"\xa5" * image.size)
    covered = []
    for piece in image.pieces(pool, source):
        end = piece.offset + piece.length
        assert piece.offset % ALIGN == 0
        assert piece.length % ALIGN == 0 or end == image.size
        covered.append((piece.offset, end))
        if isinstance(piece, Packed):
            assert piece.length <= PIECE
            out = memoryview(bytearray(piece.length))
            piece.unpack(out)
            disk[piece.offset : end] = out
            pool.give_back(piece.packed)
        elif piece.data is None:
            disk[piece.offset : end] = bytes(piece.length)
        else:
            assert piece.length <= PIECE
            disk[piece.offset : end] = piece.data
            pool.give_back(piece.data)
    at = 0
    for start, end in sorted(covered):
        assert start == at
        at = end
    assert at == image.size
    assert source.proven
    return bytes(disk)


def expected(path: Path) -> bytes:
    raw = path.with_suffix(".raw")
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(path), str(raw))
    return raw.read_bytes()


def agree(path: Path, **source) -> None:
    assert written(MemorySource(path.read_bytes(), **source)) == expected(path)


def convert(raw: Path, path: Path, *options: str, packed: bool = False) -> Path:
    given = [f"-o{','.join(options)}"] if options else []
    run("qemu-img", "convert", "-Oqcow2", *given, *(["-c"] if packed else []), str(raw), str(path))
    return path


OPTIONS = {
    "plain": ((), False),
    "version 2": (("compat=0.10",), False),
    "4 KiB clusters": (("cluster_size=4k",), False),
    "2 MiB clusters": (("cluster_size=2M",), False),
    "compressed": ((), True),
    "compressed, version 2": (("compat=0.10",), True),
    "compressed, 4 KiB clusters": (("cluster_size=4k",), True),
    "compressed, 2 MiB clusters": (("cluster_size=2M",), True),
    "compressed by zstd": (("compression_type=zstd",), True),
    "compressed by zstd, 4 KiB clusters": (("compression_type=zstd", "cluster_size=4k"), True),
    "compressed by zstd, 2 MiB clusters": (("compression_type=zstd", "cluster_size=2M"), True),
    "preallocated tables": (("preallocation=metadata",), False),
    "preallocated": (("preallocation=full",), False),
    "fallocated": (("preallocation=falloc",), False),
    "narrow reference counts": (("refcount_bits=1",), False),
    "wide reference counts": (("refcount_bits=64", "cluster_size=4k"), False),
    "extended L2": (("extended_l2=on",), False),
    "extended L2, 16 KiB clusters": (("extended_l2=on", "cluster_size=16k"), False),
    "extended L2, 2 MiB clusters": (("extended_l2=on", "cluster_size=2M"), False),
    "extended L2, compressed": (("extended_l2=on",), True),
    "lazy reference counts": (("lazy_refcounts=on",), False),
}


@pytest.mark.parametrize(("options", "packed"), OPTIONS.values(), ids=OPTIONS.keys())
def test_what_qemu_img_converts(tmp_path, options, packed):
    for seed, size in enumerate((9 * MIB + 512, 33 * MIB, 512)):
        raw = disk_of(tmp_path / f"{seed}.disk", size, seed)
        path = convert(raw, tmp_path / f"{seed}.qcow2", *options, packed=packed)
        agree(path, block=65_536 + seed * 999)
        assert expected(path) == raw.read_bytes()


def write(path: Path, seed: int, *, count: int = 60, size: int = 32 * MIB) -> None:
    """Written as a guest writes: anywhere, in no order, with zeros and discards."""
    chance = random.Random(seed)
    commands = []
    for _ in range(count):
        length = chance.choice((512, 3584, 65536, 200_704))
        offset = chance.randrange(0, (size - length) // 512) * 512
        verb = chance.choice(("write -P 7", "write -P 200", "write -z", "write -z -u", "discard"))
        commands += ["-c", f"{verb} {offset} {length}"]
    run("qemu-io", "-f", "qcow2", "-d", "unmap", *commands, str(path))


@pytest.mark.parametrize(
    "options", ["", "compat=0.10", "extended_l2=on", "extended_l2=on,cluster_size=128k", "cluster_size=8k"]
)
@pytest.mark.parametrize("seed", range(3))
def test_what_a_guest_wrote(tmp_path, options, seed):
    path = tmp_path / "disk.qcow2"
    run("qemu-img", "create", "-q", "-fqcow2", *([f"-o{options}"] if options else []), str(path), "32M")
    write(path, seed)
    agree(path, block=12_345)


def test_compressed_and_then_written_to(tmp_path):
    raw = disk_of(tmp_path / "disk", 32 * MIB, 5)
    path = convert(raw, tmp_path / "disk.qcow2", packed=True)
    write(path, 6)
    agree(path)


@pytest.mark.parametrize("method", ["zlib", "zstd"])
def test_compressed_in_no_order(tmp_path, method):
    """Out of order (-W), eight at once: where a cluster lies in the file is chance."""
    raw, path = disk_of(tmp_path / "disk", 64 * MIB, 12, runs=400), tmp_path / "disk.qcow2"
    run(
        "qemu-img", "convert", "-Oqcow2", f"-ocompression_type={method},cluster_size=16k", "-c", "-W", "-m8",
        str(raw), str(path),
    )  # fmt: skip
    agree(path)
    clusters = list(range(0, 4 * MIB, 65536))
    random.Random(13).shuffle(clusters)
    other = tmp_path / "other.qcow2"
    run("qemu-img", "create", "-q", "-fqcow2", f"-ocompression_type={method}", str(other), "4M")
    commands = [word for at in clusters for word in ("-c", f"write -c -P {at % 251} {at} 65536")]
    run("qemu-io", "-f", "qcow2", *commands, str(other))
    agree(other)


def test_resized_both_ways(tmp_path):
    path = convert(disk_of(tmp_path / "disk", 32 * MIB, 7), tmp_path / "disk.qcow2")
    run("qemu-img", "resize", "-q", str(path), "3G")
    write(path, 8, size=3 << 30, count=20)
    run("qemu-img", "resize", "-q", "--shrink", str(path), "20000256")
    agree(path)


def test_snapshots_are_passed_over(tmp_path):
    path = convert(disk_of(tmp_path / "disk", 32 * MIB, 9), tmp_path / "disk.qcow2")
    run("qemu-img", "snapshot", "-c", "before", str(path))
    write(path, 10)
    run("qemu-img", "snapshot", "-c", "after", str(path))
    write(path, 11)
    agree(path)


def test_an_empty_disk_is_one_piece(tmp_path):
    path = tmp_path / "empty.qcow2"
    run("qemu-img", "create", "-q", "-fqcow2", str(path), "1T")
    source = MemorySource(path.read_bytes())
    pieces = list(Qcow2(source).pieces(BufferPool(), source))
    assert [(one.offset, one.length, one.data) for one in pieces] == [(0, 1 << 40, None)]
