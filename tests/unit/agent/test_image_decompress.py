"""Decompression: what comes out, and what is said about broken input."""

from __future__ import annotations

import gzip
import lzma
import random
import subprocess

import pytest

from teeth_agent.errors import AgentError, Cancelled
from teeth_agent.image.decompress import decompressed

# Compressible and longer than every buffer on the way.
CONTENT = random.Random(3).randbytes(1 << 20) * 3 + bytes(5 << 20) + b"the end"


def zstd(content):
    return subprocess.run(["zstd", "-q", "-1", "-c"], input=content, capture_output=True, check=True).stdout


PACKED = {
    "none": CONTENT,
    "gzip": gzip.compress(CONTENT, 1),
    "xz": lzma.compress(CONTENT, preset=0),
    "zstd": zstd(CONTENT),
}


def blocks(data, size=70_001):
    return (data[start : start + size] for start in range(0, len(data), size))


def unpacked(compression, source, step=1 << 20):
    out, buffer = bytearray(), memoryview(bytearray(step))
    with decompressed(compression, source) as stream:
        while count := stream.fill(buffer):
            out += buffer[:count]
            if count < step:
                break
    return bytes(out)


@pytest.mark.parametrize("compression", PACKED)
def test_what_went_in_comes_out(compression):
    assert unpacked(compression, blocks(PACKED[compression])) == CONTENT


@pytest.mark.parametrize("compression", ["gzip", "xz", "zstd"])
def test_several_members_are_one_stream(compression):
    packed = PACKED[compression]
    padding = bytes(4) if compression != "zstd" else b""
    assert unpacked(compression, blocks(packed + packed + padding)) == CONTENT * 2


@pytest.mark.parametrize("compression", ["gzip", "xz", "zstd"])
def test_an_early_end_is_named(compression):
    with pytest.raises(AgentError) as caught:
        unpacked(compression, blocks(PACKED[compression][:-9]))
    assert caught.value.code == "image_truncated"


@pytest.mark.parametrize("compression", ["gzip", "xz", "zstd"])
def test_damage_is_named_after_the_source_had_its_say(compression):
    packed = bytearray(PACKED[compression])
    packed[len(packed) // 2] ^= 0xFF
    seen = 0

    def source():
        nonlocal seen
        for block in blocks(bytes(packed)):
            seen += len(block)
            yield block

    with pytest.raises(AgentError) as caught:
        unpacked(compression, source())
    assert caught.value.code == "image_corrupt"
    assert seen == len(packed)


@pytest.mark.parametrize("compression", PACKED)
def test_what_the_source_raises_reaches_the_reader(compression):
    def source():
        yield from blocks(PACKED[compression][:100_000])
        raise AgentError("no more", code="digest_mismatch")

    with pytest.raises(AgentError) as caught:
        unpacked(compression, source())
    assert caught.value.code == "digest_mismatch"


@pytest.mark.parametrize("compression", ["gzip", "xz", "zstd"])
def test_nothing_at_all_is_truncated(compression):
    with pytest.raises(AgentError) as caught:
        unpacked(compression, iter(()))
    assert caught.value.code == "image_truncated"


def test_a_reader_that_leaves_early_ends_the_filter():
    def leave(stream):
        stream.fill(memoryview(bytearray(1000)))
        raise Cancelled("enough")

    with pytest.raises(Cancelled), decompressed("zstd", blocks(PACKED["zstd"])) as stream:
        leave(stream)


def test_a_window_beyond_the_bound_is_refused():
    argv = ["zstd", "-q", "-c", "--ultra", "-22", "--long=30", "--single-thread"]
    # The frame must say a window of 1 GiB, so its size is hidden by coming through a pipe.
    packed = subprocess.run(argv, input=bytes(1 << 20), capture_output=True, check=True).stdout
    with pytest.raises(AgentError) as caught:
        unpacked("zstd", blocks(packed))
    assert caught.value.code == "image_memory"
