"""An endpoint, a machine that has dialled home to it, and what the host finds on its disks' files."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from teeth.lab.keep.handle import MachineHandle
from teeth.lab.keep.up import down
from teeth.lab.pytest_plugin import Lab

MARK = b"an earlier user's data, block %08d\n"
BLOCK = 512
MIB = 1 << 20
_MAC = "52:54:00:7e:e7:0e"
_HOME = 300.0
_TASK = 500.0


def fill(path: Path, size: int) -> Path:
    """A file that is full of an earlier user's data, every block of it different."""
    with path.open("wb") as stream:
        for number in range(size // BLOCK):
            stream.write((MARK % number).ljust(BLOCK, b"\xe5"))
    return path


def remains(path: Path) -> int:
    """How many blocks of an earlier user's data the host still finds on a file, wherever they lie."""
    return path.read_bytes().count(MARK.partition(b"%")[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """A task that is over. ``units`` are its records by serial number (or WWN, where there is none)."""

    state: str
    code: str
    msg: str
    units: Mapping[str, Mapping[str, Any]]
    result: Mapping[str, Any]

    def outcomes(self) -> dict[str, tuple[str, str | None, str]]:
        """Outcome, method and code of each unit."""
        return {
            name: (unit["outcome"], unit["method"], unit["code"]) for name, unit in sorted(self.units.items())
        }


@dataclass(slots=True, kw_only=True)
class Site:
    """``data`` is the endpoint's folder, ``node`` what the endpoint calls the machine."""

    data: Path
    lab: Lab
    rest: str
    ramdisk: str
    memory: str
    node: str = ""
    _machines: list[MachineHandle] = field(default_factory=list)

    @property
    def machine(self) -> MachineHandle:
        return self._machines[-1]

    def start(self) -> None:
        """Switch the machine on with a boot grant of its own, and wait until its agent is at home."""
        granted = self.teeth("grant", "create", _MAC, "--reveal", "--json")
        assert granted.returncode == 0, granted.stderr
        words = [
            word
            for word in json.loads(granted.stdout)["kernel_command_line"].split()
            if not word.startswith(("console=", "loglevel="))
        ]
        boot = f"{{ from = 'ramdisk', ramdisk = '{self.ramdisk}', append = '{' '.join(words)}' }}"
        head = f"[machines.one]\nmemory = '{self.memory}'\ndisplay = false\nboot = {boot}\n"
        self._machines.append(self.lab.machine(f"{head}nic = [{{ mac = '{_MAC}' }}]\n{self.rest}"))
        self.machine.wait_for("teeth: connected to ", within=_HOME)
        self.machine.wait_for(lambda: self._connected() is not None, within=_HOME)
        self.node = str(self._connected())

    def power_cut(self) -> None:
        """The power goes from machine and drives at once, and comes back: another boot, the same disks."""
        self.machine.crash()
        down(self.machine.kept, keep_disks=True)
        self.start()

    def _connected(self) -> str | None:
        nodes = json.loads(self.teeth("node", "list", "--json").stdout or "[]")
        return next((node["id"] for node in nodes if node["connected"]), None)

    def teeth(self, *words: str, within: float = _TASK) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "teeth", "--data", str(self.data), *words],
            check=False, capture_output=True, text=True, timeout=within,
        )  # fmt: skip

    def erase(self, **params: Any) -> Erased:
        """Run decom.disk_erase to its end."""
        return self.task(self.begin(**params))

    def begin(self, **params: Any) -> str:
        """Ask for an erase; its task's id."""
        words = [
            word for name, value in params.items() for word in ("--param", f"{name}={json.dumps(value)}")
        ]
        done = self.teeth("task", "run", "decom.disk_erase", self.node, *words, "--yes", "--json")
        assert done.returncode == 0, done.stderr
        return str(json.loads(done.stdout)["task_id"])

    def task(self, task: str) -> Erased:
        """Wait for the task's end."""
        self.teeth("task", "watch", task)
        return self.look(task)

    def look(self, task: str) -> Erased:
        """The task as it stands."""
        done = self.teeth("task", "show", task, "--json")
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)["task"]
        result = said["result"] or {}
        units = {str(unit["serial"] or unit["wwn"]): unit for unit in result.get("units", ())}
        return Erased(state=said["state"], code=said["code"], msg=said["msg"], units=units, result=result)

    def certificates(self) -> list[dict[str, Any]]:
        """Every certificate that the endpoint issued, verified as a chain."""
        file = self.data.parent / "chain.jsonl"
        saved = self.teeth("certificate", "save", "--all", "-o", str(file))
        assert saved.returncode == 0, saved.stderr
        done = self.teeth("certificate", "verify", str(file), "--chain", "--json")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


@contextlib.contextmanager
def endpoint(data: Path) -> Iterator[None]:
    """A real endpoint process that machines reach at the host's address on QEMU's own network."""
    words = ["endpoint", "run", "--data", str(data), "--advertise", "10.0.2.2"]
    with subprocess.Popen(
        [sys.executable, "-m", "teeth", *words], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("listening ")
            yield
        finally:
            process.terminate()


@contextlib.contextmanager
def site(
    lab: Lab, folder: Path, rest: str, *, ramdisk: str = "ramdisk", memory: str = "1 GiB"
) -> Iterator[Site]:
    """A machine once it has dialled home to an endpoint of its own; ``rest`` describes its disks and drives.

    Their paths are relative to ``folder``, the test's own.
    """
    with endpoint(folder / "endpoint"):
        here = Site(data=folder / "endpoint", lab=lab, rest=rest, ramdisk=ramdisk, memory=memory)
        try:
            here.start()
            yield here
        finally:
            lab.down()
