"""The lab itself: machines start, are watched, are ended, and leave nothing."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from boot.conftest import Boot, FileServer
from teeth.errors import TeethError
from teeth.lab.accel import accelerator as make_accelerator
from teeth.lab.accel import probe_boot
from teeth.lab.console import Banner, find_banners, kernel_without_firmware
from teeth.lab.firmware import Firmware
from teeth.lab.machine import DirectBoot, Machine, NetworkBoot
from teeth.lab.network import Nic
from teeth.lab.probe_payload import MARKER
from teeth.lab.running import LOGS, run_machine

pytestmark = [pytest.mark.boot, pytest.mark.image]

# Generous: a busy host without KVM boots these in 3 to 12 s.
BOOT = 120.0
TCG = make_accelerator("tcg", "test")


def tiny(kernel: Path, initramfs: Path, **changes: object) -> Machine:
    boot = DirectBoot(kernel=kernel, initrd=initramfs, cmdline="console=ttyS0 panic=-1")
    return Machine(**({"name": "tiny", "boot": boot, "memory": 256} | changes))  # type: ignore[arg-type]


def test_plain_emulation_passes_the_probe(kernel: Path) -> None:
    assert probe_boot(TCG.argv, kernel, BOOT) == ""


def test_a_kernel_that_is_too_slow_fails_the_probe(kernel: Path) -> None:
    assert probe_boot(TCG.argv, kernel, 0.2) == "a kernel did not come up within 0.2 s"


async def test_a_machine_ends_by_itself(boot: Boot, kernel: Path, tiny_initramfs: Path) -> None:
    machine = await boot(tiny(kernel, tiny_initramfs, restart=False))
    assert await machine.wait_for(MARKER, within=BOOT)
    assert await machine.wait_end(within=BOOT) == 0
    assert not machine.running
    assert [kind for kind, _ in find_banners(machine.console.lines)][:2] == [Banner.SEABIOS, Banner.LINUX]


async def test_a_restart_is_seen_as_reset_and_as_firmware(
    boot: Boot, kernel: Path, tiny_initramfs: Path
) -> None:
    machine = await boot(tiny(kernel, tiny_initramfs))
    first = await machine.wait_for(MARKER, within=BOOT)
    event = await machine.qmp.wait_event("RESET", within=BOOT)
    assert event.data["guest"] is True
    await machine.wait_for(MARKER, within=BOOT, since=first.number + 1)
    assert machine.qmp.resets() >= 1
    assert not kernel_without_firmware(machine.console.lines)


async def test_a_crash_ends_every_wait(boot: Boot, kernel: Path, tiny_initramfs: Path) -> None:
    machine = await boot(tiny(kernel, tiny_initramfs))
    await machine.crash()
    with pytest.raises(TeethError, match="ended before"):
        await machine.wait_for("never", within=BOOT)
    with pytest.raises(TeethError, match="QEMU is gone"):
        await machine.reset()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def test_leaving_the_block_ends_qemu(kernel: Path, tiny_initramfs: Path, tmp_path: Path) -> None:
    async with run_machine(tiny(kernel, tiny_initramfs), accelerator=TCG, folder=tmp_path / "m") as machine:
        pid = machine.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert names(tmp_path / "m") == set(LOGS)


def test_a_killed_parent_takes_its_machine_along(kernel: Path, tiny_initramfs: Path, tmp_path: Path) -> None:
    script = f"""
        import asyncio
        from pathlib import Path
        from teeth.lab.accel import accelerator
        from teeth.lab.machine import DirectBoot, Machine
        from teeth.lab.running import LOGS, run_machine

        async def main():
            boot = DirectBoot(kernel=Path({str(kernel)!r}), initrd=Path({str(tiny_initramfs)!r}))
            machine = Machine(name="orphan", boot=boot, memory=256)
            tcg = accelerator("tcg", "test")
            async with run_machine(machine, accelerator=tcg, folder=Path({str(tmp_path)!r})) as running:
                print(running.pid, flush=True)
                await asyncio.Event().wait()

        asyncio.run(main())
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        qemu = os.pidfd_open(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
    poll = select.poll()
    poll.register(qemu, select.POLLIN)
    try:
        assert poll.poll(30_000), "QEMU outlived its parent"
    finally:
        os.close(qemu)


async def test_qemus_refusal_is_one_line(kernel: Path, tmp_path: Path) -> None:
    machine = Machine(name="odd", boot=DirectBoot(kernel=kernel), extra=("-device", "no-such-device"))
    with pytest.raises(
        TeethError, match=r"^machine odd did not start: .*no-such-device.* not a valid device"
    ):
        async with run_machine(machine, accelerator=TCG, folder=tmp_path):
            pass


async def test_a_missing_file_is_named(tmp_path: Path) -> None:
    machine = Machine(name="m", boot=DirectBoot(kernel=tmp_path / "vmlinuz"))
    with pytest.raises(TeethError, match=f"^machine m: there is no file {tmp_path}/vmlinuz$"):
        async with run_machine(machine, accelerator=TCG, folder=tmp_path / "m"):
            pass


@pytest.mark.parametrize("firmware", list(Firmware))
async def test_network_boot(
    boot: Boot,
    kernel: Path,
    tiny_initramfs: Path,
    file_server: FileServer,
    tmp_path: Path,
    firmware: Firmware,
) -> None:
    (file_server.folder / "vmlinuz").symlink_to(kernel)
    (file_server.folder / "initramfs").symlink_to(tiny_initramfs)
    tftp = tmp_path / "tftp"
    tftp.mkdir()
    (tftp / "boot.ipxe").write_text(
        f"#!ipxe\nkernel {file_server.url}/vmlinuz initrd=initramfs console=ttyS0 panic=-1\n"
        f"initrd {file_server.url}/initramfs\nboot\n"
    )
    spec = Machine(
        name="net",
        boot=NetworkBoot(tftp=tftp),
        memory=512,
        firmware=firmware,
        nics=(Nic(mac="52:54:00:00:00:01"),),
        restart=False,
    )
    machine = await boot(spec)
    await machine.wait_for(MARKER, within=BOOT)
    assert Banner.IPXE in {kind for kind, _ in find_banners(machine.console.lines)}
