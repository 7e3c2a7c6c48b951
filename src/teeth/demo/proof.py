"""What the host itself saw: none of it is the machine's own word about itself alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from teeth.demo.scenario import Scenario
from teeth.errors import TeethError
from teeth.lab.console import Banner, Line, find_banners
from teeth.lab.disk import VirtualDisk
from teeth.lab.pattern import Scan

LANDING_FILE = "/etc/teeth-demo"


class ProofError(TeethError):
    """Something that was claimed is not so."""


def disks_are_clean(scans: Sequence[tuple[VirtualDisk, Scan]]) -> str:
    """Every backing file was read whole and holds no record of the old data. Raises ProofError."""
    for disk, scan in scans:
        if not scan.clean:
            raise ProofError(
                f"disk {disk.serial} still holds {scan.surviving} bytes of old data, first at {scan.first}"
            )
    total = sum(scan.size for _, scan in scans)
    return f"{len(scans)} backing files read by the host, {total >> 20} MiB: nothing of the old data is left"


def landing_proofs(scenario: Scenario, facts: Mapping[str, Any], *, ramdisk_boot_id: str) -> dict[str, bool]:
    """What the landed system says, against what only it could know."""
    files = facts.get("files")
    planted = files.get(LANDING_FILE, "") if isinstance(files, Mapping) else ""
    boot_id = str(facts.get("boot_id", ""))
    cmdline = str(facts.get("cmdline", ""))
    return {
        "host_name_from_config_drive": facts.get("hostname") == scenario.host_name,
        "file_from_config_drive": isinstance(planted, str) and planted.strip() == scenario.secret,
        "new_boot_id": bool(boot_id) and boot_id != ramdisk_boot_id,
        # Every boot of the ramdisk carries teeth.endpoint=; an installed system has a root= instead.
        "new_command_line": "root=" in cmdline and "teeth." not in cmdline,
    }


def kexec_proofs(lines: Sequence[Line], *, resets: int) -> dict[str, bool]:
    """The second kernel began where the first one ended: QEMU saw no reset, the console no firmware."""
    kinds = [kind for kind, _ in find_banners(lines)]
    first = kinds.index(Banner.LINUX) if Banner.LINUX in kinds else len(kinds)
    after = kinds[first + 1 :]
    return {
        "no_machine_reset": resets == 0,
        "second_kernel_started": Banner.LINUX in after,
        "firmware_did_not_run_again": all(kind is Banner.LINUX for kind in after),
    }


def require(proofs: Mapping[str, bool]) -> None:
    """Raises ProofError naming what does not hold."""
    missing = [name.replace("_", " ") for name, holds in proofs.items() if not holds]
    if missing:
        raise ProofError(f"not proven: {', '.join(missing)}")
