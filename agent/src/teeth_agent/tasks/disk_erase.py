"""decom.disk_erase: erase every disk of the machine, and prove it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from teeth_agent import blockio, sysfs, udev
from teeth_agent.erase import leftovers, probe, teardown
from teeth_agent.erase.capabilities import PlainCapabilities
from teeth_agent.erase.execute import World, execute
from teeth_agent.erase.kernellog import KernelLog, open_kernel_log
from teeth_agent.erase.methods import Ports
from teeth_agent.erase.methods.ata_leftovers import Tries
from teeth_agent.erase.model import Grade, Medium, group_units, plain_name
from teeth_agent.erase.plan import ErasePlan, Probes, newcomers, plan_erase
from teeth_agent.erase.policy import Policy, read_policy
from teeth_agent.erase.protect import Action, Facts
from teeth_agent.erase.record import UnitRecord, late
from teeth_agent.erase.shared import shared_use
from teeth_agent.erase.traces import Traces, remove_traces
from teeth_agent.errors import AgentError, Cancelled
from teeth_agent.inventory.block import Disk, list_disks
from teeth_agent.inventory.controllers import unaccounted
from teeth_agent.inventory.mounts import read_usage
from teeth_agent.passthrough.nvme import open_nvme
from teeth_agent.passthrough.scsi import open_scsi
from teeth_agent.reporter import Reporter
from teeth_agent.tasks.context import SharedState, TaskContext
from teeth_agent.tools import blkid, mount, udevadm

METHOD = "decom.disk_erase"

# SCSI buses are scanned in the background, and large drives spin up slowly.
_SETTLE_SECONDS = 30
_DISKS_SECONDS = 15
_START_SECONDS = 120.0
# In memory, so that it lasts as long as the power that the drives count by.
_TRIES = Path("/run/teeth/ata-tries.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The machine to be erased. ``look`` lists its media as they are now; ``wait`` for those to come.

    ``stoppable`` names what is assembled on disks of these names and can be stopped; ``take_apart`` stops it,
    and tells what it could not, and why. ``remove_traces`` removes what a system has left in the firmware.
    """

    look: Callable[[], tuple[Medium, ...]]
    wait: Callable[[Policy], object]
    probe: Callable[[Sequence[Medium], Reporter], Probes]
    unaccounted: Callable[[], tuple[str, ...]]
    stoppable: Callable[[Sequence[str]], Sequence[str]]
    take_apart: Callable[[Sequence[str]], Sequence[tuple[str, str]]]
    remove_traces: Callable[[], Traces]
    world: World
    kernel_log: Callable[[], AbstractContextManager[KernelLog]]


def run(params: Mapping[str, Any], context: TaskContext, reporter: Reporter) -> dict[str, Any]:
    """Erase, or with ``plan: true`` only say what would be done.

    Raises ParamsError; AgentError(no_disk | plan_changed | exclude_unmatched | device_busy) before anything
    was touched; and when a unit that is not excluded misses the required grade AgentError(erase_incomplete),
    or Cancelled, with the whole result in ``detail``.
    """
    policy = read_policy(params)
    # The look at the start may be taking a password away just now: two at a drive would be one too many.
    context.drives_free(_START_SECONDS)
    return erase(policy, this_machine(context.sysfs_root), context, reporter)


def erase(policy: Policy, machine: Machine, context: TaskContext, reporter: Reporter) -> dict[str, Any]:
    """``run`` on a given machine."""
    machine.wait(policy)
    media = machine.look()
    below = _may_be_erased(media, policy)
    free = _without_holders(media, machine.stoppable(below))
    probes, hidden = machine.probe(media, reporter), machine.unaccounted()
    plan = plan_erase(free, policy, probes, hidden)
    if policy.plan_only:
        return {"plan": plan.to_json()}
    _check(plan)
    if free != media:
        for name, reason in machine.take_apart(below):
            reporter.log("warning", "not_taken_apart", device=name, reason=reason)
        plan = plan_erase(machine.look(), policy, probes, hidden)
    doomed = [medium for unit in plan.units if unit.action is Action.ERASE for medium in unit.unit.media]
    context.claim(medium.identity for medium in doomed)
    with machine.kernel_log() as log:
        _forget_zero(context.state, doomed)
        records = execute(plan, machine.world, log, reporter)
    erased = [record.unit for record in records if record.unit is not None]
    records += [late(unit) for unit in newcomers(plan, machine.look(), erased)]
    for record in records:
        _remember_zero(context.state, record)
    result = _result(records, plan, context)
    if policy.firmware_traces:
        traces = machine.remove_traces()
        result["firmware_traces"] = traces.to_json()
        for name, reason in traces.failed:
            reporter.log("warning", "trace_left", name=name, reason=reason)
    return conclude(records, plan, result)


def this_machine(root: Path) -> Machine:
    """The machine that this runs on, its /sys and /proc below ``root``."""

    def look() -> tuple[Medium, ...]:
        return tuple(to_medium(disk) for disk in list_disks(root))

    ports = the_ports()
    return Machine(
        look=look,
        wait=lambda policy: _wait_for_disks(policy, root),
        probe=lambda media, reporter: probe_units(
            media, ports, reporter, lambda devnode: blkid.probe_device(devnode).kind
        ),
        unaccounted=lambda: unaccounted(root),
        stoppable=lambda disks: _plan_teardown(disks, root).stops,
        take_apart=lambda disks: _take_apart(disks, root),
        remove_traces=lambda: remove_traces(mount_pstore=mount.mount_pstore),
        world=World(
            open=blockio.open_device,
            ports=ports,
            look=look,
            settle=lambda: udevadm.settle(_SETTLE_SECONDS),
            tries=the_tries(),
        ),
        kernel_log=open_kernel_log,
    )


def the_ports() -> Ports:
    """The ways to this machine's drives."""
    return Ports(open_scsi=open_scsi, open_nvme=open_nvme)


def the_tries() -> Tries:
    """The count of wrong passwords of this boot."""
    return Tries(_TRIES)


def _result(records: Sequence[UnitRecord], plan: ErasePlan, context: TaskContext) -> dict[str, Any]:
    required = plan.policy.required
    kernel = sysfs.read_text(context.sysfs_root, "/proc/sys/kernel/osrelease")
    environment = {"boot_id": context.boot_id, "kernel": kernel}
    return {
        "units": [{**record.to_json(), "environment": environment} for record in records],
        "out_of_scope": [{"name": name, "reason": reason} for name, reason in plan.out_of_scope],
        "required_grade": required.value,
        "plan_digest": plan.digest,
        "complete": all(record.satisfies(required) for record in records),
    }


def conclude(records: Sequence[UnitRecord], plan: ErasePlan, result: dict[str, Any]) -> dict[str, Any]:
    """The task's result; if it is not a success, AgentError(erase_incomplete) or Cancelled carries it."""
    required = plan.policy.required
    missed = [record for record in records if not record.satisfies(required)]
    if not missed:
        return result
    told = "; ".join(
        f"{record.name}: {record.outcome.value} ({record.code}: {record.reason[:160]})"
        for record in missed[:4]
    )
    if any(record.code == "cancelled" for record in missed):
        raise Cancelled(f"erase stopped before its end: {told}", detail=result)
    raise AgentError(
        f"{len(missed)} of {len(records)} units are not proven to be erased to {required.value}: {told}",
        code="erase_incomplete",
        detail=result,
    )


def to_medium(disk: Disk) -> Medium:
    """The inventory's disk in erasing's words."""
    return Medium(
        name=disk.name,
        devnode=disk.devnode,
        sysfs_path=disk.sysfs_path,
        serial=disk.serial,
        wwn=disk.wwn,
        vendor=disk.vendor,
        model=disk.model,
        firmware=disk.firmware,
        transport=disk.transport,
        size=disk.size,
        logical_block=disk.logical_block,
        rotational=disk.rotational,
        removable=disk.removable,
        read_only=disk.read_only,
        diskseq=disk.diskseq,
        controller=disk.controller,
        namespace=disk.namespace,
        in_use=disk.in_use,
        partitions=tuple(partition.name for partition in disk.partitions),
        out_of_scope=disk.out_of_scope,
        virtual_media=disk.virtual_media,
    )


def _may_be_erased(media: Sequence[Medium], policy: Policy) -> list[str]:
    """Names of the disks that no rule of the command spares: only on those is anything stopped."""
    # Nobody has been asked yet what it can do: any grade will do here.
    policy = replace(policy, required=Grade.CLEAR)
    plan = plan_erase(tuple(replace(medium, in_use=()) for medium in media), policy, Probes())
    return [medium.name for unit in plan.units if unit.action is Action.ERASE for medium in unit.unit.media]


def _without_holders(media: tuple[Medium, ...], stops: Sequence[str]) -> tuple[Medium, ...]:
    """The media as they are once these holders are stopped: a plan must say what will be done."""
    ends = tuple(f" is held by {name}" for name in stops)
    return tuple(
        replace(medium, in_use=tuple(reason for reason in medium.in_use if not reason.endswith(ends)))
        if ends
        else medium
        for medium in media
    )


def _plan_teardown(disks: Sequence[str], root: Path) -> teardown.Teardown:
    usage = read_usage(root)

    def uses(name: str) -> list[str]:
        number = sysfs.read_text(root, f"/sys/class/block/{name}/dev", "") or ""
        found = [f"{name} is mounted at {mount}" for mount in usage.mounts_of(name, number)]
        return found + ([f"{name} is used as swap"] if name in usage.swaps else [])

    return teardown.plan_teardown(disks, teardown.read_blocks(root, uses))


def _take_apart(disks: Sequence[str], root: Path) -> list[tuple[str, str]]:
    wanted = _plan_teardown(disks, root)
    return [*wanted.kept, *teardown.carry_out(wanted, root)]


def _wait_for_disks(policy: Policy, root: Path) -> None:
    """Give buses that are still being scanned their time: a disk that comes late must not go unseen."""
    udevadm.settle(_SETTLE_SECONDS)
    if not policy.expect_none:
        udev.wait_for_disks(lambda records: _all_there(list_disks(root, records), policy), _DISKS_SECONDS)


def _all_there(found: Sequence[Disk], policy: Policy) -> bool:
    disks = [disk for disk in found if disk.out_of_scope is None]
    known = {plain_name(name) for disk in disks for name in (disk.serial, disk.wwn) if name}
    named = {plain_name(name) for name in (policy.expected or frozenset()) | policy.allow}
    return bool(disks) and named <= known


def _check(plan: ErasePlan) -> None:
    policy = plan.policy
    if policy.plan_digest is not None and policy.plan_digest != plan.digest:
        raise AgentError(
            "the machine is not as it was when the plan was made",
            code="plan_changed",
            detail={"plan": plan.to_json()},
        )
    if plan.unspared:
        # A slip of the pen in the name of the one drive that was to be kept would otherwise erase it.
        raise AgentError(
            f"params.exclude names {plan.unspared[0]}, and no disk here is called that: nothing was touched",
            code="exclude_unmatched",
            detail={"plan": plan.to_json()},
        )
    if not plan.units and not policy.expect_none:
        raise AgentError(
            "this machine shows no disk to erase", code="no_disk", detail={"plan": plan.to_json()}
        )


def probe_units(
    media: Sequence[Medium], ports: Ports, reporter: Reporter, content: Callable[[str], str | None]
) -> Probes:
    """Ask the drives what they can do; one that does not answer is only overwritten.

    ``content``: what blkid calls the file system on a device node.
    """
    found: dict[str, Facts] = {}
    for unit in group_units(tuple(medium for medium in media if medium.out_of_scope is None)):
        name = unit.first.name
        try:
            found[name] = Facts(
                capabilities=probe.ask(unit, ports),
                busy=leftovers.standing(unit, ports),
                shared_use=shared_use(unit, ports, content),
            )
        except AgentError as error:
            reporter.log("warning", "probe_failed", unit=name, reason=str(error))
            reason = f"it does not say what it can do: {error}"
            found[name] = Facts(capabilities=PlainCapabilities(reason=reason))
    return Probes(facts=found)


def _forget_zero(state: SharedState, media: Sequence[Medium]) -> None:
    for medium in media:
        state.clear_zero(medium.identity)


def _remember_zero(state: SharedState, record: UnitRecord) -> None:
    if not record.known_zero or record.unit is None:
        return
    for medium in record.unit.media:
        state.mark_zero(medium.identity)
