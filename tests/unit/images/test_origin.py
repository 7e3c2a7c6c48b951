"""Images fetched from elsewhere: gone on with where a connection broke, bounded, and never believed."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import pytest

from fakes import imageserver
from fakes.imageserver import ImageServer, serving, status, whole, without_length
from teeth.endpoint import ca
from teeth.errors import TeethError, UsageError
from teeth.images.origin import Download, digested, shown

CONTENT = random.Random(1).randbytes(5_000_000)


def fetch(server: ImageServer, *, most: int = 1 << 30, vouched: bool = True, waits: Any = None) -> bytes:
    steps: list[tuple[int, int | None]] = []
    download = Download(
        server.url(),
        most=most,
        vouched=vouched,
        progress=lambda *step: steps.append(step),
        sleep=(waits if waits is not None else []).append,
    )
    got = b"".join(download.blocks())
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert steps[-1][0] == len(got)
    return got


def test_a_whole_image() -> None:
    with serving(CONTENT) as server:
        assert fetch(server) == CONTENT
        (headers,) = server.headers
        assert (headers["accept-encoding"], "range" in headers) == ("identity", False)


def test_a_connection_that_breaks_is_gone_on_with() -> None:
    breaks = [whole(cut_after=700_000, etag='"one"')] * 7
    with serving(CONTENT, *breaks, whole(etag='"one"')) as server:
        waits: list[float] = []
        assert fetch(server, waits=waits) == CONTENT
        assert [start for _, start in server.requests][1:3] == ["bytes=700000-", "bytes=1400000-"]
        assert server.headers[1]["if-range"] == '"one"'
        assert (len(waits), server.sent) == (7, len(CONTENT))


def test_an_image_that_changed_meanwhile_is_not_put_together() -> None:
    other = bytes(len(CONTENT))
    answers = [whole(cut_after=700_000, etag='"one"'), whole(content=other, etag='"two"')]
    with serving(CONTENT, *answers) as server, pytest.raises(TeethError, match="has changed while"):
        fetch(server)
    answers = [whole(cut_after=9), whole(content=CONTENT[1:])]
    with serving(CONTENT, *answers) as server, pytest.raises(TeethError, match="does not go on where"):
        fetch(server)


def test_a_server_without_ranges_must_say_the_same_again() -> None:
    with serving(CONTENT, whole(cut_after=700_000), whole(ranges=False)) as server:
        assert fetch(server) == CONTENT


def test_patience_ends() -> None:
    waits: list[float] = []
    with serving(CONTENT, status(503, Retry_After=7)) as server:
        with pytest.raises(TeethError, match="it answers 503"):
            fetch(server, waits=waits)
        assert (len(server.requests), waits) == (5, [7.0] * 4)
    with serving(CONTENT, status(404)) as server:
        with pytest.raises(TeethError, match="it answers 404 Not Found"):
            fetch(server)
        assert len(server.requests) == 1


def test_it_is_never_more_than_was_allowed() -> None:
    with serving(CONTENT) as server:
        with pytest.raises(TeethError, match="has 5000000 bytes, more than 4000000"):
            fetch(server, most=4_000_000)
        assert server.sent <= len(CONTENT)
    with (
        serving(CONTENT, without_length()) as server,
        pytest.raises(TeethError, match="has more than 4000000"),
    ):
        fetch(server, most=4_000_000)
    with serving(CONTENT, without_length()) as server:
        assert fetch(server) == CONTENT
    with serving(b"") as server, pytest.raises(UsageError, match="is empty"):
        fetch(server)


def test_plain_http_needs_somebodys_word_for_what_comes() -> None:
    with serving(CONTENT) as server:
        with pytest.raises(UsageError, match=r"plain http.*--digest"):
            fetch(server, vouched=False)
        assert server.requests == []


def test_a_stranger_behind_https_is_refused(tmp_path: Path) -> None:
    chain = ca.ensure_server_certificate(ca.load_or_create(tmp_path), tmp_path, ["127.0.0.1"])
    with serving(CONTENT) as server:
        server.socket = ca.server_context(chain).wrap_socket(server.socket, server_side=True)
        secure = server.url().replace("http://", "https://")
        download = Download(
            secure, most=1 << 30, vouched=True, progress=lambda *_: None, sleep=lambda _: None
        )
        with pytest.raises(TeethError, match="certificate verify failed"):
            list(download.blocks())
        assert server.sent == 0


def test_a_redirection_may_not_lead_to_another_kind_of_address() -> None:
    with serving(CONTENT) as target:
        with serving(CONTENT, imageserver.redirect(target.url())) as server:
            assert fetch(server) == CONTENT
        elsewhere = imageserver.redirect("file:///etc/passwd")
        with serving(CONTENT, elsewhere) as server, pytest.raises(TeethError, match="file"):
            fetch(server)
        with serving(CONTENT) as server:
            server.answers[:] = [imageserver.redirect(server.url())]
            with pytest.raises(TeethError, match=r"cannot be fetched"):
                fetch(server)


def test_what_may_be_secret_in_an_address_is_not_said() -> None:
    assert shown("https://me:secret@host:1/a/b.raw?token=secret#x") == "https://host:1/a/b.raw"
    assert shown("/a/b@c?d.raw") == "/a/b@c?d.raw"
    with serving(CONTENT, status(404)) as server:
        address = server.url().replace("//", "//me:secret@") + "?token=secret"
        download = Download(address, most=1, vouched=True, progress=lambda *_: None)
        with pytest.raises(TeethError, match="answers 404") as refused:
            list(download.blocks())
    assert "secret" not in str(refused.value)


def test_the_digest_is_of_what_came() -> None:
    blocks = [b"one", b"two"]
    for algorithm in ("sha256", "sha512"):
        expected = f"{algorithm}:{hashlib.new(algorithm, b'onetwo').hexdigest()}"
        assert list(digested(iter(blocks), expected.upper().replace("SHA", "sha"), "it")) == blocks
        with pytest.raises(TeethError, match=f"it has the digest {algorithm}:"):
            list(digested(iter([*blocks, b"x"]), expected, "it"))
