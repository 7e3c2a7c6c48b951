"""Images taken apart into frames: what is unpacked side by side, what as a stream, and what is refused."""

from __future__ import annotations

import random
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teeth_agent.errors import AgentError
from teeth_agent.image.ahead import Ahead
from teeth_agent.image.decompress import stream_pieces
from teeth_agent.image.pieces import ALIGN, PIECE, BufferPool, Packed, Piece

RNG = random.Random(11)


def zstd(content, *arguments, sized=True):
    size = [f"--stream-size={len(content)}"] if sized else []
    return subprocess.run(
        ["zstd", "-q", "-c", "-1", *size, *arguments], input=content, capture_output=True, check=True
    ).stdout


def skippable(content):
    return b"\x5f\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content


def taken(packed, block=70_001):
    """The raw image, and what the pieces were: a kind and a length each."""
    pool, out, kinds = BufferPool(), bytearray(), []
    with Ahead(packed[start : start + block] for start in range(0, len(packed), block)) as ahead:
        for piece in stream_pieces("zstd", ahead, pool):
            assert piece.offset == len(out)
            assert piece.offset % ALIGN == 0
            assert 0 < piece.length <= PIECE
            kinds.append((kind_of(piece), piece.length))
            out += content_of(piece)
            for view in (piece.packed,) if isinstance(piece, Packed) else (piece.data,):
                if view is not None:
                    pool.give_back(view)
    return bytes(out), kinds


def kind_of(piece):
    return "packed" if isinstance(piece, Packed) else "zeros" if piece.data is None else "data"


def content_of(piece):
    if isinstance(piece, Packed):
        buffer = memoryview(bytearray(piece.length))
        piece.unpack(buffer)
        return bytes(buffer)
    return bytes(piece.length) if piece.data is None else bytes(piece.data)


def code_of(packed):
    with pytest.raises(AgentError) as caught:
        taken(packed)
    return caught.value.code


def test_frames_of_a_chunk_each_are_left_packed():
    chunks = [RNG.randbytes(PIECE), b"text " * (PIECE // 5) + b"12345"[: PIECE % 5], RNG.randbytes(12_345)]
    content, kinds = taken(b"".join(map(zstd, chunks)) + skippable(b"a seek table"))
    assert content == b"".join(chunks)
    # The last is no whole block: what follows it could not be put in its place by itself.
    assert kinds == [("packed", PIECE), ("packed", PIECE), ("data", 12_345)]


def test_a_frame_of_zeros_is_unpacked_once():
    zeros = zstd(bytes(PIECE))
    content, kinds = taken(zeros * 3 + zstd(b"x" * ALIGN) + zeros)
    assert content == bytes(3 * PIECE) + b"x" * ALIGN + bytes(PIECE)
    assert [kind for kind, _ in kinds] == ["packed", "zeros", "zeros", "packed", "zeros"]


@pytest.mark.parametrize("sized", [True, False])
def test_one_large_frame_is_a_stream(sized):
    raw = RNG.randbytes(PIECE) + bytes(PIECE) + RNG.randbytes(1000)
    content, kinds = taken(zstd(raw, sized=sized))
    assert content == raw
    assert kinds == [("data", PIECE), ("data", PIECE), ("data", 1000)]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([1, 511, ALIGN, 3 * ALIGN, 100_000, PIECE - ALIGN, PIECE, PIECE + 1]),
            st.sampled_from(["random", "zeros"]),
            st.booleans(),
            st.booleans(),
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([1 << 20, 4_097, 300_000]),
)
def test_whatever_the_frames_are_the_pieces_cover_the_image_in_order(frames, block):
    raws, packed = [], []
    for length, kind, sized, skip in frames:
        raws.append(random.Random(length).randbytes(length) if kind == "random" else bytes(length))
        packed.append(zstd(raws[-1], sized=sized) + (skippable(b"?" * 9) if skip else b""))
    content, kinds = taken(b"".join(packed), block)
    assert content == b"".join(raws)
    assert all(length % ALIGN == 0 for _, length in kinds[:-1])


@pytest.mark.parametrize("cut", [1, 3, 9, 20, 1000])
@pytest.mark.parametrize("length", [PIECE, PIECE + 1])
def test_an_early_end_is_named(cut, length):
    packed = zstd(b"first" * 1000) + zstd(RNG.randbytes(length))
    assert code_of(packed[:-cut]) == "image_truncated"


def test_nothing_and_nothing_but_skippable_frames_are_truncated():
    assert code_of(b"") == "image_truncated"
    assert code_of(skippable(b"abc")) == "image_truncated"
    assert code_of(zstd(b"x" * ALIGN) + skippable(b"abc")[:-1]) == "image_truncated"


def test_a_frame_that_lies_about_its_size_is_refused():
    packed = bytearray(zstd(RNG.randbytes(ALIGN)))
    assert packed[4] >> 6 == 1
    packed[5] ^= 0x10  # of the two bytes of its content's size (RFC 8878, 3.1.1.1.4)
    assert code_of(bytes(packed)) == "image_corrupt"


def test_damage_in_a_packed_frame_is_found_by_its_checksum():
    packed = bytearray(zstd(RNG.randbytes(PIECE)))
    packed[PIECE // 2] ^= 1
    assert code_of(bytes(packed)) == "image_corrupt"


def test_a_window_beyond_the_bound_is_refused_before_memory_is_given():
    packed = zstd(bytes(PIECE + 1), "--long=27", sized=False)
    assert code_of(packed) == "image_memory"


def test_a_bomb_is_no_more_than_one_piece_ahead():
    """64 GiB of zeros in some 6 MB: taken as far as it is asked for, in buffers that are there once."""
    one = zstd(bytes(64 << 20), sized=False)
    pool = BufferPool(3)
    with Ahead(one for _ in range(1024)) as ahead:
        pieces = stream_pieces("zstd", ahead, pool)
        for _ in range(40):
            piece = next(pieces)
            assert isinstance(piece, Piece)
            pool.give_back(piece.data)
        ahead.interrupt()
