"""In front of the door: who may come in, and how much may be carried through."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import logging
from collections.abc import Awaitable, Callable

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from teeth.api.problems import ApiError, refusal
from teeth_protocol.strictjson import JsonError, loads

_log = logging.getLogger(__name__)
_BODY_LIMIT = (1 << 20) + (64 << 10)  # the largest params that the wire takes, and what stands around them
_BODY_TIMEOUT = 20.0
# A request wraps a command's params once more than the wire does.
_DEPTH = 17


class Guard:
    """Serves ``app`` to those who know the token, by a loopback name, with bodies of at most 1.1 MB.

    The name is looked at because a browser can be made to come here under a name of somebody else's (DNS
    rebinding). No answer ever allows another origin.
    """

    def __init__(self, app: ASGIApp, *, token: str) -> None:
        self._app = app
        self._token = _digest(f"Bearer {token}".encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        refused = self._refuse(headers)
        if refused is not None:
            _log.warning("operator request refused: %s", refused.status_code)
            await _hang_up(refused)(scope, receive, send)
            return
        try:
            body = await asyncio.wait_for(_body(receive, headers), _BODY_TIMEOUT)
        except TimeoutError:
            refused = refusal(408, "too_slow", "the request's body took too long to arrive")
            await _hang_up(refused)(scope, receive, send)
        except _TooLarge:
            msg = f"a request's body is at most {_BODY_LIMIT} bytes"
            await _hang_up(refusal(413, "too_large", msg))(scope, receive, send)
        except _Gone:
            return
        else:
            await self._app(scope, _once(body, receive), send)

    def _refuse(self, headers: Headers) -> Response | None:
        if not _is_loopback(headers.get("host", "")):
            return refusal(
                421, "wrong_host", "this door answers to loopback names only", "use 127.0.0.1 or localhost"
            )
        given = headers.get("authorization", "").encode("latin-1", "replace")
        # Digests, so that neither content nor length shows in the time it takes.
        if not hmac.compare_digest(_digest(given), self._token):
            return refusal(
                401,
                "wrong_token",
                "the operator token is missing or wrong",
                "it lies in operator.token of the endpoint's data folder",
                {"www-authenticate": "Bearer"},
            )
        return None


class StrictRoute(APIRoute):
    """Reads a body's JSON as strictly as the wire does."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return strict


class _StrictRequest(Request):
    async def json(self) -> object:
        try:
            return loads(await self.body(), max_depth=_DEPTH)
        except JsonError as error:
            raise ApiError(400, "bad_json", f"the request's body: {error}") from error


class _TooLarge(Exception):
    pass


class _Gone(Exception):
    pass


def _hang_up(response: Response) -> Response:
    """Nothing more is read on this connection: a body that was not taken may have no end."""
    response.headers["connection"] = "close"
    return response


async def _body(receive: Receive, headers: Headers) -> bytes:
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > _BODY_LIMIT:
        raise _TooLarge
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise _Gone
        body += message.get("body", b"")
        if len(body) > _BODY_LIMIT:
            raise _TooLarge
        if not message.get("more_body", False):
            return bytes(body)


def _once(body: bytes, receive: Receive) -> Receive:
    """The body that was read, then whatever comes (the client's leaving)."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _is_loopback(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    name = name.removeprefix("[").removesuffix("]")
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
