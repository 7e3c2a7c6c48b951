"""The boot door: what a machine may fetch before it has an identity. Plain HTTP, nothing secret but the
one-shot token, which is why the door belongs on a provisioning network or on loopback."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from teeth.boot.grants import Grant, normal_uuid
from teeth.boot.ipxe import LOCAL_DISK, BootTarget, boot_script, normal_mac
from teeth.errors import UsageError

_log = logging.getLogger(__name__)
BOOT_FILES = ("vmlinuz", "initramfs")
# (name of the file, bytes sent): called when a transfer ends, whole or not.
OnServed = Callable[[str, int], None]


class Grants(Protocol):
    """What the door needs of the grant book."""

    def lookup(self, mac: str | None, uuid: str | None) -> Grant | None: ...


class _CountedFile(FileResponse):
    """A file (with Range, from Starlette) that says how many bytes of it left."""

    chunk_size = 1 << 20  # each chunk costs a hop to a thread and back

    def __init__(self, path: Path, name: str, on_served: OnServed) -> None:
        super().__init__(path, media_type="application/octet-stream")
        self._name = name
        self._on_served = on_served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sent = 0

        async def counting(message: object) -> None:
            nonlocal sent
            assert isinstance(message, dict)
            await send(message)
            sent += len(message.get("body", b""))

        try:
            await super().__call__(scope, receive, counting)
        finally:
            self._on_served(self._name, sent)


def boot_app(
    *,
    target: BootTarget,
    grants: Grants,
    ramdisk: Path | None,
    images: Mapping[str, Path],
    on_served: OnServed,
) -> Starlette:
    """The door as an ASGI application.

    ``GET /boot/ipxe?mac=&uuid=``  the script of an open grant, else the one that leaves for the local disk
    ``GET /boot/files/NAME``       vmlinuz or initramfs of ``ramdisk``
    ``GET /images/ID``             one of ``images``, with Range
    """

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
        return _file(ramdisk / name, name)

    async def image(request: Request) -> Response:
        identity = request.path_params["id"]
        path = images.get(identity)
        if path is None:
            return PlainTextResponse("no such image\n", status_code=404)
        return _file(path, identity)

    def _file(path: Path, name: str) -> Response:
        if not path.is_file():
            return PlainTextResponse("the file is not there any more\n", status_code=404)
        return _CountedFile(path, name, on_served)

    return Starlette(
        routes=[
            Route("/boot/ipxe", script, methods=["GET"]),
            Route("/boot/files/{name}", boot_file, methods=["GET"]),
            Route("/images/{id}", image, methods=["GET"]),
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
