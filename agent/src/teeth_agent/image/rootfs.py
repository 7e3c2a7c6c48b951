"""Finding kernel, initrds and command line on a disk, by mounting its file systems read-only."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from teeth_agent import sysfs
from teeth_agent.errors import AgentError, ToolError, image_errors
from teeth_agent.tools import blkid, mount
from teeth_image import bootentry, gpt
from teeth_image.bootentry import BootEntry

# File systems that hold a system or its /boot and that ramdisk kernels read.
_KINDS = ("ext2", "ext3", "ext4", "xfs", "btrfs")
_GRUB_FOLDERS = ("boot/grub", "boot/grub2", "grub", "grub2")
_BLS_FOLDERS = ("boot/loader/entries", "loader/entries")
# Real ones have some 10 KiB and a dozen entries.
_MAX_TEXT = 1 << 20
_MAX_BLS = 256
_MAX_LINKS = 40  # the kernel's own bound on symbolic links in one path


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFiles:
    """What kexec loads; the paths are valid while the file systems are mounted."""

    entry: BootEntry
    kernel: Path
    initrds: tuple[Path, ...]


@contextmanager
def mounted_systems(
    disk: str, table: gpt.Table, *, work: Path, root: Path = Path("/")
) -> Iterator[list[Path]]:
    """Every file system of the disk that may hold a system, mounted below ``work``.

    Those that cannot be mounted are left out. ``disk`` may be a regular file.
    """
    with ExitStack() as stack:
        points = []
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="teeth-image-", dir=work)))
        for one in table.partitions:
            kind = blkid.probe(disk, offset=table.offset(one), length=table.length(one)).kind
            if kind not in _KINDS:
                continue
            source, options = _source(disk, table, one, root)
            point = folder / str(one.number)
            point.mkdir(mode=0o700)
            try:
                points.append(stack.enter_context(mount.mounted(source, point, kind, options=options)))
            except ToolError:
                continue  # damaged, or a file system this kernel lacks: one of the others may do
        yield points


def find_boot_files(systems: Sequence[Path]) -> BootFiles:
    """The entry that the system's own boot loader would start.

    Raises AgentError: no_boot_entry (nothing of the kind is there), boot_config (it is, and damaged),
    no_kernel, no_initrd (it names what is not there).
    """
    entry = _find_entry(systems)
    kernel = _find_file(systems, entry.kernel)
    if kernel is None:
        raise AgentError(f"{entry.source} names {entry.kernel}, which is not there", code="no_kernel")
    initrds = []
    for path in entry.initrds:
        initrd = _find_file(systems, path)
        if initrd is None:
            raise AgentError(f"{entry.source} names {path}, which is not there", code="no_initrd")
        initrds.append(initrd)
    return BootFiles(entry=entry, kernel=kernel, initrds=tuple(initrds))


def inside(root: Path, path: str) -> Path | None:
    """``path`` below ``root`` with every symbolic link taken as the image's own system would take it.

    None if there is nothing. A link can never lead out of ``root``: the image is not trusted with the
    ramdisk's files.
    """
    parts, found, links = [part for part in reversed(path.split("/")) if part], root, 0
    while parts:
        part = parts.pop()
        if part == ".":
            continue
        if part == "..":
            found = found if found == root else found.parent
            continue
        try:
            mode = os.lstat(found / part).st_mode
            if not stat.S_ISLNK(mode):
                found = found / part
                continue
            target = os.readlink(found / part)  # noqa: PTH115 - the text, not a Path of it
        except OSError:
            return None
        links += 1
        if links > _MAX_LINKS:
            return None
        if target.startswith("/"):
            found = root
        parts += [step for step in reversed(target.split("/")) if step]
    return found


def _find_entry(systems: Sequence[Path]) -> BootEntry:
    """Raises AgentError(no_boot_entry | boot_config) with what is wrong with the files that were found."""
    faults, damaged = [], False
    for system in systems:
        for folder in _GRUB_FOLDERS:
            text = _text(system, f"{folder}/grub.cfg")
            if text is None:
                continue
            env = bootentry.parse_grubenv(_text(system, f"{folder}/grubenv") or "")
            if bootentry.uses_bls(text):
                found = bootentry.choose_bls(_bls(systems, bootentry.variables_of(text, env)), env)
                if found is not None:
                    return found
            entries = bootentry.parse_grub_cfg(text, env)
            if entries:
                return _from_grub(entries, text, env)
            sure, why = bootentry.why_no_entries(text)
            faults.append(f"{folder}/grub.cfg {why}")
            damaged |= sure
    found = bootentry.choose_bls(_bls(systems, {}), {})
    if found is None:
        where = "; ".join(faults) or "no grub.cfg and no BLS entry on any of its file systems"
        raise AgentError(
            f"the disk starts no Linux: {where} ({len(systems)} mounted)",
            code="boot_config" if damaged else "no_boot_entry",
        )
    return found


def _from_grub(entries: list[BootEntry], text: str, env: dict[str, str]) -> BootEntry:
    with image_errors():
        return bootentry.choose_grub(entries, text, env)


def _bls(systems: Sequence[Path], variables: dict[str, str]) -> list[BootEntry]:
    entries = []
    for system in systems:
        for folder in _BLS_FOLDERS:
            where = inside(system, folder)
            names = sorted(entry.name for entry in where.iterdir()) if where and where.is_dir() else []
            for name in [name for name in names if name.endswith(".conf")][:_MAX_BLS]:
                entry = bootentry.parse_bls(name, _text(system, f"{folder}/{name}") or "", variables)
                if entry is not None:
                    entries.append(entry)
    return entries


def _find_file(systems: Sequence[Path], path: str) -> Path | None:
    """A loader's path is from its own file system's root: /vmlinuz where /boot is a separate one."""
    for system in systems:
        for below in (path, f"/boot/{path}"):
            found = inside(system, below)
            if found is not None and found.is_file():
                return found
    return None


def _text(system: Path, path: str) -> str | None:
    found = inside(system, path)
    if found is None or not found.is_file():
        return None
    with found.open("rb") as stream:
        return stream.read(_MAX_TEXT).decode(errors="replace")


def _source(disk: str, table: gpt.Table, one: gpt.Partition, root: Path) -> tuple[str, str]:
    """What to mount for a partition, and with which options."""
    name = Path(disk).resolve().name
    for entry in sysfs.names(root, f"/sys/class/block/{name}"):
        if sysfs.read_int(root, f"/sys/class/block/{name}/{entry}/partition") == one.number:
            return f"/dev/{entry}", ""
    # A regular file, or a device that the kernel does not partition.
    return disk, f"loop,offset={table.offset(one)},sizelimit={table.length(one)}"
