"""Fetching from a server that breaks, lies, refuses and redirects."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace

import pytest

from fakes.imageserver import redirect, serving, status, whole, without_length
from teeth_agent.errors import AgentError, Cancelled
from teeth_agent.image.fetch import Fetch
from teeth_agent.image.http import redact
from teeth_agent.image.params import ImageSpec

CONTENT = random.Random(7).randbytes(3 << 20)


def spec(*urls, content=CONTENT, algorithm="sha256"):
    return ImageSpec(
        id="i",
        name="n",
        urls=urls,
        size=len(content),
        digest=f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}",
        compression="none",
        raw_size=None,
        raw_digest=None,
    )


def fetched(image, pauses=None):
    pauses = [] if pauses is None else pauses
    return b"".join(bytes(block) for block in Fetch(image, pause=pauses.append))


def failed(image, pauses=None):
    with pytest.raises(AgentError) as caught:
        fetched(image, pauses)
    return caught.value


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_an_honest_server_is_asked_once(algorithm):
    with serving(CONTENT) as server:
        assert fetched(spec(server.url(), algorithm=algorithm)) == CONTENT
        assert server.requests == [("/image", None)]


def test_a_connection_that_breaks_at_random_bytes_is_resumed_where_it_broke():
    rng = random.Random(11)
    cuts = [whole(cut_after=rng.randrange(1, len(CONTENT) // 10)) for _ in range(20)]
    pauses = []
    with serving(CONTENT, *cuts, whole()) as server:
        fetch = Fetch(spec(server.url()), pause=pauses.append)
        assert b"".join(bytes(block) for block in fetch) == CONTENT
        assert fetch.restarts == len(pauses) == len(server.requests) - 1 > 5
        starts = [int(said[6:-1]) for _, said in server.requests[1:]]
        assert starts == sorted(set(starts))


def test_a_server_without_ranges_is_read_again_from_the_start():
    with serving(CONTENT, whole(cut_after=1 << 20), whole(ranges=False)) as server:
        assert fetched(spec(server.url())) == CONTENT


def test_busy_servers_are_waited_for_with_jitter_that_grows_and_is_bounded():
    pauses = []
    with serving(CONTENT, status(503), status(500), status(429, Retry_After=7), whole()) as server:
        assert fetched(spec(server.url()), pauses) == CONTENT
    assert 0 <= pauses[0] <= 1
    assert 0 <= pauses[1] <= 2
    assert 7 <= pauses[2] <= 8


def test_a_server_that_never_recovers_is_given_up_for_the_next_url():
    with serving(b"", status(503)) as bad, serving(CONTENT) as good:
        assert fetched(spec(bad.url(), good.url())) == CONTENT
        assert len(bad.requests) == 5


def test_the_next_url_goes_on_where_the_first_stopped():
    with serving(CONTENT, whole(cut_after=2 << 20), status(404)) as first, serving(CONTENT) as second:
        assert fetched(spec(first.url(), second.url())) == CONTENT
        assert second.requests == [("/image", f"bytes={2 << 20}-")]


def test_a_wrong_digest_is_final():
    image = replace(spec("http://x"), digest="sha256:" + "0" * 64)
    with serving(CONTENT) as server, serving(CONTENT) as other:
        error = failed(replace(image, urls=(server.url(), other.url())))
        assert error.code == "digest_mismatch"
        assert hashlib.sha256(CONTENT).hexdigest() in str(error)
        assert len(server.requests) == 1
        assert other.requests == []


@pytest.mark.parametrize(
    ("answer", "code", "requests"),
    [
        (whole(total=len(CONTENT) - 5), "image_truncated", 1),
        (whole(total=len(CONTENT) + 5), "image_size", 1),
        (status(404), "fetch_failed", 1),
        (status(204), "fetch_failed", 1),
        (status(200, Content_Encoding="gzip"), "fetch_failed", 1),
        (redirect("/again"), "fetch_failed", 6),
        (redirect("file:///etc/passwd"), "fetch_failed", 1),
        (redirect("http://[::bad"), "fetch_failed", 1),
    ],
)
def test_what_cannot_pass_is_not_retried(answer, code, requests):
    with serving(CONTENT, answer) as server:
        assert failed(spec(server.url())).code == code
        assert len(server.requests) == requests


def test_a_body_without_a_length_that_ends_early_shows_at_the_next_range():
    short = CONTENT[: 1 << 20]
    with serving(short, without_length(), whole()) as server:
        assert failed(spec(server.url())).code == "image_truncated"


def test_a_body_without_a_length_is_read_to_the_size_and_no_further():
    with serving(CONTENT + b"more", without_length()) as server:
        assert fetched(spec(server.url())) == CONTENT


def test_redirects_are_followed():
    with serving(CONTENT) as target, serving(b"", redirect(target.url("/real?q=1"))) as server:
        assert fetched(spec(server.url())) == CONTENT
        assert target.requests == [("/real?q=1", None)]


def test_a_range_answered_from_elsewhere_is_refused():
    def elsewhere(request):
        request.head(206, Content_Range=f"bytes 0-9/{len(CONTENT)}", Content_Length=10)
        request.wfile.write(CONTENT[:10])

    with serving(CONTENT, whole(cut_after=100), elsewhere) as server:
        error = failed(spec(server.url()))
        assert error.code == "fetch_failed"
        assert "asked for bytes from 100" in str(error)


def test_no_server_at_all():
    with serving(CONTENT) as server:
        gone = server.url()
    error = failed(spec(gone))
    assert error.code == "fetch_failed"
    assert "Connection refused (5 times)" in str(error)


def test_errors_name_the_url_without_its_secrets():
    with serving(CONTENT, status(403)) as server:
        url = server.url("/a/b?sig=SECRET#x").replace("http://", "http://user:PASSWORD@")
        said = str(failed(spec(url)))
    assert f"http://127.0.0.1:{server.server_address[1]}/a/b: the server answers 403" in said
    assert "SECRET" not in said
    assert "PASSWORD" not in said
    assert redact("https://u@[::1]:8/x?y") == "https://[::1]:8/x"


def test_a_stopped_fetch_ends_at_the_next_block():
    with serving(CONTENT) as server:
        fetch = Fetch(spec(server.url()))
        blocks = iter(fetch)
        next(blocks)
        fetch.stop()
        with pytest.raises(Cancelled):
            next(blocks)
        assert fetch.received < len(CONTENT)
