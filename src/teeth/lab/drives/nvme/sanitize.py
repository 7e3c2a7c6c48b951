"""Sanitize (NVMe base 2.0, 5.24 and Sanitize Operations of chapter 8)."""

from __future__ import annotations

from teeth.lab.drives import purge
from teeth.lab.drives.model import Method, Sanitize
from teeth.lab.drives.nvme.core import Core, Host
from teeth.lab.drives.submission import Code, NvmeAnswer, NvmeCommand, NvmeRefused, NvmeReply

EXIT_FAILURE, BLOCK, OVERWRITE, CRYPTO = 1, 2, 3, 4
METHODS = {
    BLOCK: Method.SANITIZE_BLOCK,
    OVERWRITE: Method.SANITIZE_OVERWRITE,
    CRYPTO: Method.SANITIZE_CRYPTO,
}
_UNRESTRICTED, _INVERT, _NO_DEALLOCATE = 1 << 3, 1 << 8, 1 << 9


def sanitize(core: Core, host: Host, command: NvmeCommand) -> NvmeAnswer:
    """Begin an operation on the whole subsystem; the command itself ends at once."""
    word, disk = command.cdw10, core.disk
    action = word & 0x07
    if not core.spec.sanitizes:
        raise NvmeRefused(Code.INVALID_OPCODE)
    if disk.state.sanitize.state == "running":
        raise NvmeRefused(Code.SANITIZE_IN_PROGRESS)
    if action == EXIT_FAILURE:
        return _exit_failure(core)
    method = METHODS.get(action)
    if method is None or method not in core.spec.sanitizes or word >> 10:
        raise NvmeRefused(Code.INVALID_FIELD)
    failed = disk.state.sanitize
    if failed.state == "failed" and not failed.exit_allowed and word & _UNRESTRICTED:
        # What failed restricted may only be repeated restricted.
        raise NvmeRefused(Code.SANITIZE_FAILED)
    _check(core, word)
    _begin(core, command, method)
    return NvmeReply()


def _check(core: Core, word: int) -> None:
    core.disk.check_writable()
    if core.state.next:
        raise NvmeRefused(Code.FIRMWARE_NEEDS_RESET)
    if any(namespace.format == "running" for namespace in core.state.namespaces):
        raise NvmeRefused(Code.FORMAT_IN_PROGRESS)
    inhibited = core.spec.no_deallocate == "inhibited"
    if word & _NO_DEALLOCATE and inhibited and not core.no_deallocate_warns:
        raise NvmeRefused(Code.INVALID_FIELD)


def _begin(core: Core, command: NvmeCommand, method: Method) -> None:
    word = command.cdw10
    wanted = Sanitize(method=method.value, exit_allowed=bool(word & _UNRESTRICTED))
    if method is Method.SANITIZE_OVERWRITE:
        wanted.passes = word >> 4 & 0x0F or 16
        # Inverted between passes or not, the last one writes the pattern as given; and it stays, since no
        # drive must deallocate.
        wanted.pattern = command.cdw11.to_bytes(4, "little").hex() if command.cdw11 else "00"
        wanted.invert = False
    kept = word & _NO_DEALLOCATE and core.spec.no_deallocate == "kept"
    # Deallocated blocks read as zeros whatever the key was.
    wanted.leaves = core.spec.crypto_leaves if kept else "zeros"
    state = core.state
    state.sstat, state.scdw10, state.passes = 2, word, 0
    purge.begin(core.disk, wanted, core.sanitized)


def _exit_failure(core: Core) -> NvmeReply:
    """Only what failed unrestricted may be left; the log keeps saying that it failed."""
    state = core.disk.state.sanitize
    if state.state == "failed":
        if not state.exit_allowed:
            raise NvmeRefused(Code.SANITIZE_FAILED)
        core.disk.state.sanitize = Sanitize()
        core.disk.save()
    return NvmeReply()


def passes_done(core: Core) -> int:
    """Completed passes of the overwrite that runs or ran last."""
    state = core.disk.state.sanitize
    if state.state == "running" and core.state.scdw10 & 0x07 == OVERWRITE:
        return int(core.disk.fraction() * state.passes)
    return core.state.passes
