"""Each thing that a server, a peer or a proxy may do wrong, by its name."""

from __future__ import annotations

import hashlib
import random
import select
import socket
import ssl
import subprocess
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import pytest

from fakes.imageserver import (
    forwarding,
    ranged,
    redirect,
    serving,
    silent,
    stalling,
    status,
    whole,
)  # fmt: skip
from teeth_agent.errors import AgentError, Cancelled
from teeth_agent.image import connect
from teeth_agent.image.connect import Cut, UrlFailed
from teeth_agent.image.fetch import Fetch
from teeth_agent.image.hosts import HostLimits
from teeth_agent.image.http import Ask, get
from teeth_agent.image.origins import FOR_PEERS, FOR_SERVERS, Patience
from teeth_agent.image.params import ImageSpec
from teeth_agent.image.source import Deadline
from teeth_protocol.wire.standbye import Chunks

CHUNK = 64 << 10
CONTENT = random.Random(7).randbytes(20 * CHUNK + 1234)
WRONG = bytes(len(CONTENT))
QUICK = Patience(silence=0.2)


def spec(*urls, peers=(), chunked=False, proxy=None, content=CONTENT):
    digests = tuple(
        hashlib.sha256(content[start : start + CHUNK]).hexdigest() for start in range(0, len(content), CHUNK)
    )
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return ImageSpec(
        id="i", name="n", urls=urls, size=len(content), digest=digest,
        compression="none", raw_size=None, raw_digest=None, peers=peers, proxy=proxy,
        chunks=Chunks(size=CHUNK, digests=digests) if chunked else None,
    )  # fmt: skip


def fetch_of(image, **options):
    return Fetch(image, **{"pause": lambda seconds: None, **options})


def fetched(fetch):
    return b"".join(bytes(block) for block in fetch)


def failed(fetch):
    with pytest.raises(AgentError) as caught:
        fetched(fetch)
    assert not fetch.proven
    return caught.value


@pytest.mark.parametrize("chunked", [False, True])
def test_a_fetch_that_breaks_a_hundred_times_at_random_bytes_fetches_next_to_nothing_twice(chunked):
    rng = random.Random(23)
    places = sorted(rng.sample(range(1, len(CONTENT)), 100))
    cuts = [there - here for here, there in zip([0, *places], places, strict=False)]
    with serving(CONTENT, *(whole(cut_after=cut) for cut in cuts), whole()) as server:
        fetch = fetch_of(spec(server.url(), chunked=chunked))
        assert fetched(fetch) == CONTENT
        assert fetch.proven
        assert fetch.restarts == 100
        assert server.sent - len(CONTENT) < len(CONTENT) // 20
        assert fetch.fetched_bytes - len(CONTENT) < len(CONTENT) // 20


@pytest.mark.parametrize("chunked", [False, True])
def test_stalled(chunked):
    with serving(CONTENT, stalling(3 * CHUNK + 5), whole()) as server:
        fetch = fetch_of(spec(server.url(), chunked=chunked), servers=QUICK)
        assert fetched(fetch) == CONTENT
        assert server.requests[1] == ("/image", f"bytes={3 * CHUNK + 5}-")


def test_silent_before_the_head():
    with serving(CONTENT, silent) as server, serving(CONTENT) as other:
        fetch = fetch_of(spec(server.url(), other.url()), servers=QUICK)
        assert fetched(fetch) == CONTENT
        assert len(server.requests) == 5


def test_a_head_that_comes_in_drips():
    def drips(request):
        request.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not request.server.over.wait(0.05):
            request.wfile.write(b"X")

    with serving(CONTENT, drips, whole()) as server:
        assert fetched(fetch_of(spec(server.url()), servers=QUICK)) == CONTENT


def test_a_slow_server_is_left_for_the_next():
    """Each read takes a minute by this clock and brings a block: more than the server has got to say."""
    with serving(CONTENT) as slow, serving(CONTENT) as other:
        patience = replace(FOR_SERVERS, window=-1.0, least=len(CONTENT) + 1)
        fetch = fetch_of(spec(slow.url(), other.url()), servers=patience)
        error = failed(fetch)
        assert "bytes in" in str(error)
        assert len(slow.requests) == 5
        assert len(other.requests) == 5


def test_a_length_that_lies():
    with serving(CONTENT, whole(total=len(CONTENT) + 9)) as longer:
        assert failed(fetch_of(spec(longer.url()))).code == "image_size"
    with serving(CONTENT, whole(total=len(CONTENT) - 9)) as shorter:
        assert failed(fetch_of(spec(shorter.url()))).code == "image_truncated"


@pytest.mark.parametrize(
    ("said", "length"),
    [
        ("bytes 0-9/{size}", 10),
        ("bytes 101-110/{size}", 10),
        ("bytes 100-{size}/{size}", 10),
        ("bytes 100-99/{size}", 10),
        ("bytes 100-120/{size}", 10),
        ("bytes */*", 10),
        ("octets 100-109/{size}", 10),
        ("", 10),
    ],
)
def test_a_content_range_that_lies(said, length):
    size = len(CONTENT)
    answer = ranged(said.format(size=size), length)
    with serving(CONTENT, whole(cut_after=100), answer) as server:
        error = failed(fetch_of(spec(server.url())))
        assert error.code == "fetch_failed"
        assert "asked for bytes from 100" in str(error)


def test_a_range_shorter_than_asked_for_is_read_and_the_rest_asked_for():
    said = f"bytes 100-149/{len(CONTENT)}"

    def short(request):
        request.head(206, Content_Range=said, Content_Length=50)
        request.send(CONTENT[100:150])

    with serving(CONTENT, whole(cut_after=100), short, whole()) as server:
        assert fetched(fetch_of(spec(server.url()))) == CONTENT
        assert server.requests[2] == ("/image", "bytes=150-")


def test_a_redirect_loop_and_a_redirect_to_less_safety():
    with serving(CONTENT, redirect("/again")) as server:
        assert "more than 5 redirects" in str(failed(fetch_of(spec(server.url()))))


@pytest.mark.parametrize(
    ("said", "least", "most"),
    [
        ({"Retry_After": 7}, 7, 8),
        ({"Retry_After": 99999999}, 60, 61),
        ({"Retry_After": "Fri, 31 Dec 2999 23:59:59 GMT"}, 60, 61),
        ({"Retry_After": "Sat, 01 Jan 2000 00:00:00 GMT"}, 0, 1),
        ({"Retry_After": "soon"}, 0, 1),
        ({}, 0, 1),
    ],
)
@pytest.mark.parametrize("code", [429, 503])
def test_busy_with_a_time_to_come_back(code, said, least, most):
    pauses = []
    with serving(CONTENT, status(code, **said), whole()) as server:
        assert fetched(fetch_of(spec(server.url()), pause=pauses.append)) == CONTENT
    assert least <= pauses[0] <= most


def test_the_deadline_ends_a_fetch_that_waits():
    now = [0.0]

    def pause(seconds):
        now[0] += seconds + 1

    with serving(CONTENT, status(503, Retry_After=30)) as server:
        deadline = Deadline(60, clock=lambda: now[0])
        error = failed(fetch_of(spec(server.url()), pause=pause, deadline=deadline))
        assert error.code == "fetch_deadline"
        assert "60 s" in str(error)
        assert len(server.requests) == 2


def test_a_file_that_was_changed_on_the_server_is_noticed():
    answers = whole(cut_after=1000, etag='"one"'), whole(content=WRONG, etag='"two"')
    with serving(CONTENT, *answers) as server, serving(b"", status(404)) as other:
        error = failed(fetch_of(spec(server.url())))
        assert error.code == "image_changed"
        assert server.headers[1]["If-Range"] == '"one"'
        # It is that URL that failed, not the image: the next one may still have it.
        with serving(CONTENT, *answers) as again, serving(CONTENT) as good:
            assert fetched(fetch_of(spec(again.url(), other.url(), good.url()))) == CONTENT


def test_the_same_tag_or_a_weak_one_is_no_change():
    with serving(CONTENT, whole(cut_after=1000, etag='"one"'), whole(etag='"one"')) as server:
        assert fetched(fetch_of(spec(server.url()))) == CONTENT
    with serving(CONTENT, whole(cut_after=1000, etag='W/"one"'), whole(etag='W/"two"')) as server:
        assert fetched(fetch_of(spec(server.url()))) == CONTENT
        assert "If-Range" not in server.headers[1]


def test_with_chunks_a_wrong_one_is_fetched_again_from_the_next_and_only_that_one():
    bad = bytearray(CONTENT)
    bad[5 * CHUNK + 3] ^= 1
    with serving(bytes(bad)) as server, serving(CONTENT) as other:
        fetch = fetch_of(spec(server.url(), other.url(), chunked=True))
        assert fetched(fetch) == CONTENT
        assert fetch.proven
        assert len(server.requests) == 1
        assert other.requests == [("/image", f"bytes={5 * CHUNK}-")]
        assert fetch.fetched_bytes == len(CONTENT) + CHUNK


def test_a_server_whose_chunks_stay_wrong_is_given_up():
    bad = bytearray(CONTENT)
    bad[5 * CHUNK + 3] ^= 1
    with serving(bytes(bad)) as server:
        fetch = fetch_of(spec(server.url(), chunked=True))
        assert failed(fetch).code == "digest_mismatch"
        # Not one byte of the wrong chunk was given out.
        assert fetch.received == 5 * CHUNK
        assert len(server.requests) == 2


def test_peers_come_first_and_are_counted():
    with serving(CONTENT) as peer, serving(CONTENT) as server:
        fetch = fetch_of(spec(server.url(), peers=(peer.url(),), chunked=True))
        assert fetched(fetch) == CONTENT
        assert fetch.peer_bytes == fetch.fetched_bytes == len(CONTENT)
        assert server.requests == []


def test_peers_are_not_asked_without_chunks():
    with serving(CONTENT) as peer, serving(CONTENT) as server:
        fetch = fetch_of(spec(server.url(), peers=(peer.url(),)))
        assert fetched(fetch) == CONTENT
        assert fetch.peer_bytes == 0
        assert peer.requests == []


@pytest.mark.parametrize(
    ("answer", "peer_bytes"),
    [
        (whole(content=WRONG), CHUNK),
        (status(503, Retry_After=1), 0),
        (status(404), 0),
        (redirect("http://127.0.0.1:9/"), 0),
        (silent, 0),
        (stalling(CHUNK // 2), CHUNK),
        (ranged("bytes 7-8/9", 2), 0),
    ],
)
def test_a_peer_that_lies_or_stalls_is_dropped_at_once(answer, peer_bytes):
    with serving(CONTENT, answer) as peer, serving(CONTENT) as server:
        peers = replace(FOR_PEERS, silence=0.2)
        fetch = fetch_of(spec(server.url(), peers=(peer.url(),), chunked=True), peers=peers)
        assert fetched(fetch) == CONTENT
        assert fetch.peer_bytes == peer_bytes
        assert len(peer.requests) <= 2
        assert fetch.fetched_bytes <= len(CONTENT) + CHUNK


def test_a_slow_peer_is_dropped_and_what_it_gave_is_kept():
    with serving(CONTENT) as peer, serving(CONTENT) as server:
        peers = replace(FOR_PEERS, window=-1.0, least=len(CONTENT) + 1)
        fetch = fetch_of(spec(server.url(), peers=(peer.url(),), chunked=True), peers=peers)
        assert fetched(fetch) == CONTENT
        assert len(peer.requests) == 1
        assert fetch.fetched_bytes == len(CONTENT)


def test_single_ranges_are_verified_too():
    bad = bytearray(CONTENT)
    bad[5 * CHUNK + 3] ^= 1
    with serving(bytes(bad)) as server, serving(CONTENT) as other:
        fetch = fetch_of(spec(server.url(), other.url(), chunked=True))
        assert fetch.read(5 * CHUNK - 10, 20) == CONTENT[5 * CHUNK - 10 : 5 * CHUNK + 10]
        assert fetch.read(5 * CHUNK + 100, 5) == CONTENT[5 * CHUNK + 100 : 5 * CHUNK + 105]
        assert fetch.read(len(CONTENT) - 3, 3) == CONTENT[-3:]
        assert len(other.requests) == 1
        with pytest.raises(AgentError, match="not in the image"):
            fetch.read(len(CONTENT) - 3, 4)


def test_single_ranges_without_chunks():
    with serving(CONTENT, whole(cut_after=7), whole()) as server:
        fetch = fetch_of(spec(server.url()))
        assert fetch.read(1000, 50) == CONTENT[1000:1050]
        assert server.requests == [("/image", "bytes=1000-1049"), ("/image", "bytes=1007-1049")]
    with serving(CONTENT, whole(ranges=False)) as server:
        with pytest.raises(AgentError) as caught:
            fetch_of(spec(server.url())).read(1000, 50)
        assert caught.value.code == "no_ranges"


def test_an_http_proxy_is_used_for_servers_and_never_for_peers():
    with serving(CONTENT) as target, serving(b"", forwarding(target)) as proxy:
        where = proxy.url("").replace("http://", "http://user:pass%40word@")
        fetch = fetch_of(spec(target.url(), proxy=where))
        assert fetched(fetch) == CONTENT
        assert proxy.requests == [(target.url(), None)]
        assert proxy.headers[0]["Proxy-Authorization"] == "Basic dXNlcjpwYXNzQHdvcmQ="
        with serving(CONTENT) as peer:
            assert fetched(fetch_of(spec(target.url(), peers=(peer.url(),), chunked=True, proxy=where)))
            assert len(peer.requests) == 1
        assert len(proxy.requests) == 1


def test_an_https_server_is_reached_by_connect_and_a_refusal_is_final():
    with serving(b"", status(407)) as proxy:
        error = failed(fetch_of(spec("https://images.example/x", proxy=proxy.url(""))))
        assert "the proxy answers 407" in str(error)
        assert proxy.requests == [("images.example:443", None)]
    with serving(b"", status(502)) as proxy:
        error = failed(fetch_of(spec("https://images.example/x", proxy=proxy.url(""))))
        assert "the proxy answers 502 (5 times)" in str(error)
    error = failed(fetch_of(spec("https://images.example/x", proxy="https://proxy.example")))
    assert "https proxy" in str(error)


def test_the_connections_to_one_host_are_limited():
    limits = HostLimits(2)
    open_now, most, guard = Counter(), Counter(), threading.Lock()

    def check():
        raise AssertionError("nobody has to give up here")

    def counted(request):
        with guard:
            open_now["x"] += 1
            most["x"] = max(most["x"], open_now["x"])
        try:
            whole()(request)
        finally:
            with guard:
                open_now["x"] -= 1

    with serving(CONTENT, counted) as server:
        results = []
        threads = [
            threading.Thread(
                target=lambda: results.append(fetched(fetch_of(spec(server.url()), streams=limits)))
            )
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert results == [CONTENT] * 8
    assert 1 <= most["x"] <= 2
    with limits.place("y", check), limits.place("y", check):
        with pytest.raises(AssertionError), limits.place("y", check):
            pass
        with limits.place("z", check):
            pass


def test_stop_ends_even_a_fetch_that_waits_for_a_silent_server():
    asked = threading.Event()

    def hangs(request):
        asked.set()
        silent(request)

    with serving(CONTENT, hangs) as server:
        fetch = Fetch(spec(server.url()))
        ended = []

        def work():
            try:
                fetched(fetch)
            except Cancelled as error:
                ended.append(error.code)

        thread = threading.Thread(target=work)
        thread.start()
        assert asked.wait(30)
        fetch.stop()
        thread.join(20)  # the server itself would be waited for longer
        assert ended == ["cancelled"]


def test_a_certificate_that_nobody_vouches_for_is_final(monkeypatch):
    def refuse(self):
        error = ssl.SSLCertVerificationError(1, "self-signed")
        error.verify_message = "self-signed certificate"
        raise error

    monkeypatch.setattr(connect.http.client.HTTPSConnection, "connect", refuse)
    with (
        pytest.raises(UrlFailed, match="certificate not accepted"),
        get(Ask(url="https://a.example/x", offset=0, size=1, cut=Cut())),
    ):
        pass


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for localhost and its key, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
            "-keyout", folder / "key.pem", "-out", folder / "cert.pem",
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder


@contextmanager
def serving_tls(certificate, content, *answers):
    with serving(content, *answers) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        yield server, f"https://localhost:{server.server_address[1]}/image"


@pytest.fixture
def trusting(certificate, monkeypatch):
    """A machine that trusts the test's certificate."""
    context = ssl.create_default_context(cafile=certificate / "cert.pem")
    monkeypatch.setattr(connect.ssl, "create_default_context", lambda: context)


def tunnelling(request):
    """CONNECT, and from then on bytes both ways."""
    host, _, port = request.path.rpartition(":")
    with socket.create_connection((host, int(port))) as target:
        request.head(200)
        ends = {request.connection: target, target: request.connection}
        while True:
            for ready in select.select(list(ends), [], [])[0]:
                if not (data := ready.recv(1 << 16)):
                    return
                ends[ready].sendall(data)


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("proxied", [False, True])
def test_over_tls_a_fetch_is_resumed_where_it_broke(certificate, proxied):
    answers = whole(cut_after=3 * CHUNK + 9), whole()
    with serving_tls(certificate, CONTENT, *answers) as (server, url), serving(b"", tunnelling) as proxy:
        fetch = fetch_of(spec(url, proxy=proxy.url("") if proxied else None))
        assert fetched(fetch) == CONTENT
        assert [said for _, said in server.requests] == [None, f"bytes={3 * CHUNK + 9}-"]
        assert len(proxy.requests) == (2 if proxied else 0)


@pytest.mark.usefixtures("trusting")
def test_no_redirect_leads_from_https_to_http(certificate):
    with serving(CONTENT) as plain, serving_tls(certificate, b"", redirect(plain.url())) as (server, url):
        error = failed(fetch_of(spec(url)))
        assert "a redirect to a place that is not allowed" in str(error)
        assert len(server.requests) == 1
        assert plain.requests == []


def test_a_certificate_of_nobody_we_trust_is_final_over_the_network_too(certificate):
    with serving_tls(certificate, CONTENT) as (server, url):
        error = failed(fetch_of(spec(url)))
        assert "certificate not accepted" in str(error)
        assert server.requests == []
