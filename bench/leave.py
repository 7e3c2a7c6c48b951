"""From run_image to the deployed system: by kexec, and by a restart through the firmware.

The same machine, image and disk both times, one after the other: network-booted, prepared, left. Writes
build/bench/leave.json and prints it: median seconds from the run_image command, as the host sees them, to the
agent's last word, to the new kernel's first line, to the new system's first program and to its phoning home;
``ratio`` is reboot through kexec at the first program: above 1, kexec is faster.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from deploy.site import MIB, Plan, Words, empty_disk, endpoint_of, machine_at_home
from teeth.boot.images import load_image
from teeth.build.guest import build_guest
from teeth.errors import TeethError
from teeth.lab.accel import Accelerator, find_accelerator
from teeth.lab.disk import Bus
from teeth.lab.firmware import Firmware
from teeth.paths import Paths, find_checkout

DISK = 1280 * MIB


async def leave(
    paths: Paths, accelerator: Accelerator, how: str, firmware: Firmware, folder: Path
) -> dict[str, float]:
    """One deployment; its seconds. Raises TeethError when it does not land."""
    image = load_image(paths.guest)
    target = empty_disk(folder / "target.raw", DISK, Bus.NVME)
    plan = Plan(
        folder=folder,
        ramdisk=paths.ramdisk,
        accelerator=accelerator,
        images=[image],
        disks=(target,),
        firmware=firmware,
        network=True,
    )
    async with endpoint_of(plan) as endpoint, machine_at_home(plan, endpoint) as here:
        done = await here.prepare(endpoint.image(image.id), target.serial)
        if done.code:
            raise TeethError(f"prepare_image: {done.code}: {done.msg}")
        landed = await here.run_image(image.id, how, Words().config_drive())
    target.path.unlink()
    return dict(landed.seconds)


async def measure(paths: Paths, runs: int, firmware: Firmware) -> dict[str, Any]:
    accelerator = find_accelerator(paths.ramdisk / "vmlinuz", paths.cache)
    samples: dict[str, list[dict[str, float]]] = {"kexec": [], "reboot": []}
    with tempfile.TemporaryDirectory(prefix="teeth-bench-") as name:
        for number in range(runs):
            # In turn the one and the other first: what else the host does hits both alike.
            for how in sorted(samples, reverse=bool(number % 2)):
                folder = Path(name) / f"{how}-{number}"
                samples[how].append(await leave(paths, accelerator, how, firmware, folder))
                print(f"{how}: {samples[how][-1]['user_space']:.1f} s to the first program", flush=True)
    medians = {
        how: {stage: round(statistics.median(one[stage] for one in taken), 2) for stage in taken[0]}
        for how, taken in samples.items()
    }
    return {
        "accelerator": accelerator.name,
        "firmware": firmware.value,
        "runs": runs,
        "seconds": medians,
        "ratio": round(medians["reboot"]["user_space"] / medians["kexec"]["user_space"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--firmware", choices=[one.value for one in Firmware], default=Firmware.BIOS.value)
    options = parser.parse_args()
    paths = find_checkout()
    build_guest(paths, say=print)
    result = asyncio.run(measure(paths, options.runs, Firmware(options.firmware)))
    target = paths.build / "bench/leave.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
