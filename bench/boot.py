"""Boot to dial-home, from QEMU's first instruction to the accepted handshake (direct kernel boot).

Writes build/bench/boot.json and prints it: the median of several boots, split by stage, and the least memory
(in steps of 64 MiB) at which the agent still dials home.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import tempfile
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from teeth.demo.watch import ProblemWatch
from teeth.endpoint.events import NodeConnected
from teeth.errors import TeethError
from teeth.lab.accel import Accelerator, find_accelerator
from teeth.lab.machine import DirectBoot, Machine
from teeth.lab.network import HOST_ADDRESS, Nic
from teeth.lab.running import run_machine
from teeth.paths import Paths, find_checkout
from teeth.service import Endpoint, EndpointConfig

MAC = "52:54:00:7e:e7:02"
DEADLINE = 120.0
STEP = 64
# init's own first line carries the kernel's clock: it ties the kernel's seconds to QEMU's.
INIT = re.compile(r"teeth: this machine has booted the teeth ramdisk \((\d+\.\d+) s after the kernel\)")


async def boot(paths: Paths, accelerator: Accelerator, memory: int, folder: Path) -> dict[str, float]:
    """One boot. Seconds by stage, and ``total``. Raises TeethError when it does not dial home."""
    config = EndpointConfig(data=folder / "endpoint", advertise=HOST_ADDRESS, ramdisk=paths.ramdisk)
    async with AsyncExitStack() as stack:
        endpoint = await stack.enter_async_context(Endpoint(config))
        events = stack.enter_context(endpoint.subscribe())
        grant = await endpoint.grant(MAC)
        words = endpoint.kernel_command_line(grant)
        machine = Machine(
            name="bench",
            boot=DirectBoot(
                kernel=paths.ramdisk / "vmlinuz", initrd=paths.ramdisk / "initramfs", cmdline=words
            ),
            memory=memory,
            cpus=2,
            nics=(Nic(mac=MAC),),
        )
        watch = ProblemWatch()
        running = await stack.enter_async_context(
            run_machine(machine, accelerator=accelerator, folder=folder, on_line=watch.on_line)
        )
        began = time.monotonic()

        async def connected() -> NodeConnected:
            async for event in events:
                if isinstance(event, NodeConnected):
                    return event
            raise TeethError("the endpoint ended")

        node = await watch.guard(connected(), running.console, what="boot", deadline=DEADLINE)
        total = time.monotonic() - began
        return {**split(node.timings, running.console.lines, total), "cpu": running.cpu_seconds()}


def split(timings: Mapping[str, float], lines: Any, total: float) -> dict[str, float]:
    """Seconds by stage: firmware and loader, kernel, init, python, network, session."""
    found = next(((line.at, match) for line in lines if (match := INIT.search(line.text))), None)
    if found is None:
        raise TeethError("init's first line is not on the console")
    init_at, init_kernel = found[0], float(found[1].group(1))
    offset = init_at - init_kernel
    return {
        "loader": offset,
        "kernel": init_kernel,
        "init": timings["process"] - init_kernel,
        "python": timings["python"] - timings["process"],
        "network": timings["network"] - timings["python"],
        "tls_and_handshake": total - offset - timings["network"],
        "total": total,
    }


async def least_memory(paths: Paths, accelerator: Accelerator, folder: Path, start: int) -> int:
    """MiB: the last step downwards from ``start`` at which a boot still dials home."""
    best = 0
    for memory in range(start, STEP - 1, -STEP):
        try:
            await boot(paths, accelerator, memory, folder / f"memory-{memory}")
        except TeethError as error:
            print(f"{memory} MiB: no ({error})", flush=True)
            break
        print(f"{memory} MiB: dials home", flush=True)
        best = memory
    return best


async def measure(paths: Paths, runs: int, start_memory: int) -> dict[str, Any]:
    accelerator = find_accelerator(paths.ramdisk / "vmlinuz", paths.cache)
    with tempfile.TemporaryDirectory(prefix="teeth-bench-") as name:
        folder = Path(name)
        samples = []
        for number in range(runs):
            samples.append(await boot(paths, accelerator, 1024, folder / f"run-{number}"))
            print(f"run {number + 1}: {samples[-1]['total']:.2f} s", flush=True)
        least = await least_memory(paths, accelerator, folder, start_memory) if start_memory else None
    stages = {name: round(statistics.median(s[name] for s in samples), 2) for name in samples[0]}
    return {
        "accelerator": accelerator.name,
        "runs": runs,
        "median_seconds": stages,
        "least_memory_mib": least,
        "initramfs_bytes": (paths.ramdisk / "initramfs").stat().st_size,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--memory-from", type=int, default=512, help="MiB; 0 leaves this part out")
    options = parser.parse_args()
    paths = find_checkout()
    result = asyncio.run(measure(paths, options.runs, options.memory_from))
    target = paths.build / "bench/boot.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
