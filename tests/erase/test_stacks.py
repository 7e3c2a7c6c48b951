"""decom.disk_erase on disks that something is built upon, or that are used: stopped first, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from erase.site import BLOCK, MIB, Site, fill, remains, site
from teeth.lab.pytest_plugin import Lab

pytestmark = [pytest.mark.boot, pytest.mark.image, pytest.mark.usefixtures("debug")]

SIZE = 16 * MIB
WHOLE = SIZE // BLOCK
NAMES = ("mirror-a", "mirror-b", "mapped", "volume-a", "volume-b", "shared-a", "shared-b", "mounted", "swap")

# The array's data and what the two volumes hold starts behind what was there before: all of it must go.
ASSEMBLE = """set -e
modprobe -a raid1 dm-mod
disk() { for b in /sys/block/*; do grep -qsx $1 $b/serial && echo /dev/${b##*/}; done; true; }
mdadm --create /dev/md100 --run --metadata=1.0 --level=1 --raid-devices=2 $(disk mirror-a) $(disk mirror-b)
echo "0 8192 linear /dev/md100 2048" | dmsetup --noudevsync create upon-md
echo "0 8192 linear $(disk mapped) 2048" | dmsetup --noudevsync create upon-disk
mdadm --create /dev/md101 --run --metadata=0.90 --level=1 --raid-devices=2 $(disk shared-a) $(disk shared-b)
export LVM_SUPPRESS_FD_WARNINGS=1
lvm() { command lvm "$@" --config 'activation{udev_sync=0 udev_rules=0} devices{use_devicesfile=0}'; }
lvm pvcreate -qq -y $(disk volume-a) $(disk volume-b)
lvm vgcreate -qq old $(disk volume-a) $(disk volume-b)
lvm lvcreate -qq -y -W n -Z n -l 100%FREE -n data old
mke2fs -q -F -E nodiscard $(disk mounted)
mkdir -p /mnt/kept
mount $(disk mounted) /mnt/kept
mkswap $(disk swap)
swapon $(disk swap)
"""


def disk(name: str) -> str:
    return f'[[machines.one.disk]]\nbus = "virtio-blk"\nserial = "{name}"\nfile = "{name}.img"\n'


def signatures(here: Site) -> str:
    """What the well-known tool still finds on any disk, at either end, and arrays."""
    return here.machine.succeed(
        "for b in /sys/block/vd*; do blkid -p /dev/${b##*/}; done; grep ^md /proc/mdstat; true"
    )


def test_stacks_are_stopped_and_what_is_used_is_refused(lab: Lab, tmp_path: Path) -> None:
    files = {name: fill(tmp_path / f"{name}.img", SIZE) for name in NAMES}
    with site(lab, tmp_path, "".join(map(disk, NAMES)), ramdisk="debug") as here:
        here.machine.succeed(ASSEMBLE)
        before = {name: remains(path) for name, path in files.items()}
        planned = here.erase(plan=True, exclude=["shared-b"]).result["plan"]
        assert {stop["label"] for stop in planned["stops"]} == {"upon-md", "upon-disk", "old-data", None}
        assert [stop["name"] for stop in planned["stops"] if stop["label"] is None] == ["md100"]
        assert {name: remains(path) for name, path in files.items()} == before
        assert here.machine.succeed("dmsetup ls | sort").split()[::2] == ["old-data", "upon-disk", "upon-md"]

        done = here.erase(plan_digest=planned["digest"], exclude=["shared-b"])
        assert (done.state, done.code) == ("error", "erase_incomplete")
        assert done.outcomes() == {
            "mapped": ("cleared", "overwrite", ""),
            "mirror-a": ("cleared", "overwrite", ""),
            "mirror-b": ("cleared", "overwrite", ""),
            "mounted": ("failed", None, "in_use"),
            "shared-a": ("failed", None, "in_use"),
            "shared-b": ("excluded", None, "excluded_by_command"),
            "swap": ("failed", None, "in_use"),
            "volume-a": ("cleared", "overwrite", ""),
            "volume-b": ("cleared", "overwrite", ""),
        }
        assert "is mounted at /mnt/kept" in done.units["mounted"]["reason"]
        assert "is used as swap" in done.units["swap"]["reason"]
        assert "held by md101: md101 is upon " in done.units["shared-a"]["reason"]
        assert done.result["stopped"] == planned["stops"]
        left = {name: remains(path) for name, path in files.items()}
        gone = {"mirror-a", "mirror-b", "mapped", "volume-a", "volume-b"}
        assert {name for name, count in left.items() if count == 0} == gone
        assert min(left[name] for name in ("shared-a", "shared-b", "mounted", "swap")) > WHOLE // 2

        # Nobody uses them any more: all of it goes, the array over both disks too.
        here.machine.succeed("umount /mnt/kept && swapoff -a")
        again = here.erase()
        assert again.state == "complete", again.msg
        assert [stop["name"] for stop in again.result["stopped"]] == ["md101"]
        assert {name: remains(path) for name, path in files.items()} == dict.fromkeys(NAMES, 0)
        assert signatures(here).strip() == ""
        assert all(not any(path.read_bytes()) for path in files.values())
