"""Settings of one boot: the kernel command line over the baked file."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teeth_agent.config import BAKED, BAKED_CA, Config, ConfigError, load, parse_cmdline, parse_endpoint

DIGEST = "sha256:" + "ab" * 32


def machine(root: Path, cmdline: str, baked: str | None = None, *, ca: bool = False) -> Path:
    for path, text in (("/proc/cmdline", cmdline), (BAKED, baked), (BAKED_CA, "PEM" if ca else None)):
        if text is not None:
            file = root / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    return root


def test_everything_is_read(tmp_path: Path) -> None:
    baked = '{"ramdisk": "abcdef", "built": 1700000000, "version": "0.1.0"}'
    cmdline = (
        "console=ttyS0 quiet teeth.endpoint=10.0.2.2:7000,[fd00::1]:7001,deploy.example:7002 "
        f"teeth.ca={DIGEST} teeth.token=s3cret BOOTIF=01-52-54-00-AA-bb-cc\n"
    )
    assert load(machine(tmp_path, cmdline, baked)) == Config(
        endpoints=(("10.0.2.2", 7000), ("fd00::1", 7001), ("deploy.example", 7002)),
        ca_digest=DIGEST,
        ca_file=None,
        token=str,  # not compared: it is read anew whenever it is asked for
        boot_mac="52:54:00:aa:bb:cc",
        ramdisk="abcdef",
        built=1700000000,
        version="0.1.0",
    )


def test_the_key_of_images_is_read(tmp_path: Path) -> None:
    words = f"teeth.endpoint=a:1 teeth.ca={DIGEST}"
    assert load(machine(tmp_path, words)).image_key is None
    assert load(machine(tmp_path, f"{words} teeth.image_key={DIGEST}")).image_key == DIGEST


def test_the_token_is_not_shown(tmp_path: Path) -> None:
    settings = load(machine(tmp_path, f"teeth.endpoint=a:1 teeth.ca={DIGEST} teeth.token=s3cret"))
    assert settings.token() == "s3cret"
    assert "s3cret" not in repr(settings)


def test_the_token_is_kept_nowhere(tmp_path: Path) -> None:
    """It is read where it stands each time it is asked for, so there is nothing to scrub after its use."""
    words = f"teeth.endpoint=a:1 teeth.ca={DIGEST} teeth.token="
    settings = load(machine(tmp_path, f"{words}one"))
    machine(tmp_path, f"{words}two")
    assert settings.token() == "two"
    (tmp_path / "proc/cmdline").unlink()
    assert settings.token() == ""


def test_a_ramdisk_that_says_nothing_of_itself(tmp_path: Path) -> None:
    settings = load(machine(tmp_path, "teeth.endpoint=a:1", ca=True))
    assert (settings.ramdisk, settings.built, settings.version) == ("unknown", 0, "unknown")
    assert (settings.ca_digest, settings.ca_file) == (None, tmp_path / "etc/teeth/ca.pem")
    assert (settings.token(), settings.boot_mac) == ("", "")


@pytest.mark.parametrize("built", ["true", "-1", "1e9", '"1700000000"', "1" + "0" * 30, "null", "[]"])
def test_a_build_time_that_is_none(tmp_path: Path, built: str) -> None:
    settings = load(machine(tmp_path, "teeth.endpoint=a:1", f'{{"built": {built}}}', ca=True))
    assert settings.built in (0, 1)  # true is 1 to Python, and harmless


@pytest.mark.parametrize(
    ("cmdline", "words"),
    [
        ("", r"no teeth\.endpoint=HOST:PORT"),
        ("teeth.endpoint", r"no teeth\.endpoint=HOST:PORT"),
        ("teeth.endpoint=", r"no teeth\.endpoint=HOST:PORT"),
        ("teeth.endpoint=,,", r"no teeth\.endpoint=HOST:PORT"),
        (f"teeth.endpoint=nohost teeth.ca={DIGEST}", r"teeth\.endpoint=nohost: expected HOST:PORT"),
        (f"teeth.endpoint=a:1,b:0 teeth.ca={DIGEST}", r"teeth\.endpoint=b:0: expected"),
        (f"teeth.endpoint={','.join(['a:1'] * 9)} teeth.ca={DIGEST}", "more than 8 endpoints"),
        ("teeth.endpoint=a:1", r"whom to trust is not said: no teeth\.ca= and no /etc/teeth/ca\.pem"),
        ("teeth.endpoint=a:1 teeth.ca=", r"teeth\.ca: expected sha256"),
        ("teeth.endpoint=a:1 teeth.ca=" + "ab" * 32, r"teeth\.ca: expected sha256"),
        (f"teeth.endpoint=a:1 teeth.ca={DIGEST.upper()}", r"teeth\.ca: expected sha256"),
        (f"teeth.endpoint=a:1 teeth.ca={DIGEST}0", r"teeth\.ca: expected sha256"),
        (f"teeth.endpoint=a:1 teeth.ca={DIGEST} teeth.image_key=", r"teeth\.image_key: expected sha256"),
        (f"teeth.endpoint=a:1 teeth.ca={DIGEST} teeth.image_key=all", r"teeth\.image_key: expected sha256"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, cmdline: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        load(machine(tmp_path, cmdline))
    assert error.value.code == "bad_config"


def test_a_wrong_digest_is_not_healed_by_a_baked_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"teeth\.ca"):
        load(machine(tmp_path, "teeth.endpoint=a:1 teeth.ca=sha256:1234", ca=True))


def test_a_broken_baked_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"/etc/teeth/agent\.json is not JSON"):
        load(machine(tmp_path, "teeth.endpoint=a:1", "{", ca=True))
    assert load(machine(tmp_path, "teeth.endpoint=a:1", "[1]", ca=True)).version == "unknown"


@pytest.mark.parametrize(
    "text",
    ["", ":", "a", "a:", ":1", "a:0", "a:65536", "a:x", "a:1:2", "a:１", "..:1", ".a:1", "a..b:1", "a.:1",
     "-a:1",
     "a b:1",
     "[]:1", "[::1]", "[::1:1", "[1::2::3]:1", "[fd00::1%eth0]:1", "::1:80", "x" * 64 + ":1", "ä:1",
     "a/b:1", ".".join(["x" * 63] * 5) + ":1", "a:1\n"],
)  # fmt: skip
def test_no_endpoint(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_endpoint(text)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("10.0.2.2:1", ("10.0.2.2", 1)),
        ("a-b.c1:65535", ("a-b.c1", 65535)),
        ("[::1]:80", ("::1", 80)),
        ("[::ffff:10.0.0.1]:80", ("::ffff:10.0.0.1", 80)),
    ],
)
def test_an_endpoint(text: str, endpoint: tuple[str, int]) -> None:
    assert parse_endpoint(text) == endpoint


def test_the_words_of_a_command_line() -> None:
    text = 'a b=1 c="x y" "d=p q" b=2 e= =f g=h=i\tj="k\n'
    words = parse_cmdline(text)
    assert {name: words[name] for name in ("a", "b", "c", "d", "e", "g")} == {
        "a": "", "b": "2", "c": "x y", "d": "p q", "e": "", "g": "h=i",
    }  # fmt: skip


@given(st.text())
def test_no_command_line_raises(text: str) -> None:
    parse_cmdline(text)


@pytest.mark.parametrize(
    ("bootif", "mac"),
    [
        ("01-52-54-00-aa-bb-cc", "52:54:00:aa:bb:cc"),
        ("01-52-54-00-AA-BB-CC", "52:54:00:aa:bb:cc"),
        ("52:54:00:aa:bb:cc", "52:54:00:aa:bb:cc"),
        ("01-01-02-03-04-05-06", "01:02:03:04:05:06"),
        ("20-52-54-00-aa-bb-cc", ""),
        ("01-52-54-00-aa-bb", "01:52:54:00:aa:bb"),
        ("eth0", ""),
        ("", ""),
    ],
)
def test_the_interface_that_the_firmware_booted_from(tmp_path: Path, bootif: str, mac: str) -> None:
    root = machine(tmp_path, f"teeth.endpoint=a:1 BOOTIF={bootif}", ca=True)
    assert load(root).boot_mac == mac
