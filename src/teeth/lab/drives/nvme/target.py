"""An NVMe/TCP target: drives by their subsystems' names, and discovery (NVMe base 2.0, 6.3)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from teeth.errors import TeethError
from teeth.lab.drives.nvme.association import QUEUE_SIZE, Association, Subsystem
from teeth.lab.drives.nvme.core import CONTROLLER_ID, Host
from teeth.lab.drives.nvme.discovery import DISCOVERY, Discovery, Record
from teeth.lab.drives.nvme.fields import take
from teeth.lab.drives.nvme.queue import CONTROLLER_BUSY, Entry, Queue
from teeth.lab.drives.nvme.served import ServedNvme
from teeth.lab.drives.submission import NvmeRefused

_log = logging.getLogger(__name__)
CONNECTIONS = 128
ASSOCIATIONS = 32
_FORMAT, _PARAMETERS = 0x180, 0x182
_ANY = (0xFFFF, 0xFFFE, CONTROLLER_ID)
_DATA = 1 << 16  # the wrong parameter is in the data, not in the command


class Target:
    """The drives on one address. ``advertised``: what discovery says instead of that address."""

    def __init__(self, drives: Sequence[ServedNvme], *, advertised: str = "") -> None:
        self._drives = drives
        self._advertised = advertised
        self._subsystems: dict[str, Subsystem] = {drive.address: drive for drive in drives}
        self._subsystems[DISCOVERY] = Discovery(self._records)
        self._associations: list[Association] = []
        self._open: dict[asyncio.Task[None], None] = {}
        self.host, self.port = "", 0

    def _records(self) -> list[Record]:
        host = self._advertised or self.host
        return [Record(nqn=drive.address, host=host, port=self.port) for drive in self._drives if drive.there]

    @asynccontextmanager
    async def listen(self, host: str, port: int) -> AsyncIterator[tuple[str, int]]:
        """Serve while the block runs; yields the address. Raises TeethError when it cannot be had."""
        async with AsyncExitStack() as stack:
            try:
                server = await asyncio.start_server(self._connected, host, port)
            except OSError as error:
                raise TeethError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
            stack.callback(server.close)
            self.host, self.port = server.sockets[0].getsockname()[:2]
            for drive in self._drives:
                drive.portal = self.host, self.port
                stack.push_async_callback(_stop, asyncio.create_task(drive.tick()))
            stack.push_async_callback(self._end_all)
            yield self.host, self.port

    async def _end_all(self) -> None:
        for task in list(self._open):
            await _stop(task)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = None
        try:
            if len(self._open) <= CONNECTIONS:
                await Queue(reader, writer, self).serve()
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            _log.info("connection ended: %s", str(error) or type(error).__name__)
        except asyncio.CancelledError:
            pass  # the server ends; nobody waits for this task's outcome
        finally:
            self._open.pop(task, None)
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    # --- Connect (6.3)

    def connect(self, queue: Queue, entry: Entry, data: bytes) -> Association:
        """See Joiner."""
        number, size = take(entry.raw, 42, 2), take(entry.raw, 44, 2) + 1
        if take(entry.raw, 40, 2):
            raise NvmeRefused(_FORMAT)
        if entry.descriptor != 0x01 or entry.length < 1024 or len(data) < 1024:
            raise NvmeRefused(_PARAMETERS, result=24)
        if not 2 <= size <= QUEUE_SIZE:
            raise NvmeRefused(_PARAMETERS, result=44)
        name = data[256:512].split(b"\0")[0].decode("utf-8", "replace")
        subsystem = self._subsystems.get(name)
        if subsystem is None:
            raise NvmeRefused(_PARAMETERS, result=256 | _DATA)
        if not subsystem.there:
            # Without an answer Linux waits for it a whole minute before it tries again.
            raise NvmeRefused(CONTROLLER_BUSY)
        if take(data, 16, 2) not in _ANY:
            raise NvmeRefused(_PARAMETERS, result=16 | _DATA)
        if number:
            association = self._join(subsystem, data[:16], number)
        else:
            association = self._associate(subsystem, data, take(entry.raw, 48, 4))
        queue.number, queue.size = number, size
        association.ends[number] = queue.drop
        return association

    def _associate(self, subsystem: Subsystem, data: bytes, keep_alive: int) -> Association:
        self._associations = [one for one in self._associations if not one.over]
        if len(self._associations) >= ASSOCIATIONS:
            raise NvmeRefused(CONTROLLER_BUSY)
        name = data[512:768].split(b"\0")[0].decode("utf-8", "replace")
        host = Host(name=name, keep_alive=keep_alive)
        association = Association(subsystem=subsystem, host_id=data[:16], host=host)
        self._associations.append(association)
        subsystem.began(host, association.end)
        return association

    def _join(self, subsystem: Subsystem, host_id: bytes, number: int) -> Association:
        """An I/O queue goes to the host's newest association that has no such queue."""
        for one in reversed(self._associations):
            if one.subsystem is subsystem and one.host_id == host_id and not one.over:
                if not one.ready or number > min(one.host.queues, subsystem.queues) or number in one.ends:
                    continue
                return one
        raise NvmeRefused(_PARAMETERS, result=42)


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
