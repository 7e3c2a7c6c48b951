"""Images that are added: what is kept of them, and that nothing is kept of those that are refused."""

from __future__ import annotations

import errno
import gzip
import hashlib
import lzma
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fakes import storedimages
from fakes.storedimages import program
from teeth.errors import TeethError, UsageError
from teeth.images import spool
from teeth.images.add import Added, Order, add
from teeth.images.store import ABOUT, CONTENT, MANIFEST, ImageStore, signing_key, verify
from teeth.images.unpack import zstd
from teeth.signing import public_raw
from teeth_image.manifest import CHUNK_SIZE
from teeth_image.zstdframes import read_header


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk that starts by BIOS and UEFI. Not to be changed."""
    return storedimages.disk(tmp_path_factory.mktemp("good"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def put(source: Path | str, data: Path, **order: Any) -> Added:
    order.setdefault("level", 1)
    return add(Order(source=str(source), **order), data, progress=lambda *_: None)


def nothing_kept(data: Path) -> bool:
    return set(names(data / "images")) <= {".lock"}


def names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir()) if folder.exists() else []


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


# --- what is kept


def test_a_disk_is_kept_as_its_manifest_says(good: Path, data: Path) -> None:
    image = put(good, data, name="debian-13").image
    folder = data / "images" / image.id
    assert names(folder) == sorted((CONTENT, MANIFEST, ABOUT))
    content, raw = (folder / CONTENT).read_bytes(), good.read_bytes()
    assert image.id == f"sha256-{hashlib.sha256(content).hexdigest()}"
    assert (image.kind, image.format, image.architecture) == ("disk", "raw", "x86_64")
    assert (image.boot, image.kernel, image.notes) == (("bios", "uefi"), "/boot/vmlinuz-6.1", ())
    manifest = verify(image, ImageStore(data))
    assert manifest.digest == image.digest == sha256(content)
    assert (manifest.size, manifest.raw_size, manifest.raw_digest) == (len(content), len(raw), sha256(raw))
    assert manifest.key == public_raw(signing_key(data))
    cuts = range(0, len(content), CHUNK_SIZE)
    assert [f"sha256:{one}" for one in manifest.chunks] == [sha256(content[n : n + CHUNK_SIZE]) for n in cuts]
    assert zstd.decompress(content) == raw


def test_each_frame_is_one_chunk_and_the_table_says_where(good: Path, data: Path) -> None:
    image = put(good, data).image
    manifest = verify(image, ImageStore(data))
    content, raw = (data / "images" / image.id / CONTENT).read_bytes(), good.read_bytes()
    assert manifest.frames is not None
    assert manifest.raw_chunks is not None
    assert "" in manifest.raw_chunks
    offset = 0
    for index, length in enumerate(manifest.frames):
        frame, chunk = content[offset : offset + length], raw[index * CHUNK_SIZE :][:CHUNK_SIZE]
        header = read_header(frame)
        assert header is not None
        assert (header.content, header.checksum) == (len(chunk), True)
        assert zstd.decompress(frame) == chunk
        said = manifest.raw_chunks[index]
        assert (sha256(chunk) == f"sha256:{said}") if said else not any(chunk)
        offset += length
    table = content[offset:]
    assert table[:4] == (0x184D2A5E).to_bytes(4, "little")
    assert int.from_bytes(table[4:8], "little") == len(table) - 8
    assert table[-4:] == (0x8F92EAB1).to_bytes(4, "little")
    assert int.from_bytes(table[-9:-5], "little") == len(manifest.frames) == (len(table) - 17) // 8
    # The reference tool reads it as one stream, table and all.
    assert storedimages.run("zstd", "-dc", str(data / "images" / image.id / CONTENT)) == raw


def test_the_same_image_is_kept_once_whatever_it_came_in(good: Path, data: Path, tmp_path: Path) -> None:
    first = put(good, data, name="one")
    raw = good.read_bytes()
    packed = {
        "a.zst": zstd.compress(raw),
        "b.gz": gzip.compress(raw[: len(raw) // 2], 1) + gzip.compress(raw[len(raw) // 2 :], 1),
        "c.xz": lzma.compress(raw, preset=0),
    }
    for name, content in packed.items():
        (tmp_path / name).write_bytes(content)
        again = put(tmp_path / name, data, name=name, digest=sha256(content))
        assert (again.fresh, again.image) == (False, first.image)
    assert [one.name for one in ImageStore(data).listing()] == ["one"]


@pytest.mark.parametrize(
    "options", [(), ("-c",), ("-c", "-o", "compression_type=zstd"), ("-o", "compat=0.10")]
)
def test_qcow2_becomes_the_disk_that_it_describes(
    good: Path, data: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    (tmp_path / "disk.raw").write_bytes(good.read_bytes())
    image = put(storedimages.qcow2(tmp_path / "disk.raw", *options), data).image
    assert (image.format, image.raw_digest) == ("raw", sha256(good.read_bytes()))


def test_a_root_tar_and_a_root_file_system(data: Path, tmp_path: Path) -> None:
    archive = put(storedimages.tar(tmp_path, links={"sbin": "/usr/sbin"}), data).image
    assert (archive.kind, archive.format, archive.architecture) == ("root", "tar", "x86_64")
    system = put(storedimages.file_system(tmp_path), data, name="ext4").image
    assert (system.kind, system.format, system.kernel) == ("root", "raw", "/boot/vmlinuz-6.1")


# --- what is refused: a clear line, and nothing kept


BAD_DISKS: dict[str, tuple[dict[str, bytes | None], str]] = {
    "kernel missing": ({"boot__vmlinuz-6.1": None}, "names the kernel /boot/vmlinuz-6.1, which is not there"),
    "initrd missing": ({"boot__early.img": None}, "names the initrd /boot/early.img, which is not there"),
    "kernel is none": ({"boot__vmlinuz-6.1": b"text" * 99}, "which is not a Linux kernel"),
    "grub.cfg corrupt": ({"boot__grub__grub.cfg": os.urandom(4096)}, "no menu entry that starts a Linux"),
    "grub.cfg empty": ({"boot__grub__grub.cfg": b""}, "no menu entry that starts a Linux kernel"),
    "grub.cfg missing": ({"boot__grub__grub.cfg": None}, "neither a grub.cfg nor a BLS entry"),
    "another kernel": (
        {"boot__vmlinuz-6.1": storedimages.arm_kernel()}, "its kernel is for aarch64, its init for x86_64",
    ),
    "another machine": ({"usr__sbin__init": program(243)}, "its init for riscv"),
    "init missing": ({"usr__sbin__init": None}, "there is no /sbin/init"),
    "command in a path": (
        {"boot__grub__grub.cfg": b"menuentry x {\nlinux '/a\" ; !touch pwned'\n}\n"}, "which is not there",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_DISKS)
def test_a_disk_that_would_not_start(case: str, good: Path, data: Path, tmp_path: Path) -> None:
    changes, words = BAD_DISKS[case]
    bad = storedimages.changed(good, tmp_path, **changes)
    with pytest.raises(TeethError) as refused:
        put(bad, data)
    assert words in str(refused.value)
    assert (refused.value.exit_code, refused.value.hint) == (1, "--force keeps it all the same")
    assert nothing_kept(data)
    assert "\n" not in str(refused.value)


def test_force_keeps_it_and_says_why_it_should_not(good: Path, data: Path, tmp_path: Path) -> None:
    bad = storedimages.changed(good, tmp_path, **{"boot__vmlinuz-6.1": None})
    image = put(bad, data, force=True).image
    assert [note for note in image.notes if "added by force" in note and "not there" in note]
    assert ImageStore(data).listing() == [image]


def test_no_loader(good: Path, data: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.raw"
    content = bytearray(good.read_bytes())
    content[:440] = bytes(440)
    content[2 << 20 : 6 << 20] = bytes(4 << 20)
    bare.write_bytes(content)
    with pytest.raises(TeethError, match=r"no firmware would start it.*no boot code in the first sector"):
        put(bare, data)
    assert nothing_kept(data)


def cut_off(good: Path, work: Path) -> Path:
    """The table says more than the image has."""
    (work / "cut.raw").write_bytes(good.read_bytes())
    return storedimages.cut(work / "cut.raw", 12 << 20)


def damaged_table(good: Path, work: Path) -> Path:
    content = bytearray(good.read_bytes())
    content[1024 + 40] ^= 1
    (work / "table.raw").write_bytes(content)
    return work / "table.raw"


def truncated_qcow2(good: Path, work: Path) -> Path:
    (work / "t.raw").write_bytes(good.read_bytes())
    path = storedimages.qcow2(work / "t.raw")
    return storedimages.cut(path, path.stat().st_size // 2)


def backed_qcow2(good: Path, work: Path) -> Path:
    run = storedimages.run
    run("qemu-img", "create", "-f", "qcow2", "-b", str(good), "-F", "raw", str(work / "b.qcow2"))
    return work / "b.qcow2"


def external_qcow2(good: Path, work: Path) -> Path:
    options = ("-o", f"data_file={work / 'e.data'},data_file_raw=on")
    (work / "e.raw").write_bytes(good.read_bytes())
    return storedimages.qcow2(work / "e.raw", *options)


def bomb(good: Path, work: Path) -> Path:
    (work / "bomb.zst").write_bytes(zstd.compress(bytes(64 << 20)) * 2)
    return work / "bomb.zst"


def cut_zstd(good: Path, work: Path) -> Path:
    (work / "c.zst").write_bytes(zstd.compress(good.read_bytes())[:-1])
    return work / "c.zst"


def wrong_zstd(good: Path, work: Path) -> Path:
    content = bytearray(zstd.compress(os.urandom(1 << 20)))
    content[1 << 19 : (1 << 19) + 200] = bytes(200)
    (work / "w.zst").write_bytes(content[:5] + b"\xff" * 50 + content[55:])
    return work / "w.zst"


def trailing(good: Path, work: Path) -> Path:
    (work / "t.gz").write_bytes(gzip.compress(b"x" * 1000) + b"something else")
    return work / "t.gz"


def unknown(good: Path, work: Path) -> Path:
    (work / "letter.txt").write_text("Dear all, " * 500)
    return work / "letter.txt"


def damaged_tar(good: Path, work: Path) -> Path:
    path = storedimages.tar(work)
    content = bytearray(path.read_bytes())
    content[148:156] = b"garbage!"
    path.write_bytes(content)
    return path


def greedy_tar(good: Path, work: Path) -> Path:
    """A header that says it has 8 GB of attributes."""
    member = tarfile.TarInfo("././@PaxHeader")
    member.type, member.size = tarfile.XHDTYPE, 8 << 30
    path = work / "greedy.tar"
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 16))
    return path


BAD: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "table beyond the disk": (cut_off, "partition 3 ends at byte .*, the image at"),
    "damaged table": (damaged_table, "its partition table is damaged"),
    "truncated qcow2": (truncated_qcow2, "qcow2 file ends before the end of"),
    "qcow2 with a backing file": (backed_qcow2, "has a backing file, which is never opened"),
    "qcow2 with a data file": (external_qcow2, "keeps its data in another file"),
    "bomb": (bomb, "unpacks to more than 100663296 bytes .*--max-size"),
    "cut zstd": (cut_zstd, "ends in the middle of its zstd data"),
    "damaged zstd": (wrong_zstd, "is not valid zstd"),
    "gzip and more": (trailing, "is not valid gzip"),
    "no image": (unknown, "it is no image that is known here"),
    "damaged tar": (damaged_tar, "the tar is damaged"),
    "greedy tar": (greedy_tar, "a header in the tar is too long"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_hostile_image_is_one_line_and_leaves_nothing(
    case: str, good: Path, data: Path, tmp_path: Path
) -> None:
    make, words = BAD[case]
    with pytest.raises(TeethError, match=words) as refused:
        put(make(good, tmp_path), data, max_size=96 << 20)
    assert refused.value.exit_code == 1
    assert "\n" not in str(refused.value)
    assert nothing_kept(data)


def test_a_digest_that_differs_in_the_last_byte(good: Path, data: Path, tmp_path: Path) -> None:
    content = bytearray(good.read_bytes())
    wanted = sha256(bytes(content))
    content[-1] ^= 1
    (tmp_path / "disk.raw").write_bytes(content)
    with pytest.raises(TeethError, match=r"has the digest sha256:.*, not the one that was given"):
        put(tmp_path / "disk.raw", data, digest=wanted)
    assert nothing_kept(data)


def test_what_is_asked_wrongly(good: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for source, order, words in (
        (tmp_path / "none", {}, "there is no file"),
        (tmp_path / "empty", {}, "is empty"),
        (tmp_path, {}, "is a folder, not an image"),
        (good, {"name": "a/b"}, "is no name for an image"),
        (good, {"name": "sha256-0"}, "is no name for an image"),
        (good, {"digest": "sha256:12"}, "the digest is not"),
        ("http://127.0.0.1:1/disk.raw", {}, "plain http"),
        ("ftp://127.0.0.1/disk.raw", {}, "neither http nor https"),
    ):
        with pytest.raises(UsageError, match=words):
            put(source, data, **order)
        assert nothing_kept(data)


def test_it_must_be_what_it_is_said_to_be(good: Path, data: Path) -> None:
    with pytest.raises(TeethError, match="it is a disk image, not a root image"):
        put(good, data, kind="root")
    with pytest.raises(TeethError, match="it is for x86_64, not for aarch64"):
        put(good, data, architecture="aarch64")
    assert nothing_kept(data)


def test_a_name_is_for_one_image(good: Path, data: Path, tmp_path: Path) -> None:
    put(good, data, name="one")
    with pytest.raises(UsageError, match=r"there is an image 'one' already .*teeth image remove one"):
        put(storedimages.tar(tmp_path), data, name="one")
    assert len(names(data / "images")) == 2  # the image, and .lock


def test_a_full_disk_is_one_line(good: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: spool.SparseFile, offset: int, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(spool.SparseFile, "write", full)
    with pytest.raises(TeethError, match="there is no space left to keep it"):
        put(good, data)
    assert nothing_kept(data)


def adding(good: Path, data: Path) -> subprocess.Popen[bytes]:
    """Another process in the middle of an add: it has read something, and waits for its input to end."""
    program = (
        "import sys; from pathlib import Path; from teeth.images.add import *\n"
        "def stop(done, total): print('reading', flush=True); sys.stdin.read()\n"
        "add(Order(source=sys.argv[1]), Path(sys.argv[2]), progress=stop)\n"
    )
    words = [sys.executable, "-c", program, str(good), str(data)]
    process = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"reading\n"
    return process


def test_an_interrupted_add_leaves_nothing(good: Path, data: Path) -> None:
    with adding(good, data) as process:
        assert not nothing_kept(data)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) != 0
    assert nothing_kept(data)


def test_what_a_killed_add_left_is_swept_away(good: Path, data: Path) -> None:
    with adding(good, data) as process:
        put(good, data, name="meanwhile")  # one that is at work is left alone
        assert len(list((data / "images").glob(".adding-*"))) == 1
        process.send_signal(signal.SIGKILL)
    image = put(good, data).image
    assert names(data / "images") == [".lock", image.id]
