"""How long until N machines have an image, and how much of it leaves the endpoint, by each way to bring it.

Every machine is a network namespace with a cable of the same rate in both directions (tbf) to one bridge; so
is the endpoint (nginx with the configuration that ``teeth endpoint nginx`` prints), and so is a rack cache. A
machine is a process with the agent's own fetch and the agent's own share. The ways take turns within one
run; bytes are those that the kernel counts on the endpoint's cable. Beside it: what serves on one machine,
without a network's bounds. Writes build/bench/distribute.json and prints it. Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from teeth.boot.nginx import front_config, rack_config
from teeth.errors import TeethError
from teeth.paths import find_checkout
from teeth_agent.image.chunks import ChunkDigests
from teeth_agent.image.fetch import Fetch
from teeth_agent.image.held import HeldImage, VerifiedChunks
from teeth_agent.image.params import ImageSpec
from teeth_agent.image.share import ImageShare, ShareLimits
from teeth_protocol.wire.standbye import Chunks

CHUNK = 4 << 20
PIECE = 256 << 10  # BitTorrent's: many to an image, as there would be of a large one
PORT = 8080
DEADLINE = 540.0
NGINX = """worker_processes 1; daemon off; user root; pid {folder}/pid; error_log {folder}/log error;
events {{ worker_connections 1024; }}
http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
include {folder}/teeth.conf; }}
"""
MODEL_MACHINES, MODEL_RACKS = 1000, 25


# --- one machine, in its own process and namespace


def machine(folder: Path, address: str, image: Path) -> None:
    """Reads lines: ``fetch URL...``, ``share``; answers each with a line of JSON. Ends with its input."""
    name, size, chunks = described(image)
    path = folder / "image"
    share = ImageShare(f"{address}/16", limits=ShareLimits(rate=1e12, connections_of_one=32))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        word, *urls = line.split()
        if word == "fetch":
            began = time.monotonic()
            places = [f"{url}/images/{name}" for url in urls]
            fetch = Fetch(spec(name, size, chunks, places))
            with path.open("wb") as file:
                for block in fetch:
                    file.write(block)
            answer: dict[str, Any] = {"seconds": time.monotonic() - began}
        else:
            known = VerifiedChunks(ChunkDigests(size=size, chunk=CHUNK, digests=chunks))
            held = HeldImage(descriptor=os.open(path, os.O_RDONLY), chunks=known)
            answer = {"url": share.open(lambda _digest, held=held: contextlib.nullcontext(held))}  # type: ignore[misc]
        print(json.dumps(answer), flush=True)
    print(json.dumps({"peak_rss_bytes": peak_memory()}), flush=True)


def spec(name: str, size: int, chunks: Sequence[str], urls: Sequence[str]) -> ImageSpec:
    """All but the last are machines beside, of which every chunk is verified."""
    return ImageSpec(
        id="bench", name="bench", urls=tuple(urls[-1:]), size=size, digest=name.replace("-", ":"),
        compression="none", raw_size=None, raw_digest=None, peers=tuple(urls[:-1]),
        chunks=Chunks(size=CHUNK, digests=tuple(chunks)),
    )  # fmt: skip


def described(image: Path) -> tuple[str, int, list[str]]:
    """sha256-HEX, size and the digests of the chunks."""
    whole, chunks = hashlib.sha256(), []
    with image.open("rb") as file:
        while chunk := file.read(CHUNK):
            whole.update(chunk)
            chunks.append(hashlib.sha256(chunk).hexdigest())
    return f"sha256-{whole.hexdigest()}", image.stat().st_size, chunks


def peak_memory(pid: str = "self") -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10
    return 0


# --- the network


def sh(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout


@dataclass(slots=True)
class Place:
    """A namespace with one cable."""

    namespace: str
    address: str

    def popen(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        argv = ["ip", "netns", "exec", self.namespace, *words]
        return subprocess.Popen(argv, text=True, **options)

    def sent(self) -> int:
        """Bytes that left by the cable, headers and all."""
        said = json.loads(sh("ip", "-n", self.namespace, "-s", "-j", "link", "show", "eth0"))
        return int(said[0]["stats64"]["tx"]["bytes"])


@contextlib.contextmanager
def cabled(names: Sequence[str], rate: str) -> Iterator[dict[str, Place]]:
    """A namespace for each name, all on one bridge, each behind a cable of ``rate`` (as tc writes it)."""
    switch, made = f"tb{os.getpid()}", []
    try:
        sh("ip", "netns", "add", switch)
        made.append(switch)
        sh("ip", "-n", switch, "link", "add", "br0", "type", "bridge")
        sh("ip", "-n", switch, "link", "set", "br0", "up")
        places = {}
        for number, name in enumerate(names, 1):
            namespace, port = f"{switch}-{number}", f"p{number}"
            sh("ip", "netns", "add", namespace)
            made.append(namespace)
            sh(
                "ip",
                "-n",
                switch,
                "link",
                "add",
                port,
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                namespace,
            )
            sh("ip", "-n", switch, "link", "set", port, "master", "br0", "up")
            address = f"10.77.{number // 250}.{number % 250 + 1}"
            sh("ip", "-n", namespace, "address", "add", f"{address}/16", "dev", "eth0")
            for link in ("lo", "eth0"):
                sh("ip", "-n", namespace, "link", "set", link, "up")
            for inside, device in ((namespace, "eth0"), (switch, port)):
                limit = ("root", "tbf", "rate", rate, "burst", "256kb", "latency", "100ms")
                sh("tc", "-n", inside, "qdisc", "add", "dev", device, *limit)
            places[name] = Place(namespace, address)
        yield places
    finally:
        for namespace in reversed(made):
            subprocess.run(["ip", "netns", "delete", namespace], check=False, capture_output=True)


@contextlib.contextmanager
def process(child: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    try:
        yield child
    finally:
        with contextlib.suppress(OSError):
            if child.stdin:
                child.stdin.close()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if child.stdout:
            child.stdout.close()


@contextlib.contextmanager
def nginx(place: Place, folder: Path, config: str) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "teeth.conf").write_text(config)
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder))
    child = place.popen("nginx", "-c", str(folder / "nginx.conf"), stderr=subprocess.DEVNULL)
    with process(child):
        try:
            deadline = time.monotonic() + 20
            while not (folder / "pid").exists() or not (folder / "pid").read_text().strip():
                if child.poll() is not None or time.monotonic() > deadline:
                    raise TeethError("nginx did not start")
                time.sleep(0.02)
            yield
        finally:
            child.terminate()


# --- the ways


@dataclass(slots=True)
class Fleet:
    """One run of one way: fresh processes, empty folders."""

    places: dict[str, Place]
    image: Path
    folder: Path
    count: int
    children: list[subprocess.Popen[str]] = field(default_factory=list)
    began: float = 0.0  # the first command
    ended: float = 0.0  # the last answer

    def nodes(self) -> list[Place]:
        return [self.places[f"node{number}"] for number in range(self.count)]

    def ask(self, number: int, line: str) -> None:
        pipe = self.children[number].stdin
        assert pipe is not None
        pipe.write(f"{line}\n")
        pipe.flush()

    def answer(self, number: int) -> dict[str, Any]:
        pipe = self.children[number].stdout
        assert pipe is not None
        line = pipe.readline()
        if not line:
            raise TeethError(f"machine {number} ended without an answer")
        said: dict[str, Any] = json.loads(line)
        return said

    def all(self, numbers: Sequence[int], line: Callable[[int], str]) -> list[dict[str, Any]]:
        self.began = self.began or time.monotonic()
        for number in numbers:
            self.ask(number, line(number))
        answers = [self.answer(number) for number in numbers]
        self.ended = time.monotonic()
        return answers

    def memory(self) -> int:
        for child in self.children:
            assert child.stdin is not None
            child.stdin.close()
        return max(self.answer(number)["peak_rss_bytes"] for number in range(self.count))


@contextlib.contextmanager
def machines(fleet: Fleet) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for number, place in enumerate(fleet.nodes()):
            own = fleet.folder / f"m{number}"
            own.mkdir()
            words = (sys.executable, __file__, "--machine", str(own), place.address, str(fleet.image))
            child = place.popen(*words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            fleet.children.append(stack.enter_context(process(child)))
            fleet.answer(number)
        yield


def endpoint_alone(fleet: Fleet) -> int:
    seed = fleet.places["endpoint"].address
    with machines(fleet):
        fleet.all(range(fleet.count), lambda _: f"fetch http://{seed}:{PORT}")
        return fleet.memory()


def rack_cache(fleet: Fleet) -> int:
    seed, rack = fleet.places["endpoint"], fleet.places["rack"]
    cache = fleet.folder / "cache"
    cache.mkdir()
    config = rack_config(
        listen=f"{rack.address}:{PORT}", upstream=f"{seed.address}:{PORT}", cache=cache, size="10g"
    )
    with nginx(rack, fleet.folder / "rack", config), machines(fleet):
        fleet.all(range(fleet.count), lambda _: f"fetch http://{rack.address}:{PORT}")
        return fleet.memory()


def two_share(fleet: Fleet) -> int:
    """Two machines cache and share, then all others fetch from them."""
    seed = f"http://{fleet.places['endpoint'].address}:{PORT}"
    with machines(fleet):
        fleet.all((0, 1), lambda _: f"fetch {seed}")
        urls = [said["url"] for said in fleet.all((0, 1), lambda _: "share")]
        rest = range(2, fleet.count)
        fleet.all(rest, lambda number: f"fetch {urls[number % 2]} {urls[1 - number % 2]} {seed}")
        return fleet.memory()


def doubling(fleet: Fleet) -> int:
    """One machine, then each time as many more as have it already; all of them share."""
    seed = f"http://{fleet.places['endpoint'].address}:{PORT}"
    with machines(fleet):
        urls, have = [seed], 0
        while have < fleet.count:
            wave = range(have, min(fleet.count, have + max(1, have)))
            own = [urls[1 + number % (len(urls) - 1)] if len(urls) > 1 else "" for number in wave]
            fleet.all(wave, lambda number, own=own, have=have: f"fetch {own[number - have]} {seed}")  # type: ignore[misc]
            urls += [said["url"] for said in fleet.all(wave, lambda _: "share")]
            have = wave.stop
        return fleet.memory()


def bittorrent(fleet: Fleet) -> int:
    seed, nodes = fleet.places["endpoint"], fleet.nodes()
    everyone = [place.address for place in (seed, *nodes)]
    torrent = fleet.folder / "t.torrent"
    make = (
        "import libtorrent as lt,sys; f=lt.file_storage(); lt.add_files(f,sys.argv[1]);"
        f"t=lt.create_torrent(f,{PIECE},lt.create_torrent.v1_only);"
        "lt.set_piece_hashes(t,sys.argv[2]); open(sys.argv[3],'wb').write(lt.bencode(t.generate()))"
    )
    sh("/usr/bin/python3", "-c", make, str(fleet.image), str(fleet.image.parent), str(torrent))
    script = str(Path(__file__).with_name("torrent_node.py"))
    with contextlib.ExitStack() as stack:
        for number, place in enumerate((seed, *nodes)):
            own = fleet.folder / f"t{number}"
            own.mkdir()
            role, folder = ("seed", fleet.image.parent) if number == 0 else ("leech", own)
            peers = [address for address in everyone if address != place.address]
            words = ("/usr/bin/python3", script, place.address, str(torrent), str(folder), role, *peers)
            child = place.popen(*words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            fleet.children.append(stack.enter_context(process(child)))
            fleet.answer(number)
        fleet.all(range(fleet.count + 1), lambda _: "go")
        fleet.count += 1
        return fleet.memory()


WAYS: dict[str, Callable[[Fleet], int]] = {
    "endpoint_alone": endpoint_alone,
    "rack_cache": rack_cache,
    "peers_two_share": two_share,
    "peers_doubling": doubling,
    "libtorrent": bittorrent,
}


def one_run(way: str, places: dict[str, Place], image: Path, count: int, folder: Path) -> dict[str, float]:
    own = folder / way
    own.mkdir()
    try:
        fleet = Fleet(places=places, image=image, folder=own, count=count)
        before = places["endpoint"].sent()
        memory = WAYS[way](fleet)
        seconds, sent = fleet.ended - fleet.began, places["endpoint"].sent() - before
    finally:
        shutil.rmtree(own, ignore_errors=True)
    size = image.stat().st_size
    return {"seconds": seconds, "copies_from_endpoint": sent / size, "machine_peak_rss_bytes": memory}


def measured(count: int, mib: int, mbit: int, rounds: int, ways: Sequence[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="teeth-bench-", dir="/var/tmp") as name:
        folder = Path(name)
        store = folder / "store"
        store.mkdir()
        image = store / "image"
        image.write_bytes(os.urandom(mib << 20))
        entry = store / described(image)[0]
        entry.mkdir()
        os.link(image, entry / "image")
        names = ["endpoint", "rack", *(f"node{number}" for number in range(count))]
        with cabled(names, f"{mbit}mbit") as places:
            seed = places["endpoint"]
            config = front_config(listen=f"{seed.address}:{PORT}", upstream="127.0.0.1:9", store=store)
            with nginx(seed, folder / "nginx", config):
                runs: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
                for turn in range(rounds):
                    for way in (*ways[turn % len(ways) :], *ways[: turn % len(ways)]):
                        runs[way].append(one_run(way, places, image, count, folder))
                        print(f"  {way}: {runs[way][-1]}", file=sys.stderr)
    alone = mib * 8 * 1.048576 / mbit
    return {
        "machines": count,
        "image_bytes": mib << 20,
        "cable_mbit": mbit,
        "seconds_of_one_copy": round(alone, 2),
        "ways": {way: summary(runs[way], runs[ways[0]], alone) for way in ways},
    }


def summary(runs: list[dict[str, float]], first: list[dict[str, float]], alone: float) -> dict[str, Any]:
    seconds = statistics.median(run["seconds"] for run in runs)
    pairs = [one["seconds"] / other["seconds"] for one, other in zip(first, runs, strict=True)]
    return {
        "seconds": round(seconds, 2),
        "in_copies": round(seconds / alone, 2),
        "faster_than_endpoint_alone": round(statistics.median(pairs), 2),
        "copies_from_endpoint": round(statistics.median(run["copies_from_endpoint"] for run in runs), 2),
        "machine_peak_rss_bytes": int(max(run["machine_peak_rss_bytes"] for run in runs)),
        "runs": len(runs),
    }


# --- what serves on one machine, and what a fleet would take


READ = """
import socket, sys, time
host, port, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
with socket.create_connection((host, port)) as s:
    s.sendall(f"GET {path} HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n".encode())
    buffer, total = bytearray(1 << 20), 0
    while n := s.recv_into(buffer, 1 << 20, socket.MSG_TRUNC): total += n
print(total)
"""


def serving_speed(mib: int, readers: int) -> dict[str, Any]:
    """MB/s of all readers together, over the loopback of a namespace, and the server's memory."""
    with tempfile.TemporaryDirectory(prefix="teeth-bench-") as name, cabled(["one"], "1gbit") as places:
        place, folder = places["one"], Path(name)
        image = folder / "image"
        image.write_bytes(os.urandom(mib << 20))
        title = described(image)[0]
        path = f"/images/{title}"
        (folder / title).mkdir()
        (folder / title / "image").symlink_to(image)
        config = front_config(listen=f"{place.address}:{PORT}", upstream="127.0.0.1:9", store=folder)
        found: dict[str, Any] = {}
        with nginx(place, folder / "nginx", config):
            found["nginx"] = read_by(place, PORT, path, readers, mib)
            workers = sh("pgrep", "-P", (folder / "nginx" / "pid").read_text().strip()).split()
            found["nginx"]["peak_rss_bytes"] = sum(peak_memory(pid) for pid in workers)
        words = (sys.executable, __file__, "--machine", str(folder), place.address, str(image))
        child = place.popen(*words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        with process(child):
            fleet = Fleet(places=places, image=image, folder=folder, count=1, children=[child])
            fleet.answer(0)
            port = int(fleet.all([0], lambda _: "share")[0]["url"].rpartition(":")[2])
            first = read_by(place, port, path, 1, mib)
            found["share"] = read_by(place, port, path, readers, mib)
            found["share"]["first_time_verifying_mb_per_second"] = first["mb_per_second"]
            found["share"]["peak_rss_bytes"] = fleet.memory()
        return found


def read_by(place: Place, port: int, path: str, readers: int, mib: int) -> dict[str, Any]:
    began = time.monotonic()
    words = (sys.executable, "-c", READ, place.address, str(port), path)
    children = [place.popen(*words, stdout=subprocess.PIPE) for _ in range(readers)]
    totals = [int(child.communicate(timeout=120)[0]) for child in children]
    seconds = time.monotonic() - began
    if any(total < mib << 20 for total in totals):
        raise TeethError("a reader did not get the whole image")
    return {"mb_per_second": round(sum(totals) / seconds / 1e6), "readers": readers}


def model(way: dict[str, Any]) -> dict[str, Any]:
    """Arithmetic, not a measurement: MODEL_MACHINES in MODEL_RACKS, all cables alike, in copies of an image.

    One copy takes ``unit`` times of what the cable's rate says, as measured. The endpoint's cable is shared
    by the racks, a rack's cache by its machines; no other bottleneck.
    """
    ways = way["ways"]
    unit = ways["endpoint_alone"]["in_copies"] / way["machines"]
    rack = MODEL_MACHINES / MODEL_RACKS
    waves = math.ceil(math.log2(rack))
    times = {
        "endpoint_alone": MODEL_MACHINES,
        # Racks share the endpoint's cable, then each cache its own; they overlap, the longer one counts.
        "rack_cache": max(MODEL_RACKS, rack),
        "peers_two_share": 2 * MODEL_RACKS + (rack - 2) / 2,
        "peers_doubling": MODEL_RACKS + waves,
    }
    copies = {
        "endpoint_alone": MODEL_MACHINES,
        "rack_cache": MODEL_RACKS,
        "peers_two_share": 2 * MODEL_RACKS,
        "peers_doubling": MODEL_RACKS,
    }
    return {
        "simulated": True,
        "machines": MODEL_MACHINES,
        "racks": MODEL_RACKS,
        "ways": {
            name: {"in_copies": round(times[name] * unit, 1), "copies_from_endpoint": copies[name]}
            for name in times
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--mbit", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--machine", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the namespaces are removed on the way out
    if given.machine:
        machine(Path(given.machine[0]), given.machine[1], Path(given.machine[2]))
        return
    ways = list(WAYS)
    if subprocess.run(
        ["/usr/bin/python3", "-c", "import libtorrent"], check=False, capture_output=True
    ).returncode:
        ways.remove("libtorrent")
        print("python3-libtorrent is not installed: left out", file=sys.stderr)
    found = measured(given.nodes, given.mib, given.mbit, given.rounds, ways)
    result = {**found, "serving": serving_speed(256, 8), "model": model(found)}
    out = find_checkout().root / "build" / "bench" / "distribute.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
