"""Drives from a file, served: what `teeth lab drive serve` runs."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from teeth.errors import TeethError
from teeth.lab.drives.control import Control, listen
from teeth.lab.drives.media import FileMedia, Media, MemoryMedia
from teeth.lab.drives.model import StateStore
from teeth.lab.drives.nvme import NvmeController, NvmeSpec
from teeth.lab.drives.nvme.served import ServedNvme
from teeth.lab.drives.nvme.target import Target as NvmeTarget
from teeth.lab.drives.sata import SataDrive
from teeth.lab.drives.scsi import ScsiDrive
from teeth.lab.drives.served import Served, ServedDrive
from teeth.lab.drives.spec import DriveEntry, ServeSpec
from teeth.lab.drives.target import Target
from teeth.lab.drives.unit import Unit
from teeth.lab.pattern import create_dirty_disk

IQN = "iqn.2015-01.lab.teeth"


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What is served: ``drives`` by iSCSI at ``host`` and ``port``, ``nvme`` drives by NVMe/TCP."""

    target: Target
    drives: tuple[Served, ...]
    host: str
    port: int
    nvme: tuple[ServedNvme, ...] = ()

    @property
    def all(self) -> tuple[ServedDrive, ...]:
        return (*self.drives, *self.nvme)

    def url(self, served: ServedDrive) -> str:
        """As libiscsi and QEMU write it; of an NVMe drive `nvme-tcp://ADDRESS:PORT/NQN`."""
        if isinstance(served, ServedNvme):
            return served.url
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"iscsi://{host}:{self.port}/{served.address}/0"


def make_drive(entry: DriveEntry, *, clock: Callable[[], float] = time.monotonic) -> Unit | NvmeController:
    """The drive of an entry over its file, or over memory. The state lies beside the file, in `FILE.json`.

    The drive was powered down since, so it comes up with a power cycle, as a real one would.
    Raises TeethError for files that cannot be used.
    """
    media: Media
    if entry.file is None:
        media, store = MemoryMedia(entry.spec.media_size), StateStore()
    else:
        if not entry.file.parent.is_dir():
            raise TeethError(f"drive {entry.spec.name}: there is no folder {entry.file.parent}")
        state = entry.file.with_name(entry.file.name + ".json")
        if entry.fill:
            state.unlink(missing_ok=True)
            create_dirty_disk(entry.file, entry.spec.media_size, entry.spec.serial)
        media = FileMedia(entry.file, entry.spec.media_size)
        store = StateStore(state)
    if isinstance(entry.spec, NvmeSpec):
        return NvmeController(entry.spec, media, clock=clock, store=store)
    kind = SataDrive if entry.kind == "sata" else ScsiDrive
    return kind(entry.spec, media, clock=clock, store=store)


def _served(entry: DriveEntry) -> Served | ServedNvme:
    made, name = make_drive(entry), entry.spec.name
    if isinstance(made, NvmeController):
        return ServedNvme(name=name, controller=made)
    return Served(name=name, iqn=f"{IQN}:{name}", unit=made)


@asynccontextmanager
async def serve(spec: ServeSpec) -> AsyncIterator[Serving]:
    """Serve the drives of ``spec`` while the block runs. Raises TeethError for what cannot be had."""
    async with AsyncExitStack() as stack:
        drives: list[Served] = []
        nvme: list[ServedNvme] = []
        for entry in spec.drives:
            served = _served(entry)
            stack.callback(served.close)
            for text in entry.behaviours:
                served.add(text)
            if isinstance(served, ServedNvme):
                nvme.append(served)
            else:
                drives.append(served)
        await stack.enter_async_context(listen(Control([*drives, *nvme]), spec.control))
        target, host, port = Target(drives, user=spec.user, secret=spec.secret), "", 0
        if drives:
            host, port = await stack.enter_async_context(target.listen(spec.host, spec.port))
        if nvme:
            over_nvme = NvmeTarget(nvme, advertised=spec.nvme_advertised)
            await stack.enter_async_context(over_nvme.listen(spec.nvme_host, spec.nvme_port))
        yield Serving(target=target, drives=tuple(drives), host=host, port=port, nvme=tuple(nvme))
