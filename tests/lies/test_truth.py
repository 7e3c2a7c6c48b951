"""The judge itself: it sees old content wherever it is, and nothing where there is none."""

from __future__ import annotations

import random

import pytest

from fakes.simulated_drives import FlatMedia, SimulatedMachine
from lies.cases import HONEST, draw
from lies.lists import ALL_LIES, FAULTS, METHODS, UNDETECTABLE, fault
from lies.trial import Bench
from lies.truth import Remains, fill, remains
from teeth.lab.drives.behaviours import BEHAVIOURS, make
from teeth_agent.erase.model import Grade, Method


def test_a_bench_is_full_of_old_content_and_says_so() -> None:
    bench = Bench(draw(Method.OVERWRITE, HONEST, 1))
    spec, media = bench.case.slots[0].spec, bench.machine.media[0]
    assert isinstance(media, FlatMedia)
    found = remains(spec, media, bench.witnesses[0])
    assert found.native == spec.blocks * spec.sector // 512
    assert found.retired == -(-spec.spares // 2) * spec.sector // 512


@pytest.mark.parametrize("place", ["first", "last", "retired"])
def test_one_piece_is_enough(place: str) -> None:
    bench = Bench(draw(Method.SCSI_SANITIZE_BLOCK, HONEST, 3))
    spec, media = bench.case.slots[0].spec, bench.machine.media[0]
    assert isinstance(media, FlatMedia)
    assert spec.spares
    border = spec.blocks * spec.sector
    at = {"first": 0, "last": border - 512, "retired": border}[place]
    old = media.read(at, 512)
    media.content[:] = random.Random(0).randbytes(media.size)
    assert remains(spec, media, bench.witnesses[0]) == Remains(native=0, retired=0)
    media.write(at, old)
    found = remains(spec, media, bench.witnesses[0])
    assert found == Remains(native=int(place != "retired"), retired=int(place == "retired"))
    assert found.belies(Grade.PURGE)
    assert found.belies(Grade.CLEAR) is (place != "retired")


def test_a_canary_counts_as_old_once_an_erase_began_after_it() -> None:
    bench = Bench(draw(Method.SCSI_SANITIZE_BLOCK, HONEST, 3))
    spec, media = bench.case.slots[0].spec, bench.machine.media[0]
    assert isinstance(media, FlatMedia)
    machine = bench.machine.boot()
    mark = random.Random(5).randbytes(4096)
    with machine.open("/dev/sda", write=True) as device:
        device.write_from(0, memoryview(mark))
    media.content[4096:] = bytes(media.size - 4096)
    assert remains(spec, media, bench.witnesses[0]).native == 0
    with machine.open_scsi("/dev/sda") as port:
        port.command(bytes.fromhex("48820000000000000000"))
    assert remains(spec, media, bench.witnesses[0]).native == 8


def test_the_same_seed_draws_the_same_drive_and_content() -> None:
    for method in METHODS:
        one, other = draw(method, HONEST, 7), draw(method, HONEST, 7)
        assert one.slots == other.slots
        first, second = (FlatMedia(case.slots[0].spec.media_size) for case in (one, other))
        fill(first, one.dice)
        fill(second, other.dice)
        assert first.content == second.content
    assert len({draw(Method.OVERWRITE, HONEST, seed).slots[0].spec for seed in range(20)}) == 20


def test_every_lie_and_every_fault_can_be_told() -> None:
    dice = random.Random(1)
    told = set(ALL_LIES) - {HONEST}
    for name in FAULTS:
        assert make(fault(name, dice, 4096)).name == name
        told.add(name)
    assert set(BEHAVIOURS) <= told
    assert set(UNDETECTABLE) <= told


def test_the_machine_can_be_made_without_slots_of_its_own_media() -> None:
    case = draw(Method.OVERWRITE, HONEST, 2)
    media = [FlatMedia(case.slots[0].spec.media_size)]
    assert SimulatedMachine(case.slots, media).boot().look()[0].size
