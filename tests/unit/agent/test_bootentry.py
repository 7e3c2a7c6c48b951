"""Boot entries out of the files that distributions write."""

from __future__ import annotations

from pathlib import Path

import pytest

from teeth_image import bootentry
from teeth_image.errors import ImageError

FIXTURES = Path(__file__).parents[2] / "fixtures" / "boot"
DEBIAN = "0a1b2c3d-1111-2222-3333-444455556666"
ENV = "# GRUB Environment Block\nsaved_entry={}\nkernelopts=root=/dev/sda1 ro\n" + "#" * 800


def text(name):
    return (FIXTURES / name).read_text()


def default(name, env=None):
    env = env or {}
    return bootentry.choose_grub(bootentry.parse_grub_cfg(text(name), env), text(name), env)


def bls(variables=None):
    machine = "0123456789abcdef0123456789abcdef-"
    names = {
        f"{machine}6.9.5-200.fc40.x86_64.conf": "fedora-6.9.conf",
        f"{machine}6.10.3-200.fc40.x86_64.conf": "fedora-6.10.conf",
        f"{machine}0-rescue.conf": "fedora-rescue.conf",
    }
    found = [bootentry.parse_bls(name, text(source), variables or {}) for name, source in names.items()]
    return {entry.id.removeprefix(machine).removesuffix("-200.fc40.x86_64"): entry for entry in found}


def test_debian():
    entry = default("debian-grub.cfg")
    assert entry.title == "Debian GNU/Linux"
    assert entry.index == "0"
    assert entry.kernel == "/boot/vmlinuz-6.1.0-18-amd64"
    assert entry.initrds == ("/boot/initrd.img-6.1.0-18-amd64",)
    assert entry.options == (
        f"root=UUID={DEBIAN} ro console=tty0 console=ttyS0,115200 earlyprintk=ttyS0,115200 consoleblank=0"
    )


@pytest.mark.parametrize(
    "wanted",
    [
        "1>1",
        f"gnulinux-advanced-{DEBIAN}>gnulinux-6.1.0-17-amd64-recovery-{DEBIAN}",
        "Debian GNU/Linux, with Linux 6.1.0-17-amd64 (recovery mode)",
    ],
)
def test_an_entry_of_a_submenu_by_number_id_or_title(wanted):
    assert default("debian-grub.cfg", {"next_entry": wanted}).options.endswith(" ro single")


def test_a_default_that_names_nothing_is_the_first_entry():
    assert default("debian-grub.cfg", {"next_entry": "gone"}).index == "0"


def test_entries_that_start_no_kernel_count_but_are_not_offered():
    entries = bootentry.parse_grub_cfg(text("debian-grub.cfg"), {})
    assert [entry.index for entry in entries] == ["0", "1>0", "1>1"]


def test_ubuntus_way_with_an_initrd_is_taken():
    entry = default("ubuntu-grub.cfg")
    assert entry.kernel == "/vmlinuz-6.8.0-31-generic"
    assert entry.initrds == ("/microcode.cpio", "/initrd.img-6.8.0-31-generic")
    assert entry.options == (
        "root=PARTUUID=11112222-3333-4444-5555-666677778888 ro console=tty1 console=ttyS0"
    )


def test_fedora_takes_the_newest_of_its_bls_entries():
    cfg = text("fedora-grub.cfg")
    assert bootentry.uses_bls(cfg)
    assert not bootentry.uses_bls(text("debian-grub.cfg"))
    entry = bootentry.choose_bls(bls(bootentry.variables_of(cfg, {})).values(), {})
    assert entry.kernel == "/vmlinuz-6.10.3-200.fc40.x86_64"
    assert entry.initrds == ("/initramfs-6.10.3-200.fc40.x86_64.img",)
    assert entry.options == (
        "root=UUID=5e6f7a8b-4444-4444-4444-444444444444 ro  "
        "no_timer_check console=tty1 console=ttyS0,115200n8 "
    )


def test_fedoras_saved_entry_and_options_come_from_grubenv():
    saved = bls()["6.9.5"].id
    env = bootentry.parse_grubenv(ENV.format(saved))
    entries = bls(bootentry.variables_of(text("fedora-grub.cfg"), env))
    entry = bootentry.choose_bls(entries.values(), env)
    assert entry.id == saved
    assert entry.initrds == ("/initramfs-6.9.5-200.fc40.x86_64.img",)
    assert entry.options.startswith("root=/dev/sda1 ro no_timer_check")


def test_a_rescue_entry_is_the_last_resort():
    assert "rescue" in bootentry.choose_bls([bls()["0-rescue"]], {}).id
    assert bootentry.choose_bls([], {}) is None


def test_a_bls_file_without_a_kernel_is_none():
    assert bootentry.parse_bls("x.conf", "title x\nefi /shellx64.efi\n", {}) is None


def test_devices_quotes_and_continued_lines():
    cfg = """
menuentry "a" --id=one {
  linux ($root)/vm'linuz' root=LABEL=x \\
    dyndbg="file a +p" "b c"
  initrd (hd0,gpt1)/i
}
"""
    (entry,) = bootentry.parse_grub_cfg(cfg, {})
    assert entry.id == "one"
    assert entry.kernel == "/vmlinuz"
    assert entry.initrds == ("/i",)
    assert entry.options == 'root=LABEL=x dyndbg="file a +p" "b c"'


@pytest.mark.parametrize(
    "cfg", ["", "menuentry 'x' {\n chainloader +1\n}\n", "}}}\n}\nsubmenu 'x' {\n'\n", "\0\xff"]
)
def test_a_file_without_a_linux_entry(cfg):
    with pytest.raises(ImageError) as caught:
        bootentry.choose_grub(bootentry.parse_grub_cfg(cfg, {}), cfg, {})
    assert caught.value.code == "no_boot_entry"
