"""The NVMe/TCP target, driven over sockets by a host that was written for it. The kernel of the machine that
runs these tests needs no nvme-tcp; nvme-cli cannot be used without one, so the real tools run in a guest
(tests/lab)."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fakes.nvme_initiator import Connection, Host, RefusedError, connected, dialled
from teeth.errors import TeethError, UsageError
from teeth.lab.drives.control import ask
from teeth.lab.drives.firmware import make_image
from teeth.lab.drives.server import Serving, serve
from teeth.lab.drives.spec import parse
from teeth.lab.drives.submission import Code

SECONDS = 30.0
NQN = "nqn.2015-01.lab.teeth:d0"
DISCOVERY = "nqn.2014-08.org.nvmexpress.discovery"
MARK = b"REMAINS "
MIB = 1 << 20


@asynccontextmanager
async def served(folder: Path, *drives: dict[str, Any], **top: Any) -> AsyncIterator[Serving]:
    """Drives in files that are full of a pattern."""
    entries = []
    for number, drive in enumerate(drives or ({},)):
        entry = {"name": f"d{number}", "kind": "nvme", "size": "4 MiB", "file": f"d{number}.img"}
        entries.append(entry | {"erase_seconds": 0.2} | drive)
        file = folder / f"d{number}.img"
        if not file.exists():
            file.write_bytes(MARK * (4 * MIB // len(MARK)))
    spec = parse({"listen": "127.0.0.1:0", "drive": entries} | top, folder / "spec.toml")
    async with serve(spec) as serving:
        yield serving


@asynccontextmanager
async def host_on(serving: Serving, number: int = 0, **options: Any) -> AsyncIterator[Host]:
    drive = serving.nvme[number]
    async with connected(*drive.portal, drive.address, **options) as host:
        yield host


def dial(serving: Serving, **options: Any) -> Any:
    return dialled(*serving.nvme[0].portal, **options)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110 - the model tells nobody
            await asyncio.sleep(0.001)


async def sanitized(host: Host) -> int:
    """SSTAT when no sanitize is in progress any more."""
    async with asyncio.timeout(SECONDS):
        while (status := (await host.sanitize_status())[1]) & 7 == 2:  # noqa: ASYNC110 - a host polls
            await asyncio.sleep(0.05)
    return status


def marks(folder: Path, number: int = 0) -> int:
    return (folder / f"d{number}.img").read_bytes()[: 4 * MIB].count(MARK)


# --- blocks


@pytest.mark.parametrize("digests", [0, 1, 2, 3])
async def test_blocks_are_written_and_read_by_every_way(tmp_path: Path, digests: int) -> None:
    async with served(tmp_path) as serving, host_on(serving, queues=2, digests=digests, align=15) as host:
        small, large = b"s" * 4096, bytes(range(256)) * 1024
        await host.write(1, 0, small)
        await host.write(1, 16, small, capsule=False, queue=1)
        await host.write(1, 1024, large)
        await host.flush(1)
        assert await host.read(1, 0, 8) == small
        assert await host.read(1, 16, 8, queue=1) == small
        assert await host.read(1, 1024, 512, queue=1) == large
        assert (tmp_path / "d0.img").read_bytes()[1024 * 512 :][: len(large)] == large


async def test_many_commands_are_under_way_at_once(tmp_path: Path) -> None:
    async with served(tmp_path) as serving, host_on(serving, queues=4) as host:
        blocks = [bytes((n,)) * 65536 for n in range(32)]
        await asyncio.gather(*(host.write(1, n * 128, data, queue=n % 4) for n, data in enumerate(blocks)))
        found = await asyncio.gather(*(host.read(1, n * 128, 128, queue=(n + 1) % 4) for n in range(32)))
        assert found == blocks


async def test_errors_come_with_their_status(tmp_path: Path) -> None:
    faults = {"faults": ["media-error:5", "write-error:9"]}
    async with served(tmp_path, faults) as serving, host_on(serving) as host:
        for lba, status in ((5, Code.UNRECOVERED_READ), (8192, Code.LBA_OUT_OF_RANGE)):
            with pytest.raises(RefusedError) as refused:
                await host.read(1, lba, 1)
            assert (refused.value.status, refused.value.final) == (status, True)
        with pytest.raises(RefusedError, match="280h"):
            await host.write(1, 9, bytes(512))
        with pytest.raises(RefusedError, match="00fh"):
            await host.queues[0].run(0x02, nsid=1, words=(64, 0, 7), expect=512)
        with pytest.raises(RefusedError, match="001h"):
            await host.admin.run(0xC0)
        assert struct.unpack_from("<Q", await host.log(0x01))[0] == 4


# --- what the lab is for


async def test_format_reaches_the_file(tmp_path: Path) -> None:
    halves = [{"size": "2 MiB"}, {"size": "2 MiB"}]
    async with served(tmp_path, {"namespaces": halves}) as serving, host_on(serving) as host:
        await host.admin.run(0x80, nsid=1, words=(1 << 9,))
        assert marks(tmp_path) == 2 * MIB // 8
        assert await host.read(2, 0, 1) == MARK * 64
        await host.admin.run(0x80, nsid=0xFFFFFFFF, words=(2 << 9,))
        assert marks(tmp_path) == 0


@pytest.mark.parametrize("action", [2, 3, 4])
async def test_sanitize_reaches_the_file_and_an_event_tells_of_its_end(tmp_path: Path, action: int) -> None:
    async with served(tmp_path) as serving, host_on(serving) as host:
        event = host.admin.submit(0x0C)
        await host.admin.run(0x84, words=(action | 1 << 4, 0xA5A5A5A5))
        with pytest.raises(RefusedError, match="01dh"):
            await host.read(1, 0, 1)
        async with asyncio.timeout(SECONDS):
            assert (await event).result == 6 | 1 << 8 | 0x81 << 16
        assert (await host.sanitize_status())[1] & 0x107 == 0x101
        assert marks(tmp_path) == 0
        assert await host.read(1, 0, 1) == (b"\xa5" if action == 3 else b"\0") * 512


async def test_a_power_cut_ends_the_association_and_the_sanitize_goes_on(tmp_path: Path) -> None:
    async with served(tmp_path, {"erase_seconds": 3}) as serving:
        async with host_on(serving) as host:
            await host.admin.run(0x84, words=(2,))
            await ask(tmp_path / "spec.control", {"do": "power-cut"})
            await host.admin.ended()
            await host.queues[0].ended()
        async with host_on(serving) as host:
            progress, status = await host.sanitize_status()
            assert (status & 7, progress < 0xFFFF) == (2, True)
            assert await sanitized(host) & 7 == 1
    assert marks(tmp_path) == 0


async def test_a_sanitize_goes_on_when_the_server_begins_anew(tmp_path: Path) -> None:
    async with served(tmp_path, {"erase_seconds": 2}) as serving, host_on(serving) as host:
        await host.admin.run(0x84, words=(2,))
    assert marks(tmp_path) > 0
    async with served(tmp_path, {"erase_seconds": 2}) as serving, host_on(serving) as host:
        assert await sanitized(host) & 7 == 1
    assert marks(tmp_path) == 0


async def test_new_firmware_runs_after_a_controller_reset(tmp_path: Path) -> None:
    image = make_image("9.99", size=32768)
    async with served(tmp_path) as serving, host_on(serving) as host:
        for at in range(0, len(image), 16384):
            piece = image[at : at + 16384]
            await host.admin.run(0x11, words=(len(piece) // 4 - 1, at // 4), data=piece)
        await host.admin.run(0x10, words=(2 | 1 << 3,))
        assert (await host.identify(1))[64:72] == b"1.00    "
        await host.admin.set(0x14, 0)
        assert await host.admin.get(0x1C) == 0
        await host.admin.set(0x14, 1)
        assert (await host.identify(1))[64:72] == b"9.99    "


async def test_two_hosts_see_what_one_does_to_the_namespaces(tmp_path: Path) -> None:
    one = {"namespaces": [{"size": "1 MiB"}, {"size": "1 MiB", "attached": False}]}
    async with served(tmp_path, one) as serving, host_on(serving) as first, host_on(serving) as second:
        await second.admin.run(0x09, words=(0x0B, 1 << 8))
        event = second.admin.submit(0x0C)
        await first.admin.run(0x15, nsid=2, words=(0,), data=bytes((1, 0, 1, 0)).ljust(4096, b"\0"))
        async with asyncio.timeout(SECONDS):
            assert (await event).result == 2 | 0x04 << 16
        assert struct.unpack_from("<II", await second.log(0x04, 4096)) == (2, 0)
        assert await second.read(2, 0, 1) == MARK * 64


# --- what happens to it


async def test_a_drive_that_vanishes_ends_its_connections_and_comes_back(tmp_path: Path) -> None:
    control = tmp_path / "spec.control"
    async with served(tmp_path) as serving:
        async with host_on(serving) as host:
            await ask(control, {"do": "add", "what": "vanish"})
            await host.admin.ended()
        async with dial(serving) as connection:
            with pytest.raises(RefusedError, match="181h") as refused:
                await connection.connect(NQN)
            assert not refused.value.final  # a kernel tries again
        await ask(control, {"do": "remove", "what": "vanish"})
        async with host_on(serving) as host:
            assert await host.read(1, 0, 1) == MARK * 64


async def test_a_hanging_drive_answers_nothing_but_still_takes_the_connection(tmp_path: Path) -> None:
    async with served(tmp_path) as serving, host_on(serving) as host:
        serving.nvme[0].add("hang")
        pending = [host.queues[0].submit(0x02, nsid=1, words=(0, 0, 0), expect=512) for _ in range(3)]
        assert await host.admin.get(0x1C) & 1  # properties are the transport's
        assert not any(future.done() for future in pending)
        serving.nvme[0].device.disk.remove("hang")
        await ask(tmp_path / "spec.control", {"do": "reset"})
        with pytest.raises(ConnectionError):
            await pending[0]


async def test_a_host_that_does_not_keep_alive_is_given_up(tmp_path: Path) -> None:
    async with served(tmp_path) as serving, host_on(serving, keep_alive=200) as host:
        await host.admin.run(0x18)
        await host.admin.ended()
        await host.queues[0].ended()
        assert serving.nvme[0].controller.hosts == []


async def test_the_control_socket_tells_where_to_connect(tmp_path: Path) -> None:
    pieces = {"namespaces": [{"size": "1 MiB"}, {"size": "1 MiB", "sector": 4096, "attached": False}]}
    async with served(tmp_path, pieces, {"kind": "scsi"}) as serving:
        found = (await ask(tmp_path / "spec.control", {"do": "list"}))["drives"]
        iscsi, nvme = found
        assert (iscsi["kind"], nvme["kind"]) == ("scsi", "nvme")
        assert nvme["nqn"] == NQN
        assert (nvme["transport"], nvme["host"], nvme["port"]) == (
            "tcp",
            "127.0.0.1",
            serving.nvme[0].portal[1],
        )
        assert nvme["namespaces"][1]["extents"] == [[MIB, 2 * MIB]]
        assert nvme["url"] == serving.url(serving.nvme[0]) == f"nvme-tcp://127.0.0.1:{nvme['port']}/{NQN}"
        with pytest.raises(TeethError, match="keeps-password means nothing to a drive of kind nvme"):
            await ask(tmp_path / "spec.control", {"do": "add", "drive": "d0", "what": "keeps-password"})
    with pytest.raises(UsageError, match="leaves-detached means nothing to a drive of kind scsi"):
        async with served(tmp_path, {"kind": "scsi", "lies": ["leaves-detached"]}):
            pass


async def test_discovery_lists_the_drives(tmp_path: Path) -> None:
    async with served(tmp_path, {}, {}, nvme_advertise="10.0.2.2") as serving, dial(serving) as connection:
        await connection.connect(DISCOVERY)
        await connection.set(0x14, 1)
        assert (await connection.run(0x06, words=(1,), expect=4096)).data[111] == 2
        data = (await connection.run(0x02, words=(0x70 | (3072 // 4 - 1) << 16,), expect=3072)).data
        assert struct.unpack_from("<QQ", data) == (1, 2)
        entry = data[1024:2048]
        assert tuple(entry[:3]) == (3, 1, 2)
        assert entry[32:64].rstrip() == str(serving.nvme[0].portal[1]).encode()
        assert entry[256:512].rstrip(b"\0") == NQN.encode()
        assert entry[512:768].rstrip() == b"10.0.2.2"
        with pytest.raises(RefusedError):
            await connection.run(0x02, words=(0x02,), expect=512)


# --- hosts that break the rules


async def test_a_connect_that_cannot_be_is_refused_with_what_is_wrong(tmp_path: Path) -> None:
    async with served(tmp_path) as serving, dial(serving) as connection:
        for options, result in (
            ({"nqn": "nqn.2015-01.lab.teeth:other"}, 256 | 1 << 16),
            ({"nqn": NQN, "controller": 7}, 16 | 1 << 16),
            ({"nqn": NQN, "size": 1}, 44),
            ({"nqn": NQN, "size": 4096}, 44),
            ({"nqn": NQN, "number": 1}, 42),
        ):
            with pytest.raises(RefusedError) as refused:
                await connection.connect(**options)  # type: ignore[arg-type]
            assert (refused.value.status, refused.value.result) == (0x182, result)
        with pytest.raises(RefusedError, match="00ch"):
            await connection.run(0x06, words=(1,), expect=4096)
        await connection.connect(NQN)
        with pytest.raises(RefusedError, match="00ch"):  # not enabled yet
            await connection.run(0x06, words=(1,), expect=4096)
        with pytest.raises(RefusedError, match="002h"):
            await connection.get(0x30)
        with pytest.raises(RefusedError, match="00ch"):
            await connection.connect(NQN)


async def test_too_many_requests_for_events_are_refused(tmp_path: Path) -> None:
    async with served(tmp_path) as serving, host_on(serving) as host:
        waiting = [host.admin.submit(0x0C) for _ in range(5)]
        async with asyncio.timeout(SECONDS):
            assert (await waiting[4]).status == Code.TOO_MANY_EVENT_REQUESTS
        assert not waiting[0].done()


def _header(kind: int, flags: int, length: int, offset: int, total: int) -> bytes:
    return struct.pack("<BBBBI", kind, flags, length, offset, total)


BROKEN = [
    ("a type that there is not", _header(0x42, 0, 72, 0, 72)),
    ("a header of another length", _header(4, 0, 70, 0, 70)),
    ("a digest that was not agreed", _header(4, 1, 72, 0, 76)),
    ("data before the header's end", _header(4, 0, 72, 8, 100)),
    ("data that end before they begin", _header(4, 0, 72, 200, 100)),
    ("more in a capsule than fits", _header(4, 0, 72, 72, 1 << 31)),
    ("a second ICReq", _header(0, 0, 128, 0, 128).ljust(128, b"\0")),
    ("data that nobody asked for", _header(6, 0, 24, 24, 28) + struct.pack("<HHII4x", 1, 9, 0, 4) + b"data"),
]


@pytest.mark.parametrize("bad", [bad for _, bad in BROKEN], ids=[name for name, _ in BROKEN])
async def test_a_broken_unit_ends_the_connection_with_a_reason(tmp_path: Path, bad: bytes) -> None:
    async with served(tmp_path) as serving:
        async with host_on(serving) as host:
            host.queues[0].writer.write(bad)
            await host.queues[0].ended()
            assert host.queues[0].terminated[0] == 3
        async with host_on(serving) as host:
            assert await host.read(1, 0, 1) == MARK * 64


async def test_data_beside_what_was_asked_for_end_the_connection(tmp_path: Path) -> None:
    async with served(tmp_path) as serving, host_on(serving) as host:
        queue = host.queues[0]

        async def too_far(cid: int, tag: int, at: int, size: int) -> None:
            queue.writer.write(queue.unit(6, struct.pack("<HHII4x", cid, tag, at + 512, 512), bytes(512)))

        queue._send_data = too_far  # type: ignore[method-assign]
        future = queue.submit(0x01, nsid=1, words=(0, 0, 31), data=bytes(16384))
        await queue.ended()
        assert struct.unpack_from("<H", queue.terminated, 8)[0] == 4
        with pytest.raises(ConnectionError):
            await future


async def test_a_wrong_digest_is_found(tmp_path: Path) -> None:
    async with served(tmp_path) as serving, host_on(serving, digests=3) as host:
        queue = host.queues[0]
        whole = queue.unit

        def spoilt(kind: int, body: bytes, data: bytes = b"", *, flags: int = 0) -> bytes:
            return whole(kind, body, data, flags=flags)[:-1] + b"\0"

        queue.unit = spoilt  # type: ignore[method-assign]
        with pytest.raises(RefusedError, match="022h"):
            await host.write(1, 0, b"x" * 512)
        queue.submit(0x00, nsid=1)
        await queue.ended()
        assert struct.unpack_from("<H", queue.terminated, 8)[0] == 3
    assert marks(tmp_path) == 4 * MIB // 8


async def test_connections_that_say_nothing_or_rubbish_do_not_keep_others_away(tmp_path: Path) -> None:
    async with served(tmp_path) as serving:
        silent = [await asyncio.open_connection(*serving.nvme[0].portal) for _ in range(20)]
        for _, writer in silent[:10]:
            writer.write(b"GET / HTTP/1.1\r\n\r\n" * 20)
        async with host_on(serving) as host:
            assert await host.read(1, 0, 1) == MARK * 64
        for reader, writer in silent[:10]:
            async with asyncio.timeout(SECONDS):
                await reader.read()
            writer.close()
        for _, writer in silent[10:]:
            writer.close()


async def test_a_queue_that_is_flooded_is_ended(tmp_path: Path) -> None:
    async with served(tmp_path) as serving, host_on(serving) as host:
        serving.nvme[0].add("hang")
        queue: Connection = host.queues[0]
        for _ in range(60):
            queue.submit(0x02, nsid=1, words=(0, 0, 0), expect=512)
        await queue.ended()
        assert struct.unpack_from("<H", queue.terminated, 8)[0] == 4
