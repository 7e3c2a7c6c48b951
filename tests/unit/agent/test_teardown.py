"""What is assembled on the disks is taken apart from the top down, unless somebody uses it."""

from __future__ import annotations

from pathlib import Path

import pytest

from teeth_agent.erase.teardown import Block, Teardown, carry_out, plan_teardown, read_blocks
from teeth_agent.errors import DeviceError
from teeth_agent.passthrough import devicemapper


def graph(**holders: str) -> dict[str, Block]:
    """``sda="md0 dm-1"``; names with _ for -; "!reason" puts the device itself in use."""
    blocks = {}
    for name, words in holders.items():
        upon = tuple(word.replace("_", "-") for word in words.split() if not word.startswith("!"))
        used = tuple(word.removeprefix("!") for word in words.split() if word.startswith("!"))
        blocks[name.replace("_", "-")] = Block(name=name, holders=upon, in_use=used)
    return blocks


@pytest.mark.parametrize(
    ("disks", "blocks", "stops", "kept"),
    [
        ("sda", graph(sda=""), [], []),
        # md over two disks is stopped once
        ("sda sdb", graph(sda="md0", sdb="md0", md0=""), ["md0"], []),
        # LVM on dm-crypt on md: the top first
        (
            "sda", graph(sda="md0", md0="dm_0", dm_0="dm_1 dm_2", dm_1="", dm_2=""),
            ["dm-1", "dm-2", "dm-0", "md0"], [],
        ),
        # one mounted volume keeps everything below it, but not its sister
        (
            "sda", graph(sda="dm_0", dm_0="dm_1 dm_2", dm_1="!mounted", dm_2=""),
            ["dm-2"], ["dm-1", "dm-0"],
        ),
        ("sda", graph(sda="drbd0", drbd0=""), [], ["drbd0"]),
        ("sda", graph(sda="dm_9"), [], ["dm-9"]),
        ("sda sdb", graph(sda="bcache0", sdb="bcache0", bcache0=""), ["bcache0"], []),
        # only what is upon the disks that are asked for
        ("sda", graph(sda="md0", md0="", sdb="md1", md1=""), ["md0"], []),
    ],
)  # fmt: skip
def test_the_order(disks: str, blocks: dict[str, Block], stops: list[str], kept: list[str]) -> None:
    plan = plan_teardown(disks.split(), blocks)
    assert list(plan.stops) == stops
    assert [name for name, _ in plan.kept] == kept


def test_nothing_is_stopped_that_is_upon_a_spared_disk_at_any_distance() -> None:
    blocks = graph(sda="md0", sdb="md0 md1", sdc="md1 md2", md0="dm_0", md1="", md2="", dm_0="")
    plan = plan_teardown(["sda", "sdc"], blocks, ["sdb"])
    assert plan.stops == ("md2",)
    assert plan.left_upon(blocks["sda"]) == (
        "sda is held by md0: md0 is upon sdb, which is to be left alone",
    )
    assert plan.left_upon(blocks["sdc"]) == (
        "sdc is held by md1: md1 is upon sdb, which is to be left alone",
    )


def test_a_loop_ends() -> None:
    plan = plan_teardown(["sda"], graph(sda="dm_0", dm_0="dm_1", dm_1="dm_0"))
    assert plan.stops == ()
    assert {name for name, _ in plan.kept} == {"dm-0", "dm-1"}


class Tree:
    """A /sys whose devices go when they are stopped."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def device(self, name: str, *holders: str, **files: str) -> None:
        folder = self.root / "sys/class/block" / name
        (folder / "holders").mkdir(parents=True)
        for holder in holders:
            (folder / "holders" / holder).touch()
        for file, text in files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(text)

    def gone(self, name: str) -> None:
        (self.root / "sys/class/block" / name).rename(self.root / f"was-{name}")
        for holder in self.root.glob(f"sys/class/block/*/holders/{name}"):
            holder.unlink()


def test_the_graph_is_read_with_partitions_folded_in(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.device("sda", "dm-0", **{"sda1/partition": "1", "sda1/holders/md0": ""})
    blocks = read_blocks(tmp_path, lambda name: ["sda1 is mounted at /"] if name == "sda1" else [])
    assert blocks["sda"].holders == ("dm-0", "md0")
    assert blocks["sda"].in_use == ("sda1 is mounted at /",)
    assert blocks["sda"].label is None
    tree.device("dm-0", **{"dm/name": "vg-lv\n"})
    assert read_blocks(tmp_path, lambda name: [])["dm-0"].label == "vg-lv"


def test_each_kind_is_stopped_in_its_way_and_waited_for(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.device("dm-0", **{"dm/name": "vg-lv\n"})
    tree.device("md0", "dm-0", **{"md/array_state": "clean\n"})
    removed = []

    def remove(name: str) -> None:
        removed.append(name)
        tree.gone("dm-0")

    failed = carry_out(Teardown(stops=("dm-0", "md0"), kept=()), tmp_path, remove=remove)
    assert (failed, removed) == ((), ["vg-lv"])
    assert (tmp_path / "sys/class/block/md0/md/array_state").read_text() == "clear"


def test_what_does_not_stop_keeps_what_is_below_it(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.device("dm-0", **{"dm/name": "busy"})
    tree.device("md0", "dm-0", **{"md/array_state": "clean"})
    tree.device("bcache0", **{"bcache/stop": ""})

    def remove(name: str) -> None:
        raise DeviceError(f"{name} is open", code="device_busy")

    now = iter(range(1000))
    failed = carry_out(
        Teardown(stops=("dm-0", "md0", "bcache0"), kept=()), tmp_path,
        remove=remove, clock=lambda: float(next(now)), pause=lambda _: None,
    )  # fmt: skip
    assert failed == (
        ("dm-0", "busy is open"),
        ("md0", "dm-0 is still upon it"),
        ("bcache0", "bcache0 was stopped and is still there"),
    )  # fmt: skip
    assert (tmp_path / "sys/class/block/md0/md/array_state").read_text() == "clean"


def test_device_mapper_without_a_kernel_for_it_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="vg cannot be taken apart: No such file"):
        devicemapper.remove("vg", control=str(tmp_path / "control"))
    with pytest.raises(DeviceError, match="is no device-mapper name"):
        devicemapper.remove("x" * 128)
