"""What the host has for machines, and how tests that run side by side share it."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from boot.room import Room, workers
from teeth.lab.host import MIB, PER_PROCESSOR, RESERVE, SHARE, room, shares

DEADLINE = 30.0


TAKEN = [((512,), 1), ((1024,), 2), ((512, 512), 2), ((2048, 512), 5)]


@pytest.mark.parametrize(("machines", "count"), TAKEN)
def test_what_machines_take(machines: tuple[int, ...], count: int) -> None:
    assert shares(machines) == count


def test_what_a_host_has() -> None:
    assert room(RESERVE + 3 * SHARE, 4) == 3
    assert room(RESERVE + 3 * SHARE - 1, 4) == 2
    assert room(1 << 50, 4) == 4 * PER_PROCESSOR
    assert room(0, 4) == 1


def test_workers_are_bounded_by_memory_and_by_processors() -> None:
    assert workers(1 << 50, 2) == 2
    assert workers(RESERVE + 5 * SHARE, 8) == 2
    assert workers(100 * MIB, 8) == 1
    assert workers(1 << 50, 512) == 16


def rooms(folder: Path, count: int) -> Room:
    return Room(folder=folder / "room", available=lambda: RESERVE + count * SHARE, processors=64)


def test_no_more_than_fit_are_in_and_those_that_fit_are(tmp_path: Path) -> None:
    one = rooms(tmp_path, 4)
    guard, together = threading.Lock(), threading.Barrier(2)
    inside = most = 0

    def test() -> None:
        nonlocal inside, most
        with one.take([1024]) as taken:
            assert taken == 2
            with guard:
                inside += 1
                most = max(most, inside)
            together.wait(DEADLINE)  # nobody gets past this who is not in with another
            with guard:
                inside -= 1

    threads = [threading.Thread(target=test, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert not any(thread.is_alive() for thread in threads)
    assert (inside, most) == (0, 2)


def test_who_is_alone_is_alone(tmp_path: Path) -> None:
    one = rooms(tmp_path, 4)
    order: list[str] = []
    entered = threading.Event()

    def other() -> None:
        entered.set()
        with one.take([512]):
            order.append("other")

    with one.take([512], alone=True) as taken:
        assert taken == 4
        thread = threading.Thread(target=other, daemon=True)
        thread.start()
        assert entered.wait(DEADLINE)
        order.append("alone")
    thread.join(DEADLINE)
    assert order == ["alone", "other"]


def test_more_than_there_is_gets_everything(tmp_path: Path) -> None:
    with rooms(tmp_path, 3).take([8192]) as taken:
        assert taken == 3


def test_memory_is_counted_again_only_when_nobody_has_any(tmp_path: Path) -> None:
    with rooms(tmp_path, 3).take([512]), rooms(tmp_path, 9).take([512], alone=False):
        assert (tmp_path / "room/total").read_text() == "3"
    with rooms(tmp_path, 9).take([512], alone=True) as taken:
        assert taken == 9


def test_a_killed_process_gives_its_shares_back(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from unit.lab.test_room import rooms\nfrom pathlib import Path\n"
        f"with rooms(Path({str(tmp_path)!r}), 4).take([512], alone=True):\n"
        "    print('in', flush=True)\n    sys.stdin.read()\n"
    )
    words = [sys.executable, "-c", script]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        process.kill()
    with rooms(tmp_path, 4).take([512], alone=True) as taken:
        assert taken == 4
