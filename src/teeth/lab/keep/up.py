"""Taking machines and networks up and down: what ``teeth lab up`` and ``down`` do."""

from __future__ import annotations

import json
import os
import select
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from teeth.errors import TeethError, UsageError
from teeth.lab.accel import Accelerator, find_accelerator, steady_cpus
from teeth.lab.describe import Places
from teeth.lab.description import Description, MachineDescription
from teeth.lab.host import memory_available, require_memory
from teeth.lab.keep.processes import end
from teeth.lab.keep.ssh import CONFIG, KEY, KNOWN_HOSTS, LAYER, make_keys
from teeth.lab.keep.state import CONTROL, DESCRIPTION, STATE, Kept, LabFolder, read, write
from teeth.lab.machine import DirectBoot
from teeth.lab.netns import remove, require_root
from teeth.paths import Paths
from teeth.proc import detach

_START_SECONDS = 90.0  # QEMU opens its disks, firmware is copied, on a busy host
_END_SECONDS = 30.0
_GONE = (STATE, CONTROL, "qmp.sock", DESCRIPTION, KEY, KNOWN_HOSTS, CONFIG, LAYER, "initramfs")
_CPUS = 2  # of a machine that does not say
Say = Callable[[str], None]


def places_for(paths: Paths, state: Path, file: Path) -> tuple[Places, Accelerator]:
    """Where a description's parts lie in this checkout, and what its machines run on."""
    kernel = paths.ramdisk / "vmlinuz"
    chosen = find_accelerator(kernel if kernel.is_file() else None, paths.cache)
    return Places(file=file, state=state, build=paths.build, cpus=steady_cpus(chosen, _CPUS)), chosen


def up(
    description: Description, document: Mapping[str, Any], places: Places, chosen: Accelerator,
    *, overcommit: bool = False, say: Say = lambda _: None,
) -> list[Kept]:  # fmt: skip
    """Start everything that is described, networks first; what is up already is refused, but for networks.

    Returns the machines and networks. Raises TeethError in one line; what this call started is down again
    then.
    """
    lab = LabFolder(root=places.state)
    _require_free(lab, description)
    _clear_dead_networks(lab)
    for machine in description.machines:
        _require_files(machine, places)
    if not overcommit and description.machines:
        require_memory([one.machine.memory for one in description.machines], memory_available())
    started: list[Kept] = []
    try:
        found = []
        for network in description.networks:
            require_root()
            kept = read(lab.folder("network", network.name))
            source = {"networks": {network.name: document["networks"][network.name]}}
            if kept is not None and kept.alive:
                _require_same(kept, source)
            else:
                kept = _start(lab, "network", network.name, source, places, chosen)
                started.append(kept)
                say(f"network {network.name} is up: {network.address} in namespace {kept.facts['namespace']}")
            found.append(kept)
        for machine in description.machines:
            kept = _start_machine(lab, machine, places, chosen)
            started.append(kept)
            found.append(kept)
            say(f"machine {kept.name} is up")
        return found
    except BaseException:
        for kept in reversed(started):
            down(kept)
        raise


def down(kept: Kept, *, keep_disks: bool = False) -> bool:
    """End a machine or a network, and clear away what was made for it; its logs stay.

    False when its keeper was gone before. Nothing but the keeper, which is known by more than its number, is
    ever signalled: what it started ends with it.
    """
    ended = end(kept.keeper, within=_END_SECONDS)
    if kept.kind == "network" and isinstance(namespace := kept.facts.get("namespace"), str):
        with suppress(TeethError):
            remove(namespace)
    _clear(kept.folder, keep_disks=keep_disks)
    return ended


def _clear(folder: Path, *, keep_disks: bool = False) -> None:
    """Remove all that was made but the logs."""
    for name in _GONE:
        (folder / name).unlink(missing_ok=True)
    if not keep_disks:
        shutil.rmtree(folder / "disks", ignore_errors=True)


def _require_free(lab: LabFolder, description: Description) -> None:
    for machine in description.machines:
        kept = read(lab.folder("machine", machine.machine.name))
        if kept is not None and kept.alive:
            raise UsageError(
                f"machine {kept.name} is up already (its keeper is process {kept.keeper.pid})",
                hint=f"teeth lab down {kept.name} ends it",
            )


def _clear_dead_networks(lab: LabFolder) -> None:
    """A keeper that was killed left its namespace, which is ours: nobody else has a name with our folder's
    digest in it."""
    for kept in lab.kept():
        if kept.kind == "network" and not kept.alive:
            down(kept)


def _require_files(description: MachineDescription, places: Places) -> None:
    boot = description.machine.boot
    if not isinstance(boot, DirectBoot):
        return
    for file in (boot.kernel, boot.initrd):
        if file is None or file.is_file():
            continue
        if file.parent.parent == places.build and file.parent.name.startswith("ramdisk"):
            raise TeethError(
                f"machine {description.machine.name}: the ramdisk {file.parent.name} is not built",
                hint=f"teeth image build {file.parent.name}",
            )
        raise TeethError(f"machine {description.machine.name}: there is no file {file}")


def _require_same(kept: Kept, source: Mapping[str, Any]) -> None:
    said = json.loads((kept.folder / DESCRIPTION).read_text())
    if said.get("document") != json.loads(json.dumps(source, default=str)):
        raise UsageError(
            f"network {kept.name} is up with other settings", hint=f"teeth lab net down {kept.name} ends it"
        )


def _start_machine(
    lab: LabFolder, description: MachineDescription, places: Places, chosen: Accelerator
) -> Kept:
    machine = description.machine
    folder = lab.folder("machine", machine.name)
    if (stale := read(folder)) is not None:
        down(stale)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "uefi-vars.fd").unlink(missing_ok=True)
    try:
        for path, size in description.made.items():
            _make_disk(path, size)
        if description.ssh is not None and description.ssh.key is None:
            make_keys(folder)
        return _start(lab, "machine", machine.name, description.source, places, chosen)
    except BaseException:
        # A keeper that is told of no interest any more ends by itself; one that was quicker is ended here.
        if (started := read(folder)) is not None:
            end(started.keeper, within=_END_SECONDS)
        _clear(folder)
        raise


def _make_disk(path: Path, size: int) -> None:
    """A new disk reads as zeroes and takes no room."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            stream.truncate(size)
    except OSError as error:
        raise TeethError(f"disk file {path} cannot be made: {error.strerror}") from error


def _start(
    lab: LabFolder, kind: str, name: str, source: Mapping[str, Any], places: Places, chosen: Accelerator
) -> Kept:
    """A keeper for one thing, once it says that the thing is up."""
    folder = lab.folder(kind, name)
    folder.mkdir(parents=True, exist_ok=True)
    for stale in (STATE, CONTROL):
        (folder / stale).unlink(missing_ok=True)
    said = {
        "kind": kind, "file": str(places.file.resolve()), "state": str(places.state.resolve()),
        "build": str(places.build), "cpus": places.cpus, "accelerator": chosen.name, "reason": chosen.reason,
        "document": json.loads(json.dumps(source, default=str)),
    }  # fmt: skip
    write(folder, DESCRIPTION, said)
    ours, theirs = os.pipe()
    try:
        log = folder / "keeper.log"
        log.unlink(missing_ok=True)
        argv = [sys.executable, "-m", "teeth.lab.keep.keeper", str(folder.resolve()), str(theirs)]
        try:
            detach(argv, log=log, cwd=folder, pass_fds=(theirs,))
        finally:
            os.close(theirs)
        _wait_ready(ours, f"{kind} {name}", log)
    finally:
        os.close(ours)
    kept = read(folder)
    if kept is None:
        raise TeethError(f"{kind} {name} did not come up", hint=f"see {log}")
    return kept


def _wait_ready(ready: int, what: str, log: Path) -> None:
    """Until the keeper says that it is up. Raises TeethError with its reason."""
    poll = select.poll()
    poll.register(ready, select.POLLIN | select.POLLHUP)
    if not poll.poll(_START_SECONDS * 1000):
        raise TeethError(f"{what} did not come up within {_START_SECONDS:g} s", hint=f"see {log}")
    line = os.read(ready, 65536)
    if not line:
        last = [text for text in log.read_text(errors="replace").splitlines() if text.strip()]
        raise TeethError(f"{what} did not come up: {last[-1] if last else 'its keeper ended'}")
    answer = json.loads(line)
    if not answer["ok"]:
        raise TeethError(answer["error"], hint=answer["hint"])
