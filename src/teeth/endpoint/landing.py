"""The landing: how a started system is made to phone home, and the door at which it is heard."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from teeth.endpoint.secrets import redact
from teeth.errors import UsageError
from teeth_protocol.errors import ProblemError
from teeth_protocol.fields import FieldError, Fields
from teeth_protocol.strictjson import JsonError, loads

_BODY_LIMIT = 64 << 10
_BODY_TIMEOUT = 20.0
_TOKEN = re.compile(r"[A-Za-z0-9_-]{32,64}")
_MAX_FILES = 8  # 4 KiB each, JSON-escaped at most sixfold: inside the body's limit for ordinary text

# (hash of the token, digest of the body, facts); raises ProblemError when the token opens nothing.
Land = Callable[[str, str, dict[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LandingTicket:
    """A one-time address. Only ``token_hash`` is ever stored."""

    url: str
    token_hash: str

    def __repr__(self) -> str:
        return "LandingTicket(<hidden>)"


def new_ticket(base_url: str) -> LandingTicket:
    """``base_url`` is ``https://HOST:PORT`` of the landing door as the started system sees it."""
    token = secrets.token_urlsafe(32)
    return LandingTicket(url=f"{base_url}/landing/{token}", token_hash=_hash(token.encode()))


def landing_script(ticket: LandingTicket, *, ca_pem: str, files: Sequence[str]) -> str:
    """A Python script that reports the landing and the contents of ``files`` (absolute paths, at most 8)."""
    if len(files) > _MAX_FILES or not all(path.startswith("/") for path in files):
        raise UsageError(f"a landing reports at most {_MAX_FILES} files, by absolute path")
    source = resources.files("teeth.endpoint").joinpath("phone_home.py").read_text(encoding="utf-8")
    config = json.dumps({"url": ticket.url, "ca": ca_pem, "files": list(files)})
    return f"#!/usr/bin/python3\n{source}\n\nsys.exit(main(json.loads({config!r})))\n"


def with_landing(vendor_data: Mapping[str, Any] | None, script: str) -> dict[str, Any]:
    """OpenStack vendor data in which cloud-init also finds ``script``.

    A script part and not ``runcmd``: a list in the user's own cloud-config replaces the vendor's list of the
    same name, and the landing would silently be lost.
    """
    base = dict(vendor_data or {})
    before = base.get("cloud-init", [])
    parts = [before] if isinstance(before, str) else before
    if not isinstance(parts, list):
        raise UsageError("vendor_data.cloud-init must be a text or a list of texts")
    return {**base, "cloud-init": [*parts, script] if parts else script}


def landing_app(land: Land) -> Starlette:
    """``POST /landing/TOKEN`` with the facts as a JSON object of at most 64 KiB.

    200 when it was taken (again); 404, 409, 413, 400 when it never will be; 408 when the body was too slow.
    """

    async def receive(request: Request) -> Response:
        token = request.path_params["token"]
        if not _TOKEN.fullmatch(token):
            return _refuse(404, "nothing is awaited here")
        try:
            body = await asyncio.wait_for(_body(request), _BODY_TIMEOUT)
        except TimeoutError:
            return _refuse(408, "the report took too long to arrive")
        except ClientDisconnect:
            return _refuse(400, "the report ended early")
        if body is None:
            return _refuse(413, f"a report is at most {_BODY_LIMIT} bytes")
        try:
            facts = _facts(body)
            await land(_hash(token.encode()), _hash(body), facts)
        except (JsonError, FieldError) as error:
            return _refuse(400, str(error))
        except ProblemError as error:
            status = 404 if error.problem.code == "landing_unknown" else 409
            return _refuse(status, error.problem.msg)
        return JSONResponse({"landed": True})

    return Starlette(routes=[Route("/landing/{token}", receive, methods=["POST"])])


async def _body(request: Request) -> bytes | None:
    """The request's body, None as soon as it is longer than the limit."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _BODY_LIMIT:
            return None
    return bytes(body)


def _facts(body: bytes) -> dict[str, Any]:
    value = loads(body, max_depth=4, max_values=256)
    fields = Fields(value, "landing")
    fields.text("hostname", max_length=253)
    fields.text("boot_id", max_length=64)
    fields.text("cmdline", max_length=4096)
    fields.object("files", optional=True)
    facts: dict[str, Any] = redact(value)
    return facts


def _refuse(status: int, why: str) -> Response:
    return JSONResponse({"error": {"msg": why}}, status_code=status)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
