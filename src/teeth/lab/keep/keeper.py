"""A process that holds one machine or one network, for as long as somebody wants it to be there.

    python -m teeth.lab.keep.keeper FOLDER READY

``FOLDER`` has a description.json; ``READY`` is a descriptor on which one JSON line says that it is up, or
why not. The keeper is what the machine's console writes to, what QEMU dies with, and what commands ask.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from teeth.errors import TeethError
from teeth.lab.accel import accelerator
from teeth.lab.describe import Places, bridge_namespace, parse
from teeth.lab.keep.control import served
from teeth.lab.keep.machine import KeptMachine
from teeth.lab.keep.network import KeptNetwork
from teeth.lab.keep.processes import identify
from teeth.lab.keep.state import CONTROL, DESCRIPTION, STATE, write


class Thing(Protocol):
    """What a keeper keeps."""

    kind: str
    name: str

    def facts(self) -> Mapping[str, Any]:
        """What the state file tells besides the keeper's identity."""

    def up(self) -> contextlib.AbstractAsyncContextManager[None]:
        """It is there while the block runs."""

    async def run(self) -> None:
        """Until it has ended for good; a machine that was switched off has not."""

    async def answer(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Do what a command asks. Raises TeethError."""


async def keep(thing: Thing, folder: Path, ready: int) -> None:
    """Bring it up, say so, and hold it until SIGTERM or its own end."""
    leave = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, leave.set)

    async with _told(thing, ready), served(folder / CONTROL, thing.answer):
        write(folder, STATE, state_of(thing))
        if not _say(ready, {"ok": True}):
            return  # who started us has gone: nobody would know of it
        running = asyncio.create_task(thing.run())
        leaving = asyncio.create_task(leave.wait())
        await asyncio.wait({running, leaving}, return_when=asyncio.FIRST_COMPLETED)
        for task in (running, leaving):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@asynccontextmanager
async def _told(thing: Thing, ready: int) -> AsyncIterator[None]:
    """The thing is up while the block runs; why it could not be goes to whoever waits for it."""
    async with contextlib.AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(thing.up())
        except TeethError as error:
            _say(ready, {"ok": False, "error": error.message, "hint": error.hint})
            raise
        yield


def state_of(thing: Thing) -> dict[str, Any]:
    me = identify(os.getpid())
    assert me is not None
    return {
        "kind": thing.kind,
        "name": thing.name,
        "keeper": me.to_json(),
        "since": time.time(),
        **thing.facts(),
    }


def _say(ready: int, words: Mapping[str, Any]) -> bool:
    """Whether somebody still waits to hear it."""
    try:
        os.write(ready, json.dumps(words).encode() + b"\n")
    except BrokenPipeError:
        return False
    finally:
        os.close(ready)
    return True


def load(folder: Path) -> Thing:
    """What the folder's description.json describes."""
    said = json.loads((folder / DESCRIPTION).read_text())
    places = Places(
        file=Path(said["file"]), state=Path(said["state"]), build=Path(said["build"]), cpus=said["cpus"]
    )
    found = parse(said["document"], places)
    if said["kind"] == "network":
        (network,) = found.networks
        return KeptNetwork(network, bridge_namespace(network.name, places.state), folder)
    (machine,) = found.machines
    return KeptMachine(machine, accelerator(said["accelerator"], said["reason"]), folder, places)


def main() -> int:
    folder, ready = Path(sys.argv[1]), int(sys.argv[2])
    try:
        asyncio.run(keep(load(folder), folder, ready))
    except TeethError as error:
        print(f"teeth: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
