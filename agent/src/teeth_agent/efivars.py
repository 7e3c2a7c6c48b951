"""UEFI variables by the kernel's efivarfs: listed, read, written, removed."""

from __future__ import annotations

import fcntl
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from teeth_agent.errors import AgentError

FOLDER = Path("/sys/firmware/efi/efivars")
GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"

_NAME = re.compile(r"(.+)-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
_MAX_READ = 64 << 10
# <linux/fs.h>; the flag by which efivarfs guards variables that firmware may not live without.
_GETFLAGS, _SETFLAGS = 0x80086601, 0x40086602
_IMMUTABLE = 0x10


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Variable:
    """A variable's name and its owner's GUID, in lower case."""

    guid: str
    name: str

    @property
    def file(self) -> str:
        return f"{self.name}-{self.guid}"


def listing(folder: Path = FOLDER) -> tuple[Variable, ...]:
    """All that there are, sorted; none on a machine that was not started by UEFI."""
    try:
        names = [entry.name for entry in folder.iterdir()]
    except OSError:
        return ()
    matches = (_NAME.fullmatch(name) for name in names)
    return tuple(sorted(Variable(name=found[1], guid=found[2]) for found in matches if found))


def read(variable: Variable, folder: Path = FOLDER) -> tuple[int, bytes]:
    """Attributes and content. Raises AgentError(efi_variable)."""
    try:
        with (folder / variable.file).open("rb") as stream:
            data = stream.read(_MAX_READ)
    except OSError as error:
        raise _failed("read", variable, error) from error
    if len(data) < 4:
        raise AgentError(f"EFI variable {variable.file} is cut short", code="efi_variable")
    return int(struct.unpack_from("<I", data)[0]), data[4:]


def write(variable: Variable, attributes: int, data: bytes, folder: Path = FOLDER) -> None:
    """Write it in one piece, as the kernel asks for. Raises AgentError(efi_variable)."""
    path = folder / variable.file
    try:
        if path.exists():
            _unguard(path)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            content = struct.pack("<I", attributes) + data
            os.write(descriptor, content)
            # A write is the whole variable; a folder that stands in for efivarfs keeps a longer one's rest.
            if os.fstat(descriptor).st_size != len(content):
                os.ftruncate(descriptor, len(content))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _failed("write", variable, error) from error


def remove(variable: Variable, folder: Path = FOLDER) -> None:
    """Raises AgentError(efi_variable) also when firmware took the removal and kept the variable."""
    path = folder / variable.file
    try:
        _unguard(path)
        path.unlink()
    except OSError as error:
        raise _failed("remove", variable, error) from error
    if path.exists():
        raise AgentError(f"EFI variable {variable.file} was removed and is still there", code="efi_variable")


def _unguard(path: Path) -> None:
    """Take the immutable flag away. A folder that stands in for efivarfs may know no flags."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        flags = struct.unpack("i", fcntl.ioctl(descriptor, _GETFLAGS, bytes(4)))[0]
        if flags & _IMMUTABLE:
            fcntl.ioctl(descriptor, _SETFLAGS, struct.pack("i", flags & ~_IMMUTABLE))
    except OSError:
        return
    finally:
        os.close(descriptor)


def _failed(what: str, variable: Variable, error: OSError) -> AgentError:
    return AgentError(
        f"EFI variable {variable.file}: cannot {what} it: {error.strerror}", code="efi_variable"
    )
