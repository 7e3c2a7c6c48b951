"""Lies that only NVMe drives can tell: about namespaces, about the sanitize status log, by Format NVM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from teeth.lab.drives.disk import Behaviour, Disk
from teeth.lab.drives.model import DEVICE_ERASES, FORMATS, Method, Namespace, Sanitize
from teeth.lab.drives.spans import Span, within, without
from teeth.lab.drives.submission import NvmeCommand, NvmeReply

_NVME = frozenset({"nvme"})
_LOG, _IDENTIFY, _SANITIZE = 0x02, 0x06, 0x84
_CLEAN = 0x0101  # completed, and nothing was written since


class SkipsOneNamespace(Behaviour):
    """Sanitize, and a format of all, leave the namespace of the highest number when there are several."""

    name = "skips-one-namespace"
    kinds = _NVME

    def erased(self, disk: Disk, method: Method, spans: Sequence[Span]) -> Sequence[Span]:
        if method not in DEVICE_ERASES:
            return spans
        touched = [one for one in _namespaces(disk) if within(spans, *_whole(one))]
        return _without(spans, touched[-1:]) if len(touched) > 1 else spans


class LeavesDetached(Behaviour):
    """Sanitize leaves namespaces that no controller has attached."""

    name = "leaves-detached"
    kinds = _NVME

    def erased(self, disk: Disk, method: Method, spans: Sequence[Span]) -> Sequence[Span]:
        return _without(spans, [one for one in _namespaces(disk) if not one.attached])


class HidesDetached(Behaviour):
    """Lists and figures have only attached namespaces; the others and their capacity seem not to exist."""

    name = "hides-detached"
    kinds = _NVME

    def after_nvme(self, disk: Disk, command: NvmeCommand, reply: NvmeReply) -> NvmeReply:
        if command.io or command.opcode != _IDENTIFY or not reply.good:
            return reply
        hidden = {one.nsid: _size(one) for one in _namespaces(disk) if not one.attached}
        match command.cdw10 & 0xFF:
            case 0x10 | 0x1A:
                words = [reply.data[at : at + 4] for at in range(0, len(reply.data), 4)]
                kept = b"".join(word for word in words if int.from_bytes(word, "little") not in hidden)
                return replace(reply, data=kept.ljust(len(reply.data), b"\0"))
            case 0x11 if command.nsid in hidden:
                return replace(reply, data=bytes(len(reply.data)))
            case 0x01:
                total = int.from_bytes(reply.data[280:296], "little") - sum(hidden.values())
                data = reply.data[:280] + total.to_bytes(16, "little") + reply.data[296:]
                return replace(reply, data=data)
            case _:
                return reply


class StaleSanitizeLog(Behaviour):
    """Sanitize is accepted and does nothing; the log shows an older success, of another action."""

    name = "sanitize-stale-log"
    kinds = _NVME

    def before_nvme(self, disk: Disk, command: NvmeCommand) -> NvmeReply | None:
        return NvmeReply() if not command.io and command.opcode == _SANITIZE else None

    def after_nvme(self, disk: Disk, command: NvmeCommand, reply: NvmeReply) -> NvmeReply:
        if not _is_log(command, reply, 0x81):
            return reply
        older = 4 if Method.SANITIZE_CRYPTO in disk.spec.sanitizes else 3
        return _log(reply, progress=0xFFFF, status=_CLEAN, command=older)


class SanitizeDoneAtOnce(Behaviour):
    """The log says success as soon as a sanitize began, and a power cut ends it where it is."""

    name = "sanitize-done-at-once"
    kinds = _NVME

    def after_nvme(self, disk: Disk, command: NvmeCommand, reply: NvmeReply) -> NvmeReply:
        if disk.state.sanitize.state != "running" or not _is_log(command, reply, 0x81):
            return reply
        return _log(reply, progress=0xFFFF, status=_CLEAN)

    def admits(self, disk: Disk) -> bool:
        return True

    def power_on(self, disk: Disk) -> None:
        _forget(disk, 1)


class ForgetsSanitize(Behaviour):
    """A power cut ends a sanitize where it is, and the log says that there never was one."""

    name = "forgets-sanitize"
    kinds = _NVME

    def power_on(self, disk: Disk) -> None:
        _forget(disk, 0)


class SprogFull(Behaviour):
    """Progress says FFFFh, which is for no sanitize in progress, while one is."""

    name = "sprog-full"
    kinds = _NVME

    def after_nvme(self, disk: Disk, command: NvmeCommand, reply: NvmeReply) -> NvmeReply:
        return _log(reply, progress=0xFFFF) if _is_log(command, reply, 0x81) else reply


class ClaimsGlobalErased(Behaviour):
    """The sanitize log always says that no user data was written since all was erased."""

    name = "claims-global-erased"
    kinds = _NVME

    def after_nvme(self, disk: Disk, command: NvmeCommand, reply: NvmeReply) -> NvmeReply:
        if not _is_log(command, reply, 0x81):
            return reply
        return _log(reply, status=int.from_bytes(reply.data[2:4], "little") | 0x100)


class FormatIgnoresSes(Behaviour):
    """Whatever SES says, Format NVM drops the map only: reads give zeros, the medium has it all."""

    name = "format-ignores-ses"
    kinds = _NVME

    def __init__(self, argument: str = "") -> None:
        super().__init__(argument)
        self._unmapped: list[Span] = []

    def erased(self, disk: Disk, method: Method, spans: Sequence[Span]) -> Sequence[Span]:
        if method not in FORMATS:
            return spans
        self._unmapped.extend(spans)
        return []

    def stored(self, disk: Disk, lba: int, data: bytes) -> bytes | None:
        self._unmapped = without(self._unmapped, lba, lba + len(data) // disk.spec.sector)
        return data

    def shown(self, disk: Disk, lba: int, data: bytes) -> bytes:
        size, shown = disk.spec.sector, bytearray(data)
        for first, end in within(self._unmapped, lba, lba + len(data) // size):
            shown[(first - lba) * size : (end - lba) * size] = bytes((end - first) * size)
        return bytes(shown)


class FormatsOneOfAll(Behaviour):
    """A format that is for all namespaces formats the first one only."""

    name = "formats-one-of-all"
    kinds = _NVME

    def erased(self, disk: Disk, method: Method, spans: Sequence[Span]) -> Sequence[Span]:
        touched = [one for one in _namespaces(disk) if within(spans, *_whole(one))]
        return _without(spans, touched[1:]) if method in FORMATS else spans


def without_sanitize(command: NvmeCommand, reply: NvmeReply) -> NvmeReply:
    """What an NVMe drive says, without that it can sanitize."""
    data = bytearray(reply.data)
    if command.io or not reply.good:
        return reply
    if command.opcode == _IDENTIFY and command.cdw10 & 0xFF == 0x01:
        data[328:332] = bytes(4)
    elif command.opcode == _LOG and command.cdw10 & 0xFF == 0x05:
        at = 4 * _SANITIZE - (command.cdw12 | command.cdw13 << 32)
        if 0 <= at <= len(data) - 4:
            data[at : at + 4] = bytes(4)
    return replace(reply, data=bytes(data))


def _namespaces(disk: Disk) -> list[Namespace]:
    found = disk.state.nvme.namespaces if disk.state.nvme else []
    return sorted(found, key=lambda one: one.nsid)


def _whole(namespace: Namespace) -> Span:
    """From its first block to its last on the medium."""
    return namespace.extents[0][0], namespace.extents[-1][1]


def _size(namespace: Namespace) -> int:
    return sum(end - first for first, end in namespace.extents) * 512


def _without(spans: Sequence[Span], namespaces: Sequence[Namespace]) -> Sequence[Span]:
    for namespace in namespaces:
        for first, end in namespace.extents:
            spans = without(spans, first, end)
    return spans


def _is_log(command: NvmeCommand, reply: NvmeReply, page: int) -> bool:
    """Whether this is the beginning of that log page."""
    first = not command.cdw12 and not command.cdw13 and len(reply.data) >= 20
    return not command.io and command.opcode == _LOG and command.cdw10 & 0xFF == page and reply.good and first


def _log(
    reply: NvmeReply, *, progress: int | None = None, status: int | None = None, command: int | None = None
) -> NvmeReply:
    """The sanitize status log with fields changed (base 2.0, 5.16.1.25)."""
    data = bytearray(reply.data)
    for at, size, value in ((0, 2, progress), (2, 2, status), (4, 4, command)):
        if value is not None:
            data[at : at + size] = value.to_bytes(size, "little")
    return replace(reply, data=bytes(data))


def _forget(disk: Disk, status: int) -> None:
    """A sanitize that was under way is not gone on with, and the log says ``status``."""
    if disk.state.sanitize.state == "running" and disk.state.nvme is not None:
        disk.state.sanitize = Sanitize()
        disk.state.nvme.sstat = status
        disk.state.nvme.clean = bool(status)
        if not status:
            disk.state.nvme.scdw10 = 0


NVME_LIES: tuple[type[Behaviour], ...] = (
    SkipsOneNamespace,
    LeavesDetached,
    HidesDetached,
    StaleSanitizeLog,
    SanitizeDoneAtOnce,
    ForgetsSanitize,
    SprogFull,
    ClaimsGlobalErased,
    FormatIgnoresSes,
    FormatsOneOfAll,
)
