"""The cache's parts: index, store, filling, and reading out of it."""

from __future__ import annotations

import hashlib
import json
import os
import random
from dataclasses import replace

import pytest

from fakes.cache_mounts import FolderMounts
from fakes.imageserver import serving, status, whole
from teeth_agent.errors import AgentError, Cancelled
from teeth_agent.image.cache import index
from teeth_agent.image.cache.cache import ImageCache
from teeth_agent.image.cache.fill import fill
from teeth_agent.image.cache.index import Entry
from teeth_agent.image.cache.place import CachePartition
from teeth_agent.image.cache.store import Store
from teeth_agent.image.fetch import Fetch
from teeth_agent.image.params import ImageSpec, ManifestSpec
from teeth_agent.image.source import Deadline
from teeth_agent.image.sourcing import open_source
from teeth_image.manifest import Contents, ImageManifest
from teeth_protocol.wire.standbye import Chunks

CHUNK = 64 << 10
CONTENT = random.Random(5).randbytes(10 * CHUNK + 77)
DISK = "/dev/vdz1"


def spec(*urls, chunked=False, content=CONTENT, **more):
    digests = tuple(
        hashlib.sha256(content[start : start + CHUNK]).hexdigest() for start in range(0, len(content), CHUNK)
    )
    return ImageSpec(
        id="i", name="n", urls=urls, size=len(content),
        digest=f"sha256:{hashlib.sha256(content).hexdigest()}",
        compression="none", raw_size=None, raw_digest=None,
        chunks=Chunks(size=CHUNK, digests=digests) if chunked else None, **more,
    )  # fmt: skip


def fetch_of(image):
    return lambda: Fetch(image, pause=lambda seconds: None)


def filled(store, image, tick=lambda done, fetch: None):
    return fill(store, image, fetch_of(image), tick)


def content_of(store, digest):
    with store.opened(digest) as file:
        return os.pread(file, 1 << 30, 0)


def spoil(store, digest, offset):
    with store.opened(digest) as file:
        byte = os.pread(file, 1, offset)
        os.pwrite(file, bytes([byte[0] ^ 1]), offset)


@pytest.fixture
def store(tmp_path):
    (tmp_path / "store").mkdir()
    return Store(tmp_path / "store")


def reopened(store):
    return Store(store.folder)


# --- the index


ENTRY = Entry(digest="sha256:" + "ab" * 32, name="n", size=10, held=5, rank=1)


def test_the_index_is_read_as_it_was_written(tmp_path):
    index.save(tmp_path, [ENTRY])
    assert index.load(tmp_path) == {ENTRY.digest: ENTRY}


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_write_that_is_cut_short_leaves_the_old_index(tmp_path, monkeypatch, fails):
    index.save(tmp_path, [ENTRY])

    def cut(*arguments, **options):
        raise OSError(5, "power")

    monkeypatch.setattr(os if fails == "fsync" else index.Path, fails, cut)
    with pytest.raises(OSError, match="power"):
        index.save(tmp_path, [replace(ENTRY, held=10)])
    monkeypatch.undo()
    assert index.load(tmp_path) == {ENTRY.digest: ENTRY}
    index.save(tmp_path, [replace(ENTRY, held=10)])  # what was left of it is not in the way
    assert index.load(tmp_path)[ENTRY.digest].complete


GOOD = {"digest": ENTRY.digest, "name": "n", "size": 10, "held": 5, "rank": 1}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff" * 100,
        b"[]",
        json.dumps({"version": 2, "entries": []}).encode(),
        json.dumps({"version": 1, "entries": [], "more": 1}).encode(),
        json.dumps({"version": 1, "entries": [{**GOOD, "held": 11}]}).encode(),
        json.dumps({"version": 1, "entries": [{**GOOD, "digest": "sha256:../../etc/passwd"}]}).encode(),
        json.dumps({"version": 1, "entries": [{**GOOD, "manifest": "../x"}]}).encode(),
        json.dumps({"version": 1, "entries": [GOOD, GOOD]}).encode(),
        b" " * (5 << 20),
    ],
)
def test_an_index_that_cannot_be_right_counts_as_none(tmp_path, content):
    (tmp_path / index.NAME).write_bytes(content)
    assert index.load(tmp_path) is None


def test_an_index_that_leads_elsewhere_or_waits_counts_as_none(tmp_path):
    index.save(tmp_path, [ENTRY])
    (tmp_path / index.NAME).rename(tmp_path / "real")
    (tmp_path / index.NAME).symlink_to(tmp_path / "real")
    assert index.load(tmp_path) is None
    (tmp_path / index.NAME).unlink()
    os.mkfifo(tmp_path / index.NAME)
    assert index.load(tmp_path) is None


# --- filling


@pytest.mark.parametrize("chunked", [False, True])
def test_an_image_gets_in_whole_and_is_there_afterwards(store, chunked):
    with serving(CONTENT) as server:
        image = spec(server.url(), chunked=chunked)
        done = filled(store, image)
        assert (done.kept, done.fetched, done.mended) == (0, len(CONTENT), 0)
        again = reopened(store)
        assert again.entry(image.digest).complete
        assert content_of(again, image.digest) == CONTENT
        done = filled(again, image)
        assert (done.kept, done.fetched) == (len(CONTENT), 0)
        assert len(server.requests) == 1


@pytest.mark.parametrize("chunked", [False, True])
def test_a_fetch_that_was_cut_short_goes_on_where_it_was(store, chunked):
    cut = 4 * CHUNK + 100
    with serving(CONTENT, whole(cut_after=cut), status(404)) as server, pytest.raises(AgentError):
        filled(store, spec(server.url(), chunked=chunked))
    with serving(CONTENT) as server:
        image = spec(server.url(), chunked=chunked)
        done = filled(reopened(store), image)
        start = 4 * CHUNK if chunked else cut
        assert server.requests == [("/image", f"bytes={start}-")]
        assert done.kept == start
        assert content_of(store, image.digest) == CONTENT


def test_a_power_cut_costs_what_was_not_flushed_yet(store, monkeypatch):
    monkeypatch.setattr("teeth_agent.image.cache.fill._STEP", 2 * CHUNK)

    class PowerCut(BaseException):
        pass

    def tick(done, fetch):
        if done > 7 * CHUNK:
            raise PowerCut

    with serving(CONTENT) as server:
        image = spec(server.url(), chunked=True)
        with pytest.raises(PowerCut):
            filled(store, image, tick)
        left = reopened(store)
        held = left.entry(image.digest).held
        assert held == 6 * CHUNK
        # What was written behind that may be anything.
        with left.opened(image.digest) as file:
            os.pwrite(file, bytes(CHUNK), held)
        filled(left, image)
        assert server.requests[1] == ("/image", f"bytes={held}-")
        assert content_of(left, image.digest) == CONTENT


def test_wrong_chunks_are_fetched_alone(store):
    with serving(CONTENT) as server:
        image = spec(server.url(), chunked=True)
        filled(store, image)
        spoil(store, image.digest, 3 * CHUNK + 9)
        spoil(store, image.digest, len(CONTENT) - 1)
        done = filled(reopened(store), image)
        assert done.mended == 2
        assert done.fetched == CHUNK + 77
        assert content_of(store, image.digest) == CONTENT


def test_without_chunks_a_wrong_byte_means_once_more_from_the_start(store):
    with serving(CONTENT) as server:
        image = spec(server.url())
        filled(store, image)
        spoil(store, image.digest, 3 * CHUNK + 9)
        done = filled(reopened(store), image)
        assert done.fetched == len(CONTENT)
        assert content_of(store, image.digest) == CONTENT


def test_what_the_server_has_is_not_called_whole_if_it_is_something_else(store):
    other = bytes(len(CONTENT))
    with serving(other) as server:
        image = spec(server.url())
        with pytest.raises(AgentError) as caught:
            filled(store, image)
        assert caught.value.code == "digest_mismatch"
        assert reopened(store).entry(image.digest).held == 0


def test_a_cancel_ends_it_and_keeps_what_there_is(store):
    def tick(done, fetch):
        if done >= 5 * CHUNK:
            raise Cancelled("told to stop")

    with serving(CONTENT) as server:
        image = spec(server.url(), chunked=True)
        with pytest.raises(Cancelled):
            filled(store, image, tick)
        assert reopened(store).entry(image.digest).held == 5 * CHUNK


def test_what_the_index_does_not_know_is_swept_away(store):
    (store.folder / "sha256-00.image").write_bytes(b"x")
    (store.folder / "evil").symlink_to("/etc")
    (store.folder / "lost+found").mkdir()
    with serving(CONTENT) as server:
        filled(store, spec(server.url()))
    store.sweep()
    names = {path.name for path in store.folder.iterdir()}
    assert names == {"lost+found", index.NAME, spec().digest.replace(":", "-") + ".image"}


def test_ranks_follow_the_last_list(store):
    store.put(replace(ENTRY, digest="sha256:" + "aa" * 32))
    store.put(replace(ENTRY, digest="sha256:" + "bb" * 32))
    store.rank(["sha256:" + "bb" * 32])
    ranks = {one.digest[7:9]: one.rank for one in reopened(store).entries()}
    assert ranks == {"bb": 0, "aa": 2}


# --- out of it


@pytest.fixture
def mounts(tmp_path):
    found = FolderMounts(tmp_path / "partitions")
    found.add(DISK)
    return found


@pytest.fixture
def cache(tmp_path, mounts):
    return cache_of(tmp_path, mounts)


def cache_of(tmp_path, mounts, in_use=()):
    def look():
        return [CachePartition(path=path, identity="S1", size=1, in_use=in_use) for path in mounts.disks]

    proc = tmp_path / "root/proc"
    proc.mkdir(parents=True, exist_ok=True)
    (proc / "meminfo").write_text("MemTotal: 4194304 kB\nMemAvailable: 2097152 kB\n")
    return ImageCache(look=look, mounts=mounts, folder=tmp_path / "cache", root=tmp_path / "root")


def put(cache, image):
    with cache.filling(lambda identities: None) as site:
        filled(site.store, image)
        return site.kind


def opened(image, cache):
    return open_source(image, cache, deadline=Deadline())


def spoil_on_disk(mounts, image, offset):
    spoil(Store(mounts.disks[DISK]), image.digest, offset)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_cached_image_needs_no_network(tmp_path, mounts, cache, chunked):
    with serving(CONTENT) as server:
        image = spec(server.url(), chunked=chunked)
        assert put(cache, image) == "disk"
    for at_boot in (cache, cache_of(tmp_path, mounts)):
        with opened(image, at_boot) as source:
            assert source.kind == "cache"
            assert b"".join(bytes(block) for block in source) == CONTENT
            assert source.proven
            assert source.fetched_bytes == 0
            assert source.read(CHUNK - 5, 10) == CONTENT[CHUNK - 5 : CHUNK + 5]
        assert mounts.attached == []  # nothing stays mounted


def test_a_damaged_chunk_is_mended_from_the_network_and_no_wrong_byte_is_given_out(mounts, cache):
    with serving(CONTENT) as server:
        image = spec(server.url(), chunked=True)
        put(cache, image)
        spoil_on_disk(mounts, image, 4 * CHUNK + 1)
        spoil_on_disk(mounts, image, 9 * CHUNK + 1)
        with opened(image, cache) as source:
            assert source.read(9 * CHUNK, 5) == CONTENT[9 * CHUNK : 9 * CHUNK + 5]
            assert b"".join(bytes(block) for block in source) == CONTENT
            assert source.proven
            assert source.fetched_bytes == 2 * CHUNK
        with opened(image, cache) as source:
            assert b"".join(bytes(block) for block in source) == CONTENT
            assert source.fetched_bytes == 0


def test_without_chunks_a_damaged_image_is_found_before_its_first_byte_is_used(tmp_path, mounts, cache):
    with serving(CONTENT) as server:
        image = spec(server.url())
        put(cache, image)
        spoil_on_disk(mounts, image, 1)
        after_reboot = cache_of(tmp_path, mounts)
        with opened(image, after_reboot) as source:
            assert source.kind == "network"
            assert b"".join(bytes(block) for block in source) == CONTENT
        assert Store(mounts.disks[DISK]).entry(image.digest) is None


def test_without_chunks_damage_while_it_is_read_is_not_called_proven(mounts, cache):
    with serving(CONTENT) as server:
        image = spec(server.url())
        put(cache, image)
        with opened(image, cache) as source:
            spoil(Store(cache._places._disk_point), image.digest, 1)
            with pytest.raises(AgentError) as caught:
                list(source)
            assert caught.value.code == "digest_mismatch"
            assert not source.proven
        with opened(image, cache) as source:
            assert source.kind == "network"


def test_an_image_that_is_not_whole_or_not_there_comes_from_the_network(cache):
    with serving(CONTENT, whole(cut_after=5 * CHUNK), status(404), whole()) as server:
        image = spec(server.url())
        with pytest.raises(AgentError):
            put(cache, image)
        with opened(image, cache) as source:
            assert source.kind == "network"
            assert b"".join(bytes(block) for block in source) == CONTENT


def test_a_cache_that_cannot_be_mounted_is_left_aside(mounts, cache, caplog):
    with serving(CONTENT) as server:
        image = spec(server.url())
        put(cache, image)
        mounts.refuse = True
        with opened(image, cache) as source:
            assert source.kind == "network"
        assert "cannot be read" in caplog.text
        assert put(cache, image) == "memory"
        with opened(image, cache) as source:
            assert source.kind == "cache"


def test_reading_does_not_make_a_cache_where_there_is_none(mounts, cache):
    mounts.disks[DISK] = None
    with serving(CONTENT) as server:
        with opened(spec(server.url()), cache) as source:
            assert source.kind == "network"
        assert mounts.made == []
        put(cache, spec(server.url()))
        assert mounts.made == [DISK]


def test_a_partition_that_somebody_uses_is_left_alone(tmp_path, mounts):
    cache = cache_of(tmp_path, mounts, in_use=("it is mounted at /srv",))
    with serving(CONTENT) as server:
        assert put(cache, spec(server.url())) == "memory"


def test_one_task_at_a_time_fills_it(cache):
    with cache.filling(lambda identities: None):
        with pytest.raises(AgentError) as caught, cache.filling(lambda identities: None):
            pass
        assert caught.value.code == "cache_busy"
    with cache.filling(lambda identities: None):
        pass


def test_two_readers_and_a_writer_share_the_mount(mounts, cache):
    with serving(CONTENT) as server:
        image = spec(server.url(), chunked=True)
        put(cache, image)
        with opened(image, cache) as one, opened(image, cache) as two:
            assert mounts.attached == [DISK]
            with cache.filling(lambda identities: None) as site:
                site.store.drop(image.digest)
            # What is open stays readable, whatever becomes of its name.
            assert b"".join(bytes(block) for block in one) == CONTENT
            assert b"".join(bytes(block) for block in two) == CONTENT
        assert mounts.attached == []


def test_the_manifest_is_kept_so_that_nothing_has_to_be_fetched(cache):
    digests = spec(chunked=True).chunks.digests
    manifest = ImageManifest.of(
        Contents(
            name="n", kind="disk", format="raw", compression="none", architecture="any", size=len(CONTENT),
            digest=spec().digest, chunk_size=CHUNK, chunks=digests,
        )
    ).dumps()  # fmt: skip
    named = ManifestSpec(
        urls=("http://127.0.0.1:9/m",),
        size=len(manifest),
        digest=f"sha256:{hashlib.sha256(manifest).hexdigest()}",
    )
    with serving(CONTENT) as server, serving(manifest) as vouching:
        image = spec(server.url(), manifest=replace(named, urls=(vouching.url(),)))
        with opened(image, cache) as source:
            assert source.manifest.chunks == digests
        with cache.filling(lambda identities: None) as site:
            filled(site.store, image)
            site.store.put_manifest(named.digest, manifest)
    with opened(replace(image, manifest=named), cache) as source:
        assert source.manifest.chunks == digests
        assert b"".join(bytes(block) for block in source) == CONTENT


def test_the_deadline_ends_the_first_look_at_an_image_without_chunks(tmp_path, mounts, cache):
    now = [0.0]
    with serving(CONTENT) as server:
        image = spec(server.url())
        put(cache, image)
        deadline = Deadline(5, clock=lambda: now[0])
        now[0] = 6
        with (
            pytest.raises(AgentError) as caught,
            open_source(image, cache_of(tmp_path, mounts), deadline=deadline),
        ):
            pass
        assert caught.value.code == "fetch_deadline"
        assert mounts.attached == []


def test_a_mount_that_does_not_come_off_spoils_nothing_that_was_done(mounts, cache, caplog):
    mounts.keep = True
    with serving(CONTENT) as server:
        assert put(cache, spec(server.url())) == "disk"
    assert "stays mounted" in caplog.text
