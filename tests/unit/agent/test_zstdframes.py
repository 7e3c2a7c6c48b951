"""The lengths of frames, found without decompressing, against what zstd itself makes."""

from __future__ import annotations

import random
import subprocess

import pytest

from teeth_image.errors import ImageError
from teeth_image.zstdframes import BlockWalk, read_header

RNG = random.Random(7)
CONTENTS = {
    "empty": b"",
    "short": b"abc",
    "two bytes of size": bytes(300),
    "zeros": bytes(4 << 20),
    "random": RNG.randbytes(1_000_003),
    "text": b"to be or not to be, " * 100_000,
}


def zstd(content, *arguments):
    return subprocess.run(
        ["zstd", "-q", "-c", *arguments], input=content, capture_output=True, check=True
    ).stdout


def length_of(data, step=1):
    """The frame's length, given only as many bytes as are asked for."""
    have = next(count for count in range(19) if read_header(data[:count]) is not None)
    header = read_header(data[:have])
    walk = BlockWalk(header)
    while not walk.ended:
        walk.step(data[: walk.needed])
    return header, walk.needed


@pytest.mark.parametrize("arguments", [["-1"], ["-3", "--no-check"], ["--ultra", "-20", "--long=27"]])
@pytest.mark.parametrize("name", CONTENTS)
def test_a_frame_ends_where_zstd_ended_it(name, arguments):
    content = CONTENTS[name]
    packed = zstd(content, *arguments, f"--stream-size={len(content)}")
    header, length = length_of(packed + b"what follows")
    assert length == len(packed)
    assert header.content == len(content)
    assert header.checksum == ("--no-check" not in arguments)


def test_a_frame_from_a_pipe_does_not_say_its_size():
    header, length = length_of(packed := zstd(CONTENTS["text"], "-3"))
    assert (header.content, length) == (None, len(packed))
    assert header.window == 2 << 20


@pytest.mark.parametrize("log", [10, 24, 27, 30])
def test_the_window_is_what_was_asked_for(log):
    packed = zstd(CONTENTS["text"], "-19", f"--zstd=wlog={log}", "--long=" + str(log) if log > 26 else "-19")
    assert read_header(packed).window == 1 << log


def test_a_skippable_frame_says_what_to_skip():
    header = read_header(b"\x5e\x2a\x4d\x18" + (70_000).to_bytes(4, "little"))
    assert (header.skip, header.length) == (70_000, 8)


@pytest.mark.parametrize(
    "broken",
    [
        b"\x00" * 18,
        b"\x28\xb5\x2f\xfd\x2c" + bytes(16),  # the reserved bit
        b"\x28\xb5\x2f\xfd\x21\x01" + bytes(16),  # dictionary 1
    ],
)
def test_what_is_no_frame_of_ours_is_refused(broken):
    with pytest.raises(ImageError) as caught:
        read_header(broken)
    assert caught.value.code == "image_corrupt"


def test_a_block_of_no_kind_or_too_large_is_refused():
    header = read_header(zstd(b"abc"))
    for block in (0b110, (128 << 10) + 1 << 3):
        with pytest.raises(ImageError):
            BlockWalk(header).step(bytes(header.length) + block.to_bytes(3, "little"))
