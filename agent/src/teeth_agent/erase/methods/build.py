"""One erase of any method on any unit: by which drive layer it goes, and how long that stays open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from teeth_agent.drives.ata import AtaDrive
from teeth_agent.drives.nvme import NvmeDrive
from teeth_agent.drives.scsi import ScsiDrive
from teeth_agent.erase.methods import DeviceErase, Ports
from teeth_agent.erase.methods.ata import ata_erase
from teeth_agent.erase.methods.ata_leftovers import Tries
from teeth_agent.erase.methods.nvme import nvme_erase
from teeth_agent.erase.methods.scsi import scsi_erase
from teeth_agent.erase.model import Method, Unit

# These block in a thread of their own until the drive has ended. One that is left to itself goes on using its
# way to the drive: closed, the descriptor's number could be another drive's by the time of its next command.
_BLOCKING = frozenset(
    {
        Method.NVME_FORMAT_CRYPTO,
        Method.NVME_FORMAT_USER_DATA,
        Method.ATA_SECURITY_ERASE,
        Method.ATA_SECURITY_ERASE_ENHANCED,
    }
)
_left_open: list[ExitStack] = []


@contextmanager
def make_erase(
    method: Method, unit: Unit, ports: Ports, *, allow_exit: bool, tries: Tries | None = None
) -> Iterator[DeviceErase]:
    """One attempt of ``method`` on a unit. ``allow_exit``: a failed sanitize may be left without another one.

    Raises DeviceError when the drive cannot be opened or does not answer.
    """
    stack = ExitStack()
    try:
        yield _make(method, unit, ports, stack, allow_exit=allow_exit, tries=tries)
    except BaseException:
        if method in _BLOCKING:
            _left_open.append(stack)
        else:
            stack.close()
        raise
    stack.close()


def _make(
    method: Method, unit: Unit, ports: Ports, stack: ExitStack, *, allow_exit: bool, tries: Tries | None
) -> DeviceErase:
    first = unit.first
    family = method.value.split("_", 1)[0]
    if family == "nvme":
        device = f"/dev/{first.controller}"
        drive = NvmeDrive(stack.enter_context(ports.open_nvme(device)), device=device)
        return nvme_erase(method, drive, exit_allowed=allow_exit)
    port = stack.enter_context(ports.open_scsi(first.devnode))
    if family == "ata":
        ata = AtaDrive(port, name=first.devnode, transport=first.transport)
        return ata_erase(method, ata, exit_allowed=allow_exit, tries=tries)
    assert family == "scsi", method
    return scsi_erase(method, ScsiDrive(port, device=first.devnode), exit_allowed=allow_exit)
