"""Which accelerator truly works here: asked of a real kernel under a deadline, and remembered.

``/dev/kvm`` alone says little: there are hosts where it opens, firmware runs under it, and every stock
kernel hangs.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from teeth.cache import file_digest
from teeth.errors import TeethError, UsageError
from teeth.lab.probe_payload import MARKER, probe_initramfs
from teeth.proc import CommandError, run

QEMU = "qemu-system-x86_64"
OVERRIDE = "TEETH_ACCEL"
# The probe takes 1 to 2 s under plain emulation and less under KVM: this leaves room for a busy host.
PROBE_SECONDS = 15.0
_REMEMBERED = 8  # answers kept: one per kernel, QEMU and host kernel lately seen
_ARGV = {
    "kvm": ("-accel", "kvm", "-cpu", "host"),
    "tcg": ("-accel", "tcg,thread=multi", "-cpu", "max"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """``name`` is "kvm" or "tcg", ``argv`` QEMU's arguments for it, ``reason`` one line for a person."""

    name: str
    argv: tuple[str, ...]
    reason: str

    @property
    def kernel_arguments(self) -> tuple[str, ...]:
        """What a guest's kernel should be told beside its own arguments.

        Under plain emulation on a busy host the timer's ticks can come too late for the kernel's check of
        them, and it panics ("IO-APIC + timer doesn't work!"). Linux leaves the check out by itself only
        where it finds a hypervisor that it knows (arch/x86/kernel/apic/io_apic.c, check_timer).
        """
        return ("no_timer_check",) if self.name == "tcg" else ()


def accelerator(name: str, reason: str) -> Accelerator:
    """The accelerator called ``name``; UsageError for any other word than kvm and tcg."""
    if name not in _ARGV:
        raise UsageError(f"{OVERRIDE}={name!r}: there are kvm and tcg")
    return Accelerator(name=name, argv=_ARGV[name], reason=reason)


def require_qemu() -> None:
    """Raise TeethError when QEMU is missing."""
    if shutil.which(QEMU) is None:
        raise TeethError(f"QEMU ({QEMU}) is not installed", hint="run make setup")


def qemu_version() -> str:
    """QEMU's version line without the copyright; TeethError when QEMU is missing."""
    require_qemu()
    return run([QEMU, "--version"], timeout=30).splitlines()[0].removeprefix("QEMU emulator version ")


def find_accelerator(
    kernel: Path | None,
    cache: Path,
    *,
    env: Mapping[str, str] = os.environ,
    device: Path = Path("/dev/kvm"),
    again: bool = False,
) -> Accelerator:
    """The accelerator to run machines with.

    ``kernel`` is the kernel to try it on; without one KVM is not trusted. ``cache`` is the folder in
    which the answer is kept (accel.json), keyed by kernel, QEMU and host kernel; ``again`` asks anew.
    Raises TeethError when QEMU is missing, UsageError for a senseless TEETH_ACCEL.
    """
    if chosen := env.get(OVERRIDE):
        return accelerator(chosen, f"{OVERRIDE} says so")
    if not device.exists():
        return accelerator("tcg", f"there is no {device}")
    if not os.access(device, os.R_OK | os.W_OK):
        return accelerator("tcg", f"{device} may not be opened by this user")
    if kernel is None or not kernel.is_file():
        return accelerator("tcg", f"no kernel yet to try {device} with")
    key = "/".join((file_digest(kernel), qemu_version(), platform.release()))
    memory = _Memory(path=cache / "accel.json")
    if not again and (known := memory.get(key)) is not None:
        return known
    found = probe_kvm(kernel)
    memory.put(key, found)
    return found


def probe_kvm(kernel: Path, deadline: float = PROBE_SECONDS) -> Accelerator:
    """Boot ``kernel`` under KVM up to a first program; kvm when its marker came within ``deadline`` s."""
    problem = probe_boot(_ARGV["kvm"], kernel, deadline)
    if problem:
        return accelerator("tcg", f"KVM does not work here: {problem}")
    return accelerator("kvm", "a probe boot reached user mode under KVM")


def probe_boot(accel: Sequence[str], kernel: Path, deadline: float) -> str:
    """Boot ``kernel`` with the probe's initramfs; "" when user mode was reached, else what went wrong."""
    # A QEMU that aborts may leave a core file in its current folder: this one goes with it.
    with tempfile.TemporaryDirectory(prefix="teeth-probe-") as name:
        folder = Path(name)
        (folder / "initramfs").write_bytes(probe_initramfs())
        argv = [
            *with_parent(QEMU), *accel, "-machine", "q35", "-nodefaults", "-display", "none", "-no-reboot",
            "-m", "256", "-smp", "2", "-serial", "stdio",
            "-kernel", os.fspath(kernel.resolve()), "-initrd", "initramfs",
            "-append", "console=ttyS0 panic=-1 quiet",
        ]  # fmt: skip
        try:
            output = run(argv, cwd=folder, timeout=deadline)
        except CommandError as error:
            return f"QEMU ended with {error.returncode}: {_cause(error.tail)}"
        except TeethError:
            return f"a kernel did not come up within {deadline:g} s"
    return "" if MARKER in output else "the kernel ended before its first program"


def _cause(tail: str) -> str:
    """The line of a failed QEMU's output that says most: its own first error, else its last words."""
    lines = [line.strip().removeprefix(f"{QEMU}: ") for line in tail.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors[:1] or lines[-1:] or ["no output"])[0]


def steady_cpus(chosen: Accelerator, wanted: int) -> int:
    """How many of ``wanted`` processors a machine can have without the emulator's own faults.

    Multi-threaded TCG of QEMU 7.2 at times runs a stale translation when one processor patches kernel code
    that another executes: the guest panics with "Oops: int3" (seen in about one of fifty kernel starts). One
    processor cannot race with itself. Not seen with QEMU 8.1 and later.
    """
    if chosen.name != "tcg":
        return wanted
    version = re.match(r"(\d+)\.(\d+)", qemu_version())
    old = version is None or (int(version[1]), int(version[2])) < (8, 1)
    return 1 if old else wanted


def with_parent(program: str, core: int | None = None) -> list[str]:
    """``program``'s argv so that the kernel kills it when this process dies, however it dies; on the host's
    processor ``core`` alone, if one is given.

    setpriv sets the parent-death signal in the child and then becomes the program. The signal is sent when
    the *thread* that started it ends: start machines from one that lives as long as they do.
    """
    bond = [] if core is None else ["taskset", "--cpu-list", str(core)]
    return ["setpriv", "--pdeathsig", "KILL", "--", *bond, program]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Memory:
    """Answers in a JSON file, oldest first; an unreadable file counts as empty."""

    path: Path

    def get(self, key: str) -> Accelerator | None:
        match self._read().get(key):
            case {"name": str(name), "reason": str(reason)} if name in _ARGV:
                return accelerator(name, reason)
            case _:
                return None

    def put(self, key: str, answer: Accelerator) -> None:
        known = {name: value for name, value in self._read().items() if name != key}
        kept = dict(
            [*known.items(), (key, {k: v for k, v in asdict(answer).items() if k != "argv"})][-_REMEMBERED:]
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_suffix(f".{os.getpid()}.new")
        fresh.write_text(json.dumps(kept, indent=2) + "\n")
        fresh.replace(self.path)

    def _read(self) -> dict[str, object]:
        try:
            data = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        return data if isinstance(data, dict) else {}
