"""The built ramdisk: unpacked as the kernel does, its programs run by chroot."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from fakes.rootimages import MODULES
from teeth.build.budget import BUDGETS
from teeth.build.dib import as_root, remove_tree
from teeth.build.layers import Layer, split, unpack_archive
from teeth.build.ramdisk import build_ramdisk
from teeth.cache import file_digest
from teeth.paths import find_checkout
from teeth.proc import run
from teeth_agent.errors import image_errors
from teeth_agent.image import bootloader
from teeth_image import grub

pytestmark = [
    pytest.mark.image,
    pytest.mark.xdist_group("ramdisk-content"),  # unpacked once
    pytest.mark.skipif(os.geteuid() != 0 and shutil.which("sudo") is None, reason="chroot needs root"),
]


class Ramdisk:
    def __init__(self, folder: Path, manifest: dict[str, Any], root: Path) -> None:
        self.folder = folder
        self.manifest = manifest
        self.root = root

    def run(self, *words: str) -> str:
        return run([*as_root(), "chroot", self.root, *words])

    def files(self) -> Iterator[str]:
        for folder, folders, names in os.walk(self.root):
            for name in (*names, *(name for name in folders if Path(folder, name).is_symlink())):
                yield str(Path(folder, name).relative_to(self.root))


@pytest.fixture(scope="module")
def ramdisk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ramdisk]:
    paths = find_checkout()
    built = build_ramdisk(paths, paths.recipes / "ramdisk.yaml", say=print)
    work = tmp_path_factory.mktemp("ramdisk")
    root = work / "root"
    layers = [Layer(**layer) for layer in built.manifest["layers"]]
    for archive in split(built.folder / "initramfs", layers, work):
        unpack_archive(archive, root)
    yield Ramdisk(built.folder, dict(built.manifest), root)
    remove_tree(work)


def test_the_manifest_says_what_is_there(ramdisk: Ramdisk) -> None:
    manifest, folder = ramdisk.manifest, ramdisk.folder
    assert manifest["digest"] == file_digest(folder / "initramfs")
    assert manifest["kernel_digest"] == file_digest(folder / "vmlinuz")
    assert manifest["initramfs_bytes"] == (folder / "initramfs").stat().st_size
    assert manifest["files"] == len(set(ramdisk.files()))
    assert manifest["recipe"] == "ramdisk"
    assert {"busybox", "udev", "nvme-cli", "hdparm"} <= {entry["name"] for entry in manifest["packages"]}
    assert len(manifest["largest"]) == 10
    about = json.loads((ramdisk.root / "etc/teeth/agent.json").read_text())
    assert about == {"ramdisk": manifest["key"], "built": manifest["built"], "version": manifest["version"]}


def test_it_keeps_its_budget(ramdisk: Ramdisk) -> None:
    assert ramdisk.manifest["initramfs_bytes"] <= BUDGETS["ramdisk"]


def test_it_has_its_own_boot_loader_for_both_firmwares(ramdisk: Ramdisk) -> None:
    folder = ramdisk.root / "usr/lib/teeth-boot"
    programs = bootloader.programs(folder)
    with image_errors():
        assert len(grub.place_core(programs.core, core_at=2048, room=2048)) == len(programs.core)
    assert len(programs.boot) == 512
    assert programs.uefi[:2] == b"MZ"
    assert b"(,gpt3)/boot/grub" in programs.uefi


def test_the_tests_boot_loader_has_the_ramdisks_modules() -> None:
    hook = find_checkout().elements / "teeth-root-images/post-install.d/60-teeth-root-images"
    listed = re.search(r'common="([^"]*)"', hook.read_text())
    assert listed is not None
    assert tuple(listed[1].split()) == MODULES


def test_the_same_inputs_are_not_built_again(ramdisk: Ramdisk) -> None:
    paths = find_checkout()
    before = (ramdisk.folder / "initramfs").stat()
    again = build_ramdisk(paths, paths.recipes / "ramdisk.yaml", say=print)
    after = (ramdisk.folder / "initramfs").stat()
    assert not again.fresh
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize(
    "words",
    [
        ["hdparm", "-V"],
        ["nvme", "version"],
        ["sg_sanitize", "--version"],
        ["sg_format", "--version"],
        ["smartctl", "--version"],
        ["sgdisk", "--version"],
        ["kexec", "--version"],
        ["openssl", "version"],
        ["zstd", "--version"],
        ["blkid", "--version"],
        ["lsblk", "--version"],
        ["blkdiscard", "--version"],
        ["wipefs", "--version"],
        ["partx", "--version"],
        ["mke2fs", "-V"],
        ["e2fsck", "-V"],
        ["losetup", "--version"],
        ["tar", "--version"],
        ["xorriso", "-version"],
        ["mount", "--version"],
        ["udevadm", "--version"],
        ["/usr/lib/systemd/systemd-udevd", "--version"],
        ["modprobe", "--version"],
        ["ip", "link"],
        ["sh", "-c", "umount --help && reboot --help && poweroff --help && sync && dmesg --help"],
    ],
    ids=lambda words: words[0],
)
def test_tools_run(ramdisk: Ramdisk, words: list[str]) -> None:
    ramdisk.run(*words)


def test_every_tool_the_agent_names_is_there(ramdisk: Ramdisk) -> None:
    """``run([...])`` and ``argv`` lists of the agent begin with a program's name."""
    source = "".join(
        path.read_text() for path in (ramdisk.root / "usr/lib/teeth/teeth_agent/tools").glob("*.py")
    )
    named = set(re.findall(r'\[\s*"([a-z][a-z0-9_-]+)",', source))
    programs = {path.name for folder in ("usr/bin", "usr/sbin") for path in (ramdisk.root / folder).iterdir()}
    assert {"blkid", "kexec", "sgdisk", "udevadm"} <= named
    assert named <= programs
    # For people: the agent speaks to drives by itself.
    assert {"hdparm", "nvme", "sg_inq", "sg_sanitize", "smartctl"} <= programs


def test_the_agent_can_make_its_key_here(ramdisk: Ramdisk) -> None:
    """With this ramdisk's own openssl and its own Python."""
    script = (
        "import os, tempfile; from teeth_agent.tools import openssl\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    key = folder + '/key.pem'\n"
        "    openssl.generate_key(key)\n"
        "    print(oct(os.stat(key).st_mode & 0o777), openssl.request(key, '/CN=teeth agent'))\n"
    )
    mode, _, request = ramdisk.run("/usr/bin/python3", "-c", script).partition(" ")
    assert mode == "0o600"
    asked = x509.load_pem_x509_csr(request.encode())
    assert asked.is_signature_valid


def test_the_agent_imports_whole(ramdisk: Ramdisk) -> None:
    """Every module of it, from its own folder: what is pruned too much shows here, not in the field."""
    script = (
        "import pkgutil, importlib, sys, teeth_agent, teeth_image, teeth_protocol, teeth_stream\n"
        "for package in (teeth_agent, teeth_image, teeth_protocol, teeth_stream):\n"
        "    for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        if not module.name.endswith('__main__'): importlib.import_module(module.name)\n"
        "import teeth_agent.__main__\n"
        "print(len(sys.modules), teeth_agent.__file__)\n"
    )
    count, path = ramdisk.run("/usr/bin/python3", "-c", script).split()[-2:]
    assert path == "/usr/lib/teeth/teeth_agent/__init__.py"
    assert int(count) > 100


def test_python_starts_without_compiling(ramdisk: Ramdisk) -> None:
    """Hash-based and unchecked (PEP 552): flags 0b01 in the second word, so that no source is looked at."""
    compiled = [path for path in ramdisk.files() if path.endswith(".pyc")]
    assert len(compiled) > 500
    for path in compiled:
        assert (ramdisk.root / path).read_bytes()[4:8] == b"\x01\0\0\0", path
    sources = [path for path in ramdisk.files() if path.startswith("usr/lib/teeth/") and path.endswith(".py")]
    for path in map(Path, sources):
        assert (ramdisk.root / path.parent / "__pycache__" / f"{path.stem}.cpython-313.pyc").is_file(), path


def test_nothing_that_installs_or_compiles_is_there(ramdisk: Ramdisk) -> None:
    forbidden = re.compile(
        r"(apt|apt-.*|dpkg.*|perl.*|pip3?|gcc.*|cc|ld|as|make|git|rpm.*|debconf.*|mdadm|lvm|multipath|telnetd|httpd)"
    )
    names = {Path(path).name for path in ramdisk.files() if path.startswith(("usr/bin/", "usr/sbin/"))}
    assert sorted(name for name in names if forbidden.fullmatch(name)) == []
    folders = (
        "var/lib/dpkg",
        "var/lib/apt",
        "usr/share/doc",
        "usr/share/man",
        "usr/share/locale",
        "usr/include",
    )
    assert [folder for folder in folders if (ramdisk.root / folder).exists()] == []
    assert [path for path in ramdisk.files() if "/pip/" in path or "ensurepip" in path] == []


def test_nothing_acts_on_disks_by_itself(ramdisk: Ramdisk) -> None:
    rules = "".join(path.read_text() for path in (ramdisk.root / "usr/lib/udev/rules.d").iterdir())
    for word in ("mdadm", "lvm", "pvscan", "multipath", "hdparm", "connect-all", 'builtin}="btrfs'):
        assert word not in rules, word
    services = (ramdisk.root / "etc/init.d", ramdisk.root / "usr/lib/systemd/system")
    assert not any(folder.exists() for folder in services)
    # A kernel with md built in would look for arrays by itself: here md is a module, and no level is there.
    built_in = ramdisk.root / "usr/lib/modules" / ramdisk.manifest["kernel_version"] / "modules.builtin"
    assert not re.search(r"/(md-mod|dm-mod|bcache)\.ko", built_in.read_text())
    modules = {Path(path).name.partition(".ko")[0] for path in ramdisk.files() if ".ko" in path}
    assert {"raid0", "raid1", "raid456", "dm-mod", "dm-multipath", "dm-crypt", "bcache"} & modules == set()


def test_modules_are_those_of_a_server(ramdisk: Ramdisk) -> None:
    modules = {Path(path).name.partition(".ko")[0] for path in ramdisk.files() if ".ko" in path}
    wanted = {"nvme", "ahci", "virtio_blk", "virtio_net", "virtio_scsi", "sd_mod", "megaraid_sas", "mpt3sas"}
    wanted |= {"smartpqi", "e1000e", "igb", "ixgbe", "i40e", "ice", "bnxt_en", "tg3", "mlx5_core", "r8169"}
    wanted |= {"ext4", "xfs", "vfat", "isofs", "efivarfs", "usb-storage", "usbhid", "loop"}
    assert wanted - modules == set()
    assert {"amdgpu", "i915", "iwlwifi", "snd", "bluetooth", "uvcvideo", "floppy"} & modules == set()


def test_each_module_finds_what_it_depends_on(ramdisk: Ramdisk) -> None:
    version = ramdisk.manifest["kernel_version"]
    folder = ramdisk.root / "usr/lib/modules" / version
    for line in (folder / "modules.dep").read_text().splitlines():
        name, _, needs = line.partition(":")
        assert all((folder / path).is_file() for path in (name, *needs.split())), line
    ramdisk.run("modprobe", "--set-version", version, "--show-depends", "ext4")


def test_init_is_busybox_and_its_scripts_run_in_its_shell(ramdisk: Ramdisk) -> None:
    assert (ramdisk.root / "init").readlink() == Path("/usr/bin/busybox")
    assert (ramdisk.root / "usr/bin/sh").readlink() == Path("busybox")
    inittab = (ramdisk.root / "etc/inittab").read_text()
    for action in ("sysinit", "respawn", "ctrlaltdel", "shutdown"):
        program = re.search(rf"^::{action}:(\S+)", inittab, re.MULTILINE)
        assert program, action
        assert os.access(os.path.realpath(ramdisk.root / program[1].lstrip("/")), os.X_OK), program[1]
    for script in ("boot", "agent", "shutdown"):
        ramdisk.run("sh", "-n", f"/usr/libexec/teeth/{script}")


def test_nobody_can_log_in_and_no_key_is_shared(ramdisk: Ramdisk) -> None:
    for line in (ramdisk.root / "etc/shadow").read_text().splitlines():
        assert line.split(":")[1] in ("*", "!", "!*"), line.split(":")[0]
    names = {Path(path).name for path in ramdisk.files()}
    assert not names & {"authorized_keys", "sshd", "dropbear", "hostnqn", "hostid.conf", "random-seed"}


def test_files_are_roots_and_no_link_is_broken(ramdisk: Ramdisk) -> None:
    for path in ramdisk.files():
        status = (ramdisk.root / path).lstat()
        assert (status.st_uid, status.st_gid) == (0, 0), path
        if stat.S_ISLNK(status.st_mode):
            target = os.path.normpath(Path("/", path).parent / (ramdisk.root / path).readlink())
            runtime = target.startswith(("/proc/", "/run/", "/dev/", "/sys/"))
            assert runtime or os.path.lexists(ramdisk.root / target.lstrip("/")), path


def test_no_mirror_and_no_build_path_is_left(ramdisk: Ramdisk) -> None:
    build = str(find_checkout().root).encode()
    for path in ramdisk.files():
        file = ramdisk.root / path
        if file.is_file() and not file.is_symlink() and file.stat().st_size < 1 << 20 and ".ko" not in path:
            assert build not in file.read_bytes(), path
    assert not (ramdisk.root / "etc/apt").exists()
    assert not (ramdisk.root / "etc/resolv.conf").exists()


def test_it_cannot_reach_disks_that_other_machines_use(ramdisk: Ramdisk) -> None:
    initiators = re.compile(
        r"/(?:iscsi_tcp|nvme-(?:tcp|rdma|fc|fabrics)|lpfc|qla2xxx|fcoe|fnic|bfa)\.ko|iscsistart|/iscsid$"
    )
    assert [path for path in ramdisk.files() if initiators.search(path)] == []
