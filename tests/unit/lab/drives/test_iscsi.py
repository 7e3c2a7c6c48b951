"""The target, asked by independent initiators where they are installed, and by bad ones made here."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from teeth.errors import TeethError
from teeth.lab.drives.control import ask
from teeth.lab.drives.negotiate import Agreed, Chap, LoginRefusedError, negotiate
from teeth.lab.drives.pdu import HEADER, Op, PduError, build, build_keys, parse_keys
from teeth.lab.drives.server import Serving, serve
from teeth.lab.drives.spec import parse

SECONDS = 30.0


def needs(tool: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is not installed")


@asynccontextmanager
async def served(folder: Path, *drives: dict[str, Any], **top: Any) -> AsyncIterator[Serving]:
    entries = [
        {"name": f"d{n}", "kind": "scsi", "size": "4 MiB"} | drive for n, drive in enumerate(drives or ({},))
    ]
    spec = parse({"listen": "127.0.0.1:0", "drive": entries} | top, folder / "spec.toml")
    async with serve(spec) as serving:
        yield serving


async def run(*argv: str, status: int | None = 0) -> str:
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(SECONDS * 4):
        output, _ = await process.communicate()
    assert status is None or process.returncode == status, output.decode()
    return output.decode()


async def until(condition: Callable[[], bool]) -> None:
    """Let the target work until it is so."""
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110 - the model tells nobody
            await asyncio.sleep(0.001)


def url(serving: Serving, number: int = 0) -> str:
    return serving.url(serving.drives[number])


@needs("iscsi-inq")
async def test_libiscsi_finds_and_asks_the_drives(tmp_path: Path) -> None:
    async with served(tmp_path, {"kind": "sata"}, {}) as serving:
        portal = f"iscsi://{serving.host}:{serving.port}/"
        listed = await run("iscsi-ls", "-s", portal)
        assert listed.count("Type:DIRECT_ACCESS") == 2
        assert "Vendor:ATA" in await run("iscsi-inq", url(serving))
        assert "Total size:4194304" in await run("iscsi-readcapacity16", url(serving, 1))


@needs("iscsi-test-cu")
async def test_libiscsis_own_checks_of_the_transport(tmp_path: Path) -> None:
    """Its whole suite runs in tests/lab."""
    async with served(tmp_path, {"size": "64 MiB"}) as serving:
        output = await run("iscsi-test-cu", "-d", "-n", "-f", "-t", "ALL.iSCSI*", url(serving), status=None)
    assert "had failures" not in output
    assert int(output.split("tests")[-1].split()[1]) >= 15


@needs("qemu-io")
@pytest.mark.skipif(not [*Path("/usr/lib").glob("*/qemu/block-iscsi.so")], reason="QEMU knows no iSCSI")
async def test_qemus_initiator_reads_and_writes(tmp_path: Path) -> None:
    async with served(tmp_path, {"file": "disk.img"}) as serving:
        script = ("write -P 0x5a 0 3M", "read -P 0x5a 0 3M", "read -P 0 3M 1M", "flush")
        words = [word for line in script for word in ("-c", line)]
        output = await run("qemu-io", "-f", "raw", *words, url(serving))
        assert "Pattern verification failed" not in output
    assert (tmp_path / "disk.img").read_bytes()[: 3 << 20] == b"\x5a" * (3 << 20)


@needs("iscsi-inq")
async def test_chap(tmp_path: Path) -> None:
    async with served(tmp_path, user="me", secret="twelve-bytes-long") as serving:
        host = f"{serving.host}:{serving.port}"
        name = serving.drives[0].iqn
        assert "Vendor:TEETH" in await run("iscsi-inq", f"iscsi://me%twelve-bytes-long@{host}/{name}/0")
        for wrong in ("me%another-secret@", "you%twelve-bytes-long@", ""):
            await run("iscsi-inq", f"iscsi://{wrong}{host}/{name}/0", status=10)


# --- an initiator of our own, for what no good one does


class Raw:
    """Units as they are, right or wrong."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.cmd_sn = 1

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def receive(self) -> tuple[bytes, bytes]:
        async with asyncio.timeout(SECONDS):
            header = await self.reader.readexactly(HEADER)
            size = int.from_bytes(header[5:8], "big")
            data = await self.reader.readexactly(size + -size % 4)
        return header, data[:size]

    async def ended(self) -> bool:
        """Whether the other end closes, whatever it says before."""
        async with asyncio.timeout(SECONDS):
            while await self.reader.read(65536):
                pass
        return True

    async def login(self, name: str, **keys: str) -> tuple[bytes, bytes]:
        text = {"InitiatorName": "iqn.test", "TargetName": name, "SessionType": "Normal"} | keys
        unit = build(0x43, 0x87, data=build_keys(list(text.items())), tag=1, fields={24: self.cmd_sn})
        await self.send(unit)
        return await self.receive()

    async def command(
        self,
        cdb: bytes,
        *,
        flags: int = 0x80,
        expected: int = 0,
        data: bytes = b"",
        tag: int = 7,
        lun: bytes = bytes(8),
    ) -> None:
        unit = bytearray(
            build(Op.COMMAND, flags, data=data, lun=lun, tag=tag, fields={20: expected, 24: self.cmd_sn})
        )
        unit[32:48] = cdb.ljust(16, b"\0")
        self.cmd_sn += 1
        await self.send(bytes(unit))


@asynccontextmanager
async def connected(serving: Serving, *, login: bool = True, **keys: str) -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_connection(serving.host, serving.port)
    raw = Raw(reader, writer)
    try:
        if login:
            header, _ = await raw.login(serving.drives[0].iqn, **keys)
            assert header[36:38] == b"\0\0"
        yield raw
    finally:
        writer.close()


async def test_a_read_and_its_numbers(tmp_path: Path) -> None:
    async with served(tmp_path) as serving, connected(serving, MaxRecvDataSegmentLength="512") as raw:
        await raw.command(bytes.fromhex("28000000000000000300"), flags=0xC0, expected=4 * 512)
        parts = [await raw.receive() for _ in range(3)]
        assert [header[0] & 0x3F for header, _ in parts] == [Op.DATA_IN] * 3
        assert [int.from_bytes(header[40:44], "big") for header, _ in parts] == [0, 512, 1024]
        last = parts[-1][0]
        assert last[1] == 0x80 | 0x01 | 0x02  # final, with status, underflow
        assert int.from_bytes(last[44:48], "big") == 512


async def test_a_write_in_all_ways_data_can_come(tmp_path: Path) -> None:
    async with (
        served(tmp_path) as serving,
        connected(serving, InitialR2T="No", FirstBurstLength="1024") as raw,
    ):
        await raw.command(
            bytes.fromhex("2a000000000000000400"), flags=0x20, expected=2048, data=b"a" * 512
        )  # immediate, more unsolicited to follow
        await raw.send(
            build(Op.DATA_OUT, 0x80, data=b"b" * 512, tag=7, fields={20: 0xFFFFFFFF, 36: 0, 40: 512})
        )
        header, _ = await raw.receive()
        assert header[0] & 0x3F == Op.R2T
        assert (int.from_bytes(header[40:44], "big"), int.from_bytes(header[44:48], "big")) == (1024, 1024)
        ttt = int.from_bytes(header[20:24], "big")
        await raw.send(build(Op.DATA_OUT, 0, data=b"c" * 512, tag=7, fields={20: ttt, 36: 0, 40: 1024}))
        await raw.send(build(Op.DATA_OUT, 0x80, data=b"d" * 512, tag=7, fields={20: ttt, 36: 1, 40: 1536}))
        header, _ = await raw.receive()
        assert (header[0] & 0x3F, header[3]) == (Op.RESPONSE, 0)
        media = serving.drives[0].unit.disk.media
        assert media.read(0, 2048) == b"a" * 512 + b"b" * 512 + b"c" * 512 + b"d" * 512


@pytest.mark.parametrize(("at", "number"), [(40, 4096), (36, 5)])
async def test_data_out_of_place_end_the_command(tmp_path: Path, at: int, number: int) -> None:
    async with served(tmp_path) as serving, connected(serving) as raw:
        await raw.command(bytes.fromhex("2a000000000000000100"), flags=0xA0, expected=512)
        header, _ = await raw.receive()
        fields = {20: int.from_bytes(header[20:24], "big"), 36: 0, 40: 0} | {at: number}
        await raw.send(build(Op.DATA_OUT, 0x80, data=b"x" * 512, tag=7, fields=fields))
        assert (await raw.receive())[0][0] & 0x3F == Op.REJECT
        assert (await raw.receive())[0][3] == 0x02
        assert serving.drives[0].unit.disk.media.read(0, 512) == bytes(512)


async def test_another_logical_unit_is_not_there(tmp_path: Path) -> None:
    async with served(tmp_path) as serving, connected(serving) as raw:
        lun = b"\0\1" + bytes(6)
        await raw.command(bytes.fromhex("120000002400"), flags=0xC0, expected=36, lun=lun)
        assert (await raw.receive())[1][0] == 0x7F
        await raw.command(bytes.fromhex("000000000000"), lun=lun)
        header, data = await raw.receive()
        assert header[3] == 0x02
        assert (data[4] & 0x0F, data[14]) == (0x5, 0x25)


async def test_nop_text_logout_and_units_that_there_are_not(tmp_path: Path) -> None:
    async with served(tmp_path) as serving, connected(serving) as raw:
        await raw.send(build(0x40 | Op.NOP_OUT, 0x80, data=b"ping", tag=3, fields={20: 0xFFFFFFFF}))
        header, data = await raw.receive()
        assert (header[0] & 0x3F, data) == (Op.NOP_IN, b"ping")
        await raw.send(build(0x40 | Op.TEXT, 0x80, data=b"SendTargets=All\0", tag=4, fields={20: 0xFFFFFFFF}))
        assert b"TargetName=iqn" in (await raw.receive())[1]
        await raw.send(build(0x40 | 0x3B, 0x80, tag=5))
        header, data = await raw.receive()
        assert (header[0] & 0x3F, header[2]) == (Op.REJECT, 0x05)
        assert data[16:20] == (5).to_bytes(4, "big")
        await raw.send(build(0x40 | Op.TEXT, 0x80, data=b"no equals sign\0", tag=6))
        assert (await raw.receive())[0][0] & 0x3F == Op.REJECT
        await raw.send(build(0x40 | Op.LOGOUT, 0x80, tag=7))
        assert (await raw.receive())[0][0] & 0x3F == Op.LOGOUT_RESPONSE
        assert await raw.ended()


@pytest.mark.parametrize(
    "unit",
    [
        bytes(48),  # a NOP before any login
        b"\xff" * 48,
        build(0x43, 0x87, data=b"x" * 70000, tag=1),
        build(0x43, 0x87, data=b"\xff\xfe=\0", tag=1),
        build(0x43, 0x87, data=b"InitiatorName=a\0InitiatorName=b\0", tag=1),
        build(0x43, 0x87, data=b"", tag=1),
        build(0x43, 0x87, data=b"InitiatorName=a\0TargetName=nobody\0", tag=1),
        build(0x43, 0x8F, data=b"InitiatorName=a\0SessionType=Discovery\0", tag=1),
        build(0x43, 0x87, data=b"InitiatorName=a\0SessionType=Discovery\0MaxBurstLength=x\0", tag=1),
    ],
    ids=range(9),
)  # fmt: skip
async def test_a_bad_first_unit_ends_the_connection_and_nothing_else(tmp_path: Path, unit: bytes) -> None:
    async with served(tmp_path) as serving:
        async with connected(serving, login=False) as raw:
            await raw.send(unit)
            assert await raw.ended()
        async with connected(serving) as raw:
            await raw.command(bytes(6))
            assert (await raw.receive())[0][3] == 0x00


async def test_noise_does_not_stop_the_target(tmp_path: Path) -> None:
    noise = random.Random(5)
    async with served(tmp_path) as serving:
        for _ in range(60):
            async with connected(serving, login=bool(noise.getrandbits(1))) as raw:
                await raw.send(noise.randbytes(noise.randrange(1, 400)))
                raw.writer.write_eof()
                assert await raw.ended()
        async with connected(serving) as raw:
            await raw.command(bytes(6))
            assert (await raw.receive())[0][3] == 0x00


async def test_a_hanging_command_is_aborted_and_others_go_on(tmp_path: Path) -> None:
    async with served(tmp_path) as serving, connected(serving) as raw:
        drive = serving.drives[0]
        drive.add("hang-once")
        await raw.command(bytes(6), tag=9)
        await until(drive._turn.locked)
        await raw.send(build(0x40 | Op.TASK_MANAGEMENT, 0x80 | 1, tag=10, fields={20: 9}))
        header, _ = await raw.receive()
        assert (header[0] & 0x3F, header[2]) == (Op.TASK_RESPONSE, 0)
        await raw.command(bytes(6), tag=11)
        header, _ = await raw.receive()
        assert (header[0] & 0x3F, header[16:20]) == (Op.RESPONSE, (11).to_bytes(4, "big"))


async def test_an_abort_and_the_answer_exclude_each_other(tmp_path: Path) -> None:
    """What is said to be aborted sends no answer, and what is said to be gone has sent or sends one."""
    async with served(tmp_path) as serving, connected(serving) as raw:
        for tag in range(100, 500, 2):
            await raw.command(bytes(6), tag=tag)
            for _ in range(tag % 5):  # so that it meets the command before, while and after it is carried out
                await asyncio.sleep(0)
            await raw.send(build(0x40 | Op.TASK_MANAGEMENT, 0x80 | 1, tag=tag + 1, fields={20: tag}))
            await raw.send(build(0x40 | Op.NOP_OUT, 0x80, tag=1))
            units = [(await raw.receive())[0] for _ in range(2)]
            response = next(unit[2] for unit in units if unit[0] & 0x3F == Op.TASK_RESPONSE)
            if response == 1:
                units.append((await raw.receive())[0])
            assert response in (0, 1)
            expected = [Op.NOP_IN, Op.TASK_RESPONSE] + [Op.RESPONSE] * response
            assert sorted(unit[0] & 0x3F for unit in units) == sorted(expected)


async def test_a_unit_reset_ends_commands_and_is_told(tmp_path: Path) -> None:
    async with served(tmp_path) as serving, connected(serving) as raw:
        await raw.command(bytes(6))
        await raw.receive()
        serving.drives[0].add("hang-once")
        await raw.command(bytes(6), tag=9)
        await until(serving.drives[0]._turn.locked)
        await raw.send(build(0x40 | Op.TASK_MANAGEMENT, 0x80 | 5, tag=10))
        assert (await raw.receive())[0][0] & 0x3F == Op.TASK_RESPONSE
        await raw.command(bytes(6), tag=11)
        _, data = await raw.receive()
        assert (data[4] & 0x0F, data[14], data[15]) == (0x6, 0x29, 0x03)


async def test_a_power_cut_drops_the_session_and_the_drive_comes_back(tmp_path: Path) -> None:
    async with served(tmp_path, {"file": "disk.img"}) as serving:
        control = tmp_path / "spec.control"
        async with connected(serving) as raw:
            await ask(control, {"do": "power-off"})
            assert await raw.ended()
        async with connected(serving, login=False) as raw:
            header, _ = await raw.login(serving.drives[0].iqn)
            assert header[36:38] == b"\2\3"  # not found
        found = await ask(control, {"do": "power-on"})
        assert found["drive"]["power_cycles"] == 1
        async with connected(serving) as raw:
            await raw.command(bytes(6))
            assert (await raw.receive())[0][3] in (0x00, 0x02)


async def test_a_power_cut_by_a_fault_drops_the_session_too(tmp_path: Path) -> None:
    async with served(tmp_path, {"faults": ["power-cut-at-write:1"]}) as serving, connected(serving) as raw:
        await raw.command(bytes.fromhex("2a000000000000000100"), flags=0xA0, expected=512, data=b"x" * 512)
        assert await raw.ended()
        assert serving.drives[0].unit.disk.state.power_cycles == 1


async def test_an_erase_goes_on_while_nobody_asks(tmp_path: Path) -> None:
    async with (
        served(tmp_path, {"file": "disk.img", "erase_seconds": 0.1}) as serving,
        connected(serving) as raw,
    ):
        disk = serving.drives[0].unit.disk
        disk.media.write(4096, b"secret")
        await raw.command(bytes.fromhex("4882"))
        await raw.receive()
        await until(lambda: disk.state.sanitize.state == "done")
        assert b"secret" not in (tmp_path / "disk.img").read_bytes()


async def test_a_long_sanitize_lets_other_commands_by_and_a_security_erase_does_not(tmp_path: Path) -> None:
    async with served(tmp_path, {"erase_seconds": 0.5}) as serving, connected(serving) as raw:
        await raw.command(bytes.fromhex("4802"), tag=20)
        await raw.command(bytes(6), tag=21)
        header, data = await raw.receive()
        assert int.from_bytes(header[16:20], "big") == 21
        assert (data[14], data[15]) == (0x04, 0x1B)
        header, _ = await raw.receive()
        assert int.from_bytes(header[16:20], "big") == 20
        assert header[3] == 0x00


async def test_many_at_once(tmp_path: Path) -> None:
    async with served(tmp_path) as serving, AsyncExitStack() as stack:
        raws = [await stack.enter_async_context(connected(serving)) for _ in range(20)]
        for raw in raws:
            for tag in range(10):
                await raw.command(bytes(6), tag=tag)
        for raw in raws:
            assert sorted([int.from_bytes((await raw.receive())[0][16:20], "big") for _ in range(10)]) == [
                *range(10)
            ]


async def test_two_servers_do_not_share_a_control_socket(tmp_path: Path) -> None:
    async with served(tmp_path):
        with pytest.raises(TeethError, match="another server listens"):
            async with served(tmp_path):
                pass
        assert await ask(tmp_path / "spec.control", {"do": "list"})  # the first still serves
    (tmp_path / "spec.control").write_text("mine")
    with pytest.raises(TeethError, match="there is a file of that name"):
        async with served(tmp_path):
            pass


async def test_a_control_socket_may_lie_deep(tmp_path: Path) -> None:
    """Deeper than a socket's address can say."""
    deep = tmp_path / "/".join(["x" * 60] * 3)
    deep.mkdir(parents=True)
    async with served(deep):
        assert (await ask(deep / "spec.control", {"do": "list"}))["drives"][0]["name"] == "d0"
    assert not (deep / "spec.control").exists()
    with pytest.raises(TeethError, match="no drives are served at"):
        await ask(deep / "nowhere/spec.control", {"do": "list"})


async def test_control_refuses_what_cannot_be(tmp_path: Path) -> None:
    async with served(tmp_path, {}, {}):
        control = tmp_path / "spec.control"
        for request, said in (
            ({"do": "add", "what": "hang"}, "which one"),
            ({"do": "add", "what": "hung", "drive": "d0"}, "did you mean hang"),
            ({"do": "remove", "what": "hang", "drive": "d0"}, "has no hang on"),
            ({"do": "explode", "drive": "d0"}, "no request"),
            ({"do": "add", "drive": "d0"}, "has no what"),
            ({"do": "add", "drive": "nobody"}, "no drive nobody"),
        ):
            with pytest.raises(TeethError, match=said):
                await ask(control, request)
        await ask(control, {"do": "add", "what": "slow:0.1", "drive": "d1"})
        listed = await ask(control, {"do": "list"})
        assert [drive["behaviours"] for drive in listed["drives"]] == [[], ["slow:0.1"]]


def test_text_keys() -> None:
    assert parse_keys(b"a=b\0c=d=e\0") == {"a": "b", "c": "d=e"}
    for wrong in (
        b"a",
        b"=b",
        b"a=1\0a=2",
        b"\xff=1",
        b"x" * 64 + b"=1",
        b"".join(b"k%d=1\0" % n for n in range(129)),
    ):
        with pytest.raises(PduError):
            parse_keys(wrong)


@pytest.mark.parametrize(
    ("key", "value", "answer"),
    [
        ("HeaderDigest", "CRC32C,None", "None"),
        ("HeaderDigest", "CRC32C", "Reject"),
        ("MaxBurstLength", "16776192", str(1 << 20)),
        ("FirstBurstLength", "512", "512"),
        ("InitialR2T", "Yes", "Yes"),
        ("ImmediateData", "No", "No"),
        ("MaxConnections", "8", "1"),
        ("ErrorRecoveryLevel", "2", "0"),
        ("X-com.example", "1", "NotUnderstood"),
    ],
)
def test_negotiation(key: str, value: str, answer: str) -> None:
    assert (key, answer) in negotiate(Agreed(), {key: value})


@pytest.mark.parametrize(
    ("key", "value"), [("MaxBurstLength", "511"), ("InitialR2T", "yes"), ("FirstBurstLength", "")]
)
def test_values_that_no_initiator_may_send(key: str, value: str) -> None:
    with pytest.raises(LoginRefusedError):
        negotiate(Agreed(), {key: value})


def test_chap_responses() -> None:
    chap = Chap(user="me", secret="s" * 12)
    assert not chap.verify("me", "0x00")
    assert not chap.verify("me", "zz")
    assert Chap(user="me", secret="s" * 12).challenge != chap.challenge
