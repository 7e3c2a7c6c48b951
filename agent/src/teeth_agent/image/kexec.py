"""Whether the written system's kernel can be started from here, and loading it."""

from __future__ import annotations

import fnmatch
import shutil
import struct
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from teeth_agent import efivars, sysfs
from teeth_agent.config import parse_cmdline
from teeth_agent.errors import AgentError
from teeth_agent.image.rootfs import BootFiles
from teeth_agent.tools import kexec
from teeth_image import signed

# Documentation/arch/x86/boot.rst: the boot sector's magic, "HdrS", and xloadflags with the 64-bit entry.
_HEADER_READ = 0x240
_PE_READ = 4096
_SECURE_BOOT = efivars.Variable(name="SecureBoot", guid=efivars.GLOBAL)
_BOOT_FLAG, _MAGIC, _VERSION, _XLOADFLAGS = 0x1FE, 0x202, 0x206, 0x236
_XLOADFLAGS_SINCE = 0x020C
_KERNEL_64 = 1
# The x86 kernel's COMMAND_LINE_SIZE, one byte of it the end.
_MAX_COMMAND_LINE = 2047
# kernel and initrd are held twice for a moment, and the running system needs some to leave in order.
_SPARE = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """``reasons`` says why not; when viable, what speaks for a failing load (lockdown) is in ``notes``."""

    viable: bool
    reasons: tuple[str, ...]
    notes: tuple[str, ...]


def preflight(files: BootFiles, *, machine: str, root: Path = Path("/")) -> Preflight:
    """Everything that can be known before loading. Reads only; raises nothing."""
    reasons = [
        *_kernel_problems(files.kernel, machine),
        *_policy_problems(files.kernel, root),
        *_denied(root),
        *_memory_problems(files, root),
    ]
    if len(files.entry.options.encode()) > _MAX_COMMAND_LINE:
        reasons.append(f"the kernel command line is longer than {_MAX_COMMAND_LINE} bytes")
    return Preflight(viable=not reasons, reasons=tuple(reasons), notes=tuple(_notes(root)))


def load(files: BootFiles, *, work: Path) -> None:
    """Load kernel, all initrds joined, and command line by kexec_file_load. Raises ToolError.

    ``work`` is a folder in memory. After this the image's file systems are no longer needed.
    """
    with _joined(files.initrds, work) as initrd:
        kexec.load(files.kernel, initrd=initrd, command_line=files.entry.options)


def _kernel_problems(kernel: Path, machine: str) -> list[str]:
    if machine != "x86_64":
        return [f"kexec is not supported on {machine} here yet"]
    try:
        with kernel.open("rb") as stream:
            head = stream.read(_HEADER_READ)
    except OSError as error:
        return [f"the kernel cannot be read: {error.strerror}"]
    if len(head) < _HEADER_READ or head[_BOOT_FLAG : _BOOT_FLAG + 2] != b"\x55\xaa":
        return ["the kernel is not a bzImage for x86"]
    if head[_MAGIC : _MAGIC + 4] != b"HdrS":
        return ["the kernel is not a bzImage for x86"]
    (version,) = struct.unpack_from("<H", head, _VERSION)
    (flags,) = struct.unpack_from("<H", head, _XLOADFLAGS)
    if version < _XLOADFLAGS_SINCE or not flags & _KERNEL_64:
        return ["the kernel has no 64-bit entry point"]
    return []


def _policy_problems(kernel: Path, root: Path) -> list[str]:
    if sysfs.read_int(root, "/proc/sys/kernel/kexec_load_disabled") == 1:
        return ["kexec is switched off in this kernel (kexec_load_disabled)"]
    mode = _lockdown(root)
    if mode and not _is_signed(kernel):
        return [f"lockdown is {mode} and the kernel has no signature"]
    return []


def _denied(root: Path) -> list[str]:
    """Machines that are known not to come up after a kexec: ``teeth.kexec_deny=GLOB,GLOB`` on the command
    line of this ramdisk, each matched with "VENDOR PRODUCT" of the machine's DMI table, in either case."""
    words = parse_cmdline(sysfs.read_text(root, "/proc/cmdline", "") or "")
    name = " ".join(
        sysfs.read_text(root, f"/sys/class/dmi/id/{part}", "") or ""
        for part in ("sys_vendor", "product_name")
    )
    for pattern in words.get("teeth.kexec_deny", "").split(","):
        if pattern and fnmatch.fnmatchcase(name.lower(), pattern.lower()):
            return [f"kexec is denied on this machine ({name}) by teeth.kexec_deny={pattern}"]
    return []


def _notes(root: Path) -> Iterator[str]:
    mode = _lockdown(root)
    if mode:
        yield f"lockdown is {mode}: only a kernel with a signature that this one trusts is loaded"
    if _secure_boot(root):
        yield "secure boot is on"


def _lockdown(root: Path) -> str:
    """ "integrity" or "confidentiality", "" without."""
    text = sysfs.read_text(root, "/sys/kernel/security/lockdown", "") or ""
    mode = text.partition("[")[2].partition("]")[0]
    return "" if mode == "none" else mode


def _secure_boot(root: Path) -> bool:
    folder = root / str(efivars.FOLDER).lstrip("/")
    try:
        return efivars.read(_SECURE_BOOT, folder)[1][:1] == b"\1"
    except AgentError:
        return False  # no UEFI, or it does not say


def _is_signed(kernel: Path) -> bool:
    try:
        with kernel.open("rb") as stream:
            return signed.is_signed(stream.read(_PE_READ))
    except OSError:
        return False


def _memory_problems(files: BootFiles, root: Path) -> list[str]:
    try:
        size = sum(path.stat().st_size for path in (files.kernel, *files.initrds))
    except OSError as error:
        return [f"kernel or initrd cannot be read: {error.strerror}"]
    available = _available(root)
    need = 2 * size + _SPARE
    if available is not None and available < need:
        return [f"{available >> 20} MiB of memory are free, loading needs {need >> 20} MiB"]
    return []


def _available(root: Path) -> int | None:
    for line in (sysfs.read_text(root, "/proc/meminfo", "") or "").splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "MemAvailable:" and words[1].isdigit():
            return int(words[1]) << 10
    return None


@contextmanager
def _joined(initrds: Sequence[Path], work: Path) -> Iterator[Path | None]:
    """One file for all: the kernel unpacks archives one after the other, each at a multiple of 4 bytes."""
    if len(initrds) <= 1:
        yield initrds[0] if initrds else None
        return
    # A named file, closed before the load: the kernel refuses to read one that is open for writing.
    with tempfile.TemporaryDirectory(prefix="teeth-initrd-", dir=work) as folder:
        joined = Path(folder) / "initrd"
        try:
            with joined.open("xb") as target:
                for initrd in initrds:
                    with initrd.open("rb") as source:
                        shutil.copyfileobj(source, target, 1 << 20)
                    target.write(bytes(-target.tell() % 4))
        except OSError as error:
            raise AgentError(f"the initrds cannot be joined: {error.strerror}", code="kexec_load") from error
        yield joined
