"""A machine that is kept: its power goes and comes, its console is read, commands are answered."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from teeth.errors import TeethError, UsageError
from teeth.lab.accel import Accelerator
from teeth.lab.describe import Places, bridge_namespace
from teeth.lab.description import MachineDescription
from teeth.lab.drives.server import Serving, serve
from teeth.lab.keep.control import listening
from teeth.lab.keep.faults import POWER_CUT, apply, parse_fault
from teeth.lab.keep.ssh import LAYER, Way, dial_command, with_layer, write_config
from teeth.lab.keep.state import LabFolder
from teeth.lab.machine import DirectBoot, Machine
from teeth.lab.network import HOST_ADDRESS, Bridged
from teeth.lab.running import RunningMachine, run_machine
from teeth.lab.simulated import announced_arguments, simulated_arguments

QMP = "qmp.sock"
_FORWARDED = re.compile(r"HOST_FORWARD\]\s+\d+\s+\S+\s+(\d+)\s+\S+\s+(\d+)")
_TAKEN = re.compile(r"Could not set up host forwarding rule '[a-z]+:[^:]*:(\d+)-")
_SECONDS_MAX = 24 * 3600.0


class KeptMachine:
    """One machine and what goes with it. ``folder`` holds its logs, sockets and keys."""

    kind = "machine"

    def __init__(
        self, description: MachineDescription, accelerator: Accelerator, folder: Path, places: Places
    ) -> None:
        self.name = description.machine.name
        self._description = description
        self._accelerator = accelerator
        self._folder = folder
        self._places = places
        self._serving: Serving | None = None
        self._running: RunningMachine | None = None
        self._power = asyncio.Event()  # what the switch says
        self._changed = asyncio.Condition()
        self._life: AsyncExitStack | None = None
        self._lives = 0
        self._began = 0.0
        self._turn = asyncio.Lock()

    def facts(self) -> Mapping[str, Any]:
        machine, ssh = self._description.machine, self._description.ssh
        return {
            "qmp": str(self._folder / QMP),
            "console": str(self._folder / "console.log"),
            "ssh": None if ssh is None else {"user": ssh.user, "config": str(self._folder / "ssh_config")},
            "memory": machine.memory,
            "cpus": machine.cpus,
            "firmware": machine.firmware.value,
            "nics": [nic.mac for nic in machine.nics],
            "disks": [disk.serial for disk in machine.disks],
            "networks": list(self._description.networks),
            "drives": str(self._description.drives.control) if self._description.drives else None,
            "nvme": self._nvme(),
        }

    # --- power

    @asynccontextmanager
    async def up(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if self._description.drives is not None:
                self._serving = await stack.enter_async_context(serve(self._description.drives))
            stack.push_async_callback(self._off)
            await self._on()
            yield

    async def run(self) -> None:
        """Note when the machine has ended by itself; it stays, switched off, until it is taken down."""
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._running is not None)
            running = self._running
            if running is not None:
                await running.wait_end(within=_SECONDS_MAX * 365)
                async with self._turn:
                    if self._running is running:
                        await self._off()

    async def _on(self) -> None:
        if self._running is not None:
            return
        machine = self._machine()
        with listening(self._folder / QMP) as monitor:
            machine = _with_monitor(machine, monitor.fileno())
            if self._lives:
                with (self._folder / "console.log").open("a") as log:
                    log.write(f"--- power on {self._lives + 1}, {time.strftime('%Y-%m-%d %H:%M:%S')} ---\n")
            life = AsyncExitStack()
            try:
                running = await life.enter_async_context(
                    run_machine(
                        machine, accelerator=self._accelerator, folder=self._folder, fresh=not self._lives,
                        inherited=(monitor.fileno(),),
                    )
                )  # fmt: skip
            except TeethError as error:
                await life.aclose()
                raise _clearer(error) from error
        for drive in self._serving.all if self._serving else ():
            drive.power_on()
        self._life, self._running = life, running
        self._lives += 1
        self._began = time.time()
        await self._write_way(running)
        async with self._changed:
            self._changed.notify_all()

    async def _off(self) -> None:
        life, self._life, self._running = self._life, None, None
        if life is not None:
            await life.aclose()
            for drive in self._serving.all if self._serving else ():
                drive.power_off()

    def _machine(self) -> Machine:
        machine = self._description.machine
        urls = [*self._description.urls]
        if self._serving is not None:
            for drive in self._serving.all:
                drive.power_on()
            urls += [self._serving.url(drive) for drive in self._serving.drives]
        boot = machine.boot
        if isinstance(boot, DirectBoot) and boot.initrd and (self._folder / LAYER).exists():
            boot = replace(boot, initrd=with_layer(boot.initrd, self._folder))
        drives = (*simulated_arguments(urls), *announced_arguments(self._nvme()))
        return replace(machine, boot=boot, extra=(*machine.extra, *drives))

    def _nvme(self) -> list[str]:
        """Where the guest finds its NVMe drives: on the host, as machines on QEMU's own network see it."""
        if self._serving is None:
            return []
        urls = [self._serving.url(drive) for drive in self._serving.nvme]
        return [url.replace("//127.0.0.1:", f"//{HOST_ADDRESS}:") for url in urls]

    async def _write_way(self, running: RunningMachine) -> None:
        """ssh's configuration: the port is known only now, when it was left to the host to choose."""
        ssh = self._description.ssh
        if ssh is None:
            return
        nic = self._description.machine.nics[ssh.nic]
        if isinstance(nic.network, Bridged):
            (name,) = (
                one for one in self._description.networks
                if bridge_namespace(one, self._places.state) == nic.network.namespace
            )  # fmt: skip
            leases = LabFolder(root=self._places.state).folder("network", name) / "leases"
            proxy = dial_command(nic.network.namespace, leases, nic.mac)
            way = Way(user=ssh.user, host=self.name, port=22, proxy=proxy)
        else:
            said = await running.qmp.execute("human-monitor-command", command_line="info usernet")
            ports = {int(guest): int(host) for host, guest in _FORWARDED.findall(str(said))}
            if 22 not in ports:
                raise TeethError(f"machine {self.name}: QEMU does not say which port leads to ssh")
            way = Way(user=ssh.user, host="127.0.0.1", port=ports[22])
        write_config(self._folder, self.name, way, ssh.key)

    # --- commands

    async def answer(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        match request:
            case {"do": "status"}:
                return await self._status()
            case {"do": "wait", "pattern": str(pattern), "within": float() | int() as within}:
                return await self._wait(pattern, float(within), request)
            case {"do": "type", "text": str(text)}:
                self._need().console.send(text)
                return {}
            case {"do": "qmp", "command": str(command), "arguments": dict(arguments)}:
                return {"return": await self._need().qmp.command(command, arguments)}
            case {"do": "screenshot", "file": str(file)}:
                return await self._screenshot(Path(file))
            case {"do": "power", "to": str(to)}:
                return await self._switch(to)
            case {"do": "fault", "kind": str(kind), "words": list(words), "off": bool(off)}:
                fault = parse_fault(kind, [str(word) for word in words], off=off)
                if kind == POWER_CUT:
                    return await self._switch("cycle")
                await apply(self._need(), fault)
                return {}
            case _:
                raise TeethError(f"a machine has no request {request.get('do')!r} of this form")

    def _need(self) -> RunningMachine:
        if self._running is None:
            raise TeethError(
                f"machine {self.name} is switched off", hint=f"teeth lab power {self.name} on starts it"
            )
        return self._running

    async def _status(self) -> Mapping[str, Any]:
        if self._running is None:
            return {"power": "off", "lives": self._lives}
        with contextlib.suppress(TeethError):
            said = await self._running.qmp.execute("query-status")
            state = said.get("status", "unknown") if isinstance(said, dict) else "unknown"
            return {
                "power": "on" if state == "running" else str(state),
                "lives": self._lives,
                "began": self._began,
                "qemu": self._running.pid,
                "line": self._running.console.lines[-1].text if self._running.console.lines else "",
            }
        return {"power": "ending", "lives": self._lives}

    async def _wait(self, pattern: str, within: float, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """A console line: from number ``since`` on, which counts only in the life ``life``."""
        running, life = self._need(), self._lives
        since = int(request.get("since", 0)) if request.get("life") == life else 0
        try:
            re.compile(pattern)
        except re.error as error:
            raise UsageError(f"{pattern!r} is no regular expression: {error}") from error
        line = await running.wait_for(
            pattern, within=min(within, _SECONDS_MAX), since=since, prompt=bool(request.get("prompt", False))
        )
        return {"number": line.number, "at": line.at, "text": line.text, "life": life}

    async def _screenshot(self, file: Path) -> Mapping[str, Any]:
        if not self._description.machine.display:
            raise UsageError(f"machine {self.name} has no screen", hint="display = true gives it one")
        kind = {".png": "png", ".ppm": "ppm"}.get(file.suffix)
        if kind is None:
            raise UsageError(f"{file}: a screenshot is a .png or a .ppm")
        await self._need().qmp.execute("screendump", filename=str(file), format=kind)
        return {}

    async def _switch(self, to: str) -> Mapping[str, Any]:
        async with self._turn:
            match to:
                case "on":
                    await self._on()
                case "off":
                    await self._cut()
                case "cycle":
                    await self._cut()
                    await self._on()
                case "reset":
                    await self._need().reset()
                case "button":
                    await self._need().qmp.execute("system_powerdown")
                case _:
                    raise UsageError(f"power has no {to!r}: on, off, cycle, reset, button")
        return await self._status()

    async def _cut(self) -> None:
        """The power goes at once: what QEMU has not written by then is in the host's memory, not lost."""
        if self._running is not None:
            with contextlib.suppress(TeethError):
                await self._running.crash()
        await self._off()


def _with_monitor(machine: Machine, descriptor: int) -> Machine:
    """The machine with a second QMP connection for whoever wants one."""
    words = (
        "-chardev",
        f"socket,id=public,fd={descriptor},server=on,wait=off",
        "-mon",
        "chardev=public,mode=control",
    )
    return replace(machine, extra=(*machine.extra, *words))


def _clearer(error: TeethError) -> TeethError:
    """QEMU's words for what users run into most, in ours."""
    taken = _TAKEN.search(error.message)
    if taken:
        return TeethError(
            f"port {taken[1]} of this host is taken", hint="name another, or none: any free one is used then"
        )
    return error
