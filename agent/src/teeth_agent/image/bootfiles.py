"""Making the mounted files of a system start from their disk: looked at as data, nothing in them is run."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from teeth_agent.errors import AgentError
from teeth_agent.image.rootfs import inside
from teeth_image import rootconfig

GRUB_CFG = "boot/grub/grub.cfg"
FSTAB = "etc/fstab"
_MAX_TEXT = 1 << 20
_MAX_NAMES = 4096
_HEAD = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where the system lies: UUIDs of its root file system and partition, and of the ESP's file system."""

    root_uuid: str
    root_partition: str
    root_kind: str
    esp_uuid: str


def check(system: Path, *, machine: str) -> rootconfig.Choice:
    """A kernel and an init for ``machine`` must be there: the newest kernel.

    Raises AgentError(no_kernel | no_init | wrong_architecture).
    """
    boot = inside(system, "boot")
    names = [entry.name for entry in os.scandir(boot)][:_MAX_NAMES] if boot and boot.is_dir() else []
    choice = rootconfig.choose_kernel(name for name in names if _is_file(system, f"boot/{name}"))
    if choice is None:
        raise AgentError("the image has no kernel in /boot", code="no_kernel")
    found = rootconfig.kernel_machine(_head(system, f"boot/{choice.kernel}"))
    if found is None:
        raise AgentError(f"the image's /boot/{choice.kernel} is no Linux kernel", code="no_kernel")
    if found != machine:
        raise AgentError(
            f"the image's /boot/{choice.kernel} is for {found}, this machine is {machine}",
            code="wrong_architecture",
        )
    _check_init(system, machine)
    return choice


def write(system: Path, choice: rootconfig.Choice, site: Site, *, command_line: str) -> dict[bytes, bytes]:
    """grub.cfg, and /etc/fstab where it is absent or wrong. Returns what was written, by its true path.

    ``command_line``: this ramdisk's. Raises AgentError(no_space | root_files).
    """
    root = f"UUID={site.root_uuid}"
    defaults = rootconfig.variables(_defaults(system))
    grub = rootconfig.grub_cfg(
        title=_title(system),
        # Only an initrd can look for a file system's UUID.
        root=root if choice.initrds else f"PARTUUID={site.root_partition}",
        root_uuid=site.root_uuid,
        kernel=f"/boot/{choice.kernel}",
        initrds=[f"/boot/{name}" for name in choice.initrds],
        arguments=rootconfig.kernel_arguments(defaults, command_line),
    )
    done = dict([_put(system, GRUB_CFG, grub.encode())])
    efi = inside(system, "boot/efi")
    others = {"/boot/efi": f"UUID={site.esp_uuid}"} if efi is not None and efi.is_dir() else {}
    fstab = rootconfig.fstab(_text(system, FSTAB), root=root, kind=site.root_kind, others=others)
    if fstab is not None:
        done.update([_put(system, FSTAB, fstab.encode())])
    return done


def _check_init(system: Path, machine: str) -> None:
    for name in ("sbin/init", "usr/sbin/init", "init", "usr/lib/systemd/systemd"):
        if _is_file(system, name):
            break
    else:
        raise AgentError("the image has no /sbin/init", code="no_init")
    head = _head(system, name)
    if head.startswith(b"#!"):
        words = head[2:].split(b"\n", 1)[0].decode(errors="replace").split()
        name = words[0] if words else ""
        head = _head(system, name) if _is_file(system, name) else b""
    found = rootconfig.elf_machine(head)
    if found is None:
        raise AgentError(f"the image's init is no program: {name[:200]}", code="no_init")
    if found != machine:
        raise AgentError(
            f"the image's {name[:200]} is for {found}, this machine is {machine}", code="wrong_architecture"
        )


def _put(system: Path, name: str, content: bytes) -> tuple[bytes, bytes]:
    """Write a file in the image's own sense of its folders, never through a link at its end."""
    folder = system
    for step in Path(name).parent.parts:
        below = inside(system, f"{folder.relative_to(system)}/{step}")
        if below is None:
            below = folder / step
            _make_folder(below)
        folder = below
    target = folder / Path(name).name
    fresh = folder / f".{target.name}.teeth"
    try:
        fresh.unlink(missing_ok=True)
        descriptor = os.open(
            fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644
        )
        try:
            os.fchmod(descriptor, 0o644)
            os.fchown(descriptor, 0, 0)
            _write_all(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        fresh.rename(target)
    except OSError as error:
        code = "no_space" if error.errno == 28 else "root_files"
        raise AgentError(f"/{name} cannot be written into the image: {error.strerror}", code=code) from error
    return os.fsencode(target.relative_to(system)), content


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o755)
        folder.chmod(0o755)
    except OSError as error:
        raise AgentError(
            f"a folder for the boot loader cannot be made in the image: {error.strerror}", code="root_files"
        ) from error


def _defaults(system: Path) -> list[str]:
    folder = inside(system, "etc/default/grub.d")
    names = sorted(entry.name for entry in os.scandir(folder)) if folder and folder.is_dir() else []
    paths = [
        "etc/default/grub",
        *(f"etc/default/grub.d/{name}" for name in names[:64] if name.endswith(".cfg")),
    ]
    return [text for path in paths if (text := _text(system, path)) is not None]


def _title(system: Path) -> str:
    text = _text(system, "etc/os-release") or _text(system, "usr/lib/os-release") or ""
    return rootconfig.variables([text]).get("PRETTY_NAME", "") or "Linux"


def _is_file(system: Path, path: str) -> bool:
    found = inside(system, path)
    return found is not None and stat.S_ISREG(os.lstat(found).st_mode)


def _head(system: Path, path: str) -> bytes:
    found = inside(system, path)
    assert found is not None  # asked before
    try:
        with found.open("rb") as stream:
            return stream.read(_HEAD)
    except OSError:
        return b""


def _text(system: Path, path: str) -> str | None:
    if not _is_file(system, path):
        return None
    found = inside(system, path)
    assert found is not None
    try:
        with found.open("rb") as stream:
            return stream.read(_MAX_TEXT).decode(errors="replace")
    except OSError:
        return None
