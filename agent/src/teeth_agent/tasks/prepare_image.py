"""standbye.prepare_image: one image onto the root disk, verified."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from teeth_agent.blockio import BlockDevice, aligned_buffer, open_device
from teeth_agent.errors import AgentError, DeviceError
from teeth_agent.image import prepare, rootdisk
from teeth_agent.image.params import ImageSpec, read_prepare
from teeth_agent.image.write import VERIFY_METHOD
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
    with open_device(chosen.path, write=True) as device:
        done = _write(wanted.image, device, chosen.identity, context, reporter)
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
        "verified": True,
        "verify_method": VERIFY_METHOD,
        "seconds": round(time.monotonic() - began, 2),
    }


def _check_supported(image: ImageSpec) -> None:
    if (image.format, image.kind) != ("raw", "disk"):
        raise AgentError(
            f"params.image: {image.kind} images in {image.format} format cannot be written yet",
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
    image: ImageSpec, device: BlockDevice, identity: str, context: TaskContext, reporter: Reporter
) -> prepare.Prepared:
    prepare.check_fits(image, device)
    reads_zero = context.state.is_zero(identity)
    # From the first byte on it is neither zero nor prepared, however this ends.
    context.state.clear_zero(identity)
    done = prepare.write_image(image, device, reads_zero=reads_zero, reporter=reporter)
    head = aligned_buffer(16 * device.logical_block)
    device.read_into(0, head)
    prepare.settle_partitions(device, has_table=gpt.block_size_of(head) is not None)
    return done
