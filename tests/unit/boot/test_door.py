"""The boot door over real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from teeth.boot.door import boot_app
from teeth.boot.fileanswer import IMMUTABLE, FileAnswer
from teeth.boot.grants import Grant
from teeth.boot.ipxe import LOCAL_DISK, BootTarget
from teeth.boot.transfers import Transfers
from teeth.endpoint.httpserver import listening_socket, serve
from teeth.errors import TeethError

MAC = "52:54:00:00:00:01"
GRANT = Grant(token="T" * 32, mac=MAC, expires=0.0)
IMAGE = bytes(range(256)) * 8192  # 2 MiB: more than one chunk
STORED = "sha256-" + "1" * 64
LARGE = "sha256-" + "2" * 64
PLACES = 3


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
    def __init__(self, folder: Path) -> None:
        self.port = 0
        self.folder = folder
        self.grants = Grants()
        self.served = asyncio.Queue[tuple[str, int]]()
        self.transfers = Transfers(PLACES)
        self.stored = {STORED: folder / "disk.img"}

    def content(self, name: str) -> Path | None:
        return self.stored.get(name)

    def manifest(self, name: str) -> Path | None:
        return self.folder / "manifest.json" if name in self.stored else None

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
    opened = Door(tmp_path)
    target = BootTarget(
        base_url="http://10.0.2.2:80", endpoints=("10.0.2.2:1",), ca_digest="sha256:" + "0" * 64
    )
    app = boot_app(
        target=target,
        grants=opened.grants,
        ramdisk=tmp_path,
        images={"image-1": tmp_path / "disk.img"},
        on_served=lambda name, size: opened.served.put_nowait((name, size)),
        store=opened,
        transfers=opened.transfers,
    )
    sock = listening_socket("127.0.0.1", 0, "boot")
    opened.port = sock.getsockname()[1]
    async with serve(app, sock):
        yield opened


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


# --- images by their content


async def test_an_image_by_its_digest_may_be_kept_for_ever(door: Door) -> None:
    answer = await door.get(f"/images/{STORED}")
    assert (answer.status, answer.body) == (200, IMAGE)
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["etag"] == f'"{STORED}"'
    manifest = await door.get(f"/images/{STORED}/manifest?v=1")
    assert (manifest.status, manifest.body) == (200, b"{}")
    assert manifest.headers["cache-control"] == answer.headers["cache-control"]
    assert await asyncio.wait_for(door.served.get(), 10) == (STORED, len(IMAGE))
    assert await asyncio.wait_for(door.served.get(), 10) == (f"{STORED}/manifest", 2)


async def test_conditions_follow_the_digest(door: Door) -> None:
    path, etag = f"/images/{STORED}", f'"{STORED}"'
    known = await door.get(path, **{"If-None-Match": f'"other", W/{etag}'})
    assert (known.status, known.body, known.headers["etag"]) == (304, b"", etag)
    resumed = await door.get(path, **{"Range": "bytes=2097150-", "If-Range": etag})
    assert (resumed.status, resumed.body) == (206, IMAGE[2097150:])
    weak = await door.get(path, **{"Range": "bytes=2097150-", "If-Range": f"W/{etag}"})
    assert (weak.status, len(weak.body)) == (200, len(IMAGE))
    head = await door.get(path, method="HEAD")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(IMAGE)))


@pytest.mark.parametrize("wanted", ["bytes=5-1", "bytes=0-1,5-9", "lines=1-2", "bytes=-", "bytes=x-"])
async def test_a_range_that_is_none_gets_the_whole_image(door: Door, wanted: str) -> None:
    answer = await door.get(f"/images/{STORED}", Range=wanted)
    assert (answer.status, len(answer.body)) == (200, len(IMAGE))


@pytest.mark.parametrize("wanted", ["bytes=2097152-", "bytes=-0", "bytes=99999999999999999-"])
async def test_a_range_behind_the_end_says_how_long_the_image_is(door: Door, wanted: str) -> None:
    answer = await door.get(f"/images/{STORED}", Range=wanted)
    assert (answer.status, answer.headers["content-range"]) == (416, f"bytes */{len(IMAGE)}")


async def test_requests_follow_a_file_on_one_connection(door: Door) -> None:
    def talk() -> list[bytes]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", door.port, timeout=10)) as one:
            got = []
            for path in (f"/images/{STORED}", "/images/none", "/boot/files/vmlinuz", f"/images/{STORED}"):
                one.request("GET", path)
                got.append(one.getresponse().read())
            return got

    assert await asyncio.to_thread(talk) == [IMAGE, b"no such image\n", b"kernel", IMAGE]


async def test_an_image_beyond_the_places_is_to_be_asked_for_later(door: Door) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(PLACES):
            stack.enter_context(door.transfers.place())
        for path in (f"/images/{STORED}", "/images/image-1"):
            answer = await door.get(path)
            assert (answer.status, answer.headers["cache-control"]) == (503, "no-store")
            assert 1 <= int(answer.headers["retry-after"]) <= 60
            assert answer.headers["connection"] == "close"
        # What does not move an image needs no place.
        assert (await door.get(f"/images/{STORED}/manifest")).status == 200
        assert (await door.get(f"/images/{STORED}", method="HEAD")).status == 200
        assert (await door.get("/boot/files/vmlinuz")).status == 200
    assert (await door.get(f"/images/{STORED}")).status == 200
    async with asyncio.timeout(10):  # told when it has ended, a moment after its last byte came
        while (await door.served.get())[0] != STORED:
            pass
    assert door.transfers.running == 0


async def test_who_leaves_in_the_middle_leaves_a_place(door: Door) -> None:
    (door.folder / "large").write_bytes(b"")
    os.truncate(door.folder / "large", 1 << 30)
    door.stored[LARGE] = door.folder / "large"
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(f"GET /images/{LARGE} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    async with asyncio.timeout(10):
        await reader.readexactly(1 << 20)
        assert door.transfers.running == 1
        writer.transport.abort()
        name, sent = await door.served.get()
    assert (name, 1 << 20 <= sent < 1 << 30) == (LARGE, True)
    assert (await door.get(f"/images/{STORED}")).status == 200


async def test_a_server_without_the_extension_gets_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(IMAGE)
    told: list[tuple[str, int]] = []
    answer = FileAnswer(
        tmp_path / "disk.img", "disk", lambda *one: told.append(one), etag="x", cache=IMMUTABLE
    )
    transport = httpx.ASGITransport(answer)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        whole = await client.get("/")
        assert (whole.content, whole.headers["etag"]) == (IMAGE, '"x"')
        part = await client.get("/", headers={"range": "bytes=1-1048577"})
        assert (part.status_code, part.content) == (206, IMAGE[1:1048578])
        (tmp_path / "disk.img").unlink()
        assert (await client.get("/")).status_code == 404
    assert told == [("disk", len(IMAGE)), ("disk", 1048577)]
