"""The key and the certificate of one boot, in files: private, whole, and of this boot only."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest

from fakes.tls_endpoint import Authority
from teeth_agent.errors import AgentError
from teeth_agent.session.enrol import FileKeys


class Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def keys(tmp_path: Path, time: Time) -> FileKeys:
    return FileKeys(tmp_path / "run" / "teeth", boot_id="b1", now=time)


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


async def test_nobody_else_can_read_them(keys: FileKeys, authority: Authority, tmp_path: Path) -> None:
    await keys.keep(authority.sign(await keys.csr(), "n", "b1")["certificate"], 60)
    folder = tmp_path / "run" / "teeth"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert modes(folder) == {"key.pem": 0o600, "certificate.pem": 0o600}


async def test_a_folder_that_was_open_is_closed(keys: FileKeys, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "teeth"
    folder.mkdir(parents=True, mode=0o755)
    await keys.csr()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


async def test_one_key_for_the_boot_whoever_asks(keys: FileKeys, tmp_path: Path) -> None:
    assert len(set(await asyncio.gather(*(keys.csr() for _ in range(5))))) == 1
    key = (tmp_path / "run/teeth/key.pem").read_bytes()
    await FileKeys(tmp_path / "run" / "teeth", boot_id="b1").csr()
    assert (tmp_path / "run/teeth/key.pem").read_bytes() == key


async def test_a_half_written_key_is_made_anew(keys: FileKeys, authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "run/teeth").mkdir(parents=True)
    (tmp_path / "run/teeth/key.pem").write_text("-----BEGIN PRIVATE KEY-----\nMIG")
    await keys.keep(authority.sign(await keys.csr(), "n", "b1")["certificate"], 60)


async def test_the_next_process_of_the_boot_finds_it(
    keys: FileKeys, authority: Authority, tmp_path: Path, time: Time
) -> None:
    assert await keys.load() is None
    kept = await keys.keep(authority.sign(await keys.csr(), "n", "b1")["certificate"], 60)
    again = FileKeys(tmp_path / "run" / "teeth", boot_id="b1", now=time)
    assert await again.load() == kept
    time.now += 59.9
    assert await again.load() == kept
    time.now += 0.2
    assert await again.load() is None  # it has expired
    time.now = 999.0
    assert await again.load() is None  # issued later than now: of another time
    time.now = 1000.0
    assert await FileKeys(tmp_path / "run" / "teeth", boot_id="b2", now=time).load() is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"boot_id": "b1"}',
        '{"boot_id": "b1", "issued": "x", "lasts": 1}',
        '{"boot_id": "b1", "issued": 999, "lasts": 60}\nno certificate',
        "\xff\xfe",
        "{" * 100_000,
    ],
)
async def test_what_is_no_certificate_is_passed_over(keys: FileKeys, tmp_path: Path, text: str) -> None:
    await keys.csr()
    (tmp_path / "run/teeth/certificate.pem").write_text(text)
    assert await keys.load() is None


async def test_a_certificate_of_another_key_is_not_kept(
    keys: FileKeys, authority: Authority, tmp_path: Path
) -> None:
    good = await keys.keep(authority.sign(await keys.csr(), "n", "b1")["certificate"], 60)
    other = FileKeys(tmp_path / "other", boot_id="b1")
    foreign = authority.sign(await other.csr(), "n", "b1")["certificate"]
    for bad in (foreign, "", "no certificate", "\ud800", foreign[:200]):
        with pytest.raises(AgentError) as error:
            await keys.keep(bad, 60)
        assert error.value.code == "bad_certificate"
    assert await keys.load() == good


async def test_a_folder_that_cannot_be_made_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AgentError, match="cannot be made") as error:
        await FileKeys(tmp_path / "file" / "run", boot_id="b1").csr()
    assert error.value.code == "no_key"
