"""Whole-disk images whose system surely cannot start: refused, and the disk does not start."""

from __future__ import annotations

import pytest

from fakes import diskimages
from teeth_agent.errors import AgentError
from teeth_agent.image import systemcheck

MIB = 1 << 20
pytestmark = pytest.mark.skipif(not diskimages.can_loop(), reason="needs root and loop devices")


def disk_with(tmp_path, **changes):
    files = diskimages.system_files()
    for name, content in changes.items():
        if content is None:
            del files[name]
        else:
            files[name] = content
    return diskimages.make(tmp_path / "sda", tmp_path, files=files)


def check(disk, tmp_path, machine="x86_64"):
    root = tmp_path / "root"
    root.mkdir(exist_ok=True)
    systemcheck.check_or_undo(str(disk), machine=machine, work=tmp_path, root=root)


def test_a_system_that_can_start_is_left_alone(tmp_path):
    disk = disk_with(tmp_path)
    before = disk.read_bytes()
    check(disk, tmp_path)
    assert disk.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"boot/vmlinuz-6.1": None}, "no_kernel"),
        ({"boot/vmlinuz-6.1": b"text"}, "no_kernel"),
        ({"boot/vmlinuz-6.1": bytes(56) + b"ARM\x64" + bytes(1000)}, "wrong_architecture"),
        ({"boot/initrd.img-6.1": None}, "no_initrd"),
        ({"boot/grub/grub.cfg": b"\xff\0\x80" * 99}, "boot_config"),
    ],
)
def test_one_that_cannot_is_refused_and_never_starts(changes, code, tmp_path):
    disk = disk_with(tmp_path, **changes)
    with pytest.raises(AgentError) as caught:
        check(disk, tmp_path)
    assert caught.value.code == code
    content = disk.read_bytes()
    assert not any(content[:MIB])
    assert not any(content[-MIB:])


def test_what_is_not_known_is_not_judged(tmp_path):
    check(disk_with(tmp_path, **{"boot/grub/grub.cfg": None}), tmp_path)
    blank = tmp_path / "blank"
    blank.write_bytes(bytes(4 * MIB))
    check(blank, tmp_path)
