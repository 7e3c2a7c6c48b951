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
from teeth.lab.drives.sata import SataDrive
from teeth.lab.drives.scsi import ScsiDrive
from teeth.lab.drives.served import Served
from teeth.lab.drives.spec import DriveEntry, ServeSpec
from teeth.lab.drives.target import Target
from teeth.lab.drives.unit import Unit

IQN = "iqn.2015-01.lab.teeth"


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What is served: the target, and each drive's address."""

    target: Target
    drives: tuple[Served, ...]
    host: str
    port: int

    def url(self, served: Served) -> str:
        """As libiscsi and QEMU write it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"iscsi://{host}:{self.port}/{served.iqn}/0"


def make_drive(entry: DriveEntry, *, clock: Callable[[], float] = time.monotonic) -> Unit:
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
        media = FileMedia(entry.file, entry.spec.media_size)
        store = StateStore(entry.file.with_name(entry.file.name + ".json"))
    kind = SataDrive if entry.kind == "sata" else ScsiDrive
    return kind(entry.spec, media, clock=clock, store=store)


@asynccontextmanager
async def serve(spec: ServeSpec) -> AsyncIterator[Serving]:
    """Serve the drives of ``spec`` while the block runs. Raises TeethError for what cannot be had."""
    async with AsyncExitStack() as stack:
        drives = []
        for entry in spec.drives:
            unit = make_drive(entry)
            name = entry.spec.name
            served = Served(name=name, iqn=f"{IQN}:{name}", unit=unit)
            stack.callback(served.close)
            for text in entry.behaviours:
                served.add(text)
            drives.append(served)
        await stack.enter_async_context(listen(Control(drives), spec.control))
        target = Target(drives, user=spec.user, secret=spec.secret)
        host, port = await stack.enter_async_context(target.listen(spec.host, spec.port))
        yield Serving(target=target, drives=tuple(drives), host=host, port=port)
