"""standbye.run_image: config drive, then into the system by kexec or reboot, when the endpoint says go."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from teeth_agent import sysfs
from teeth_agent.errors import AgentError
from teeth_agent.image import boot, leave
from teeth_agent.image.params import read_run
from teeth_agent.inventory.block import Disk, list_disks
from teeth_agent.reporter import Reporter
from teeth_agent.tasks.context import TaskContext
from teeth_agent.tasks.prepare_image import candidates
from teeth_agent.tools import kexec

_MAX_HOLD = 300.0  # seconds between two questions of a machine that is told to wait


def run(
    params: Mapping[str, Any],
    context: TaskContext,
    reporter: Reporter,
    *,
    disks: Callable[[], Sequence[Disk]] = list_disks,
    depart: leave.Leave = leave.leave,
) -> dict[str, Any]:
    """Does not return when all goes well: ``depart`` ends this system.

    Raises ParamsError, DeviceError, AgentError: not_prepared, not_released, not_bootable, kexec_not_viable...
    """
    wanted, root = read_run(params), context.sysfs_root
    steps = _Steps(reporter, root)
    path = _prepared_path(wanted.image_id, context, disks())
    steps.next("config_drive")
    reporter.progress(5, step="config_drive")
    # The ramdisk's whole file system is memory: /tmp never reaches a disk.
    work = Path(tempfile.gettempdir())
    drive = boot.put_config_drive(path, wanted.config_drive, work=work)
    reporter.check_cancelled()
    steps.next("boot_check")
    reporter.progress(40, step="boot_check")
    check = boot.check_boot(path, root=root)
    steps.next("kexec_load")
    reporter.progress(50, step="kexec_load")
    departure = boot.choose_departure(path, wanted.boot, check, root=root, work=work)
    said: dict[str, Any] = {
        "image_id": wanted.image_id,
        "boot": departure.boot,
        "reason": departure.reason,
        "boot_id": context.boot_id,
        "kernel": departure.kernel,
        "disk_boot": {"firmware": check.firmware, "bootable": check.bootable, "reason": check.reason},
        "config_drive": drive.to_json(),
    }
    try:
        reporter.check_cancelled()
        steps.next("release")
        reporter.progress(80, step="prepared")
        _release(reporter, said, steps)
        context.sharing.close()
        leave.flush(path)
    except BaseException:
        kexec.unload()
        raise
    depart(departure.boot)
    return said


def _prepared_path(image_id: str, context: TaskContext, disks: Sequence[Disk]) -> str:
    """The device node that the prepared disk has now: names may change, identities do not."""
    fact = context.state.prepared(image_id)
    if fact is None:
        raise AgentError(
            f"no disk was prepared with image {image_id} since this ramdisk started", code="not_prepared"
        )
    found = [disk for disk in candidates(disks) if disk.identity == fact.identity]
    if len(found) != 1:
        raise AgentError(f"the prepared disk {fact.identity} is not there any more", code="device_missing")
    return found[0].path


class _Steps:
    """How long each step took, in the task's log: what a kexec saves against a reboot is measured by it."""

    def __init__(self, reporter: Reporter, root: Path) -> None:
        self._reporter = reporter
        self._root = root
        self._step = "find_disk"
        self._began = self._first = time.monotonic()

    def next(self, step: str) -> None:
        now = time.monotonic()
        self._reporter.log("info", "run_image_step", step=self._step, seconds=round(now - self._began, 3))
        self._step, self._began = step, now

    def leaving(self, how: str) -> None:
        """The last word before the machine goes; what comes after is flushing and the jump itself."""
        self.next("leave")
        uptime = (sysfs.read_text(self._root, "/proc/uptime", "") or "").partition(" ")[0]
        self._reporter.log(
            "info",
            "run_image_leaving",
            boot=how,
            seconds=round(time.monotonic() - self._first, 3),
            uptime=uptime,
        )


def _release(reporter: Reporter, said: Mapping[str, Any], steps: _Steps) -> None:
    """The two steps: home says go, then knows that we are gone. Raises AgentError(not_released)."""
    while (answer := reporter.checkpoint("prepared", **said)).get("go") is not True:
        # "Not yet" names the time to ask again; anything else is a no.
        wait = answer.get("retry_after")
        if not isinstance(wait, int | float) or not 0 < wait <= _MAX_HOLD:
            raise AgentError(
                "the endpoint did not say go; the machine stays in the ramdisk", code="not_released"
            )
        reporter.check_cancelled()
        time.sleep(wait)
    reporter.check_cancelled()
    reporter.progress(95, step="leaving")
    steps.leaving(str(said["boot"]))
    answer = reporter.checkpoint("leaving", **said)
    if "refused" in answer:
        raise AgentError("the endpoint did not take the message that we leave", code="not_released")
