"""A disk around the files of one system: what is on it, and that nothing starts which was not proven."""

from __future__ import annotations

import hashlib
import itertools
import mmap
import os
import platform
import subprocess
import tarfile
from pathlib import Path

import pytest

from fakes import diskimages, rootimages
from fakes.reporting import ToldReporter
from teeth_agent.blockio import open_device
from teeth_agent.errors import AgentError, Cancelled, DeviceError
from teeth_agent.image import bootcheck, disktable, rootinstall, tree
from teeth_agent.image.params import ImageSpec
from teeth_agent.tools import mount
from teeth_image import rootlayout

MIB = 1 << 20
SIZE = 600 * MIB
pytestmark = pytest.mark.skipif(
    not diskimages.can_loop() or platform.machine() != "x86_64",
    reason="needs root and loop devices on x86_64",
)


@pytest.fixture(scope="session")
def loader(tmp_path_factory):
    return rootimages.loader(tmp_path_factory.mktemp("grub") / "boot")


@pytest.fixture
def disk(tmp_path):
    """A used disk: boot code, and bytes at both ends."""
    path = tmp_path / "disk"
    with path.open("wb") as stream:
        stream.write(b"\xeb" * MIB)
        stream.truncate(SIZE - MIB)
        stream.seek(SIZE - MIB)
        stream.write(b"\xa5" * MIB)
    return path


def spec(content, **changes):
    fields = {
        "id": "root-1",
        "name": "small",
        "urls": ("http://127.0.0.1/",),
        "size": len(content),
        "digest": f"sha256:{hashlib.sha256(content).hexdigest()}",
        "compression": "none",
        "raw_size": None,
        "raw_digest": None,
        "format": "tar",
        "kind": "root",
    }
    return ImageSpec(**{**fields, **changes})


def install(disk, loader, content, *, reporter=None, source=None, write=None, block=512, **changes):
    with open_device(str(disk), write=True) as device:
        assert device.logical_block == block
        return rootinstall.install(
            spec(content, **changes),
            device,
            source or rootimages.BytesSource(content),
            reporter or ToldReporter(),
            write_filesystem=write or (lambda window: pytest.fail("a tar is no file system image")),
            machine="x86_64",
            command_line="BOOT_IMAGE=x teeth.token=s console=tty0 console=ttyS0,115200 quiet",
            loader=loader,
        )


def check(disk, firmware):
    with open_device(str(disk), write=False) as device:
        table = disktable.read(device)
        return bootcheck.check(device, table, firmware=firmware, machine="x86_64"), table


def test_a_tar_becomes_a_disk_that_starts_in_both_modes(disk, loader, tmp_path):
    content = rootimages.archive(rootimages.system_members())
    packed = subprocess.run(["zstd", "-q", "-c"], input=content, capture_output=True, check=True).stdout
    done = install(disk, loader, packed, compression="zstd", raw_size=len(content))
    assert done.raw_bytes == len(content)
    assert done.verify_method == tree.VERIFY_METHOD
    for firmware in ("bios", "uefi"):
        found, table = check(disk, firmware)
        assert found.bootable, found.reason
    assert [(one.number, one.name) for one in table.partitions] == [(1, "bios"), (2, "esp"), (3, "root")]
    assert len({one.unique for one in table.partitions}) == 3
    assert diskimages.run("sgdisk", "--verify", str(disk)).decode().count("No problems found") == 1
    root = table.partitions[2]
    point = tmp_path / "point"
    point.mkdir()
    options = f"loop,offset={table.offset(root)},sizelimit={table.length(root)}"
    with mount.mounted(str(disk), point, "ext4", options=options):
        _check_files(point, table)


def _check_files(point, table):
    uuid = diskimages.run("findmnt", "-no", "UUID", str(point)).decode().strip()
    grub = (point / "boot/grub/grub.cfg").read_text()
    assert f"search --no-floppy --fs-uuid --set=root {uuid}" in grub
    arguments = "ro net.ifnames=0 quiet console=tty0 console=ttyS0,115200"
    assert f"linux /boot/vmlinuz-6.1.0-10 root=UUID={uuid} {arguments}\n" in grub
    assert "initrd /boot/initrd.img-6.1.0-10\n" in grub
    assert "teeth.token" not in grub
    fstab = (point / "etc/fstab").read_text().splitlines()
    assert fstab[0] == f"UUID={uuid}\t/\text4\terrors=remount-ro\t0\t1"
    assert fstab[1] == "tmpfs /tmp tmpfs defaults 0 0"
    assert fstab[2].endswith("/boot/efi\tvfat\tumask=0077,nofail\t0\t1")
    assert (point / "var/big").read_bytes() == bytes(range(256)) * 8192
    su = (point / "usr/bin/su").stat()
    assert (su.st_mode & 0o7777, su.st_gid, su.st_nlink) == (0o4755, 42, 2)
    assert str((point / "sbin").readlink()) == "usr/sbin"
    null = (point / "dev/null").stat()
    assert (os.major(null.st_rdev), os.minor(null.st_rdev)) == (1, 3)
    assert os.getxattr(point / "usr/bin/ping", "security.capability").startswith(b"\x01\x00\x00\x02")
    assert (point / "var/log/journal").stat().st_mode & 0o7777 == 0o2755


def test_blocks_of_4096_bytes_start_by_uefi(disk, loader):
    content = rootimages.archive(rootimages.system_members())
    with diskimages.loop_device(disk, sector=4096) as node:
        install(node, loader, content, block=4096)
        found, table = check(node, "uefi")
        assert found.bootable, found.reason
        assert table.block == 4096
        assert not check(node, "bios")[0].bootable


def test_a_file_system_image_is_written_by_who_writes_images(disk, loader, tmp_path):
    source = diskimages.tree(tmp_path / "tree", rootimages.system_files())
    (source / "sbin").mkdir()
    (source / "sbin/init").symlink_to("/usr/lib/systemd/systemd")
    image = tmp_path / "root.ext4"
    diskimages.run("mke2fs", "-q", "-t", "ext4", "-d", str(source), str(image), "40M")
    seen = []

    class Stats:
        raw_bytes = written_bytes = 40 * MIB
        skipped_bytes = zero_bytes = 0

    def write(window):
        seen.append(window.size)
        with disk.open("r+b") as stream:
            layout = rootlayout.plan(size=SIZE, block=512, need=1)
            stream.seek(layout.offset(layout.root))
            stream.write(image.read_bytes())
        return Stats

    done = install(disk, loader, image.read_bytes(), write=write, format="raw")
    assert (done.raw_bytes, len(seen)) == (40 * MIB, 1)
    assert check(disk, "bios")[0].bootable


def changed(**changes):
    files = rootimages.system_files()
    for name, content in changes.items():
        if content is None:
            del files[name]
        else:
            files[name] = content
    return rootimages.archive(rootimages.system_members(files))


def with_member(member, content=b""):
    return rootimages.archive(itertools.chain(rootimages.system_members(), [(member, content)]))


def without_kernels():
    names = ("boot/vmlinuz-6.1.0-9", "boot/vmlinuz-6.1.0-10")
    return changed(**dict.fromkeys(names))


ARM_KERNEL = bytes(56) + b"ARM\x64" + bytes(1000)
member = rootimages.member
HOSTILE = {
    "no kernel": (without_kernels, "no_kernel"),
    "kernel is text": (lambda: changed(**{"boot/vmlinuz-6.1.0-10": b"hello" * 500}), "no_kernel"),
    "kernel for arm": (lambda: changed(**{"boot/vmlinuz-6.1.0-10": ARM_KERNEL}), "wrong_architecture"),
    "init for arm": (
        lambda: changed(**{"usr/lib/systemd/systemd": rootimages.elf(183)}),
        "wrong_architecture",
    ),
    "no init": (lambda: changed(**{"usr/lib/systemd/systemd": None}), "no_init"),
    "init is text": (lambda: changed(**{"usr/lib/systemd/systemd": b"no program"}), "no_init"),
    "absolute name": (lambda: with_member(member("/etc/passwd")), "image_hostile"),
    "name goes up": (lambda: with_member(member("usr/../../etc/passwd")), "image_hostile"),
    "link goes up": (
        lambda: with_member(member("x", tarfile.LNKTYPE, linkname="../etc/shadow")),
        "image_hostile",
    ),
    "link to nothing": (lambda: with_member(member("x", tarfile.LNKTYPE, linkname="y")), "image_corrupt"),
    "through a link": (lambda: with_member(member("sbin/evil")), "image_corrupt"),
    "twice": (lambda: with_member(member("etc/fstab")), "image_corrupt"),
    "unknown type": (lambda: with_member(member("x", b"V")), "image_corrupt"),
    "cut short": (lambda: rootimages.archive(rootimages.system_members())[:1_000_000], "image_corrupt"),
    "second tar behind": (lambda: rootimages.archive(rootimages.system_members()) * 2, "image_corrupt"),
    "no tar": (lambda: b"\xa5" * 100_000, "image_format"),
    "empty": (lambda: bytes(10240), "image_format"),
}


@pytest.mark.parametrize(("make", "code"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_system_never_starts(disk, loader, make, code):
    with pytest.raises(AgentError) as caught:
        install(disk, loader, make())
    assert caught.value.code == code
    assert_nothing_starts(disk)


def assert_nothing_starts(disk):
    with disk.open("rb") as stream:
        assert not any(stream.read(MIB))
        stream.seek(SIZE - MIB)
        assert not any(stream.read(MIB))


def test_a_wrong_digest_at_the_last_byte(disk, loader):
    content = rootimages.archive(rootimages.system_members())
    source = rootimages.BytesSource(content, digest="sha256:" + "0" * 64)
    with pytest.raises(AgentError) as caught:
        install(disk, loader, content, source=source)
    assert caught.value.code == "digest_mismatch"
    assert source.stopped
    assert_nothing_starts(disk)


def test_files_that_do_not_fit(disk, loader):
    big = itertools.chain(rootimages.system_members(), [(member("big"), b"x" * (150 * MIB))])
    packed = subprocess.run(
        ["zstd", "-q", "-c"], input=rootimages.archive(big), capture_output=True, check=True
    ).stdout
    # What does not fit by what the command says is refused before a byte is written.
    with pytest.raises(AgentError) as caught:
        install(disk, loader, packed, compression="zstd", raw_size=250 * MIB)
    assert caught.value.code == "disk_too_small"
    with disk.open("rb") as stream:
        assert stream.read(512) == b"\xeb" * 512
    twice = itertools.chain(
        rootimages.system_members(), [(member("a"), b"x" * (110 * MIB)), (member("b"), b"y" * (110 * MIB))]
    )
    packed = subprocess.run(
        ["zstd", "-q", "-c"], input=rootimages.archive(twice), capture_output=True, check=True
    ).stdout
    with pytest.raises(AgentError) as caught:
        install(disk, loader, packed, compression="zstd")
    assert caught.value.code in ("no_space", "disk_too_small")
    assert_nothing_starts(disk)


def test_what_the_disk_changed_is_found(disk, loader, monkeypatch):
    """Between writing and reading back, a byte of a file turns over."""
    content = rootimages.archive(rootimages.system_members())
    honest = rootinstall._past_the_cache

    def lying(path):
        honest(path)
        with disk.open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as content:
            at = content.find(bytes(range(256)) * 16, 302 * MIB)
            content[at + 1000] ^= 1
            content.flush()
        honest(path)

    monkeypatch.setattr(rootinstall, "_past_the_cache", lying)
    with pytest.raises(DeviceError) as caught:
        install(disk, loader, content)
    assert caught.value.code == "verify_failed"
    assert "var/big" in str(caught.value)
    assert_nothing_starts(disk)


def test_a_task_that_is_told_to_stop(disk, loader):
    content = rootimages.archive(rootimages.system_members())
    with pytest.raises(Cancelled):
        install(disk, loader, content, reporter=ToldReporter(cancel_after=1))
    assert_nothing_starts(disk)
    assert "teeth-root" not in Path("/proc/mounts").read_text()


def test_another_machine_is_refused(disk, loader):
    with open_device(str(disk), write=True) as device, pytest.raises(AgentError) as caught:
        rootinstall.check(spec(b"x"), device, machine="aarch64")
    assert caught.value.code == "root_unsupported"
