"""One HTTP response at a time: requests with a Range, redirects followed, answers judged."""

from __future__ import annotations

import email.utils
import http.client
import re
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from urllib.parse import urljoin, urlsplit

from teeth_agent.image.connect import PASSING, Broken, Cut, Line, UrlFailed, line, reason

# A server that is silent this long has lost us.
TIMEOUT = 30.0
MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_RETRY_AFTER = 60.0
# A head that comes in drips would never be silent, and never end. In silences.
_HEAD_SILENCES = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What is asked for: bytes ``offset`` to ``end`` (None: the last) of an image of ``size`` bytes.

    ``validator``: the entity tag or date of what came from this URL before; ``proxy`` for all hops;
    ``redirects``: how many are followed; ``silence``: seconds without a byte until the connection counts as
    broken; ``cut`` ends it from another thread.
    """

    url: str
    offset: int
    size: int
    end: int | None = None
    validator: str | None = None
    proxy: str | None = None
    redirects: int = MAX_REDIRECTS
    silence: float = TIMEOUT
    cut: Cut = field(default_factory=Cut)


class Body:
    """An answer's body that begins at ``start`` of the image, at most the offset that was asked for.

    ``validator``: what tells whether a later answer is of the same file, None if the server gives nothing.
    """

    def __init__(self, response: http.client.HTTPResponse, start: int, silence: float) -> None:
        self._response = response
        self._silence = silence
        self._owed = response.length
        self.start = start
        self.validator = _validator(response)

    def read_into(self, buffer: memoryview) -> int:
        """Some bytes, 0 at the end. Raises Broken; a body cut short of its Content-Length is broken too.

        What has come is given at once: what waits for a full buffer is lost when the server falls silent.
        """
        room = buffer if self._owed is None else buffer[: self._owed]
        try:
            count = self._some(room) if room else 0
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Broken(reason(error, self._silence)) from error
        if self._owed is not None:
            self._owed -= count
        if count == 0 and self._owed:
            raise Broken("the connection was closed early")
        return count

    def _some(self, room: memoryview) -> int:
        if self._response.chunked:
            data = self._response.read1(len(room))
            room[: len(data)] = data
            return len(data)
        # HTTPResponse has no readinto1 of its own, and its read1 copies.
        return self._response.fp.readinto1(room)


def redact(url: str) -> str:
    """The URL without user, password, query and fragment: those may be secrets, signed links above all."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{parts.path}"


@contextmanager
def get(ask: Ask) -> Iterator[Body]:
    """The answer to ``ask``.

    A server without ranges answers with all of it (``Body.start`` is 0 then). Raises Broken for what may
    pass and UrlFailed for what will not, code image_truncated or image_size when the length is wrong,
    image_changed when the answer is not of the file that ``validator`` is of.
    """
    asked = ask
    for _ in range(ask.redirects + 1):
        # A response whose connection ends with it has taken the socket over: both are closed.
        with (
            line(asked.url, proxy=ask.proxy, timeout=ask.silence, cut=ask.cut) as found,
            closing(_request(found, asked)) as response,
        ):
            if response.status not in _REDIRECTS:
                yield _judge(response, asked)
                return
            url = _redirected(asked.url, response.getheader("Location"))
            asked = replace(asked, url=url)
    raise UrlFailed(f"more than {ask.redirects} redirects")


def _request(found: Line, ask: Ask) -> http.client.HTTPResponse:
    headers = {"Accept-Encoding": "identity", "User-Agent": "teeth-agent", "Connection": "close"}
    if ask.offset or ask.end is not None:
        headers["Range"] = f"bytes={ask.offset}-{'' if ask.end is None else ask.end - 1}"
        if ask.validator is not None:
            headers["If-Range"] = ask.validator
    drip = threading.Timer(_HEAD_SILENCES * ask.silence, ask.cut.once)
    drip.daemon = True
    drip.start()
    try:
        found.connection.request("GET", found.target, headers=headers | found.headers)
        return found.connection.getresponse()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Broken(reason(error, ask.silence)) from error
    finally:
        drip.cancel()


def _redirected(url: str, location: str | None) -> str:
    if not location or re.search(r"[^\x21-\x7e]", location):
        raise UrlFailed("a redirect without a usable target")
    try:
        target = urljoin(url, location)
        parts = urlsplit(target)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        raise UrlFailed("a redirect without a usable target") from None
    # From https down to http anyone on the way could watch or stall the image.
    if not usable or (urlsplit(url).scheme == "https" and parts.scheme != "https"):
        raise UrlFailed("a redirect to a place that is not allowed")
    return target


def _judge(response: http.client.HTTPResponse, ask: Ask) -> Body:
    status = response.status
    if status in PASSING:
        raise Broken(f"the server answers {status} {response.reason}", retry_after=_retry_after(response))
    if status not in (200, 206, 416):
        raise UrlFailed(f"the server answers {status} {response.reason}")
    if response.getheader("Content-Encoding", "identity") != "identity":
        raise UrlFailed("the server encodes the image on the way although it was asked not to")
    if status == 200:
        _check_length(response.length, ask.size)
        start = 0
    else:
        start = _ranged(response, ask)
    body = Body(response, start, ask.silence)
    if ask.validator is not None and body.validator not in (None, ask.validator):
        raise UrlFailed("the file on the server was changed while it was fetched", code="image_changed")
    return body


def _ranged(response: http.client.HTTPResponse, ask: Ask) -> int:
    said = response.getheader("Content-Range", "")
    found = re.fullmatch(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)", said)
    if found and found[3] != "*":
        _check_length(int(found[3]), ask.size)
    if response.status == 416:
        raise UrlFailed(f"the server has nothing at byte {ask.offset} of {ask.size}", code="image_truncated")
    if not found or found[1] is None or not _fits(int(found[1]), int(found[2]), response.length, ask):
        raise UrlFailed(
            f"asked for bytes from {ask.offset}, the server answers with {said[:80] or 'no range'}"
        )
    return ask.offset


def _fits(first: int, last: int, length: int | None, ask: Ask) -> bool:
    """A range may be shorter than what was asked for, but it says what it is, and is that."""
    end = ask.size if ask.end is None else ask.end
    return first == ask.offset and first <= last < end and length in (None, last - first + 1)


def _check_length(length: int | None, size: int) -> None:
    if length is not None and length < size:
        raise UrlFailed(f"the server has {length} bytes, the image has {size}", code="image_truncated")
    if length is not None and length > size:
        raise UrlFailed(f"the server has {length} bytes, the image has {size}", code="image_size")


def _validator(response: http.client.HTTPResponse) -> str | None:
    """A strong entity tag, else a date (RFC 9110, 13.1.5); weak tags say nothing about bytes."""
    tag = response.getheader("ETag", "")
    if re.fullmatch(r'"[\x21\x23-\x7e]{0,256}"', tag):
        return tag
    date = response.getheader("Last-Modified", "")
    return date if not tag and re.fullmatch(r"[A-Za-z0-9 ,:]{20,40}", date) else None


def _retry_after(response: http.client.HTTPResponse) -> float | None:
    """Seconds or a date (RFC 9110, 10.2.3), bounded: a server must not put a task to sleep for a day."""
    said = response.getheader("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}", said):
        return min(float(said), _MAX_RETRY_AFTER)
    try:
        seconds = email.utils.parsedate_to_datetime(said).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, seconds), _MAX_RETRY_AFTER)
