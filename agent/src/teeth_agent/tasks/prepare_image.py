"""standbye.prepare_image: one image onto the root disk, verified."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from teeth_agent import sysfs
from teeth_agent.blockio import BlockDevice, aligned_buffer, open_device
from teeth_agent.errors import AgentError, DeviceError
from teeth_agent.image import headcheck, memory, prepare, rootdisk, rootinstall, systemcheck, trust
from teeth_agent.image.grow import grow
from teeth_agent.image.params import ImageSpec, PrepareParams, read_prepare
from teeth_agent.image.source import Deadline
from teeth_agent.image.sourcing import open_source
from teeth_agent.inventory.block import Disk, list_disks
from teeth_agent.reporter import Reporter
from teeth_agent.tasks.context import PreparedDisk, TaskContext
from teeth_image import gpt


def run(
    params: Mapping[str, Any],
    context: TaskContext,
    reporter: Reporter,
    *,
    disks: Callable[[], Sequence[Disk]] = list_disks,
) -> dict[str, Any]:
    """Raises ParamsError, AgentError, DeviceError: then the disk does not boot and is not called prepared."""
    wanted = read_prepare(params)
    _check_supported(wanted.image)
    chosen = rootdisk.choose(candidates(disks()), wanted.hints, wanted.skip)
    if chosen.in_use:
        raise DeviceError(f"{chosen}: {'; '.join(chosen.in_use)}", code="device_busy")
    context.claim([chosen.identity])
    began = time.monotonic()
    reporter.log(
        "info",
        "image_chosen_disk",
        image=wanted.image.id,
        disk=chosen.name,
        serial=chosen.serial,
        wwn=chosen.wwn,
    )
    memory.reset_peak()
    write = _write_root if wanted.image.kind == "root" else _write
    with open_device(chosen.path, write=True) as device:
        done = write(wanted, device, chosen, context, reporter)
        grown = grow(device, wanted.grow)
    if wanted.image.kind == "disk":
        systemcheck.check_or_undo(
            chosen.path,
            machine=platform.machine(),
            work=Path(tempfile.gettempdir()),
            root=context.sysfs_root,
        )
    context.state.set_prepared(
        PreparedDisk(image_id=wanted.image.id, identity=chosen.identity, digest=wanted.image.digest)
    )
    return {
        "image_id": wanted.image.id,
        "digest": wanted.image.digest,
        "disk": {"name": chosen.name, "serial": chosen.serial, "wwn": chosen.wwn, "size": chosen.size},
        "raw_bytes": done.raw_bytes,
        "written_bytes": done.written_bytes,
        "skipped_bytes": done.skipped_bytes,
        "zero_bytes": done.zero_bytes,
        "fetch_restarts": done.restarts,
        "source": done.source,
        "fetched_bytes": done.fetched_bytes,
        "peer_bytes": done.peer_bytes,
        "verified": True,
        "verify_method": done.verify_method,
        "seconds": round(time.monotonic() - began, 2),
        "grown": grown.what,
        "grow_reason": grown.reason,
        "peak_memory_bytes": memory.peak(),
    }


def _check_supported(image: ImageSpec) -> None:
    if image.format == "qcow2" and image.compression != "none":
        raise AgentError(
            f"params.image: a qcow2 file cannot be read below {image.compression}: serve it as it is",
            code="image_format",
        )


def candidates(disks: Sequence[Disk]) -> list[rootdisk.Candidate]:
    """The machine's own drives that can be written."""
    return [
        rootdisk.Candidate(
            identity=disk.identity,
            path=disk.devnode,
            name=disk.name,
            size=disk.size,
            serial=disk.serial,
            wwn=disk.wwn,
            model=disk.model,
            rotational=disk.rotational,
            by_path=disk.by_path,
            hctl=disk.hctl,
            in_use=disk.in_use,
        )
        for disk in disks
        if disk.out_of_scope is None and disk.virtual_media is None and not disk.read_only
    ]


def _write(
    wanted: PrepareParams,
    device: BlockDevice,
    chosen: rootdisk.Candidate,
    context: TaskContext,
    reporter: Reporter,
) -> prepare.Prepared:
    prepare.check_fits(wanted.image, device)
    reads_zero = context.state.is_zero(chosen.identity)
    with open_source(wanted.image, context.cache, deadline=Deadline(wanted.deadline)) as source:
        trust.check(source.manifest, key=context.image_key)
        done = prepare.write_image(
            wanted.image,
            device,
            source,
            reads_zero=reads_zero,
            seeks=chosen.rotational is True,
            reporter=reporter,
            check_head=headcheck.of_disk(device),
            # From the first byte on it is neither zero nor prepared, however this ends.
            touch=lambda: context.state.clear_zero(chosen.identity),
        )
    head = aligned_buffer(16 * device.logical_block)
    device.read_into(0, head)
    prepare.settle_partitions(device, has_table=gpt.block_size_of(head) is not None)
    return done


def _write_root(
    wanted: PrepareParams,
    device: BlockDevice,
    chosen: rootdisk.Candidate,
    context: TaskContext,
    reporter: Reporter,
) -> prepare.Prepared:
    """A file system or a tar: partitions and boot loader are made here."""
    image, machine = wanted.image, platform.machine()
    rootinstall.check(image, device, machine=machine)
    reads_zero, seeks = context.state.is_zero(chosen.identity), chosen.rotational is True
    with open_source(image, context.cache, deadline=Deadline(wanted.deadline)) as source:
        trust.check(source.manifest, key=context.image_key)
        context.state.clear_zero(chosen.identity)
        done = rootinstall.install(
            image,
            device,
            source,
            reporter,
            write_filesystem=lambda window: prepare.write_image(
                image,
                window,
                source,
                reads_zero=reads_zero,
                seeks=seeks,
                reporter=reporter,
                check_head=headcheck.of_filesystem,
            ),
            machine=machine,
            command_line=sysfs.read_text(context.sysfs_root, "/proc/cmdline", "") or "",
        )
    return prepare.Prepared(
        raw_bytes=done.raw_bytes,
        written_bytes=done.written_bytes,
        skipped_bytes=done.skipped_bytes,
        zero_bytes=done.zero_bytes,
        restarts=source.restarts,
        source=source.kind,
        fetched_bytes=source.fetched_bytes,
        peer_bytes=source.peer_bytes,
        verify_method=done.verify_method,
    )
