"""How fast a device is overwritten, and overwritten and read back: ours beside the tools that people use.

A file on disk, once by itself and once as a loop device that passes the page cache (losetup --direct-io), is
overwritten by each in turn, in several rounds that each begin with another one; what is compared are medians
of the same run. Ours are the product's own functions in a process of their own. Writes
build/bench/erase.json and prints it. ``ratio_to_fastest`` is ours through the fastest peer that does the
same work: above 1, ours is faster. Figures of those that do other work stand under ``not_compared``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ground import loop_device, timed

from teeth.errors import TeethError
from teeth.paths import find_checkout
from teeth_agent.blockio import open_device
from teeth_agent.erase.overwrite import overwrite
from teeth_agent.erase.stream import write_zeros

MIB = 1 << 20
READ_BACK = "dd if={path} bs=1M iflag=direct status=none | cmp -n {size} - /dev/zero"
DD = "dd if=/dev/zero of={path} bs=1M count={mib} oflag=direct conv=fsync,notrunc status=none"
SHRED = "shred -n0 -z {path}"
NWIPE = (
    "nwipe --autonuke --nogui --nowait --noblank --method=zero --verify={verify} --logfile=/dev/null {path}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """``command`` for the shell, or the name of one of OURS. ``share``: it gets that part of the size.

    ``why_not``: why it is not compared, although it is measured.
    """

    name: str
    work: str
    command: str
    tool: str = ""
    share: int = 1
    loop_only: bool = False
    why_not: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    seconds: float
    cpu: float


def write_only(path: str) -> None:
    with open_device(path, write=True) as device:
        write_zeros(device, lambda _amount: None)


def write_and_verify(path: str, *, seeks: bool) -> None:
    with open_device(path, write=True) as device:
        if not overwrite(device, lambda _amount: None, seeks=seeks).readback.holds:
            raise TeethError(f"{path} does not read back as zeros")


OURS: dict[str, Callable[[str], None]] = {
    "ours": write_only,
    "ours, reading while writing": lambda path: write_and_verify(path, seeks=False),
    "ours, one pass after the other": lambda path: write_and_verify(path, seeks=True),
}
WRITE, VERIFY = "write", "write_and_verify"
# nwipe writes 4 KiB at a time through the page cache: a fortieth of the speed, so a sixteenth of the bytes.
CONTESTANTS = (
    *(Contestant(name=name, work=WRITE if name == "ours" else VERIFY, command=name) for name in OURS),
    Contestant(name="dd", work=WRITE, command=DD, tool="dd"),
    Contestant(name="shred -n0 -z", work=WRITE, command=SHRED, tool="shred"),
    Contestant(
        name="nwipe",
        work=WRITE,
        command=NWIPE.replace("{verify}", "off"),
        tool="nwipe",
        share=16,
        loop_only=True,
    ),
    Contestant(name="dd, dd | cmp", work=VERIFY, command=f"{DD} && {READ_BACK}", tool="dd"),
    Contestant(
        name="shred -n0 -z, dd | cmp",
        work=VERIFY,
        command=f"{SHRED} && {READ_BACK}",
        tool="shred",
        loop_only=True,
    ),
    Contestant(
        name="nwipe --verify=last",
        work=VERIFY,
        command=NWIPE.replace("{verify}", "last"),
        tool="nwipe",
        share=16,
        loop_only=True,
    ),
    Contestant(
        name="dd, dd to /dev/null",
        work=VERIFY,
        command=f"{DD} && dd if={{path}} of=/dev/null bs=1M iflag=direct status=none",
        tool="dd",
        loop_only=True,
        why_not="reads, but compares nothing: what one request at a time gets out of the device",
    ),
    Contestant(
        name="shred -n1 -z",
        work=WRITE,
        command="shred -n1 -z {path}",
        tool="shred",
        loop_only=True,
        why_not="writes twice",
    ),
    Contestant(
        name="blkdiscard -z",
        work=WRITE,
        command="blkdiscard -z {path}",
        tool="blkdiscard",
        loop_only=True,
        why_not="writes nothing where the device has a command for zeros: the old content stays below",
    ),
    Contestant(
        name="blkdiscard -z, dd | cmp",
        work=VERIFY,
        command=f"blkdiscard -z {{path}} && {READ_BACK}",
        tool="blkdiscard",
        loop_only=True,
        why_not="the same, and the zeros that are read are none that were written",
    ),
)


def child(name: str, path: str) -> None:
    """Ours, in its own process: what it took, without what Python needs to start."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    OURS[name](path)
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"seconds": time.perf_counter() - began, "cpu": cpu}))


def measure(one: Contestant, path: str, size: int) -> Run:
    """Raises TeethError if it fails."""
    if one.name in OURS:
        argv = [sys.executable, __file__, "--child", one.name, path]
    else:
        text = one.command.format(path=shlex.quote(path), size=size, mib=size // MIB)
        argv = ["bash", "-e", "-o", "pipefail", "-c", text]
    done = timed(one.name, argv)
    if one.name in OURS:
        return Run(**json.loads(done.output))
    return Run(seconds=done.seconds, cpu=done.cpu)


def fill(path: Path, size: int) -> None:
    """Something else than zeros, in blocks that the file system has given out."""
    content = os.urandom(MIB)
    with path.open("wb") as stream:
        for _ in range(size // MIB):
            stream.write(content)
        os.fsync(stream.fileno())


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Where it is measured; ``paths``: for each share of the size what to overwrite."""

    paths: dict[int, str]
    loop: bool

    def able(self) -> list[Contestant]:
        return [
            one for one in CONTESTANTS if (self.loop or not one.loop_only) and shutil.which(one.tool or "sh")
        ]


Runs = dict[str, list[Run]]


def rounds(grounds: dict[str, Ground], size: int, count: int, budget: float) -> dict[str, Runs]:
    """Everybody on every ground in each round; another round only if there is time for it."""
    runs: dict[str, Runs] = {
        name: {one.name: [] for one in ground.able()} for name, ground in grounds.items()
    }
    began = last = time.perf_counter()
    for number in range(count):
        for name, ground in grounds.items():
            able = ground.able()
            turn = number * len(able) // count
            for one in able[turn:] + able[:turn]:
                runs[name][one.name].append(measure(one, ground.paths[one.share], size // one.share))
        now = time.perf_counter()
        if now - began + now - last > budget:
            break
        last = now
    return runs


def figures(runs: Runs, size: int) -> dict[str, Any]:
    """MB/s is 10^6 bytes of the device a second, however often each was written or read."""
    result: dict[str, Any] = {WRITE: {}, VERIFY: {}, "not_compared": {}}
    for one in CONTESTANTS:
        if one.name not in runs:
            continue
        part, seconds = size // one.share, [run.seconds for run in runs[one.name]]
        told: dict[str, Any] = {
            "mb_per_second": round(part / statistics.median(seconds) / 1e6, 1),
            "slowest": round(part / max(seconds) / 1e6, 1),
            "best": round(part / min(seconds) / 1e6, 1),
            "cpu_seconds_per_gib": round(
                statistics.median(run.cpu for run in runs[one.name]) / part * 2**30, 3
            ),
            "bytes": part,
        }
        if one.why_not:
            told["because"] = one.why_not
        result["not_compared" if one.why_not else one.work][one.name] = told
    result["ratio_to_fastest"] = {work: ratio(result[work]) for work in (WRITE, VERIFY)}
    return result


def ratio(told: dict[str, Any]) -> float | None:
    ours = [one["mb_per_second"] for name, one in told.items() if name in OURS]
    peers = [one["mb_per_second"] for name, one in told.items() if name not in OURS]
    return round(max(ours) / max(peers), 2) if ours and peers else None


def bench(size: int, count: int, budget: float) -> dict[str, Any]:
    build = find_checkout().build
    build.mkdir(parents=True, exist_ok=True)
    missing = sorted({one.tool for one in CONTESTANTS if one.tool and not shutil.which(one.tool)})
    # Not in /tmp, which is memory on many machines.
    with tempfile.TemporaryDirectory(prefix="bench-erase-", dir=build) as name:
        whole, part = Path(name) / "whole", Path(name) / "part"
        fill(whole, size)
        fill(part, size // 16)
        with loop_device(whole) as device, loop_device(part) as small:
            grounds = {
                "loop": Ground(paths={1: device, 16: small}, loop=True),
                "file": Ground(paths={1: str(whole)}, loop=False),
            }
            runs = rounds(grounds, size, count, budget)
    return {
        "bytes": size,
        "rounds": len(runs["file"]["ours"]),
        **{name: figures(told, size) for name, told in runs.items()},
        "missing_tools": missing,
        "processors": os.cpu_count(),
        "load": [round(value, 2) for value in os.getloadavg()],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=2048, help="MiB, a multiple of 16 (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="at most (default: %(default)s)")
    parser.add_argument("--budget", type=float, default=150, help="seconds for them (default: %(default)s)")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    try:
        result = bench(options.size * MIB, options.rounds, options.budget)
    except TeethError as error:
        sys.exit(f"bench/erase.py: {error}")
    target = find_checkout().build / "bench/erase.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
