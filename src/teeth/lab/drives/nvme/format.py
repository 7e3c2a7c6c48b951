"""Format NVM (NVMe base 2.0, 5.14)."""

from __future__ import annotations

from teeth.lab.drives.disk import Job
from teeth.lab.drives.model import Method, Namespace
from teeth.lab.drives.nvme.core import ALL, Core, Host
from teeth.lab.drives.nvme.identify import SECTORS
from teeth.lab.drives.nvme.spec import NAMESPACES_MAX
from teeth.lab.drives.spans import Span
from teeth.lab.drives.submission import Code, NvmeAnswer, NvmeCommand, NvmeRefused, NvmeReply, NvmeWait

_METHODS = {1: Method.FORMAT, 2: Method.FORMAT_CRYPTO}


def format_nvm(core: Core, host: Host, command: NvmeCommand) -> NvmeAnswer:
    """SES 0 erases nothing: the blocks keep what they held. SES 1 leaves zeros, SES 2 what a lost key leaves.

    The command ends when the format has; meanwhile I/O to its namespaces is refused.
    """
    core.disk.check_writable()
    word = command.cdw10
    number, ses = word & 0x0F | word >> 8 & 0x30, word >> 9 & 0x07
    if number >= len(SECTORS) or word & 0x1F0:  # no metadata, no protection information
        raise NvmeRefused(Code.INVALID_FORMAT)
    if ses > 2 or (ses == 2 and not core.spec.crypto_format):
        raise NvmeRefused(Code.INVALID_FIELD)
    targets = _targets(core, command.nsid, everything=core.spec.erase_all if ses else core.spec.format_all)
    # Which blocks lose their content is one thing, which get the block size another (FNA bits 1 and 0).
    sized = _targets(core, command.nsid, everything=core.spec.format_all)
    if core.disk.job is not None:
        raise NvmeRefused(Code.FORMAT_IN_PROGRESS)
    sector = SECTORS[number]
    if ses == 0:
        _ended(core, targets, sized, sector, well=True)
        return NvmeReply()
    for namespace in targets:
        namespace.format = "running"
    core.disk.state.format = "running"
    method = _METHODS[ses]
    crypto = method is Method.FORMAT_CRYPTO
    core.disk.start(
        Job(
            method=method,
            # What is in the namespaces; blocks retired from them are not reached, but their key goes too.
            spans=[
                *((first, end) for namespace in targets for first, end in namespace.extents),
                *(_retired(core, targets) if crypto else ()),
            ],
            pattern=None if crypto and core.spec.crypto_leaves == "noise" else b"\0",
            seconds=core.spec.seconds(method),
            since=core.disk.clock(),
            ended=lambda well: _ended(core, targets, sized, sector, well=well),
        )
    )
    return _wait(core, targets)


def _retired(core: Core, targets: list[Namespace]) -> list[Span]:
    """Blocks that were taken out of use in these namespaces."""
    found = []
    for place, number in core.disk.state.remapped.items():
        lba = int(place.partition(":")[0])
        if any(first <= lba < end for namespace in targets for first, end in namespace.extents):
            found.append((core.spec.blocks + number, core.spec.blocks + number + 1))
    return found


def _targets(core: Core, nsid: int, *, everything: bool) -> list[Namespace]:
    """The namespaces that a command is for."""
    if nsid == ALL or everything:
        if nsid != ALL and not 1 <= nsid <= NAMESPACES_MAX:
            raise NvmeRefused(Code.INVALID_NAMESPACE)
        return [one for one in core.state.namespaces if everything or one.attached]
    found = core.active(nsid)
    if found is None:
        valid = 1 <= nsid <= NAMESPACES_MAX
        raise NvmeRefused(Code.INVALID_FIELD if valid else Code.INVALID_NAMESPACE)
    return [found]


def _ended(core: Core, targets: list[Namespace], sized: list[Namespace], sector: int, *, well: bool) -> None:
    for namespace in targets:
        namespace.format = "good" if well else "failed"
    for namespace in sized if well else ():
        namespace.sector = sector
    core.disk.state.format = "good" if well else "failed"
    core.disk.save()
    core.changed([namespace.nsid for namespace in targets])


def _wait(core: Core, targets: list[Namespace]) -> NvmeAnswer:
    job = core.disk.job
    if job is not None:
        return NvmeWait(until=job.until, finish=lambda: _wait(core, targets))
    if any(namespace.format != "good" for namespace in targets):
        return NvmeReply(status=Code.INTERNAL_ERROR)
    return NvmeReply()
