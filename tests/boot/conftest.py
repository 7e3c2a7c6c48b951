"""Machines for tests: started by a fixture, ended whatever happens, their logs kept when a test fails."""

from __future__ import annotations

import dataclasses
import functools
import http.server
import re
import shutil
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from boot.room import DEFAULT, Room
from teeth.build.ramdisk import build_ramdisk
from teeth.lab.accel import Accelerator, find_accelerator, steady_cpus
from teeth.lab.host import shares
from teeth.lab.machine import Machine
from teeth.lab.network import HOST_ADDRESS
from teeth.lab.probe_payload import probe_initramfs
from teeth.lab.running import RunningMachine, run_machine
from teeth.paths import Paths, find_checkout

_FAILED = pytest.StashKey[bool]()
_TAIL = 40  # console lines shown with a failure

Boot = Callable[[Machine], Awaitable[RunningMachine]]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Remember a failure for the fixtures' teardown, and show with it what the machines last said."""
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
        for log in sorted(log_folder(item).glob("*/console.log")):
            tail = log.read_text().splitlines()[-_TAIL:]
            report.sections.append((f"end of {log}", "\n".join(tail)))
    return report


def log_folder(item: pytest.Item) -> Path:
    """Where a test's machines keep their logs: build/tests/FILE.TEST."""
    name = f"{item.path.stem}.{item.name}"
    return find_checkout().build / "tests" / re.sub(r"[^\w.-]+", "-", name).strip("-")


@pytest.fixture(scope="session")
def paths() -> Paths:
    return find_checkout()


@pytest.fixture(scope="session")
def ramdisk(paths: Paths) -> Path:
    """The folder of the ramdisk, built first when its inputs changed."""
    return build_ramdisk(paths, paths.recipes / "ramdisk.yaml", say=print).folder


@pytest.fixture(scope="session")
def kernel(ramdisk: Path) -> Path:
    return ramdisk / "vmlinuz"


@pytest.fixture(scope="session")
def accelerator(kernel: Path, paths: Paths) -> Accelerator:
    return find_accelerator(kernel, paths.cache)


@pytest.fixture(scope="session")
def tiny_initramfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The probe's: one program that says its marker and restarts the machine."""
    path = tmp_path_factory.mktemp("tiny") / "initramfs"
    path.write_bytes(probe_initramfs())
    return path


@pytest.fixture(autouse=True)
def shares_held(request: pytest.FixtureRequest) -> Iterator[int]:
    """Room for the machines of a test that boots any, before the first of them; see boot.room.

    ``@pytest.mark.machines(1024, 512)``: MiB of those that are up together, where it is not one of 1 GiB;
    ``alone=True`` for a test that needs the whole host.
    """
    if request.node.get_closest_marker("boot") is None:
        yield 0
        return
    said = request.node.get_closest_marker("machines")
    sizes = said.args if said is not None and said.args else DEFAULT
    with Room().take(sizes, alone=said is not None and bool(said.kwargs.get("alone"))) as held:
        yield held


@pytest_asyncio.fixture
async def boot(
    accelerator: Accelerator, request: pytest.FixtureRequest, shares_held: int
) -> AsyncIterator[Boot]:
    """Start machines; they end with the test. Logs lie in build/tests/TEST/MACHINE and stay when it fails."""
    folder = log_folder(request.node)
    shutil.rmtree(folder, ignore_errors=True)
    started: list[RunningMachine] = []
    async with AsyncExitStack() as stack:

        async def start(machine: Machine) -> RunningMachine:
            sizes = [one.machine.memory for one in started if one.running] + [machine.memory]
            assert shares(sizes) <= max(shares_held, shares(DEFAULT)), f"mark the test: machines{(*sizes,)}"
            # Of more processors some emulators make a panic, now and then, that is no test's doing.
            machine = dataclasses.replace(machine, cpus=steady_cpus(accelerator, machine.cpus))
            running = run_machine(machine, accelerator=accelerator, folder=folder / machine.name)
            started.append(await stack.enter_async_context(running))
            return started[-1]

        yield start
    if not request.node.stash.get(_FAILED, False):
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileServer:
    """A web server on the host's loopback: ``url`` is how a guest reaches ``folder``."""

    folder: Path
    url: str


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def file_server(tmp_path: Path) -> Iterator[FileServer]:
    folder = tmp_path / "http"
    folder.mkdir()
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield FileServer(folder=folder, url=f"http://{HOST_ADDRESS}:{server.server_port}")
        server.shutdown()
        thread.join()
