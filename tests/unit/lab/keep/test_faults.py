"""Faults as they are typed, and what each makes of QEMU."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from teeth.errors import UsageError
from teeth.lab.cabling import Cabling
from teeth.lab.disk import Bus, VirtualDisk
from teeth.lab.keep.faults import KINDS, apply, parse_fault
from teeth.lab.link import LinkQuality
from teeth.lab.machine import DirectBoot, Machine
from teeth.lab.network import Nic

MACHINE = Machine(
    name="m",
    boot=DirectBoot(kernel=Path("/k")),
    balloon=True,
    nics=(Nic(mac="52:54:00:00:00:01"), Nic(mac="52:54:00:00:00:02")),
    disks=(
        VirtualDisk(path=Path("/a"), size=512, bus=Bus.VIRTIO_SCSI, serial="A"),
        VirtualDisk(path=Path("/b"), size=512, bus=Bus.SATA, serial="B"),
    ),
)


class Qmp:
    """QEMU's control connection, recorded; a device goes as soon as it is told to."""

    def __init__(self) -> None:
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.nodes: set[str] = set()
        self.events: list[Any] = []

    async def execute(self, command: str, **arguments: object) -> object:
        return await self.command(command, {k.replace("_", "-"): v for k, v in arguments.items()})

    async def command(self, command: str, arguments: Mapping[str, Any]) -> object:
        self.said.append((command, dict(arguments)))
        match command:
            case "blockdev-add":
                self.nodes.add(arguments["node-name"])
            case "blockdev-del":
                self.nodes.remove(arguments["node-name"])
            case "query-named-block-nodes":
                return [{"node-name": name} for name in self.nodes]
        return None

    async def wait_event(self, name: str, *, within: float, since: int) -> Any:
        return SimpleNamespace(name=name, data={"device": self.said[-1][1]["id"]})


class Relay:
    def __init__(self) -> None:
        self.quality = LinkQuality(vlan=7, forwarding_delay=3)
        self.told: list[dict[str, Any]] = []

    def tell(self, **changes: Any) -> None:
        self.told.append(changes)


class Running:
    """A running machine whose QEMU and cables only take notes."""

    def __init__(self, machine: Machine = MACHINE) -> None:
        self.machine = machine
        self.qmp = Qmp()
        self.relay = Relay()
        self.cables = Cabling(relays={1: self.relay})  # type: ignore[dict-item]

    async def set_link(self, nic: int, *, up: bool) -> None:
        await self.qmp.execute("set_link", name=f"nic{nic}", up=up)


async def said(
    kind: str, *words: str, off: bool = False, running: Running | None = None
) -> list[tuple[str, Any]]:
    running = running or Running()
    await apply(running, parse_fault(kind, words, off=off))  # type: ignore[arg-type]
    return running.qmp.said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("lnk",), "there is no fault lnk; did you mean link"),
        (("link", "nic0", "nic1"), "link: 'nic1' is too much"),
        (("hang", "nic0"), "hang: 'nic0' is too much"),
        (("slow", "iop=3"), "slow has no iop; did you mean iops"),
    ],
)
def test_what_is_no_fault(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_fault(words[0], words[1:], off=False)


def test_what_has_no_end_cannot_be_ended() -> None:
    for name, kind in KINDS.items():
        if kind.end is None:
            with pytest.raises(UsageError, match="nothing to end"):
                parse_fault(name, (), off=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("link", "nic2"), "the machine has no card nic2; did you mean nic"),
        (("unplug", "C"), "the machine has no disk C"),
        (("unplug", "disk1"), "disk1 on sata cannot be taken out"),
        (("partition", "nic0"), "the cable of nic0 cannot change"),
        (("cable", "nic1"), "say what it does"),
        (("cable", "nic1", "loss=much"), "loss=much is not a number"),
        (("cable", "nic1", "loss=101"), "a link's loss is a share of 0 to 1"),
        (("cable", "nic1", "delay=7"), "delay=7 is not a time"),
        (("io-error", "A", "ops=raed"), "did you mean read"),
        (("io-error", "A", "errno=EOI"), "EOI"),
        (("io-error", "A", "sector=x"), "sector=x is not a number"),
        (("slow", "A"), "say how slow"),
        (("slow", "A", "iops=0"), "say how slow"),
        (("memory",), "say what is left"),
        (("memory", "left=1MiB"), "64 MiB at least"),
    ],
)
async def test_what_a_machine_cannot_have(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        await said(words[0], *words[1:])


async def test_a_card_is_named_by_number_or_address() -> None:
    by_number, by_address = await said("link", "nic1"), await said("link", "52:54:00:00:00:02")
    assert by_number == by_address == [("set_link", {"name": "nic1", "up": False})]
    assert await said("link", off=True) == [("set_link", {"name": "nic0", "up": True})]


async def test_a_cable_goes_bad_and_good_again() -> None:
    running = Running()
    await said("cable", "nic1", "loss=5", "delay=200ms", running=running)
    await said("partition", "nic1", running=running)
    await said("cable", "nic1", off=True, running=running)
    assert running.relay.told == [
        {"quality": LinkQuality(vlan=7, forwarding_delay=3, loss=0.05, delay=0.2)},
        {"cut": True},
        {"quality": LinkQuality(vlan=7)},
    ]


async def test_errors_replace_each_other_and_go() -> None:
    running = Running()
    await said("io-error", "A", "ops=read,flush", "sector=2048", "errno=ENOSPC", "once=true", running=running)
    added = next(arguments for command, arguments in running.qmp.said if command == "blockdev-add")
    rules = [(rule["iotype"], rule["errno"], rule["sector"], rule["once"]) for rule in added["inject-error"]]
    assert rules == [("read", 28, 2048, True), ("flush", 28, 2048, True)]
    await said("read-only", "A", running=running)
    await said("read-only", "A", off=True, running=running)
    assert running.qmp.nodes == set()
    tops = [
        arguments["options"][0]["file"]
        for command, arguments in running.qmp.said
        if command == "blockdev-reopen"
    ]
    assert tops == ["disk0-file", "disk0-failing", "disk0-file", "disk0-failing", "disk0-file"]


async def test_a_disk_is_taken_out_and_comes_back_the_same() -> None:
    (out,) = await said("unplug", "A")
    assert out == ("device_del", {"id": "dev0"})
    ((command, device),) = await said("unplug", "A", off=True)
    assert (command, device["id"], device["serial"], device["drive"]) == ("device_add", "dev0", "A", "disk0")
    json.dumps(device)


async def test_the_rest() -> None:
    assert (await said("slow", "A", "bps=1MB"))[0][1]["bps"] == 1_000_000
    assert (await said("slow", "A", off=True))[0][1]["iops"] == 0
    assert await said("memory", "left=128MiB") == [("balloon", {"value": 128 << 20})]
    assert await said("memory", off=True) == [("balloon", {"value": 1024 << 20})]
    assert [await said(kind) for kind in ("hang", "nmi")] == [[("stop", {})], [("inject-nmi", {})]]
    assert await said("hang", off=True) == [("cont", {})]
