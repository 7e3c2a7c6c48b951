"""The QEMU arguments of simulated drives."""

from __future__ import annotations

import json

import pytest

from teeth.errors import UsageError
from teeth.lab.simulated import announced_arguments, simulated_arguments


def test_each_drive_is_passed_through_with_patience() -> None:
    words = simulated_arguments(["iscsi://127.0.0.1:3260/iqn.x:a/0", "iscsi://127.0.0.1:3260/iqn.x:b/0"])
    assert words[:2] == ["-device", "virtio-scsi-pci,id=simulated"]
    back, front = json.loads(words[7]), json.loads(words[9])
    assert words[6::2] == ["-blockdev", "-device"]
    assert (back["portal"], back["target"], back["lun"]) == ("127.0.0.1:3260", "iqn.x:b", 0)
    assert (front["driver"], front["drive"], front["scsi-id"]) == ("scsi-generic", back["node-name"], 1)
    assert front["io_timeout"] >= 24 * 3600


def test_none_is_nothing() -> None:
    assert simulated_arguments([]) == []


@pytest.mark.parametrize(
    "url", ["", "iscsi://host/iqn/0", "http://h:1/iqn/0", "iscsi://h:1/iqn", "iscsi://u%p@h:1/i/0"]
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(UsageError, match="not iscsi://"):
        simulated_arguments([url])


def test_a_guest_is_told_where_nvme_drives_are() -> None:
    url = "nvme-tcp://10.0.2.2:4420/nqn.2015-01.lab.teeth:a,b"
    assert announced_arguments([url]) == [
        "-smbios",
        "type=11,value=teeth.drive=nvme-tcp://10.0.2.2:4420/nqn.2015-01.lab.teeth:a,,b",
    ]
    assert announced_arguments([]) == []
