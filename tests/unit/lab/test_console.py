"""Console: clean lines from any cut of the bytes, waiting, and what firmware said."""

from __future__ import annotations

import asyncio
import io
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teeth.lab.console import (
    Banner,
    Console,
    Line,
    LineSplitter,
    WaitError,
    find_banners,
    kernel_without_firmware,
)

# As SeaBIOS, OVMF, iPXE and a kernel print them.
RAW = (
    b"\x1b[2J\x1b[01;01H\x1b[=3h\x1b[2JSeaBIOS (version 1.16.2-debian-1.16.2-1)\r\n"
    b"\x1b[37m\x1b[40miPXE 1.0.0+git -- Open Source Network Boot Firmware -- \x1b[36mhttp://ipxe.org\x1b[0m\r\r\n"
    b"Configuring (net0)...\b\b\b ok\r\n"
    b"\x1b]0;title\x07[    0.000000] Linux version 6.1.0 (gcc)\r\n"
    b"caf\xc3\xa9 \x00done  \r\n\r\nlogin: "
)
CLEAN = [
    "SeaBIOS (version 1.16.2-debian-1.16.2-1)",
    "iPXE 1.0.0+git -- Open Source Network Boot Firmware -- http://ipxe.org",
    "Configuring (net0)... ok",
    "[    0.000000] Linux version 6.1.0 (gcc)",
    "café done",
]


def test_whole_output_becomes_clean_lines() -> None:
    splitter = LineSplitter()
    assert splitter.feed(RAW) == CLEAN
    assert splitter.partial == "login: "
    assert splitter.close() == ["login:"]


def test_a_line_that_ends_its_chunk_comes_at_once() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"up\r\n") == ["up"]
    assert splitter.feed(b"next\n") == ["next"]


@given(st.sets(st.integers(min_value=1, max_value=len(RAW) - 1)))
def test_every_cut_gives_the_same_lines(cuts: set[int]) -> None:
    splitter = LineSplitter()
    edges = [0, *sorted(cuts), len(RAW)]
    lines = [line for start, end in itertools.pairwise(edges) for line in splitter.feed(RAW[start:end])]
    assert lines == CLEAN
    assert splitter.partial == "login: "


@given(st.lists(st.binary(max_size=300)))
def test_no_bytes_break_it(chunks: list[bytes]) -> None:
    splitter = LineSplitter()
    lines = [line for chunk in chunks for line in splitter.feed(chunk)] + splitter.close()
    assert all(ord(sign) >= 32 or sign == "\t" for line in lines for sign in line)


def test_an_endless_line_is_cut() -> None:
    splitter = LineSplitter()
    lines = [line for _ in range(20) for line in splitter.feed(b"x" * 1000)]
    assert sum(map(len, lines)) > 15_000
    assert len(splitter.partial) <= 4096


def lines_of(*texts: str) -> list[Line]:
    return [Line(number=n, at=float(n), text=text) for n, text in enumerate(texts)]


SEABIOS, IPXE, LINUX = CLEAN[0], CLEAN[1], CLEAN[3]


def test_banners_in_order() -> None:
    stub = "EFI stub: Loaded initrd from LINUX_EFI_INITRD_MEDIA_GUID device path"
    kinds = [
        kind for kind, _ in find_banners(lines_of(SEABIOS, IPXE, "x", LINUX, stub, "Linux version 6.12.1"))
    ]
    assert kinds == [Banner.SEABIOS, Banner.IPXE, Banner.LINUX, Banner.UEFI, Banner.LINUX]


@pytest.mark.parametrize(
    ("texts", "kexec"),
    [
        ((SEABIOS, LINUX), False),
        ((SEABIOS, LINUX, "kexec", LINUX), True),
        ((SEABIOS, LINUX, SEABIOS, LINUX), False),
        ((SEABIOS, LINUX, "EFI stub: booting", LINUX), False),
        ((SEABIOS, LINUX, IPXE, LINUX, "later", LINUX), True),
    ],
)
def test_kexec_is_a_kernel_after_a_kernel(texts: tuple[str, ...], kexec: bool) -> None:
    assert kernel_without_firmware(lines_of(*texts)) is kexec


class Guest:
    """A console fed by the test."""

    def __init__(self, on_line: object = None) -> None:
        self.log = io.StringIO()
        self.reader = asyncio.StreamReader()
        self.console = Console(log=self.log, clock=lambda: 1.5, on_line=on_line)  # type: ignore[arg-type]
        self.task = asyncio.create_task(self.console.pump(self.reader))

    def say(self, data: bytes) -> None:
        self.reader.feed_data(data)

    async def end(self) -> None:
        self.reader.feed_eof()
        await self.task


async def test_waiting_sees_lines_before_and_after_the_call() -> None:
    guest = Guest()
    guest.say(b"one\r\n")
    assert (await guest.console.wait_for("^one$", within=5)).text == "one"
    waiting = asyncio.create_task(guest.console.wait_for("^two$", within=5))
    guest.say(b"tw")
    guest.say(b"o\r\n")
    assert (await waiting) == Line(number=1, at=1.5, text="two")
    await guest.end()
    assert guest.log.getvalue() == "    1.500 one\n    1.500 two\n"


async def test_since_steps_over_what_was_said_before() -> None:
    guest = Guest()
    guest.say(b"up\n")
    await guest.console.wait_for("up", within=5)
    waiting = asyncio.create_task(guest.console.wait_for("up", within=5, since=guest.console.position))
    guest.say(b"x\nup again\n")
    assert (await waiting).text == "up again"
    await guest.end()


async def test_an_unfinished_line_counts_only_as_a_prompt() -> None:
    guest = Guest()
    guest.say(b"login: ")
    assert (await guest.console.wait_for("login: $", within=5, prompt=True)).text == "login: "
    with pytest.raises(WaitError, match=r"did not come within 0.01 s; last line: login: "):
        await guest.console.wait_for("login", within=0.01)
    await guest.end()


async def test_the_end_of_the_machine_ends_the_wait() -> None:
    guest = Guest()
    waiting = asyncio.create_task(guest.console.wait_for("never", within=60))
    guest.say(b"last words")
    await guest.end()
    with pytest.raises(WaitError, match="ended before 'never' came; last line: last words"):
        await waiting


async def test_hopeless_words_end_the_wait() -> None:
    guest = Guest()
    waiting = asyncio.create_task(guest.console.wait_for("teeth: up", within=60))
    guest.say(b"No bootable device.\r\n")
    with pytest.raises(WaitError, match="No bootable device"):
        await waiting
    await guest.end()


async def test_a_failing_callback_is_told_to_the_waiter() -> None:
    def refuse(line: Line) -> None:
        raise RuntimeError(f"cannot show {line.text}")

    guest = Guest(on_line=refuse)
    guest.say(b"a\nb\n")
    with pytest.raises(RuntimeError, match="cannot show a"):
        await guest.console.wait_for("b", within=5)
    await guest.end()
