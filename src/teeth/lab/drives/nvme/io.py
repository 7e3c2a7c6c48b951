"""Commands of the NVM command set on blocks (NVM command set 1.0, 3.2; Flush: NVMe base 2.0, 7.1)."""

from __future__ import annotations

from teeth.lab.drives.model import Method, Namespace
from teeth.lab.drives.nvme.core import ALL, Core, Host
from teeth.lab.drives.nvme.fields import take
from teeth.lab.drives.nvme.identify import TRANSFER_MAX
from teeth.lab.drives.nvme.spec import UNIT
from teeth.lab.drives.submission import Code, NvmeAnswer, NvmeCommand, NvmeRefused, NvmeReply

_FORCE_ACCESS = 1 << 30
_DEALLOCATE = 1 << 25
_CHUNK = 2048  # units looked at in one go by commands that move no data


def _namespace(core: Core, nsid: int) -> Namespace:
    found = core.active(nsid)
    if found is None:
        raise NvmeRefused(Code.INVALID_NAMESPACE)
    if found.format == "running":
        raise NvmeRefused(Code.FORMAT_IN_PROGRESS)
    if found.format != "good":
        raise NvmeRefused(Code.NOT_READY)
    return found


def _extent(core: Core, command: NvmeCommand, namespace: Namespace) -> tuple[int, int]:
    """First unit and number of units of a command's blocks, within bounds."""
    lba, count = command.cdw10 | command.cdw11 << 32, (command.cdw12 & 0xFFFF) + 1
    if command.cdw12 >> 26 & 0x0F:  # protection information, which there is none of
        raise NvmeRefused(Code.INVALID_FIELD)
    return _units(core, namespace, lba, count)


def _units(core: Core, namespace: Namespace, lba: int, count: int) -> tuple[int, int]:
    if lba + count > core.said_size(namespace):
        raise NvmeRefused(Code.LBA_OUT_OF_RANGE)
    scale = namespace.sector // UNIT
    return lba * scale, count * scale


def _moved(core: Core, command: NvmeCommand) -> tuple[Namespace, int, int]:
    """The extent of a command that moves its blocks' data."""
    namespace = _namespace(core, command.nsid)
    unit, count = _extent(core, command, namespace)
    if count * UNIT > TRANSFER_MAX:
        raise NvmeRefused(Code.INVALID_FIELD)
    return namespace, unit, count


def _content(core: Core, namespace: Namespace, unit: int, count: int) -> bytes:
    places = core.places(namespace, unit, count)
    return b"".join(core.disk.read(first, end - first) for first, end in places)


def read(core: Core, host: Host, command: NvmeCommand) -> NvmeAnswer:
    return NvmeReply(data=_content(core, *_moved(core, command)))


def write(core: Core, host: Host, command: NvmeCommand) -> NvmeAnswer:
    namespace, unit, count = _moved(core, command)
    core.disk.check_writable()
    if len(command.data) < count * UNIT:
        raise NvmeRefused(Code.SGL_LENGTH)
    _touched(core)
    done = 0
    for first, end in core.places(namespace, unit, count):
        size = (end - first) * UNIT
        through = bool(command.cdw12 & _FORCE_ACCESS)
        core.disk.write(first, command.data[done : done + size], through=through)
        done += size
    return NvmeReply()


def _touched(core: Core) -> None:
    """User data is written: the sanitize log no longer says that all is erased."""
    if core.state.clean:
        core.state.clean = False
        core.disk.save()


def compare(core: Core, host: Host, command: NvmeCommand) -> NvmeAnswer:
    namespace, unit, count = _moved(core, command)
    if len(command.data) < count * UNIT:
        raise NvmeRefused(Code.SGL_LENGTH)
    if _content(core, namespace, unit, count) != command.data[: count * UNIT]:
        raise NvmeRefused(Code.COMPARE_FAILURE)
    return NvmeReply()


def verify(core: Core, host: Host, command: NvmeCommand) -> NvmeAnswer:
    namespace = _namespace(core, command.nsid)
    unit, count = _extent(core, command, namespace)
    for at in range(unit, unit + count, _CHUNK):
        _content(core, namespace, at, min(_CHUNK, unit + count - at))
    return NvmeReply()


def write_zeroes(core: Core, host: Host, command: NvmeCommand) -> NvmeAnswer:
    namespace = _namespace(core, command.nsid)
    unit, count = _extent(core, command, namespace)
    method = Method.DEALLOCATE if command.cdw12 & _DEALLOCATE else Method.WRITE_SAME
    _clear(core, namespace, unit, count, method)
    return NvmeReply()


def _clear(core: Core, namespace: Namespace, unit: int, count: int, method: Method) -> None:
    core.disk.check_writable()
    for first, end in core.places(namespace, unit, count):
        core.disk.clear(method, first, end - first, bytes(UNIT))


def dataset_management(core: Core, host: Host, command: NvmeCommand) -> NvmeAnswer:
    """Deallocates; the other attributes are hints, and are taken as such."""
    namespace = _namespace(core, command.nsid)
    count = (command.cdw10 & 0xFF) + 1
    if len(command.data) < 16 * count:
        raise NvmeRefused(Code.SGL_LENGTH)
    ranges = [
        _units(core, namespace, take(command.data, at + 8, 8), take(command.data, at + 4, 4))
        for at in range(0, 16 * count, 16)
    ]
    if command.cdw11 & 0x04:
        for unit, length in ranges:
            _clear(core, namespace, unit, length, Method.DEALLOCATE)
    return NvmeReply()


def flush(core: Core, host: Host, command: NvmeCommand) -> NvmeAnswer:
    if command.nsid != ALL:
        _namespace(core, command.nsid)
    core.disk.flush()
    return NvmeReply()
