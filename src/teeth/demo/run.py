"""The story of the demo, told once: every step real, every claim checked by the host."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from teeth.boot.images import ImageFile, load_image
from teeth.demo import machine, proof
from teeth.demo.follow import follow
from teeth.demo.report import Report
from teeth.demo.scenario import Fault, Scenario
from teeth.demo.steps import Steps
from teeth.demo.watch import ProblemWatch
from teeth.endpoint.events import InventoryReceived, NodeConnected, NodeRefused, Subscription
from teeth.endpoint.taskstate import TaskState
from teeth.errors import TeethError
from teeth.lab.accel import Accelerator
from teeth.lab.network import HOST_ADDRESS
from teeth.lab.pattern import create_dirty_disk, scan_disk
from teeth.lab.running import RunningMachine
from teeth.paths import Paths
from teeth.service import KERNEL_ARGUMENTS, Endpoint, EndpointConfig
from teeth_protocol import methods

# Deadlines, not expectations: several times what two emulated processors need.
_BOOT = 240.0
_CONNECT = 120.0
_INVENTORY = 90.0
_TASK = 900.0
_LANDING = 600.0
_KERNEL = r"Linux version \d"


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """One run: its fixed parts, and the two records it fills."""

    paths: Paths
    scenario: Scenario
    accelerator: Accelerator
    steps: Steps
    report: Report


@dataclass(frozen=True, slots=True, kw_only=True)
class _Site:
    """What runs while the story is told."""

    endpoint: Endpoint
    events: Subscription
    machine: RunningMachine
    watch: ProblemWatch


async def run_demo(demo: Demo) -> None:
    """Play the whole story; the outcome is in ``demo.report`` and ``demo.steps``, also when this raises.

    Raises TeethError with the one line that a user needs when a step fails. Whatever was started has ended
    when this returns or raises.
    """
    demo.report.accelerator = demo.accelerator.name
    demo.report.accelerator_reason = demo.accelerator.reason
    image = _image(demo)
    await _fill_disks(demo)
    async with AsyncExitStack() as stack:
        endpoint = await stack.enter_async_context(Endpoint(_endpoint_config(demo, image)))
        events = stack.enter_context(endpoint.subscribe())
        watch = ProblemWatch()
        starting = await machine.start(demo.scenario, endpoint, demo.accelerator, demo.paths.ramdisk, watch)
        with demo.steps.step("boot") as step:
            running = await stack.enter_async_context(starting)
            site = _Site(endpoint=endpoint, events=events, machine=running, watch=watch)
            kernel = await running.wait_for(_KERNEL, within=_BOOT)
            how = type(running.machine.boot).__name__.removesuffix("Boot").lower()
            step.result = f"{how} boot, the ramdisk's kernel after {kernel.at:.1f} s"
            demo.report.boot["kernel_banner"] = round(kernel.at, 2)
        node = await _dial_home(demo, site)
        await _inventory(demo, site)
        await _erase(demo, site, node.node_id)
        await _host_reads_disks(demo)
        await _prepare(demo, site, node.node_id, image)
        await _run_image(demo, site, node, image)
    demo.report.host_proof = bool(demo.report.proofs) and all(demo.report.proofs.values())


def config_drive(scenario: Scenario) -> dict[str, Any]:
    """What the machine's new system is told, and nobody else is: OpenStack's config drive members."""
    user_data = {
        "hostname": scenario.host_name,
        "write_files": [
            {"path": proof.LANDING_FILE, "content": scenario.secret + "\n", "permissions": "0600"}
        ],
    }
    return {
        "meta_data": {
            "uuid": str(scenario.uuid),
            "hostname": scenario.host_name,
            "name": scenario.host_name,
        },
        "user_data": "#cloud-config\n" + json.dumps(user_data),
    }


def _image(demo: Demo) -> ImageFile:
    image = load_image(demo.paths.guest)
    if demo.scenario.fault is Fault.BAD_DIGEST:
        manifest = {**image.manifest, "digest": f"sha256:{'0' * 64}"}
        return dataclasses.replace(image, manifest=manifest)
    return image


def _endpoint_config(demo: Demo, image: ImageFile) -> EndpointConfig:
    folder = demo.scenario.folder
    data = folder / "endpoint"
    # Each run is a new site: nothing that an earlier one stored may help this one.
    shutil.rmtree(data, ignore_errors=True)
    wire = folder / "wire.jsonl"
    wire.unlink(missing_ok=True)
    return EndpointConfig(
        data=data,
        advertise=HOST_ADDRESS,
        ramdisk=demo.paths.ramdisk,
        images=(image,),
        kernel_arguments=(*KERNEL_ARGUMENTS, *demo.accelerator.kernel_arguments),
        transcript=wire,
        log=folder / "endpoint.log",
    )


async def _fill_disks(demo: Demo) -> None:
    disks = demo.scenario.disks
    if not disks:
        return
    with demo.steps.step("fill disks") as step:
        for number, disk in enumerate(disks):
            await asyncio.to_thread(create_dirty_disk, disk.path, disk.size, disk.serial)
            step.percent = 100 * (number + 1) / len(disks)
            demo.steps.view.moved(step)
        total = sum(disk.size for disk in disks) >> 20
        step.result = f"{len(disks)} disks, {total} MiB of old data"


async def _dial_home(demo: Demo, site: _Site) -> NodeConnected:
    async def connected() -> NodeConnected:
        async for event in site.events:
            if isinstance(event, NodeRefused):
                raise TeethError(f"the endpoint refused the machine: {event.msg}")
            if isinstance(event, NodeConnected):
                return event
        raise TeethError("the endpoint ended before the machine dialled home")

    with demo.steps.step("dial-home") as step:
        node = await site.watch.guard(connected(), site.machine.console, what="dial-home", deadline=_CONNECT)
        demo.report.boot.update({name: round(value, 2) for name, value in node.timings.items()})
        since = f", {node.timings['tls']:.1f} s after its kernel began" if "tls" in node.timings else ""
        step.result = f"TLS 1.3, node {node.node_id[:8]}{since} ({demo.accelerator.name})"
    return node


async def _inventory(demo: Demo, site: _Site) -> None:
    async def received() -> Mapping[str, Any]:
        async for event in site.events:
            if isinstance(event, InventoryReceived):
                return event.inventory
        raise TeethError("the endpoint ended before an inventory came")

    with demo.steps.step("inventory") as step:
        facts = await site.watch.guard(
            received(), site.machine.console, what="inventory", deadline=_INVENTORY
        )
        serials = [str(disk["serial"]) for disk in facts.get("disks", []) if disk.get("serial")]
        memory = int(facts.get("memory", {}).get("total", 0)) >> 20
        step.result = f"{len(serials)} disks ({', '.join(serials)}), {memory} MiB memory"


async def _erase(demo: Demo, site: _Site, node_id: str) -> None:
    serials = [disk.serial for disk in demo.scenario.disks]
    with demo.steps.step("erase") as step:
        params = {"required_grade": "clear", "expected_serials": serials}
        task_id = await site.endpoint.run_task(node_id, methods.DISK_ERASE, params)
        task = await follow(demo.steps.view, step, site.endpoint, task_id, deadline=_TASK)
        units = list((task.result or {}).get("units", []))
        demo.report.erased = [
            {name: unit.get(name) for name in ("serial", "method", "grade", "outcome", "proof")}
            for unit in units
        ]
        step.result = ", ".join(f"{unit['serial']} {unit['outcome']} by {unit['method']}" for unit in units)


async def _host_reads_disks(demo: Demo) -> None:
    with demo.steps.step("host proof") as step:
        scans = []
        for disk in demo.scenario.disks:
            scans.append((disk, await asyncio.to_thread(scan_disk, disk.path)))
            step.percent = 100 * len(scans) / len(demo.scenario.disks)
            demo.steps.view.moved(step)
        demo.report.proofs["old_data_gone"] = all(scan.clean for _, scan in scans)
        step.result = proof.disks_are_clean(scans)


async def _prepare(demo: Demo, site: _Site, node_id: str, image: ImageFile) -> None:
    with demo.steps.step("image") as step:
        params = {
            "image": site.endpoint.image(image.id),
            "root_disk": {"serial": demo.scenario.disks[0].serial},
        }
        task_id = await site.endpoint.run_task(node_id, methods.PREPARE_IMAGE, params)
        task = await follow(demo.steps.view, step, site.endpoint, task_id, deadline=_TASK)
        result = task.result or {}
        step.result = (
            f"{int(result['raw_bytes']) >> 20} MiB image, {int(result['written_bytes']) >> 20} MiB written, "
            "read back and verified"
        )


async def _run_image(demo: Demo, site: _Site, node: NodeConnected, image: ImageFile) -> None:
    steps, endpoint, console = demo.steps, site.endpoint, site.machine.console
    params = {"image_id": image.id, "boot": "kexec", "config_drive": config_drive(demo.scenario)}
    before = console.position
    with steps.step("config drive") as step:
        task_id = await endpoint.run_image(node.node_id, params, report_files=[proof.LANDING_FILE])
        gone = (TaskState.LEAVING, TaskState.UNKNOWN, TaskState.COMPLETE)
        await follow(steps.view, step, endpoint, task_id, deadline=_TASK, until=gone)
        step.result = f"host name {demo.scenario.host_name}, a secret file, a one-time landing address"
    with steps.step("kexec") as step:
        await console.wait_for(_KERNEL, within=_LANDING, since=before)
        step.result = "the new system's kernel began; no reset, no firmware in between"
        demo.report.proofs.update(proof.kexec_proofs(console.lines, resets=site.machine.qmp.resets()))
        proof.require(demo.report.proofs)
    with steps.step("landing") as step:
        task = await follow(steps.view, step, endpoint, task_id, deadline=_LANDING, silent=True)
        facts = (task.result or {}).get("landing", {})
        # Once more: the firmware may not have run at any time up to here.
        demo.report.proofs.update(proof.kexec_proofs(console.lines, resets=site.machine.qmp.resets()))
        demo.report.proofs.update(proof.landing_proofs(demo.scenario, facts, ramdisk_boot_id=node.boot_id))
        demo.report.landing = {
            name: facts.get(name) for name in ("hostname", "boot_id", "cmdline", "kernel", "uptime")
        }
        proof.require(demo.report.proofs)
        demo.report.landed = True
        step.result = f"{facts['hostname']} phoned home, kernel {facts.get('kernel', '?')}"
