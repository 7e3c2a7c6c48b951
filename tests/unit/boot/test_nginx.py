"""The configurations for nginx, in the real nginx: the boot door behind, the agent's own fetch before it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner

from fakes.imageserver import Request, serving
from fakes.nginx import accepted, free_port, nginx
from teeth.boot.door import boot_app
from teeth.boot.grants import Grant
from teeth.boot.ipxe import BootTarget
from teeth.boot.nginx import front_config, rack_config
from teeth.cli import teeth
from teeth.endpoint.httpserver import listening_socket, serve
from teeth.errors import UsageError
from teeth.images.store import CONTENT, MANIFEST
from teeth_agent.image.fetch import Fetch
from teeth_agent.image.params import ImageSpec

IMAGE = random.Random(5).randbytes((18 << 20) + 12345)
NAME = f"sha256-{hashlib.sha256(IMAGE).hexdigest()}"
IMAGE_PATH = f"/images/{NAME}"
MAC = "52:54:00:00:00:01"


class OneGrant:
    def lookup(self, mac: str | None, uuid: str | None) -> Grant | None:
        return Grant(token="T" * 32, mac=MAC, expires=0.0) if mac == MAC else None


@dataclass
class Stored:
    """A store with the one image."""

    path: Path

    def content(self, name: str) -> Path | None:
        return self.path if name == NAME else None

    def manifest(self, name: str) -> Path | None:
        return None


@dataclass
class Door:
    """The real boot door: its port, and what left it, by name."""

    port: int = 0
    sent: list[tuple[str, int]] = field(default_factory=list)

    @property
    def image_bytes(self) -> int:
        return sum(count for name, count in self.sent if name == NAME)


@contextlib.contextmanager
def boot_door(folder: Path) -> Iterator[Door]:
    (folder / "image").write_bytes(IMAGE)
    door, ready, stops = Door(), threading.Event(), list[Callable[[], object]]()
    target = BootTarget(
        base_url="http://127.0.0.1:1",
        endpoints=("127.0.0.1:2",),
        ca_digest=f"sha256:{'0' * 64}",
        arguments=(),
    )
    app = boot_app(
        target=target,
        grants=OneGrant(),
        ramdisk=None,
        images={},
        store=Stored(folder / "image"),
        on_served=lambda name, count: door.sent.append((name, count)),
    )

    async def run() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        stops.append(lambda: loop.call_soon_threadsafe(stop.set))
        sock = listening_socket("127.0.0.1", 0, "boot")
        door.port = sock.getsockname()[1]
        async with serve(app, sock):
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert ready.wait(20)
    try:
        yield door
    finally:
        stops[0]()
        thread.join()


def ask(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    with contextlib.closing(connection):
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()


def fetch(*ports: int) -> Fetch:
    return Fetch(
        ImageSpec(
            id="i", name="n", urls=tuple(f"http://127.0.0.1:{port}{IMAGE_PATH}" for port in ports),
            size=len(IMAGE), digest=NAME.replace("-", ":"), compression="none",
            raw_size=None, raw_digest=None,
        ),
        pause=lambda seconds: None,
    )  # fmt: skip


def whole(*ports: int) -> bytes:
    return b"".join(bytes(block) for block in fetch(*ports))


@contextlib.contextmanager
def rack(folder: Path, upstream: int, *, size: str = "1g") -> Iterator[int]:
    port = free_port()
    (folder / "cache").mkdir(exist_ok=True)
    config = rack_config(
        listen=f"127.0.0.1:{port}", upstream=f"127.0.0.1:{upstream}", cache=folder / "cache", size=size
    )
    with nginx(folder / "nginx", config, port):
        yield port


# --- what is printed


def test_nginx_accepts_both_configurations_as_the_command_prints_them(tmp_path):
    places = ["--listen", f"127.0.0.1:{free_port()}", "--upstream", "[::1]:8080"]
    front = CliRunner().invoke(teeth, ["endpoint", "nginx", *places, "--data", str(tmp_path)])
    cache = ["--rack", "--cache", str(tmp_path / "c"), "--size", "5g"]
    behind = CliRunner().invoke(teeth, ["endpoint", "nginx", *places, *cache])
    for number, printed in enumerate((front, behind)):
        assert printed.exit_code == 0
        assert "@" not in printed.stdout.replace("@boot_door", "")
        assert "syntax is ok" in accepted(tmp_path / str(number), printed.stdout)


@pytest.mark.parametrize(
    "path", ["/srv/a b", "/srv/a;b", "/srv/$host", "/srv/a{b", '/srv/a"b', "/srv/ä", "/a\nb"]
)
def test_a_path_that_nginx_could_misread_is_refused(path):
    with pytest.raises(UsageError, match="misread"):
        front_config(listen="127.0.0.1:1", upstream="127.0.0.1:2", store=Path(path))
    with pytest.raises(UsageError, match="misread"):
        rack_config(listen="127.0.0.1:1", upstream="127.0.0.1:2", cache=Path(path), size="1g")


@pytest.mark.parametrize("size", ["", "0g", "5", "5G", "5g;", "-1g", "1.5g"])
def test_a_size_that_nginx_does_not_know_is_refused(size):
    with pytest.raises(UsageError, match="size"):
        rack_config(listen="127.0.0.1:1", upstream="127.0.0.1:2", cache=Path("/c"), size=size)


@pytest.mark.parametrize(
    "options",
    [["--rack"], [], ["--rack", "--cache", "/c", "--data", "/d"], ["--data", "/d", "--cache", "/c"]],
)
def test_options_that_do_not_go_together_are_refused(options):
    places = ["--listen", "127.0.0.1:1", "--upstream", "127.0.0.1:2"]
    result = CliRunner().invoke(teeth, ["endpoint", "nginx", *places, *options])
    assert isinstance(result.exception, UsageError)


# --- in front of the endpoint


@pytest.fixture
def front(tmp_path):
    """nginx in front of the boot door: (its port, the door)."""
    store = tmp_path / "store"
    (store / NAME).mkdir(parents=True)
    (store / NAME / CONTENT).write_bytes(IMAGE)
    (store / NAME / MANIFEST).write_bytes(b"{}")
    port = free_port()
    with boot_door(tmp_path) as door:
        config = front_config(listen=f"127.0.0.1:{port}", upstream=f"127.0.0.1:{door.port}", store=store)
        with nginx(tmp_path / "front", config, port):
            yield port, door


def test_in_front_of_the_endpoint_images_come_from_the_folder_and_the_rest_from_the_door(front):
    port, door = front
    assert whole(port) == IMAGE
    code, headers, body = ask(port, IMAGE_PATH, Range="bytes=5000000-5000099")
    assert (code, body) == (206, IMAGE[5000000:5000100])
    assert headers["content-range"] == f"bytes 5000000-5000099/{len(IMAGE)}"
    assert headers["etag"] == f'"{NAME}"'
    assert "immutable" in headers["cache-control"]
    assert headers["content-type"] == "application/octet-stream"
    assert ask(port, IMAGE_PATH, "HEAD")[1]["content-length"] == str(len(IMAGE))
    code, headers, body = ask(port, f"{IMAGE_PATH}/manifest?v=1")
    assert (code, body) == (200, b"{}")
    assert "immutable" in headers["cache-control"]
    assert door.sent == []  # nobody needed the endpoint for that
    code, headers, body = ask(port, f"/boot/ipxe?mac={MAC}")
    assert (code, headers["cache-control"]) == (200, "no-store")
    assert b"T" * 32 in body


def test_an_image_has_the_same_headers_from_nginx_and_from_the_boot_door(front):
    """A cache that asks now one and now the other puts slices of both together."""
    port, door = front
    near, far = ask(port, IMAGE_PATH, "HEAD")[1], ask(door.port, IMAGE_PATH, "HEAD")[1]
    for name in ("etag", "cache-control", "content-type", "content-length", "accept-ranges"):
        assert near[name] == far[name], name


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", f"/images/sha256-{'0' * 64}", 404),
        ("GET", f"/images/sha256-{'0' * 64}/manifest", 404),
        ("GET", f"{IMAGE_PATH}/image", 404),
        ("GET", f"{IMAGE_PATH}/about.json", 404),
        ("GET", f"/images/../{NAME}", 404),
        ("GET", f"/images/{NAME}/../../../../../etc/passwd", 400),
        ("GET", "/images/%2e%2e/%2e%2e/etc/passwd", 400),
        ("GET", "/", 404),
        ("POST", IMAGE_PATH, 403),
        ("DELETE", IMAGE_PATH, 403),
        ("POST", "/boot/ipxe", 403),
    ],
)
def test_in_front_of_the_endpoint_nothing_else_is_given(front, method, path, code):
    assert ask(front[0], path, method)[0] == code


# --- the cache of a rack


def test_many_machines_behind_a_rack_cache_take_about_one_copy_from_the_endpoint(tmp_path):
    with boot_door(tmp_path) as door, rack(tmp_path, door.port) as port, ThreadPoolExecutor(16) as pool:
        bodies = list(pool.map(lambda _: whole(port), range(16)))
        assert all(body == IMAGE for body in bodies)
        assert len(IMAGE) <= door.image_bytes < 1.1 * len(IMAGE)


def test_a_fetch_is_resumed_in_the_middle_through_the_rack_cache(tmp_path):
    with boot_door(tmp_path) as door, rack(tmp_path, door.port) as port:
        start = (6 << 20) + 77
        first = ask(port, IMAGE_PATH, Range=f"bytes=0-{start - 1}")
        rest = ask(port, IMAGE_PATH, Range=f"bytes={start}-")
        assert (first[0], rest[0]) == (206, 206)
        assert first[2] + rest[2] == IMAGE
        assert rest[1]["content-range"] == f"bytes {start}-{len(IMAGE) - 1}/{len(IMAGE)}"
        assert whole(port) == IMAGE
        assert door.image_bytes == len(IMAGE)  # all three by one copy


def test_what_the_rack_cache_holds_is_served_while_the_endpoint_is_away(tmp_path):
    with boot_door(tmp_path) as door:
        with rack(tmp_path, door.port) as port:
            assert whole(port) == IMAGE
        upstream = door.port
    with rack(tmp_path, upstream) as port:  # nginx was restarted too: the cache is on disk
        assert whole(port) == IMAGE
        assert ask(port, f"/images/sha256-{'1' * 64}")[0] == 502


def test_a_rack_cache_without_an_endpoint_sends_machines_to_the_next_url(tmp_path):
    with boot_door(tmp_path) as door, rack(tmp_path, free_port()) as port:
        assert whole(port, door.port) == IMAGE


def test_boot_scripts_are_asked_for_each_time(tmp_path):
    scripts = iter(["first", "second", "third"])

    def script(request: Request) -> None:
        text = next(scripts).encode()
        request.head(200, Content_Length=len(text))  # even without a word about caches
        request.wfile.write(text)

    with serving(b"", script) as upstream, rack(tmp_path, upstream.server_address[1]) as port:
        asked = [ask(port, f"/boot/ipxe?mac={MAC}")[2] for _ in range(3)]
        assert asked == [b"first", b"second", b"third"]
        assert [path for path, _ in upstream.requests] == [f"/boot/ipxe?mac={MAC}"] * 3
        assert not any(path.is_file() for path in (tmp_path / "cache").rglob("*"))


def test_a_manifest_is_kept_by_the_digest_in_its_address(tmp_path):
    texts = iter([b"one", b"two"])

    def manifest(request: Request) -> None:
        text = next(texts)
        request.head(200, Content_Length=len(text), Cache_Control="public, max-age=31536000, immutable")
        request.wfile.write(text)

    path = f"{IMAGE_PATH}/manifest?v="
    with serving(b"", manifest) as upstream, rack(tmp_path, upstream.server_address[1]) as port:
        assert [ask(port, f"{path}{version}")[2] for version in "aabba"] == [
            b"one",
            b"one",
            b"two",
            b"two",
            b"one",
        ]


def no_store(request: Request) -> None:
    request.head(206, Content_Length=4, Content_Range="bytes 0-3/4", Cache_Control="no-store", ETag='"x"')
    request.wfile.write(b"once")


def named_by_hand(request: Request) -> None:
    request.head(200, Content_Length=4, Cache_Control="public, max-age=31536000")
    request.wfile.write(b"once")


@pytest.mark.parametrize(("answer", "path"), [(no_store, IMAGE_PATH), (named_by_hand, "/images/debian")])
def test_what_may_not_be_kept_or_is_not_named_by_its_content_is_not_kept(tmp_path, answer, path):
    with serving(b"", answer) as upstream, rack(tmp_path, upstream.server_address[1]) as port:
        assert [ask(port, path)[2] for _ in range(2)] == [b"once", b"once"]
        assert len(upstream.requests) == 2


@pytest.mark.slow
def test_the_rack_cache_stays_within_its_size(tmp_path):
    """nginx throws out what was used longest ago, a moment later: waited for, with a deadline."""
    with boot_door(tmp_path) as door, rack(tmp_path, door.port, size="8m") as port:
        assert whole(port) == IMAGE
        wait_until(lambda: kept(tmp_path / "cache") <= 8 << 20)
        assert whole(port) == IMAGE


def kept(folder: Path) -> int:
    sizes = []
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            sizes.append(path.stat().st_size if path.is_file() else 0)
    return sum(sizes)


def wait_until(true, seconds: float = 60.0) -> None:
    pause, end = threading.Event(), threading.Event()
    threading.Timer(seconds, end.set).start()
    while not true():
        assert not end.is_set(), "it did not come to pass in time"
        pause.wait(0.1)
