"""What makes the files of a system start: choices and texts, with nothing mounted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teeth_image import efiload, extfs, gpt, rootconfig, rootlayout, signed
from teeth_image.bootentry import choose_grub, parse_grub_cfg
from teeth_image.errors import ImageError

MIB = 1 << 20


@pytest.mark.parametrize(
    ("names", "kernel", "initrds"),
    [
        (["vmlinuz-6.1.0-9-amd64", "vmlinuz-6.1.0-10-amd64"], "vmlinuz-6.1.0-10-amd64", ()),
        (["vmlinuz-5", "initrd.img-5", "initrd.img-4"], "vmlinuz-5", ("initrd.img-5",)),
        (["vmlinuz-5.el9", "initramfs-5.el9.img"], "vmlinuz-5.el9", ("initramfs-5.el9.img",)),
        (
            ["vmlinuz-1", "initrd.img-1", "amd-ucode.img", "intel-ucode.img"],
            "vmlinuz-1",
            ("intel-ucode.img", "amd-ucode.img", "initrd.img-1"),
        ),
        (["vmlinuz-0-rescue-abc", "vmlinuz-1", "vmlinuz-2.old"], "vmlinuz-1", ()),
        (["vmlinuz", "initrd.img"], "vmlinuz", ("initrd.img",)),
        (["intel-ucode.img", "vmlinuz-1"], "vmlinuz-1", ()),
    ],
)
def test_the_newest_kernel_and_all_its_initrds(names, kernel, initrds):
    found = rootconfig.choose_kernel(names)
    assert (found.kernel, found.initrds) == (kernel, initrds)


@pytest.mark.parametrize(
    "names", [[], ["config-6.1", "System.map-6.1", "initrd.img-6.1"], ["vmlinuz-rescue"]]
)
def test_no_kernel(names):
    assert rootconfig.choose_kernel(names) is None


def test_settings_of_grub_as_a_shell_would_have_them_without_one():
    first = 'A="one"\n# B=2\nexport GRUB_CMDLINE_LINUX="a=\'b c\' $A"\nC=$(reboot)\nD=`reboot`\nE="half\n'
    found = rootconfig.variables(
        [first, 'A=two\nGRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX console=tty9"  # x\n']
    )
    assert found == {"A": "two", "GRUB_CMDLINE_LINUX": "a='b c' one console=tty9"}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, "console=tty0 console=ttyS1,9600"),
        ({"GRUB_CMDLINE_LINUX": "console=ttyS0 root=/dev/x"}, "console=ttyS0"),
        ({"GRUB_CMDLINE_LINUX_DEFAULT": "quiet"}, "quiet console=tty0 console=ttyS1,9600"),
    ],
)
def test_the_images_console_wins_over_the_ramdisks(said, expected):
    line = "teeth.token=secret console=tty0 x console=ttyS1,9600"
    assert rootconfig.kernel_arguments(said, line) == expected


def test_our_grub_cfg_is_read_by_our_reader():
    text = rootconfig.grub_cfg(
        title="It's a 'System'\n\x01",
        root="UUID=1",
        root_uuid="1",
        kernel="/boot/vmlinuz-1",
        initrds=["/boot/ucode", "/boot/initrd"],
        arguments="quiet console=ttyS1,57600",
    )
    assert "serial --unit=1 --speed=57600\n" in text
    entry = choose_grub(parse_grub_cfg(text, {}), text, {})
    assert entry.title == "Its a System"
    assert (entry.kernel, entry.initrds) == ("/boot/vmlinuz-1", ("/boot/ucode", "/boot/initrd"))
    assert entry.options == "root=UUID=1 ro quiet console=ttyS1,57600"


def fstab(text, **others):
    return rootconfig.fstab(text, root="UUID=new", kind="ext4", others=others)


ROOT = "UUID=new\t/\text4\terrors=remount-ro\t0\t1\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, ROOT),
        ("", ROOT),
        ("UUID=NEW / ext4 noatime 0 1\n", None),
        ("LABEL=root / ext4 defaults 0 1\n", ROOT),
        ("/dev/sda1 / xfs defaults 0 0\n", ROOT),
        ("# x\nproc /proc proc defaults 0 0\n", "# x\nproc /proc proc defaults 0 0\n" + ROOT),
        (
            "UUID=new / ext4 x 0 1\nUUID=swap none swap sw 0 0\nnas:/x /mnt nfs x 0 0\n",
            "UUID=new / ext4 x 0 1\n# not on this disk: UUID=swap none swap sw 0 0\nnas:/x /mnt nfs x 0 0\n",
        ),
    ],
)
def test_fstab_is_written_where_it_is_absent_or_wrong(text, expected):
    assert fstab(text) == expected
    if expected is not None:
        assert fstab(expected) is None


def test_fstab_gets_the_esp_once():
    efi = {"/boot/efi": "UUID=AB-CD"}
    text = fstab("UUID=old /boot/efi vfat x 0 1\n", **efi)
    assert text.splitlines()[0] == "# not on this disk: UUID=old /boot/efi vfat x 0 1"
    assert text.splitlines()[2] == "UUID=AB-CD\t/boot/efi\tvfat\tumask=0077,nofail\t0\t1"
    assert fstab(text, **efi) is None


@pytest.mark.parametrize("block", [512, 4096])
def test_the_layout_is_aligned_and_leaves_room_for_the_largest_config_drive(block):
    size = 2048 * MIB
    found = rootlayout.plan(size=size, block=block, need=MIB)
    assert [found.offset(slot) % MIB for slot in found.slots] == [0, 0, 0]
    assert [found.offset(slot) // MIB for slot in found.slots] == [1, 2, 302]
    end = found.offset(found.root) + found.length(found.root)
    assert 66 * MIB <= size - end < 69 * MIB
    # FAT32 begins with this many clusters.
    assert found.length(found.esp) // 4096 > 65525 + 2 * 65525 * 4 // 4096 + 32
    table = gpt.Table(
        block=block,
        first_usable=MIB // block,
        last_usable=size // block - 2 - (16 << 10) // block,
        entries=128,
        partitions=tuple(
            gpt.Partition(number=one.number, kind=one.kind, first=one.first, last=one.last, name=one.name)
            for one in found.slots
        ),
    )
    assert gpt.plan_at_end(table, 64 * MIB).first > found.root.last


@pytest.mark.parametrize("size", [0, 64 * MIB, 370 * MIB, 600 * MIB])
def test_a_disk_that_is_too_small_is_said_in_bytes(size):
    with pytest.raises(ImageError) as caught:
        rootlayout.plan(size=size, block=512, need=300 * MIB)
    assert caught.value.code == "disk_too_small"
    assert f"it needs {300 * MIB}" in str(caught.value)


@given(st.binary(max_size=2048))
def test_headers_of_any_bytes_are_read_without_a_fault(head):
    rootconfig.kernel_machine(head)
    rootconfig.elf_machine(head)
    signed.is_signed(b"MZ" + head)
    extfs.parse(head)
    efiload.title_of(head)
    efiload.read_order(head)


@given(st.text(max_size=300))
def test_texts_of_any_kind_are_read_without_a_fault(text):
    rootconfig.variables([text])
    written = fstab(text)
    if written is not None:
        assert fstab(written) is None
