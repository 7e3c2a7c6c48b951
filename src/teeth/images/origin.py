"""Where an image comes from: a file or a URL, as blocks in order."""

from __future__ import annotations

import contextlib
import hashlib
import re
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import httpx

from teeth import __version__
from teeth.errors import TeethError, UsageError
from teeth.images.errors import BadImage
from teeth_image.manifest import CHUNK_SIZE

BLOCK = CHUNK_SIZE
Progress = Callable[[int, int | None], None]  # bytes that came, bytes in all if that is known
_TRIES = 5  # in a row without a byte more
_WAITS = (0.5, 1.0, 2.0, 4.0)
_LONGEST_WAIT = 30.0
_TIMEOUT = httpx.Timeout(60.0, connect=15.0)
_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)")


def check_digest(text: str) -> tuple[str, str]:
    """(algorithm, hex). Raises UsageError for what is no digest."""
    match = re.fullmatch(r"(sha256):([0-9a-f]{64})|(sha512):([0-9a-f]{128})", text.strip().lower())
    if match is None:
        raise UsageError("the digest is not sha256: or sha512: and its hex digits")
    return (match[1], match[2]) if match[1] else (match[3], match[4])


def digested(blocks: Iterator[bytes], expected: str | None, what: str) -> Iterator[bytes]:
    """The same blocks. Raises BadImage behind the last one if they are not what was expected."""
    if expected is None:
        yield from blocks
        return
    algorithm, wanted = check_digest(expected)
    digest = hashlib.new(algorithm)
    for block in blocks:
        digest.update(block)
        yield block
    if digest.hexdigest() != wanted:
        raise BadImage(f"{what} has the digest {algorithm}:{digest.hexdigest()}, not the one that was given")


def shown(source: str) -> str:
    """A path, or an address without what in it may be secret: names, passwords, signatures in the query."""
    if not is_url(source):
        return source
    parts = urlsplit(source)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def is_url(text: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def file_blocks(path: Path, progress: Progress) -> Iterator[bytes]:
    """Raises UsageError for what is no file with something in it."""
    try:
        with path.open("rb", buffering=0) as stream:
            facts = path.stat()
            if not (stat.S_ISREG(facts.st_mode) or stat.S_ISBLK(facts.st_mode)):
                raise UsageError(f"{path} is no file")
            total = stream.seek(0, 2)
            stream.seek(0)
            if total == 0:
                raise UsageError(f"{path} is empty")
            done = 0
            while block := stream.read(BLOCK):
                yield block
                done += len(block)
                progress(done, total)
    except IsADirectoryError as error:
        raise UsageError(f"{path} is a folder, not an image") from error
    except FileNotFoundError as error:
        raise UsageError(f"there is no file {path}") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


class Download:
    """The bytes of a URL, gone on with by Range where a connection broke.

    ``most``: bytes that are taken at most. Plain HTTP only with ``vouched``: somebody else's word, a digest,
    for what comes; nor may an https address lead to one otherwise.
    """

    def __init__(
        self,
        url: str,
        *,
        most: int,
        vouched: bool,
        progress: Progress,
        client: httpx.Client | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url = url
        self._shown = shown(url)
        self._most = most
        self._vouched = vouched
        self._progress = progress
        self._sleep = sleep
        headers = {"user-agent": f"teeth/{__version__}", "accept-encoding": "identity"}
        self._client = client or httpx.Client(timeout=_TIMEOUT, follow_redirects=True, max_redirects=5)
        self._client.headers.update(headers)
        self._client.event_hooks = {"request": [self._check]}
        self._done = 0
        self._total: int | None = None
        self._etag = ""
        self._digest = hashlib.sha256()

    def blocks(self) -> Iterator[bytes]:
        """Raises TeethError when it cannot be had, UsageError for an address that is none."""
        tries, why = 0, ""
        with self._client:
            while True:
                before = self._done
                try:
                    yield from self._once()
                    return
                except (httpx.TransportError, _TryAgain) as error:
                    why = str(error) or type(error).__name__
                    wait = getattr(error, "wait", None)
                except httpx.InvalidURL as error:
                    raise UsageError(f"{self._shown} is no address: {error}") from error
                except httpx.HTTPError as error:
                    raise TeethError(f"{self._shown} cannot be fetched: {error}") from error
                tries = 1 if self._done > before else tries + 1
                if tries >= _TRIES:
                    raise TeethError(f"{self._shown} cannot be fetched: {why}", hint="nothing was kept")
                self._sleep(_WAITS[tries - 1] if wait is None else wait)

    def _check(self, request: httpx.Request) -> None:
        scheme = request.url.scheme
        if scheme not in ("http", "https"):
            raise UsageError(f"{shown(str(request.url))} is neither http nor https")
        if scheme == "http" and not self._vouched:
            raise UsageError(
                f"{shown(str(request.url))} is plain http: anybody on the way could have made it",
                hint="use https, or say what it must be with --digest",
            )

    def _once(self) -> Iterator[bytes]:
        """One request: from the beginning, or from where the last one broke."""
        headers = {}
        if self._done:
            headers["range"] = f"bytes={self._done}-"
            if self._etag:
                headers["if-range"] = self._etag
        with self._client.stream("GET", self._url, headers=headers) as response:
            skip = self._begin(response)
            # As it comes: what a block of a wished size waits for would be lost with the connection.
            for block in response.iter_raw():
                if skip is not None:
                    block = skip.pass_over(block)
                if not block:
                    continue
                self._digest.update(block)
                self._done += len(block)
                if self._done > self._most:
                    raise BadImage(f"{self._shown} has more than {self._most} bytes", hint="see --max-size")
                yield block
                self._progress(self._done, self._total)
        if self._total is not None and self._done < self._total:
            raise _TryAgain(f"it ended after {self._done} of {self._total} bytes")
        if self._done == 0:
            raise UsageError(f"{self._shown} is empty")

    def _begin(self, response: httpx.Response) -> _Again | None:
        status = response.status_code
        if status in _AGAIN:
            raise _TryAgain(f"it answers {status}", wait=_retry_after(response))
        if status not in (200, 206) or (status == 206 and not self._done):
            raise TeethError(f"{self._shown} cannot be fetched: it answers {status} {response.reason_phrase}")
        if status == 206:
            self._continues(response)
            return None
        length = response.headers.get("content-length", "")
        total = int(length) if re.fullmatch("[0-9]{1,18}", length) else None
        if self._done and total != self._total:
            raise TeethError(f"{self._shown} has changed while it was fetched")
        self._total = total
        if total is not None and total > self._most:
            raise BadImage(f"{self._shown} has {total} bytes, more than {self._most}", hint="see --max-size")
        etag = response.headers.get("etag", "")
        self._etag = "" if etag.startswith("W/") else etag
        return _Again(self._shown, self._done, self._digest.hexdigest()) if self._done else None

    def _continues(self, response: httpx.Response) -> None:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
        if match is None or int(match[1]) != self._done or match[2] not in (str(self._total), "*"):
            raise TeethError(f"{self._shown} does not go on where the connection broke")


class _TryAgain(Exception):
    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


class _Again:
    """The first ``count`` bytes once more, from a server without Range: the same ones, or nothing."""

    def __init__(self, url: str, count: int, digest: str) -> None:
        self._url = url
        self._left = count
        self._wanted = digest
        self._digest = hashlib.sha256()

    def pass_over(self, block: bytes) -> bytes:
        if self._left == 0:
            return block
        known, rest = block[: self._left], block[self._left :]
        self._digest.update(known)
        self._left -= len(known)
        if self._left == 0 and self._digest.hexdigest() != self._wanted:
            raise TeethError(f"{self._url} has changed while it was fetched")
        return rest


def _retry_after(response: httpx.Response) -> float | None:
    with contextlib.suppress(ValueError):
        return min(max(float(response.headers.get("retry-after", "")), 0.0), _LONGEST_WAIT)
    return None
