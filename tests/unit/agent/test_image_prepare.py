"""standbye.prepare_image, whole: from a server on the loopback onto files and loop devices."""

from __future__ import annotations

import hashlib
import random
import subprocess
from dataclasses import replace

import pytest

from fakes import diskimages
from fakes.cache_mounts import FolderMounts
from fakes.imageserver import serving, status, whole
from fakes.machine_disks import disk_at
from fakes.reporting import ToldReporter
from fakes.wiretap import valid
from teeth_agent.blockio import open_device
from teeth_agent.errors import AgentError, Cancelled, DeviceError
from teeth_agent.image import disktable
from teeth_agent.image import prepare as prepare_module
from teeth_agent.image.cache.cache import ImageCache
from teeth_agent.image.decompress import stream_pieces
from teeth_agent.tasks import cache_images
from teeth_agent.tasks.context import PreparedDisk, TaskContext
from teeth_agent.tasks.prepare_image import run

MIB = 1 << 20
needs_loop = pytest.mark.skipif(not diskimages.can_loop(), reason="needs root and loop devices")


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    work = tmp_path_factory.mktemp("image")
    return diskimages.make(work / "image.raw", work).read_bytes()


@pytest.fixture(scope="module")
def packed(image):
    return subprocess.run(["zstd", "-q", "-c"], input=image, capture_output=True, check=True).stdout


@pytest.fixture
def context():
    return TaskContext(boot_id="boot")


def params(server, content, raw, **changes):
    fields = {
        "id": "image-1",
        "name": "small",
        "urls": [server.url()],
        "size": len(content),
        "digest": "sha256:" + hashlib.sha256(content).hexdigest(),
        "format": "raw",
        "compression": "zstd",
        "raw_size": len(raw),
    }
    return {"task_id": "t", "image": {**fields, **changes}, "root_disk": {"model": "DISK"}}


def prepare(wanted, context, *disks, reporter=None):
    return run(wanted, context, reporter or ToldReporter(), disks=lambda: list(disks))


def refused(wanted, context, *disks):
    with pytest.raises(AgentError) as caught:
        prepare(wanted, context, *disks)
    return caught.value


def test_an_image_is_written_verified_and_remembered(image, packed, context, tmp_path):
    disk = disk_at(diskimages.blank(tmp_path / "sda", 40 * MIB))
    reporter = ToldReporter()
    with serving(packed, whole(cut_after=len(packed) // 2), status(503, Retry_After=0), whole()) as server:
        result = prepare(params(server, packed, image), context, disk, reporter=reporter)
    content = (tmp_path / "sda").read_bytes()
    # The backup table moved, and with it the addresses in the header and the protective MBR.
    assert content[:446] == image[:446]
    assert content[2 * MIB : len(image) - MIB] == image[2 * MIB : -MIB]
    verified = subprocess.run(["sgdisk", "-v", str(tmp_path / "sda")], capture_output=True, text=True)
    assert "No problems found" in verified.stdout
    with open_device(disk.devnode, write=False) as device:
        table = disktable.read(device)
    assert [one.number for one in table.partitions] == [1, 2, 3]
    assert table.last_usable > 39 * MIB // 512
    assert valid("standbye.prepare_image.outcome", result)["verified"] is True
    assert result["raw_bytes"] == len(image)
    assert result["written_bytes"] == len(image)
    assert result["zero_bytes"] > 10 * MIB
    assert result["fetch_restarts"] == 2
    assert result["disk"]["serial"] == "S-sda"
    assert result["digest"] == "sha256:" + hashlib.sha256(packed).hexdigest()
    assert context.state.prepared("image-1") == PreparedDisk(
        image_id="image-1", identity=disk.identity, digest=result["digest"]
    )
    steps = [call["step"] for call in reporter.progress_calls]
    assert steps == sorted(steps)
    assert set(steps) == {"fetch_write", "verify"}
    percents = [call["percent"] for call in reporter.progress_calls]
    assert percents == sorted(percents)
    assert percents[-1] == 99
    assert {"bytes_done", "bytes_total", "bytes_per_second", "written_bytes", "skipped_bytes"} <= set(
        reporter.progress_calls[0]
    )


def test_a_zeroed_disk_is_written_only_where_there_is_something(image, packed, context, tmp_path):
    disk = disk_at(diskimages.blank(tmp_path / "sda", 40 * MIB, fill=b"\0"))
    context.state.mark_zero(disk.identity)
    with serving(packed) as server:
        result = prepare(params(server, packed, image), context, disk)
    assert result["skipped_bytes"] == result["zero_bytes"] > 10 * MIB
    assert result["written_bytes"] + result["skipped_bytes"] == len(image)
    assert not context.state.is_zero(disk.identity)
    assert (tmp_path / "sda").read_bytes()[2 * MIB : len(image) - MIB] == image[2 * MIB : -MIB]


def test_a_disk_that_is_wrongly_taken_for_zero_does_not_boot_after_a_failure(
    image, packed, context, tmp_path
):
    disk = disk_at(diskimages.blank(tmp_path / "sda", 40 * MIB))
    context.state.mark_zero(disk.identity)
    with serving(packed) as server:
        assert refused(params(server, packed, image), context, disk).code == "verify_failed"
    content = (tmp_path / "sda").read_bytes()
    assert (content[:MIB], content[-MIB:]) == (bytes(MIB), bytes(MIB))
    assert context.state.prepared("image-1") is None


def test_an_image_whose_end_was_not_seen_is_not_prepared(image, packed, context, tmp_path, monkeypatch):
    """A decompressor that stops early, as one does that is killed, says nothing about the rest."""
    disk = disk_at(diskimages.blank(tmp_path / "sda", 40 * MIB))

    def half(compression, ahead, pool):
        piece = next(stream_pieces("none", ahead, pool))
        piece.data[:4] = image[:4]
        yield piece

    monkeypatch.setattr(prepare_module, "stream_pieces", half)
    content = packed[:4] + image[4:]
    with serving(content) as server:
        wanted = params(server, content, image[: 4 * MIB])
        assert refused(wanted, context, disk).code == "image_truncated"
    assert (tmp_path / "sda").read_bytes()[:MIB] == bytes(MIB)
    assert context.state.prepared("image-1") is None


@pytest.mark.parametrize("sector", [512, 4096])
@needs_loop
def test_on_a_loop_device_of_either_sector_size(sector, context, tmp_path):
    disk_file = diskimages.blank(tmp_path / "disk", 40 * MIB)
    made = diskimages.blank(tmp_path / "made", 16 * MIB, fill=b"\0")
    with diskimages.loop_device(made, sector=sector) as name:
        diskimages.run("sgdisk", "--new=1:0:+8M", name)
    raw = made.read_bytes()
    with diskimages.loop_device(disk_file, sector=sector) as name, serving(raw) as server:
        disk = disk_at(name, size=40 * MIB)
        wanted = params(server, raw, raw, compression="none")
        assert prepare(wanted, context, disk)["verified"]
        with open_device(name, write=False) as device:
            table = disktable.read(device)
    assert table.block == sector
    assert len(table.partitions) == 1
    assert table.last_usable * sector > 39 * MIB


@pytest.mark.parametrize("compression", ["none", "gzip", "xz"])
def test_the_other_compressions(compression, image, context, tmp_path):
    import gzip
    import lzma

    packed = {
        "none": bytes,
        "gzip": lambda raw: gzip.compress(raw, 1),
        "xz": lambda raw: lzma.compress(raw, preset=0),
    }
    content = packed[compression](image)
    disk = disk_at(diskimages.blank(tmp_path / "sda", 32 * MIB))
    with serving(content) as server:
        digest = "sha512:" + hashlib.sha512(image).hexdigest()
        wanted = params(server, content, image, compression=compression, raw_digest=digest, raw_size=None)
        assert prepare(wanted, context, disk)["raw_bytes"] == len(image)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"digest": "sha256:" + "0" * 64}, "digest_mismatch"),
        ({"raw_digest": "sha256:" + "0" * 64}, "digest_mismatch"),
        ({"raw_size": 25 * MIB}, "image_truncated"),
        ({"raw_size": 23 * MIB}, "image_size"),
        ({"compression": "none", "raw_size": None}, "image_format"),
    ],
)
def test_a_wrong_image_leaves_a_disk_that_does_not_boot(changes, code, image, packed, context, tmp_path):
    disk = disk_at(diskimages.blank(tmp_path / "sda", 40 * MIB))
    context.state.set_prepared(PreparedDisk(image_id="image-1", identity=disk.identity, digest="old"))
    with serving(packed) as server:
        error = refused(params(server, packed, image, **changes), context, disk)
    assert error.code == code
    content = (tmp_path / "sda").read_bytes()
    assert content[:MIB] == bytes(MIB)
    assert content[-MIB:] == bytes(MIB)
    assert context.state.prepared("image-1") is None


@pytest.mark.parametrize("changes", [{"compression": "gzip"}, {"format": "qcow2", "compression": "none"}])
def test_what_is_not_what_was_declared_is_refused_before_the_disk_is_touched(
    changes, image, packed, context, tmp_path
):
    disk = disk_at(diskimages.blank(tmp_path / "sda", 40 * MIB))
    fact = PreparedDisk(image_id="image-1", identity=disk.identity, digest="old")
    context.state.set_prepared(fact)
    with serving(packed) as server:
        wanted = params(server, packed, image, **{"raw_size": None, **changes})
        assert refused(wanted, context, disk).code == "image_format"
    assert (tmp_path / "sda").read_bytes() == b"\xa5" * 40 * MIB
    assert context.state.prepared("image-1") == fact


def test_after_a_failure_the_same_disk_can_be_prepared(image, packed, context, tmp_path):
    disk = disk_at(diskimages.blank(tmp_path / "sda", 40 * MIB))
    with serving(packed) as server:
        refused(params(server, packed, image, digest="sha256:" + "0" * 64), context, disk)
        assert prepare(params(server, packed, image), context, disk)["verified"]
    assert (tmp_path / "sda").read_bytes()[2 * MIB : len(image) - MIB] == image[2 * MIB : -MIB]


def test_an_image_that_nobody_has_leaves_the_disk_as_it_was(image, packed, context, tmp_path):
    disk = disk_at(diskimages.blank(tmp_path / "sda", 40 * MIB))
    context.state.mark_zero(disk.identity)
    with serving(packed, status(404)) as server:
        assert refused(params(server, packed, image), context, disk).code == "fetch_failed"
    assert (tmp_path / "sda").read_bytes() == b"\xa5" * 40 * MIB
    assert context.state.is_zero(disk.identity)


@needs_loop
def test_a_disk_without_room_behind_it_is_not_called_prepared(image, packed, context, tmp_path):
    """A thin volume that is full: the write fails, not the size."""
    full = tmp_path / "full"
    full.mkdir()
    diskimages.run("mount", "-t", "tmpfs", "-o", "size=4M", "none", str(full))
    try:
        with (full / "sda").open("wb") as stream:
            stream.truncate(40 * MIB)
        disk = disk_at(full / "sda")
        dense = random.Random(9).randbytes(24 * MIB)
        with serving(dense) as server:
            error = refused(params(server, dense, dense, compression="none"), context, disk)
        assert error.code == "write_failed"
        assert "No space left" in str(error)
        with (full / "sda").open("rb") as stream:
            assert stream.read(MIB) == bytes(MIB)
        assert context.state.prepared("image-1") is None
    finally:
        diskimages.run("umount", str(full))


def test_a_cancelled_task_leaves_a_disk_that_does_not_boot(image, packed, context, tmp_path):
    disk = disk_at(diskimages.blank(tmp_path / "sda", 40 * MIB))
    with serving(packed) as server, pytest.raises(Cancelled):
        prepare(params(server, packed, image), context, disk, reporter=ToldReporter(cancel_after=5))
    assert (tmp_path / "sda").read_bytes()[:MIB] == bytes(MIB)
    assert context.state.prepared("image-1") is None


def test_a_small_disk_is_refused_before_anything_is_asked_or_written(image, packed, context, tmp_path):
    disk = disk_at(diskimages.blank(tmp_path / "sda", 20 * MIB))
    context.state.mark_zero(disk.identity)
    with serving(packed) as server:
        assert refused(params(server, packed, image), context, disk).code == "disk_too_small"
        assert server.requests == []
    assert (tmp_path / "sda").read_bytes()[:512] == b"\xa5" * 512
    assert context.state.is_zero(disk.identity)


def test_without_a_raw_size_a_small_disk_shows_on_the_way(image, packed, context, tmp_path):
    disk = disk_at(diskimages.blank(tmp_path / "sda", 20 * MIB))
    with serving(packed) as server:
        wanted = params(server, packed, image, raw_size=None)
        assert refused(wanted, context, disk).code == "disk_too_small"
    assert (tmp_path / "sda").read_bytes()[:MIB] == bytes(MIB)


def test_only_the_machines_own_free_drives_come_into_question(packed, image, context, tmp_path):
    path = diskimages.blank(tmp_path / "sda", MIB)
    good = disk_at(path)
    others = [
        replace(good, out_of_scope="memory"),
        replace(good, virtual_media="x"),
        replace(good, read_only=True),
    ]
    with serving(packed) as server:
        wanted = params(server, packed, image)
        assert refused(wanted, context, *others).code == "root_disk_missing"
        assert refused(wanted, context, good, disk_at(path, name="sdb")).code == "root_disk_ambiguous"
        busy = refused(wanted, context, replace(good, mounts=("/mnt",)))
    assert isinstance(busy, DeviceError)
    assert busy.code == "device_busy"
    assert "mounted at /mnt" in str(busy)


# --- other formats, tables, keys, growth


@pytest.fixture(scope="module")
def qcow2(image, tmp_path_factory):
    folder = tmp_path_factory.mktemp("qcow2")
    (folder / "raw").write_bytes(image)
    argv = ["qemu-img", "convert", "-c", "-Oqcow2", str(folder / "raw"), str(folder / "qcow2")]
    subprocess.run(argv, check=True)
    return (folder / "qcow2").read_bytes()


def of_qcow2(server, content, image, **changes):
    return params(server, content, image, format="qcow2", compression="none", **changes)


@pytest.mark.parametrize("digest", [True, False])
def test_a_qcow2_image_is_written_as_the_disk_that_it_describes(image, qcow2, context, tmp_path, digest):
    disk = disk_at(diskimages.blank(tmp_path / "sda", 40 * MIB))
    known = {"raw_digest": "sha256:" + hashlib.sha256(image).hexdigest()} if digest else {"raw_size": None}
    with serving(qcow2) as server:
        result = prepare(of_qcow2(server, qcow2, image, **known), context, disk)
    content = (tmp_path / "sda").read_bytes()
    assert content[2 * MIB : len(image) - MIB] == image[2 * MIB : -MIB]
    assert result["raw_bytes"] == len(image)
    assert context.state.prepared("image-1") is not None
    valid("standbye.prepare_image.outcome", result)


def test_a_qcow2_image_that_is_cut(image, qcow2, context, tmp_path):
    """It was cut before it was given a digest: what is fetched is what was promised."""
    disk = disk_at(diskimages.blank(tmp_path / "sda", 40 * MIB))
    before = (tmp_path / "sda").read_bytes()
    content = qcow2[: len(qcow2) * 2 // 3]
    with serving(content) as server:
        assert refused(of_qcow2(server, content, image), context, disk).code == "image_truncated"
    assert (tmp_path / "sda").read_bytes() == before  # seen in the tables, before anything was written
    assert context.state.prepared("image-1") is None


@pytest.mark.parametrize(
    ("changes", "code"),
    [({"raw_size": 25 * MIB}, "image_size"), ({"raw_digest": "sha256:" + "0" * 64}, "digest_mismatch")],
)
def test_a_qcow2_image_of_another_disk(image, qcow2, context, tmp_path, changes, code):
    disk = disk_at(diskimages.blank(tmp_path / "sda", 40 * MIB))
    with serving(qcow2) as server:
        assert refused(of_qcow2(server, qcow2, image, **changes), context, disk).code == code
    assert context.state.prepared("image-1") is None


def test_a_qcow2_image_from_a_server_without_ranges(image, qcow2, context, tmp_path):
    disk = disk_at(diskimages.blank(tmp_path / "sda", 40 * MIB))
    before = (tmp_path / "sda").read_bytes()
    with serving(qcow2, whole(ranges=False)) as server:
        assert refused(of_qcow2(server, qcow2, image), context, disk).code == "qcow2_needs_ranges"
    assert (tmp_path / "sda").read_bytes() == before


def test_a_qcow2_image_larger_than_the_disk(image, qcow2, context, tmp_path):
    disk = disk_at(diskimages.blank(tmp_path / "sda", 20 * MIB))
    with serving(qcow2) as server:
        error = refused(of_qcow2(server, qcow2, image, raw_size=None), context, disk)
    assert error.code == "disk_too_small"


def test_a_qcow2_image_that_was_declared_raw(image, qcow2, context, tmp_path):
    disk = disk_at(diskimages.blank(tmp_path / "sda", 40 * MIB))
    with serving(qcow2) as server:
        error = refused(params(server, qcow2, qcow2, compression="none"), context, disk)
    assert error.code == "image_format"
    assert str(error) == "the image was declared as raw, found was qcow2"
    assert not any((tmp_path / "sda").read_bytes()[:MIB])


def test_a_raw_image_that_was_declared_qcow2(image, context, tmp_path):
    disk = disk_at(diskimages.blank(tmp_path / "sda", 40 * MIB))
    with serving(image) as server:
        error = refused(of_qcow2(server, image, image), context, disk)
    assert error.code == "image_format"
    assert "declared as qcow2, found was a disk with a GPT" in str(error)


@pytest.mark.parametrize("announced", [True, False])
def test_a_table_beyond_the_image(image, context, tmp_path, announced):
    """The image was cut and compressed: the disk has room for the partition, the image not its content."""
    disk = disk_at(diskimages.blank(tmp_path / "sda", 40 * MIB))
    cut = image[: 16 * MIB]
    content = subprocess.run(["zstd", "-q", "-c"], input=cut, capture_output=True, check=True).stdout
    known = {} if announced else {"raw_size": None}
    with serving(content) as server:
        error = refused(params(server, content, cut, **known), context, disk)
    assert error.code == "partition_table"
    assert not any((tmp_path / "sda").read_bytes()[:MIB])
    assert context.state.prepared("image-1") is None


def test_with_a_key_an_image_without_a_manifest_is_refused(image, packed, tmp_path):
    disk = disk_at(diskimages.blank(tmp_path / "sda", 40 * MIB))
    before = (tmp_path / "sda").read_bytes()
    context = TaskContext(boot_id="boot", image_key="sha256:" + "ab" * 32)
    with serving(packed) as server:
        assert refused(params(server, packed, image), context, disk).code == "image_unsigned"
    assert (tmp_path / "sda").read_bytes() == before


@needs_loop
def test_the_last_partition_grows_when_that_is_asked_for(image, packed, context, tmp_path):
    disk = disk_at(diskimages.blank(tmp_path / "sda", 200 * MIB))
    with serving(packed) as server:
        result = prepare({**params(server, packed, image), "grow": "filesystem"}, context, disk)
    assert (result["grown"], result["grow_reason"]) == ("filesystem", "")
    valid("standbye.prepare_image.outcome", result)
    with open_device(disk.devnode, write=False) as device:
        assert disktable.read(device).partitions[-1].last > 130 * 2048


def test_an_image_in_the_cache_is_written_without_the_network(tmp_path, image, packed):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 4194304 kB\nMemAvailable: 2097152 kB\n")
    cache = ImageCache(
        look=lambda: (), mounts=FolderMounts(tmp_path / "x"), folder=tmp_path / "cache", root=tmp_path
    )
    context = TaskContext(boot_id="boot", cache=cache)
    disk = disk_at(diskimages.blank(tmp_path / "sda", 40 * MIB))
    with serving(packed) as server:
        wanted = params(server, packed, image)
        cache_images.run({"task_id": "c", "images": [wanted["image"]]}, context, ToldReporter())
        fetched = len(server.requests)
        result = prepare(wanted, context, disk)
        assert len(server.requests) == fetched
    assert (result["source"], result["fetched_bytes"]) == ("cache", 0)
    assert (tmp_path / "sda").read_bytes()[2 * MIB : len(image) - MIB] == image[2 * MIB : -MIB]
