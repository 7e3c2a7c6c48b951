"""Whether a whole-disk image holds a system that can start at all: what its own boot loader would do.

Only what is surely wrong is refused. A disk without a table or without a Linux boot loader's files may well
start: it is none of ours to judge.
"""

from __future__ import annotations

from pathlib import Path

from teeth_agent.blockio import open_device
from teeth_agent.errors import AgentError
from teeth_agent.image import disktable, rootfs
from teeth_image import rootconfig

_HEAD = 1024
_END = 1 << 20


def check(disk: str, *, machine: str, work: Path, root: Path = Path("/")) -> None:
    """Mounts its file systems read-only; nothing of ``disk`` may be open for writing.

    Raises AgentError: boot_config, no_kernel, no_initrd, wrong_architecture; DeviceError, ToolError.
    """
    try:
        with open_device(disk, write=False) as device:
            table = disktable.read(device)
    except AgentError as error:
        if error.code != "partition_table":
            raise
        return
    with rootfs.mounted_systems(disk, table, work=work, root=root) as systems:
        try:
            found = rootfs.find_boot_files(systems)
        except AgentError as error:
            if error.code != "no_boot_entry":
                raise
            return
        _check_kernel(found, machine)


def check_or_undo(disk: str, *, machine: str, work: Path, root: Path = Path("/")) -> None:
    """``check``, and where it refuses, the disk does not start: both of its ends are zero again."""
    try:
        check(disk, machine=machine, work=work, root=root)
    except AgentError:
        with open_device(disk, write=True) as device:
            for offset in (0, device.size - min(_END, device.size)):
                device.zero_range(offset, min(_END, device.size))
            device.flush()
            device.reread_partitions()
        raise


def _check_kernel(found: rootfs.BootFiles, machine: str) -> None:
    try:
        with found.kernel.open("rb") as stream:
            head = stream.read(_HEAD)
    except OSError as error:
        raise AgentError(
            f"{found.entry.kernel} cannot be read: {error.strerror}", code="no_kernel"
        ) from error
    made_for = rootconfig.kernel_machine(head)
    if made_for is None:
        raise AgentError(f"{found.entry.kernel} is no Linux kernel", code="no_kernel")
    if made_for != machine:
        raise AgentError(
            f"{found.entry.kernel} is for {made_for}, this machine is {machine}", code="wrong_architecture"
        )
