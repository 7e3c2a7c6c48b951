"""Finding what to start, judging it, and loading it (with a kexec that only says what it was told)."""

from __future__ import annotations

import struct

import pytest

from fakes import diskimages
from teeth_agent.blockio import open_device
from teeth_agent.errors import AgentError, ToolError
from teeth_agent.image import bootcheck, disktable, kexec, rootfs
from teeth_image.bootentry import BootEntry

MIB = 1 << 20
MEMINFO = "MemTotal: 1000000 kB\nMemAvailable: {} kB\n"
needs_loop = pytest.mark.skipif(not diskimages.can_loop(), reason="needs root and loop devices")


@pytest.fixture
def system(tmp_path):
    return diskimages.tree(tmp_path / "system", diskimages.system_files())


@pytest.fixture
def machine(tmp_path):
    """A root folder with the /proc and /sys files that the preflight looks at."""
    return diskimages.tree(
        tmp_path / "machine",
        {
            "proc/meminfo": MEMINFO.format(500_000).encode(),
            "proc/sys/kernel/kexec_load_disabled": b"0\n",
            "sys/kernel/security/lockdown": b"[none] integrity confidentiality\n",
        },
    )


def files(system, **changes):
    found = rootfs.find_boot_files([system])
    fields = {name: getattr(found.entry, name) for name in BootEntry.__slots__}
    return rootfs.BootFiles(
        entry=BootEntry(**{**fields, **changes}), kernel=found.kernel, initrds=found.initrds
    )


def reasons(system, machine, architecture="x86_64", **changes):
    return kexec.preflight(files(system, **changes), machine=architecture, root=machine).reasons


def test_kernel_initrds_and_command_line_are_found(system):
    found = rootfs.find_boot_files([system])
    assert found.kernel == system / "boot/vmlinuz-6.1"
    assert found.initrds == (system / "boot/early.img", system / "boot/initrd.img-6.1")
    assert found.entry.options == "root=UUID=1234 ro console=ttyS0,115200 quiet"


def test_a_separate_boot_file_system(tmp_path):
    cfg = diskimages.GRUB_CFG.replace("/boot/", "/").encode()
    other = diskimages.tree(tmp_path / "root", {"etc/hostname": b"x"})
    boot = diskimages.tree(
        tmp_path / "boot",
        {"grub/grub.cfg": cfg, "vmlinuz-6.1": b"k", "early.img": b"e", "initrd.img-6.1": b"i"},
    )
    assert rootfs.find_boot_files([other, boot]).kernel == boot / "vmlinuz-6.1"


def test_bls_entries_without_any_grub_cfg(tmp_path):
    entry = b"title x\nlinux /boot/k\ninitrd /boot/a /boot/b\noptions root=x\n"
    content = {"boot/loader/entries/x.conf": entry, "boot/k": b"", "boot/a": b"", "boot/b": b""}
    found = rootfs.find_boot_files([diskimages.tree(tmp_path / "s", content)])
    assert found.entry.source == "BLS entry x.conf"
    assert [path.name for path in found.initrds] == ["a", "b"]


@pytest.mark.parametrize(
    ("gone", "code"),
    [
        ("boot/vmlinuz-6.1", "no_kernel"),
        ("boot/early.img", "no_initrd"),
        ("boot/grub/grub.cfg", "no_boot_entry"),
    ],
)
def test_what_is_missing_is_named(gone, code, system):
    (system / gone).unlink()
    with pytest.raises(AgentError) as caught:
        rootfs.find_boot_files([system])
    assert caught.value.code == code
    assert gone.rpartition("/")[2] in str(caught.value)


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (b"", "boot_config", "boot/grub/grub.cfg is empty"),
        (b"\x00\x81\xff" * 500, "boot_config", "boot/grub/grub.cfg is no text"),
        (diskimages.GRUB_CFG.encode()[:-4], "boot_config", "boot/grub/grub.cfg is cut short"),
        (b"configfile /other\n", "no_boot_entry", "boot/grub/grub.cfg has no menu entry"),
    ],
)
def test_what_is_wrong_with_a_grub_cfg_is_said(content, code, said, system):
    (system / "boot/grub/grub.cfg").write_bytes(content)
    with pytest.raises(AgentError) as caught:
        rootfs.find_boot_files([system])
    assert caught.value.code == code
    assert said in str(caught.value)


def test_links_are_the_images_own_and_never_lead_out(system, tmp_path):
    (tmp_path / "outside").write_bytes(b"the ramdisk's")
    (system / "vmlinuz").symlink_to("boot/vmlinuz-6.1")
    (system / "absolute").symlink_to("/boot/vmlinuz-6.1")
    (system / "climbing").symlink_to("../../../../outside")
    (system / "leading-out").symlink_to(tmp_path / "outside")
    (system / "loop").symlink_to("loop")
    assert rootfs.inside(system, "/vmlinuz") == system / "boot/vmlinuz-6.1"
    assert rootfs.inside(system, "absolute") == system / "boot/vmlinuz-6.1"
    for name in ("climbing", "leading-out", "loop", "../outside", "vmlinuz/x"):
        assert rootfs.inside(system, name) is None


def test_a_good_kernel_on_a_good_machine(system, machine):
    found = kexec.preflight(files(system), machine="x86_64", root=machine)
    assert found == kexec.Preflight(viable=True, reasons=(), notes=())


def test_every_reason_against_is_given(system, machine):
    (machine / "proc/sys/kernel/kexec_load_disabled").write_text("1")
    (machine / "proc/meminfo").write_text(MEMINFO.format(1000))
    (system / "boot/vmlinuz-6.1").write_bytes(b"MZ not for x86")
    said = reasons(system, machine, options="x" * 3000)
    assert [reason.split(" ")[0] for reason in said] == ["the", "kexec", "0", "the"]
    assert not kexec.preflight(files(system), machine="x86_64", root=machine).viable


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        (diskimages.kernel(flags=0), "the kernel has no 64-bit entry point"),
        (diskimages.kernel(magic=b"XXXX"), "the kernel is not a bzImage for x86"),
        (diskimages.kernel()[:100], "the kernel is not a bzImage for x86"),
        (b"", "the kernel is not a bzImage for x86"),
    ],
)
def test_kernels_that_are_none(kernel, said, system, machine):
    (system / "boot/vmlinuz-6.1").write_bytes(kernel)
    assert reasons(system, machine) == (said,)


def test_another_architecture(system, machine):
    assert reasons(system, machine, architecture="aarch64") == ("kexec is not supported on aarch64 here yet",)


def signed_kernel():
    """A bzImage that is a PE file with a certificate table."""
    image = bytearray(diskimages.kernel())
    image[:2] = b"MZ"
    struct.pack_into("<I", image, 0x3C, 0x40)
    image[0x40:0x44] = b"PE\0\0"
    struct.pack_into("<H", image, 0x58, 0x20B)
    struct.pack_into("<II", image, 0x58 + 112 + 32, 8192, 1024)
    return bytes(image)


def test_under_lockdown_a_kernel_needs_a_signature(system, machine):
    (machine / "sys/kernel/security/lockdown").write_text("none [integrity] confidentiality")
    assert reasons(system, machine) == ("lockdown is integrity and the kernel has no signature",)
    (system / "boot/vmlinuz-6.1").write_bytes(signed_kernel())
    found = kexec.preflight(files(system), machine="x86_64", root=machine)
    assert found.viable
    assert found.notes[0].startswith("lockdown is integrity")


def test_secure_boot_is_a_note(system, machine):
    folder = machine / "sys/firmware/efi/efivars"
    folder.mkdir(parents=True)
    (folder / "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c").write_bytes(b"\6\0\0\0\1")
    found = kexec.preflight(files(system), machine="x86_64", root=machine)
    assert (found.viable, found.notes) == (True, ("secure boot is on",))


@pytest.mark.parametrize(
    ("pattern", "denied"),
    [("acme server 9*", True), ("x,ACME*", True), ("*10", False), ("", False), ("acme", False)],
)
def test_machines_may_be_denied(pattern, denied, system, machine):
    diskimages.tree(
        machine,
        {
            "sys/class/dmi/id/sys_vendor": b"ACME\n",
            "sys/class/dmi/id/product_name": b"Server 9 G2\n",
            "proc/cmdline": f'quiet "teeth.kexec_deny={pattern}" x'.encode(),
        },
    )
    said = reasons(system, machine)
    assert bool(said) is denied
    if denied:
        assert said[0].startswith("kexec is denied on this machine (ACME Server 9 G2) by teeth.kexec_deny=")


@pytest.fixture
def told(tmp_path, monkeypatch):
    """A kexec on PATH that keeps its arguments and a copy of the initrd."""
    tools = tmp_path / "tools"
    tools.mkdir()
    script = tools / "kexec"
    script.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" >{tmp_path}/told\n'
        f'for a; do case "$a" in --initrd=*) cp "${{a#--initrd=}}" {tmp_path}/initrd;; esac; done\n'
        f'[ ! -e {tmp_path}/refuse ] || {{ echo "kexec_file_load failed: not signed" >&2; exit 255; }}\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    return tmp_path


def test_all_initrds_are_joined_and_the_command_line_is_kept(told, system, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    kexec.load(files(system), work=work)
    argv = (told / "told").read_text().splitlines()
    assert argv[:2] == ["--kexec-file-syscall", "--load"]
    assert argv[2] == str(system / "boot/vmlinuz-6.1")
    assert argv[3] == "--command-line=root=UUID=1234 ro console=ttyS0,115200 quiet"
    assert (told / "initrd").read_bytes() == b"early\0\0\0main initrd\0"
    assert list(work.iterdir()) == []


def test_one_initrd_is_loaded_from_where_it_is(told, system, tmp_path):
    found = files(system)
    one = rootfs.BootFiles(entry=found.entry, kernel=found.kernel, initrds=found.initrds[1:])
    kexec.load(one, work=tmp_path / "not there")
    assert f"--initrd={found.initrds[1]}" in (told / "told").read_text().splitlines()


def test_a_refused_load_says_why(told, system, tmp_path):
    (told / "refuse").touch()
    with pytest.raises(ToolError, match="not signed"):
        kexec.load(files(system), work=tmp_path)


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    work = tmp_path_factory.mktemp("disk")
    return diskimages.make(work / "disk", work)


def read_table(path):
    with open_device(str(path), write=False) as device:
        return disktable.read(device)


@needs_loop
def test_a_disk_is_mounted_read_only_and_left_as_it_was(disk, tmp_path):
    before = disk.read_bytes()
    with rootfs.mounted_systems(str(disk), read_table(disk), work=tmp_path) as systems:
        assert [point.name for point in systems] == ["3"]
        assert rootfs.find_boot_files(systems).kernel.read_bytes() == diskimages.kernel()
        with pytest.raises(OSError, match="Read-only"):
            (systems[0] / "new").touch()
    assert list(tmp_path.iterdir()) == []
    assert disk.read_bytes() == before


def check(path, firmware):
    with open_device(str(path), write=False) as device:
        return bootcheck.check(device, disktable.read(device), firmware=firmware, machine="x86_64")


def test_a_disk_that_boots_both_ways(disk):
    assert check(disk, "bios").bootable
    found = check(disk, "uefi")
    assert found.bootable
    assert found.reason == "partition 2 has EFI/BOOT/BOOTX64.EFI"


def test_a_disk_that_boots_neither_way(disk, tmp_path):
    bad = tmp_path / "bad"
    bad.write_bytes(disk.read_bytes())
    diskimages.run("sgdisk", "--typecode=1:8300", str(bad))
    assert check(bad, "bios").reason.startswith("boot code in the first sector, but no BIOS boot partition")
    with bad.open("r+b") as image:
        image.write(bytes(440))
    assert check(bad, "bios").reason == "no boot code in the first sector"
    diskimages.run("mdel", "-i", f"{bad}@@{diskimages.ESP_START}", "::EFI/BOOT/BOOTX64.EFI")
    assert check(bad, "uefi").reason == "the EFI system partition has no EFI/BOOT/BOOTX64.EFI"
    diskimages.run("sgdisk", "--typecode=2:8300", str(bad))
    found = check(bad, "uefi")
    assert not found.bootable
    assert found.reason == "no EFI system partition"


def test_the_firmware_mode_is_what_the_kernel_shows(tmp_path):
    assert bootcheck.firmware_mode(tmp_path) == "bios"
    (tmp_path / "sys/firmware/efi").mkdir(parents=True)
    assert bootcheck.firmware_mode(tmp_path) == "uefi"
