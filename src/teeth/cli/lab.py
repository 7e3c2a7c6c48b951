"""``teeth lab``: what this host offers to virtual machines."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import click

from teeth.cli.drive import drive
from teeth.cli.machines import COMMANDS
from teeth.cli.nets import net
from teeth.lab.accel import find_accelerator, qemu_version
from teeth.lab.firmware import find_bios, find_network_rom, find_uefi
from teeth.lab.host import MIB, memory_available
from teeth.paths import Paths, find_checkout


@click.group()
def lab() -> None:
    """Virtual machines for trying everything on one computer."""


lab.add_command(drive)
lab.add_command(net)
for command in COMMANDS:
    lab.add_command(command)


@lab.command()
@click.option("--again", is_flag=True, help="Try the accelerator anew, whatever is remembered.")
@click.option(
    "--kernel",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Kernel to try the accelerator with.  [default: the built ramdisk's, else one in /boot]",
)
def probe(again: bool, kernel: Path | None) -> None:
    """Say what machines would run on here, and why."""
    version = qemu_version()
    paths = find_checkout()
    chosen = kernel or probe_kernel(paths)
    accelerator = find_accelerator(chosen, paths.cache, again=again)
    uefi = find_uefi()
    for name, value in (
        ("accelerator", f"{accelerator.name}: {accelerator.reason}"),
        ("probe kernel", str(chosen or "none")),
        ("qemu", version),
        ("bios", str(find_bios() or "not found (install seabios)")),
        ("uefi", str(uefi.code) if uefi else "not found (install ovmf)"),
        ("network boot", str(find_network_rom("virtio-net-pci") or "not found (install ipxe-qemu)")),
        ("processors", f"{len(os.sched_getaffinity(0))} {platform.machine()}"),
        ("memory", f"{memory_available() // MIB} MiB available"),
    ):
        click.echo(f"{name:<13} {value}")


def probe_kernel(paths: Paths, boot: Path = Path("/boot")) -> Path | None:
    """The kernel machines will run, when it is built; else the newest one of this host that we may read."""
    built = paths.ramdisk / "vmlinuz"
    if built.is_file():
        return built
    found = [path for path in boot.glob("vmlinuz-*") if os.access(path, os.R_OK)]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)
