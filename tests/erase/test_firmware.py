"""What an earlier system left in a UEFI machine's firmware goes on request, and the machine still starts."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from erase.site import MIB, Site, fill, remains, site
from teeth.lab.pytest_plugin import Lab

pytestmark = [pytest.mark.boot, pytest.mark.image, pytest.mark.usefixtures("debug")]

FOLDER = "/sys/firmware/efi/efivars"
GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
ENTRY = f"Boot0099-{GLOBAL}"
ORDER = f"BootOrder-{GLOBAL}"
LOADER = "LoaderEntryDefault-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
OURS = "Unknown-11111111-2222-3333-4444-555555555555"
# UEFI 2.10, 10.3.5.1: partition 1, 2048 to 4096, GPT; then the end of the path.
HARD_DRIVE = struct.pack("<BBHIQQ16sBB", 4, 1, 42, 1, 2048, 4096, b"\x11" * 16, 2, 2)
PATH = HARD_DRIVE + struct.pack("<BBH", 0x7F, 0xFF, 4)
OPTION = struct.pack("<IH", 1, len(PATH)) + "an earlier system\0".encode("utf-16-le") + PATH


def write(here: Site, name: str, data: bytes) -> None:
    octal = "".join(f"\\{byte:03o}" for byte in struct.pack("<I", 7) + data)
    here.machine.succeed(f"printf '{octal}' >/tmp/v && dd if=/tmp/v of={FOLDER}/{name} bs=64k 2>/tmp/said")


def order(here: Site) -> list[int]:
    words = here.machine.succeed(f"od -An -v -tx2 {FOLDER}/{ORDER}").split()[2:]
    return [int(word, 16) for word in words]


def there(here: Site) -> set[str]:
    return set(here.machine.succeed(f"ls {FOLDER}").split())


def test_traces_go_on_request_and_the_firmware_still_starts(lab: Lab, tmp_path: Path) -> None:
    disk = fill(tmp_path / "one.img", 8 * MIB)
    rest = 'firmware = "uefi"\n[[machines.one.disk]]\nbus = "virtio-blk"\nserial = "ONE"\nfile = "one.img"\n'
    with site(lab, tmp_path, rest, ramdisk="debug") as here:
        firmwares = order(here)
        write(here, ENTRY, OPTION)
        write(here, LOADER, "debian.conf\0".encode("utf-16-le"))
        write(here, OURS, b"somebody's")
        here.machine.succeed(f"chattr -i {FOLDER}/{ORDER} || true")
        write(here, ORDER, b"".join(struct.pack("<H", one) for one in [0x99, *firmwares]))
        before = there(here)
        assert {ENTRY, LOADER, OURS} <= before
        assert order(here) == [0x99, *firmwares]

        assert here.erase().state == "complete"
        assert there(here) == before

        done = here.erase(firmware_traces=True)
        assert done.state == "complete", done.msg
        assert set(done.result["firmware_traces"]["removed"]) >= {ENTRY, LOADER}
        assert there(here) == before - set(done.result["firmware_traces"]["removed"])
        assert OURS in there(here)
        assert order(here) == firmwares

        here.machine.reboot()
        here.machine.wait_for_ssh()
        assert not {ENTRY, LOADER} & there(here)
        assert remains(disk) == 0
