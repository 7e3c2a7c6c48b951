"""A machine whose own kernel attaches simulated drives over the network; the host reads their files.

QEMU's pass-through turns sense data into fixed format. Here nothing is between drive and guest: hdparm sees
what a refusal is and shows the state of a sanitize.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boot.conftest import Boot
from boot.test_lab_hardware import Shell, start_shell
from teeth.lab.drives.served import ServedDrive
from teeth.lab.drives.server import Serving, serve
from teeth.lab.drives.spec import parse
from teeth.lab.network import HOST_ADDRESS, Nic
from teeth.paths import find_checkout

MARK = b"REMAINS "
SIZE = 16 << 20
SURE = "--yes-i-know-what-i-am-doing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """``shell`` is in the guest, where $d0, $d1, ... are the drives' device files."""

    shell: Shell
    serving: Serving
    folder: Path

    async def run(self, command: str, *, status: int | None = 0) -> str:
        """What a command said, both streams. ``status`` is what it must end with; None: anything."""
        lines = await self.shell.run(f"{{ {command}; }} 2>&1; printf '\\nstatus=%s' $?")
        *said, last = lines
        text = "\n".join(said)
        assert status is None or last == f"status={status}", f"{command}: {last}\n{text}"
        return text

    async def until(self, command: str, word: str) -> str:
        """Ask again until ``word`` is in the answer, at most as long as the shell's patience."""
        lines = await self.shell.run(
            f'until said=$({command} 2>&1); echo "$said" | grep -q \'{word}\'; do :; done; echo "$said"'
        )
        return "\n".join(lines)

    async def attach(self, number: int) -> None:
        """Attach a drive, or attach it anew after its power was cut."""
        url = self.serving.url(self.drive(number)).replace("//127.0.0.1:", f"//{HOST_ADDRESS}:")
        found = await self.run(f"d{number}=$(teeth-attach {url}); echo $d{number}")
        assert found.strip().startswith("/dev/"), found

    async def power_cut(self, number: int) -> None:
        """The drive loses its power and gets it back. The guest attaches a SCSI or SATA drive anew; an NVMe
        drive comes back to it by itself.
        """
        drive = self.drive(number)
        drive.power_off()
        drive.power_on()
        if drive.kind == "nvme":
            state = f"/sys/class/nvme/$(basename $d{number})/state"
            await self.run(f"until [ $(cat {state}) != live ]; do :; done; "
                           f"until [ $(cat {state}) = live ]; do sleep 0.1; done")  # fmt: skip
        else:
            await self.attach(number)

    def drive(self, number: int) -> ServedDrive:
        """A drive as it is served, by its number in the description."""
        return next(one for one in self.serving.all if one.name == f"d{number}")

    def left(self, number: int = 0, *, first: int = 0, size: int = SIZE) -> int:
        """How many bytes of the pattern the host reads where the drive keeps its blocks, or in a part."""
        data = (self.folder / f"d{number}.img").read_bytes()[first : first + size]
        return data.count(MARK) * len(MARK)

    def fill(self, number: int) -> None:
        """Put the pattern back on the medium, behind the drive's back."""
        with (self.folder / f"d{number}.img").open("r+b") as stream:
            stream.write(MARK * (SIZE // len(MARK)))


@asynccontextmanager
async def machine_attached(boot: Boot, folder: Path, *drives: dict[str, Any]) -> AsyncIterator[Attached]:
    """A machine from the debug ramdisk, which must be built, with the drives given, each full of MARK."""
    entries = []
    for number, drive in enumerate(drives):
        entry: dict[str, Any] = {
            "name": f"d{number}",
            "size": "16 MiB",
            "file": f"d{number}.img",
            "erase_seconds": 2,
        } | drive
        if entry["kind"] != "nvme":
            entry.setdefault("descriptor_sense", True)
        (folder / entry["file"]).write_bytes(MARK * (SIZE // len(MARK)))
        entries.append(entry)
    spec = parse({"listen": "127.0.0.1:0", "drive": entries}, folder / "spec.toml")
    ramdisk = find_checkout().build / "ramdisk-debug"
    async with serve(spec) as serving:
        _, shell = await start_shell(boot, ramdisk, nics=(Nic(mac="52:54:00:00:00:01"),))
        await shell.run(
            "dmesg -n 1; ip link set lo up; ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up"
        )
        attached = Attached(shell=shell, serving=serving, folder=folder)
        for number in range(len(entries)):
            await attached.attach(number)
        yield attached
