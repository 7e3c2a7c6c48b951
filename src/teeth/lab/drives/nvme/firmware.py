"""Firmware Image Download and Firmware Commit (NVMe base 2.0, 5.13 and 5.12). The images are those of
`teeth.lab.drives.firmware`."""

from __future__ import annotations

from teeth.lab.drives.firmware import IMAGE_MAX, revision_of
from teeth.lab.drives.nvme.core import Core, Host
from teeth.lab.drives.nvme.events import Event
from teeth.lab.drives.submission import Code, NvmeAnswer, NvmeCommand, NvmeRefused, NvmeReply

_PIECES = 4096


def download(core: Core, host: Host, command: NvmeCommand) -> NvmeAnswer:
    length, offset = (command.cdw10 + 1) * 4, command.cdw11 * 4
    data = command.data[:length]
    if len(data) < length:
        raise NvmeRefused(Code.SGL_LENGTH)
    if offset + length > IMAGE_MAX or len(core.image) >= _PIECES:
        raise NvmeRefused(Code.INVALID_FIELD)
    if offset == 0 and 0 in core.image:
        core.image.clear()  # begun anew
    for at, piece in core.image.items():
        if at < offset + length and offset < at + len(piece):
            raise NvmeRefused(Code.OVERLAPPING_RANGE)
    core.image[offset] = data
    return NvmeReply()


def commit(core: Core, host: Host, command: NvmeCommand) -> NvmeAnswer:
    slot, action = command.cdw10 & 0x07, command.cdw10 >> 3 & 0x07
    if action > 3 or command.cdw10 >> 31:  # no boot partitions
        raise NvmeRefused(Code.INVALID_FIELD)
    state = core.state
    if action != 2:
        slot = slot or _free_slot(core)
        _check_slot(core, slot, writes=True)
        state.slots[slot - 1] = _taken(core)
    elif not slot:
        raise NvmeRefused(Code.INVALID_FIELD)
    elif slot > core.spec.slots or not state.slots[slot - 1]:
        raise NvmeRefused(Code.INVALID_FIRMWARE_SLOT)
    if action:
        state.next = slot
    if action == 3:
        core.activate_waiting()
        for one in core.hosts:
            core.tell(one, Event(kind=2, info=0x01, page=0x03), enabled=one.event_config >> 9 & 1)
    core.disk.save()
    return NvmeReply()


def _free_slot(core: Core) -> int:
    """The slot that the drive chooses: an empty one, else one that does not run."""
    slots = [slot for slot in range(1, core.spec.slots + 1) if not (slot == 1 and core.spec.first_slot_fixed)]
    empty = [slot for slot in slots if not core.state.slots[slot - 1]]
    resting = [slot for slot in slots if slot != core.state.active]
    return next(iter([*empty, *resting, *slots]), 1)


def _check_slot(core: Core, slot: int, *, writes: bool) -> None:
    if slot > core.spec.slots or (writes and slot == 1 and core.spec.first_slot_fixed):
        raise NvmeRefused(Code.INVALID_FIRMWARE_SLOT)


def _taken(core: Core) -> str:
    """The revision of what was downloaded, which is used up by that."""
    whole = bytearray()
    for offset in sorted(core.image):
        if offset != len(whole):
            whole.clear()
            break
        whole += core.image[offset]
    core.image.clear()
    revision = revision_of(bytes(whole))
    if revision is None:
        raise NvmeRefused(Code.INVALID_FIRMWARE_IMAGE)
    return revision
