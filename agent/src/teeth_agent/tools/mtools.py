"""mtools(1): FAT file systems in files, devices and parts of them, without mounting.

``offset`` is where the file system begins, in bytes. Contents pass through pipes only, never through a file
or an argument.
"""

from __future__ import annotations

from collections.abc import Sequence

from teeth_agent.run import run

# FAT names are ours or a boot loader's; a listing longer than this is no boot partition.
_TIMEOUT = 60.0
# mtools wants a conversion table for its default code page, 850, which the ramdisk does not carry. 367 is
# ASCII, which is built into libc, and all names here are ASCII.
_MTOOLS = ("env", "DEFAULT_CODEPAGE=367")


def make_folders(path: str, folders: Sequence[str]) -> None:
    """Folders such as "openstack/latest", parents first. Raises ToolError."""
    run([*_MTOOLS, "mmd", "-i", path, *(f"::{folder}" for folder in folders)], timeout=_TIMEOUT)


def write_file(path: str, name: str, content: bytes) -> None:
    """A new file. Raises ToolError, also when the file system is full."""
    run([*_MTOOLS, "mcopy", "-i", path, "-", f"::{name}"], input=content, timeout=_TIMEOUT)


def names(path: str, folder: str, *, offset: int = 0) -> list[str] | None:
    """The names in a folder, as long names where there are; None if there is no such folder or no FAT."""
    argv = [*_MTOOLS, "mdir", "-b", "-i", f"{path}@@{offset}", f"::{folder}"]
    listing = run(argv, timeout=_TIMEOUT, check=False)
    if listing.returncode != 0:
        return None
    return [
        line.rstrip("/").rpartition("/")[2] for line in listing.stdout.splitlines() if line.startswith("::")
    ]
