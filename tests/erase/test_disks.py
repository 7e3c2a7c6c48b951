"""decom.disk_erase on what QEMU has by itself: every outcome, and what the host then finds on the files."""

from __future__ import annotations

from pathlib import Path

import pytest

from erase.site import BLOCK, MIB, fill, remains, site
from teeth.lab.pytest_plugin import Lab

pytestmark = [pytest.mark.boot, pytest.mark.image, pytest.mark.usefixtures("ramdisk")]

# Files that QEMU is given twice (two paths to one disk), or as a namespace that no controller shows.
EXTRA = """qemu = [
  "-device", "nvme-subsys,id=ss0,nqn=ss0", "-device", "nvme,id=two,serial=NVME-TWO,subsys=ss0",
  "-drive", "id=n1,if=none,format=raw,file={folder}/n1.img", "-device", "nvme-ns,drive=n1,bus=two,nsid=1",
  "-drive", "id=n2,if=none,format=raw,file={folder}/n2.img", "-device", "nvme-ns,drive=n2,bus=two,nsid=2",
  "-drive", "id=n3,if=none,format=raw,file={folder}/n3.img",
  "-device", "nvme-ns,drive=n3,bus=two,nsid=3,detached=on",
  "-device", "virtio-scsi-pci,id=paths",
  "-drive", "id=p1,if=none,format=raw,file={folder}/path.img,file.locking=off",
  "-device", "scsi-hd,drive=p1,bus=paths.0,scsi-id=0,serial=PATH,wwn=0x5000c50000000001,share-rw=on",
  "-drive", "id=p2,if=none,format=raw,file={folder}/path.img,file.locking=off",
  "-device", "scsi-hd,drive=p2,bus=paths.0,scsi-id=1,serial=PATH,wwn=0x5000c50000000001,share-rw=on",
  "-device", "qemu-xhci,id=bmc", "-device", "usb-bot,id=bot,bus=bmc.0",
  "-drive", "id=v1,if=none,format=raw,file={folder}/virtual.img",
  "-device", "scsi-hd,drive=v1,bus=bot.0,vendor=AMI,product=Virtual HDisk0,serial=VIRT",
]
"""
DISKS = """
[[machines.one.disk]]
bus = "virtio-blk"
serial = "VIRTIO"
file = "virtio.img"
[[machines.one.disk]]
bus = "virtio-scsi"
serial = "FOURK"
file = "fourk.img"
sector = 4096
[[machines.one.disk]]
bus = "virtio-scsi"
serial = "RO"
file = "ro.img"
read_only = true
[[machines.one.disk]]
bus = "virtio-scsi"
serial = "DYING"
file = "dying.img"
errors = [{ ops = ["write"], sector = 8192, errno = "EIO" }]
[[machines.one.disk]]
bus = "usb"
serial = "STICK"
file = "stick.img"
[[machines.one.disk]]
bus = "sata"
serial = "SATA"
file = "sata.img"
rotational = true
"""
SIZE = 16 * MIB
FILES = (
    "virtio", "fourk", "ro", "dying", "stick", "sata", "n1", "n2", "n3", "path", "virtual",
)  # fmt: skip


WHOLE = SIZE // BLOCK
OUTCOMES = {
    "VIRTIO": ("cleared", "overwrite", ""),
    "FOURK": ("cleared", "overwrite", ""),
    "SATA": ("cleared", "overwrite", ""),
    "PATH": ("cleared", "overwrite", ""),
    "NVME-TWO": ("cleared", "nvme_format_user_data", ""),
    "RO": ("failed", None, "read_only"),
    "DYING": ("failed", "overwrite", "write_failed"),
    "STICK": ("failed", None, "removable_blocked"),
}


def test_every_outcome_of_what_is_there(lab: Lab, tmp_path: Path) -> None:
    files = {name: fill(tmp_path / f"{name}.img", SIZE) for name in FILES}
    with site(lab, tmp_path, EXTRA.format(folder=tmp_path) + DISKS) as here:
        planned = here.erase(plan=True)
        assert planned.state == "complete"
        assert {name: remains(path) for name, path in files.items()} == dict.fromkeys(FILES, WHOLE)
        done = here.erase(plan_digest=planned.result["plan"]["digest"])
        found = done.outcomes()
        (virtual,) = found.keys() - OUTCOMES.keys()
        assert found.pop(virtual) == ("excluded", None, "virtual_media")
        assert found == dict(sorted(OUTCOMES.items()))
        assert (done.state, done.code) == ("error", "erase_incomplete")
        left = {name: remains(path) for name, path in files.items()}
        kept = {"ro", "stick", "virtual"}
        assert {name for name, count in left.items() if count == WHOLE} == kept
        assert {name for name, count in left.items() if count == 0} == set(FILES) - kept - {"dying"}

        # What was refused for want of a word in the command is erased with it; what may stay is named.
        spared = ["RO", "DYING", "VIRTIO", "FOURK", "SATA", "PATH", "NVME-TWO"]
        again = here.erase(removable="erase", exclude=spared)
        assert again.outcomes()["STICK"] == ("cleared", "overwrite", "")
        assert (again.state, remains(files["stick"])) == ("complete", 0)
        certified = [(one["record"]["serial"], one["outcome"]) for one in here.certificates()]
        assert len(certified) == 2 * len(found) + 2
        assert ("STICK", "cleared") in certified
