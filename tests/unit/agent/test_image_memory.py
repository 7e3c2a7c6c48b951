"""The memory that writing an image takes, in a process of its own: one bound, whatever the image's size."""

from __future__ import annotations

import hashlib
import json
import mmap
import random
import subprocess
import sys

import pytest

from fakes.imageserver import serving
from teeth_agent.image import memory

MIB = 1 << 20
CHUNK = 4 * MIB
BOUND = 64 * MIB
CHILD = """
import json, sys
from teeth_agent.blockio import open_device
from teeth_agent.image import memory, prepare
from teeth_agent.image.params import ImageSpec
from teeth_agent.image.source import Deadline
from teeth_agent.image.sourcing import open_source

class Silent:
    def progress(self, percent, **fields): pass
    def log(self, level, event, **fields): pass
    def check_cancelled(self): pass

order = json.loads(sys.argv[1])
spec = ImageSpec(urls=tuple(order.pop("urls")), **order["image"])
memory.reset_peak()
start = memory.peak()
with open_device(order["target"], write=True) as device:
    with open_source(spec, None, deadline=Deadline()) as source:
        done = prepare.write_image(spec, device, source, reads_zero=True, seeks=False, reporter=Silent())
print(json.dumps({"growth": memory.peak() - start, "raw": done.raw_bytes, "skipped": done.skipped_bytes}))
"""


def growth(packed, raw_size, target):
    with target.open("wb") as stream:
        stream.truncate(raw_size)
    with serving(packed) as server:
        order = {
            "urls": [server.url()],
            "target": str(target),
            "image": {
                "id": "image",
                "name": "",
                "size": len(packed),
                "digest": "sha256:" + hashlib.sha256(packed).hexdigest(),
                "compression": "zstd",
                "raw_size": raw_size,
                "raw_digest": None,
            },
        }
        argv = [sys.executable, "-c", CHILD, json.dumps(order)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["raw"] == raw_size
    return said


def zstd(content, *arguments):
    return subprocess.run(
        ["zstd", "-q", "-c", *arguments], input=content, capture_output=True, check=True
    ).stdout


@pytest.fixture(scope="module")
def chunk():
    return random.Random(1).randbytes(CHUNK)


def test_frames_that_do_not_compress(chunk, tmp_path):
    frame = zstd(chunk, "-1", f"--stream-size={CHUNK}")
    assert growth(frame * 64, 64 * CHUNK, tmp_path / "disk")["growth"] < BOUND


def test_20_gib_of_which_most_is_zero(chunk, tmp_path):
    zeros, data = zstd(bytes(CHUNK), f"--stream-size={CHUNK}"), zstd(chunk, f"--stream-size={CHUNK}")
    packed = b"".join(data if number % 256 == 0 else zeros for number in range(5 * 1024))
    said = growth(packed, 20 << 30, tmp_path / "disk")
    assert said["growth"] < BOUND
    assert said["skipped"] > 19 << 30


def test_one_frame_with_the_window_of_a_high_level(chunk, tmp_path):
    packed = zstd(chunk * 32, "-19", "--zstd=wlog=23,strategy=1,hlog=12,clog=12")
    assert growth(packed, 32 * CHUNK, tmp_path / "disk")["growth"] < BOUND


def test_the_peak_is_what_the_kernel_counts(tmp_path):
    (tmp_path / "status").write_text("Name:\tx\nVmHWM:\t    1234 kB\nVmRSS:\t 1 kB\n")
    assert memory.peak(tmp_path) == 1234 << 10
    assert memory.peak(tmp_path / "nowhere") == 0
    memory.reset_peak()
    before = memory.peak()
    with mmap.mmap(-1, 64 * MIB) as pages:
        pages.write(b"x" * len(pages))
    assert memory.peak() - before > 48 * MIB
    memory.reset_peak()
    assert memory.peak() < before + 32 * MIB
