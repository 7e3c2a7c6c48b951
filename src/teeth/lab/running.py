"""A machine that runs: started, watched and ended without a trace."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path

from teeth.errors import TeethError
from teeth.lab.accel import QEMU, Accelerator, require_qemu
from teeth.lab.cabling import Cabling, cabling
from teeth.lab.console import Console, Line
from teeth.lab.disk import Bus
from teeth.lab.firmware import Firmware, UefiFiles, require_uefi
from teeth.lab.machine import Channels, DirectBoot, Machine, NetworkBoot, qemu_argv
from teeth.lab.qmp import Qmp, open_qmp
from teeth.proc import Process, background

LOGS = ("console.log", "console.raw", "qmp.jsonl", "qemu.log")
_END_SECONDS = 5.0  # from QMP's quit to QEMU's end: it closes its disks first
_DRAIN_SECONDS = 1.0
_COMM = 15  # proc(5): the kernel keeps so much of a program's name
_ONE_CORE = re.compile(r"^Cpus_allowed_list:\t(\d+)$", re.MULTILINE)


class RunningMachine:
    """A machine under power. Times are seconds since its first instruction could run."""

    def __init__(
        self, machine: Machine, console: Console, qmp: Qmp, process: Process, cables: Cabling
    ) -> None:
        self.machine = machine
        self.console = console
        self.qmp = qmp
        self.cables = cables
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether QEMU lives."""
        return self._process.poll() is None

    async def wait_for(self, pattern: str, *, within: float, since: int = 0, prompt: bool = False) -> Line:
        """See Console.wait_for."""
        return await self.console.wait_for(pattern, within=within, since=since, prompt=prompt)

    async def set_link(self, nic: int, *, up: bool) -> None:
        """Plug the cable of card ``nic`` in or out."""
        await self.qmp.execute("set_link", name=f"nic{nic}", up=up)
        if nic in self.cables.relays:
            self.cables.relays[nic].tell(carrier=up)

    async def reset(self) -> None:
        """Press the reset button; QMP's RESET event tells that it happened."""
        await self.qmp.execute("system_reset")

    async def crash(self) -> None:
        """Take the power away at once."""
        self._process.kill()
        await self.wait_end(within=_END_SECONDS)

    async def wait_end(self, *, within: float) -> int:
        """QEMU's exit status once it has ended by itself; TeethError when it has not after ``within`` s."""
        try:
            async with asyncio.timeout(within):
                return await wait_process(self._process)
        except TimeoutError:
            raise TeethError(f"machine {self.machine.name} did not end within {within:g} s") from None

    def cpu_seconds(self) -> float:
        """Processor time QEMU has used so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def wait_process(process: Process) -> int:
    """Its exit status, once it has ended by itself."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    # A process descriptor becomes readable when the process ends; it stays valid until it is reaped,
    # which only we do.
    if process.poll() is not None:
        return process.returncode
    descriptor = os.pidfd_open(process.pid)
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    return process.wait()


@asynccontextmanager
async def run_machine(
    machine: Machine,
    *,
    accelerator: Accelerator,
    folder: Path,
    on_line: Callable[[Line], None] | None = None,
    fresh: bool = True,
    inherited: Sequence[int] = (),
) -> AsyncIterator[RunningMachine]:
    """Run ``machine`` while the block runs; QEMU never outlives it, nor this process, nor this thread.

    ``folder`` gets console.log (clean, timed), console.raw (as it came), qmp.jsonl (events), qemu.log
    (QEMU's own words) and, for UEFI, the machine's variable store. ``on_line`` is called with each console
    line. With ``fresh`` off the logs of an earlier start are continued. ``inherited``: descriptors that
    ``machine.extra`` speaks of. Raises TeethError for missing files
    and when QEMU does not start, with the reason QEMU gives.
    """
    uefi = _prepare(machine, folder, fresh=fresh)
    log = folder / "qemu.log"
    async with AsyncExitStack() as stack:
        qmp_ours, qmp_theirs = _pair(stack)
        console_ours, console_theirs = _pair(stack)
        channels = Channels(
            qmp=qmp_theirs.fileno(), console=console_theirs.fileno(), raw_log=folder / "console.raw"
        )
        cables = stack.enter_context(cabling(machine.nics, folder / "relay.log"))
        argv = qemu_argv(machine, accelerator, channels, uefi, core=_core(machine), cables=cables.options)
        fds = (channels.qmp, channels.console, *cables.descriptors, *inherited)
        started = time.monotonic()
        process = stack.enter_context(background(argv, log=log, pass_fds=fds))
        cables.started()
        # QEMU's ends are closed here, so that its end, however it comes, is the end of both streams.
        qmp_theirs.close()
        console_theirs.close()

        def clock() -> float:
            return time.monotonic() - started

        events = stack.enter_context((folder / "qmp.jsonl").open("a"))
        lines = stack.enter_context((folder / "console.log").open("a"))
        try:
            qmp = await stack.enter_async_context(open_qmp(qmp_ours, log=events, clock=clock))
        except TeethError as error:
            raise TeethError(f"machine {machine.name} did not start: {_last_words(log)}") from error
        console = Console(log=lines, clock=clock, on_line=on_line)
        await stack.enter_async_context(_pumping(console, console_ours))
        running = RunningMachine(machine, console, qmp, process, cables)
        stack.push_async_callback(_quit, running)
        for index, nic in enumerate(machine.nics):
            if not nic.link:
                await running.set_link(index, up=False)
        started = time.monotonic()
        await qmp.execute("cont")
        yield running


def _core(machine: Machine) -> int | None:
    """The host's processor that QEMU is kept to, None where it may use all.

    QEMU's NVMe controller tells a driver through shared memory when it wants to be woken, and puts no memory
    barrier between writing that and looking for new work: now and then a command is overlooked, and the guest
    waits for it until it resets the controller (seen with 7.2: 1 of 30 erases of 1.3 GB). Threads that share
    one processor see each other's writes in order.
    """
    if not any(disk.bus is Bus.NVME for disk in machine.disks):
        return None
    # Several machines must not crowd one processor: the one with the fewest, by chance among equals.
    allowed = sorted(os.sched_getaffinity(0))
    taken = _pinned(Path("/proc"))
    least = min(taken[core] for core in allowed)
    return secrets.choice([core for core in allowed if taken[core] == least])


def _pinned(proc: Path) -> Counter[int]:
    """How many QEMUs are kept to each of the host's processors; proc_pid_status(5), Cpus_allowed_list."""
    found: Counter[int] = Counter()
    for status in proc.glob("[0-9]*/status"):
        # A process may end between being listed and being read.
        with contextlib.suppress(OSError):
            text = status.read_text(errors="replace")
            if text.startswith(f"Name:\t{QEMU[:_COMM]}\n") and (only := _ONE_CORE.search(text)):
                found[int(only[1])] += 1
    return found


def _prepare(machine: Machine, folder: Path, *, fresh: bool) -> UefiFiles | None:
    """See that all files a machine is made of exist, and make its folder fresh.

    A missing file is said here in our words instead of QEMU's.
    """
    require_qemu()
    files = [disk.path for disk in machine.disks]
    match machine.boot:
        case DirectBoot(kernel=kernel, initrd=initrd):
            files += [kernel, *([initrd] if initrd else [])]
        case NetworkBoot(tftp=Path() as tftp, bootfile=bootfile):
            files.append(tftp / bootfile)
    for file in files:
        if not file.is_file():
            raise TeethError(f"machine {machine.name}: there is no file {file}")
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*LOGS, "relay.log") if fresh else ():
        (folder / name).unlink(missing_ok=True)
    return require_uefi(folder) if machine.firmware is Firmware.UEFI else None


def _pair(stack: ExitStack | AsyncExitStack) -> tuple[socket.socket, socket.socket]:
    """A connection that needs no name anywhere: nothing to clean up, nobody else can open it."""
    ours, theirs = socket.socketpair()
    stack.callback(ours.close)
    stack.callback(theirs.close)
    return ours, theirs


@asynccontextmanager
async def _pumping(console: Console, channel: socket.socket) -> AsyncIterator[None]:
    reader, writer = await asyncio.open_unix_connection(sock=channel)
    pump = asyncio.create_task(console.pump(reader, writer))
    try:
        yield
    finally:
        # QEMU has ended, or hangs: what it printed last is wanted, but nobody waits for it long.
        await asyncio.wait({pump}, timeout=_DRAIN_SECONDS)
        pump.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await pump
        writer.close()


async def _quit(running: RunningMachine) -> None:
    """End QEMU in good order; what does not end so is terminated and killed by ``background``."""
    if not running.running:
        return
    # A control connection that is dead must not keep QEMU alive.
    with contextlib.suppress(TeethError, TimeoutError):
        async with asyncio.timeout(_END_SECONDS):
            await running.qmp.execute("quit")
    with contextlib.suppress(TeethError):
        await running.wait_end(within=_END_SECONDS)


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix(f"{QEMU}: ") if lines else "QEMU gave no reason"
