"""scripts/record-machine: runs on old hosts, only reads, and gives nobody's name away."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from teeth.paths import find_checkout

SCRIPTS = find_checkout().root / "scripts"
SCRIPT = SCRIPTS / "record-machine"
sys.path.append(str(SCRIPTS))

from record_machine.drives import ATA_QUESTIONS, QUESTIONS, ata16  # noqa: E402
from record_machine.found import Recording, dense, sparse  # noqa: E402
from record_machine.names import Names, like  # noqa: E402
from record_machine.scrub import scrub, swapped  # noqa: E402
from record_machine.tree import parse_export  # noqa: E402

KEY = b"key"
SOURCES = [SCRIPT, *sorted((SCRIPTS / "record_machine").glob("*.py"))]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_it_is_for_old_hosts_and_needs_nothing_else(source: Path) -> None:
    tree = ast.parse(source.read_text(), feature_version=(3, 9))
    for node in ast.walk(tree):
        modules = [name.name for name in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for module in modules:
            assert module.partition(".")[0] in {*sys.stdlib_module_names, "record_machine"}


def run(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True, **options)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="drives answer root only")


@needs_root
def test_this_host_is_recorded_whatever_it_lacks(tmp_path: Path) -> None:
    done = run(str(tmp_path / "here"), "--note", "a host", env={"PATH": "/nowhere"})
    assert done.returncode == 0, done.stderr
    about = json.loads((tmp_path / "here/manifest.json").read_text())
    assert about["note"] == "a host"
    assert {"udevadm is not installed"} <= set(about["missing"])
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    again = run(str(tmp_path / "here"))
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr == (
        f"record-machine: {tmp_path}/here is there already; name another folder or remove it\n"
    )


@needs_root
def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(str(tmp_path / "file/here"))
    assert done.returncode == 1
    assert done.stderr == f"record-machine: {tmp_path}/file/here cannot be written: Not a directory\n"


@pytest.mark.parametrize("word", ["S3YBNX0K512345", "5000c50015ea71ac", "52:54:00:7E:e7:01", "WD-WMC4N0E1"])
def test_a_made_up_word_has_the_shape_of_the_true_one(word: str) -> None:
    made = like(KEY, word, 0)
    assert made != word
    assert [char.isalnum() for char in made] == [char.isalnum() for char in word]
    assert made.lower() == like(KEY, word.lower(), 0)
    assert made != like(b"other", word, 0)


def named(*words: str) -> Names:
    names = Names(KEY)
    for word in words:
        names.add(word)
    names.freeze()
    return names


def test_a_word_is_replaced_in_every_spelling() -> None:
    names = named("SER 12345678", "5000c50015ea71ac", "52:54:00:7e:e7:01")
    serial, wwn, mac = names.words.values()
    assert names.text("scsi-SDISK_SER_12345678") == f"scsi-SDISK_{serial.replace(' ', '_')}"
    assert names.text(r"a SER\x2012345678") == "a " + serial.replace(" ", r"\x20")
    assert names.text("nvme.1b36-5345522031323334353637382d") == f"nvme.1b36-{serial.encode().hex()}2d"
    assert names.text("naa.5000C50015EA71AC") == f"naa.{wwn.upper()}"
    assert names.text("enx5254007ee701") == f"enx{mac.replace(':', '')}"
    assert names.raw(b"\x00\x50\x00\xc5\x00\x15\xea\x71\xac\x01") == b"\0" + bytes.fromhex(wwn) + b"\1"


@pytest.mark.parametrize(
    "word", ["To be filled by O.E.M.", "0000000000", "Default string", "None", "0000:00:14.0", "ab"]
)
def test_what_is_no_serial_number_stays(word: str) -> None:
    assert named(word).words == {}


def test_a_plain_word_is_replaced_only_where_it_stands_alone() -> None:
    names = named("SCSI", "LAB0")
    assert names.text("scsi subsystem") == "scsi subsystem"
    assert names.text("SCSI") != "SCSI"
    assert names.text("LAB01") == "LAB01"
    assert names.text("QEMU_LAB0") != "QEMU_LAB0"


def test_what_is_left_is_found() -> None:
    names = named("S3YBNX0K512345")
    assert names.left_in("a S3YBNX0K512345 b") == ["s3ybnx0k512345"]
    assert names.left_in(names.text("a S3YBNX0K512345 b")) == []


def identify(serial: str, wwn: str) -> bytes:
    """IDENTIFY DEVICE data with a checksum."""
    data = bytearray(512)
    data[20:40] = serial.ljust(20).encode()
    data[216:224] = bytes.fromhex(wwn)
    data = bytearray(swapped(bytes(data)))
    data[510] = 0xA5
    data[511] = -sum(data[:511]) & 0xFF
    return bytes(data)


def recording() -> Recording:
    one = Recording()
    where = "/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0"
    one.udev = [
        {
            "devpath": f"{where}/block/sda",
            "initialized": True,
            "properties": {
                "SUBSYSTEM": "block", "ID_SERIAL_SHORT": "SER-1234567", "ID_FS_LABEL": "payroll",
                "ID_FS_TYPE": "ext4", "ID_WWN": "0x5000c50015ea71ac", "DEVLINKS": "/dev/disk/payroll",
            },
        }
    ]  # fmt: skip
    one.files = {
        f"/sys{where}/wwid": "naa.5000c50015ea71ac",
        "/sys/class/net/eth0/address": "52:54:00:7e:e7:01",
        "/sys/class/dmi/id/product_serial": "CHASSIS-9",
        "/sys/devices/virtual/block/dm-0/dm/name": "alice-home",
        "/proc/self/mountinfo": (
            "22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw,secret=1\n"
            "23 22 0:5 / /proc rw - proc proc rw\n"
            "24 22 0:40 / /net/server rw - nfs server:/export rw\n"
            "25 22 253:0 /sub /home/alice rw - ext4 /dev/mapper/alice-home rw\n"
        ),
    }
    page = bytes([0, 0x80, 0, 20]) + b"SER-1234567".ljust(20)
    one.drives = {
        "sda": {
            "scsi": [
                {"cdb": "1201800200 00".replace(" ", ""), "status": 0, "data": sparse(page)},
                {
                    "cdb": ata16(0xEC, receive=512).hex(),
                    "status": 0,
                    "data": sparse(identify("SER-1234567", "5000c50015ea71ac")),
                },
            ],
            "smart": {"serial_number": "SER-1234567", "wwn": {"naa": 5}, "temperature": {"current": 31}},
        }
    }
    one.dmi = [{"type": 17, "bytes": "1104", "strings": ["DIMM A", "MEM-SER-44"], "serials": [2]}]
    return one


def test_a_drive_keeps_one_name_in_all_that_is_said_of_it() -> None:
    one = recording()
    names = scrub(one, KEY)
    serial, wwn = names.words["SER-1234567"], names.words["5000c50015ea71ac"]
    (entry,) = one.udev
    assert entry["properties"] == {
        "SUBSYSTEM": "block", "ID_SERIAL_SHORT": serial, "ID_FS_TYPE": "ext4", "ID_WWN": f"0x{wwn}",
    }  # fmt: skip
    assert wwn.startswith("5000c50")  # the maker's number
    page, whole = (dense(answer["data"]) for answer in one.drives["sda"]["scsi"])
    assert page[4:].decode().strip() == serial
    assert swapped(whole)[20:40].decode().strip() == serial
    assert swapped(whole)[216:224].hex() == wwn
    assert sum(whole) & 0xFF == 0
    assert one.drives["sda"]["smart"] == {"serial_number": serial, "temperature": {"current": 31}}


def test_mounts_tell_of_devices_and_of_nobody() -> None:
    one = recording()
    scrub(one, KEY)
    assert one.files["/proc/self/mountinfo"].splitlines() == [
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw",
        "25 22 253:0 / /mnt/0 rw - ext4 /dev/mapper/mapped0 rw",
    ]
    text = json.dumps([one.udev, one.files, one.links, one.drives, one.dmi])
    for word in ("alice", "payroll", "CHASSIS-9", "MEM-SER-44", "00:7e:e7:01", "server"):
        assert word not in text


def test_an_export_of_udevs_database_is_read() -> None:
    text = (
        "P: /devices/x/block/sda\nN: sda\nE: SUBSYSTEM=block\nE: A=b=c\nE: USEC_INITIALIZED=7\n\n"
        "P: /devices/x/tty0\nE: SUBSYSTEM=tty\n\nP: /devices/y\nE: SUBSYSTEM=nvme\n"
    )
    assert parse_export(text) == [
        {
            "devpath": "/devices/x/block/sda",
            "properties": {"SUBSYSTEM": "block", "A": "b=c", "USEC_INITIALIZED": "7"},
            "initialized": True,
        },
        {"devpath": "/devices/y", "properties": {"SUBSYSTEM": "nvme"}, "initialized": False},
    ]


def test_only_what_reads_is_sent() -> None:
    """The opcodes that the script has: nothing that changes a drive may come in unseen."""
    tree = ast.parse((SCRIPTS / "record_machine/drives.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    ata = {
        call.args[0].value
        for call in calls
        if getattr(call.func, "id", "") == "ata16" and isinstance(call.args[0], ast.Constant)
    }
    assert ata == {0xEC, 0xB4, 0x27, 0xF8, 0x78, 0xB1}  # B1 with feature C2: DEVICE CONFIGURATION IDENTIFY
    admin = {
        call.args[1].value
        for call in calls
        if getattr(call.func, "id", "") == "nvme" and isinstance(call.args[1], ast.Constant)
    }
    assert admin == {0x02, 0x06}
    scsi = {cdb[0] for cdb, _ in QUESTIONS} | {cdb[0] for cdb, _ in ATA_QUESTIONS}
    assert scsi == {0x00, 0x03, 0x12, 0x1A, 0x37, 0x4D, 0x5A, 0x5E, 0x85, 0x9E, 0xB7}
