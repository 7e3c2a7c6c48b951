"""How the demo's machine is started: from the network, or directly where its fault forbids that."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path

from teeth.demo.scenario import Fault, Scenario
from teeth.demo.watch import ProblemWatch
from teeth.lab.accel import Accelerator, steady_cpus
from teeth.lab.machine import DirectBoot, NetworkBoot
from teeth.lab.running import RunningMachine, run_machine
from teeth.service import Endpoint

# These machines cannot be network-booted, or must be told something wrong.
_DIRECT = {Fault.NO_DHCP, Fault.NO_LINK, Fault.WRONG_CA, Fault.ENDPOINT_DOWN}


async def start(
    scenario: Scenario, endpoint: Endpoint, accelerator: Accelerator, ramdisk: Path, watch: ProblemWatch
) -> AbstractAsyncContextManager[RunningMachine]:
    """The machine, to be entered, with a boot grant of its own."""
    grant = await endpoint.grant(scenario.mac)
    boot: NetworkBoot | DirectBoot
    if scenario.fault in _DIRECT:
        words = _told(scenario.fault, endpoint.kernel_command_line(grant), endpoint)
        boot = DirectBoot(kernel=ramdisk / "vmlinuz", initrd=ramdisk / "initramfs", cmdline=words)
    else:
        tftp = scenario.folder / "tftp"
        boot = NetworkBoot(tftp=tftp, bootfile=endpoint.write_first_hop(tftp).name)
    cpus = steady_cpus(accelerator, 2)
    return run_machine(
        scenario.machine(boot, cpus), accelerator=accelerator, folder=scenario.folder, on_line=watch.on_line
    )


def _told(fault: Fault | None, words: str, endpoint: Endpoint) -> str:
    match fault:
        case Fault.WRONG_CA:
            return words.replace(endpoint.ca_digest, f"sha256:{'0' * 64}")
        case Fault.ENDPOINT_DOWN:
            # Port 1 (tcpmux) is nobody's on a host that runs virtual machines: the dial is refused.
            return words.replace(f":{endpoint.agent_port}", ":1")
        case _:
            return words
