"""Can this image start, and where: what is told to whoever adds it, before any machine has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from teeth.images import bootfiles, disk
from teeth.images.bootfiles import Kernel, NotFound
from teeth.images.disk import Disk, Part
from teeth.images.errors import BadImage
from teeth.images.trees import ExtTree, FatTree, TarTree, Tree
from teeth_image import bootcheck

MACHINES = ("x86_64", "aarch64")
_TAR_MAGIC = slice(257, 262)
_UNREAD = ("xfs", "btrfs", "squashfs")


@dataclass(slots=True, kw_only=True)
class Look:
    """What was found. ``problems``: each a reason why it would not start; ``notes``: what cannot be known."""

    kind: str
    format: str
    architecture: str = "any"
    boot: tuple[str, ...] = ()
    kernel: str = ""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def look_at(image: Path, *, kind: str | None, architecture: str | None) -> Look:
    """``kind`` and ``architecture``: what it is said to be, None: whatever it is.

    Raises BadImage for what is no image at all; what only keeps it from starting is in ``problems``.
    """
    with image.open("rb") as stream:
        head = stream.read(disk.HEAD)
        system = disk.file_system(stream, 0)
    found = _kind(head, system)
    if found is None:
        hint = "a disk with a partition table, a file system (ext4, xfs, btrfs) or a tar of one"
        raise BadImage("it is no image that is known here", hint=hint)
    if kind is not None and kind != found.kind:
        raise BadImage(f"it is a {found.kind} image, not a {kind} image")
    if found.kind == "disk":
        _look_at_disk(image, found)
    elif found.format == "tar":
        _look_at_root(TarTree(image), found)
    elif system == "ext":
        _look_at_root(ExtTree(image, 0), found)
    else:
        found.notes.append(f"nothing here reads {system}: its kernel and its init were not looked for")
    if found.architecture == "any" and architecture is not None:
        found.architecture = architecture
    if architecture is not None and found.architecture != architecture:
        found.problems.append(f"it is for {found.architecture}, not for {architecture}")
    return found


def _kind(head: bytes, system: str) -> Look | None:
    if disk.has_table(head):
        return Look(kind="disk", format="raw")
    if system in ("ext", *_UNREAD):
        return Look(kind="root", format="raw")
    if head[_TAR_MAGIC] == b"ustar":
        return Look(kind="root", format="tar")
    return None


def _look_at_disk(image: Path, found: Look) -> None:
    layout = disk.read(image)
    trees: list[Tree] = [_tree(image, part) for part in layout.parts if part.kind in ("ext", "vfat")]
    unread = sorted({part.kind for part in layout.parts if part.kind in _UNREAD})
    kernel: Kernel | None = None
    try:
        kernel = bootfiles.booted_kernel(trees)
        found.kernel = kernel.path
    except NotFound as error:
        if unread:
            found.notes.append(f"nothing here reads {', '.join(unread)}: its kernel was not looked for")
        elif _unified(image, layout):
            found.notes.append(
                "it starts a unified kernel image: a machine can be restarted into it, not kexec'ed"
            )
        else:
            found.problems.append(str(error))
    _set_architecture(found, kernel, trees, needs_init=not unread)
    _look_at_loaders(image, layout, found)


def _look_at_root(tree: Tree, found: Look) -> None:
    kernel: Kernel | None = None
    try:
        kernel = bootfiles.newest_kernel(tree)
        found.kernel = kernel.path
        if not kernel.initrds:
            found.notes.append(f"there is no initrd for {kernel.path}")
    except NotFound as error:
        found.problems.append(str(error))
    _set_architecture(found, kernel, [tree], needs_init=True)
    found.boot = ("bios", "uefi")  # the machine itself puts the loader there


def _set_architecture(found: Look, kernel: Kernel | None, trees: Sequence[Tree], *, needs_init: bool) -> None:
    of_kernel = None if kernel is None else kernel.architecture
    of_init = None
    try:
        of_init = bootfiles.init_architecture(trees)
    except NotFound as error:
        if needs_init:
            found.problems.append(str(error))
    if of_kernel and of_init and of_kernel != of_init:
        found.problems.append(f"its kernel is for {of_kernel}, its init for {of_init}")
    said = of_kernel or of_init
    if said is None:
        return
    if said in MACHINES:
        found.architecture = said
    else:
        found.problems.append(f"it is for {said}: machines here are {' or '.join(MACHINES)}")


def _look_at_loaders(image: Path, layout: Disk, found: Look) -> None:
    machines = MACHINES if found.architecture == "any" else (found.architecture,)
    checks = [_uefi(image, layout, machine) for machine in machines]
    if "x86_64" in machines:
        checks.append(_bios(layout))
    found.boot = tuple(sorted({one.firmware for one in checks if one.bootable}))
    if not found.boot:
        why = "; ".join(f"{one.firmware}: {one.reason}" for one in checks)
        found.problems.append(f"no firmware would start it ({why})")


def _bios(layout: Disk) -> bootcheck.BootCheck:
    if layout.table is not None:
        return bootcheck.bios(layout.table, layout.sector)
    code = any(layout.sector[:440])
    reason = "boot code in the first sector" if code else "no boot code in the first sector"
    if code and not layout.active:
        reason += ", but no active partition"
    return bootcheck.BootCheck(firmware="bios", bootable=code and layout.active, reason=reason)


def _uefi(image: Path, layout: Disk, machine: str) -> bootcheck.BootCheck:
    loader = bootcheck.REMOVABLE[machine]
    for part in layout.parts:
        if part.efi and loader in (name.upper() for name in FatTree(image, part.offset).names("/EFI/BOOT")):
            reason = f"partition {part.number} has EFI/BOOT/{loader}"
            return bootcheck.BootCheck(firmware="uefi", bootable=True, reason=reason)
    missing = f"no EFI system partition with EFI/BOOT/{loader}"
    return bootcheck.BootCheck(firmware="uefi", bootable=False, reason=missing)


def _unified(image: Path, layout: Disk) -> bool:
    return any(
        name.lower().endswith(".efi")
        for part in layout.parts
        if part.efi
        for name in FatTree(image, part.offset).names("/EFI/Linux")
    )


def _tree(image: Path, part: Part) -> Tree:
    return ExtTree(image, part.offset) if part.kind == "ext" else FatTree(image, part.offset)
