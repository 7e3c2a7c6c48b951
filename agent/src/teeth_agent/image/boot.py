"""What run_image does to a disk up to the point of no return."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from teeth_agent import efivars
from teeth_agent.blockio import open_device
from teeth_agent.errors import AgentError, ToolError
from teeth_agent.image import bootcheck, configdrive, disktable, drivecontent, kexec, rootfs, uefientry
from teeth_agent.image.params import ConfigDrive
from teeth_agent.tools import udevadm
from teeth_image.bootcheck import BootCheck


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """How the machine goes on: ``boot`` is "kexec" (then it is loaded) or "reboot"; ``reason`` for people."""

    boot: str
    reason: str
    kernel: dict[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedDrive:
    """Where the config drive was put; bytes."""

    offset: int
    length: int
    content_bytes: int

    def to_json(self) -> dict[str, int]:
        return {"offset": self.offset, "length": self.length, "content_bytes": self.content_bytes}


def put_config_drive(disk: str, drive: ConfigDrive, *, work: Path) -> PlacedDrive:
    """Build, place, write, read back. ``work``: a folder in memory.

    Raises AgentError, DeviceError, ToolError, none with the content.
    """
    files = drivecontent.layout(drive)
    size = configdrive.size_for(files)
    with open_device(disk, write=True) as device:
        # Built before the disk is touched: what cannot be built must not cost the old one.
        with configdrive.built(drive, size=size, sector=device.logical_block, work=work) as content:
            offset, length = configdrive.place(device, size, drivecontent.label(drive))
            configdrive.write(device, offset, content)
        device.reread_partitions()
    udevadm.settle()
    return PlacedDrive(offset=offset, length=length, content_bytes=sum(len(data) for data in files.values()))


def check_boot(disk: str, *, root: Path) -> BootCheck:
    """Whether the disk starts by itself in this firmware's mode.

    Under UEFI the firmware gets an entry for it, put first: what it then starts counts, too.
    """
    machine = platform.machine()
    with open_device(disk, write=False) as device:
        firmware = bootcheck.firmware_mode(root)
        found = bootcheck.check(device, disktable.read(device), firmware=firmware, machine=machine)
    if firmware != "uefi":
        return found
    folder = root / str(efivars.FOLDER).lstrip("/")
    entry = uefientry.put(disk, machine=machine, folder=folder)
    if entry.name is None:
        said = f"the firmware has no entry for it: {entry.reason}"
    else:
        said = f"{entry.name} of the firmware starts {entry.path}"
    return replace(found, bootable=found.bootable or entry.name is not None, reason=f"{found.reason}; {said}")


def choose_departure(disk: str, wanted: str, check: BootCheck, *, root: Path, work: Path) -> Departure:
    """Load the system's kernel if that is wanted and can be done, else fall back to a reboot with the reason.

    Raises AgentError: kexec_not_viable when ``wanted`` is "kexec" and it cannot be done, not_bootable when
    only a reboot is left and the disk would not start.
    """
    reason, kernel = "a reboot was asked for", None
    if wanted != "reboot":
        reason, kernel = _try_kexec(disk, root=root, work=work)
        if kernel is not None:
            return Departure(boot="kexec", reason=reason, kernel=kernel)
        if wanted == "kexec":
            raise AgentError(f"kexec was asked for and cannot be done: {reason}", code="kexec_not_viable")
    if not check.bootable:
        raise AgentError(
            f"{reason}, and the disk would not start by itself ({check.firmware}: {check.reason})",
            code="not_bootable",
        )
    return Departure(boot="reboot", reason=reason, kernel=None)


def _try_kexec(disk: str, *, root: Path, work: Path) -> tuple[str, dict[str, Any] | None]:
    """(reason, what was loaded or None)."""
    with open_device(disk, write=False) as device:
        table = disktable.read(device)
    try:
        with rootfs.mounted_systems(disk, table, work=work, root=root) as systems:
            files = rootfs.find_boot_files(systems)
            found = kexec.preflight(files, machine=platform.machine(), root=root)
            if not found.viable:
                return "; ".join(found.reasons), None
            kexec.load(files, work=work)
    except ToolError as error:
        return f"the kernel could not be loaded: {error}", None
    except AgentError as error:
        return str(error), None
    entry = files.entry
    kernel = {
        "title": entry.title,
        "source": entry.source,
        "path": entry.kernel,
        "initrds": list(entry.initrds),
        "command_line": entry.options,
    }
    return "; ".join((f"{entry.kernel} is loaded", *found.notes)), kernel
