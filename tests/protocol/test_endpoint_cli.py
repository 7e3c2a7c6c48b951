"""``teeth endpoint run`` as a user runs it: a process, a line, a signal."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from teeth.endpoint.httpserver import listening_socket


@contextlib.asynccontextmanager
async def started(*options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "teeth", "endpoint", "run", *options,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(60):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_says_where_it_listens_and_ends_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    async with started("--data", str(tmp_path / "data"), "--name", "boot.example") as process:
        assert process.stdout is not None
        words = (await process.stdout.readline()).decode().split()
        assert words[0] == "listening"
        told = dict(word.split("=", 1) for word in words[1:])
        assert sorted(told) == ["agents", "api", "boot", "ca", "landing"]
        host, port = told["agents"].split(":")
        _, writer = await asyncio.open_connection(host, int(port))  # somebody who never says a word
        process.send_signal(number)
        output, errors = await process.communicate()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    assert (process.returncode, output, errors) == (0, b"", b"")


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
async def test_the_plain_text_listener_is_announced_and_serves(tmp_path: Path, host: str) -> None:
    async with started("--data", str(tmp_path / "data"), "--plaintext", f"{host}:0") as process:
        assert process.stdout is not None
        words = (await process.stdout.readline()).decode().split()
        assert words[0] == "listening"
        assert words[1].startswith(f"plaintext={host}:")
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(words[1].rpartition(":")[2]))
        writer.write(
            b'{"version": "v1", "id": "1", "method": "handshake", "params": {"id": "n", "version": "1"}}\n'
        )
        assert b'"result"' in await reader.readline()
        process.send_signal(signal.SIGTERM)
        output, errors = await process.communicate()
        writer.close()
    assert (process.returncode, output, errors) == (0, b"", b"")


async def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    with contextlib.closing(listening_socket("127.0.0.1", 0, "test")) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with started("--data", str(tmp_path / "data"), "--listen", address) as process:
            output, errors = await process.communicate()
    assert process.returncode == 1
    assert output == b""
    lines = errors.decode().splitlines()
    assert len(lines) == 1
    assert "is taken" in lines[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--listen", "127.0.0.1"], "not HOST:PORT"),
        (["--listen", "0.0.0.0:0"], "--advertise"),
        (["--plaintext", "0.0.0.0:0"], "loopback addresses only"),
        (["--plaintext", "192.0.2.1:4711"], "loopback addresses only"),
        (["--ramdisk", "/nonexistent"], "lacks vmlinuz and initramfs"),
        (["--image", "/nonexistent"], "no image in /nonexistent"),
    ],
)
async def test_a_wrong_option_is_told_without_a_traceback(
    tmp_path: Path, options: list[str], words: str
) -> None:
    async with started("--data", str(tmp_path / "data"), *options) as process:
        _, errors = await process.communicate()
    assert process.returncode == 2
    assert words in errors.decode()
    assert "Traceback" not in errors.decode()
