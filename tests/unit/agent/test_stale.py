"""A process that died in the middle of unpacking leaves a mount: the next one ends it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakes import diskimages
from teeth_agent.image import stale

MIB = 1 << 20


@pytest.mark.skipif(not diskimages.can_loop(), reason="needs root and loop devices")
def test_what_is_left_is_unmounted_and_detached(tmp_path):
    image = tmp_path / "disk"
    with image.open("wb") as stream:
        stream.truncate(16 * MIB)
    diskimages.run("mke2fs", "-q", "-t", "ext4", str(image))
    point, other = tmp_path / "tmp/teeth-root-abc", tmp_path / "tmp/other"
    point.mkdir(parents=True)
    other.mkdir()
    node = diskimages.run("losetup", "--find", "--show", str(image)).decode().strip()
    try:
        diskimages.run("mount", "-t", "ext4", node, str(point))
        diskimages.run("mount", "-t", "tmpfs", "tmpfs", str(other))
        stale.clear(tmp_path / "tmp")
        assert not point.is_mount()
        assert other.is_mount()
        assert diskimages.run("losetup", "--associated", str(image)) == b""
    finally:
        for path in (point, other):
            if path.is_mount():
                diskimages.run("umount", str(path))
        if diskimages.run("losetup", "--associated", str(image)):
            diskimages.run("losetup", "--detach", node)


def test_names_with_blanks_are_read_and_what_cannot_be_unmounted_is_left(tmp_path, caplog):
    mounts = tmp_path / "mounts"
    mounts.write_text("/dev/sda1 /t\\040x/teeth-image-1/3 ext4 ro 0 0\nproc /proc proc rw 0 0\n\n")
    stale.clear(tmp_path / "t x", mounts=mounts)
    assert caplog.text == ""
    stale.clear(Path("/t x"), mounts=mounts)
    assert "/dev/sda1 of an earlier agent process stays mounted" in caplog.text
    stale.clear(tmp_path, mounts=tmp_path / "none")
