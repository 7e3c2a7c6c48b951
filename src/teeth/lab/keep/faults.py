"""What can go wrong with a machine that runs: a table of faults, and how each begins and ends over QMP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from teeth.errors import UsageError
from teeth.lab.blocknodes import IoError, Op, failing, failing_name, top
from teeth.lab.cabling import Relay
from teeth.lab.disk import VirtualDisk, plugged
from teeth.lab.link import LinkQuality
from teeth.lab.running import RunningMachine
from teeth.lab.tabledisks import read_error
from teeth.lab.tables import Table, near, parse_seconds, parse_size

_MIB = 1 << 20
_UNPLUG_SECONDS = (
    60.0  # a guest lets go of a PCI Express device after the five seconds of its button, or later
)
_MEMORY_LEAST = 64 * _MIB
POWER_CUT = "power-cut"
Act = Callable[[RunningMachine, "Fault"], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault as it was asked for: ``target`` names a card or a disk, ``settings`` its rest."""

    kind: str
    target: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    off: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A fault that there is. ``target``: "nic", "disk" or "". ``end`` None: it is over when it has begun."""

    text: str
    begin: Act
    end: Act | None = None
    target: str = ""
    settings: tuple[str, ...] = ()


def parse_fault(kind: str, words: Sequence[str], *, off: bool) -> Fault:
    """``KIND [TARGET] [NAME=VALUE...]`` as typed. Raises UsageError for what no fault is."""
    known = KINDS.get(kind)
    if known is None:
        raise UsageError(f"there is no fault {kind}{near(kind, KINDS)}")
    targets = [word for word in words if "=" not in word]
    settings = dict(word.split("=", 1) for word in words if "=" in word)
    if len(targets) > (1 if known.target else 0):
        raise UsageError(f"{kind}: {targets[-1]!r} is too much", hint=known.text)
    for name in settings:
        if name not in known.settings:
            raise UsageError(f"{kind} has no {name}{near(name, known.settings)}")
    if off and known.end is None:
        raise UsageError(f"{kind} is over as soon as it has begun: there is nothing to end")
    return Fault(kind=kind, target=targets[0] if targets else "", settings=settings, off=off)


async def apply(running: RunningMachine, fault: Fault) -> None:
    """Let a fault begin, or end. Raises TeethError when the machine cannot have it."""
    kind = KINDS[fault.kind]
    act = kind.end if fault.off else kind.begin
    assert act is not None  # parse_fault has seen to it
    await act(running, fault)


# --- targets


def find_nic(running: RunningMachine, fault: Fault) -> int:
    """The card that the target names: nic0, or its MAC address; the first without one."""
    names = {f"nic{n}": n for n in range(len(running.machine.nics))}
    names |= {nic.mac: n for n, nic in enumerate(running.machine.nics)}
    return _find("card", fault.target.lower() or "nic0", names)


def find_disk(running: RunningMachine, fault: Fault) -> int:
    """The disk that the target names: disk0, or its serial; the first without one."""
    names = {f"disk{n}": n for n in range(len(running.machine.disks))}
    names |= {disk.serial: n for n, disk in reversed(list(enumerate(running.machine.disks)))}
    return _find("disk", fault.target or "disk0", names)


def _find(what: str, name: str, names: Mapping[str, int]) -> int:
    if name not in names:
        raise UsageError(f"the machine has no {what} {name}{near(name, names)}")
    return names[name]


# --- the network


async def _link_down(running: RunningMachine, fault: Fault) -> None:
    await running.set_link(find_nic(running, fault), up=False)


async def _link_up(running: RunningMachine, fault: Fault) -> None:
    await running.set_link(find_nic(running, fault), up=True)


def _relay(running: RunningMachine, fault: Fault) -> Relay:
    return running.cables.relay(find_nic(running, fault))


async def _partition(running: RunningMachine, fault: Fault) -> None:
    _relay(running, fault).tell(cut=True)


async def _heal(running: RunningMachine, fault: Fault) -> None:
    _relay(running, fault).tell(cut=False)


async def _bad_cable(running: RunningMachine, fault: Fault) -> None:
    relay = _relay(running, fault)
    changes: dict[str, float] = {}
    for name, text in fault.settings.items():
        changes[name] = _number(name, text, "%") / 100 if name == "loss" else _seconds(name, text)
    if not changes:
        raise UsageError("cable: say what it does: loss=5, delay=200ms, jitter=50ms")
    relay.tell(quality=replace(relay.quality, **changes))  # type: ignore[arg-type]


async def _good_cable(running: RunningMachine, fault: Fault) -> None:
    relay = _relay(running, fault)
    relay.tell(quality=LinkQuality(vlan=relay.quality.vlan))


# --- disks


def _disk(running: RunningMachine, fault: Fault) -> tuple[int, VirtualDisk]:
    index = find_disk(running, fault)
    return index, running.machine.disks[index]


async def _unplug(running: RunningMachine, fault: Fault) -> None:
    index, disk = _disk(running, fault)
    if not disk.removable:
        raise UsageError(
            f"disk{index} on {disk.bus.value} cannot be taken out while the machine runs",
            hint="hotplug = true, or another bus"
            if disk.bus.value != "sata"
            else "let it fail instead: io-error",
        )
    device = str(plugged(running.machine.disks, index)["id"])
    since = len(running.qmp.events)
    await running.qmp.execute("device_del", id=device)
    while True:
        event = await running.qmp.wait_event("DEVICE_DELETED", within=_UNPLUG_SECONDS, since=since)
        if event.data.get("device") == device:
            return
        since = running.qmp.events.index(event) + 1


async def _plug(running: RunningMachine, fault: Fault) -> None:
    index, _ = _disk(running, fault)
    await running.qmp.command("device_add", plugged(running.machine.disks, index))


async def _fail(running: RunningMachine, fault: Fault) -> None:
    mistakes: list[str] = []
    settings: dict[str, Any] = {k: v for k, v in fault.settings.items() if k in ("errno",)}
    if "once" in fault.settings:
        settings["once"] = fault.settings["once"] in ("true", "yes", "1")
    ops = [op for op in fault.settings.get("ops", "").split(",") if op]
    sector = int(_number("sector", fault.settings["sector"], "")) if "sector" in fault.settings else None
    error = read_error(Table(settings, "", "io-error", mistakes), ops=ops, sector=sector)
    if error is None:
        raise UsageError(mistakes[0])
    await _errors(running, fault, (error,))


async def _read_only(running: RunningMachine, fault: Fault) -> None:
    await _errors(running, fault, (IoError(ops=(Op.WRITE, Op.DISCARD), number=30),))  # EROFS


async def _no_errors(running: RunningMachine, fault: Fault) -> None:
    await _errors(running, fault, ())


async def _errors(running: RunningMachine, fault: Fault, errors: Sequence[IoError]) -> None:
    """Put another failing node under the disk, or none. The guest sees no change but of what it gets."""
    index, disk = _disk(running, fault)
    good = top(index, failing=False, read_only=disk.read_only)
    await running.qmp.execute("blockdev-reopen", options=[good])
    if await _has_node(running, failing_name(index)):
        await running.qmp.execute("blockdev-del", node_name=failing_name(index))
    if errors:
        await running.qmp.command("blockdev-add", failing(index, errors))
        bad = top(index, failing=True, read_only=disk.read_only)
        await running.qmp.execute("blockdev-reopen", options=[bad])


async def _has_node(running: RunningMachine, name: str) -> bool:
    nodes = await running.qmp.execute("query-named-block-nodes", flat=True)
    return isinstance(nodes, list) and any(node["node-name"] == name for node in nodes)


async def _slow(running: RunningMachine, fault: Fault) -> None:
    bps, iops = 0, 0
    if "bps" in fault.settings:
        bps = parse_size(fault.settings["bps"]) or int(_number("bps", fault.settings["bps"], ""))
    if "iops" in fault.settings:
        iops = int(_number("iops", fault.settings["iops"], ""))
    if bps <= 0 and iops <= 0:
        raise UsageError("slow: say how slow: iops=20, or bps=1MB a second")
    await _throttle(running, fault, bps, iops)


async def _fast(running: RunningMachine, fault: Fault) -> None:
    await _throttle(running, fault, 0, 0)


async def _throttle(running: RunningMachine, fault: Fault, bps: int, iops: int) -> None:
    index = find_disk(running, fault)
    rest = dict.fromkeys(("bps_rd", "bps_wr", "iops_rd", "iops_wr"), 0)
    # QMP writes these names with an underscore.
    await running.qmp.command(
        "block_set_io_throttle", {"id": f"dev{index}", "bps": bps, "iops": iops, **rest}
    )


# --- the machine


async def _hang(running: RunningMachine, _fault: Fault) -> None:
    await running.qmp.execute("stop")


async def _resume(running: RunningMachine, _fault: Fault) -> None:
    await running.qmp.execute("cont")


async def _nmi(running: RunningMachine, _fault: Fault) -> None:
    await running.qmp.execute("inject-nmi")


async def _reset(running: RunningMachine, _fault: Fault) -> None:
    await running.reset()


async def _power_cut(running: RunningMachine, _fault: Fault) -> None:
    await running.crash()


async def _memory(running: RunningMachine, fault: Fault) -> None:
    size = parse_size(fault.settings.get("left", ""))
    if size is None or size < _MEMORY_LEAST:
        raise UsageError(f"memory: say what is left, {_MEMORY_LEAST // _MIB} MiB at least: left=128MiB")
    await _balloon(running, size)


async def _all_memory(running: RunningMachine, _fault: Fault) -> None:
    await _balloon(running, running.machine.memory * _MIB)


async def _balloon(running: RunningMachine, size: int) -> None:
    if not running.machine.balloon:
        raise UsageError("memory can only be taken from a machine with balloon = true")
    await running.qmp.execute("balloon", value=min(size, running.machine.memory * _MIB))


def _seconds(name: str, text: str) -> float:
    found = parse_seconds(text)
    if found is None:
        raise UsageError(f"{name}={text} is not a time such as 200ms or 20s")
    return found


def _number(name: str, text: str, unit: str) -> float:
    try:
        return float(text.removesuffix(unit))
    except ValueError:
        raise UsageError(f"{name}={text} is not a number") from None


KINDS: Mapping[str, Kind] = {
    "link": Kind(text="the cable is pulled out", begin=_link_down, end=_link_up, target="nic"),
    "partition": Kind(
        text="the carrier stays, no frame passes (netns cards)", begin=_partition, end=_heal, target="nic"
    ),
    "cable": Kind(
        text="loss=5 (percent), delay=200ms, jitter=50ms, forwarding_delay=20s (netns cards)",
        begin=_bad_cable, end=_good_cable, target="nic",
        settings=("loss", "delay", "jitter", "forwarding_delay"),
    ),
    "unplug": Kind(text="the disk is taken out; --off: put back", begin=_unplug, end=_plug, target="disk"),
    "io-error": Kind(
        text="requests fail: ops=read,write,flush,discard sector=2048 errno=EIO once=true",
        begin=_fail, end=_no_errors, target="disk", settings=("ops", "sector", "errno", "once"),
    ),
    "read-only": Kind(
        text="the disk takes no more writes", begin=_read_only, end=_no_errors, target="disk"
    ),
    "slow": Kind(
        text="the disk is held to iops=20 or bps=1MB a second", begin=_slow, end=_fast, target="disk",
        settings=("iops", "bps"),
    ),
    "hang": Kind(text="the machine stands still; its clock does too", begin=_hang, end=_resume),
    "memory": Kind(
        text="memory is taken from the machine, left=128MiB stay", begin=_memory, end=_all_memory,
        settings=("left",),
    ),
    "nmi": Kind(text="a non-maskable interrupt, as from a BMC", begin=_nmi),
    "reset": Kind(text="the reset button", begin=_reset),
    # The keeper's: no running machine can do it to itself.
    POWER_CUT: Kind(text="the power goes and comes back; disks are as they were then", begin=_power_cut),
}  # fmt: skip
