"""The boot door over real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from teeth.boot.door import boot_app
from teeth.boot.grants import Grant
from teeth.boot.ipxe import LOCAL_DISK, BootTarget
from teeth.endpoint.httpserver import listening_socket, serve
from teeth.errors import TeethError

MAC = "52:54:00:00:00:01"
GRANT = Grant(token="T" * 32, mac=MAC, expires=0.0)
IMAGE = bytes(range(256)) * 8192  # 2 MiB: more than one chunk


class Grants:
    """Knows one machine; ``asked`` holds what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str | None] = []

    def lookup(self, mac: str | None, uuid: str | None) -> Grant | None:
        self.asked.append(mac)
        return GRANT if mac == MAC else None


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class Door:
    def __init__(self, port: int, grants: Grants, served: asyncio.Queue[tuple[str, int]]) -> None:
        self.port = port
        self.grants = grants
        self.served = served

    async def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        return await asyncio.to_thread(self._get, path, method, headers)

    def _get(self, path: str, method: str, headers: dict[str, str]) -> Answer:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    (tmp_path / "vmlinuz").write_bytes(b"kernel")
    (tmp_path / "initramfs").write_bytes(b"initramfs" * 1000)
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "disk.img").write_bytes(IMAGE)
    grants, served = Grants(), asyncio.Queue[tuple[str, int]]()
    target = BootTarget(
        base_url="http://10.0.2.2:80", endpoints=("10.0.2.2:1",), ca_digest="sha256:" + "0" * 64
    )
    app = boot_app(
        target=target,
        grants=grants,
        ramdisk=tmp_path,
        images={"image-1": tmp_path / "disk.img"},
        on_served=lambda name, size: served.put_nowait((name, size)),
    )
    sock = listening_socket("127.0.0.1", 0, "boot")
    port = sock.getsockname()[1]
    async with serve(app, sock):
        yield Door(port, grants, served)


async def test_an_open_grant_gets_the_ramdisk(door: Door) -> None:
    answer = await door.get(f"/boot/ipxe?mac={MAC.upper()}&uuid=anything")
    assert answer.status == 200
    assert f"teeth.token={GRANT.token}".encode() in answer.body
    assert b"BOOTIF=01-52-54-00-00-00-01" in answer.body
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("query", ["?mac=52:54:00:00:00:02", "", "?uuid=x"])
async def test_without_an_open_grant_the_machine_goes_to_its_own_disk(door: Door, query: str) -> None:
    answer = await door.get("/boot/ipxe" + query)
    assert (answer.status, answer.body.decode()) == (200, LOCAL_DISK)


@pytest.mark.parametrize(
    "mac", ["x", "52:54:00:00:00:01%0Ashell", "52:54:00:00:00:01%20quiet", "$%7Bx%7D", ""]
)
async def test_a_mac_that_is_none_is_refused_and_not_echoed(door: Door, mac: str) -> None:
    answer = await door.get(f"/boot/ipxe?mac={mac}")
    assert answer.status == 400
    assert b"shell" not in answer.body
    assert door.grants.asked == []


async def test_boot_files_are_served_whole_and_counted(door: Door) -> None:
    answer = await door.get("/boot/files/initramfs")
    assert (answer.status, answer.body) == (200, b"initramfs" * 1000)
    assert answer.headers["content-length"] == "9000"
    assert await asyncio.wait_for(door.served.get(), 10) == ("initramfs", 9000)


@pytest.mark.parametrize(
    "path",
    [
        "/boot/files/manifest.json",
        "/boot/files/..%2Fdisk.img",
        "/boot/files/",
        "/boot/files/%2e%2e/%2e%2e/etc/passwd",
        "/images/..%2Fvmlinuz",
        "/images/other",
    ],
)
async def test_nothing_else_is_served(door: Door, path: str) -> None:
    assert (await door.get(path)).status == 404


@pytest.mark.parametrize(
    ("wanted", "span"),
    [
        ("bytes=0-9", (0, 10)),
        ("bytes=1048570-1048589", (1048570, 1048590)),
        ("bytes=2097100-", (2097100, None)),
        ("bytes=-5", (2097147, None)),
    ],
)
async def test_images_are_served_by_range(door: Door, wanted: str, span: tuple[int, int | None]) -> None:
    answer = await door.get("/images/image-1", Range=wanted)
    expected = IMAGE[slice(*span)]
    assert (answer.status, answer.body) == (206, expected)
    first, last = span[0], (span[1] or len(IMAGE)) - 1
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(IMAGE)}"
    assert await asyncio.wait_for(door.served.get(), 10) == ("image-1", len(expected))


async def test_a_range_beyond_the_image_is_refused(door: Door) -> None:
    answer = await door.get("/images/image-1", Range="bytes=9999999-")
    assert answer.status == 416


async def test_a_resumed_transfer_of_a_changed_image_starts_over(door: Door) -> None:
    answer = await door.get("/images/image-1", **{"Range": "bytes=5-", "If-Range": '"another"'})
    assert (answer.status, len(answer.body)) == (200, len(IMAGE))


async def test_only_reading_is_possible(door: Door) -> None:
    assert (await door.get("/boot/files/vmlinuz", method="PUT")).status == 405
    head = await door.get("/boot/files/vmlinuz", method="HEAD")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", "6")


def test_a_taken_port_is_one_clear_line() -> None:
    with contextlib.closing(listening_socket("127.0.0.1", 0, "boot")) as first:
        port: Any = first.getsockname()[1]
        with pytest.raises(TeethError, match=rf"port {port} on 127\.0\.0\.1 \(boot\) is taken"):
            listening_socket("127.0.0.1", port, "boot")


def test_an_address_that_is_not_ours_is_one_clear_line() -> None:
    with pytest.raises(TeethError, match=r"cannot listen on 192\.0\.2\.1"):
        listening_socket("192.0.2.1", 0, "boot")
