"""standbye.cache_images, whole: from servers on the loopback into folders."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from fakes import diskimages
from fakes.cache_mounts import FolderMounts
from fakes.imageserver import serving, status
from fakes.machine_disks import disk_at
from fakes.reporting import ToldReporter
from fakes.wiretap import valid
from teeth_agent.errors import AgentError, Cancelled
from teeth_agent.image.cache.budget import memory_reserve, needed
from teeth_agent.image.cache.cache import ImageCache
from teeth_agent.image.cache.mounts import SystemMounts
from teeth_agent.image.cache.place import LABEL, CachePartition, choose
from teeth_agent.image.cache.store import Store
from teeth_agent.image.sharing import Sharing
from teeth_agent.inventory.block import Partition
from teeth_agent.tasks.cache_images import run
from teeth_agent.tasks.cachedisks import partitions_of
from teeth_agent.tasks.context import Scope, SharedState, TaskContext, scope_of

DISK = "/dev/vdz1"
MIB = 1 << 20
ONE, TWO = random.Random(1).randbytes(300 << 10), random.Random(2).randbytes(200 << 10)
needs_loop = pytest.mark.skipif(not diskimages.can_loop(), reason="needs root and loop devices")


def image(name, content, *urls, **more):
    return {
        "id": name, "name": name, "urls": list(urls), "size": len(content),
        "digest": "sha256:" + hashlib.sha256(content).hexdigest(), "format": "raw", **more,
    }  # fmt: skip


def command(*images, **more):
    return {"task_id": "t", "images": list(images), **more}


@pytest.fixture
def mounts(tmp_path):
    return FolderMounts(tmp_path / "partitions")


def context_of(tmp_path, mounts, *, available=2 << 30, **more):
    proc = tmp_path / "root/proc"
    proc.mkdir(parents=True, exist_ok=True)
    (proc / "meminfo").write_text(f"MemTotal: {4 << 20} kB\nMemAvailable: {available >> 10} kB\n")
    cache = ImageCache(
        look=lambda: [CachePartition(path=path, identity="S1", size=1) for path in mounts.disks],
        mounts=mounts,
        folder=tmp_path / "cache",
        root=tmp_path / "root",
    )
    return TaskContext(boot_id="b", cache=cache, **more)


def cached(result):
    assert valid("standbye.cache_images.outcome", result)
    return {one["id"]: (one["cached"], one["reason"]) for one in result["images"]}


def test_images_get_onto_the_disk_that_is_set_aside(tmp_path, mounts):
    folder = mounts.add(DISK)
    claimed, state = [], SharedState()
    state.mark_zero("S1")
    context = context_of(tmp_path, mounts, claim=claimed.extend, state=state)
    reporter = ToldReporter()
    with serving(ONE) as one, serving(TWO) as two:
        wanted = command(image("one", ONE, one.url()), image("two", TWO, two.url()))
        result = run(wanted, context, reporter)
        assert cached(result) == {"one": (True, ""), "two": (True, "")}
        assert result["place"] == "disk"
        assert claimed == ["S1"]
        assert not state.is_zero("S1")
        assert mounts.attached == []
        assert [entry.complete for entry in Store(folder).entries()] == [True, True]
        percents = [call["percent"] for call in reporter.progress_calls]
        assert percents == sorted(percents)
        assert {call["step"] for call in reporter.progress_calls} == {"fetch"}
        assert reporter.progress_calls[-1]["bytes_done"] == len(ONE) + len(TWO)
        # Another time, another boot: all of it is looked at, none of it fetched.
        again = ToldReporter()
        run(wanted, context_of(tmp_path, mounts), again)
        assert {call["step"] for call in again.progress_calls} == {"verify"}
        assert len(one.requests) == len(two.requests) == 1


def test_a_byte_that_was_changed_on_the_disk_is_detected_and_fetched_again(tmp_path, mounts):
    folder = mounts.add(DISK)
    with serving(ONE) as server:
        wanted = command(image("one", ONE, server.url()))
        run(wanted, context_of(tmp_path, mounts), ToldReporter())
        path = next(folder.glob("*.image"))
        content = bytearray(path.read_bytes())
        content[1000] ^= 1
        path.write_bytes(content)
        reporter = ToldReporter()
        result = run(wanted, context_of(tmp_path, mounts), reporter)
        assert cached(result) == {"one": (True, "")}
        assert path.read_bytes() == ONE
        assert len(server.requests) == 2


def test_memory_has_a_budget_and_says_its_figures(tmp_path, mounts):
    total = 4 << 30
    budget = needed(len(ONE)) + 10
    context = context_of(tmp_path, mounts, available=memory_reserve(total) + budget + 1023 & ~1023)
    reporter = ToldReporter()
    with serving(ONE) as one, serving(TWO) as two:
        result = run(command(image("one", ONE, one.url()), image("two", TWO, two.url())), context, reporter)
        assert result["place"] == "memory"
        assert budget <= result["budget"] < budget + 1024
        found = cached(result)
        assert found["one"] == (True, "")
        assert found["two"][0] is False
        assert f"needs {needed(len(TWO))} bytes" in found["two"][1]
        assert two.requests == []
    planned = next(log for log in reporter.logs if log["event"] == "cache_planned")
    assert planned["memory_reserved"] == memory_reserve(total)
    assert planned["memory_available"] - planned["memory_reserved"] == planned["budget"]
    assert mounts.memory_sizes == [max(result["budget"], MIB)]


def test_what_is_not_named_goes_when_room_is_needed(tmp_path, mounts):
    total = 4 << 30
    budget = needed(len(ONE)) + needed(len(TWO)) - 1
    context = context_of(tmp_path, mounts, available=memory_reserve(total) + budget & ~1023)
    with serving(ONE) as one, serving(TWO) as two:
        run(command(image("one", ONE, one.url())), context, ToldReporter())
        # What the cache holds is not free any more.
        held = needed(len(ONE))
        meminfo = tmp_path / "root/proc/meminfo"
        available = memory_reserve(total) + budget - held
        meminfo.write_text(f"MemTotal: {4 << 20} kB\nMemAvailable: {available >> 10} kB\n")
        reporter = ToldReporter()
        result = run(command(image("two", TWO, two.url())), context, reporter)
        assert cached(result) == {"two": (True, "")}
        planned = next(log for log in reporter.logs if log["event"] == "cache_planned")
        assert planned["evicted"] == ["sha256:" + hashlib.sha256(ONE).hexdigest()]
        assert len(list((tmp_path / "cache/memory").glob("*.image"))) == 1


def test_an_image_that_cannot_be_had_does_not_keep_the_others_out(tmp_path, mounts):
    mounts.add(DISK)
    with serving(b"", status(404)) as gone, serving(bytes(len(TWO))) as lying, serving(ONE) as good:
        result = run(
            command(
                image("gone", b"x", gone.url()),
                image("lying", TWO, lying.url()),
                image("one", ONE, good.url()),
            ),
            context_of(tmp_path, mounts),
            ToldReporter(),
        )
        found = cached(result)
        assert found["gone"][0] is False
        assert "404" in found["gone"][1]
        assert found["lying"][0] is False
        assert "digest" in found["lying"][1]
        assert found["one"] == (True, "")


def test_a_cancelled_one_tells_what_it_has_and_goes_on_from_there(tmp_path, mounts):
    mounts.add(DISK)
    with serving(ONE) as one, serving(TWO) as two:
        wanted = command(image("one", ONE, one.url()), image("two", TWO, two.url()))
        with pytest.raises(Cancelled) as caught:
            run(wanted, context_of(tmp_path, mounts), ToldReporter(cancel_after=1))
        said = cached(dict(caught.value.detail))
        assert said["two"] == (False, "not reached")
        assert mounts.attached == []
        assert cached(run(wanted, context_of(tmp_path, mounts), ToldReporter()))["one"] == (True, "")
        assert one.requests[1][1].startswith("bytes=")


def test_the_deadline_ends_it_with_what_there_is(tmp_path, mounts, monkeypatch):
    mounts.add(DISK)
    with serving(ONE) as one, serving(TWO, status(503, Retry_After=60)) as two:
        wanted = command(image("one", ONE, one.url()), image("two", TWO, two.url()), deadline=1)
        with pytest.raises(AgentError) as caught:
            run(wanted, context_of(tmp_path, mounts), ToldReporter())
        assert caught.value.code == "fetch_deadline"
        said = cached(dict(caught.value.detail))
        assert said["one"] == (True, "")
        assert "within" in said["two"][1]


def test_a_disk_that_another_task_has_is_not_touched(tmp_path, mounts):
    mounts.add(DISK)

    def claim(identities):
        raise AgentError("task x is using S1", code="device_busy")

    with pytest.raises(AgentError) as caught:
        run(
            command(image("one", ONE, "http://127.0.0.1:9/")),
            context_of(tmp_path, mounts, claim=claim),
            ToldReporter(),
        )
    assert caught.value.code == "device_busy"
    assert mounts.attached == []


def test_it_meets_only_what_is_after_the_whole_machine():
    assert scope_of("standbye.cache_images", {}) is Scope.SOME


# --- which partition


def disk(name, *parts, **more):
    partitions = tuple(
        Partition(name=part, size=MIB, holders=(), mounts=mounts, swap=False) for part, mounts in parts
    )
    return disk_at(__file__, name=name, partitions=partitions, **more)


def named(tmp_path, **names):
    for partition, name in names.items():
        folder = tmp_path / f"sys/class/block/{partition}"
        folder.mkdir(parents=True)
        (folder / "uevent").write_text(f"MAJOR=8\nPARTN=1\n{'PARTNAME=' + name if name else ''}\n")
    return tmp_path


def test_only_a_partition_with_the_name_is_taken(tmp_path):
    root = named(tmp_path, sda1="EFI", sda2=LABEL, sdb1="", sdb2="teeth-cache2")
    disks = [disk("sda", ("sda1", ()), ("sda2", ())), disk("sdb", ("sdb1", ()), ("sdb2", ()))]
    assert [one.path for one in partitions_of(disks, root)] == ["/dev/sda2"]


@pytest.mark.parametrize(
    "more",
    [
        {"transport": "iscsi"},
        {"read_only": True},
        {"out_of_scope": "assembled from other disks"},
        {"virtual_media": "of the management controller"},
    ],
)
def test_a_disk_that_is_not_this_machines_own_is_not_taken(tmp_path, more):
    root = named(tmp_path, sda1=LABEL)
    assert partitions_of([disk("sda", ("sda1", ()), **more)], root) == []


def test_a_mount_of_our_own_is_not_somebody_elses_use(tmp_path):
    root = named(tmp_path, sda1=LABEL, sdb1=LABEL)
    disks = [disk("sda", ("sda1", ("/run/teeth/cache/disk",))), disk("sdb", ("sdb1", ("/srv",)))]
    assert [one.in_use for one in partitions_of(disks, root)] == [(), ("it is mounted at /srv",)]


def test_of_several_the_largest_is_taken():
    def one(path, size, identity):
        return CachePartition(path=path, identity=identity, size=size)

    assert choose([one("a", 1, "z"), one("b", 2, "z"), one("c", 2, "y")]).path == "c"
    assert choose([]) is None


# --- real file systems


@contextmanager
def loop(path):
    made = subprocess.run(
        ["losetup", "--find", "--show", str(path)], capture_output=True, text=True, check=True
    ).stdout.strip()
    try:
        yield made
    finally:
        subprocess.run(["losetup", "--detach", made], check=True)


@needs_loop
def test_a_file_system_is_made_kept_and_mounted_so_that_nothing_in_it_acts(tmp_path):
    backing = tmp_path / "partition"
    with backing.open("wb") as stream:
        stream.truncate(64 * MIB)
    subprocess.run(["mkfs.vfat", str(backing)], check=True, capture_output=True)
    point = tmp_path / "point"
    point.mkdir()
    mounts = SystemMounts()
    with loop(backing) as device:
        assert not mounts.attach_disk(device, point, make=False)
        assert mounts.attach_disk(device, point, make=True)
        try:
            lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
            options = next(line.split()[5] for line in lines if line.split()[4] == str(point))
            assert {"nosuid", "nodev", "noexec", "rw"} <= set(options.split(","))
            (point / "kept").write_text("x")
        finally:
            mounts.detach(point)
        assert mounts.attach_disk(device, point, make=True)
        try:
            assert (point / "kept").read_text() == "x"
        finally:
            mounts.detach(point)
    # Its head overwritten: a new one is made.
    with backing.open("r+b") as stream:
        stream.write(os.urandom(4096))
    with loop(backing) as device:
        assert mounts.attach_disk(device, point, make=True)
        try:
            assert not (point / "kept").exists()
        finally:
            mounts.detach(point)


@needs_loop
def test_the_place_in_memory_has_the_size_it_was_given_last(tmp_path):
    point = tmp_path / "memory"
    point.mkdir()
    mounts = SystemMounts()
    mounts.attach_memory(point, 4 * MIB)
    try:
        (point / "kept").write_text("x")
        mounts.attach_memory(point, 8 * MIB)
        found = os.statvfs(point)
        assert found.f_blocks * found.f_frsize == 8 * MIB
        assert (point / "kept").exists()
        with pytest.raises(OSError, match="No space"):
            (point / "large").write_bytes(bytes(9 * MIB))
    finally:
        mounts.detach(point)


# --- sharing


def chunked(name, content, *urls, **more):
    size = 64 << 10
    digests = [hashlib.sha256(content[at : at + size]).hexdigest() for at in range(0, len(content), size)]
    return image(name, content, *urls, chunks={"size": size, "digests": digests}, **more)


@pytest.fixture
def sharing():
    sharing = Sharing("127.0.0.1/8")
    yield sharing
    sharing.close()


def shared_name(content):
    return f"/images/sha256-{hashlib.sha256(content).hexdigest()}"


def test_one_machine_caches_from_the_server_and_the_next_from_that_machine(tmp_path, mounts, sharing):
    """Two caches, on disk here and in memory there; an image without chunks is cached and not shared."""
    mounts.add(DISK)
    context = context_of(tmp_path, mounts, sharing=sharing)
    with serving(ONE) as one, serving(TWO) as two:
        wanted = command(chunked("one", ONE, one.url()), image("two", TWO, two.url()), share=True)
        result = run(wanted, context, ToldReporter())
        assert cached(result) == {"one": (True, ""), "two": (True, "")}
        url = result["shared_at"]
        assert url.startswith("http://127.0.0.1:")
        other = context_of(tmp_path / "other", FolderMounts(tmp_path / "other/partitions"))
        peers = command(
            chunked("one", ONE, one.url(), peers=[url + shared_name(ONE)]),
            chunked("two", TWO, two.url(), peers=[url + shared_name(TWO)]),
        )
        reporter = ToldReporter()
        result = run(peers, other, reporter)
        assert cached(result) == {"one": (True, ""), "two": (True, "")}
        assert result["shared_at"] is None
        assert (len(one.requests), len(two.requests)) == (1, 2)


def test_a_list_without_share_ends_the_sharing_and_the_disk_is_let_go(tmp_path, mounts, sharing):
    mounts.add(DISK)
    context = context_of(tmp_path, mounts, sharing=sharing)
    with serving(ONE) as server:
        wanted = chunked("one", ONE, server.url())
        url = run(command(wanted, share=True), context, ToldReporter())["shared_at"]
        with urllib.request.urlopen(url + shared_name(ONE), timeout=20) as response:
            assert response.read() == ONE
        assert run(command(wanted), context, ToldReporter())["shared_at"] is None
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(url + shared_name(ONE), timeout=20)
        assert mounts.attached == []


def test_what_cannot_be_shared_is_cached_all_the_same(tmp_path, mounts):
    mounts.add(DISK)
    reporter = ToldReporter()
    with serving(ONE) as server:
        result = run(
            command(chunked("one", ONE, server.url()), share=True), context_of(tmp_path, mounts), reporter
        )
    assert cached(result) == {"one": (True, "")}
    assert result["shared_at"] is None
    assert any("share_failed" in str(said) for said in reporter.logs)


def test_a_machine_that_takes_only_signed_images_shares_no_other(tmp_path, mounts, sharing):
    mounts.add(DISK)
    context = context_of(tmp_path, mounts, sharing=sharing, image_key="sha256:" + "0" * 64)
    reporter = ToldReporter()
    with serving(ONE) as server:
        result = run(command(chunked("one", ONE, server.url()), share=True), context, reporter)
    assert cached(result) == {"one": (True, "")}
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(result["shared_at"] + shared_name(ONE), timeout=20)
    assert any(said["event"] == "image_not_shared" for said in reporter.logs)
