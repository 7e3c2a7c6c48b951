"""The boot door: what a machine may fetch before it has an identity. Plain HTTP, nothing secret but the
one-shot token, which is why the door belongs on a provisioning network or on loopback."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from teeth.boot.fileanswer import IMMUTABLE, FileAnswer, OnServed
from teeth.boot.grants import Grant, normal_uuid
from teeth.boot.ipxe import LOCAL_DISK, BootTarget, boot_script, normal_mac
from teeth.boot.transfers import Busy, Transfers
from teeth.errors import UsageError

_log = logging.getLogger(__name__)
BOOT_FILES = ("vmlinuz", "initramfs")
TRANSFERS = 64  # of images at a time: each has a fair part of a fast line, and its end in sight


class Grants(Protocol):
    """What the door needs of the grant book."""

    def lookup(self, mac: str | None, uuid: str | None) -> Grant | None: ...


class Images(Protocol):
    """What the door needs of the image store: where a file lies now, None if it is not there.

    ``name`` is ``sha256-HEX``, or anything else that somebody asked for.
    """

    def content(self, name: str) -> Path | None: ...

    def manifest(self, name: str) -> Path | None: ...


class _InItsPlace(Response):
    """An image's file as long as there is a place for the transfer, else when to come again."""

    def __init__(self, answer: FileAnswer, transfers: Transfers) -> None:
        super().__init__()
        self._answer = answer
        self._transfers = transfers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await self._answer(scope, receive, send)
            return
        try:
            with self._transfers.place():
                await self._answer(scope, receive, send)
        except Busy as busy:
            # The connection too is a place that somebody else can use.
            headers = {
                "retry-after": str(busy.retry_after),
                "connection": "close",
                "cache-control": "no-store",
            }
            await PlainTextResponse(f"{busy}\n", status_code=503, headers=headers)(scope, receive, send)


def boot_app(
    *,
    target: BootTarget,
    grants: Grants,
    ramdisk: Path | None,
    images: Mapping[str, Path],
    on_served: OnServed,
    store: Images | None = None,
    transfers: Transfers | None = None,
) -> Starlette:
    """The door as an ASGI application.

    ``GET /boot/ipxe?mac=&uuid=``  the script of an open grant, else the one that leaves for the local disk
    ``GET /boot/files/NAME``       vmlinuz or initramfs of ``ramdisk``
    ``GET /images/ID``             one of ``images``, or of ``store`` by its digest, with Range
    ``GET /images/ID/manifest``    the signed digests of its chunks
    """
    places = transfers or Transfers(TRANSFERS)

    async def script(request: Request) -> Response:
        given = request.query_params.get("mac")
        try:
            mac = None if given is None else normal_mac(given)
        except UsageError as error:
            return PlainTextResponse(f"{error}\n", status_code=400)
        grant = await run_in_threadpool(grants.lookup, mac, _uuid(request.query_params.get("uuid")))
        if grant is None:
            _log.info("no open boot grant for %s: local disk", mac or "a machine without a MAC")
            return _uncached(LOCAL_DISK)
        _log.info("boot grant served to %s", mac or "a machine without a MAC")
        return _uncached(boot_script(target, token=grant.token, mac=mac))

    async def boot_file(request: Request) -> Response:
        name = request.path_params["name"]
        if ramdisk is None or name not in BOOT_FILES:
            return PlainTextResponse("no such boot file\n", status_code=404)
        return FileAnswer(ramdisk / name, name, on_served)

    async def image(request: Request) -> Response:
        identity = request.path_params["id"]
        if (path := images.get(identity)) is not None:
            return _InItsPlace(FileAnswer(path, identity, on_served), places)
        stored = None if store is None else store.content(identity)
        if stored is None:
            return PlainTextResponse("no such image\n", status_code=404)
        return _InItsPlace(FileAnswer(stored, identity, on_served, etag=identity, cache=IMMUTABLE), places)

    async def manifest(request: Request) -> Response:
        identity = request.path_params["id"]
        path = None if store is None else store.manifest(identity)
        if path is None:
            return PlainTextResponse("no such manifest\n", status_code=404)
        return FileAnswer(path, f"{identity}/manifest", on_served, cache=IMMUTABLE)

    return Starlette(
        routes=[
            Route("/boot/ipxe", script, methods=["GET"]),
            Route("/boot/files/{name}", boot_file, methods=["GET"]),
            Route("/images/{id}", image, methods=["GET"]),
            Route("/images/{id}/manifest", manifest, methods=["GET"]),
        ]
    )


def _uuid(shown: str | None) -> str | None:
    """None also for what is no UUID: firmware that has none says all sorts of things."""
    try:
        return None if shown is None else normal_uuid(shown)
    except UsageError:
        return None


def _uncached(text: str) -> PlainTextResponse:
    # A proxy that kept a script would hand a spent grant to a machine that was just deployed.
    return PlainTextResponse(text, headers={"cache-control": "no-store"})
