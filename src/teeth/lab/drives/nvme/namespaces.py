"""Namespace Management and Namespace Attachment (NVMe base 2.0, 5.23 and 5.22)."""

from __future__ import annotations

from teeth.lab.drives.model import Namespace
from teeth.lab.drives.nvme.core import ALL, CONTROLLER_ID, Core, Host
from teeth.lab.drives.nvme.fields import take
from teeth.lab.drives.nvme.identify import SECTORS
from teeth.lab.drives.nvme.spec import NAMESPACES_MAX, UNIT
from teeth.lab.drives.submission import Code, NvmeAnswer, NvmeCommand, NvmeRefused, NvmeReply


def management(core: Core, host: Host, command: NvmeCommand) -> NvmeAnswer:
    core.disk.check_writable()
    match command.cdw10 & 0x0F:
        case 0 if command.cdw11 >> 24 == 0:
            return _create(core, command.data)
        case 1:
            return _delete(core, host, command.nsid)
        case _:
            raise NvmeRefused(Code.INVALID_FIELD)


def _create(core: Core, data: bytes) -> NvmeReply:
    if len(data) < 4096:
        raise NvmeRefused(Code.SGL_LENGTH)
    size, capacity = take(data, 0, 8), take(data, 8, 8)
    number = data[26] & 0x0F | data[26] >> 1 & 0x30
    if number >= len(SECTORS) or data[26] & 0x10:
        raise NvmeRefused(Code.INVALID_FORMAT)
    # No protection information, not shared, no groups, no sets.
    if data[29] or data[30] or take(data, 92, 4) or take(data, 100, 2) or not size:
        raise NvmeRefused(Code.INVALID_FIELD)
    if size != capacity:
        raise NvmeRefused(Code.THIN_PROVISIONING if capacity < size else Code.INVALID_FIELD)
    state = core.state
    used = {namespace.nsid for namespace in state.namespaces}
    nsid = next((number for number in range(1, NAMESPACES_MAX + 1) if number not in used), None)
    if nsid is None:
        raise NvmeRefused(Code.NO_NAMESPACE_LEFT)
    sector = SECTORS[number]
    extents = core.disk.allocate(size * (sector // UNIT))
    state.made += 1
    state.namespaces.append(
        Namespace(nsid=nsid, extents=extents, sector=sector, attached=False, serial=state.made)
    )
    core.disk.save()
    return NvmeReply(result=nsid)


def _delete(core: Core, host: Host, nsid: int) -> NvmeReply:
    gone = list(core.state.namespaces) if nsid == ALL else [_need(core, nsid)]
    if any(namespace.format == "running" for namespace in gone):
        raise NvmeRefused(Code.FORMAT_IN_PROGRESS)
    for namespace in gone:
        core.state.namespaces.remove(namespace)
    core.disk.save()
    core.changed([namespace.nsid for namespace in gone if namespace.attached], but=host)
    return NvmeReply()


def _need(core: Core, nsid: int) -> Namespace:
    found = core.allocated(nsid)
    if found is None:
        valid = 1 <= nsid <= NAMESPACES_MAX
        raise NvmeRefused(Code.INVALID_FIELD if valid else Code.INVALID_NAMESPACE)
    return found


def attachment(core: Core, host: Host, command: NvmeCommand) -> NvmeAnswer:
    wanted = command.cdw10 & 0x0F
    if wanted > 1:
        raise NvmeRefused(Code.INVALID_FIELD)
    namespace = _need(core, command.nsid)
    count = take(command.data, 0, 2)
    ids = [take(command.data, 2 + 2 * number, 2) for number in range(min(count, 2047))]
    if ids != [CONTROLLER_ID]:
        raise NvmeRefused(Code.CONTROLLER_LIST)
    attach = wanted == 0
    if namespace.attached == attach:
        raise NvmeRefused(Code.ALREADY_ATTACHED if attach else Code.NOT_ATTACHED)
    if namespace.format == "running":
        raise NvmeRefused(Code.FORMAT_IN_PROGRESS)
    if not attach:
        core.disk.flush()
    namespace.attached = attach
    core.disk.save()
    # The host that asked looks by itself, but the kernel under its tool does not: it is told too.
    core.changed([namespace.nsid])
    return NvmeReply()
