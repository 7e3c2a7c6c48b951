"""An NVMe drive: the tables of its commands, and a way to call it without any transport."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from teeth.lab.drives.media import Media, MemoryMedia
from teeth.lab.drives.model import StateStore
from teeth.lab.drives.nvme import features, firmware, format, identify, io, logs, namespaces, sanitize
from teeth.lab.drives.nvme.core import ALL, EVENT_REQUESTS, Core, Flash, Handler, Host, Operation
from teeth.lab.drives.nvme.spec import NvmeSpec
from teeth.lab.drives.submission import (
    Code,
    NvmeAnswer,
    NvmeCommand,
    NvmeRefused,
    NvmeReply,
    NvmeWait,
)

# Effects (base 2.0, 5.16.1.6): changes blocks, a namespace's or the controller's abilities, the inventory.
_BLOCKS, _ABILITIES, _INVENTORY, _CONTROLLER = 1 << 1, 1 << 2, 1 << 3, 1 << 4
_ALONE_IN_NAMESPACE, _ALONE = 1 << 16, 2 << 16


class NoCompletionError(Exception):
    """A command that never ends, or that needs time which nobody gave; ``wait`` tells till when."""

    def __init__(self, wait: NvmeWait) -> None:
        super().__init__("the command is never completed" if math.isinf(wait.until) else "it takes time")
        self.wait = wait


def _keep_alive(core: Core, host: Host, command: NvmeCommand) -> NvmeAnswer:
    """That a command came is all there is to it; whoever keeps the connection keeps the time."""
    return NvmeReply()


def _abort(core: Core, host: Host, command: NvmeCommand) -> NvmeAnswer:
    """Best effort (base 2.0, 5.1): nothing is aborted, and bit 0 says so."""
    return NvmeReply(result=1)


def _event_request(core: Core, host: Host, command: NvmeCommand) -> NvmeAnswer:
    """Waits for an event (base 2.0, 5.2). A transport keeps the request, and finishes it when it is told."""
    if (event := core.next_event(host)) is not None:
        return NvmeReply(result=event.result)
    if host.waiting >= EVENT_REQUESTS:
        raise NvmeRefused(Code.TOO_MANY_EVENT_REQUESTS)
    host.waiting += 1

    def told() -> NvmeAnswer:
        found = core.next_event(host)
        if found is None:
            return NvmeWait(until=math.inf, finish=told)
        host.waiting -= 1
        return NvmeReply(result=found.result)

    return NvmeWait(until=math.inf, finish=told)


def _row(opcode: int, name: str, section: str, handler: Handler, **rest: Any) -> Operation:
    return Operation(opcode=opcode, name=name, section=section, handler=handler, **rest)


def _table(rows: Iterable[Operation]) -> dict[int, Operation]:
    return {row.opcode: row for row in rows}


ADMIN_COMMANDS: Mapping[int, Operation] = _table(
    (
        _row(0x02, "Get Log Page", "5.16", logs.get_log_page, early=True),
        _row(0x06, "Identify", "5.17", identify.identify, early=True),
        _row(0x08, "Abort", "5.1", _abort, early=True),
        _row(0x09, "Set Features", "5.27", features.set_features, early=True),
        _row(0x0A, "Get Features", "5.15", features.get_features, early=True),
        _row(0x0C, "Asynchronous Event Request", "5.2", _event_request, early=True),
        _row(0x0D, "Namespace Management", "5.23", namespaces.management, effects=_INVENTORY),
        _row(0x10, "Firmware Commit", "5.12", firmware.commit, effects=_CONTROLLER),
        _row(0x11, "Firmware Image Download", "5.13", firmware.download),
        _row(0x15, "Namespace Attachment", "5.22", namespaces.attachment, effects=_INVENTORY),
        _row(0x18, "Keep Alive", "5.18", _keep_alive, early=True),
        _row(
            0x80, "Format NVM", "5.14", format.format_nvm, effects=_BLOCKS | _ABILITIES | _ALONE_IN_NAMESPACE
        ),
        _row(0x84, "Sanitize", "5.24", sanitize.sanitize, early=True, effects=_BLOCKS | _ALONE),
    )
)
IO_COMMANDS: Mapping[int, Operation] = _table(
    (
        _row(0x00, "Flush", "base 7.1", io.flush),
        _row(0x01, "Write", "3.2.6", io.write, effects=_BLOCKS),
        _row(0x02, "Read", "3.2.4", io.read),
        _row(0x05, "Compare", "3.2.1", io.compare),
        _row(0x08, "Write Zeroes", "3.2.8", io.write_zeroes, effects=_BLOCKS),
        _row(0x09, "Dataset Management", "3.2.3", io.dataset_management, effects=_BLOCKS),
        _row(0x0C, "Verify", "3.2.5", io.verify),
    )
)


def _tables(spec: NvmeSpec) -> tuple[dict[int, Operation], dict[int, Operation]]:
    """The commands that this drive has."""
    missing = {0x80: spec.formats, 0x84: bool(spec.sanitizes), 0x0D: spec.manages, 0x15: spec.manages}
    admin = {opcode: row for opcode, row in ADMIN_COMMANDS.items() if missing.get(opcode, True)}
    return admin, {opcode: row for opcode, row in IO_COMMANDS.items() if opcode != 0x09 or spec.unmap}


class NvmeController(Core):
    """An NVMe drive. Time is what ``clock`` says, in seconds; ``store`` keeps what no power cut takes.

    ``execute`` is what transports use. The other methods are for one host in the same process: a command that
    takes time is waited for by ``pause(seconds)``, which must move the clock; without it NoCompletionError is
    raised, and so it is for a command that never ends.
    """

    def __init__(
        self,
        spec: NvmeSpec,
        media: Media | None = None,
        *,
        clock: Callable[[], float],
        store: StateStore | None = None,
        pause: Callable[[float], None] | None = None,
    ) -> None:
        disk = Flash(spec, media or MemoryMedia(spec.media_size), store or StateStore(), clock)
        super().__init__(spec, disk, *_tables(spec))
        self._pause = pause
        self._host = Host(name="in-process")
        self.reset()
        self.come_up()

    def complete(self, command: NvmeCommand) -> NvmeReply:
        """Run a command to its end."""
        if self._host not in self.hosts:
            self.hosts.append(self._host)
        answer = self.execute(command, self._host)
        while isinstance(answer, NvmeWait):
            if self._pause is None or math.isinf(answer.until):
                raise NoCompletionError(answer)
            if (left := answer.until - self.disk.clock()) > 0:
                self._pause(left)
            else:
                answer = answer.finish()
        return answer

    def admin(
        self, opcode: int, *, nsid: int = 0, cdw10: int = 0, cdw11: int = 0, cdw12: int = 0, cdw13: int = 0,
        cdw14: int = 0, cdw15: int = 0, data: bytes = b"",
    ) -> tuple[int, int, bytes]:  # fmt: skip
        """An admin command: (status, SCT << 8 | SC, 0 for good; dword 0 of the completion; data)."""
        reply = self.complete(
            NvmeCommand(
                opcode=opcode, nsid=nsid, cdw10=cdw10, cdw11=cdw11, cdw12=cdw12, cdw13=cdw13, cdw14=cdw14,
                cdw15=cdw15, data=data,
            )
        )  # fmt: skip
        return reply.status, reply.result, reply.data

    def io(
        self, opcode: int, nsid: int, *, lba: int = 0, count: int = 0, data: bytes = b"", flags: int = 0
    ) -> tuple[int, bytes]:
        """An I/O command on ``count`` blocks: (status, data). ``flags`` go to dword 12."""
        words = {"cdw10": lba & ALL, "cdw11": lba >> 32, "cdw12": flags | max(0, count - 1)}
        reply = self.complete(NvmeCommand(opcode=opcode, nsid=nsid, data=data, io=True, **words))
        return reply.status, reply.data

    def read(self, nsid: int, lba: int, count: int) -> tuple[int, bytes]:
        """(status, data) of ``count`` blocks, 1 MiB at most."""
        return self.io(0x02, nsid, lba=lba, count=count)

    def write(self, nsid: int, lba: int, data: bytes, *, through: bool = False) -> int:
        """The status of writing whole blocks, 1 MiB at most; ``through`` the write cache."""
        namespace = self.active(nsid)
        sector = namespace.sector if namespace else 512
        flags = 1 << 30 if through else 0
        return self.io(0x01, nsid, lba=lba, count=len(data) // sector, data=data, flags=flags)[0]

    def flush(self, nsid: int) -> int:
        """The status of writing back what is in the cache."""
        return self.io(0x00, nsid)[0]
