"""How fast an image gets onto a device: ours, which reads it back, beside the tools that people use.

The same compressed image is written by each in turn to a file and to a loop device that passes the page
cache (losetup --direct-io), in several rounds that each begin with another one; what is compared are medians
of the same run. Two images: a dense one, onto a device full of something else, and a sparse one, onto a
device that reads zero. Ours are the product's own functions in a process of their own, fed from the file and
hashing what they read, as the agent does. Writes build/bench/write.json and prints it.

``ratio_to_fastest`` is ours through the fastest peer: above 1, ours is faster. No peer reads back what it
wrote; ``ratio_to_fastest_that_reads_back`` is against two of them with a comparison behind. What else a peer
leaves out stands beside it. ``peak_rss_bytes`` is of ours while it writes a sparse image of 20 GiB,
``growth`` what of it came with the writing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ground import loop_device, timed

from teeth.errors import TeethError
from teeth.paths import find_checkout
from teeth_agent.blockio import open_device
from teeth_agent.image import memory, prepare
from teeth_agent.image.params import ImageSpec
from teeth_image.manifest import Contents, ImageManifest

MIB = 1 << 20
CHUNK = 4 * MIB
GRAINS = 8
DENSE, SPARSE = "dense", "sparse"
LEAVES_OLD = "does not touch what the image says is zero: the device must be zero before"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """``command`` for the shell; none for ours, which gets ``image`` with or without its manifest."""

    name: str
    command: str = ""
    tool: str = ""
    works: tuple[str, ...] = (DENSE, SPARSE)
    image: str = "frames"
    manifest: bool = False
    reads_back: bool = False
    leaves_out: str = ""


DD = "zstd -dcq {frames} | dd of={path} bs=4M iflag=fullblock oflag=direct conv=notrunc,fsync"
QEMU = "qemu-img convert -n -W -m 8 -t none -f qcow2 -O raw {qcow2} {path}"
CMP = "dd if={path} bs=4M iflag=direct status=none | cmp - <(zstd -dcq {frames})"
COMPARE = "qemu-img compare -q -T none -f qcow2 -F raw {qcow2} {path}"
CONTESTANTS = (
    Contestant(name="ours"),
    Contestant(name="ours, raw digests by manifest", manifest=True),
    Contestant(name="ours, one zstd frame", image="stream"),
    Contestant(
        name="zstd -dc | dd oflag=direct",
        command=f"{DD} status=none",
        tool="zstd",
        leaves_out="no digest, no read-back",
    ),
    Contestant(
        name="zstd -dc | dd oflag=direct conv=sparse",
        command=f"{DD},sparse status=none",
        tool="zstd",
        works=(SPARSE,),
        leaves_out=f"no digest, no read-back; {LEAVES_OLD}",
    ),
    Contestant(
        name="qemu-img convert -n",
        command=QEMU,
        tool="qemu-img",
        works=(DENSE,),
        leaves_out="no digest, no read-back; from a qcow2 with zstd clusters of 64 KiB",
    ),
    Contestant(
        name="qemu-img convert -n --target-is-zero",
        command=QEMU.replace("-n", "-n --target-is-zero"),
        tool="qemu-img",
        works=(SPARSE,),
        leaves_out=f"no digest, no read-back; {LEAVES_OLD}; from a qcow2 with zstd clusters of 64 KiB",
    ),
    Contestant(
        name="bmaptool copy",
        command="bmaptool -q copy --bmap {bmap} {frames} {path}",
        tool="bmaptool",
        leaves_out=f"checks what it decompressed against the map, no read-back; {LEAVES_OLD}",
    ),
    Contestant(
        name="zstd -dc | dd oflag=direct, dd iflag=direct | cmp",
        command=f"{DD} status=none && {CMP}",
        tool="zstd",
        reads_back=True,
        leaves_out="no digest",
    ),
    Contestant(
        name="qemu-img convert -n, qemu-img compare",
        command=f"{QEMU} && {COMPARE}",
        tool="qemu-img",
        reads_back=True,
        leaves_out="no digest; from a qcow2 with zstd clusters of 64 KiB",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image in the forms that the contestants take."""

    work: str
    raw_size: int
    frames: Path
    stream: Path
    qcow2: Path
    bmap: Path
    manifest: ImageManifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    seconds: float
    cpu: float
    peak: int = 0
    growth: int = 0


class FileSource:
    """A teeth_agent.image.source.Source over a file, hashed as it is read."""

    kind: Literal["network", "cache"] = "cache"
    random_access = False
    restarts = fetched_bytes = peer_bytes = 0

    def __init__(self, path: Path, digest: str, manifest: ImageManifest | None) -> None:
        self.size = path.stat().st_size
        self.manifest = manifest
        self.received = 0
        self.proven = False
        self._path = path
        self._expected = digest

    def __iter__(self) -> Iterator[memoryview]:
        digest, buffer = hashlib.sha256(), memoryview(bytearray(256 << 10))
        with self._path.open("rb", buffering=0) as stream:
            while count := stream.readinto(buffer):
                digest.update(buffer[:count])
                self.received += count
                yield buffer[:count]
        self.proven = digest.hexdigest() == self._expected
        if not self.proven:
            raise TeethError(f"{self._path} is not what it was")

    def read(self, offset: int, length: int) -> bytes:
        raise NotImplementedError

    def stop(self) -> None:
        pass


class Silent:
    """A reporter to whom nobody listens."""

    def progress(self, percent: float, *, eta: float | None = None, step: str = "", **fields: Any) -> None:
        pass

    def checkpoint(self, phase: str, **fields: Any) -> dict[str, Any]:
        return {phase: fields}

    def log(self, level: str, event: str, **fields: Any) -> None:
        pass

    def check_cancelled(self) -> None:
        pass


def child(order: dict[str, Any]) -> None:
    """Ours, in its own process: what it took, without what Python needs to start."""
    path, raw_size = Path(order["image"]), order["raw_size"]
    manifest = ImageManifest.parse(Path(order["manifest"]).read_bytes()) if order["manifest"] else None
    spec = ImageSpec(
        id="bench",
        name="bench",
        urls=(),
        size=path.stat().st_size,
        digest="sha256:" + order["digest"],
        compression="zstd",
        raw_size=raw_size,
        # What is compared with are the manifest's chunks: this one's value does not matter.
        raw_digest=None if manifest is None else "sha256:" + "0" * 64,
    )
    memory.reset_peak()
    start = memory.peak()
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    with open_device(order["target"], write=True) as device:
        prepare.write_image(
            spec,
            device,
            FileSource(path, order["digest"], manifest),
            reads_zero=order["reads_zero"],
            seeks=False,
            reporter=Silent(),
        )
    seconds, used = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    peak = memory.peak()
    print(json.dumps({"seconds": seconds, "cpu": cpu, "peak": peak, "growth": peak - start}))


def argv_for(one: Contestant, image: Image, target: str, work: Path) -> list[str]:
    if one.command:
        text = one.command.format(
            path=shlex.quote(target),
            frames=shlex.quote(str(image.frames)),
            qcow2=shlex.quote(str(image.qcow2)),
            bmap=shlex.quote(str(image.bmap)),
        )
        return ["bash", "-e", "-o", "pipefail", "-c", text]
    path = image.frames if one.image == "frames" else image.stream
    kept = work / f"{image.work}.manifest"
    order = {
        "image": str(path),
        "raw_size": image.raw_size,
        "digest": hashlib.sha256(path.read_bytes()).hexdigest(),
        "manifest": str(kept) if one.manifest else "",
        "target": target,
        "reads_zero": image.work == SPARSE,
    }
    if one.manifest:
        kept.write_bytes(image.manifest.dumps())
    return [sys.executable, __file__, "--child", json.dumps(order)]


def measure(one: Contestant, image: Image, target: str, work: Path) -> Run:
    """Raises TeethError if it fails."""
    done = timed(one.name, argv_for(one, image, target, work))
    if not one.command:
        return Run(**json.loads(done.output))
    return Run(seconds=done.seconds, cpu=done.cpu)


def run(*argv: str | Path, data: bytes | None = None) -> bytes:
    try:
        return subprocess.run(argv, input=data, capture_output=True, check=True).stdout
    except subprocess.CalledProcessError as error:
        raise TeethError(f"{argv[0]} failed: {error.stderr.decode(errors='replace')[-300:]}") from error


def content(rng: random.Random, length: int) -> bytes:
    """Two fifths that do not compress, three that do to about a half, as packages and programs do."""
    words = [rng.randbytes(rng.randrange(2, 9)) for _ in range(4000)]
    parts = []
    while sum(map(len, parts)) < length:
        parts.append(rng.randbytes(2 * MIB // 5))
        parts.append(b" ".join(rng.choices(words, k=140_000))[: 3 * MIB // 5])
    return b"".join(parts)[:length]


def make_raw(path: Path, work: str, size: int) -> None:
    """``sparse``: a sixteenth of it, in sixteen runs, is data."""
    rng = random.Random(work)  # noqa: S311 - the same image every time
    with path.open("wb") as stream:
        stream.truncate(size)
        for start in range(0, size, size // 16):
            length = size // 16 if work == DENSE else size // 256
            for offset in range(start, start + length, 16 * MIB):
                stream.seek(offset)
                stream.write(content(rng, min(16 * MIB, start + length - offset)))


def make_image(work: str, size: int, folder: Path, *, for_peers: bool = True) -> Image:
    raw = folder / f"{work}.raw"
    make_raw(raw, work, size)
    frames, stream = folder / f"{work}.zst", folder / f"{work}.stream.zst"
    lengths, raw_chunks = [], []
    with raw.open("rb") as source, frames.open("wb") as target:
        zeros, packed_zeros = bytes(CHUNK), b""
        while chunk := source.read(CHUNK):
            if chunk == zeros:
                packed = packed_zeros = packed_zeros or pack(chunk)
            else:
                packed = pack(chunk)
            raw_chunks.append("" if chunk == zeros else hashlib.sha256(chunk).hexdigest())
            lengths.append(target.write(packed))
    qcow2, bmap = folder / f"{work}.qcow2", folder / f"{work}.bmap"
    if for_peers:
        make_peers_forms(raw, stream, qcow2, bmap)
    packed = frames.read_bytes()
    contents = Contents(
        name="bench",
        kind="disk",
        format="raw",
        compression="zstd",
        architecture="any",
        size=len(packed),
        digest="sha256:" + hashlib.sha256(packed).hexdigest(),
        raw_size=size,
        chunks=tuple(
            hashlib.sha256(packed[start : start + CHUNK]).hexdigest()
            for start in range(0, len(packed), CHUNK)
        ),
        raw_chunk_size=CHUNK,
        raw_chunks=tuple(raw_chunks),
        frames=tuple(lengths),
    )
    raw.unlink()
    return Image(
        work=work,
        raw_size=size,
        frames=frames,
        stream=stream,
        qcow2=qcow2,
        bmap=bmap,
        manifest=ImageManifest.of(contents),
    )


def make_peers_forms(raw: Path, stream: Path, qcow2: Path, bmap: Path) -> None:
    run("zstd", "-q", "-3", "-T0", raw, "-o", stream)
    run("qemu-img", "convert", "-c", "-o", "compression_type=zstd", "-O", "qcow2", "-f", "raw", raw, qcow2)
    if shutil.which("bmaptool"):
        run("bmaptool", "-q", "create", "-o", bmap, raw)


def pack(chunk: bytes) -> bytes:
    return run("zstd", "-q", "-3", "-c", f"--stream-size={len(chunk)}", data=chunk)


@contextmanager
def target_for(image: Image, kind: str, folder: Path) -> Iterator[str]:
    """What is written to: full of something else for a dense image, of holes for a sparse one."""
    path = folder / f"{image.work}.target"
    with path.open("wb") as stream:
        stream.truncate(image.raw_size)
        if image.work == DENSE:
            other = os.urandom(MIB)
            for _ in range(image.raw_size // MIB):
                stream.write(other)
            os.fsync(stream.fileno())
    if kind == "file":
        yield str(path)
        return
    with loop_device(path) as device:
        yield device


def able(work: str) -> list[Contestant]:
    return [one for one in CONTESTANTS if work in one.works and shutil.which(one.tool or "sh")]


Runs = dict[str, list[Run]]


def rounds(images: list[Image], folder: Path, count: int, budget: float) -> dict[tuple[str, str], Runs]:
    """Everybody everywhere in each round; another round only if there is time for it."""
    grounds = [(image, kind) for image in images for kind in ("loop", "file")]
    runs: dict[tuple[str, str], Runs] = {
        (image.work, kind): {one.name: [] for one in able(image.work)} for image, kind in grounds
    }
    began = last = time.perf_counter()
    for number in range(count):
        for image, kind in grounds:
            contestants = able(image.work)
            turn = number * len(contestants) // count
            for one in contestants[turn:] + contestants[:turn]:
                with target_for(image, kind, folder) as target:
                    runs[image.work, kind][one.name].append(measure(one, image, target, folder))
        now = time.perf_counter()
        if now - began + now - last > budget:
            break
        last = now
    return runs


def figures(runs: Runs, size: int) -> dict[str, Any]:
    """MB/s is 10^6 bytes of the raw image a second."""
    result: dict[str, Any] = {}
    for one in CONTESTANTS:
        if not runs.get(one.name):
            continue
        seconds = [run.seconds for run in runs[one.name]]
        result[one.name] = {
            "mb_per_second": round(size / statistics.median(seconds) / 1e6, 1),
            "slowest": round(size / max(seconds) / 1e6, 1),
            "best": round(size / min(seconds) / 1e6, 1),
            "cpu_seconds_per_gib": round(
                statistics.median(run.cpu for run in runs[one.name]) / size * 2**30, 3
            ),
            "reads_back": one.reads_back or not one.command,
        }
        if one.leaves_out:
            result[one.name]["leaves_out"] = one.leaves_out
        if not one.command:
            result[one.name]["peak_rss_bytes"] = max(run.peak for run in runs[one.name])
            result[one.name]["growth"] = max(run.growth for run in runs[one.name])
    return result


def ratio(told: dict[str, Any], *, reads_back: bool) -> float | None:
    peers = [
        told[one.name]["mb_per_second"]
        for one in CONTESTANTS
        if one.command and one.name in told and one.reads_back == reads_back
    ]
    return round(told["ours"]["mb_per_second"] / max(peers), 2) if peers else None


def peak_of_a_large_one(folder: Path, size: int) -> dict[str, Any]:
    image = make_image(SPARSE, size, folder, for_peers=False)
    with target_for(image, "file", folder) as target:
        run = measure(CONTESTANTS[0], image, target, folder)
    return {
        "peak_rss_bytes": run.peak,
        "growth": run.growth,
        "bytes": size,
        "mb_per_second": round(size / run.seconds / 1e6, 1),
    }


def bench(dense: int, sparse: int, large: int, count: int, budget: float) -> dict[str, Any]:
    build = find_checkout().build
    build.mkdir(parents=True, exist_ok=True)
    missing = sorted({one.tool for one in CONTESTANTS if one.tool and not shutil.which(one.tool)})
    # Not in /tmp, which is memory on many machines.
    with tempfile.TemporaryDirectory(prefix="bench-write-", dir=build) as name:
        folder = Path(name)
        images = [make_image(DENSE, dense, folder), make_image(SPARSE, sparse, folder)]
        runs = rounds(images, folder, count, budget)
        sizes = {image.work: image.raw_size for image in images}
        peak = peak_of_a_large_one(folder, large) if large else {}
    told = {key: figures(one, sizes[key[0]]) for key, one in runs.items()}
    return {
        "bytes": sizes,
        "rounds": len(next(iter(runs[DENSE, "loop"].values()))),
        "ratio_to_fastest": {
            f"{work}, {kind}": ratio(one, reads_back=False) for (work, kind), one in told.items()
        },
        "ratio_to_fastest_that_reads_back": {
            f"{work}, {kind}": ratio(one, reads_back=True) for (work, kind), one in told.items()
        },
        "peak_rss_bytes": peak.get("peak_rss_bytes"),
        "large_sparse_image": peak,
        **{f"{work}, {kind}": one for (work, kind), one in told.items()},
        "missing_tools": missing,
        "processors": os.cpu_count(),
        "load": [round(value, 2) for value in os.getloadavg()],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--dense", type=int, default=1024, help="MiB, a multiple of 16 (default: %(default)s)"
    )
    parser.add_argument(
        "--sparse", type=int, default=8192, help="MiB, a multiple of 256 (default: %(default)s)"
    )
    parser.add_argument("--large", type=int, default=20480, help="MiB, for the peak of memory; 0: none")
    parser.add_argument("--rounds", type=int, default=3, help="at most (default: %(default)s)")
    parser.add_argument("--budget", type=float, default=180, help="seconds for them (default: %(default)s)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(json.loads(options.child))
        return
    try:
        result = bench(
            options.dense * MIB, options.sparse * MIB, options.large * MIB, options.rounds, options.budget
        )
    except TeethError as error:
        sys.exit(f"bench/write.py: {error}")
    target = find_checkout().build / "bench/write.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
