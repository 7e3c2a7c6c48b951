"""Which kernel an image's own boot loader would start, and whether it is there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from teeth.images import architecture
from teeth.images.trees import Tree, text
from teeth_image import bootentry
from teeth_image.bootentry import BootEntry

_GRUB_FOLDERS = ("/boot/grub", "/boot/grub2", "/grub", "/grub2")
_BLS_FOLDERS = ("/boot/loader/entries", "/loader/entries")
_MAX_BLS = 256
_INITS = ("/sbin/init", "/usr/sbin/init", "/usr/lib/systemd/systemd", "/lib/systemd/systemd", "/init")
_KERNEL = re.compile(r"(?:vmlinuz|vmlinux|Image)(?:-.+)?")
_INITRD = re.compile(r"(?:initrd|initramfs).*")


class NotFound(Exception):
    """What is missing, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """``architecture`` None: it could not be told."""

    path: str
    source: str
    initrds: tuple[str, ...]
    architecture: str | None


def booted_kernel(trees: Sequence[Tree]) -> Kernel:
    """The kernel of the entry that GRUB or a BLS loader would start. Raises NotFound."""
    entry = _entry(trees)
    for initrd in entry.initrds:
        if _place(trees, initrd) is None:
            raise NotFound(f"{entry.source} names the initrd {initrd}, which is not there")
    found = _place(trees, entry.kernel)
    if found is None:
        raise NotFound(f"{entry.source} names the kernel {entry.kernel}, which is not there")
    return _kernel(*found, source=entry.source, initrds=entry.initrds)


def newest_kernel(tree: Tree) -> Kernel:
    """Of a root file system without a boot loader: the newest one in /boot. Raises NotFound."""
    for folder in ("/boot", "/"):
        names = tree.names(folder)
        kernels = [name for name in names if _KERNEL.fullmatch(name)]
        for name in sorted(kernels, key=_version, reverse=True):
            path = f"{folder.rstrip('/')}/{name}"
            if tree.size(path):
                version = name.partition("-")[2]
                initrds = [one for one in names if _INITRD.fullmatch(one) and version in one]
                return _kernel(tree, path, source="/boot", initrds=tuple(initrds[:1]))
    raise NotFound("there is no kernel in /boot")


def init_architecture(trees: Sequence[Tree]) -> str | None:
    """Of the first /sbin/init that is a program. Raises NotFound when no file system has an init."""
    there = False
    for tree in trees:
        for path in _INITS:
            if tree.size(path):
                there = True
                if (found := architecture.of_program(tree.head(path, architecture.HEAD))) is not None:
                    return found
    if not there:
        raise NotFound("there is no /sbin/init")
    return None


def _kernel(tree: Tree, path: str, *, source: str, initrds: tuple[str, ...]) -> Kernel:
    try:
        found = architecture.of_kernel(tree.head(path, architecture.HEAD))
    except ValueError as error:
        raise NotFound(f"{source} names {path}, which is {error}") from error
    return Kernel(path=path, source=source, initrds=initrds, architecture=found)


def _entry(trees: Sequence[Tree]) -> BootEntry:
    configured = False
    for tree in trees:
        for folder in _GRUB_FOLDERS:
            config = text(tree, f"{folder}/grub.cfg")
            if config is None:
                continue
            configured = True
            env = bootentry.parse_grubenv(text(tree, f"{folder}/grubenv") or "")
            if bootentry.uses_bls(config):
                entries = _bls(trees, bootentry.variables_of(config, env))
                if (found := bootentry.choose_bls(entries, env)) is not None:
                    return found
            if menu := bootentry.parse_grub_cfg(config, env):
                return bootentry.choose_grub(menu, config, env)
    found = bootentry.choose_bls(_bls(trees, {}), {})
    if found is not None:
        return found
    if configured:
        raise NotFound("its grub.cfg has no menu entry that starts a Linux kernel, and there is no BLS entry")
    raise NotFound("there is neither a grub.cfg nor a BLS entry that names a kernel")


def _bls(trees: Sequence[Tree], variables: dict[str, str]) -> list[BootEntry]:
    entries = []
    for tree in trees:
        for folder in _BLS_FOLDERS:
            names = [name for name in tree.names(folder) if name.endswith(".conf")]
            for name in names[:_MAX_BLS]:
                entry = bootentry.parse_bls(name, text(tree, f"{folder}/{name}") or "", variables)
                if entry is not None:
                    entries.append(entry)
    return entries


def _place(trees: Sequence[Tree], path: str) -> tuple[Tree, str] | None:
    """A loader's path is from its own file system's root: /vmlinuz where /boot is a separate one."""
    for tree in trees:
        for below in (f"/{path.lstrip('/')}", f"/boot/{path.lstrip('/')}"):
            if tree.size(below):
                return tree, below
    return None


def _version(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"\d+|[a-zA-Z]+", name)]
