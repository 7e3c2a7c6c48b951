"""How many machines boot together here: 1, 2, 4, 8, ... ramdisks of 512 MiB that all have to dial home.

Stops at the first count of which not all came home, or that would leave the host too little memory. Writes
build/bench/many.json and prints it: for each count the median and the longest time to dial home, from each
machine's first instruction to its accepted handshake, and why those failed that did not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from teeth.errors import TeethError
from teeth.lab.accel import Accelerator, find_accelerator, steady_cpus
from teeth.lab.console import WaitError
from teeth.lab.host import MIB, OVERHEAD, RESERVE, memory_available
from teeth.lab.machine import DirectBoot, Machine
from teeth.lab.network import HOST_ADDRESS, Nic
from teeth.lab.running import RunningMachine, run_machine
from teeth.paths import Paths, find_checkout
from teeth.service import Endpoint, EndpointConfig

DEADLINE = 600.0
MOST = 64


def mac(number: int) -> str:
    return f"52:54:00:7e:e8:{number:02x}"


def fit(memory: int, available: int) -> int:
    """How many machines of ``memory`` MiB the host's memory bears."""
    return max(0, (available - RESERVE) // (memory * MIB + OVERHEAD))


def resident(pid: int) -> int:
    """Bytes of memory a process has taken; proc_pid_status(5), VmRSS."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


async def home(machine: RunningMachine) -> float | str:
    """Seconds from the first instruction to the accepted handshake, or why it did not come to it."""
    try:
        return (await machine.wait_for("^teeth: connected to ", within=DEADLINE)).at
    except WaitError as error:
        return error.message


async def together(
    paths: Paths, accelerator: Accelerator, count: int, memory: int, folder: Path
) -> dict[str, Any]:
    """Boot ``count`` machines at once. Seconds to dial home, of those that did; and what it cost."""
    config = EndpointConfig(data=folder / "endpoint", advertise=HOST_ADDRESS, ramdisk=paths.ramdisk)
    async with AsyncExitStack() as stack:
        endpoint = await stack.enter_async_context(Endpoint(config))
        running: list[RunningMachine] = []
        for number in range(count):
            words = endpoint.kernel_command_line(await endpoint.grant(mac(number)))
            boot = DirectBoot(
                kernel=paths.ramdisk / "vmlinuz", initrd=paths.ramdisk / "initramfs", cmdline=words
            )
            machine = Machine(
                name=f"many-{number}", boot=boot, memory=memory, cpus=steady_cpus(accelerator, 2),
                nics=(Nic(mac=mac(number)),),
            )  # fmt: skip
            start = run_machine(machine, accelerator=accelerator, folder=folder / machine.name)
            running.append(await stack.enter_async_context(start))
        ends = await asyncio.gather(*(home(one) for one in running))
        times = [end for end in ends if isinstance(end, float)]
        if len(endpoint.connected()) < len(times):
            raise TeethError("machines say that they are connected, and the endpoint does not")
        taken = sum(resident(one.pid) for one in running if one.running)
        cpu = sum(one.cpu_seconds() for one in running if one.running)
    return {
        "machines": count,
        "home": len(times),
        "median_seconds": round(statistics.median(times), 1) if times else None,
        "longest_seconds": round(max(times), 1) if times else None,
        "memory_mib_each": round(taken / count / MIB),
        "cpu_seconds_each": round(cpu / count, 1),
        "problems": sorted({end for end in ends if isinstance(end, str)}),
    }


async def measure(
    paths: Paths, memory: int, most: int, note: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """``note`` is called with what is known so far after each count: the last ones take long."""
    accelerator = find_accelerator(paths.ramdisk / "vmlinuz", paths.cache)
    result: dict[str, Any] = {
        "accelerator": accelerator.name,
        "processors": len(os.sched_getaffinity(0)),
        "memory_mib": memory,
        "estimate_by_memory": fit(memory, memory_available()),
        "all_home": 0,
        "counts": [],
    }
    count = 1
    with tempfile.TemporaryDirectory(prefix="teeth-many-") as name:
        while count <= min(most, result["estimate_by_memory"]):
            found = await together(paths, accelerator, count, memory, Path(name) / str(count))
            print(json.dumps(found), flush=True)
            result["counts"].append(found)
            if found["home"] == count:
                result["all_home"] = count
            note(result)
            if found["home"] < count:
                break
            count *= 2
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", type=int, default=512, help="MiB of each machine")
    parser.add_argument("--most", type=int, default=MOST, help="no more machines than this")
    options = parser.parse_args()
    paths = find_checkout()
    if fit(options.memory, memory_available()) < 1:
        raise TeethError(f"not even one machine of {options.memory} MiB fits the memory that is left")
    target = paths.build / "bench/many.json"
    target.parent.mkdir(parents=True, exist_ok=True)

    def note(result: dict[str, Any]) -> None:
        target.write_text(json.dumps(result, indent=2) + "\n")

    print(json.dumps(asyncio.run(measure(paths, options.memory, options.most, note)), indent=2))


if __name__ == "__main__":
    main()
