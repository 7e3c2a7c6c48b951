"""decom.disk_erase: erase every disk of the machine, and prove it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teeth_agent import blockio, sysfs, udev
from teeth_agent.erase import leftovers, probe
from teeth_agent.erase.apart import plan_apart, recheck
from teeth_agent.erase.capabilities import PlainCapabilities
from teeth_agent.erase.execute import World, execute
from teeth_agent.erase.kernellog import KernelLog, open_kernel_log
from teeth_agent.erase.methods import Ports
from teeth_agent.erase.methods.ata_leftovers import Tries
from teeth_agent.erase.model import Medium, group_units, plain_name
from teeth_agent.erase.plan import ErasePlan, Probes, newcomers
from teeth_agent.erase.policy import Policy, read_policy
from teeth_agent.erase.protect import Action, Facts
from teeth_agent.erase.record import UnitRecord, late
from teeth_agent.erase.shared import shared_use
from teeth_agent.erase.teardown import Block, Teardown, carry_out, read_blocks
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

    ``blocks``: what is built upon what; ``stop`` carries a teardown out and tells what did not stop, and why;
    ``remove_traces`` removes what a system has left in the machine's firmware.
    """

    look: Callable[[], tuple[Medium, ...]]
    wait: Callable[[Policy], object]
    probe: Callable[[Sequence[Medium], Reporter], Probes]
    unaccounted: Callable[[], tuple[str, ...]]
    blocks: Callable[[], Mapping[str, Block]]
    stop: Callable[[Teardown], Sequence[tuple[str, str]]]
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
    if not policy.plan_only:
        context.sharing.close()  # it may be reading from a disk that is to be erased
    return erase(policy, this_machine(context.sysfs_root), context, reporter)


def erase(policy: Policy, machine: Machine, context: TaskContext, reporter: Reporter) -> dict[str, Any]:
    """``run`` on a given machine."""
    machine.wait(policy)
    media = machine.look()
    probes = machine.probe(media, reporter)
    plan, down = plan_apart(media, policy, probes, machine.unaccounted(), machine.blocks())
    if policy.plan_only:
        return {"plan": plan.to_json()}
    _check(plan)
    doomed = [medium for unit in plan.units if unit.action is Action.ERASE for medium in unit.unit.media]
    context.claim(medium.identity for medium in doomed)
    digest = plan.digest
    plan, left = _take_apart(plan, down, machine, reporter)
    with machine.kernel_log() as log:
        _forget_zero(context.state, doomed)
        records = execute(plan, machine.world, log, reporter)
    erased = [record.unit for record in records if record.unit is not None]
    records += [late(unit) for unit in newcomers(plan, machine.look(), erased)]
    for record in records:
        _remember_zero(context.state, record)
    result = _result(records, plan, context) | {"plan_digest": digest, **_apart_json(plan, left)}
    traces = _remove_traces(machine, reporter) if policy.firmware_traces else None
    if traces is not None:
        result["firmware_traces"] = traces.to_json()
    return conclude(records, plan, result, traces)


def _take_apart(
    plan: ErasePlan, down: Teardown, machine: Machine, reporter: Reporter
) -> tuple[ErasePlan, Sequence[tuple[str, str]]]:
    """Stop what the plan says; the plan for what is free then, and (name, reason) of what did not stop."""
    for name, reason in down.kept:
        reporter.log("warning", "not_taken_apart", device=name, reason=reason)
    if not down.stops:
        return plan, ()
    failed = machine.stop(down)
    machine.world.settle()
    for stop in plan.stops:
        if stop.name not in dict(failed):
            reporter.log("info", "taken_apart", device=stop.name, label=stop.label)
    for name, reason in failed:
        reporter.log("warning", "not_taken_apart", device=name, reason=reason)
    return recheck(plan, machine.look(), failed), failed


def _apart_json(plan: ErasePlan, failed: Sequence[tuple[str, str]]) -> dict[str, Any]:
    left = dict(failed)
    return {
        "stopped": [stop.to_json() for stop in plan.stops if stop.name not in left],
        "not_stopped": [{"name": name, "reason": reason} for name, reason in failed],
    }


def _remove_traces(machine: Machine, reporter: Reporter) -> Traces:
    traces = machine.remove_traces()
    for name, reason in traces.failed:
        reporter.log("warning", "trace_left", name=name, reason=reason)
    return traces


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
        blocks=lambda: _blocks(root),
        stop=lambda down: carry_out(down, root),
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


def conclude(
    records: Sequence[UnitRecord], plan: ErasePlan, result: dict[str, Any], traces: Traces | None = None
) -> dict[str, Any]:
    """The task's result; if it is not a success, AgentError(erase_incomplete) or Cancelled carries it."""
    required = plan.policy.required
    missed = [record for record in records if not record.satisfies(required)]
    if not missed:
        return _without_traces(traces, result)
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


def _without_traces(traces: Traces | None, result: dict[str, Any]) -> dict[str, Any]:
    """``result``; AgentError(erase_incomplete) when the firmware has kept what was to be removed."""
    if traces is None or not traces.failed:
        return result
    told = "; ".join(f"{name}: {reason}" for name, reason in traces.failed[:4])
    raise AgentError(
        f"every unit is erased, but the firmware keeps what an earlier system left: {told}",
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


def _blocks(root: Path) -> dict[str, Block]:
    """What is built upon what, and what is mounted or swapped to."""
    usage = read_usage(root)

    def uses(name: str) -> list[str]:
        number = sysfs.read_text(root, f"/sys/class/block/{name}/dev", "") or ""
        found = [f"{name} is mounted at {mount}" for mount in usage.mounts_of(name, number)]
        return found + ([f"{name} is used as swap"] if name in usage.swaps else [])

    return read_blocks(root, uses)


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
