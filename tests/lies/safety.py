"""What must never be sent to a drive, looked for in everything that was."""

from __future__ import annotations

from fakes.simulated_drives import SimulatedMachine
from fakes.simulated_kernel import Sent

_ATA_16, _ATA_12 = 0x85, 0xA1
_SET_PASSWORD = 0xF1
_FORMAT = 0x80
_FREEZES = {0xF5: "SECURITY FREEZE LOCK"}


def broken(machine: SimulatedMachine, password: bytes) -> list[str]:
    """One line for each rule that was broken; ``password``: the published constant, 32 bytes."""
    lines = [f"two writers at {name}" for name in machine.writers.twice]
    lines += [f"written to while it erased itself: {name}" for name in machine.writers.clashes]
    for sent in machine.sent:
        lines += _nvme(sent) if sent.nvme else _ata(sent, password)
    return lines


def _nvme(sent: Sent) -> list[str]:
    opcode, _, cdw10, *_ = sent.nvme
    if opcode == _FORMAT and not cdw10 >> 9 & 0x07:
        return [f"Format NVM without secure erase: cdw10 {cdw10:#x}"]
    return []


def _ata(sent: Sent, password: bytes) -> list[str]:
    if sent.cdb[0] not in (_ATA_16, _ATA_12):
        return []
    if sent.usb:
        return [f"ATA pass-through to a drive behind USB: {sent.cdb.hex()}"]
    command = sent.cdb[14] if sent.cdb[0] == _ATA_16 else sent.cdb[9]
    if command in _FREEZES:
        return [f"{_FREEZES[command]} was sent"]
    if command != _SET_PASSWORD:
        return []
    lines = []
    if sent.data[0] & 0x01:
        lines.append("SET PASSWORD of the master")
    if sent.data[1] & 0x01:
        lines.append("SET PASSWORD at level maximum")
    if sent.data[2:34] != password:
        lines.append("SET PASSWORD with another one than the published constant")
    return lines
