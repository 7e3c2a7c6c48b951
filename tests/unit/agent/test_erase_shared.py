"""Signs that others use a disk too, from what blkid and the drive say."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from fakes.disks import medium, no_port
from teeth_agent.erase.methods import Ports
from teeth_agent.erase.model import group_units
from teeth_agent.erase.shared import shared_use
from teeth_agent.errors import ToolError
from teeth_agent.passthrough.scsi import ScsiReply

KEYS = bytes(4) + (16).to_bytes(4, "big") + b"\0\0\0\0\0\0\0\1" + b"\0\0\0\0\0\0\0\2"


def ports(reply):
    class Port:
        def command(self, cdb, *, send=b"", receive=0, timeout=30.0):
            assert cdb[0] == 0x5E  # PERSISTENT RESERVE IN
            return reply

    @contextmanager
    def open_scsi(devnode):
        yield Port()

    return Ports(open_scsi=open_scsi, open_nvme=no_port)


NONE = ScsiReply(status=0, sense=b"", data=bytes(8))


@pytest.mark.parametrize(
    ("kinds", "reply", "found"),
    [
        ({}, NONE, ()),
        ({"/dev/sda1": "ext4"}, NONE, ()),
        ({"/dev/sda1": "gfs2"}, NONE, ("sda1 holds gfs2",)),
        ({"/dev/sda": "VMFS_volume_member"}, NONE, ("sda holds VMFS_volume_member",)),
        (
            {},
            ScsiReply(status=0, sense=b"", data=KEYS),
            ("2 persistent reservation keys of other initiators",),
        ),
        # ILLEGAL REQUEST, INVALID COMMAND OPERATION CODE: it knows no reservations
        ({}, ScsiReply(status=2, sense=bytes.fromhex("700005000000000a00000000200000000000"), data=b""), ()),
    ],
)
def test_cluster_file_systems_and_reservations_are_found(kinds, reply, found):
    (unit,) = group_units((medium("sda", partitions=("sda1",)),))
    assert shared_use(unit, ports(reply), kinds.get) == found


def test_what_cannot_be_looked_at_says_nothing():
    def content(devnode):
        raise ToolError("blkid is missing")

    (unit,) = group_units((medium("vda", transport="virtio"),))
    assert shared_use(unit, ports(NONE), content) == ()
