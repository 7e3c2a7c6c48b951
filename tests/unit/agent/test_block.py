"""The inventory of disks, from udev records and a /sys of the test's own."""

from __future__ import annotations

import json

import pytest

from fakes.sysfs_tree import SysfsTree
from teeth_agent.inventory.block import list_disks
from teeth_agent.inventory.controllers import unaccounted

SCSI = "/devices/pci0000:00/0000:00:05.0/virtio1/host2/target2:0:0/2:0:0:0"


@pytest.fixture
def tree(tmp_path):
    return SysfsTree(tmp_path)


def only(tree):
    (disk,) = list_disks(tree.root, tree.records)
    return disk


def test_a_scsi_disk_takes_its_serial_from_page_80_not_from_its_wwn(tree):
    tree.disk(
        "sda",
        SCSI,
        attributes={"device/model": "QEMU HARDDISK ", "device/vendor": "QEMU    ", "device/rev": "2.5+"},
        ID_SCSI_SERIAL="LABEL1",
        ID_SERIAL_SHORT="5000c50015ea71ac",
        ID_WWN="0x5000c50015ea71ac",
        ID_PATH="pci-0000:00:05.0-scsi-0:0:0:0",
    )
    disk = only(tree)
    assert (disk.serial, disk.wwn, disk.transport) == ("LABEL1", "0x5000c50015ea71ac", "scsi")
    assert (disk.vendor, disk.model, disk.firmware) == ("QEMU", "QEMU HARDDISK", "2.5+")
    assert (disk.size, disk.logical_block, disk.physical_block) == (8 << 20, 512, 4096)
    assert (disk.hctl, disk.by_path, disk.diskseq) == ("2:0:0:0", "pci-0000:00:05.0-scsi-0:0:0:0", 5)
    assert disk.identity == "0x5000c50015ea71ac"
    assert disk.in_use == ()
    json.dumps(disk.to_json())


def test_without_udev_rules_the_kernel_s_own_attributes_serve(tree):
    tree.disk("sda", SCSI, attributes={"device/wwid": "naa.5000C50015EA71AC"})
    page = tree.root / f"sys{SCSI}/vpd_pg80"
    page.write_bytes(b"\x00\x80\x00\x08" + b"SER80   ")
    disk = only(tree)
    assert (disk.serial, disk.wwn) == ("SER80", "0x5000c50015ea71ac")


def test_a_t10_name_is_not_taken_for_a_wwn(tree):
    tree.disk("sda", SCSI, attributes={"device/wwid": "t10.ATA     QEMU HARDDISK   QM00001"})
    assert only(tree).wwn is None


def test_a_virtio_disk_has_its_serial_and_no_vendor(tree):
    tree.disk(
        "vda",
        "/devices/pci0000:00/0000:00:03.0/virtio0",
        attributes={"serial": "virt-1", "device/vendor": "0x1af4"},
    )
    disk = only(tree)
    assert (disk.serial, disk.transport, disk.vendor) == ("virt-1", "virtio", None)


def test_an_nvme_namespace_belongs_to_its_controller(tree):
    parent = "/devices/pci0000:00/0000:00:04.0/nvme/nvme0"
    tree.disk(
        "nvme0n1",
        parent,
        attributes={
            "wwid": "eui.0011223344556677",
            "nsid": 1,
            "device/serial": "NV1     ",
            "device/model": "QEMU NVMe Ctrl   ",
            "device/firmware_rev": "1.0",
            "device/transport": "pcie",
        },
    )
    disk = only(tree)
    assert (disk.transport, disk.controller, disk.namespace) == ("nvme", "nvme0", 1)
    assert (disk.serial, disk.wwn, disk.model) == ("NV1", "eui.0011223344556677", "QEMU NVMe Ctrl")


def test_a_fabrics_namespace_is_told_from_a_local_one(tree):
    tree.write("/sys/class/nvme/nvme3/transport", "tcp\n")
    tree.disk("nvme3n1", "/devices/virtual/nvme-fabrics/ctl/nvme3", attributes={"nsid": 1})
    assert only(tree).transport == "nvme-tcp"


def test_the_hidden_paths_of_nvme_multipath_are_left_out(tree):
    tree.disk("nvme0c0n1", "/devices/pci0000:00/0000:00:04.0/nvme/nvme0", attributes={"hidden": 1})
    assert list_disks(tree.root, tree.records) == []


@pytest.mark.parametrize(
    ("path", "transport"),
    [
        ("/devices/pci0000:00/0000:00:1f.2/ata3/host2/target2:0:0/2:0:0:0", "sata"),
        ("/devices/pci0000:00/0000:00:08.0/host0/port-0:1/end_device-0:1/target0:0:1/0:0:1:0", "sas"),
        ("/devices/platform/host3/session1/target3:0:0/3:0:0:1", "iscsi"),
        ("/devices/pci0000:00/0000:00:09.0/host1/rport-1:0-0/target1:0:0/1:0:0:0", "fc"),
        ("/devices/pci0000:00/0000:00:14.0/usb1/1-2/1-2:1.0/host4/target4:0:0/4:0:0:0", "usb"),
        (SCSI, "scsi"),
    ],
)
def test_the_transport_is_read_from_the_device_path(tree, path, transport):
    tree.disk("sda", path)
    assert only(tree).transport == transport


USB = "/devices/pci0000:00/0000:00:14.0/usb1/1-2/1-2:1.0/host4/target4:0:0/4:0:0:0"


def test_virtual_media_are_known_by_what_their_usb_device_calls_itself(tree):
    tree.disk("sdb", USB, attributes={"removable": 1}, ID_VENDOR="iDRAC", ID_MODEL="Virtual_Floppy")
    assert "management controller" in (only(tree).virtual_media or "")


def test_an_ordinary_stick_is_no_virtual_medium_whatever_its_label(tree):
    tree.disk(
        "sdb",
        USB,
        attributes={"removable": 1},
        ID_VENDOR="SanDisk",
        ID_MODEL="Cruzer",
        ID_FS_LABEL="Virtual_CDROM",
    )
    disk = only(tree)
    assert disk.virtual_media is None
    assert disk.out_of_scope is None


def test_an_empty_slot_is_out_of_scope(tree):
    tree.disk("sdb", USB, attributes={"removable": 1, "size": 0})
    assert only(tree).out_of_scope == "no medium in it"


@pytest.mark.parametrize("name", ["loop0", "ram0", "zram0", "sr0", "fd0", "nbd0", "md127", "dm-0"])
def test_what_is_no_drive_is_listed_as_such(tree, name):
    tree.disk(name, "/devices/virtual")
    assert only(tree).out_of_scope


def test_use_is_found_on_the_disk_and_on_its_partitions(tree):
    tree.disk("sda", SCSI)
    tree.partition("sda", "sda1", dev="8:1")
    tree.partition("sda", "sda2", dev="8:2", holders=("md0",))
    tree.partition("sda", "sda3", dev="8:3")
    tree.partition("sda", "sda4", dev="8:4")
    tree.append("/proc/self/mountinfo", "30 1 8:1 / /mnt/a\\040b rw - ext4 /dev/sda1 rw\n")
    tree.append("/proc/self/mountinfo", "31 1 0:45 /sub /data rw - btrfs /dev/sda3 rw\n")
    tree.append("/proc/swaps", "/dev/sda4 partition 1000 0 -2\n")
    disk = only(tree)
    assert disk.in_use == (
        "sda1 is mounted at /mnt/a b",
        "sda2 is held by md0",
        "sda3 is mounted at /data",
        "sda4 is used as swap",
    )
    assert [partition.size for partition in disk.partitions] == [1 << 20] * 4


def test_controllers_that_hide_drives_are_told(tree):
    tree.pci("0000:00:01.0", "0x010802", driver=True)
    tree.pci("0000:00:02.0", "0x010400", driver=True)
    tree.pci("0000:00:03.0", "0x010601", driver=False)
    tree.pci("0000:00:04.0", "0x020000", driver=False)
    tree.write("/sys/class/nvme/nvme0/nvme0n1/size", "1")
    tree.write("/sys/class/nvme/nvme1/model", "empty")
    assert unaccounted(tree.root) == (
        "PCI 0000:00:02.0: a RAID controller",
        "PCI 0000:00:03.0: no driver",
        "NVMe nvme1: no namespace",
    )
