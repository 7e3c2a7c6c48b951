"""standbye.prepare_image of kind root, then what run_image asks of the disk."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from pathlib import Path

import pytest

from fakes import diskimages, rootimages
from fakes.imageserver import serving
from fakes.machine_disks import disk_at
from fakes.reporting import ToldReporter
from fakes.wiretap import valid
from teeth_agent.errors import AgentError
from teeth_agent.image import boot, bootloader
from teeth_agent.tasks.context import TaskContext
from teeth_agent.tasks.prepare_image import run

MIB = 1 << 20
pytestmark = pytest.mark.skipif(
    not diskimages.can_loop() or platform.machine() != "x86_64",
    reason="needs root and loop devices on x86_64",
)


@pytest.fixture(scope="module")
def loader(tmp_path_factory):
    return rootimages.loader(tmp_path_factory.mktemp("grub") / "boot")


@pytest.fixture
def context(tmp_path, loader, monkeypatch):
    monkeypatch.setattr(bootloader, "FOLDER", loader)
    root = diskimages.tree(tmp_path / "root", {"proc/cmdline": b"console=ttyS0,115200"})
    return TaskContext(boot_id="boot", sysfs_root=root)


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "sda"
    with path.open("wb") as stream:
        stream.truncate(700 * MIB)
    return path


def params(server, content, **changes):
    image = {
        "id": "root-1",
        "kind": "root",
        "urls": [server.url()],
        "size": len(content),
        "digest": "sha256:" + hashlib.sha256(content).hexdigest(),
        **changes,
    }
    return {"task_id": "t", "image": image, "root_disk": {"model": "DISK"}}


def file_system(folder: Path) -> bytes:
    source = diskimages.tree(folder / "tree", rootimages.system_files())
    (source / "sbin").mkdir()
    (source / "sbin/init").symlink_to("/usr/lib/systemd/systemd")
    image = folder / "root.ext4"
    diskimages.run("mke2fs", "-q", "-t", "ext4", "-d", str(source), str(image), "40M")
    return image.read_bytes()


@pytest.mark.parametrize("kind", ["tar", "raw"])
def test_a_root_image_is_prepared_and_can_be_left_for(kind, tmp_path, context, disk):
    raw = rootimages.archive(rootimages.system_members()) if kind == "tar" else file_system(tmp_path)
    packed = subprocess.run(["zstd", "-q", "-c"], input=raw, capture_output=True, check=True).stdout
    with serving(packed) as server:
        wanted = params(server, packed, format=kind, compression="zstd", raw_size=len(raw))
        result = run(wanted, context, ToldReporter(), disks=lambda: [disk_at(disk)])
    valid("standbye.prepare_image.outcome", result)
    assert result["verified"] is True
    assert result["raw_bytes"] == len(raw)
    assert context.state.prepared("root-1") is not None
    check = boot.check_boot(str(disk), root=context.sysfs_root)
    assert check.bootable, check.reason


def test_a_file_system_without_a_kernel_is_not_prepared(tmp_path, context, disk):
    source = diskimages.tree(tmp_path / "tree", {"etc/hostname": b"x"})
    image = tmp_path / "root.ext4"
    diskimages.run("mke2fs", "-q", "-t", "ext4", "-d", str(source), str(image), "16M")
    raw = image.read_bytes()
    with serving(raw) as server, pytest.raises(AgentError) as caught:
        run(params(server, raw, format="raw"), context, ToldReporter(), disks=lambda: [disk_at(disk)])
    assert caught.value.code == "no_kernel"
    assert context.state.prepared("root-1") is None
    with disk.open("rb") as stream:
        assert not any(stream.read(MIB))


def test_a_ramdisk_without_a_loader_says_so_before_the_disk_is_touched(tmp_path, context, disk, monkeypatch):
    monkeypatch.setattr(bootloader, "FOLDER", tmp_path / "none")
    disk.write_bytes(b"\xeb" * 512 + bytes(700 * MIB - 512))
    with serving(b"x") as server, pytest.raises(AgentError) as caught:
        run(params(server, b"x", format="tar"), context, ToldReporter(), disks=lambda: [disk_at(disk)])
    assert caught.value.code == "boot_loader"
    with disk.open("rb") as stream:
        assert stream.read(512) == b"\xeb" * 512
