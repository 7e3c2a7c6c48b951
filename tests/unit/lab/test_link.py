"""What a cable does to frames, and the relay that does it to real ones."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from teeth.errors import UsageError
from teeth.lab.link import PERFECT, Cable, LinkQuality, tagged, untagged
from teeth.lab.relay import Lane, StreamEnd, obey, order, relay

FRAME = bytes(range(12)) + b"\x08\x00" + b"payload"


def sent(cable: Cable, *, outward: bool = True, now: float = 0.0, count: int = 1) -> list[float | None]:
    found = [cable.take(FRAME, now, outward=outward) for _ in range(count)]
    return [None if one is None else one[0] for one in found]


def test_a_perfect_cable_changes_nothing() -> None:
    cable = Cable(PERFECT)
    assert cable.take(FRAME, 5.0, outward=False) == (5.0, FRAME)
    assert cable.take(FRAME, 6.0, outward=True) == (6.0, FRAME)


def test_a_delay_is_each_ways() -> None:
    cable = Cable(LinkQuality(delay=0.25))
    assert sent(cable, outward=True, now=1.0) == sent(cable, outward=False, now=1.0) == [1.25]


def test_no_frame_overtakes_another() -> None:
    cable = Cable(LinkQuality(delay=0.1, jitter=0.5))
    arrivals = [cable.take(FRAME, n / 100, outward=True) for n in range(50)]
    times = [one[0] for one in arrivals if one]
    assert len(times) == 50
    assert times == sorted(times)
    assert all(0.1 <= time - n / 100 <= 0.6 + 0.5 for n, time in enumerate(times))
    assert len({round(time - n / 100, 4) for n, time in enumerate(times)}) > 5


def test_losses_are_as_many_as_said_and_repeatable() -> None:
    lost = [sent(Cable(LinkQuality(loss=0.05, seed=7)), count=4000).count(None) for _ in range(2)]
    assert lost[0] == lost[1]
    assert 120 < lost[0] < 280
    assert sent(Cable(LinkQuality(loss=1.0)), count=50) == [None] * 50


def test_a_port_is_held_back_from_the_machines_first_frame_on() -> None:
    cable = Cable(LinkQuality(forwarding_delay=20))
    assert sent(cable, outward=False, now=3.0) == [None]  # nobody uses the link yet
    assert sent(cable, outward=True, now=5.0) == [None]
    assert sent(cable, outward=True, now=24.9) == [None]
    assert sent(cable, outward=False, now=25.0) == [25.0]
    assert sent(cable, outward=True, now=25.0) == [25.0]
    cable.carrier()
    assert sent(cable, outward=False, now=30.0) == [None]
    assert sent(cable, outward=True, now=31.0) == [None]
    assert sent(cable, outward=True, now=51.0) == [51.0]


def test_a_cut_cable_lets_nothing_through_until_it_is_whole() -> None:
    cable = Cable(PERFECT)
    obey(cable, {"cut": True})
    assert sent(cable) == sent(cable, outward=False) == [None]
    obey(cable, {"cut": False})
    assert sent(cable) == [0.0]


def test_an_access_port_tags_outwards_and_untags_inwards() -> None:
    cable = Cable(LinkQuality(vlan=10))
    out = cable.take(FRAME, 0.0, outward=True)
    assert out is not None
    assert out[1] == FRAME[:12] + b"\x81\x00\x00\x0a" + FRAME[12:]
    assert cable.take(out[1], 0.0, outward=False) == (0.0, FRAME)
    assert cable.take(FRAME, 0.0, outward=False) is None  # untagged: not this VLAN's
    assert cable.take(out[1], 0.0, outward=True) is None  # a machine may not tag here


@pytest.mark.parametrize("frame", [b"", b"x" * 13, FRAME[:12] + b"\x81\x00\x00"])
def test_what_is_no_frame_goes_nowhere(frame: bytes) -> None:
    assert untagged(frame, 10) is None
    assert len(frame) >= 14 or tagged(frame, 10) is None


def test_the_priority_in_a_tag_does_not_matter() -> None:
    assert untagged(FRAME[:12] + b"\x81\x00\xe0\x0a" + FRAME[12:], 10) == FRAME
    assert untagged(FRAME[:12] + b"\x81\x00\x00\x0b" + FRAME[12:], 10) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"delay": -1}, {"delay": 601}, {"jitter": -0.1}, {"loss": 5}, {"loss": -0.1}, {"vlan": 0},
        {"vlan": 4095}, {"forwarding_delay": -1},
    ],
)  # fmt: skip
def test_qualities_that_no_link_has(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        LinkQuality(**wrong)  # type: ignore[arg-type]


class Heap:
    """An end that keeps what it is given."""

    def __init__(self) -> None:
        self.frames: asyncio.Queue[bytes] = asyncio.Queue()

    def give(self, frame: bytes) -> None:
        self.frames.put_nowait(frame)

    async def run(self, take: Callable[[bytes], None]) -> None:
        await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def relayed(cable: Cable) -> AsyncIterator[tuple[socket.socket, Heap, socket.socket]]:
    """QEMU's end, what the bridge gets, and the control connection of a running relay."""
    with contextlib.ExitStack() as stack:
        qemu, inner = socket.socketpair()
        control, control_inner = socket.socketpair()
        for one in (qemu, control):
            stack.enter_context(one)
            one.setblocking(False)
        bridge = Heap()
        running = asyncio.create_task(relay(cable, StreamEnd(inner.detach()), bridge, control_inner))
        yield qemu, bridge, control
        qemu.close()
        async with asyncio.timeout(10):
            await running


async def test_frames_pass_the_relay_both_ways_in_order() -> None:
    async with relayed(Cable(PERFECT)) as (qemu, bridge, _), asyncio.timeout(10):
        loop = asyncio.get_running_loop()
        frames = [FRAME + bytes([n]) for n in range(20)]
        stream = b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames)
        for cut in range(0, len(stream), 7):
            await loop.sock_sendall(qemu, stream[cut : cut + 7])
        assert [await bridge.frames.get() for _ in frames] == frames


async def test_orders_change_a_running_relay() -> None:
    async with relayed(Cable(PERFECT)) as (qemu, bridge, control), asyncio.timeout(10):
        loop = asyncio.get_running_loop()

        async def tell(**changes: object) -> None:
            await loop.sock_sendall(control, order(**changes))
            assert await loop.sock_recv(control, 1) == b"\n"

        async def send(frame: bytes) -> None:
            await loop.sock_sendall(qemu, len(frame).to_bytes(4, "big") + frame)

        await tell(quality=replace(PERFECT, vlan=3))
        await send(FRAME)
        assert await bridge.frames.get() == tagged(FRAME, 3)
        await tell(quality=PERFECT, carrier=True)
        await send(FRAME)
        assert await bridge.frames.get() == FRAME


async def test_a_relay_ends_with_its_control_connection() -> None:
    qemu, inner = socket.socketpair()
    control, control_inner = socket.socketpair()
    with qemu:
        running = asyncio.create_task(relay(Cable(PERFECT), StreamEnd(inner.detach()), Heap(), control_inner))
        control.close()
        async with asyncio.timeout(10):
            await running


async def test_a_lane_delivers_late_frames_in_order_and_loses_what_does_not_fit() -> None:
    heap = Heap()
    lane = Lane(Cable(LinkQuality(delay=0.01)), heap, outward=True)
    for number in range(5000):
        lane.take(number.to_bytes(20, "big"))
    async with asyncio.timeout(10):
        found = [int.from_bytes(await heap.frames.get(), "big") for _ in range(4096)]
    assert found == list(range(4096))
    assert heap.frames.empty()
