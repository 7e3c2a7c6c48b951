"""One HTTP response at a time: requests with a Range, redirects followed, answers judged."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from urllib.parse import urljoin, urlsplit

# A server that is silent this long has lost us; it is also how late a stopped fetch ends at the worst.
TIMEOUT = 30.0
_MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
# Worth another try at the same URL; every other refusal is the server's last word.
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_MAX_RETRY_AFTER = 60.0


class UrlFailed(Exception):
    """This URL will not give the image: go to the next one."""

    def __init__(self, message: str, *, code: str = "fetch_failed") -> None:
        super().__init__(message)
        self.code = code


class Broken(Exception):
    """The connection or the server failed in a way that may pass. ``retry_after`` in seconds if told."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Body:
    """An answer's body that begins at ``start`` of the image, at most the offset that was asked for."""

    def __init__(self, response: http.client.HTTPResponse, start: int) -> None:
        self._response = response
        self.start = start

    def read_into(self, buffer: memoryview) -> int:
        """Some bytes, 0 at the end. Raises Broken; a body cut short of its Content-Length is broken too."""
        try:
            count = self._response.readinto(buffer)
        except (OSError, http.client.HTTPException) as error:
            raise Broken(_reason(error)) from error
        # readinto, unlike read, does not raise IncompleteRead: what is still owed says so.
        if count == 0 and self._response.length:
            raise Broken("the connection was closed early")
        return count


def redact(url: str) -> str:
    """The URL without user, password, query and fragment: those may be secrets, signed links above all."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{parts.path}"


@contextmanager
def get(url: str, *, offset: int, size: int, end: int | None = None) -> Iterator[Body]:
    """Ask for bytes ``offset`` to ``end`` (else ``size``) of an image of ``size`` bytes.

    A server without ranges answers with all of it (``Body.start`` is 0 then). Raises Broken for what may
    pass and UrlFailed for what will not, code image_truncated or image_size when the length is wrong.
    """
    for _ in range(_MAX_REDIRECTS + 1):
        # A response whose connection ends with it has taken the socket over: both are closed.
        with (
            closing(_connection(url)) as connection,
            closing(_request(connection, url, offset, end)) as response,
        ):
            if response.status not in _REDIRECTS:
                yield _judge(response, offset, size)
                return
            url = _redirected(url, response.getheader("Location"))
    raise UrlFailed(f"more than {_MAX_REDIRECTS} redirects")


def _connection(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    assert parts.hostname is not None
    if parts.scheme == "https":
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=TIMEOUT, context=context)
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT)


def _request(
    connection: http.client.HTTPConnection, url: str, offset: int, end: int | None
) -> http.client.HTTPResponse:
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = {"Accept-Encoding": "identity", "User-Agent": "teeth-agent", "Connection": "close"}
    if offset or end is not None:
        headers["Range"] = f"bytes={offset}-{'' if end is None else end - 1}"
    try:
        connection.request("GET", target, headers=headers)
        return connection.getresponse()
    except ssl.SSLCertVerificationError as error:
        raise UrlFailed(f"certificate not accepted: {error.verify_message}") from error
    except (OSError, http.client.HTTPException) as error:
        raise Broken(_reason(error)) from error


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


def _judge(response: http.client.HTTPResponse, offset: int, size: int) -> Body:
    status = response.status
    if status in _PASSING:
        raise Broken(f"the server answers {status} {response.reason}", retry_after=_retry_after(response))
    if status not in (200, 206, 416):
        raise UrlFailed(f"the server answers {status} {response.reason}")
    if response.getheader("Content-Encoding", "identity") != "identity":
        raise UrlFailed("the server encodes the image on the way although it was asked not to")
    if status == 200:
        _check_length(response.length, size)
        return Body(response, 0)
    return Body(response, _ranged(response, offset, size))


def _ranged(response: http.client.HTTPResponse, offset: int, size: int) -> int:
    said = response.getheader("Content-Range", "")
    found = re.fullmatch(r"bytes (?:(\d{1,18})-\d{1,18}|\*)/(\d{1,18}|\*)", said)
    if found and found[2] != "*":
        _check_length(int(found[2]), size)
    if response.status == 416:
        raise UrlFailed(f"the server has nothing at byte {offset} of {size}", code="image_truncated")
    if not found or found[1] is None or int(found[1]) != offset:
        raise UrlFailed(f"asked for bytes from {offset}, the server answers with {said[:80] or 'no range'}")
    return offset


def _check_length(length: int | None, size: int) -> None:
    if length is not None and length < size:
        raise UrlFailed(f"the server has {length} bytes, the image has {size}", code="image_truncated")
    if length is not None and length > size:
        raise UrlFailed(f"the server has {length} bytes, the image has {size}", code="image_size")


def _retry_after(response: http.client.HTTPResponse) -> float | None:
    said = response.getheader("Retry-After", "")
    return min(float(said), _MAX_RETRY_AFTER) if re.fullmatch(r"\d{1,6}", said) else None


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"silent for {TIMEOUT:g} s"
    if isinstance(error, socket.gaierror):
        return f"name not found: {error.strerror}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"broken answer ({type(error).__name__})"
