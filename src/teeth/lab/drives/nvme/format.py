"""Format NVM (NVMe base 2.0, 5.14)."""

from __future__ import annotations

from teeth.lab.drives.disk import Job
from teeth.lab.drives.model import Method, Namespace
from teeth.lab.drives.nvme.core import ALL, Core, Host
from teeth.lab.drives.nvme.identify import SECTORS
from teeth.lab.drives.nvme.spec import NAMESPACES_MAX
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
    targets = _targets(core, command.nsid, erases=ses > 0)
    if core.disk.job is not None:
        raise NvmeRefused(Code.FORMAT_IN_PROGRESS)
    sector = SECTORS[number]
    if ses == 0:
        _ended(core, targets, sector, well=True)
        return NvmeReply()
    for namespace in targets:
        namespace.format = "running"
    core.disk.state.format = "running"
    method = _METHODS[ses]
    noise = method is Method.FORMAT_CRYPTO and core.spec.crypto_leaves == "noise"
    core.disk.start(
        Job(
            method=method,
            # What is in the namespaces: retired blocks and free capacity are not formatted.
            spans=[(first, end) for namespace in targets for first, end in namespace.extents],
            pattern=None if noise else b"\0",
            seconds=core.spec.seconds(method),
            since=core.disk.clock(),
            ended=lambda well: _ended(core, targets, sector, well=well),
        )
    )
    return _wait(core, targets)


def _targets(core: Core, nsid: int, *, erases: bool) -> list[Namespace]:
    """The namespaces that a command is for (FNA bits 0 and 1)."""
    everything = core.spec.erase_all if erases else core.spec.format_all
    if nsid == ALL or everything:
        if nsid != ALL and not 1 <= nsid <= NAMESPACES_MAX:
            raise NvmeRefused(Code.INVALID_NAMESPACE)
        return [one for one in core.state.namespaces if everything or one.attached]
    found = core.active(nsid)
    if found is None:
        valid = 1 <= nsid <= NAMESPACES_MAX
        raise NvmeRefused(Code.INVALID_FIELD if valid else Code.INVALID_NAMESPACE)
    return [found]


def _ended(core: Core, targets: list[Namespace], sector: int, *, well: bool) -> None:
    for namespace in targets:
        namespace.format = "good" if well else "failed"
        if well:
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
