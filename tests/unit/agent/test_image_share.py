"""Serving cached images to other machines, over real sockets; fetching from such machines, bad ones too."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import random
import socket
import threading

import pytest

from fakes.imageserver import serving, whole
from teeth_agent.errors import AgentError
from teeth_agent.image.chunks import ChunkDigests
from teeth_agent.image.fetch import Fetch
from teeth_agent.image.held import HeldImage, VerifiedChunks
from teeth_agent.image.origins import Patience
from teeth_agent.image.params import ImageSpec
from teeth_agent.image.share import ImageShare, ShareLimits, Throttle
from teeth_agent.image.sharing import Sharing
from teeth_protocol.wire.standbye import Chunks

CHUNK = 64 << 10
CONTENT = random.Random(3).randbytes(5 * CHUNK + 1000)
HEX = hashlib.sha256(CONTENT).hexdigest()
PATH = f"/images/sha256-{HEX}"
DIGESTS = tuple(hashlib.sha256(CONTENT[at : at + CHUNK]).hexdigest() for at in range(0, len(CONTENT), CHUNK))


class Cached:
    """A file with the image; what was asked for is in ``asked``."""

    def __init__(self, path, content=CONTENT):
        path.write_bytes(content)
        self.path = path
        self.asked = []
        self.chunks = VerifiedChunks(ChunkDigests(size=len(CONTENT), chunk=CHUNK, digests=DIGESTS))

    @contextlib.contextmanager
    def find(self, digest):
        self.asked.append(digest)
        if digest != HEX:
            yield None
            return
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            yield HeldImage(descriptor=descriptor, chunks=self.chunks)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def shared(cached, address="127.0.0.1/8", **limits):
    share = ImageShare(address, limits=ShareLimits(**limits))
    try:
        yield share.open(cached.find)
    finally:
        share.close()


@pytest.fixture
def cached(tmp_path):
    return Cached(tmp_path / "image")


def connect(url):
    return http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)


def ask(url, path=PATH, method="GET", **headers):
    with contextlib.closing(connect(url)) as connection:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read()


def spec(*, peers=(), urls=("http://127.0.0.1:1/never",)):
    return ImageSpec(
        id="i", name="n", urls=tuple(urls), size=len(CONTENT), digest=f"sha256:{HEX}", compression="none",
        raw_size=None, raw_digest=None, chunks=Chunks(size=CHUNK, digests=DIGESTS),
        peers=tuple(f"{url}{PATH}" for url in peers),
    )  # fmt: skip


def fetched(image, **options):
    fetch = Fetch(image, pause=lambda seconds: None, **options)
    return b"".join(bytes(block) for block in fetch), fetch


# --- what is served


def test_an_image_is_served_whole_and_in_ranges(cached):
    with shared(cached) as url:
        code, headers, body = ask(url)
        assert (code, body, headers["Content-Length"]) == (200, CONTENT, str(len(CONTENT)))
        for said, start, end in (
            ("bytes=0-0", 0, 1),
            (f"bytes={CHUNK - 5}-{CHUNK + 5}", CHUNK - 5, CHUNK + 6),
            ("bytes=100-", 100, len(CONTENT)),
            (f"bytes=7-{10**12}", 7, len(CONTENT)),
        ):
            code, headers, body = ask(url, Range=said)
            assert (code, body) == (206, CONTENT[start:end])
            assert headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(CONTENT)}"
        code, headers, body = ask(url, Range=f"bytes={len(CONTENT)}-")
        assert (code, headers["Content-Range"]) == (416, f"bytes */{len(CONTENT)}")
        assert ask(url, method="HEAD")[1]["Content-Length"] == str(len(CONTENT))


@pytest.mark.parametrize(
    "path",
    [
        "/", "/images", "/images/", f"/images/{HEX}", f"/images/sha256-{HEX}/", f"{PATH}/manifest",
        f"{PATH}?x=1", f"{PATH}%00", f"/images/sha256-{HEX.upper()}", "/images/sha256-../../etc/passwd",
        "/images/../../../etc/passwd", "/images/..%2f..%2fetc%2fpasswd", "/etc/passwd", f"http://x{PATH}",
    ],
)  # fmt: skip
def test_no_other_path_reaches_the_cache(cached, path):
    with shared(cached) as url:
        assert ask(url, path)[0] == 404
    assert cached.asked == []


def test_an_image_that_is_not_held_is_not_there(cached):
    with shared(cached) as url:
        assert ask(url, f"/images/sha256-{'0' * 64}")[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE"])
def test_it_is_read_only(cached, method):
    with shared(cached) as url:
        assert ask(url, method=method)[0] == 501
    assert cached.asked == []


def test_a_chunk_that_the_disk_has_changed_is_not_given_out(tmp_path):
    bad = bytearray(CONTENT)
    bad[2 * CHUNK + 17] ^= 1
    with shared(Cached(tmp_path / "image", bytes(bad))) as url:
        with pytest.raises(http.client.IncompleteRead) as caught:
            ask(url)
        assert caught.value.partial == CONTENT[: 2 * CHUNK]
        assert ask(url, Range=f"bytes={3 * CHUNK}-")[2] == CONTENT[3 * CHUNK :]


def test_a_file_that_was_cut_short_ends_the_connection(tmp_path):
    with shared(Cached(tmp_path / "image", CONTENT[:-1])) as url, pytest.raises(http.client.IncompleteRead):
        ask(url)


# --- to whom, and how much


def test_whoever_is_outside_the_segment_gets_no_answer(cached):
    """The client's address is 127.0.0.1; the server's network is another part of the loopback."""
    with shared(cached, "127.9.0.1/16") as url, pytest.raises((http.client.HTTPException, ConnectionError)):
        ask(url)
    assert cached.asked == []


def test_it_listens_on_its_own_address_only(cached):
    with shared(cached, "127.9.0.1/8") as url:
        assert url.startswith("http://127.9.0.1:")
        assert ask(url)[2] == CONTENT
        with pytest.raises(ConnectionRefusedError):
            ask(url.replace("127.9.0.1", "127.0.0.1"))


def test_connections_are_bounded_and_a_place_comes_free_again(cached):
    with shared(cached, connections=3, connections_of_one=2) as url, contextlib.ExitStack() as held:
        for _ in range(2):
            connection = held.enter_context(contextlib.closing(connect(url)))
            connection.request("GET", PATH)
            assert connection.getresponse().read() == CONTENT  # and stays open
        code, headers, _ = ask(url)
        assert (code, headers["Retry-After"]) == (503, "2")
        held.close()
        assert eventually(lambda: ask(url)[0]) == 200


def eventually(look, wanted=200):
    """What ``look`` says once it is as wanted; at most 20 s, pausing on an event that nobody sets."""
    pause = threading.Event()
    for _ in range(200):
        if (found := look()) == wanted:
            return found
        pause.wait(0.1)
    return found


@pytest.mark.parametrize("said", [b"", b"GET "])
def test_whoever_says_nothing_is_sent_away(cached, said):
    with shared(cached, idle=0.2) as url:
        host, _, port = url.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), 20) as client:
            client.sendall(said)
            assert client.recv(1 << 16) == b""


def test_whoever_does_not_read_is_sent_away(tmp_path):
    """More than the sockets hold is on its way, and nobody takes it."""
    content = bytes(64 << 20)
    held = Cached(tmp_path / "image", content)
    digests = [hashlib.sha256(content[:CHUNK]).hexdigest()] * (len(content) // CHUNK)
    held.chunks = VerifiedChunks(ChunkDigests(size=len(content), chunk=CHUNK, digests=digests))
    with shared(held, piece=0.3, connections=1) as url, contextlib.closing(connect(url)) as connection:
        connection.request("GET", PATH)
        response = connection.getresponse()
        assert response.status == 200
        # Its place, the only one, comes free although the connection is still open on this side.
        assert eventually(lambda: ask(url, method="HEAD")[0]) == 200


def test_the_rate_is_shared_by_all():
    now, slept = [100.0], []
    throttle = Throttle(1000, clock=lambda: now[0], sleep=slept.append)
    for _ in range(4):
        throttle.take(500)  # nobody waited: all at the same moment
    assert slept == [0.5, 1.0, 1.5]
    now[0] += 10
    throttle.take(500)
    assert len(slept) == 3


def test_an_address_that_is_not_here_is_one_clear_line(cached):
    with pytest.raises(AgentError, match="cannot be shared") as caught:
        ImageShare("192.0.2.7/24").open(cached.find)
    assert caught.value.code == "share_failed"


def test_opened_twice_it_is_one_server_and_closed_it_is_none(cached):
    share = ImageShare("127.0.0.1/8")
    url = share.open(cached.find)
    assert share.open(cached.find) == url
    share.close()
    with pytest.raises(ConnectionRefusedError):
        ask(url)
    share.close()


# --- fetching from such a machine


def test_an_image_comes_from_a_machine_beside_and_not_from_the_server(cached):
    with shared(cached) as url, serving(CONTENT) as server:
        content, fetch = fetched(spec(peers=[url], urls=[server.url()]))
        assert content == CONTENT
        assert (fetch.peer_bytes, fetch.fetched_bytes) == (len(CONTENT), len(CONTENT))
        assert server.requests == []


def test_a_lying_machine_is_dropped_after_its_first_chunk(cached):
    lies = bytearray(CONTENT)
    for at in range(CHUNK, len(lies), CHUNK):
        lies[at] ^= 0xFF
    with serving(bytes(lies)) as liar, shared(cached) as honest:
        content, fetch = fetched(spec(peers=[liar.url().removesuffix("/image"), honest]))
        assert content == CONTENT
        assert len(liar.requests) == 1
        assert fetch.peer_bytes >= len(CONTENT)


def test_with_nobody_but_liars_beside_it_the_server_is_asked():
    lies = bytes(len(CONTENT))
    with serving(lies) as one, serving(lies) as other, serving(CONTENT) as server:
        peers = [each.url().removesuffix("/image") for each in (one, other)]
        content, _ = fetched(spec(peers=peers, urls=[server.url()]))
        assert content == CONTENT
        assert (len(one.requests), len(other.requests), len(server.requests)) == (1, 1, 1)


def test_a_machine_that_vanishes_midway_costs_a_chunk_at_most(cached):
    """It is gone after two and a half chunks: the rest comes from the server, by Range."""
    gone = whole(cut_after=2 * CHUNK + CHUNK // 2)
    with serving(CONTENT, gone) as peer, serving(CONTENT) as server:
        # Each further connection to it brings nothing.
        peer.answers.append(whole(cut_after=0))
        content, fetch = fetched(spec(peers=[peer.url().removesuffix("/image")], urls=[server.url()]))
        assert content == CONTENT
        assert fetch.fetched_bytes - len(CONTENT) <= CHUNK
        start = int(server.requests[0][1].removeprefix("bytes=").partition("-")[0])
        assert start >= 2 * CHUNK


def test_a_machine_that_is_gone_already_costs_nothing_but_a_look(cached):
    share = ImageShare("127.0.0.1/8")
    url = share.open(cached.find)
    share.close()
    with serving(CONTENT) as server:
        content, fetch = fetched(spec(peers=[url], urls=[server.url()]))
        assert (content, fetch.peer_bytes) == (CONTENT, 0)


def test_a_full_machine_is_passed_over(cached):
    with shared(cached, connections=0) as full, shared(cached) as other:
        content, fetch = fetched(spec(peers=[full, other]))
        assert (content, fetch.peer_bytes) == (CONTENT, len(CONTENT))


def test_a_slow_machine_is_dropped_for_the_server(cached):
    release = threading.Event()

    def dripping(request):
        request.head(200, Content_Length=len(CONTENT))
        for at in range(0, 4000, 10):
            request.wfile.write(CONTENT[at : at + 10])
            request.wfile.flush()
            if release.wait(0.02):
                return

    impatient = Patience(fruitless=1, attempts=2, silence=5.0, window=0.2, least=CHUNK, bad_chunks=1)
    with serving(CONTENT, dripping) as slow, serving(CONTENT) as server:
        image = spec(peers=[slow.url().removesuffix("/image")], urls=[server.url()])
        try:
            content, fetch = fetched(image, peers=impatient)
        finally:
            release.set()
        assert content == CONTENT
        assert fetch.peer_bytes < CHUNK


def test_close_breaks_off_what_is_under_way(tmp_path):
    content = bytes(64 << 20)
    held = Cached(tmp_path / "image", content)
    digests = [hashlib.sha256(content[:CHUNK]).hexdigest()] * (len(content) // CHUNK)
    held.chunks = VerifiedChunks(ChunkDigests(size=len(content), chunk=CHUNK, digests=digests))
    share = ImageShare("127.0.0.1/8")
    with contextlib.closing(connect(share.open(held.find))) as connection:
        connection.request("GET", PATH)
        response = connection.getresponse()
        assert response.read(10) == bytes(10)
        assert share.close()  # its file is let go: a disk can be unmounted
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            response.read()


# --- what a machine shares


def test_what_is_shared_is_replaced_and_ends(cached):
    chunks = ChunkDigests(size=len(CONTENT), chunk=CHUNK, digests=DIGESTS)
    lent = []

    @contextlib.contextmanager
    def lend(digest):
        lent.append(digest)
        with cached.path.open("rb") as file:
            yield file.fileno()

    sharing = Sharing("127.0.0.1/8")
    sharing.close()  # harmless
    url = sharing.share({f"sha256:{HEX}": chunks, f"sha512:{HEX * 2}": chunks}, lend)
    assert ask(url)[2] == CONTENT
    assert lent == [f"sha256:{HEX}"]
    assert sharing.share({}, lend) == url
    assert ask(url)[0] == 404
    sharing.close()
    with pytest.raises(ConnectionRefusedError):
        ask(url)
    assert ask(sharing.share({f"sha256:{HEX}": chunks}, lend))[2] == CONTENT
    sharing.close()


def test_an_image_that_was_thrown_out_meanwhile_is_not_there(cached):
    chunks = ChunkDigests(size=len(CONTENT), chunk=CHUNK, digests=DIGESTS)
    sharing = Sharing("127.0.0.1/8")
    try:
        url = sharing.share({f"sha256:{HEX}": chunks}, lambda _: contextlib.nullcontext())
        assert ask(url)[0] == 404
    finally:
        sharing.close()


def test_a_machine_without_an_address_cannot_share():
    with pytest.raises(AgentError, match="no address") as caught:
        Sharing().share({}, lambda _: contextlib.nullcontext())
    assert caught.value.code == "share_failed"
