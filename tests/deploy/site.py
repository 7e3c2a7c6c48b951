"""A machine that gets an operating system: what it is given, what happens, what it then says of itself."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from teeth.boot.images import ImageFile
from teeth.demo.watch import ProblemWatch
from teeth.endpoint.events import NodeConnected, Subscription
from teeth.endpoint.taskstate import Task, TaskState
from teeth.errors import TeethError
from teeth.lab.accel import Accelerator, steady_cpus
from teeth.lab.console import Banner, find_banners
from teeth.lab.disk import Bus, VirtualDisk
from teeth.lab.firmware import Firmware
from teeth.lab.machine import DirectBoot, DiskBoot, Machine, NetworkBoot
from teeth.lab.network import HOST_ADDRESS, Nic
from teeth.lab.running import RunningMachine, run_machine
from teeth.service import KERNEL_ARGUMENTS, Endpoint, EndpointConfig
from teeth_protocol import methods

MIB = 1 << 20
SERIAL = "TEETH-TARGET"
# Deadlines, not expectations: several times what a busy host needs under plain emulation.
HOME = 300.0
TASK = 600.0
LANDING = 500.0

KERNEL = r"Linux version \d"
# systemd's first words: the deployed system's own user space, behind its initramfs.
USER_SPACE = r"systemd\[1\]: systemd \d+\S* running in system mode"
WRITTEN = "/etc/teeth-written"  # by the user data
INJECTED = "/etc/teeth-injected"  # a file of the config drive
FACTS = "/run/teeth-facts"
RELEASE = "/etc/os-release"
# A UEFI machine tries its (empty) disk before the card: the other way round OVMF's own HTTP boot would go on
# for two minutes with the card that iPXE has just left for the disk.
_DISK_FIRST = ("-set", "device.nic0.bootindex=200")
_FACTS_SCRIPT = (
    "{ echo root=$(findmnt -no SOURCE /); echo root_bytes=$(df -B1 --output=size / | tail -n 1); "
    "echo part_bytes=$(lsblk -bdno SIZE $(findmnt -no SOURCE /)); "
    f"if [ -d /sys/firmware/efi ]; then echo firmware=uefi; else echo firmware=bios; fi; }} >{FACTS}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What one machine's new system is told: drawn anew, so that its config drive alone can tell it."""

    uuid: UUID = field(default_factory=uuid4)
    host_name: str = field(default_factory=lambda: f"deployed-{secrets.token_hex(4)}")
    written: str = field(default_factory=lambda: secrets.token_hex(16))
    injected: str = field(default_factory=lambda: secrets.token_hex(16))

    def config_drive(self, **members: Any) -> dict[str, Any]:
        """Host name, user data that writes a file and looks at the root file system, and an injected file
        where the layout has a place for one."""
        user_data = {
            "bootcmd": [["sh", "-c", _FACTS_SCRIPT]],
            "hostname": self.host_name,
            "write_files": [{"path": WRITTEN, "content": self.written, "permissions": "0600"}],
        }
        content = base64.b64encode(self.injected.encode()).decode()
        files = [{"path": INJECTED, "content_b64": content}]
        return {
            "meta_data": {"uuid": str(self.uuid), "hostname": self.host_name, "name": self.host_name},
            "user_data": "#cloud-config\n" + json.dumps(user_data),
            **({} if members.get("layout") == "nocloud" else {"files": files}),
            **members,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Landed:
    """What the deployed system said of itself when it phoned home.

    ``seconds`` from the run_image command, by the host's clock: ``leaving`` (the agent's last word),
    ``kernel`` (its first line), ``user_space`` (the deployed system's first program), ``landed``.
    """

    task: Task
    host_name: str
    boot_id: str
    command_line: str
    files: Mapping[str, str | None]
    seconds: Mapping[str, float]

    def facts(self) -> dict[str, str]:
        """What the user data's own script saw: root, root_bytes, part_bytes, firmware."""
        return dict(line.split("=", 1) for line in (self.files[FACTS] or "").splitlines())

    def release(self) -> str:
        """Debian's code name for it."""
        lines = (self.files[RELEASE] or "").splitlines()
        return next(line.partition("=")[2] for line in lines if line.startswith("VERSION_CODENAME="))


@dataclass(slots=True, kw_only=True)
class Site:
    """One endpoint and one machine. ``node`` is the machine as it dialled home last."""

    endpoint: Endpoint
    events: Subscription
    folder: Path
    accelerator: Accelerator
    machine: RunningMachine
    watch: ProblemWatch
    mac: str
    node: NodeConnected

    @property
    def node_id(self) -> str:
        return self.node.node_id

    async def prepare(self, image: Mapping[str, Any], serial: str, **params: Any) -> Task:
        """Run standbye.prepare_image to its end, good or bad."""
        return await self.task(
            methods.PREPARE_IMAGE, {"image": dict(image), "root_disk": {"serial": serial}, **params}
        )

    async def task(self, method: str, params: Mapping[str, Any]) -> Task:
        """Run a task to its end."""
        task_id = await self.endpoint.run_task(self.node_id, method, params)
        async with asyncio.timeout(TASK):
            return await self.endpoint.wait_task(task_id)

    async def reach(self, task_id: str, states: Collection[TaskState], *, within: float) -> Task:
        """The task once it is in one of ``states``. Raises TeethError when it ended otherwise."""
        try:
            async with asyncio.timeout(within):
                async for event in self.endpoint.task_events(task_id):
                    if event.state in states:
                        return event.task
        except TimeoutError:
            task = await self.endpoint.task(task_id)
            raise TeethError(f"not {sorted(states)} within {within:g} s: {task.state} {task.step}") from None
        task = await self.endpoint.task(task_id)
        raise TeethError(f"ended: {task.code}: {task.msg}")

    async def run_image(self, image_id: str, boot: str, drive: Mapping[str, Any]) -> Landed:
        """Leave for the image's system and wait until it has phoned home."""
        since, began = self.machine.console.position, time.monotonic()
        params = {"image_id": image_id, "boot": boot, "config_drive": dict(drive)}
        files = [WRITTEN, INJECTED, FACTS, RELEASE]
        task_id = await self.endpoint.run_image(self.node_id, params, report_files=files)
        gone = (TaskState.LEAVING, TaskState.UNKNOWN, TaskState.COMPLETE)
        seconds = {}
        await self.reach(task_id, gone, within=TASK)
        seconds["leaving"] = time.monotonic() - began
        for name, pattern in (("kernel", KERNEL), ("user_space", USER_SPACE)):
            await self.machine.wait_for(pattern, within=LANDING, since=since)
            seconds[name] = time.monotonic() - began
        task = await self.reach(task_id, (TaskState.COMPLETE,), within=LANDING)
        seconds["landed"] = time.monotonic() - began
        facts = (task.result or {})["landing"]
        return Landed(
            task=task,
            host_name=facts["hostname"],
            boot_id=facts["boot_id"],
            command_line=facts["cmdline"],
            files=facts["files"],
            seconds=seconds,
        )

    def firmware_ran_again(self) -> bool:
        """Whether the console shows firmware or a boot loader's greeting after the ramdisk's kernel."""
        kinds = [kind for kind, _ in find_banners(self.machine.console.lines)]
        return any(kind is not Banner.LINUX for kind in kinds[kinds.index(Banner.LINUX) :])


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a site is made of. ``network``: iPXE brings the ramdisk, and later what the boot door then says;
    else it is put into memory, and a machine that starts again starts it again."""

    folder: Path
    ramdisk: Path
    accelerator: Accelerator
    images: Sequence[ImageFile]
    disks: tuple[VirtualDisk, ...]
    firmware: Firmware = Firmware.BIOS
    network: bool = False
    memory: int = 1024
    mac: str = "52:54:00:7e:e7:0d"
    uuid: UUID = field(default_factory=uuid4)

    def machine(self, boot: DirectBoot | NetworkBoot | DiskBoot) -> Machine:
        return Machine(
            name="deploy",
            boot=boot,
            memory=self.memory,
            cpus=steady_cpus(self.accelerator, 2),
            firmware=self.firmware,
            uuid=self.uuid,
            serial="TEETH-DEPLOY",
            nics=(Nic(mac=self.mac),),
            disks=self.disks,
            extra=_DISK_FIRST if self.network and self.firmware is Firmware.UEFI else (),
        )


def empty_disk(path: Path, size: int, bus: Bus) -> VirtualDisk:
    """A disk that a machine may start from, with nothing on it; its serial number is SERIAL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        stream.truncate(size)
    return VirtualDisk(path=path, size=size, bus=bus, serial=SERIAL, boot=True)


@asynccontextmanager
async def endpoint_of(plan: Plan) -> AsyncIterator[Endpoint]:
    """The site's endpoint, with the images of the plan; its transcript and log lie in the folder."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    config = EndpointConfig(
        data=plan.folder / "endpoint",
        advertise=HOST_ADDRESS,
        ramdisk=plan.ramdisk,
        images=tuple(plan.images),
        kernel_arguments=(*KERNEL_ARGUMENTS, *plan.accelerator.kernel_arguments),
        transcript=plan.folder / "wire.jsonl",
        log=plan.folder / "endpoint.log",
    )
    async with Endpoint(config) as endpoint:
        yield endpoint


@asynccontextmanager
async def machine_at_home(plan: Plan, endpoint: Endpoint, *, fresh: bool = True) -> AsyncIterator[Site]:
    """Switch the machine on with a boot grant of its own; the site once its agent has dialled home."""
    grant = await endpoint.grant(plan.mac)
    boot: DirectBoot | NetworkBoot
    if plan.network:
        tftp = plan.folder / "tftp"
        boot = NetworkBoot(tftp=tftp, bootfile=endpoint.write_first_hop(tftp).name)
    else:
        words = endpoint.kernel_command_line(grant)
        boot = DirectBoot(kernel=plan.ramdisk / "vmlinuz", initrd=plan.ramdisk / "initramfs", cmdline=words)
    watch = ProblemWatch()
    running = run_machine(
        plan.machine(boot),
        accelerator=plan.accelerator,
        folder=plan.folder,
        on_line=watch.on_line,
        fresh=fresh,
    )
    with endpoint.subscribe() as events:
        async with running as machine:
            node = await watch.guard(
                connected(events), machine.console, what="dial-home", deadline=HOME, grace=HOME
            )
            yield Site(
                endpoint=endpoint,
                events=events,
                folder=plan.folder,
                accelerator=plan.accelerator,
                machine=machine,
                watch=watch,
                mac=plan.mac,
                node=node,
            )


async def connected(events: Subscription) -> NodeConnected:
    """The next machine that dials home."""
    async for event in events:
        if isinstance(event, NodeConnected):
            return event
    raise TeethError("the endpoint ended before a machine dialled home")


@asynccontextmanager
async def site(plan: Plan) -> AsyncIterator[Site]:
    """Endpoint and machine together."""
    async with endpoint_of(plan) as endpoint, machine_at_home(plan, endpoint) as here:
        yield here
