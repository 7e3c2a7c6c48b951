"""A machine that scripts/record-machine recorded, as the agent meets it.

/sys and /proc below a folder, udev's records, and drives that answer as they did.

``PYTHONPATH=tests python -m fakes.recorded_machine`` writes what the agent says of each recording to its
expected.json anew: read the difference before you keep it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from fakes.reporting import ToldReporter
from teeth_agent.drives.ata import AtaDrive
from teeth_agent.drives.ata_areas import look_areas
from teeth_agent.drives.nvme import NvmeDrive
from teeth_agent.drives.scsi import ScsiDrive
from teeth_agent.erase.methods import Ports
from teeth_agent.erase.model import Grade
from teeth_agent.erase.plan import ErasePlan, plan_erase
from teeth_agent.erase.policy import Policy
from teeth_agent.errors import DeviceError
from teeth_agent.inventory import machine
from teeth_agent.inventory.block import Disk, list_disks
from teeth_agent.inventory.controllers import unaccounted
from teeth_agent.netlink import Link
from teeth_agent.passthrough.nvme import NvmeReply
from teeth_agent.passthrough.scsi import ScsiReply
from teeth_agent.tasks.disk_erase import probe_units, to_medium
from teeth_agent.udev import UdevDevice

RECORDINGS = Path(__file__).parents[1] / "fixtures/machines"
FORMAT = 1
_UNKNOWN = bytes.fromhex("700005000000000a00000000200000000000")  # 05/20/00, invalid command operation code


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedMachine:
    """A recording that is laid out below ``root``. ``answers`` by device name: what its drive said."""

    name: str
    root: Path
    records: Sequence[UdevDevice]
    answers: dict[str, dict[str, Any]]

    def disks(self) -> list[Disk]:
        return list_disks(self.root, self.records)

    def links(self) -> list[Link]:
        """The cards, as netlink would list them."""
        net = self.root / "sys/class/net"
        found = []
        for index, folder in enumerate(sorted(net.iterdir()) if net.is_dir() else [], 1):
            said = {name: _read(folder / name) for name in ("address", "carrier", "mtu")}
            carrier, mtu = said["carrier"] == "1", int(said["mtu"] or 0)
            found.append(
                Link(
                    index=index, name=folder.name, mac=said["address"], carrier=carrier, mtu=mtu, kind="",
                    up=carrier,
                )
            )  # fmt: skip
        return found

    def ports(self) -> Ports:
        """Every drive by its device file, as erasing reaches them."""
        return Ports(
            open_scsi=lambda devnode: contextlib.nullcontext(self.scsi(devnode.removeprefix("/dev/"))),
            open_nvme=lambda devnode: contextlib.nullcontext(self.nvme(devnode.removeprefix("/dev/"))),
        )

    def scsi(self, name: str) -> RecordedScsi:
        return RecordedScsi(answers=self.answers[name].get("scsi", []))

    def nvme(self, name: str) -> RecordedNvme:
        return RecordedNvme(answers=self.answers[name].get("nvme", []))


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedScsi:
    """A ScsiPort that knows recorded answers only: for any other command the drive that knows none."""

    answers: Sequence[dict[str, Any]]

    def command(self, cdb: bytes, *, send: bytes = b"", receive: int = 0, timeout: float = 30.0) -> ScsiReply:
        assert not send, "a recording takes no data"
        for one in self.answers:
            if _same(cdb, bytes.fromhex(one["cdb"])):
                return ScsiReply(
                    status=one["status"],
                    sense=bytes.fromhex(one["sense"]),
                    data=dense(one["data"])[:receive],
                    transport=one["transport"],
                )
        return ScsiReply(status=2, sense=_UNKNOWN, data=b"")


# What makes two commands the same question, however much data either leaves room for: by operation code the
# bytes that are compared. Of ATA PASS-THROUGH (16): EXTEND, the feature and the command.
_ASKED = {
    0x85: lambda cdb: (cdb[1] & 1, cdb[3:5], cdb[14]),
    0x12: lambda cdb: cdb[1:3],
    0x1A: lambda cdb: cdb[2:4],
    0x4D: lambda cdb: cdb[2] & 0x3F,
    0x5A: lambda cdb: cdb[2:4],
    0xA3: lambda cdb: (cdb[1], cdb[2] & 0x7F, cdb[3:6]),
}


def _same(asked: bytes, recorded: bytes) -> bool:
    key = _ASKED.get(asked[0], lambda cdb: cdb[1])
    return asked[0] == recorded[0] and key(asked) == key(recorded)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedNvme:
    """An NvmePort that knows recorded answers only: anything else is an invalid opcode."""

    answers: Sequence[dict[str, Any]]

    def admin(
        self, opcode: int, *, nsid: int = 0, cdw10: int = 0, cdw11: int = 0, cdw12: int = 0, cdw13: int = 0,
        cdw14: int = 0, cdw15: int = 0, send: bytes = b"", receive: int = 0, timeout: float = 60.0,
    ) -> NvmeReply:  # fmt: skip
        assert not send, "a recording takes no data"
        # Of a log page's word only the page counts: how much of it was read may differ.
        mask = 0xFF if opcode == 0x02 else 0xFFFFFFFF
        for one in self.answers:
            if one["opcode"] == opcode and one["cdw10"] & mask == cdw10 & mask and (
                opcode == 0x02 or one["nsid"] == nsid
            ):  # fmt: skip
                return NvmeReply(
                    status=one["status"], result=one["result"], data=dense(one["data"])[:receive]
                )
        return NvmeReply(status=1, result=0, data=b"")


def recordings() -> list[Path]:
    """The folder of each recording."""
    return sorted(path.parent for path in RECORDINGS.glob("*/manifest.json"))


def lay_out(folder: Path, root: Path) -> RecordedMachine:
    """Write a recording's /sys and /proc below ``root``, which is empty."""
    about = json.loads((folder / "manifest.json").read_text())
    assert about["format"] == FORMAT, f"{folder.name} is of another format"
    sysfs = json.loads((folder / "sysfs.json").read_text())
    for path, text in sysfs["files"].items():
        _write(root, path, f"{text}\n".encode())
    for path, data in sysfs["bytes"].items():
        _write(root, path, bytes.fromhex(data))
    for path, target in sysfs["links"].items():
        _link(root, path, target)
    for file in sorted((folder / "proc").iterdir()):
        _write(
            root,
            "/proc/self/mountinfo" if file.name == "mountinfo" else f"/proc/{file.name}",
            file.read_bytes(),
        )
    answers = {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("drives/*.json"))}
    records = [_record(entry) for entry in json.loads((folder / "udev.json").read_text())]
    disks = [one for one in records if (one.subsystem, one.devtype) == ("block", "disk")]
    disks.sort(key=lambda one: one.name)
    return RecordedMachine(name=folder.name, root=root, records=disks, answers=answers)


def said_of(recorded: RecordedMachine) -> dict[str, Any]:
    """What the agent's inventory says of it, as JSON."""
    root = recorded.root
    processor = machine.processor(root)
    said = {
        "disks": [disk.to_json() | {"in_use": disk.in_use} for disk in recorded.disks()],
        "unaccounted": unaccounted(root),
        "node": machine.node_id(root, [link.mac for link in recorded.links()]),
        "firmware": machine.firmware(root),
        "processor": {"model": processor["model"], "count": processor["count"]},
        "memory": machine.memory(root)["total"],
        "interfaces": machine.interfaces(root, recorded.links(), ""),
        "drives": {disk.name: drive_of(recorded, disk) for disk in recorded.disks()},
        "plans": {grade.value: _planned(recorded, Policy(required=grade)) for grade in Grade},
    }
    return dict(json.loads(json.dumps(said, default=_plain)))


def plan_of(recorded: RecordedMachine, policy: Policy) -> ErasePlan:
    """What would be erased and how, by the answers the drives gave."""
    media = tuple(to_medium(disk) for disk in recorded.disks())
    probes = probe_units(media, recorded.ports(), ToldReporter(), lambda devnode: None)
    return plan_erase(media, policy, probes, unaccounted(recorded.root))


def _planned(recorded: RecordedMachine, policy: Policy) -> list[dict[str, Any]]:
    """The decisions of a plan, without the words they are told in."""
    return [
        {
            "devices": [medium.name for medium in one.unit.media],
            "kind": one.kind.value,
            "action": one.action.value,
            "methods": [rung.name for rung in one.rungs],
            "code": one.code,
        }
        for one in plan_of(recorded, policy).units
    ]


def drive_of(recorded: RecordedMachine, disk: Disk) -> dict[str, Any]:
    """What the agent reads out of a drive's own answers; the code of the error where it refuses to."""
    if disk.controller is not None:
        nvme = NvmeDrive(recorded.nvme(disk.controller), device=f"/dev/{disk.controller}")
        return _told(
            controller=nvme.identify, namespaces=nvme.namespaces, sanitize=nvme.sanitize_log,
            allocated=lambda: nvme.namespaces(allocated=True),
        )  # fmt: skip
    if not recorded.answers.get(disk.name, {}).get("scsi"):
        return {}
    port = recorded.scsi(disk.name)
    scsi = ScsiDrive(port, device=disk.devnode)
    said = _told(
        inquiry=scsi.inquiry, serial=scsi.serial, characteristics=scsi.characteristics,
        capacity=scsi.capacity, defects=scsi.grown_defects, write_protected=scsi.write_protected,
        standing=scsi.standing,
        sanitize=lambda: [scsi.supports(0x48, service) for service in (1, 2, 3)],
        format=lambda: scsi.supports(0x04),
    )  # fmt: skip
    if to_medium(disk).speaks_ata:
        ata = AtaDrive(port, name=disk.devnode, transport=disk.transport)
        said |= _told(ata=ata.identify, ata_areas=lambda: look_areas(ata), ata_sanitize=ata.sanitize_status)
    return said


def _told(**questions: Callable[[], Any]) -> dict[str, Any]:
    said = {}
    for name, ask in questions.items():
        try:
            said[name] = ask()
        except DeviceError as error:
            said[name] = error.code
    return said


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # Without the bytes it was read from: they are in the recording.
        names = [field.name for field in dataclasses.fields(value) if field.name != "raw"]
        return {name: getattr(value, name) for name in names}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} has no place in JSON")


def dense(data: dict[str, Any]) -> bytes:
    """The bytes of a recorded answer: rows by offset, zeroes between."""
    found = bytearray(data["length"])
    for at, row in data["rows"].items():
        piece = bytes.fromhex(row)
        found[int(at, 16) : int(at, 16) + len(piece)] = piece
    return bytes(found)


def _record(entry: dict[str, Any]) -> UdevDevice:
    properties = entry["properties"]
    return UdevDevice(
        name=entry["devpath"].rpartition("/")[2].replace("!", "/"),
        devnode=properties.get("DEVNAME"),
        sysfs_path=entry["devpath"],
        subsystem=properties.get("SUBSYSTEM", ""),
        devtype=properties.get("DEVTYPE", ""),
        properties=properties,
        initialized=entry["initialized"],
    )


def _write(root: Path, path: str, data: bytes) -> None:
    target = root / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)


def _link(root: Path, path: str, target: str) -> None:
    """A link as the kernel has it, and an empty folder where it leads to nothing that was recorded."""
    link = root / path.lstrip("/")
    link.parent.mkdir(parents=True, exist_ok=True)
    end = (link.parent / target).resolve()
    assert end.is_relative_to(root.resolve()), f"{path} leads out of the recording"
    end.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)


def _read(path: Path) -> str:
    return path.read_text().strip() if path.is_file() else ""


def main() -> None:
    for folder in recordings():
        with tempfile.TemporaryDirectory(prefix="teeth-recorded-") as name:
            said = said_of(lay_out(folder, Path(name)))
        (folder / "expected.json").write_text(json.dumps(said, indent=1) + "\n")
        print(f"{folder.name}: {len(said['disks'])} disks")


if __name__ == "__main__":
    main()
