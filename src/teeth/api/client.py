"""The operator's door from outside: find it, ask it, watch it."""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

from teeth.api.credentials import TOKEN_FILE, listeners, read_door, read_token
from teeth.errors import TeethError, UsageError

_TIMEOUT = 70.0  # an agent's answer to a command may take a minute
_SILENCE = 45.0  # three heartbeats
_PATIENCE = 60.0  # how long a lost stream is tried for
_FIRST_WAIT = 0.25
_LONGEST_WAIT = 5.0
_PAGE = 500


class Unreachable(TeethError):
    """Nobody who could answer was reached: no endpoint, another one, or one that failed."""

    exit_code = 4


class Refused(TeethError):
    """The endpoint says no. ``code`` as in its answer."""

    exit_code = 2

    def __init__(self, code: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Where an endpoint is asked, and the token for it."""

    url: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One server-sent event; ``id`` is where to go on from, "" if it is no such place."""

    name: str
    data: dict[str, Any]
    id: str


def find_door(data: Path | None, environ: Mapping[str, str]) -> Door:
    """The door of an endpoint's data folder. ``TEETH_API`` (its address) and ``TEETH_TOKEN_FILE`` count more.

    Raises TeethError that says what is missing.
    """
    url, token_file = environ.get("TEETH_API"), environ.get("TEETH_TOKEN_FILE")
    if data is None and not (url and token_file):
        raise UsageError(
            "which endpoint?",
            hint="teeth --data DIR ..., or set TEETH_DATA, or TEETH_API and TEETH_TOKEN_FILE",
        )
    if url is None:
        assert data is not None
        url = read_door(data)
    if url is None:
        raise Unreachable(
            f"no endpoint is running on {data}", hint=f"start one: teeth endpoint run --data {data}"
        )
    if token_file is None:
        assert data is not None
        token_file = str(data / TOKEN_FILE)
    door = Door(url=_checked(url), token=read_token(Path(token_file)))
    if data is not None and "TEETH_API" not in environ:
        _require_ours(door, Path(token_file))
    return door


def _require_ours(door: Door, token_file: Path) -> None:
    """An endpoint that was killed leaves its address behind, and its port to whoever takes it next.

    Raises Unreachable when that is another user, who would be sent the token.
    """
    users = listeners(httpx.URL(door.url).port or 0)
    if users and token_file.stat().st_uid not in users:
        raise Unreachable(f"another user's program listens at {door.url}", hint="start the endpoint anew")


class Operator:
    """One command's conversation with the door.

    ``find`` is asked again when a stream was lost: an endpoint that was started anew may be elsewhere.
    """

    def __init__(self, find: Callable[[], Door], *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._find = find
        self._sleep = sleep
        self._door = find()
        # No proxy, whatever the environment says: the door is on loopback and the token is for it alone.
        self._http = httpx.Client(trust_env=False, timeout=httpx.Timeout(_TIMEOUT, connect=10.0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        return self._ask("GET", path, query)

    def post(self, path: str, body: Mapping[str, Any] | None = None, **query: Any) -> dict[str, Any]:
        return self._ask("POST", path, query, body)

    def delete(self, path: str, **query: Any) -> dict[str, Any]:
        return self._ask("DELETE", path, query)

    def pages(
        self, path: str, member: str, *, most: int | None = None, **query: Any
    ) -> Iterator[dict[str, Any]]:
        """Every item of a list (at most ``most``), page by page."""
        left, after = most, None
        while left is None or left > 0:
            size = _PAGE if left is None else min(_PAGE, left)
            page = self.get(path, **query, limit=size, after=after)
            yield from page[member]
            left = None if left is None else left - len(page[member])
            after = page["next"]
            if after is None:
                return

    def events(self, path: str, *, on_lost: Callable[[str], None], **query: Any) -> Iterator[Event]:
        """A stream's events, over as many connections as it takes. It ends when the reader stops reading.

        ``on_lost`` is told once of each loss. Raises Unreachable when it stays lost for a minute.
        """
        place, lost, wait = "", 0.0, _FIRST_WAIT
        while True:
            try:
                for event in self._stream(path, query, place):
                    lost, wait = 0.0, _FIRST_WAIT
                    if event is not None:
                        place = event.id or place
                        yield event
                why = "the endpoint ended the stream"
            except (httpx.TransportError, Unreachable) as error:
                why = str(error) or type(error).__name__
            now = time.monotonic()
            if not lost:
                lost = now
                on_lost(why)
            if now - lost > _PATIENCE:
                raise Unreachable(
                    f"the endpoint is gone: {why}", hint="what it was asked for goes on without it"
                )
            self._sleep(wait)
            wait = min(wait * 2, _LONGEST_WAIT)
            self._look_again()

    def _look_again(self) -> None:
        try:
            self._door = self._find()
        except TeethError:
            return  # not back yet

    def _stream(self, path: str, query: Mapping[str, Any], place: str) -> Iterator[Event | None]:
        """One connection: None when it is made, then its events."""
        headers = self._headers() | ({"last-event-id": place} if place else {})
        timeout = httpx.Timeout(_SILENCE, connect=10.0)
        with self._http.stream(
            "GET", self._door.url + path, params=_given(query), headers=headers, timeout=timeout
        ) as response:
            if response.status_code != 200:
                response.read()
                raise _refusal(self._door, response)
            yield None
            yield from read_events(response.iter_lines())

    def _ask(
        self, method: str, path: str, query: Mapping[str, Any], body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        door = self._door
        try:
            response = self._http.request(
                method, door.url + path, params=_given(query), json=body, headers=self._headers()
            )
        except httpx.ConnectError as error:
            raise Unreachable(f"no endpoint answers at {door.url}", hint="is it running?") from error
        except httpx.TimeoutException as error:
            raise Unreachable(f"the endpoint at {door.url} did not answer in time") from error
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise Unreachable(f"the endpoint at {door.url} cannot be asked: {error}") from error
        if not response.is_success:
            raise _refusal(door, response)
        return _object(door, response)

    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._door.token}"}


def read_events(lines: Iterator[str]) -> Iterator[Event]:
    """Server-sent events from lines; comments and unknown fields are passed over."""
    name, data, place = "message", "", ""
    for line in lines:
        field_name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if line == "":
            if data:
                yield Event(name=name, data=json.loads(data), id=place)
            name, data, place = "message", "", ""
        elif field_name == "event":
            name = value
        elif field_name == "data":
            data += value
        elif field_name == "id":
            place = value


def _checked(url: str) -> str:
    """The address without a slash behind it. Raises UsageError where the token would travel in clear."""
    try:
        parsed = httpx.URL(url)
        loopback = parsed.host == "localhost" or ipaddress.ip_address(parsed.host).is_loopback
    except httpx.InvalidURL as error:
        raise UsageError(f"{url!r} is no address of an endpoint", hint="http://127.0.0.1:PORT") from error
    except ValueError:
        loopback = False
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UsageError(f"{url!r} is no address of an endpoint", hint="http://127.0.0.1:PORT")
    if parsed.scheme == "http" and not loopback:
        raise UsageError(
            f"{url} would carry the token in clear",
            hint="reach the endpoint's host through ssh -L and loopback",
        )
    return url.rstrip("/")


def _given(query: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if value is not None and value != ()}


def _refusal(door: Door, response: httpx.Response) -> TeethError:
    try:
        error = response.json()["error"]
        code, message, hint = str(error["code"]), str(error["msg"]), str(error["hint"])
    except (ValueError, KeyError, TypeError):
        return Unreachable(f"what answers at {door.url} is no endpoint (status {response.status_code})")
    if response.status_code >= 500 or code in ("wrong_token", "wrong_host"):
        return Unreachable(message, hint=hint)
    return Refused(code, message, hint=hint)


def _object(door: Door, response: httpx.Response) -> dict[str, Any]:
    try:
        value = response.json()
    except ValueError as error:
        raise Unreachable(f"what answers at {door.url} is no endpoint") from error
    if not isinstance(value, dict):
        raise Unreachable(f"what answers at {door.url} is no endpoint")
    return value
